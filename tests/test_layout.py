"""Where numbers lie, and that the memory's old content does not matter."""

import numpy as np
import pytest

import fastbp
from fastbp import layout
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.plan import Plan
from tests.samples import draw_inputs, draw_targets, make_architecture, make_network


def test_memory_is_aligned_and_rows_avoid_one_cache_set():
    made = Plan(make_architecture((1024, 2048, 512)), "train", 64, 2, optimizer="momentum")
    for program, _ in made.programs:
        for field in ("x_row", "z_row"):
            strides = program[field][program[field] > 0]
            assert (strides % 64 == 0).all()
            assert (strides % 4096 != 0).all()
        for field in ("w", "wt", "x", "z", "y", "dz", "slots"):
            assert (program[field] % 64 == 0).all(), field


@pytest.fixture
def poisoned(monkeypatch):
    """Every workspace that a plan asks for is full of NaN."""
    clean, asked = layout.clean_workspace, []

    def poisoned(n_bytes):
        asked.append(n_bytes)
        made = clean(n_bytes)
        made.view(np.uint8)[:] = 0xFF  # a NaN in float32 and float64
        return made

    monkeypatch.setattr(layout, "clean_workspace", poisoned)
    return asked


@pytest.fixture
def behind(monkeypatch):
    """What lies behind every workspace that a plan asks for, and the room that loops have there."""
    made = []

    def guarded(n_bytes):
        room = 256
        memory = layout.aligned_zeros(n_bytes + room + 65536)
        made.append(memory[n_bytes + room :])
        made[-1][:] = 0xA5
        return memory[: n_bytes + room]

    monkeypatch.setattr(layout, "clean_workspace", guarded)
    return made


@pytest.mark.parametrize("sizes", [[5, 300], [700, 300, 5]])
def test_nobody_writes_behind_the_memory_that_was_asked_for(sizes, behind):
    net = make_network(sizes, "tanh", "softmax_cross_entropy", dtype="float64")
    x, y = draw_inputs(250, sizes[0]), draw_targets("softmax_cross_entropy", 250, sizes[-1])
    net.gradient(x, y)
    for how in ({}, dict(batch_size=None), dict(gradient_noise=1e-3, clip_norm=1.0, input_noise=0.1)):
        fastbp.train(net, x, y, epochs=1, **how)
    net.predict(x)
    assert len(behind) > 5
    assert all((each == 0xA5).all() for each in behind)


def test_noise_of_wide_scales_in_small_batches_stays_in_its_memory(behind):
    net = fastbp.Network([fastbp.LayerNorm(), fastbp.Dense(1)], inputs=2000, seed=1)
    x, y = draw_inputs(8, 2000), np.zeros((8, 1))
    fastbp.train(net, x, y, batch_size=2, epochs=1, gradient_noise=1e-3)
    assert all((each == 0xA5).all() for each in behind)


def everything(sizes, activation, loss, real, rows, threads):
    """What can be asked of a network, in one list of arrays."""
    net = make_network(sizes, activation, loss, dtype=real)
    x, y = draw_inputs(rows, sizes[0]), draw_targets(loss, rows, sizes[-1])
    value, gradient = net.gradient(x, y)
    found = [value, gradient.parameters, gradient.inputs, net.loss(x, y), net.predict(x), net.predict(x[:2])]
    found.append(net.logits(x))
    for materialise in (False, True):
        for batch_size in (7, None):
            history = fastbp.train(
                net, x, y, epochs=3, batch_size=batch_size, materialise=materialise, threads=threads,
                optimizer=fastbp.SGD(0.05, momentum=0.9),
            )  # fmt: skip
            found += [net.parameters.copy(), history.loss]
    history = fastbp.train(
        net, x, y, epochs=2, batch_size=7, threads=threads, clip_norm=1e-3, gradient_noise=1e-4,
        input_noise=0.1, sample_weight=np.arange(1, rows + 1),
    )  # fmt: skip
    return [*found, net.parameters.copy(), history.loss]


POISONED = [
    ([5, 9, 3], "tanh", "mean_squared_error", 23, 1),
    ([5, 9, 3], "gelu", "softmax_cross_entropy", 23, 2),
    ([1, 1], "relu", "binary_cross_entropy", 5, 1),
    ([4, 17, 40, 3], "softplus", "poisson", 300, 3),
    ([33, 1, 49], "sigmoid", "mean_squared_error", 30, 2),
]


@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("case", POISONED, ids=lambda case: "-".join(map(str, case[0])))
def test_old_content_of_memory_does_not_matter(case, real, poisoned, monkeypatch):
    sizes, activation, loss, rows, threads = case
    dirty = everything(sizes, activation, loss, real, rows, threads)
    assert len(poisoned) > 5, "nothing was poisoned"
    monkeypatch.undo()
    clean = everything(sizes, activation, loss, real, rows, threads)
    for got, expected in zip(dirty, clean):
        assert np.array_equal(got, expected)
    assert all(np.isfinite(array).all() for array in clean)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_old_content_does_not_matter_to_any_activation(activation, poisoned, monkeypatch):
    arguments = [3, 5, 2], activation, "mean_squared_error", "float64", 9, 1
    dirty = everything(*arguments)
    monkeypatch.undo()
    for got, expected in zip(dirty, everything(*arguments)):
        assert np.array_equal(got, expected)
