"""Loops over formulas: the backward of activations, and the update of a parameter.

Dense layers apply their activation themselves, and where they can the backward of the one before (`dense`).

A thread takes elements of a row-major pair of (column, row) indices of the grid; neighbours take neighbouring
columns.
"""

from functools import cache

import numpy as np

from fastbp.cuda.device import cuda
from fastbp.cuda.program import REAL, context, operation
from fastbp.cuda.simt import array, column, part
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.optimizers import OPTIMIZERS

# Numbers that an optimizer may have for settings, and that its formula may use in a step.
ROOM = 16


def activation_backward(name, real):
    """dz = dy · f'(z), in place, for the rows of the batch."""
    activation, dtype = ACTIVATIONS[name], REAL[real]
    formula, keeps_y = part(activation.backward), activation.keeps == "y"

    def activation_backward(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        for i in range(row, ctx.batch_rows, rows):
            at = i * op.z_row
            dz = array(op.dz + at, op.n_out, dtype)
            kept = array((op.y if keeps_y else op.z) + at, op.n_out, dtype)
            for j in range(first, op.n_out, step):
                dz[j] = dtype(formula(dz[j], kept[j]))

    return activation_backward


@cache
def update_one(name, real):
    """A function ``update(w, dw, state_bytes, hyper)`` that steps the parameter at address w.

    Its optimizer state s lies at ``w + (s + 1) * state_bytes``.
    """
    optimizer, dtype, size = OPTIMIZERS[name], REAL[real], REAL[real](0).itemsize
    formula, (load, store), (load_hyper, _) = (
        optimizer.update,
        column(1 + optimizer.states),
        column(optimizer.hypers),
    )

    @part
    def update(w, dw, state_bytes, hyper):
        numbers = load(w, state_bytes, dtype)
        store(w, state_bytes, formula(numbers[0], dw, *numbers[1:], load_hyper(hyper, size, dtype)))

    return update


def write_hyper(name, real):
    """A function ``prepare(settings, step, hyper)``: what the formula uses in a step, from its settings."""
    optimizer, dtype = OPTIMIZERS[name], REAL[real]
    formula, hypers, (load, _) = optimizer.prepare, optimizer.hypers, column(len(optimizer.settings))

    @part
    def prepare(settings, step, hyper):
        values, hyper = formula(load(settings, 8, np.float64), step), array(hyper, hypers, dtype)
        for i in range(hypers):
            hyper[i] = dtype(values[i])

    return prepare
