"""A residual connection around a block of layers: y = x + f(x); see ``cpu/residual.py``.

op.x holds f, op.skip the block's input x. Backward the sum hands dy to the block, which leaves its own part
of dx in op.dskip; then dy is added there.
"""

from fastbp.cuda.device import cuda
from fastbp.cuda.program import REAL, context, operation
from fastbp.cuda.simt import array


def residual_forward(real):
    """y (rows, n) = x + f for the rows of the batch."""
    dtype = REAL[real]

    def residual_forward(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        for i in range(row, ctx.batch_rows, rows):
            f, y = array(op.x + i * op.x_row, op.n_out, dtype), array(op.y + i * op.z_row, op.n_out, dtype)
            x = array(op.skip + i * op.skip_row, op.n_out, dtype)
            for j in range(first, op.n_out, step):
                y[j] = x[j] + f[j]

    return residual_forward


def residual_backward(real):
    """df (rows, n) = dy for the rows of the batch."""
    dtype = REAL[real]

    def residual_backward(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        for i in range(row, ctx.batch_rows, rows):
            dy, df = (
                array(op.dz + i * op.z_row, op.n_out, dtype),
                array(op.dx + i * op.x_row, op.n_out, dtype),
            )
            for j in range(first, op.n_out, step):
                df[j] = dy[j]

    return residual_backward


def residual_skip_backward(real):
    """dx (rows, n) += dy for the rows of the batch."""
    dtype = REAL[real]

    def residual_skip_backward(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        for i in range(row, ctx.batch_rows, rows):
            dy = array(op.dz + i * op.z_row, op.n_out, dtype)
            dx = array(op.dskip + i * op.skip_row, op.n_out, dtype)
            for j in range(first, op.n_out, step):
                dx[j] = dx[j] + dy[j]

    return residual_skip_backward
