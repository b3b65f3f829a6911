"""The rows of the batch, copied side by side from wherever the epoch's order finds them."""

import numpy as np

from fastbp.cuda.device import cuda
from fastbp.cuda.records import REAL, context, operation
from fastbp.cuda.rows import inputs, over_rows
from fastbp.cuda.simt import array, part


@part
def data_row(ctx, i):
    """Which row of the data is row i of this batch."""
    place = ctx.start + i
    return array(ctx.order, ctx.n_rows, np.int64)[place] if ctx.order != 0 else place


def gather(real):
    """x (rows, n_in) of the workspace = the batch's rows of the data."""
    dtype, size = REAL[real], REAL[real](0).itemsize

    def gather(op, ctx, i, columns):
        n = op.n_in
        given, x = array(ctx.x + data_row(ctx, i) * n * size, n, dtype), array(op.x + i * op.x_row, n, dtype)
        for j in columns:
            x[j] = given[j]

    return over_rows(gather, inputs)


def gather_scaled(data, real):
    """x (rows, n_in) of the workspace = the batch's rows of the data times the number at op.numbers.

    ``data``: "bytes", uint8, which become numbers of the network's type exactly, or "numbers" of that type.
    """
    dtype, source = REAL[real], np.uint8 if data == "bytes" else REAL[real]
    size = source(0).itemsize

    def gather_scaled(op, ctx, i, columns):
        n, scale = op.n_in, array(op.numbers, 1, dtype)[0]
        given, x = array(ctx.x + data_row(ctx, i) * n * size, n, source), array(op.x + i * op.x_row, n, dtype)
        for j in columns:
            x[j] = dtype(given[j]) * scale

    return over_rows(gather_scaled, inputs)


def empty_rows(real):
    """x (rows, n_in) of the workspace = 0."""
    dtype = REAL[real]

    def empty_rows(op, ctx, i, columns):
        x = array(op.x + i * op.x_row, op.n_in, dtype)
        for j in columns:
            x[j] = 0

    return over_rows(empty_rows, inputs)


def gather_sparse(data, real):
    """x (rows, n_in) of the workspace, zeros before, = rows of sparse data times the number at op.numbers.

    At ctx.x lie three addresses, as for ``cpu/gather.py``: of the numbers that are stored, of their columns
    (int32), and of where each row begins among them (int64). Sixteen threads take a row, no two of whose
    numbers are of one column. ``data``: "bytes", uint8, or "numbers" of the network's type.
    """
    dtype, source = REAL[real], np.uint8 if data == "bytes" else REAL[real]

    def gather_sparse(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        at, scale = array(ctx.x, 3, np.int64), array(op.numbers, 1, dtype)[0]
        lane, first = cuda.grid(2)
        lanes, rows = cuda.gridsize(2)
        for i in range(first, ctx.batch_rows, rows):
            bounds = array(at[2] + 8 * data_row(ctx, i), 2, np.int64)
            stored, columns = array(at[0], bounds[1], source), array(at[1], bounds[1], np.int32)
            x = array(op.x + i * op.x_row, op.n_in, dtype)
            for k in range(bounds[0] + lane, bounds[1], lanes):
                x[columns[k]] = (dtype(stored[k]) + dtype(0)) * scale  # + 0: what is stored as -0 is 0

    return gather_sparse


def scale_rows(real):
    """x (rows, n_in) of the workspace, times the number at op.numbers, in place."""
    dtype = REAL[real]

    def scale_rows(op, ctx, i, columns):
        x, scale = array(op.x + i * op.x_row, op.n_in, dtype), array(op.numbers, 1, dtype)[0]
        for j in columns:
            x[j] *= scale

    return over_rows(scale_rows, inputs)
