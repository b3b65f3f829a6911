"""Tiny dense layers: the bits of the ordinary ones, wherever a plan takes them."""

import numpy as np
import pytest

import fastbp
from fastbp.cpu import dense, tiny
from fastbp.cpu.cache import address
from fastbp.plan import Plan

OPTIONS = [
    {},
    {"optimizer": fastbp.Adam(0.01)},
    {"optimizer": fastbp.SGD(0.1, momentum=0.9, weight_decay=0.1, decay_biases=False)},
    {"clip_value": 0.01},
    {"clip_norm": 0.01},
    {"materialise": True},
    {"threads": 2},
]


def trained(sizes, batch_size, dtype, bias=True, **options):
    """Parameters after some steps, the last of each epoch on fewer rows, and predictions."""
    draw = np.random.default_rng(3)
    x, y = draw.normal(size=(3 * batch_size + 1, sizes[0])), draw.normal(size=(3 * batch_size + 1, sizes[-1]))
    layers = [fastbp.Dense(n, "tanh", use_bias=bias) for n in sizes[1:]]
    net = fastbp.Network(layers, inputs=sizes[0], dtype=dtype, seed=1)
    options = {"optimizer": fastbp.SGD(0.1, momentum=0.9)} | options
    fastbp.train(net, x, y, epochs=3, batch_size=batch_size, progress=False, **options)
    return net.parameters.copy(), net.gradient(x[:batch_size], y[:batch_size])[1].parameters


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 1, 1), (2, 2, 1), (3, 4, 2), (4, 3)], ids=str)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_the_bits_of_ordinary_layers(sizes, batch_size, dtype, monkeypatch):
    got = trained(sizes, batch_size, dtype)
    monkeypatch.setattr(tiny, "MOST", 0)
    for ours, theirs in zip(got, trained(sizes, batch_size, dtype), strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_the_bits_with_other_work_around(options, bias, monkeypatch):
    got = trained((2, 1, 1), 2, "float32", bias, **options)
    monkeypatch.setattr(tiny, "MOST", 0)
    for ours, theirs in zip(got, trained((2, 1, 1), 2, "float32", bias, **options), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def kernels(plan):
    return set(plan.programs[0][0]["kernel"].tolist())


@pytest.mark.parametrize(
    ("sizes", "batch_size", "is_tiny"),
    [((2, 1, 1), 2, True), ((2, 1, 1), 4, True), ((2, 1, 1), 5, False), ((5, 1, 5), 2, False)],
)
def test_what_is_tiny(sizes, batch_size, is_tiny):
    net = fastbp.Network(list(sizes), activation="tanh")
    plan = Plan(net.architecture, "train", batch_size, optimizer="momentum")
    updates = {address(module, "momentum", "float32") for module in (tiny.tiny_update, dense.dense_update)}
    wanted = tiny.tiny_update if is_tiny else dense.dense_update
    assert kernels(plan) & updates == {address(wanted, "momentum", "float32")}
    assert (address(tiny.tiny_forward, "float32") in kernels(plan)) == is_tiny
    assert (address(tiny.tiny_backward, "float32") in kernels(plan)) == is_tiny


def test_gradients_are_those_of_central_differences():
    """Of a step as well: it goes against the differences of the loss."""
    draw = np.random.default_rng(5)
    x, y = draw.normal(size=(2, 2)), draw.normal(size=(2, 1))
    net = fastbp.Network([2, 2, 1], activation="tanh", dtype="float64", seed=1)
    plan = Plan(net.architecture, "gradient", 2)
    assert {address(each, "float64") for each in (tiny.tiny_forward, tiny.tiny_backward)} <= kernels(plan)
    assert fastbp.check_gradients(net, x, y)
    before, differences = net.parameters.copy(), np.empty_like(net.parameters)
    for k, value in enumerate(before):
        losses = []
        for moved in (value + 1e-6, value - 1e-6):
            net.parameters[k] = moved
            losses.append(net.loss(x, y))
        net.parameters[k] = value
        differences[k] = (losses[0] - losses[1]) / 2e-6
    fastbp.train(net, x, y, epochs=1, batch_size=2, optimizer=fastbp.SGD(0.1), progress=False)
    np.testing.assert_allclose(net.parameters, before - 0.1 * differences, rtol=1e-8)
