"""What a plan chooses: blocks of rows, and which layers have what."""

import pytest

from fastbp.choices import Choices
from fastbp.division import chunk_rows
from fastbp.shaping import Shaping
from tests.samples import make_architecture


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 24, 100, 255, 256, 1000])
@pytest.mark.parametrize("sizes", [(1, 1), (64, 32, 10), (784, 512, 10)])
def test_blocks_cover_the_batch(sizes, batch_size, threads):
    made = Choices(make_architecture(sizes), "train", batch_size, threads, optimizer="sgd")
    assert 1 <= made.block_rows
    if made.chunked:
        assert made.block_rows == chunk_rows(made.architecture, batch_size) < batch_size
    else:
        assert made.block_rows < -(-batch_size // threads) + 4
    assert made.block_rows % 4 == 0, "loops of the narrowest layers run into the next block"


def test_no_transpose_and_no_gradient_for_the_first_inputs():
    def transposed(task, **options):
        made = Choices(make_architecture((64, 32, 10)), task, 32, **options)
        assert made.wants_dx == [made.is_transposed(0), made.is_transposed(1)]
        return made.wants_dx

    assert transposed("train", optimizer="sgd") == [False, True]
    assert transposed("gradient", inputs=True) == [True, True]
    assert transposed("predict") == [False, False]


def test_who_sums_chunks():
    """One thread and two take chunk by chunk through phase 1; so many that some would idle share phase 2."""

    def chosen(batch_size, threads, task="train", **options):
        made = Choices(make_architecture((40, 100, 100, 10)), task, batch_size, threads, **options)
        return made.n_slots, made.chunked, made.replicas

    assert chosen(100, 1) == (2, True, 1)
    assert chosen(100, 2) == (2, True, 2)
    assert chosen(100, 3) == chosen(100, 4) == (2, False, 1)
    assert chosen(1024, 2) == chosen(1024, 3) == chosen(1024, 4) == (8, True, 1)
    assert chosen(1024, 6) == (8, False, 1)
    assert chosen(100, 2, "gradient") == (2, True, 1)
    bounded = Shaping(((0.0, 0.0),) * 3, (0.0,) * 3, clip_norm=1.0)
    assert chosen(100, 2, shaping=bounded) == (2, True, 1), "its squares are summed in one place"
