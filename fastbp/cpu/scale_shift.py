"""What a normalisation learns: y = γ · x̂ + β, one γ and one β for each column.

    dγ = Σ_rows dy · x̂        dβ = Σ_rows dy
    update     γ, β ← optimizer(γ, dγ), optimizer(β, dβ)

Clipping and noise are done to both as to any gradient (shaping.py); there are no penalties.

The packed parameters are vectors of whole machine vectors, one behind the other: γ | β, and with running
statistics mean | variance. Those that are not learnt are 1 and 0. op.z holds x̂, op.dz dy. A thread's share
are columns [first_column, last_column): each sum is one chain of partial sums over `ROWS` rows, in their
order.
"""

from fastbp.cpu.elementwise import copy_elements, update_loop, whole_vectors
from fastbp.cpu.native import array, call, part
from fastbp.cpu.records import REAL, kernel
from fastbp.cpu.shaping import (
    add_scaled,
    add_squares,
    bound_elements,
    clear_totals,
    noise_of_step,
    normal_numbers,
    shorten,
)
from fastbp.cpu.slots import slots_in_use, sum_of_slots, sum_slots_in_place
from fastbp.formulas.normalization import ROWS
from fastbp.formulas.random import GRADIENT_NOISE


def vector_bytes(real):
    """A function that tells the bytes from one vector of packed parameters to the next."""
    whole, size = whole_vectors(real), REAL[real](0).itemsize

    @part
    def stride(op):
        return whole(op.columns) * size

    return stride


def _sums(real):
    """A function that writes dγ and dβ of a thread's columns over ctx.rows rows.

    Partial sums lie in ctx.scratch behind the room for both.
    """
    dtype, size, stride = REAL[real], REAL[real](0).itemsize, vector_bytes(real)

    @part
    def clear(n, dgamma, dbeta):
        dgamma, dbeta = array(dgamma, n, dtype), array(dbeta, n, dtype)
        for j in range(n):
            dgamma[j] = dbeta[j] = dtype(0)

    @part
    def add_row(n, dy, normalized, dgamma, dbeta):
        dy, normalized = array(dy, n, dtype), array(normalized, n, dtype)
        dgamma, dbeta = array(dgamma, n, dtype), array(dbeta, n, dtype)
        for j in range(n):
            dgamma[j] = dgamma[j] + dy[j] * normalized[j]
            dbeta[j] = dbeta[j] + dy[j]

    @part
    def add(n, dgamma, dbeta, more_dgamma, more_dbeta):
        dgamma, dbeta = array(dgamma, n, dtype), array(dbeta, n, dtype)
        more_dgamma, more_dbeta = array(more_dgamma, n, dtype), array(more_dbeta, n, dtype)
        for j in range(n):
            dgamma[j] += more_dgamma[j]
            dbeta[j] += more_dbeta[j]

    @part
    def sums(op, ctx, dgamma, dbeta):
        n, columns, first = op.last_column - op.first_column, op.first_column * size, 0
        some_dgamma, some_dbeta = ctx.scratch + 2 * stride(op), ctx.scratch + 3 * stride(op)
        clear(n, dgamma, dbeta)
        while first < ctx.rows:
            clear(n, some_dgamma, some_dbeta)
            for i in range(first, min(first + ROWS, ctx.rows)):
                at = (ctx.place + i) * op.z_row + columns
                add_row(n, op.dz + at, op.z + at, some_dgamma, some_dbeta)
            add(n, dgamma, dbeta, some_dgamma, some_dbeta)
            first += ROWS

    return sums


def scale_shift_gradient(real):
    """dγ and dβ over ctx.rows rows, into the gradient slot of this block."""
    sums, stride, size = _sums(real), vector_bytes(real), REAL[real](0).itemsize

    def scale_shift_gradient(op, ctx):
        dgamma = op.slots + ctx.block * op.slot_bytes + op.first_column * size
        sums(op, ctx, dgamma, dgamma + stride(op))

    return kernel(scale_shift_gradient)


def scale_shift_update(optimizer, real):
    """dγ and dβ over the whole batch, applied."""
    sums, apply, stride = _sums(real), _apply(optimizer, real), vector_bytes(real)

    def scale_shift_update(op, ctx):
        if op.last_column > op.first_column:
            sums(op, ctx, ctx.scratch, ctx.scratch + stride(op))
            apply(op, ctx)

    return kernel(scale_shift_update)


def scale_shift_apply(optimizer, real):
    """The update from gradient slots that are there: added in the order of the blocks, then applied."""
    total, apply, stride = sum_of_slots(real), _apply(optimizer, real), vector_bytes(real)
    size = REAL[real](0).itemsize

    def scale_shift_apply(op, ctx):
        n, first = op.last_column - op.first_column, op.slots + op.first_column * size
        if n > 0:
            slots = 1 if op.collected != 0 else slots_in_use(ctx)
            total(n, first, op.slot_bytes, slots, ctx.scratch)
            total(n, first + stride(op), op.slot_bytes, slots, ctx.scratch + stride(op))
            apply(op, ctx)

    return kernel(scale_shift_apply)


def _apply(optimizer, real):
    """A function that steps γ and β of a thread's columns, whose gradients lie in ctx.scratch.

    Both are trained with the settings of biases, where those have settings of their own.
    """
    update, stride, size = update_loop(optimizer, real), vector_bytes(real), REAL[real](0).itemsize

    @part
    def apply(op, ctx):
        n, gamma = op.last_column - op.first_column, op.w + op.first_column * size
        hyper = ctx.bias_hyper if op.bias_settings != 0 else ctx.hyper
        if op.shaping != 0:
            call(op.shaping, op.address, ctx.address)
        learnt = op.use_scale + 2 * op.use_bias
        for vector in range(2):
            if learnt >> vector & 1:
                here = vector * stride(op)
                update(n, ctx.scratch + here, gamma + here, op.arena_bytes, hyper)

    return apply


def scale_shift_shape(real):
    """dγ and dβ of a thread's columns, in ctx.scratch: clipping, noise.

    γ and β of a column take the first two words of a block.
    """
    dtype, size, stride = REAL[real], REAL[real](0).itemsize, vector_bytes(real)
    bound, shorter, draw, add = bound_elements(real), shorten(real), normal_numbers(real), add_scaled(real)

    def scale_shift_shape(op, ctx):
        n, learnt = op.last_column - op.first_column, op.use_scale + 2 * op.use_bias
        numbers, deviation = ctx.scratch + 2 * stride(op), noise_of_step(op, ctx)
        if deviation != 0.0:
            draw(n, ctx.seed, GRADIENT_NOISE, ctx.step, op.noise + op.first_column, numbers)
        for vector in range(2):
            if learnt >> vector & 1:
                here = ctx.scratch + vector * stride(op)
                if op.collected != 0:
                    shorter(ctx, n, here)
                else:
                    bound(op, n, here)
                if deviation != 0.0:
                    add(n, numbers + vector * n * size, dtype(deviation), here)

    return kernel(scale_shift_shape)


def scale_shift_collect(real):
    """The gradient slots of a thread's columns, all in the first of them, clipped by value.

    op.squares (n_out,): dγ² + dβ² of each column, of those that are learnt, in float64.
    """
    total_in_place, stride, size = sum_slots_in_place(real), vector_bytes(real), REAL[real](0).itemsize
    bound, squares = bound_elements(real), add_squares(real)

    def scale_shift_collect(op, ctx):
        n, learnt = op.last_column - op.first_column, op.use_scale + 2 * op.use_bias
        if n > 0:
            within, totals = min(n, op.n_out - op.first_column), op.squares + op.first_column * 8
            clear_totals(within, totals)
            for vector in range(2):
                if learnt >> vector & 1:
                    here = op.slots + op.first_column * size + vector * stride(op)
                    total_in_place(n, here, op.slot_bytes, slots_in_use(ctx))
                    bound(op, n, here)
                    squares(within, here, totals)

    return kernel(scale_shift_collect)


def scale_shift_total(real):
    """The gradient slots of all blocks, added in their order, into the first of them."""
    total_in_place, stride = sum_slots_in_place(real), vector_bytes(real)

    def scale_shift_total(op, ctx):
        for vector in range(2):
            total_in_place(op.columns, op.slots + vector * stride(op), op.slot_bytes, slots_in_use(ctx))

    return kernel(scale_shift_total)


def scale_shift_pack(real):
    """The host's vectors into the packed ones; ones and zeros for those that are not learnt."""
    dtype, size, stride, copy = REAL[real], REAL[real](0).itemsize, vector_bytes(real), copy_elements(real)

    @part
    def fill(n, target, value):
        target = array(target, n, dtype)
        for j in range(n):
            target[j] = value

    def scale_shift_pack(op, ctx):
        source = ctx.host + op.host
        there = op.use_scale + 2 * op.use_bias + 12 * op.statistics
        for vector in range(4 if op.statistics != 0 else 2):
            target = op.w + vector * stride(op)
            if there >> vector & 1:
                copy(op.n_out, source, target)
                source += op.n_out * size
            else:
                fill(op.columns, target, dtype(1 - vector))

    return kernel(scale_shift_pack)


def scale_shift_unpack(real):
    """The packed vectors back into the host's."""
    size, stride, copy = REAL[real](0).itemsize, vector_bytes(real), copy_elements(real)

    def scale_shift_unpack(op, ctx):
        target = ctx.host + op.host
        there = op.use_scale + 2 * op.use_bias + 12 * op.statistics
        for vector in range(4 if op.statistics != 0 else 2):
            if there >> vector & 1:
                copy(op.n_out, op.w + vector * stride(op), target)
                target += op.n_out * size

    return kernel(scale_shift_unpack)
