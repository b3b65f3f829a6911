"""What shapes gradients and weights beside the optimizer: penalties, clipping, noise; and noise on inputs.

Noise is counter-based, with the very draws of ``cpu/shaping.py``: four rows of a column of W, or four
quarters of a row of inputs, share the four words of a block.
"""

from functools import cache

import numpy as np

from fastbp.cuda.program import REAL, context, operation
from fastbp.cuda.rows import inputs, over_rows
from fastbp.cuda.simt import array, part
from fastbp.formulas import shaping as formulas
from fastbp.random import GRADIENT_NOISE, INPUT_NOISE, philox

# Numbers at op.shaping, of the type of the parameters: l1, l2 | limit of an element | standard deviation of
# the first step's noise; then float64: most of a norm | that deviation again, how fast its variance falls.
L1, L2, LIMIT, DEVIATION, SHAPE = 0, 1, 2, 3, 4
MOST, FIRST_DEVIATION, DECAY, SHAPE64 = 0, 1, 2, 3


@cache
def _normal_number(real):
    """A function ``normal(seed, purpose, step, block, which)``: one of the four numbers of a block.

    Its first bit is the sign, the next 23 say how far out the number lies.
    """
    dtype = REAL[real]

    @part
    def normal(seed, purpose, step, block, which):
        w0, w1, w2, w3 = philox(seed, purpose, 0, step, block)
        word = w0 if which == 0 else (w1 if which == 1 else (w2 if which == 2 else w3))
        p = (dtype(np.int64((word >> np.uint64(8)) & np.uint64(0x7FFFFF))) + dtype(0.5)) * dtype(2.0**-24)
        x = formulas.normal_size(p)
        return -x if word >> np.uint64(31) != np.uint64(0) else x

    return normal


@cache
def shape_one(real):
    """A function ``shape(op, ctx, i, j, w, dw)``: the gradient of W[i, j], of b where i is n_in, shaped.

    Penalties, clipping, noise, in this order; b has no penalty. w is the parameter's address. Where the whole
    gradient was collected, all that comes before the norm was done to it, and all of it is scaled.
    """
    dtype, bound, add_noise = REAL[real], bound_one(real), noise_one(real)

    @part
    def shape(op, ctx, i, j, w, dw):
        numbers = array(op.shaping, SHAPE, dtype)
        if op.collected != 0:
            dw = dw * array(ctx.shortening, 1, dtype)[0]
        else:
            if i < op.n_in and (numbers[L1] != 0 or numbers[L2] != 0):
                dw = dw + formulas.penalty_backward(array(w, 1, dtype)[0], numbers[L1], numbers[L2])
            dw = bound(op, dw)
        return add_noise(op, ctx, i // 4 * op.n_out + j, i % 4, dw)

    return shape


@cache
def bound_one(real):
    """A function ``bound(op, dw)``: an element cut off at its limit, if there is a limit."""
    dtype = REAL[real]

    @part
    def bound(op, dw):
        limit = array(op.shaping, SHAPE, dtype)[LIMIT]
        return formulas.clip(dw, limit) if limit != 0 else dw

    return bound


@cache
def noise_one(real):
    """A function ``add_noise(op, ctx, block, which, dw)``: an element with the noise of this step, if any.

    ``block`` counts from the layer's first one.
    """
    dtype, normal = REAL[real], _normal_number(real)

    @part
    def add_noise(op, ctx, block, which, dw):
        if array(op.shaping, SHAPE, dtype)[DEVIATION] == 0:
            return dw
        deviation = array(ctx.deviation, 1, dtype)[0]
        return dw + deviation * normal(ctx.seed, GRADIENT_NOISE, ctx.step, op.noise + block, which)

    return add_noise


def noise_of_step(real):
    """The standard deviation of this step's noise on gradients, at ctx.deviation; one thread."""
    dtype, size = REAL[real], REAL[real](0).itemsize

    def noise_of_step(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        numbers = array(op.shaping + SHAPE * size, SHAPE64, np.float64)
        deviation = formulas.noise_deviation(numbers[FIRST_DEVIATION], numbers[DECAY], ctx.step - 1)
        array(ctx.deviation, 1, dtype)[0] = dtype(deviation)

    return noise_of_step


def input_noise(real):
    """x (rows, n_in) of the workspace += deviation · normal numbers, others in each step."""
    dtype, normal = REAL[real], _normal_number(real)

    def input_noise(op, ctx, i, columns):
        x, deviation = array(op.x + i * op.x_row, op.n_in, dtype), array(op.shaping, SHAPE, dtype)[DEVIATION]
        quarter = (op.n_in + 3) // 4
        for j in columns:
            block = i * quarter + j % quarter
            x[j] += deviation * normal(ctx.seed, INPUT_NOISE, ctx.step, block, j // quarter)

    return over_rows(input_noise, inputs)


def clip_factor(real):
    """What every gradient is multiplied by so that all together are no longer than asked, at ctx.shortening.

    op.squares: the sum of squares of each of the op.n_out columns of all layers, added up by one thread.
    """
    dtype, size = REAL[real], REAL[real](0).itemsize

    def clip_factor(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        squares, total = array(op.squares, op.n_out, np.float64), 0.0
        for column in range(op.n_out):
            total += squares[column]
        most = array(op.shaping + SHAPE * size, SHAPE64, np.float64)[MOST]
        array(ctx.shortening, 1, dtype)[0] = dtype(formulas.clip_factor(total, most))

    return clip_factor
