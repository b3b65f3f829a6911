"""Dense layers of a few units and rows, where setting up tiles and panels takes longer than the products.

The same as ``dense.py`` does, to the same bits:

    forward    z  = x · W + b
    backward   dx = dz · Wᵀ          dW = xᵀ · dz          db = Σ_rows dz = 1ᵀ · dz
    update     W, b ← optimizer(W, dW), optimizer(b, db)

All of W is one panel of the narrowest vectors, b behind it as one row more, so each product is a loop over
rows with nothing to choose.
"""

from functools import cache

from fastbp.cpu.elementwise import update_loop
from fastbp.cpu.machine import this_machine
from fastbp.cpu.native import part
from fastbp.cpu.records import REAL, kernel
from fastbp.cpu.simd import transpose_square
from fastbp.cpu.tile import tile

# Multiply-adds for each column of a product.
MOST = 16


def is_tiny(n_in, x_columns, columns, rows, real):
    """Whether a layer of n_in inputs is, whose input and output take so many columns (`Choices.columns`)."""
    width = this_machine().least_lanes(real)
    return max(x_columns, columns) == width and max(n_in + 1, width) * rows <= MOST


def tiny_forward(real):
    """z (rows, n_out) = x (rows, n_in) · W + b for the rows of a block."""
    size, row, multiply = REAL[real](0).itemsize, _row_bytes(real), _rows_times(real)

    def tiny_forward(op, ctx):
        x, z, b = op.x + ctx.place * op.x_row, op.z + ctx.place * op.z_row, op.w + op.n_in * row
        multiply(ctx.rows, op.n_in, x, op.x_row, size, op.w, row, b, z, op.z_row)

    return kernel(tiny_forward)


def tiny_backward(real):
    """dx (rows, n_in) = dz (rows, n_out) · Wᵀ for the rows of a block."""
    size, row, multiply = REAL[real](0).itemsize, _row_bytes(real), _rows_times(real)

    def tiny_backward(op, ctx):
        dz, dx = op.dz + ctx.place * op.z_row, op.dx + ctx.place * op.x_row
        multiply(ctx.rows, op.n_out, dz, op.z_row, size, op.wt, row, ctx.zeros, dx, op.x_row)

    return kernel(tiny_backward)


def tiny_update(optimizer, real):
    """dW = xᵀ · dz and db over the whole batch, applied to W and b; W's transpose kept current."""
    size, row, multiply = REAL[real](0).itemsize, _row_bytes(real), _rows_times(real)
    width, update = this_machine().least_lanes(real), update_loop(optimizer, real)
    transpose = transpose_square(real, width)

    def tiny_update(op, ctx):
        x, dz, dw = op.x + ctx.place * op.x_row, op.dz + ctx.place * op.z_row, ctx.scratch
        multiply(op.n_in, ctx.rows, x, size, op.x_row, dz, op.z_row, ctx.zeros, dw, row)
        db = dw + op.n_in * row
        multiply(op.use_bias, ctx.rows, ctx.one, 0, 0, dz, op.z_row, ctx.zeros, db, 0)
        update((op.n_in + op.use_bias) * width, dw, op.w, op.arena_bytes, ctx.hyper)
        if op.wt != 0:
            transpose(op.n_in, ctx.zeros, op.w, row, op.wt, row)

    return kernel(tiny_update)


@cache
def _row_bytes(real):
    """Bytes of a row of W."""
    return this_machine().least_lanes(real) * REAL[real](0).itemsize


def _rows_times(real):
    """A function for m rows of c = c0 + a · b with k steps, as `tile.tile`'s, and one row of c0 for all."""
    width = this_machine().least_lanes(real)
    one_row = tile(real, ((width, width, 1),), asks_ahead=False)

    @part
    def multiply(m, k, a, a_row, a_step, b, b_step, c0, c, c_row):
        for _ in range(m):
            one_row(1, width, a, 0, 0, a_step, 0, b, b_step, c0, 0, c, 0, k, 0, 0)
            a += a_row
            c += c_row

    return multiply
