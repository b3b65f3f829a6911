"""Dropout, in training only: y = x · m, dx = dy · m with random multipliers m.

With the very draws of ``cpu/dropout.py``: the four words of draw number b of a row belong to columns b,
q + b, 2q + b and 3q + b, q a quarter of the columns. A thread takes the four columns of a draw.
"""

import numpy as np

from fastbp.cuda.device import cuda
from fastbp.cuda.program import REAL, context, operation
from fastbp.cuda.simt import array
from fastbp.formulas import dropout as formulas
from fastbp.random import philox


def dropout_forward(real):
    """y (rows, n) = x · m for the rows of the batch; m is kept in z.

    op.numbers: threshold, an int64; scale, of the type of x.
    """
    dtype = REAL[real]

    def dropout_forward(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        threshold = np.uint32(array(op.numbers, 1, np.int64)[0])
        scale, quarter = array(op.numbers + 8, 1, dtype)[0], (op.n_out + 3) // 4
        for i in range(row, ctx.batch_rows, rows):
            x, m = array(op.x + i * op.x_row, op.n_out, dtype), array(op.z + i * op.z_row, op.n_out, dtype)
            y = array(op.y + i * op.z_row, op.n_out, dtype)
            for b in range(first, quarter, step):
                words = philox(ctx.seed, op.purpose, ctx.epoch, ctx.step, i * quarter + b)
                j = b
                for word in words:
                    if j < op.n_out:
                        m[j] = formulas.dropout_multiplier(np.uint32(word), threshold, scale)
                        y[j] = formulas.dropout(x[j], m[j])
                    j += quarter

    return dropout_forward


def dropout_backward(real):
    """dx (rows, n) = dy · m for the rows of the batch."""
    dtype = REAL[real]

    def dropout_backward(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        for i in range(row, ctx.batch_rows, rows):
            dy, m = array(op.dz + i * op.z_row, op.n_out, dtype), array(op.z + i * op.z_row, op.n_out, dtype)
            dx = array(op.dx + i * op.x_row, op.n_out, dtype)
            for j in range(first, op.n_out, step):
                dx[j] = formulas.dropout_backward(dy[j], m[j])

    return dropout_backward
