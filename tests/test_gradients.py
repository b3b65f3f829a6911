"""The gradient of whole networks: by central differences, and against the reference.

Every row of the tables is met: the tests are parametrized by them, and a row that the reference lacks fails
at collection.
"""

import numpy as np
import pytest

import fastbp
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from tests import reference
from tests.cpu.kernels import cases
from tests.samples import difference, draw_inputs, draw_targets, flat, make_network, reference_layers

assert set(ACTIVATIONS) == set(reference.ACTIVATIONS)
assert set(LOSSES) == set(reference.LOSSES)

STEP = 2.0**-17

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
# With one output and with several: other code runs for one.
EVERY_LOSS = [
    *(
        (loss, n_out, False)
        for loss in LOSSES
        for n_out in (1, 3)
        if LOSSES[loss].targets != "classes" or n_out > 1
    ),
    *((loss, 3, True) for loss in LOSSES if LOSSES[loss].targets == "classes"),
]
every_loss = pytest.mark.parametrize(("loss", "n_out", "probabilities"), EVERY_LOSS)


def slopes(value, at):
    """Central differences of value() with respect to every element of an array that it reads."""
    out = np.empty_like(at)
    for index in np.ndindex(at.shape):
        before = at[index]
        at[index] = before + STEP
        above = value()
        at[index] = before - STEP
        below = value()
        at[index] = before
        out[index] = (above - below) / (2 * STEP)
    return out


def check_by_differences(net, x, y):
    loss, gradient = net.gradient(x, y)
    assert loss == net.loss(x, y)
    value = lambda: net.loss(x, y)
    np.testing.assert_allclose(gradient.parameters, slopes(value, net.parameters), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(gradient.inputs, slopes(value, x), rtol=1e-7, atol=1e-9)


@every_activation
def test_activation_by_central_differences(activation):
    net = make_network([3, 4, 2], activation, output_activation=activation, dtype="float64")
    check_by_differences(net, draw_inputs(5, 3), draw_targets("mean_squared_error", 5, 2))


@every_loss
def test_loss_by_central_differences(loss, n_out, probabilities):
    net = make_network([3, 4, n_out], loss=loss, dtype="float64")
    check_by_differences(net, draw_inputs(5, 3), draw_targets(loss, 5, n_out, probabilities=probabilities))


def check_against_reference(net, x, y, tolerance):
    option = net.loss_function.option
    expected, gradients, dx = reference.gradient(reference_layers(net), x, y, net.loss_function.name, option)
    loss, gradient = net.gradient(x, y)
    assert loss == pytest.approx(expected, rel=tolerance)
    assert difference(gradient.parameters, flat(gradients)) < tolerance
    assert difference(gradient.inputs, dx) < tolerance
    for layer, (dW, db) in zip(gradient.layers, gradients):
        assert difference(layer.W, dW) < tolerance
        assert difference(layer.b, db) < tolerance
    logits = reference.forward(reference_layers(net), x)
    assert difference(net.logits(x), logits) < tolerance
    assert difference(net.predict(x), reference.LOSSES[net.loss_function.name][2](logits)) < tolerance


TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


@pytest.mark.parametrize(("activation", "real"), cases(ACTIVATIONS))
def test_activation_against_reference(activation, real):
    net = make_network([5, 17, 33, 3], activation, dtype=real)
    # What float32 cannot hold is not the kernels' fault: the reference starts from the same numbers.
    x, y = draw_inputs(29, 5).astype(real), draw_targets("mean_squared_error", 29, 3).astype(real)
    check_against_reference(net, x, y, TOLERANCE[real])


@pytest.mark.parametrize(("loss", "real"), cases(LOSSES))
def test_loss_against_reference(loss, real):
    for _, n_out, probabilities in (case for case in EVERY_LOSS if case[0] == loss):
        net = make_network([5, 17, n_out], loss=loss, dtype=real)
        x, y = draw_inputs(29, 5).astype(real), draw_targets(loss, 29, n_out, probabilities=probabilities)
        check_against_reference(net, x, y if y.ndim == 1 else y.astype(real), TOLERANCE[real])


def test_without_biases():
    import fastbp

    net = fastbp.Network(
        [fastbp.Dense(4, "tanh", use_bias=False), fastbp.Dense(2), fastbp.Dense(3, use_bias=False)], inputs=3,
        dtype="float64", seed=1,
    )  # fmt: skip
    x, y = draw_inputs(5, 3), draw_targets("mean_squared_error", 5, 3)
    check_by_differences(net, x, y)
    assert [layer.b is None for layer in net.gradient(x, y)[1].layers] == [True, False, True]


@pytest.mark.parametrize("rows", [1, 2, 255, 256, 257, 400, 1025])
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_any_number_of_rows(rows, real):
    """From 256 rows on, this network's gradient is summed in chunks."""
    net = make_network([4, 5, 3], loss="softmax_cross_entropy", dtype=real)
    x, y = draw_inputs(rows, 4).astype(real), draw_targets("softmax_cross_entropy", rows, 3)
    check_against_reference(net, x, y, TOLERANCE[real])


@pytest.mark.parametrize("sizes", [[1, 1], [1, 1, 1], [300, 1], [1, 300], [1024, 7, 1024], [2, *16 * [3], 2]])
def test_any_sizes(sizes):
    net = make_network(sizes, dtype="float64")
    x, y = draw_inputs(11, sizes[0]), draw_targets("mean_squared_error", 11, sizes[-1])
    check_against_reference(net, x, y, 1e-12)


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_over_very_many_rows_keep_their_digits(threads, monkeypatch):
    """One float32 after the other, 60,000 equal terms would be almost a hundredth off."""
    monkeypatch.setattr("fastbp.network.automatic_threads", lambda *work, **steps: threads)
    net = fastbp.Network([fastbp.Dense(1, kernel_initializer="zeros")], inputs=400, seed=0)
    x, y = np.zeros((60_000, 400), np.uint8), np.full(60_000, -5.0)
    x[:, 0] = 1
    gradient = net.gradient(x, y, inputs=False)[1].layers[0]
    assert gradient.b[0] == pytest.approx(10.0, rel=1e-4)
    assert gradient.W[0, 0] == pytest.approx(10.0, rel=1e-4)
    trained = [fastbp.Network(net._described, inputs=400, seed=0) for _ in range(2)]
    for each, how in zip(
        trained, (dict(threads=threads), dict(threads=3 - threads, materialise=True)), strict=True
    ):
        fastbp.train(each, x, y, epochs=2, batch_size=len(x), optimizer="adam", **how)
    assert np.array_equal(trained[0].parameters, trained[1].parameters)


def test_sums_of_a_normalisation_keep_their_digits():
    """Of β: 60,000 equal terms, in a batch that is no chunk of another."""
    layers = [fastbp.BatchNorm(), fastbp.Dense(1, kernel_initializer="ones")]
    net = fastbp.Network(layers, inputs=2, seed=0)
    x = np.random.default_rng(0).normal(size=(60_000, 2))
    net.layers[0].gamma[:] = 0
    gradient = net.gradient(x, np.full(len(x), -5.0), batch_statistics=True)[1]
    assert gradient.layers[0].beta == pytest.approx([10.0, 10.0], rel=1e-4)
    assert gradient.layers[1].b == pytest.approx([10.0], rel=1e-4)
