"""Rows that are mostly 0: SciPy's sparse matrices and arrays in the form that kernels take. SciPy is not
imported.
"""

import numpy as np

_BLOCK = 1 << 16  # elements of a dense table that are looked at together


class SparseRows:
    """A table (n, n_in) of which only what is not 0 is stored, row by row.

    Parameters
    ----------
    data : array (n_stored,)
        The numbers that are stored, no two of them in one place.
    columns : int32 array (n_stored,)
        The column of each, in any order within a row.
    starts : int64 array (n + 1,)
        Where each row begins among them, and where the last one ends.
    n_columns : int
    """

    ndim = 2

    def __init__(self, data, columns, starts, n_columns):
        self.data, self.columns, self.starts = data, columns, starts
        self.shape = (len(starts) - 1, n_columns)
        self._addresses = np.array([data.ctypes.data, columns.ctypes.data, starts.ctypes.data], np.int64)

    dtype = property(lambda self: self.data.dtype)
    size = property(lambda self: self.shape[0] * self.shape[1])
    address = property(lambda self: self._addresses.ctypes.data, doc="Where the addresses of the three lie.")

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """Some rows: a slice, whose numbers are not copied where they lie side by side, or an array of their
        numbers.
        """
        if isinstance(rows, slice) and rows.step in (None, 1):
            first, last, _ = rows.indices(len(self))
            starts = self.starts[first : max(first, last) + 1]
            stored = slice(starts[0], starts[-1])
            return SparseRows(self.data[stored], self.columns[stored], starts - starts[0], self.shape[1])
        rows = np.arange(len(self))[rows]
        lengths = (self.starts[1:] - self.starts[:-1])[rows]
        starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
        places = np.repeat(self.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return SparseRows(self.data[places], self.columns[places], starts, self.shape[1])

    def with_data(self, data):
        """The same places with other numbers."""
        return SparseRows(data, self.columns, self.starts, self.shape[1])

    def place(self, index):
        """(row, column) of a stored number, by its index, (place,)."""
        return int(np.searchsorted(self.starts, index[0], side="right")) - 1, int(self.columns[index])

    def toarray(self):
        """All of it, (n, n_in); some rows at a time, so that no second table is needed."""
        out = np.zeros(self.shape, self.dtype)
        step = max(1, _BLOCK // max(1, self.shape[1]))
        for first in range(0, len(self), step):
            starts = self.starts[first : first + step + 1]
            rows = first + np.repeat(np.arange(len(starts) - 1), np.diff(starts))
            stored = slice(starts[0], starts[-1])
            out[rows, self.columns[stored]] += self.data[stored]  # not =: what is stored as -0 is 0
        return out


def address_of(x):
    """Where rows lie, dense or `SparseRows`, as a plan's context wants it."""
    return x.address if type(x) is SparseRows else x.ctypes.data


def arrays_of(x):
    """The arrays that rows are made of."""
    return (x.data, x.columns, x.starts) if type(x) is SparseRows else (x,)


def is_sparse(values):
    """Whether it is a sparse matrix or array of SciPy."""
    return type(values).__module__.startswith("scipy.sparse")


def sparse_rows(name, matrix):
    """The rows of a sparse matrix or array of SciPy, of any format.

    Parameters
    ----------
    name : str
        The argument's, for messages.
    matrix : sparse matrix or array (n, n_in)
        Its memory is used where it can be: that of CSR, but for a table of columns of int64 and rows' starts
        of int32, which are copied. It is not changed.

    Returns
    -------
    SparseRows
        Of the matrix's dtype. What is stored twice is added up, in the order and to the bits of its
        ``toarray()``.

    Raises
    ------
    TypeError
        If it is no table of real numbers.
    ValueError
        If its arrays contradict each other.
    """
    if matrix.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be a table of real numbers; got a sparse one of {matrix.dtype}")
    if matrix.ndim != 2:
        raise TypeError(f"{name} must be a table of real numbers; got a sparse one of shape {matrix.shape}")
    n, n_columns = matrix.shape
    if n_columns > np.iinfo(np.int32).max:
        raise ValueError(f"{name} must have fewer than 2³¹ columns; got {n_columns}")
    if matrix.format == "coo":  # not by its tocsr(), which adds up in another order
        order = np.argsort(matrix.row, kind="stable")
        data, columns = matrix.data[order], matrix.col[order]
        starts = np.concatenate(([0], np.cumsum(np.bincount(matrix.row, minlength=n))))
    else:
        rows = matrix.tocsr()
        data, columns, starts = rows.data, rows.indices, rows.indptr
    starts = np.ascontiguousarray(starts, np.int64)
    n_stored = min(len(data), len(columns))
    if len(starts) != n + 1 or starts[0] != 0 or starts[-1] > n_stored or (starts[1:] < starts[:-1]).any():
        raise ValueError(
            f"{name} must be sparse rows whose indptr has {n + 1} numbers that rise from 0 to at most "
            f"{n_stored}, as many as are stored"
        )
    data, columns = data[: starts[-1]], columns[: starts[-1]]
    if len(columns) and (columns.min() < 0 or columns.max() >= n_columns):
        raise ValueError(
            f"{name} must be sparse rows whose columns are from 0 to {n_columns - 1}; got "
            f"{columns.min()} to {columns.max()}"
        )
    columns = np.ascontiguousarray(columns, np.int32)
    return SparseRows(*_added_up(data, columns, starts), n_columns)


def _added_up(data, columns, starts):
    """The same table with no place stored twice; as it is if there is none."""
    rises = columns[1:] > columns[:-1]
    firsts = starts[1:-1]
    rises[firsts[(firsts > 0) & (firsts < len(columns))] - 1] = True  # from row to row it may fall
    if rises.all():
        return data, columns, starts
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.lexsort((columns, rows))  # stable
    rows, sorted_columns = rows[order], columns[order]
    new = np.ones(len(order), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (sorted_columns[1:] != sorted_columns[:-1])
    if new.all():
        return data, columns, starts
    sums = np.zeros(np.count_nonzero(new), data.dtype)
    np.add.at(sums, np.cumsum(new) - 1, data[order])  # one after the other, as toarray() does
    counts = np.bincount(rows[new], minlength=len(starts) - 1)
    return sums, sorted_columns[new], np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
