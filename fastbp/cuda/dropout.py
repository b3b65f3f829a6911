"""Dropout, in training only: y = x · m, dx = dy · m with random multipliers m.

With the very draws of ``cpu/dropout.py``: the four words of draw number b of a row belong to columns b,
q + b, 2q + b and 3q + b, q a quarter of the columns. A thread takes the four columns of a draw.
"""

import numpy as np

from fastbp.cuda.records import REAL
from fastbp.cuda.rows import over_rows
from fastbp.cuda.simt import array, part
from fastbp.formulas import dropout as formulas
from fastbp.formulas.random import philox


def dropout_forward(real):
    """y (rows, n) = x · m for the rows of the batch; m is kept in z.

    op.numbers: threshold, an int64; scale, of the type of x.
    """
    dtype = REAL[real]

    @part
    def quarter_of(op):
        return (op.n_out + 3) // 4

    def dropout_forward(op, ctx, i, columns):
        n, quarter, at = op.n_out, quarter_of(op), i * op.z_row
        threshold = np.uint32(array(op.numbers, 1, np.int64)[0])
        scale = array(op.numbers + 8, 1, dtype)[0]
        x, m, y = array(op.x + i * op.x_row, n, dtype), array(op.z + at, n, dtype), array(op.y + at, n, dtype)
        for b in columns:
            words = philox(ctx.seed, op.purpose, ctx.epoch, ctx.step, i * quarter + b)
            j = b
            for word in words:
                if j < n:
                    m[j] = formulas.dropout_multiplier(np.uint32(word), threshold, scale)
                    y[j] = formulas.dropout(x[j], m[j])
                j += quarter

    return over_rows(dropout_forward, quarter_of)


def dropout_backward(real):
    """dx (rows, n) = dy · m for the rows of the batch."""
    dtype = REAL[real]

    def dropout_backward(op, ctx, i, columns):
        n, at = op.n_out, i * op.z_row
        dy, m = array(op.dz + at, n, dtype), array(op.z + at, n, dtype)
        dx = array(op.dx + i * op.x_row, n, dtype)
        for j in columns:
            dx[j] = formulas.dropout_backward(dy[j], m[j])

    return over_rows(dropout_backward)
