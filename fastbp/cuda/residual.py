"""A residual connection around a block of layers: y = x + f(x); see ``cpu/residual.py``.

op.x holds f, op.skip the block's input x. Backward the sum hands dy to the block (`elementwise.hand_back`),
which leaves its own part of dx in op.dskip; then dy is added there.
"""

from fastbp.cuda.records import REAL
from fastbp.cuda.rows import over_rows
from fastbp.cuda.simt import array


def residual_forward(real):
    """y (rows, n) = f + x for the rows of the batch."""
    dtype = REAL[real]

    def residual_forward(op, ctx, i, columns):
        n = op.n_out
        f, x = array(op.x + i * op.x_row, n, dtype), array(op.skip + i * op.skip_row, n, dtype)
        y = array(op.y + i * op.z_row, n, dtype)
        for j in columns:
            y[j] = x[j] + f[j]

    return over_rows(residual_forward)


def residual_skip_backward(real):
    """dx (rows, n) += dy for the rows of the batch."""
    dtype = REAL[real]

    def residual_skip_backward(op, ctx, i, columns):
        n = op.n_out
        dy, dx = array(op.dz + i * op.z_row, n, dtype), array(op.dskip + i * op.skip_row, n, dtype)
        for j in columns:
            dx[j] = dx[j] + dy[j]

    return over_rows(residual_skip_backward)
