"""What shapes gradients and weights beside the optimizer: penalties, clipping, noise; and noise on inputs.

Noise is counter-based, with the very draws of ``cpu/shaping.py``: four rows of a column of W, or four
quarters of a row of inputs, share the four words of a block.
"""

from functools import cache

import numpy as np

from fastbp.cuda.records import REAL, context, operation
from fastbp.cuda.rows import inputs, over_rows
from fastbp.cuda.simt import array, part
from fastbp.formulas import shaping as formulas
from fastbp.formulas.random import GRADIENT_NOISE, INPUT_NOISE, philox

# Numbers at op.shaping, of the type of the parameters: l1, l2 | limit of an element | standard deviation of
# the first step's noise; then float64: most of a norm | that deviation again, how fast its variance falls.
L1, L2, LIMIT, DEVIATION, SHAPE = 0, 1, 2, 3, 4
MOST, FIRST_DEVIATION, DECAY, SHAPE64 = 0, 1, 2, 3


def numbers_of(dtype, l1=0.0, l2=0.0, limit=0.0, noise=0.0, most=0.0, first_deviation=0.0, decay=0.0):
    """The numbers at op.shaping, as bytes."""
    narrow, wide = np.array([l1, l2, limit, noise], dtype), np.array([most, first_deviation, decay])
    return np.concatenate([narrow.view(np.uint8), wide.view(np.uint8)])


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

    Penalties, clipping, noise, in this order. w is the parameter. Where the whole gradient was collected, all
    that comes before the norm was done to it, and all of it is scaled.
    """
    dtype, before_norm, add_noise = REAL[real], before_norm_one(real), noise_one(real)

    @part
    def shape(op, ctx, i, j, w, dw):
        if op.collected != 0:
            dw = dw * array(ctx.shortening, 1, dtype)[0]
        else:
            dw = before_norm(op, i, w, dw)
        return add_noise(op, ctx, i // 4 * op.n_out + j, i % 4, dw)

    return shape


@cache
def before_norm_one(real):
    """A function ``before_norm(op, i, w, dw)``: what is done to an element of row i before all are measured.

    Penalties, which b, row n_in, has none of; clipping by value.
    """
    dtype, bound = REAL[real], bound_one(real)

    @part
    def before_norm(op, i, w, dw):
        numbers = array(op.shaping, SHAPE, dtype)
        if i < op.n_in and (numbers[L1] != 0 or numbers[L2] != 0):
            dw = dw + formulas.penalty_backward(w, numbers[L1], numbers[L2])
        return bound(op, dw)

    return before_norm


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


@cache
def deviation_of_step(real):
    """A function ``write(op, ctx, step)``: the standard deviation of a step's noise, at ctx.deviation."""
    dtype, size = REAL[real], REAL[real](0).itemsize

    @part
    def write(op, ctx, step):
        numbers = array(op.shaping + SHAPE * size, SHAPE64, np.float64)
        deviation = formulas.noise_deviation(numbers[FIRST_DEVIATION], numbers[DECAY], step - 1)
        array(ctx.deviation, 1, dtype)[0] = dtype(deviation)

    return write


def noise_of_step(real):
    """The standard deviation of this step's noise on gradients, at ctx.deviation; one thread."""
    write = deviation_of_step(real)

    def noise_of_step(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt == 0:
            write(op, ctx, ctx.step)

    return noise_of_step


@cache
def input_noise_one(real):
    """A function ``noise(op, ctx, i, j)``: what is added to input j of row i of the batch in ctx.step."""
    dtype, normal = REAL[real], _normal_number(real)

    @part
    def noise(op, ctx, i, j):
        quarter, deviation = (op.n_in + 3) // 4, array(op.shaping, SHAPE, dtype)[DEVIATION]
        block = i * quarter + j % quarter
        return deviation * normal(ctx.seed, INPUT_NOISE, ctx.step, block, j // quarter)

    return noise


def input_noise(real):
    """x (rows, n_in) of the workspace += deviation · normal numbers, others in each step."""
    dtype, noise = REAL[real], input_noise_one(real)

    def input_noise(op, ctx, i, columns):
        x = array(op.x + i * op.x_row, op.n_in, dtype)
        for j in columns:
            x[j] += noise(op, ctx, i, j)

    return over_rows(input_noise, inputs)


@cache
def factor_of_norm(real):
    """A function ``write(op, ctx, n)``: what shortens the gradient to its norm, at ctx.shortening.

    op.squares: the sum of squares of each of the n columns of all layers, added up in their order.
    """
    dtype, size = REAL[real], REAL[real](0).itemsize

    @part
    def write(op, ctx, n):
        squares, total = array(op.squares, n, np.float64), 0.0
        for column in range(n):
            total += squares[column]
        most = array(op.shaping + SHAPE * size, SHAPE64, np.float64)[MOST]
        array(ctx.shortening, 1, dtype)[0] = dtype(formulas.clip_factor(total, most))

    return write


def clip_factor(real):
    """What every gradient is multiplied by so that all together are no longer than asked; one thread."""
    write = factor_of_norm(real)

    def clip_factor(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt == 0:
            write(op, ctx, op.n_out)

    return clip_factor
