"""How work is divided: by sizes alone where sums depend on it, among threads that are worth a start."""

import pytest

import fastbp
from fastbp import division
from fastbp.division import (
    CHUNK_ROWS,
    WORK_IN_CHUNKS,
    automatic_threads,
    chunk_rows,
    gradients_first,
    may_be_given_up,
    sums_in_chunks,
    threads_for_training,
)
from tests.samples import make_architecture


@pytest.mark.parametrize(
    ("sizes", "batch_size", "expected"),
    [
        ((4, 32, 16, 4), 10000, 128),  # 79 chunks
        ((4, 32, 16, 4), 300, 76),  # four, for two threads
        ((4, 32, 16, 4), 2 * CHUNK_ROWS, CHUNK_ROWS),
        ((4, 32, 16, 4), 200, 100),  # two, from WORK_IN_CHUNKS on
        ((4, 32, 16, 4), 100, 100),
        ((32, 64, 64, 1), 64, 32),
        ((40, 100, 100, 10), 99, 52),
        ((784, 128, 10), 128, 128),  # here the parameters outweigh the activations
        ((784, 1024, 1024, 10), 4096, 4096),
        ((784, 1024, 1024, 10), 10000, 3336),  # no longer sums than that
        ((1, 1), 256, 128),
    ],
)
def test_chunk_rows(sizes, batch_size, expected):
    assert chunk_rows(make_architecture(sizes), batch_size) == expected
    assert sums_in_chunks(make_architecture(sizes), batch_size) == (expected < batch_size)


def test_chunks_that_need_all_rows():
    """Short ones would be taken through the network one by one."""
    net = fastbp.Network([fastbp.Dense(32), fastbp.BatchNorm(), fastbp.Dense(4)], inputs=4)
    assert chunk_rows(net.architecture, 300) == 300
    assert chunk_rows(net.architecture, 10000) == 3336


def test_threads_for_training(monkeypatch):
    monkeypatch.setattr(division, "available_cores", lambda: 4)
    small = make_architecture((64, 32, 10))
    least = -(-WORK_IN_CHUNKS // small.multiply_adds(1))
    assert [threads_for_training(small, rows) for rows in (least - 1, least, 2 * least)] == [1, 2, 2]
    assert threads_for_training(small, least, steps=1) == 1, "not worth the start"
    assert threads_for_training(make_architecture((1, 1)), 1000) == 1, "chunks, but hardly any work"
    assert threads_for_training(make_architecture((784, 128, 10)), 8) == 3


def test_automatic_threads(monkeypatch):
    monkeypatch.setattr(division, "available_cores", lambda: 4)
    work = division.WORK_PER_THREAD
    counts = [automatic_threads(n) for n in (0, 1, work, 2 * work, 3 * work, 100 * work)]
    assert counts == [1, 1, 1, 2, 3, 4]
    start = division.WORK_WORTH_A_START
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
    assert division.available_cores() >= 1


def test_steps_that_need_all_rows_are_not_given_up():
    """Their running statistics have followed the rows by then."""
    layers, statistics = [fastbp.Dense(1024), fastbp.Dense(1024)], [fastbp.BatchNorm()]
    plain, other = (fastbp.Network(each, inputs=1024) for each in (layers, layers + statistics))
    assert may_be_given_up(plain.architecture, 1024)
    assert not may_be_given_up(other.architecture, 1024)


def test_gradients_first():
    """Of networks whose phase 2 would outlast what somebody waits after Ctrl-C."""
    large = make_architecture((1024, 1024, 1024, 1024))
    assert [gradients_first(large, 1024, threads) for threads in (1, 2)] == [True, False]
    assert not gradients_first(large, 256, 1)
    assert not gradients_first(make_architecture((784, 1024, 1024, 10)), 256, 1)
