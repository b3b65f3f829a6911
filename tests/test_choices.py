"""What a plan chooses: blocks of rows, and which layers have what."""

import dataclasses

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


def test_who_reads_rows_where_they_lie():
    def chosen(sizes=(64, 32, 10), batch_size=32, task="train", scale=1.0, **options):
        architecture = dataclasses.replace(make_architecture(sizes), input_scale=scale)
        return Choices(architecture, task, batch_size, **options).scattered

    assert chosen()
    assert chosen(task="gradient")
    assert chosen((784, 128, 10))
    assert chosen((64, 10), batch_size=2)
    assert chosen(threads=2)
    assert not chosen(task="predict"), "they come in order"
    assert not chosen(task="gradient", inputs=True), "the workspace has rows of the gradient"
    assert not chosen((2, 8, 1), batch_size=4), "a copy costs less"
    assert not chosen((784, 1024, 10), batch_size=256), "phase 2 packs them"
    assert not chosen((1024, 64, 10)), "all in one cache set"
    assert not chosen(scale=0.5)
    assert not chosen(data="bytes")
    assert not chosen(shaping=Shaping(((0.0, 0.0),) * 2, (0.0,) * 2, input_noise=0.1))


def test_whose_products_ask_ahead():
    """Those of weights that are many, and those that read many rows in their order."""

    def chosen(sizes, batch_size=32, task="train"):
        made = Choices(make_architecture(sizes), task, batch_size)
        return [made.asks_ahead(layer) for layer in range(len(sizes) - 1)]

    assert chosen((64, 32, 10)) == [False, False]
    assert chosen((784, 128, 10)) == [True, False]
    assert chosen((784, 256, 512, 10)) == [True, True, False]
    assert chosen((64, 32, 10), 1000, "predict") == [False, False]
    assert chosen((64, 32, 10), 100_000, "predict") == [True, False]
    assert chosen((64, 32, 10), 100_000, "train") == [False, False], "in any order"


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
