"""Loops over formulas: activations, and the update of a run of parameters.

Loops run to whole vectors, past the end of a run: what lies there is room that nobody uses, or rows of the
same thread that are computed later. So no loop needs a scalar end: less code, and no slow last elements.
"""

from functools import cache

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastbp.cpu.column import load_column, store_column
from fastbp.cpu.machine import this_machine
from fastbp.cpu.native import array, part
from fastbp.cpu.records import REAL, kernel
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.optimizers import OPTIMIZERS, ROOM
from fastbp.formulas.schedules import SCHEDULES, warm_up

# In place, `y[i] = a if condition else y[i]` becomes a masked store in LLVM's x86 back end: on Zen 3 ten
# times slower than writing every element. Adding a -0.0 that only the run knows changes no value and no
# bit, and hides that the selected value is what lies there already.


def activation_forward(name, real):
    """y = f(z) for the rows of a block; in place where the backward needs only y."""
    activation, dtype = ACTIVATIONS[name], REAL[real]
    formula, runs, whole = part(activation.forward), runs_of_rows(real), whole_vectors(real)

    @part
    def in_place(n, y, minus_zero):
        n = whole(n)
        y = array(y, n, dtype)
        for i in range(n):
            y[i] = dtype(formula(y[i] + minus_zero))

    @part
    def out_of_place(n, z, y):
        n = whole(n)
        z, y = array(z, n, dtype), array(y, n, dtype)
        for i in range(n):
            y[i] = dtype(formula(z[i]))

    def forward_keeping_y(op, ctx):
        minus_zero = -array(ctx.zeros, 1, dtype)[0]
        rows, n = runs(ctx.rows, op.columns, op.z_row)
        for i in range(rows):
            in_place(n, op.y + (ctx.place + i) * op.z_row, minus_zero)

    def forward_keeping_z(op, ctx):
        rows, n = runs(ctx.rows, op.columns, op.z_row)
        for i in range(rows):
            at = (ctx.place + i) * op.z_row
            out_of_place(n, op.z + at, op.y + at)

    return kernel(forward_keeping_y if activation.keeps == "y" else forward_keeping_z)


def activation_backward(name, real):
    """dz = dy · f'(z), in place, for the rows of a block."""
    activation, dtype = ACTIVATIONS[name], REAL[real]
    formula, runs, whole = part(activation.backward), runs_of_rows(real), whole_vectors(real)
    keeps_y = activation.keeps == "y"

    @part
    def in_place(n, dz, kept, minus_zero):
        n = whole(n)
        dz, kept = array(dz, n, dtype), array(kept, n, dtype)
        for i in range(n):
            dz[i] = dtype(formula(dz[i] + minus_zero, kept[i]))

    def activation_backward(op, ctx):
        minus_zero = -array(ctx.zeros, 1, dtype)[0]
        kept = op.y if keeps_y else op.z
        rows, n = runs(ctx.rows, op.columns, op.z_row)
        for i in range(rows):
            at = (ctx.place + i) * op.z_row
            in_place(n, op.dz + at, kept + at, minus_zero)

    return kernel(activation_backward)


def hand_back(real):
    """dx (rows, n) = dz for the rows of a block, of layers that hand their gradient on as it is."""
    copy = copy_elements(real)

    def hand_back(op, ctx):
        for i in range(ctx.place, ctx.place + ctx.rows):
            copy(op.columns, op.dz + i * op.z_row, op.dx + i * op.x_row)

    return kernel(hand_back)


@cache
def runs_of_rows(real):
    """A function that tells (number of runs, elements in each): one run where rows of a block touch."""
    size = REAL[real](0).itemsize

    @part
    def runs(rows, columns, row_bytes):
        if row_bytes == columns * size:
            return 1, rows * columns
        return rows, columns

    return runs


@cache
def whole_vectors(real):
    """A function that rounds a number of elements up to whole vectors, in a form that LLVM sees through."""
    lanes = this_machine().lanes(real)

    @part
    def whole(n):
        return (n + lanes - 1) & -lanes

    return whole


def update_loop(name, real, gradients=1):
    """A function ``update(n, dw, w, state_bytes, hyper)`` that steps n parameters that lie side by side.

    Optimizer state s of the parameter at address p lies at ``p + (s + 1) * state_bytes``. Of two gradients,
    whose sum is applied, dw is the pair of addresses.
    """
    optimizer, dtype = OPTIMIZERS[name], REAL[real]
    formula, hypers, numbers = optimizer.update, optimizer.hypers, 1 + optimizer.states
    whole = whole_vectors(real)

    @part
    def update(n, dw, w, state_bytes, hyper):
        n = whole(n)
        values, dw = to_fixed_tuple(array(hyper, hypers, dtype), hypers), array(dw, n, dtype)
        for i in range(n):
            column = load_column(dtype, w, state_bytes, numbers, i)
            store_column(w, state_bytes, i, formula(column[0], dw[i], *column[1:], values))

    @part
    def update_by_two(n, dw, w, state_bytes, hyper):
        n = whole(n)
        values = to_fixed_tuple(array(hyper, hypers, dtype), hypers)
        one, other = array(dw[0], n, dtype), array(dw[1], n, dtype)
        for i in range(n):
            column = load_column(dtype, w, state_bytes, numbers, i)
            store_column(w, state_bytes, i, formula(column[0], one[i] + other[i], *column[1:], values))

    return update if gradients == 1 else update_by_two


def optimizer_prepare(name, real):
    """Turn the optimizer's settings into what its formula uses in this step, in this thread's own memory.

    Biases have settings of their own, or 0: then they share those of W.
    """
    optimizer, dtype = OPTIMIZERS[name], REAL[real]
    formula, n_settings, hypers = optimizer.prepare, len(optimizer.settings), optimizer.hypers

    @part
    def prepare(settings, step, hyper):
        values = formula(to_fixed_tuple(array(settings, n_settings, np.float64), n_settings), step)
        hyper = array(hyper, hypers, dtype)
        for i in range(hypers):
            hyper[i] = dtype(values[i])

    def optimizer_prepare(op, ctx):
        prepare(op.settings, ctx.step, ctx.hyper)
        if op.bias_settings != 0:
            prepare(op.bias_settings, ctx.step, ctx.bias_hyper)

    return kernel(optimizer_prepare)


def scheduled_settings(name):
    """The optimizer's settings with the learning rate, and the momentum, of this step: this thread's copy.

    op.schedule: whether to count steps, counts of warm-up, where that starts, then the formula's settings.
    """
    schedule = SCHEDULES[name]
    rate_of, momentum_of, n = schedule.rate, schedule.momentum, 3 + len(schedule.settings)
    sets_momentum = momentum_of is not None

    def scheduled_settings(op, ctx):
        schedule = to_fixed_tuple(array(op.schedule, n, np.float64), n)
        given, made = array(op.settings, ROOM, np.float64), array(op.scheduled, ROOM, np.float64)
        for i in range(ROOM):
            made[i] = given[i]
        count = ctx.step - 1 if schedule[0] != 0.0 else ctx.epoch
        if count < schedule[1]:
            made[0] = warm_up(given[0], schedule[1], schedule[2], count)
        else:
            made[0] = rate_of(given[0], schedule[3:], count - int(schedule[1]))
        if sets_momentum:
            array(op.momentum, 1, np.float64)[0] = momentum_of(schedule[3:], count)

    return kernel(scheduled_settings)


@cache
def copy_elements(real):
    """A function ``copy(n, source, target)`` for n elements that lie side by side."""
    dtype = REAL[real]

    @part
    def copy(n, source, target):
        source, target = array(source, n, dtype), array(target, n, dtype)
        for i in range(n):
            target[i] = source[i]

    return copy
