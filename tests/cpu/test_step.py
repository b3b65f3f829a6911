"""The step: what runs, in which order, how often, and how it is stopped."""

import time

import numpy as np
import pytest
from numba import int64, njit

from fastbp.cpu import gather, step
from fastbp.cpu.cache import address
from fastbp.cpu.native import array, atomic_load, atomic_store
from fastbp.cpu.records import (
    BLOCKS,
    CHUNKS,
    HALT,
    ONCE,
    OPERATION,
    SECTION,
    SHARED,
    STEPS,
    STOP,
    kernel,
)
from fastbp.cpu.team import Team, function
from fastbp.formulas import random as draws
from fastbp.sparse import SparseRows
from tests.cpu.kernels import REALS, Guarded, run
from tests.cpu.test_team import contexts_of

SEED = 12345


def note():
    """Note at ctx.outputs, for each row: epoch, step, block, slot, operation, row of the data."""

    def note(op, ctx):
        at = array(ctx.outputs, 1, int64)
        for i in range(ctx.rows):
            row = array(ctx.outputs + 8 * (1 + 6 * at[0]), 6, int64)
            row[0], row[1], row[2], row[3], row[4] = ctx.epoch, ctx.step, ctx.block, ctx.place, op.n_in
            row[5] = gather.data_row(ctx, i)
            at[0] += 1

    return kernel(note)


def program(n_rows, batch_size, block_rows, *, threads=1, shuffle=False, whole=0):
    """A program that notes: operation 1 by rows, 2 for the whole batch, then the end of the step."""
    kept = {
        "outputs": [np.zeros(1 + 6 * 10000, np.int64) for _ in range(threads)],
        "order": np.arange(n_rows), "losses": np.zeros(20), "row_losses": np.arange(batch_size, dtype=float),
        "shared": np.zeros(SHARED.itemsize, np.uint8),
        "operations": np.zeros(3, OPERATION),
        "sections": np.array([(0, 1, BLOCKS, 0), (1, 3, ONCE, 0)], SECTION),
    }  # fmt: skip
    operations = kept["operations"]
    operations["n_in"] = [1, 2, 0]
    operations["kernel"] = [*2 * [address(note, own=note)], address(step.end_of_step, "float64")]
    contexts = contexts_of(
        threads, program=operations, sections=kept["sections"], shared=kept["shared"], losses=kept["losses"],
        row_losses=kept["row_losses"],
    )  # fmt: skip
    contexts["outputs"] = [a.ctypes.data for a in kept["outputs"]]
    contexts["order"] = kept["order"].ctypes.data if shuffle else 0
    contexts["write_order"] = address(step.write_order)
    for name, value in dict(
        n_sections=2, n_rows=n_rows, batch_size=batch_size, block_rows=block_rows, shuffle=shuffle, seed=SEED,
        whole=whole,
    ).items():  # fmt: skip
        contexts[name] = value
    return contexts, kept


def run_epochs(contexts, first, last):
    contexts["first_epoch"], contexts["last_epoch"] = first, last
    function(address(step.run_epochs))(int(contexts["address"][0]), 0)


def notes(kept, thread=0):
    """(epoch, step, block, slot, operation, row of the data) of every row that came by."""
    out = kept["outputs"][thread]
    return out[1:].reshape(-1, 6)[: out[0]]


@pytest.mark.parametrize("whole", [0, 1])
def test_every_row_of_every_epoch_in_order(whole):
    contexts, kept = program(n_rows=23, batch_size=10, block_rows=4, whole=whole)
    run_epochs(contexts, 0, 2)
    by_rows = notes(kept)[notes(kept)[:, 4] == 1]
    assert by_rows[:, 5].tolist() == 2 * list(range(23))
    assert by_rows[:, 0].tolist() == 23 * [0] + 23 * [1]
    assert by_rows[:, 1].tolist() == [1 + i // 10 for i in range(23)] + [4 + i // 10 for i in range(23)]
    place = np.arange(23) % 10
    assert by_rows[:23, 2].tolist() == (place // 4).tolist()
    assert by_rows[:23, 3].tolist() == (place // 4 * 4 * whole).tolist()
    # The section of the whole batch comes once a step, with block and place 0.
    after = notes(kept)[notes(kept)[:, 4] == 2]
    assert after[:, 5].tolist() == 2 * list(range(23))
    assert not after[:, 2:4].any()
    assert contexts["epoch"][0] == 2


def test_losses_of_an_epoch_are_added_up():
    contexts, kept = program(n_rows=23, batch_size=10, block_rows=4)
    run_epochs(contexts, 0, 3)
    assert kept["losses"][:4].tolist() == [2 * 45 + 3, 2 * 45 + 3, 2 * 45 + 3, 0]
    assert kept["shared"][STEPS : STEPS + 8].view(np.int64)[0] == 9


def test_epochs_go_on_where_they_ended():
    contexts, kept = program(n_rows=23, batch_size=10, block_rows=4, shuffle=True)
    run_epochs(contexts, 0, 1)
    run_epochs(contexts, 1, 3)
    by_rows = notes(kept)[notes(kept)[:, 4] == 1]
    assert by_rows[:, 1].max() == 9
    for epoch in range(3):
        expected = np.arange(23)
        shuffled(expected, epoch)
        assert by_rows[by_rows[:, 0] == epoch, 5].tolist() == expected.tolist()
    assert kept["losses"][:2].tolist() == [93 * 2, 93]  # first_epoch was 0, then 1: both write from the start


def test_epochs_are_run_in_parts():
    """Rows left out at the end are taken later, in the same order, as if there had been no break."""
    whole, seen = program(n_rows=23, batch_size=5, block_rows=4, shuffle=True)
    run_epochs(whole, 0, 3)
    contexts, kept = program(n_rows=23, batch_size=5, block_rows=4, shuffle=True)
    for first, last, rest, begin in ((0, 1, 8, 15), (0, 2, 3, 20), (1, 3, 18, 5), (2, 3, 0, 0)):
        kept["losses"][:] = 0
        contexts["rest"] = rest
        run_epochs(contexts, first, last)
        assert contexts["begin"][0] == begin
        assert contexts["epoch"][0] == (last - 1 if rest else last)
    assert np.array_equal(notes(kept), notes(seen))
    assert kept["losses"][:2].tolist() == [3 * 10 + 3, 0], "of the rows of the last run alone"


@njit
def shuffled(order, epoch):
    """The order of an epoch."""
    draws.shuffle(order, SEED, epoch)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_the_blocks(threads):
    contexts, kept = program(n_rows=23, batch_size=10, block_rows=3, threads=threads)
    run_epochs_of_each(contexts)
    seen = [notes(kept, thread) for thread in range(threads)]
    rows = [n[n[:, 4] == 1][:, 5] for n in seen]
    assert sorted(np.concatenate(rows).tolist()) == list(range(23))
    for one in rows:
        assert one.tolist() == sorted(one.tolist())
    blocks = [set(map(tuple, n[n[:, 4] == 1][:, 1:3].tolist())) for n in seen]
    assert sum(map(len, blocks)) == len(set.union(*blocks)), "two threads had the same block"


def run_epochs_of_each(contexts):
    contexts["first_epoch"], contexts["last_epoch"] = 0, 1
    for ctx in contexts["address"].tolist():  # no barrier in this program: one after the other will do
        function(address(step.run_epochs))(ctx, 0)


def test_stop_ends_after_the_current_step():
    contexts, kept = program(n_rows=1000, batch_size=10, block_rows=10)
    kept["shared"][STOP : STOP + 8].view(np.int64)[0] = 1
    run_epochs(contexts, 0, 5)
    assert contexts["step"][0] == 1
    assert contexts["epoch"][0] == 0
    assert contexts["begin"][0] == 10
    assert kept["shared"][HALT : HALT + 8].view(np.int64)[0] == 1


@pytest.mark.parametrize("over", [BLOCKS, CHUNKS])
@pytest.mark.parametrize("block", [0, 2])
def test_a_step_may_be_given_up(block, over):
    contexts, kept = program(n_rows=40, batch_size=40, block_rows=10)
    contexts["chunk_rows"] = 10
    kept["operations"]["kernel"][0] = address(stop_in_block, own=stop_in_block)
    kept["operations"]["m"] = block
    sections = np.array([(0, 1, over, 1), (1, 1, ONCE, 1), (1, 3, ONCE, 0)], SECTION)
    contexts["sections"], contexts["n_sections"] = sections.ctypes.data, 3
    run_epochs(contexts, 0, 5)
    assert kept["outputs"][0][0] == block + 1, "blocks behind the wish ran"
    assert not (notes(kept)[:, 4] == 2).any(), "the update ran"
    assert contexts["step"][0] == contexts["epoch"][0] == 0
    kept["operations"]["m"] = -1
    kept["shared"][:] = 0
    run_epochs(contexts, 0, 1)
    assert contexts["step"][0] == contexts["epoch"][0] == 1


def stop_in_block():
    """Wish, in block op.m, that the run stops."""

    def stop_in_block(op, ctx):
        array(ctx.outputs, 1, int64)[0] += 1
        if ctx.block == op.m:
            atomic_store(ctx.shared + STOP, 1)

    return kernel(stop_in_block)


def test_stop_from_another_thread_is_seen_within_the_call():
    contexts, kept = program(n_rows=10, batch_size=10, block_rows=10)
    kept["operations"]["kernel"][:2] = address(nothing, own=nothing)
    kept["losses"] = np.zeros(1)
    contexts["losses"], contexts["first_epoch"], contexts["last_epoch"] = kept["losses"].ctypes.data, 0, 2**60
    # All epochs add to one place: only the count of steps matters here.
    kept["operations"]["kernel"][2] = address(end_without_losses, own=end_without_losses)
    worker = Team(function(address(step.run_epochs)), contexts["address"].tolist()).start()
    assert not worker.wait(0.02)
    kept["shared"][STOP : STOP + 8].view(np.int64)[0] = 1
    start = time.perf_counter()
    assert worker.wait(30)
    assert time.perf_counter() - start < 5
    assert contexts["step"][0] == kept["shared"][STEPS : STEPS + 8].view(np.int64)[0] > 0


def nothing():
    """Do nothing."""

    def nothing(op, ctx):
        pass

    return kernel(nothing)


def end_without_losses():
    """What `step.end_of_step` does, but for the losses."""

    def end(op, ctx):
        atomic_store(ctx.shared + STEPS, atomic_load(ctx.shared + STEPS) + 1)
        atomic_store(ctx.shared + HALT, atomic_load(ctx.shared + STOP))

    return kernel(end)


@pytest.mark.parametrize("real", REALS)
def test_losses_are_added_in_float64_in_the_order_of_rows(real):
    rows, losses = np.random.default_rng(0).normal(size=1000).astype(real), np.array([0.0, 5.0])
    shared = np.zeros(SHARED.itemsize, np.uint8)
    ctx = dict(row_losses=rows, batch_rows=1000, losses=losses, epoch=3, first_epoch=2, shared=shared)
    run(step.end_of_step, real, ctx=ctx)
    total = 0.0
    for loss in rows:
        total += float(loss)
    assert losses.tolist() == [0.0, 5.0 + total]


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("shuffled", [False, True])
def test_gather(real, shuffled):
    draw = np.random.default_rng(0)
    data, order = draw.normal(size=(20, 7)).astype(real), draw.permutation(20)
    x = Guarded((8, 12), real)
    ctx = dict(x=data, order=order if shuffled else 0, start=6, row=4, rows=5, place=2)
    run(gather.gather, real, op=dict(n_in=7, x=x.array, x_row=x.array.strides[0]), ctx=ctx)
    x.assert_intact()
    places = np.arange(10, 15)
    assert np.array_equal(x.array[2:7, :7], data[order[places] if shuffled else places])
    assert np.isnan(x.array[:, 7:]).all()
    assert np.isnan(x.array[[0, 1, 7]]).all()


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("shuffled", [False, True])
def test_find_rows(real, shuffled):
    data, order = np.zeros((20, 7), real), np.random.default_rng(0).permutation(20)
    found = Guarded((8, 1), np.int64, -1)
    ctx = dict(
        x=data, order=order if shuffled else 0, start=6, row=4, rows=5, place=2, n_rows=20, batch_size=4
    )
    run(gather.find_rows, real, op=dict(n_in=7, x=found.array, x_row=8), ctx=ctx)
    found.assert_intact()
    places = np.arange(10, 15)
    rows = order[places] if shuffled else places
    assert np.array_equal(found.array[2:7, 0], data.ctypes.data + data.strides[0] * rows)
    assert (found.array[[0, 1, 7]] == -1).all()


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("data", ["bytes", "numbers"])
def test_gather_scaled(data, real):
    draw = np.random.default_rng(0)
    rows, order = draw.integers(0, 256, (20, 7), np.uint8), draw.permutation(20)
    rows = rows if data == "bytes" else rows.astype(real)
    x, scale = Guarded((8, 12), real), np.array([1 / 255])
    op = dict(n_in=7, x=x.array, x_row=x.array.strides[0], numbers=scale)
    ctx = dict(x=rows, order=order, start=6, row=4, rows=5, place=2)
    run(gather.gather_scaled, data, real, op=op, ctx=ctx)
    x.assert_intact()
    expected = rows[order[10:15]].astype(real) * np.dtype(real).type(1 / 255)
    assert np.array_equal(x.array[2:7, :7], expected)
    assert np.isnan(x.array[:, 7:]).all()
    assert np.isnan(x.array[[0, 1, 7]]).all()
    run(gather.scale_rows, real, op=op | dict(numbers=np.array([0.5])), ctx=dict(place=3, rows=2))
    expected[1:3] *= np.dtype(real).type(0.5)
    assert np.array_equal(x.array[2:7, :7], expected)
    assert np.isnan(x.array[:, 7:]).all()


@pytest.mark.parametrize("data", ["bytes", "numbers"])
def test_gather_sparse(data):
    draw, real = np.random.default_rng(0), "float64"
    dense = draw.integers(0, 256, (20, 7)) * (draw.random((20, 7)) < 0.4)
    dense, order = dense.astype(np.uint8 if data == "bytes" else real), draw.permutation(20)
    _, columns = dense.nonzero()
    starts = np.r_[0, np.cumsum(np.count_nonzero(dense, axis=1))]
    stored, expected = dense[dense > 0], dense * np.float64(1 / 255)
    if data == "numbers":  # a 0 that is stored with a sign is 0
        stored[stored > 128], expected[dense > 128] = -0.0, 0.0
    rows = SparseRows(stored, columns.astype(np.int32), starts, 7)
    x, scale = Guarded((8, 12), real), np.array([1 / 255])
    op = dict(n_in=7, x=x.array, x_row=x.array.strides[0], numbers=scale)
    ctx = dict(x=rows.address, order=order, start=6, row=4, rows=5, place=2)
    run(gather.gather_sparse, data, real, op=op, ctx=ctx)
    x.assert_intact()
    assert x.array[2:7, :7].tobytes() == expected[order[10:15]].tobytes()
    assert np.isnan(x.array[:, 7:]).all()
    assert np.isnan(x.array[[0, 1, 7]]).all()


def test_a_raising_operation_is_reported():
    contexts, kept = program(n_rows=10, batch_size=10, block_rows=10)
    kept["operations"]["kernel"][1] = address(failing, own=failing)
    with pytest.raises(RuntimeError, match="a kernel raised"):
        run_epochs(contexts, 0, 1)


def failing():
    """Raise, as code with bounds checks may."""

    def failing(op, ctx):
        if op.n_in == 2:
            raise IndexError

    return kernel(failing)
