"""The plan while it runs: asking it to stop, and how far it is."""

import numpy as np
import pytest

import fastbp
from fastbp import division
from fastbp.cpu import dense, team
from fastbp.cpu.cache import address
from fastbp.cpu.native import atomic_store
from fastbp.cpu.records import AT_ONCE, STOP, kernel
from fastbp.plan import Plan
from tests.samples import draw_inputs, draw_targets, make_architecture, make_network


def test_stop_and_steps_done():
    net = make_network([3, 4, 2])
    made = Plan(net.architecture, "train", 4, optimizer="sgd")
    assert made.steps_done == 0
    made.stop()
    assert made.shared[STOP] == 1


def test_replicas_stay_the_same(monkeypatch):
    """Each of two threads updates parameters of its own: the same ones."""
    made = []

    def keep(*arguments, **options):
        made.append(Plan(*arguments, **options))
        return made[0]

    monkeypatch.setattr("fastbp.jobs.Plan", keep)
    net = make_network([40, 48, 37, 10], "tanh", "softmax_cross_entropy")
    x, y = draw_inputs(150, 40), draw_targets("softmax_cross_entropy", 150, 10)
    before = net.parameters.copy()
    fastbp.train(net, x, y, epochs=2, batch_size=64, optimizer=fastbp.Adam(0.01), threads=2)
    assert made[0].choices.replicas == 2
    first, second = made[0].layout.arena[: 2 * made[0].layout.replica_bytes].reshape(2, -1)
    assert (first == second).all()
    assert (net.parameters != before).mean() > 0.9


@pytest.mark.parametrize(
    ("sizes", "batch_size", "threads"),
    [((8, 129, 64, 95, 16), 190, 3), ((400, 1), 5000, 2), ((400, 1), 9000, 5)],
)
def test_sums_of_chunks_are_added_up_behind_a_barrier(sizes, batch_size, threads):
    """Each thread writes its share of the sums of every chunk, and the first one adds all of them up."""
    made = Plan(make_architecture(sizes), "gradient", batch_size, threads)
    assert made.choices.n_slots > 1
    assert not made.choices.chunked
    assert not made.choices.gives_up, "those have a barrier of their own"
    kernels = made.programs[0][0]["kernel"].tolist()
    barrier = address(team.barrier)
    written = max(i for i, k in enumerate(kernels) if k == address(dense.dense_gradient, "float32"))
    added = kernels.index(address(dense.dense_total, "float32"))
    assert barrier in kernels[written:added]
    counts = {program["kernel"].tolist().count(barrier) for program, _ in made.programs}
    assert len(counts) == 1, "all wait equally often"


def test_each_of_two_threads_asks_for_the_sums_of_the_other():
    """While it computes dx: for what the other has just written of the same layer."""

    def rows_of(batch_size, threads):
        made = Plan(make_architecture((40, 48, 37, 10)), "train", batch_size, threads, optimizer="adam")
        for program, _ in made.programs:
            backward, gradient = (
                program[program["kernel"] == address(factory, "float32")]
                for factory in (dense.dense_backward, dense.dense_gradient)
            )
            yield backward, gradient[: len(backward)]  # from the last layer back; the first one has no dx

    rows = list(rows_of(64, 2))
    for (backward, _), (_, others), block in zip(rows, rows[::-1], (1, 0), strict=True):
        assert backward["ahead"].tolist() == (others["slots"] + block * others["slot_bytes"]).tolist()
        assert backward["ahead_bytes"].tolist() == (4 * (others["n_in"] + 1) * others["columns"]).tolist()
    for batch_size, threads in [(64, 1), (64, 3), (512, 2)]:
        assert all((backward["ahead"] == 0).all() for backward, _ in rows_of(batch_size, threads))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_wish_to_stop_between_gradients_leaves_the_weights(threads, monkeypatch):
    monkeypatch.setattr(division, "WORK_TO_GIVE_UP", 0)
    monkeypatch.setattr(division, "WORK_OF_PHASE_TWO", -1)
    net, x = make_network([3, 4, 2], dtype="float64"), draw_inputs(6, 3)
    y, losses, row_losses = draw_targets("mean_squared_error", 6, 2), np.zeros(1), np.zeros(6)
    made = Plan(net.architecture, "train", 6, threads, optimizer="sgd")
    made.settings[0, 0] = 0.1
    made.set(
        x=x.ctypes.data, targets=y.ctypes.data, n_rows=6, losses=losses.ctypes.data, last_epoch=1,
        row_losses=row_losses.ctypes.data,
    )  # fmt: skip

    def trained():
        made.set(epoch=0, step=0, begin=0)
        made.pack(net.parameters)
        made.run()
        vector = np.empty_like(net.parameters)
        made.unpack(vector)
        return vector.tobytes()

    assert trained() != net.parameters.tobytes()
    operations = made.programs[0][0]
    gradients = operations["kernel"] == address(dense.dense_gradient, "float64")
    operations["kernel"][np.flatnonzero(gradients)[1]] = address(wish_to_stop, own=wish_to_stop)
    for _ in range(500):  # a thread may hear of it before the other has looked what was at the last barrier
        assert trained() == net.parameters.tobytes()
    assert made.contexts["step"].tolist() == threads * [0]


def wish_to_stop():
    """What Ctrl-C does, at this very place."""

    def wish_to_stop(op, ctx):
        atomic_store(ctx.shared + STOP, AT_ONCE)

    return kernel(wish_to_stop)
