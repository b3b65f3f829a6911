"""How work is divided: by sizes alone where sums depend on it, among threads that are worth a start."""

import pytest

from fastbp import division
from fastbp.division import CHUNK_ROWS, automatic_threads, sums_in_chunks
from tests.samples import make_architecture


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
    assert sums_in_chunks(make_architecture(sizes), batch_size) == expected


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
