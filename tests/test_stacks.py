"""Stacks of layers drawn at random, nested too: against the reference, and bit for bit on many threads.

The drawn networks are the same in every run: a failure is there for everyone.
"""

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

import fastbp
from tests import reference
from tests.samples import difference, draw_inputs, draw_targets, stack_of, train_by_reference

a_size = st.one_of(st.integers(1, 5), st.integers(1, 40))


@st.composite
def a_layer(draw, n, depth):
    """A layer of n inputs that has as many outputs."""
    kind = draw(
        st.sampled_from(
            ["dense", "activation", "dropout", "layer norm", "batch norm", *["residual"] * (depth > 0)]
        )
    )
    flags = dict(scale=draw(st.booleans()), shift=draw(st.booleans()))
    if kind == "dense":
        return fastbp.Dense(n, draw(st.sampled_from(["identity", "tanh", "gelu"])), use_bias=flags["scale"])
    if kind == "activation":
        return fastbp.Activation(draw(st.sampled_from(["identity", "tanh", "gelu"])))
    if kind == "dropout":
        return fastbp.Dropout(draw(st.sampled_from([0.0, 0.25, 0.5])))
    if kind == "layer norm":
        return fastbp.LayerNorm(0.1, **flags)
    if kind == "batch norm":
        return fastbp.BatchNorm(0.1, draw(st.sampled_from([0.1, 1.0])), **flags)
    inner = draw(st.lists(a_layer(n, depth - 1), min_size=1, max_size=3))
    if draw(st.booleans()):
        inner = [fastbp.Dense(draw(a_size), "tanh"), fastbp.Dense(n), *inner]
    return fastbp.Residual(inner)


@st.composite
def a_network(draw):
    """(layers, number of inputs)"""
    n = inputs = draw(a_size)
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        layers += draw(st.lists(a_layer(n, 2), max_size=2))
        n = draw(a_size)
        layers.append(fastbp.Dense(n, draw(st.sampled_from(["identity", "tanh", "gelu"]))))
    layers += draw(st.lists(a_layer(n, 1), max_size=1))
    return layers, inputs


def drawn(examples):
    return hypothesis.settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def check(layers, inputs, batch_size, batches, last, loss, optimizer, ways):
    make = lambda: fastbp.Network(layers, inputs=inputs, loss=loss, dtype="float64", seed=1)
    net, rows = make(), batch_size * batches + min(last, batch_size)
    x, y = draw_inputs(rows, inputs), draw_targets(loss, rows, net.architecture.sizes[-1])

    stack = stack_of(net, batch_statistics=True)
    value, flat, dx = reference.stack_gradient(stack, x, y, loss)
    found, gradient = net.gradient(x, y, batch_statistics=True)
    assert found == pytest.approx(value, rel=1e-10)
    scale = np.abs(flat).max() + 1e-3
    np.testing.assert_allclose(gradient.parameters, flat, atol=1e-9 * scale)
    np.testing.assert_allclose(gradient.inputs, dx, atol=1e-9 * scale)

    results = []
    for threads, materialise in ways:
        net = make()
        history = fastbp.train(
            net, x, y, epochs=2, batch_size=batch_size, optimizer=optimizer, threads=threads,
            materialise=materialise, seed=7,
        )  # fmt: skip
        results.append((net.parameters.tobytes(), history.loss, net.predict(x).tobytes()))
    assert all(each == results[0] for each in results)

    net = make()
    expected = train_by_reference(net, x, y, epochs=2, batch_size=batch_size, rate=0.01, seed=7)
    fastbp.train(
        net, x, y, epochs=2, batch_size=batch_size, optimizer=fastbp.SGD(0.01), shuffle=False, seed=7
    )
    assert difference(net.parameters, expected) < 1e-8


arguments = dict(
    network=a_network(),
    batch_size=st.one_of(st.integers(2, 9), st.integers(2, 70), st.just(260)),
    batches=st.integers(1, 2),
    last=st.integers(0, 30),
    loss=st.sampled_from(["mean_squared_error", "softmax_cross_entropy"]),
    optimizer=st.sampled_from([fastbp.SGD(0.01, momentum=0.9), fastbp.SGD(0.01, decay_biases=False)]),
    threads=st.integers(2, 6),
)


def run(network, threads, loss, **how):
    layers, inputs = network
    if loss == "softmax_cross_entropy":
        layers = [*layers, fastbp.Dense(3)]
    check(layers, inputs, loss=loss, ways=[(1, False), (threads, False), (threads, True)], **how)


@drawn(20)
@given(**arguments)
def test_stacks(**how):
    run(**how)


@pytest.mark.slow
@drawn(300)
@given(**arguments)
def test_many_stacks(**how):
    run(**how)
