"""The rows of the batch, copied side by side from wherever the epoch's order finds them."""

import numpy as np

from fastbp.cuda.device import cuda
from fastbp.cuda.program import REAL, context, operation
from fastbp.cuda.simt import array, part


@part
def data_row(ctx, i):
    """Which row of the data is row i of this batch."""
    place = ctx.start + i
    return array(ctx.order, ctx.n_rows, np.int64)[place] if ctx.order != 0 else place


def gather(real):
    """x (rows, n_in) of the workspace = the batch's rows of the data."""
    dtype, size = REAL[real], REAL[real](0).itemsize

    def gather(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        for i in range(row, ctx.batch_rows, rows):
            source = array(ctx.x + data_row(ctx, i) * op.n_in * size, op.n_in, dtype)
            x = array(op.x + i * op.x_row, op.n_in, dtype)
            for j in range(first, op.n_in, step):
                x[j] = source[j]

    return gather


def gather_scaled(data, real):
    """x (rows, n_in) of the workspace = the batch's rows of the data times the number at op.numbers.

    ``data``: "bytes", uint8, which become numbers of the network's type exactly, or "numbers" of that type.
    """
    dtype, source = REAL[real], np.uint8 if data == "bytes" else REAL[real]
    size = source(0).itemsize

    def gather_scaled(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        scale = array(op.numbers, 1, dtype)[0]
        for i in range(row, ctx.batch_rows, rows):
            given = array(ctx.x + data_row(ctx, i) * op.n_in * size, op.n_in, source)
            x = array(op.x + i * op.x_row, op.n_in, dtype)
            for j in range(first, op.n_in, step):
                x[j] = dtype(given[j]) * scale

    return gather_scaled


def scale_rows(real):
    """x (rows, n_in) of the workspace, times the number at op.numbers, in place."""
    dtype = REAL[real]

    def scale_rows(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        scale = array(op.numbers, 1, dtype)[0]
        for i in range(row, ctx.batch_rows, rows):
            x = array(op.x + i * op.x_row, op.n_in, dtype)
            for j in range(first, op.n_in, step):
                x[j] *= scale

    return scale_rows
