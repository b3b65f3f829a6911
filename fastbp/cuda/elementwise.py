"""Loops over formulas: the backward of activations, and the update of a parameter.

Dense layers apply their activation themselves, and where they can the backward of the one before (`dense`).
"""

from functools import cache

import numpy as np

from fastbp.cuda.records import REAL
from fastbp.cuda.rows import over_rows
from fastbp.cuda.simt import array, column, part
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.optimizers import OPTIMIZERS


def activation_backward(name, real):
    """dz = dy · f'(z), in place, for the rows of the batch."""
    activation, dtype = ACTIVATIONS[name], REAL[real]
    formula, keeps_y = part(activation.backward), activation.keeps == "y"

    def activation_backward(op, ctx, i, columns):
        n, at = op.n_out, i * op.z_row
        dz, kept = array(op.dz + at, n, dtype), array((op.y if keeps_y else op.z) + at, n, dtype)
        for j in columns:
            dz[j] = dtype(formula(dz[j], kept[j]))

    return over_rows(activation_backward)


def hand_back(real):
    """dx (rows, n) = dz for the rows of the batch, of layers that hand their gradient on as it is."""
    dtype = REAL[real]

    def hand_back(op, ctx, i, columns):
        n = op.n_out
        dz, dx = array(op.dz + i * op.z_row, n, dtype), array(op.dx + i * op.x_row, n, dtype)
        for j in columns:
            dx[j] = dz[j]

    return over_rows(hand_back)


@cache
def update_one(name, real):
    """A function ``update(w, dw, state_bytes, hyper)`` that steps the parameter at address w.

    Its optimizer state s lies at ``w + (s + 1) * state_bytes``.
    """
    optimizer, dtype, size = OPTIMIZERS[name], REAL[real], REAL[real](0).itemsize
    formula, (load, store) = optimizer.update, column(1 + optimizer.states)
    load_hyper, _ = column(optimizer.hypers)

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
