import numpy as np
import pytest
from sklearn.datasets import load_digits

from fastbp import datasets


def test_digits_are_scikit_learns():
    x, y = datasets.digits()
    theirs = load_digits()
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1797, 64), np.float32, (1797,), np.int64)
    assert x.flags.carray
    assert (x.min(), x.max()) == (0, 1)
    assert np.array_equal(x * 16, theirs.data)
    assert np.array_equal(y, theirs.target)


def test_digits_are_the_callers_own():
    x, y = datasets.digits()
    x[:], y[:] = 7, 7
    assert datasets.digits()[0].max() == 1
    assert datasets.digits()[1].max() == 9


@pytest.mark.parametrize(
    ("n", "fraction", "second"),
    [(10, 0.2, 2), (1797, 0.2, 359), (2, 0.5, 1), (2, 0.01, 1), (2, 0.99, 1), (3, 1e-300, 1)],
)
def test_split_keeps_every_row_once_and_pairs_together(n, fraction, second):
    x, y = np.arange(2.0 * n).reshape(n, 2), np.arange(n)
    x1, y1, x2, y2 = datasets.split(x, y, fraction, 3)
    assert len(x2) == len(y2) == second
    assert sorted([*y1, *y2]) == list(range(n))
    assert np.array_equal(x[y1], x1)
    assert np.array_equal(x[y2], x2)


def test_split_depends_on_the_seed_only():
    x, y = datasets.digits()
    one, same, other = (datasets.split(x, y, 0.2, seed)[3] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("x", "y", "fraction", "seed", "error", "message"),
    [
        ([[1], [2]], [1, 2], 1.0, 0, ValueError, r"fraction must be .* above 0 and below 1; got 1.0"),
        ([[1], [2]], [1, 2], "half", 0, TypeError, r"fraction must be .*; got 'half'"),
        ([[1], [2]], [1, 2, 3], 0.5, 0, ValueError, r"same number of rows.* \(2, 1\) and \(3,\)"),
        ([[1]], [1], 0.5, 0, ValueError, "at least 2"),
        (1, 1, 0.5, 0, ValueError, r"got shapes \(\) and \(\)"),
        ([[1], [2]], [1, 2], 0.5, -1, ValueError, "seed must be .*; got -1"),
        (np.ma.array([[1], [2]], mask=[[0], [1]]), [1, 2], 0.5, 0, ValueError, "no masked elements"),
    ],
)
def test_split_refuses(x, y, fraction, seed, error, message):
    with pytest.raises(error, match=message):
        datasets.split(x, y, fraction, seed)
