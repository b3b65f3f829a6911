"""Networks drawn at random against the reference: 1 to 8 layers, sizes 1 to 300, batches of 1 to 257.

The drawn networks are the same in every run: a failure is there for everyone.
"""

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import strategies as st

import fastbp
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS
from tests import reference
from tests.cpu.kernels import IN_FLOAT32
from tests.samples import (
    OPTIONS,
    batches,
    difference,
    draw_inputs,
    draw_targets,
    flat,
    make_network,
    reference_layers,
)

STEPS = 20
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
# Low enough that 20 steps at these widths are stable: where they are not, every rounding grows from step to
# step, and two float32 trainings that differ in one have nothing in common at the end.
RATE = 0.002
EVERY_SGD = [
    fastbp.SGD(RATE),
    fastbp.SGD(RATE, momentum=0.9),
    fastbp.SGD(RATE, momentum=0.9, dampening=0.1, weight_decay=0.01),
    fastbp.SGD(RATE, momentum=0.9, nesterov=True),
    fastbp.Adam(
        RATE, epsilon=1e-3
    ),  # with less, a gradient that cancels to a rounding error makes a whole step
]

# Whose kernels are compiled in float32 anyway.
FEW = IN_FLOAT32 | {"identity", "softmax_cross_entropy"}

# Small numbers are drawn as often as large ones.
a_size = st.one_of(st.integers(1, 8), st.integers(1, 70), st.integers(1, 300))
a_batch = st.one_of(st.integers(1, 8), st.integers(1, 70), st.integers(1, 257))


def drawn(examples):
    return hypothesis.settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@st.composite
def a_training(draw, activations, losses):
    """A network as `make_network` takes it, and how it is trained."""
    loss = draw(st.sampled_from(sorted(losses)))
    sizes = draw(st.lists(a_size, min_size=2, max_size=9))
    if LOSSES[loss].targets == "classes":
        sizes[-1] = max(2, sizes[-1])
    layers = [fastbp.Dense(n, draw(st.sampled_from(sorted(activations)))) for n in sizes[1:-1]]
    batch_size = draw(a_batch)
    return dict(
        layers=[*layers, fastbp.Dense(sizes[-1])],
        inputs=sizes[0],
        loss=loss,
        batch_size=batch_size,
        rows=batch_size * draw(st.integers(1, 2)) + draw(st.integers(0, batch_size - 1)),
        optimizer=draw(st.sampled_from(EVERY_SGD)),
        probabilities=draw(st.booleans()),
        seed=draw(st.integers(0, 2**64 - 1)),
        threads=draw(st.sampled_from([1, 1, 2, 3])),
        materialise=draw(st.booleans()),
    )


def train_and_compare(drawn, real):
    drawn = dict(drawn)
    loss, rows, batch_size = (drawn.pop(name) for name in ("loss", "rows", "batch_size"))
    probabilities, optimizer = drawn.pop("probabilities"), drawn.pop("optimizer")
    how = {name: drawn.pop(name) for name in ("threads", "materialise")}
    net = fastbp.Network(loss=fastbp.Loss(loss, **OPTIONS.get(loss, {})), dtype=real, **drawn)
    if any(layer.activation in ("exponential", "squareplus", "softplus") for layer in net.layers):
        net.parameters[:] *= 0.3  # eight of them in a row leave nothing to compare
    x = draw_inputs(rows, drawn["inputs"]).astype(real)
    y = draw_targets(loss, rows, net.layers[-1].n_out, probabilities=probabilities)
    y = y if y.ndim == 1 else y.astype(real)
    epochs = -(-STEPS // -(-rows // batch_size))

    def by_reference(layers):
        settings = dict(zip(OPTIMIZERS[optimizer.formula].settings, optimizer.settings))
        with np.errstate(over="ignore", invalid="ignore"):
            trained, _ = reference.train(
                layers, batches(x, y, batch_size, epochs), loss, optimizer.formula, net.loss_function.option,
                **settings,
            )  # fmt: skip
        return flat(trained)

    start = reference_layers(net)
    expected = by_reference(start)
    assume(np.isfinite(expected).all())
    if real == "float32":
        # Some trainings diverge, and magnify any rounding on their way: there is nothing to compare in them.
        nearby = by_reference([(W * (1 + 2.0**-24), b, activation) for W, b, activation in start])
        assume(difference(nearby, expected) < TOLERANCE[real] / 20)
    fastbp.train(net, x, y, epochs=epochs, batch_size=batch_size, optimizer=optimizer, shuffle=False, **how)
    assert difference(net.parameters, expected) < TOLERANCE[real]


@drawn(12)
@given(a_training(ACTIVATIONS, LOSSES))
def test_float64(training):
    train_and_compare(training, "float64")


@drawn(8)
@given(a_training(set(ACTIVATIONS) & FEW, set(LOSSES) & FEW))
def test_float32(training):
    train_and_compare(training, "float32")


@pytest.mark.slow
@drawn(200)
@given(a_training(ACTIVATIONS, LOSSES))
def test_many_in_float64(training):
    train_and_compare(training, "float64")


@pytest.mark.slow
@drawn(200)
@given(a_training(ACTIVATIONS, LOSSES))
def test_many_in_float32(training):
    train_and_compare(training, "float32")


SMOOTH = ("tanh", "sigmoid", "softplus", "gelu", "silu", "mish", "squareplus", "tanhshrink", "log_sigmoid")


@drawn(10)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    rows=st.integers(1, 5),
    activation=st.sampled_from(SMOOTH),
    seed=st.integers(0, 1000),
)
def test_central_differences(sizes, rows, activation, seed):
    net = make_network(sizes, activation, dtype="float64", seed=seed)
    x, y = draw_inputs(rows, sizes[0], seed), draw_targets("mean_squared_error", rows, sizes[-1], seed)
    gradient = net.gradient(x, y)[1]
    direction = np.random.default_rng(seed).normal(size=net.parameters.size)
    start, step = net.parameters.copy(), 2.0**-17
    values = []
    for sign in (1, -1):
        net.parameters[:] = start + sign * step * direction
        values.append(net.loss(x, y))
    slope = (values[0] - values[1]) / (2 * step)
    scale = np.abs(gradient.parameters * direction).sum() + 1e-3
    assert abs(gradient.parameters @ direction - slope) < 1e-7 * scale
