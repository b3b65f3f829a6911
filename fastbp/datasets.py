"""Data to try things on, and a way to split it."""

from importlib import resources

import numpy as np

from . import random, validation
from .formulas.random import SPLIT
from .sparse import SparseRows, is_sparse


def digits():
    """Load 1797 handwritten digits of 8 by 8 pixels, which are part of the package.

    Returns
    -------
    x : float32 array (1797, 64)
        Pixels row by row, in sixteenths: 0 is paper, 1 is ink.
    y : int64 array (1797,)
        The digit, 0 to 9.

    Notes
    -----
    The test set of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository (1998), https://doi.org/10.24432/C50P49, licensed CC BY 4.0
    (https://creativecommons.org/licenses/by/4.0/). The same numbers in the same order as scikit-learn's
    ``load_digits``, divided by 16.

    Examples
    --------
    >>> x, y = digits()
    >>> x.shape, y[:10]
    ((1797, 64), array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))
    """
    with resources.files(__package__).joinpath("digits/digits.npz").open("rb") as file:
        data = np.load(file)
        return data["x"].astype(np.float32) / np.float32(16), data["y"].astype(np.int64)


def split(x, y, fraction, seed):
    """Split rows at random in two, the same way for the same seed and number of rows.

    Parameters
    ----------
    x, y : arrays (n, …)
        Or SciPy's sparse rows, of which the parts are CSR.
    fraction : float
        How much goes into the second part, above 0 and below 1; rounded to rows, at least one on each side.
    seed : int

    Returns
    -------
    x_first, y_first : arrays (n_first, …)
    x_second, y_second : arrays (n - n_first, …)
        Copies of the rows, in random order.

    Raises
    ------
    TypeError, ValueError
        If `fraction` or `seed` is not as above, or x and y have not the same number of rows, at least two.

    Examples
    --------
    >>> x_train, y_train, x_test, y_test = split(*digits(), 0.2, seed=0)
    >>> len(x_train), len(x_test)
    (1438, 359)
    """
    x, y = _rows_of(x), _rows_of(y)
    first, second = validation.split_sizes(x, y, fraction)
    order = random.permutation(validation.seed(seed), SPLIT, first + second)
    return x[order[:first]], y[order[:first]], x[order[first:]], y[order[first:]]


def _rows_of(values):
    """Something whose rows can be chosen by their numbers."""
    if type(values) is SparseRows:
        return values
    if is_sparse(values):
        return values.tocsr()
    validation.not_masked("data", values)
    return np.asarray(values)
