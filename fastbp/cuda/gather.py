"""The rows of the batch, copied side by side from wherever the epoch's order finds them."""

import numpy as np

from fastbp.cuda.program import REAL
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


def scale_rows(real):
    """x (rows, n_in) of the workspace, times the number at op.numbers, in place."""
    dtype = REAL[real]

    def scale_rows(op, ctx, i, columns):
        x, scale = array(op.x + i * op.x_row, op.n_in, dtype), array(op.numbers, 1, dtype)[0]
        for j in columns:
            x[j] *= scale

    return over_rows(scale_rows, inputs)
