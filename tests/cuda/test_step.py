"""The order of an epoch, written by many threads at once."""

import numpy as np
import pytest

from fastbp.cuda import step
from fastbp.formulas.random import shuffle


@pytest.mark.parametrize("n", [1, 2, 7, 301])
@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_every_row_finds_its_place_alone(n, seed):
    expected = np.empty(n, np.int64)
    shuffle(expected, seed, 5)
    places = [int(step.place_of(seed, 5, i)) for i in range(n)]
    heads, following, order = np.full(n, -1), np.full(n, -1), np.empty(n, np.int64)
    for i in np.random.default_rng(n).permutation(n):  # threads come in any order
        following[i], heads[places[i]] = heads[places[i]], i
    for i in range(n):
        order[step.last_place(heads, following, places[i], i)] = i
    assert order.tolist() == expected.tolist()
