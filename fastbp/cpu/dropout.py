"""Dropout, in training only: y = x · m, dx = dy · m with random multipliers m.

A multiplier is a function of (seed, layer, epoch, step, row of the batch, column): neither threads nor blocks
nor vectors change it. The four words of draw number b of a row belong to columns b, q + b, 2q + b and 3q + b,
q a quarter of the columns, so that each goes to a run of its own.
"""

import numpy as np

from fastbp.cpu.native import array, part
from fastbp.cpu.records import REAL, kernel
from fastbp.formulas import dropout as formulas
from fastbp.formulas.random import philox


def dropout_forward(real):
    """y (rows, n) = x · m for the rows of a block; m is kept in z. op.numbers: threshold, scale."""
    dtype = REAL[real]

    @part
    def draw(quarter, seed, purpose, epoch, step, first, words):
        words, quarter = array(words, 4 * quarter, np.uint32), np.uint64(quarter)
        for b in range(quarter):
            w0, w1, w2, w3 = philox(seed, purpose, epoch, step, first + b)
            words[b] = np.uint32(w0)
            words[quarter + b] = np.uint32(w1)
            words[quarter + quarter + b] = np.uint32(w2)
            words[quarter + quarter + quarter + b] = np.uint32(w3)

    @part
    def one_row(n, words, x, m, y, threshold, scale):
        words, x = array(words, n, np.uint32), array(x, n, dtype)
        m, y = array(m, n, dtype), array(y, n, dtype)
        for j in range(n):
            each = formulas.dropout_multiplier(words[j], threshold, scale)
            m[j] = each
            y[j] = formulas.dropout(x[j], each)

    def dropout_forward(op, ctx):
        numbers, quarter = array(op.numbers, 2, np.float64), (op.n_out + 3) >> 2
        threshold, scale = np.uint32(numbers[0]), dtype(numbers[1])
        for i in range(ctx.rows):
            first = np.uint64((ctx.row + i) * quarter)
            draw(quarter, ctx.seed, op.purpose, ctx.epoch, ctx.step, first, ctx.scratch)
            at, x = (ctx.place + i) * op.z_row, op.x + (ctx.place + i) * op.x_row
            one_row(op.columns, ctx.scratch, x, op.z + at, op.y + at, threshold, scale)

    return kernel(dropout_forward)


def dropout_backward(real):
    """dx (rows, n) = dy · m for the rows of a block."""
    dtype = REAL[real]

    @part
    def one_row(n, dy, m, dx):
        dy, m, dx = array(dy, n, dtype), array(m, n, dtype), array(dx, n, dtype)
        for j in range(n):
            dx[j] = formulas.dropout_backward(dy[j], m[j])

    def dropout_backward(op, ctx):
        for i in range(ctx.rows):
            at = (ctx.place + i) * op.z_row
            one_row(op.columns, op.dz + at, op.z + at, op.dx + (ctx.place + i) * op.x_row)

    return kernel(dropout_backward)
