"""What a plan chooses: blocks of rows, and which layers have what."""

import pytest

from fastbp.choices import Choices
from fastbp.division import CHUNK_ROWS
from tests.samples import make_architecture


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 24, 100, 255, 256, 1000])
@pytest.mark.parametrize("sizes", [(1, 1), (64, 32, 10), (784, 512, 10)])
def test_blocks_cover_the_batch(sizes, batch_size, threads):
    made = Choices(make_architecture(sizes), "train", batch_size, threads, optimizer="sgd")
    assert 1 <= made.block_rows
    if made.chunked:
        assert made.block_rows == CHUNK_ROWS
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
