"""The plan: what it decides, how it lays out memory, and that the memory's old content does not matter."""

import numpy as np
import pytest

import fastbp
from fastbp import plan as plan_module
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.plan import CHUNK_ROWS, Architecture, Plan, automatic_threads, sums_in_chunks
from tests.samples import draw_inputs, draw_targets, make_network


def architecture(sizes=(64, 32, 10), activation="relu", loss="softmax_cross_entropy", real="float32"):
    layers = len(sizes) - 1
    return Architecture(tuple(sizes), (activation,) * layers, (True,) * layers, loss, 0.0, real)


def test_parameter_offsets():
    assert architecture((64, 32, 10)).parameter_offsets() == [0, 64 * 32 + 32, 64 * 32 + 32 + 32 * 10 + 10]
    no_bias = Architecture((3, 4, 2), ("relu",) * 2, (False, True), "mean_squared_error", 0.0, "float64")
    assert no_bias.parameter_offsets() == [0, 12, 22]


def test_multiply_adds():
    # Forward, gradient of W and of x; no gradient of the first layer's x.
    assert architecture((64, 32, 10)).multiply_adds(7) == 7 * (2 * 64 * 32 + 3 * 32 * 10)


@pytest.mark.parametrize(
    ("sizes", "batch_size", "expected"),
    [
        ((4, 32, 16, 4), 10000, True),
        ((4, 32, 16, 4), 2 * CHUNK_ROWS, True),
        ((4, 32, 16, 4), 2 * CHUNK_ROWS - 1, False),
        ((784, 1024, 1024, 10), 10000, False),  # here the weights outweigh a chunk's activations
        ((1, 1), 256, True),
    ],
)
def test_sums_in_chunks(sizes, batch_size, expected):
    assert sums_in_chunks(architecture(sizes), batch_size) == expected


def test_automatic_threads(monkeypatch):
    monkeypatch.setattr(plan_module, "available_cores", lambda: 4)
    work = plan_module.WORK_PER_THREAD
    counts = [automatic_threads(n) for n in (0, 1, work, 2 * work, 3 * work, 100 * work)]
    assert counts == [1, 1, 1, 2, 3, 4]
    start = plan_module.WORK_WORTH_A_START
    assert [automatic_threads(n, steps=1) for n in (work, 4 * work, start, 2 * start, 100 * start)] == [
        1,
        1,
        1,
        2,
        4,
    ]
    assert automatic_threads(2 * work, steps=start // work) == 2
    assert automatic_threads(2 * work, steps=start // work - 1) == 1


def test_available_cores():
    assert plan_module.available_cores() >= 1


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 24, 100, 255, 256, 1000])
@pytest.mark.parametrize("sizes", [(1, 1), (64, 32, 10), (784, 512, 10)])
def test_blocks_cover_the_batch(sizes, batch_size, threads):
    made = Plan(architecture(sizes), "train", batch_size, threads, optimizer="sgd")
    assert 1 <= made.block_rows
    if sums_in_chunks(made.architecture, batch_size):
        assert made.block_rows == CHUNK_ROWS
    else:
        assert made.block_rows < -(-batch_size // threads) + 4
    assert made.block_rows % 4 == 0, "loops of the narrowest layers run into the next block"


def test_memory_is_aligned_and_rows_avoid_one_cache_set():
    made = Plan(architecture((1024, 2048, 512)), "train", 64, 2, optimizer="momentum")
    for program, _ in made._programs:
        for field in ("x_row", "z_row"):
            strides = program[field][program[field] > 0]
            assert (strides % 64 == 0).all()
            assert (strides % 4096 != 0).all()
        for field in ("w", "wt", "x", "z", "y", "dz", "slots"):
            assert (program[field] % 64 == 0).all(), field


def test_no_transpose_and_no_gradient_for_the_first_inputs():
    made = Plan(architecture((64, 32, 10)), "train", 32, optimizer="sgd")
    assert made._transposed == [False, True]
    assert Plan(architecture((64, 32, 10)), "gradient", 32, inputs=True)._transposed == [True, True]


def test_a_small_step_is_a_short_program():
    """gather, two products, activation, loss, activation backward, product, prepare, two updates, end."""
    made = Plan(architecture((64, 32, 10)), "train", 32, optimizer="sgd")
    by_rows, after = made._programs[0][1][1:3]
    assert after["last"] - by_rows["first"] <= 13


def test_shaping_is_paid_for_by_who_wants_it():
    for threads in (1, 2):
        plain = Plan(architecture(), "train", 32, threads, optimizer="sgd")
        again = Plan(architecture(), "train", 32, threads, optimizer="sgd", shaping=None, weighted=False)
        for (program, sections), (same, same_sections) in zip(plain._programs, again._programs):
            assert (program["kernel"] == same["kernel"]).all()
            assert (sections == same_sections).all()
            assert not program["shaping"].any()
    net = fastbp.Network([fastbp.Dense(5), fastbp.LayerNorm(), fastbp.BatchNorm(), fastbp.Dense(2)], inputs=3)
    for materialise in (False, True):
        options = dict(optimizer="sgd", materialise=materialise)
        ((program, _),) = Plan(net.architecture, "train", 32, **options)._programs
        assert not any(program[field].any() for field in ("shaping", "shape", "collected"))
    shaping = plan_module.Shaping(((0.1, 0.0), (0.0, 0.0)), (0.0, 0.0))
    ((program, _),) = Plan(architecture(), "train", 32, optimizer="sgd", shaping=shaping)._programs
    ((plain, _),) = Plan(architecture(), "train", 32, optimizer="sgd")._programs
    assert (program["kernel"] == plain["kernel"]).all(), "a penalty needs no operation of its own"
    assert np.count_nonzero(program["shaping"]) == 1


@pytest.fixture
def poisoned(monkeypatch):
    """Every workspace that a plan asks for is full of NaN."""
    names = [name for name in ("clean_workspace", "aligned_empty") if hasattr(plan_module, name)]
    assert names, "where does the workspace come from?"
    asked = []

    def poison(original):
        def memory(n_bytes):
            asked.append(n_bytes)
            made = original(n_bytes)
            made.view(np.uint8)[:] = 0xFF  # a NaN in float32 and float64
            return made

        return memory

    for name in names:
        monkeypatch.setattr(plan_module, name, poison(getattr(plan_module, name)))
    return asked


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


def test_stop_and_steps_done():
    net = make_network([3, 4, 2])
    made = Plan(net.architecture, "train", 4, optimizer="sgd")
    assert made.steps_done == 0
    assert not made.halted
    made.stop()
    assert made.shared[plan_module.STOP] == 1
