"""What shapes gradients and weights beside the optimizer: penalties, clipping, noise; and noise on inputs.

A plan that asks for it gives the update the address of `shape_gradient`, which is called for each piece of W
between its gradient and the optimizer's step, or of `scale_shift.scale_shift_shape` for γ and β;
`dense.dense_collect`, `scale_shift.scale_shift_collect` and `dense.dense_max_norm` see whole columns. Loops
end where rows end: in the same vector there may be the bias, which has no penalty.

The order is always penalties, clipping by value, clipping by norm, noise. What needs the whole gradient is
written to memory with all that comes before the norm (`op.collected`), and the update does the rest.

Noise is counter-based (``formulas/random.py``). Four rows (or quarters of a row) that lie side by side take
the four words of a block, so a draw depends on its place in W, or in the batch, and on (seed, step), and on
nothing else.
"""

from functools import cache

import numpy as np

from fastbp.cpu.gemm import ROW_BLOCK
from fastbp.cpu.machine import this_machine
from fastbp.cpu.native import array, part
from fastbp.cpu.records import REAL, kernel
from fastbp.formulas import shaping as formulas
from fastbp.formulas.random import GRADIENT_NOISE, INPUT_NOISE, philox

# float64 numbers at op.shape: l1, l2 | limit of an element | standard deviation of the first step's noise |
# most of a norm | how fast the variance of the noise falls
L1, L2, LIMIT, DEVIATION, MOST, DECAY, SHAPE = 0, 1, 2, 3, 4, 5, 6


@cache
def add_penalty(real):
    """A function ``penalise(op, n, w, dw)`` that adds the gradient of l1 |w| + l2 w² to n elements."""
    dtype = REAL[real]

    @part
    def loop(n, w, dw, l1, l2):
        w, dw = array(w, n, dtype), array(dw, n, dtype)
        for i in range(n):
            dw[i] += formulas.penalty_backward(w[i], l1, l2)

    @part
    def penalise(op, n, w, dw):
        shape = array(op.shape, SHAPE, np.float64)
        if shape[L1] != 0.0 or shape[L2] != 0.0:
            loop(n, w, dw, dtype(shape[L1]), dtype(shape[L2]))

    return penalise


@cache
def bound_elements(real):
    """A function ``bound(op, n, dw)`` that cuts n elements off at the limit of one, if there is a limit."""
    dtype = REAL[real]

    @part
    def loop(n, dw, limit):
        dw = array(dw, n, dtype)
        for i in range(n):
            dw[i] = formulas.clip(dw[i], limit)

    @part
    def bound(op, n, dw):
        limit = array(op.shape, SHAPE, np.float64)[LIMIT]
        if limit != 0.0:
            loop(n, dw, dtype(limit))

    return bound


@cache
def shorten(real):
    """A function ``shorten(ctx, n, dw)`` that multiplies n elements by what clipping by the norm asks for."""
    dtype = REAL[real]

    @part
    def loop(n, dw, factor):
        dw = array(dw, n, dtype)
        for i in range(n):
            dw[i] *= factor

    @part
    def shorten(ctx, n, dw):
        loop(n, dw, dtype(array(ctx.shortening, 1, np.float64)[0]))

    return shorten


@part
def clear_totals(n, totals):
    """n float64 zeros."""
    totals = array(totals, n, np.float64)
    for j in range(n):
        totals[j] = 0.0


@cache
def add_squares(real):
    """A function ``squares(n, row, total)`` that adds the squares of a row to as many float64 totals."""
    dtype = REAL[real]

    @part
    def squares(n, row, total):
        row, total = array(row, n, dtype), array(total, n, np.float64)
        for j in range(n):
            each = np.float64(row[j])
            total[j] += each * each

    return squares


@cache
def normal_numbers(real):
    """A function ``draw(n, seed, purpose, step, block, target)``: 4 n normal numbers.

    Number i + k·n is made of word k of block ``block + i``: its first bit is the sign, the next 23 say how
    far out it lies; none lies beyond 5.42.
    """
    dtype, size = REAL[real], REAL[real](0).itemsize

    @part
    def number(word):
        p = (dtype(np.int64((word >> np.uint64(8)) & np.uint64(0x7FFFFF))) + dtype(0.5)) * dtype(2.0**-24)
        x = formulas.normal_size(p)
        return -x if word >> np.uint64(31) != np.uint64(0) else x

    @part
    def draw(n, seed, purpose, step, block, target):
        first, second = array(target, n, dtype), array(target + n * size, n, dtype)
        third, fourth = array(target + 2 * n * size, n, dtype), array(target + 3 * n * size, n, dtype)
        for i in range(n):
            w0, w1, w2, w3 = philox(seed, purpose, 0, step, block + i)
            first[i], second[i] = number(w0), number(w1)
            third[i], fourth[i] = number(w2), number(w3)

    return draw


@cache
def add_scaled(real):
    """A function ``add_scaled(n, source, scale, target)`` for n elements that lie side by side."""
    dtype = REAL[real]

    @part
    def add_scaled(n, source, scale, target):
        source, target = array(source, n, dtype), array(target, n, dtype)
        for i in range(n):
            target[i] += scale * source[i]

    return add_scaled


def input_noise(real):
    """x (rows, n_in) of the workspace += deviation · normal numbers, others in each step."""
    dtype, draw, add = REAL[real], normal_numbers(real), add_scaled(real)

    def input_noise(op, ctx):
        deviation, quarter = dtype(array(op.shape, SHAPE, np.float64)[DEVIATION]), (op.n_in + 3) // 4
        for i in range(ctx.rows):
            block = (ctx.row + i) * quarter
            draw(quarter, ctx.seed, INPUT_NOISE, ctx.step, block, ctx.scratch)
            add(op.n_in, ctx.scratch, deviation, op.x + (ctx.place + i) * op.x_row)

    return kernel(input_noise)


def shape_gradient(real):
    """The gradient of one piece of W, in ctx.scratch: penalties, clipping, noise.

    The piece: op.written rows from op.row on (the last may be b: W has op.rows of them), op.width columns
    from op.column on; its weights lie at op.piece.
    """
    dtype, size, panel = REAL[real], REAL[real](0).itemsize, this_machine().panel(real)
    penalise, bound, shorter = add_penalty(real), bound_elements(real), shorten(real)
    draw, add = normal_numbers(real), add_scaled(real)

    @part
    def add_noise(op, ctx, deviation):
        numbers, columns = ctx.scratch + (ROW_BLOCK + 1) * panel * size, op.host_row // size
        for row in range(0, op.written, 4):
            block = op.noise + (op.row + row) // 4 * columns + op.column
            draw(op.width, ctx.seed, GRADIENT_NOISE, ctx.step, block, numbers)
            here = ctx.scratch + row * op.width * size
            add(min(4, op.written - row) * op.width, numbers, deviation, here)

    def shape_gradient(op, ctx):
        n = op.written * op.width
        if op.collected != 0:
            shorter(ctx, n, ctx.scratch)
        else:
            penalise(op, op.rows * op.width, op.piece, ctx.scratch)
            bound(op, n, ctx.scratch)
        deviation = noise_of_step(op, ctx)
        if deviation != 0.0:
            add_noise(op, ctx, dtype(deviation))

    return kernel(shape_gradient)


@part
def noise_of_step(op, ctx):
    """The standard deviation of this step's noise on gradients; 0 where there is none."""
    shape = array(op.shape, SHAPE, np.float64)
    if shape[DEVIATION] == 0.0:
        return 0.0
    return formulas.noise_deviation(shape[DEVIATION], shape[DECAY], ctx.step - 1)


def clip_factor():
    """What every gradient is multiplied by so that all together are no longer than asked, in ctx.shortening.

    op.squares: the sum of squares of each of the op.n_out columns of all layers. Each thread adds them up, in
    the same order.
    """

    def clip_factor(op, ctx):
        squares, total = array(op.squares, op.n_out, np.float64), 0.0
        for column in range(op.n_out):
            total += squares[column]
        most = array(op.shape, SHAPE, np.float64)[MOST]
        array(ctx.shortening, 1, np.float64)[0] = formulas.clip_factor(total, most)

    return kernel(clip_factor)
