"""The rows of a block, copied side by side from wherever the epoch's order finds them."""

from numba import int64

from fastbp.cpu.elementwise import copy_elements
from fastbp.cpu.program import REAL, kernel
from fastbp.cpu.simd import array, part


@part
def data_row(ctx, i):
    """Which row of the data is row i of this block."""
    place = ctx.start + ctx.row + i
    return array(ctx.order + 8 * place, 1, int64)[0] if ctx.order != 0 else place


def require_finite(real):
    """Raise where x (rows, n_in) of the workspace holds NaN or an infinity."""
    dtype = REAL[real]

    @part
    def count_others(n, x):
        x, others = array(x, n, dtype), 0
        for k in range(n):
            others += 1 if x[k] - x[k] != 0 else 0
        return others

    def require_finite(op, ctx):
        for i in range(ctx.rows):
            if count_others(op.n_in, op.x + (ctx.slot + i) * op.x_row) > 0:
                raise ValueError

    return kernel(require_finite)


def gather(real):
    """x (rows, n_in) of the workspace = the block's rows of the data."""
    size, copy = REAL[real](0).itemsize, copy_elements(real)

    def gather(op, ctx):
        for i in range(ctx.rows):
            copy(op.n_in, ctx.x + data_row(ctx, i) * op.n_in * size, op.x + (ctx.slot + i) * op.x_row)

    return kernel(gather)
