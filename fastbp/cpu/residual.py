"""A residual connection around a block of layers: y = x + f(x).

    forward    y  = x + f
    backward   df = dy          dx = df · ∂f/∂x + dy

The sum is an operation behind the block: op.x holds f, op.skip the block's input x. Backward it hands dy to
the block (`elementwise.hand_back`), which leaves its own part of dx in op.dskip; then dy is added there.
"""

from fastbp.cpu.native import array, part
from fastbp.cpu.records import REAL, kernel


def residual_forward(real):
    """y (rows, n) = f + x for the rows of a block of rows."""
    dtype = REAL[real]

    @part
    def one_row(n, f, x, y):
        f, x, y = array(f, n, dtype), array(x, n, dtype), array(y, n, dtype)
        for j in range(n):
            y[j] = x[j] + f[j]

    def residual_forward(op, ctx):
        for i in range(ctx.place, ctx.place + ctx.rows):
            one_row(op.columns, op.x + i * op.x_row, op.skip + i * op.skip_row, op.y + i * op.z_row)

    return kernel(residual_forward)


def residual_skip_backward(real):
    """dx (rows, n) += dy for the rows of a block of rows."""
    dtype = REAL[real]

    @part
    def one_row(n, dy, dx):
        dy, dx = array(dy, n, dtype), array(dx, n, dtype)
        for j in range(n):
            dx[j] = dx[j] + dy[j]

    def residual_skip_backward(op, ctx):
        for i in range(ctx.place, ctx.place + ctx.rows):
            one_row(op.columns, op.dz + i * op.z_row, op.dskip + i * op.skip_row)

    return kernel(residual_skip_backward)
