"""Losses and their links, for the rows of a block.

A loss reads the logits (op.y), leaves the gradient of the batch's mean loss with respect to them in op.dz, and each row's own
loss in ctx.row_losses. The 1/n of the mean is applied here and nowhere else.
"""

import numpy as np
from numba import int64
from numba.extending import register_jitable

from fastbp.cpu.gather import data_row
from fastbp.cpu.program import REAL, kernel
from fastbp.cpu.simd import array, sum16
from fastbp.formulas import elementary
from fastbp.formulas.losses import LOSSES, smoothed_target, softmax_cross_entropy


@register_jitable
def softmax(e, total):
    return e / total


@register_jitable
def softmax_cross_entropy_backward(p, t):
    return p - t


def elementwise_loss(name, real):
    """A loss that looks at one output at a time: targets (n, n_out), mean over rows and outputs."""
    loss, dtype, size = LOSSES[name], REAL[real], REAL[real](0).itemsize
    forward, backward, add_up = register_jitable(loss.forward), register_jitable(loss.backward), sum16(real)

    @register_jitable
    def one_row(n, columns, z, t, dz, terms, scale, option):
        z, t, dz, terms = array(z, n, dtype), array(t, n, dtype), array(dz, columns, dtype), array(terms, n, dtype)
        for j in range(n):
            terms[j] = forward(z[j], t[j], option)
        for j in range(n):
            dz[j] = scale * backward(z[j], t[j], option)
        for j in range(n, columns):
            dz[j] = dtype(0)

    def elementwise_loss(op, ctx):
        n = op.n_out
        option = dtype(array(ctx.option, 1, np.float64)[0])
        scale = dtype(1) / dtype(ctx.batch_rows * n)
        losses = array(ctx.row_losses + ctx.row * size, ctx.rows, dtype)
        _clear(ctx.scratch, n, dtype)
        for i in range(ctx.rows):
            at = (ctx.slot + i) * op.z_row
            one_row(
                n, op.columns, op.y + at, ctx.targets + data_row(ctx, i) * n * size, op.dz + at, ctx.scratch, scale, option
            )
            losses[i] = add_up(ctx.scratch, n) / dtype(n)

    return kernel(elementwise_loss)


def softmax_loss(targets, real):
    """Softmax and cross-entropy; ``targets``: "classes" (n,) int64 or "probabilities" (n, n_out). Mean over rows.

    Worked in passes over the block, so that the exponentials and logarithms of many rows overlap.
    """
    dtype, size = REAL[real], REAL[real](0).itemsize
    shift, exponentials, logarithms, add_up = _softmax_passes(real)

    @register_jitable
    def gradient(n, dz, e, total, t, scale):
        """dz of one row; dz may hold s until then."""
        dz, e, t = array(dz, n, dtype), array(e, n, dtype), array(t, n, dtype)
        for j in range(n):
            dz[j] = scale * softmax_cross_entropy_backward(softmax(e[j], total), t[j])

    @register_jitable
    def value(n, s, log_total, t, terms):
        """The loss of one row."""
        s, t, each = array(s, n, dtype), array(t, n, dtype), array(terms, n, dtype)
        for j in range(n):
            each[j] = softmax_cross_entropy(s[j], log_total, t[j])
        _clear(terms, n, dtype)
        return add_up(terms, n)

    @register_jitable
    def fill_from_class(ctx, place, n, t, smoothing):
        """The row of targets that a class stands for."""
        label = array(ctx.targets + 8 * place, 1, int64)[0]
        t = array(t, n, dtype)
        for j in range(n):
            t[j] = smoothed_target(dtype(0), smoothing, dtype(n))
        t[label] = smoothed_target(dtype(1), smoothing, dtype(n))

    @register_jitable
    def fill_from_probabilities(ctx, place, n, t, smoothing):
        t, given = array(t, n, dtype), array(ctx.targets + place * n * size, n, dtype)
        for j in range(n):
            t[j] = smoothed_target(given[j], smoothing, dtype(n))

    fill = fill_from_class if targets == "classes" else fill_from_probabilities

    def softmax_loss(op, ctx):
        n = op.n_out
        wide = _sixteens(n)
        smoothing = dtype(array(ctx.option, 1, np.float64)[0])
        scale = dtype(1) / dtype(ctx.batch_rows)
        losses = array(ctx.row_losses + ctx.row * size, ctx.rows, dtype)
        # scratch: e (rows, wide) | totals (rows) | log totals (rows) | a row of targets | a row of terms
        e = ctx.scratch
        totals_at = e + ctx.rows * wide * size
        logs_at = totals_at + ctx.rows * size
        t = logs_at + ctx.rows * size
        terms = t + n * size
        totals, logs = array(totals_at, ctx.rows, dtype), array(logs_at, ctx.rows, dtype)
        for i in range(ctx.rows):
            at = (ctx.slot + i) * op.z_row
            shift(n, op.columns, op.y + at, op.dz + at)
        for i in range(ctx.rows):
            exponentials(n, wide, op.dz + (ctx.slot + i) * op.z_row, e + i * wide * size)
        for i in range(ctx.rows):
            totals[i] = add_up(e + i * wide * size, n)
        logarithms(ctx.rows, totals_at, logs_at)
        for i in range(ctx.rows):
            dz = op.dz + (ctx.slot + i) * op.z_row
            fill(ctx, data_row(ctx, i), n, t, smoothing)
            losses[i] = value(n, dz, logs[i], t, terms)
            gradient(n, dz, e + i * wide * size, totals[i], t, scale)

    return kernel(softmax_loss)


def _softmax_passes(real):
    """The four passes that turn rows of logits into exponentials, their totals and the totals' logarithms."""
    dtype = REAL[real]

    @register_jitable
    def shift(n, columns, z, s):
        z, s = array(z, n, dtype), array(s, columns, dtype)
        largest = z[0]
        for j in range(1, n):
            largest = z[j] if z[j] > largest else largest
        for j in range(n):
            s[j] = z[j] - largest
        for j in range(n, columns):
            s[j] = dtype(0)

    @register_jitable
    def exponentials(n, wide, s, e):
        s, e = array(s, n, dtype), array(e, wide, dtype)
        for j in range(n):
            e[j] = elementary.exp(s[j])
        for j in range(n, wide):
            e[j] = dtype(0)

    @register_jitable
    def logarithms(n, totals, logs):
        totals, logs = array(totals, n, dtype), array(logs, n, dtype)
        for i in range(n):
            logs[i] = elementary.log(totals[i])

    return shift, exponentials, logarithms, sum16(real)


def elementwise_link(name, real):
    """The prediction: the loss's link of the logits, to ctx.outputs (n, n_out)."""
    dtype, size, link = REAL[real], REAL[real](0).itemsize, register_jitable(LOSSES[name].link)

    @register_jitable
    def one_row(n, y, out):
        y, out = array(y, n, dtype), array(out, n, dtype)
        for j in range(n):
            out[j] = link(y[j])

    def elementwise_link(op, ctx):
        for i in range(ctx.rows):
            out = ctx.outputs + (ctx.start + ctx.row + i) * op.n_out * size
            one_row(op.n_out, op.y + (ctx.slot + i) * op.z_row, out)

    return kernel(elementwise_link)


def softmax_link(real):
    """Class probabilities to ctx.outputs (n, n_out); the logits are overwritten."""
    dtype, size = REAL[real], REAL[real](0).itemsize
    shift, exponentials, _, add_up = _softmax_passes(real)

    @register_jitable
    def divide(n, e, total, out):
        e, out = array(e, n, dtype), array(out, n, dtype)
        for j in range(n):
            out[j] = softmax(e[j], total)

    def softmax_link(op, ctx):
        n, e = op.n_out, ctx.scratch
        for i in range(ctx.rows):
            y = op.y + (ctx.slot + i) * op.z_row
            shift(n, op.columns, y, y)
            exponentials(n, _sixteens(n), y, e)
            out = ctx.outputs + (ctx.start + ctx.row + i) * n * size
            divide(n, e, add_up(e, n), out)

    return kernel(softmax_link)


def copy_outputs(real):
    """The logits themselves to ctx.outputs (n, n_out)."""
    dtype, size = REAL[real], REAL[real](0).itemsize

    @register_jitable
    def one_row(n, y, out):
        y, out = array(y, n, dtype), array(out, n, dtype)
        for j in range(n):
            out[j] = y[j]

    def copy_outputs(op, ctx):
        for i in range(ctx.rows):
            out = ctx.outputs + (ctx.start + ctx.row + i) * op.n_out * size
            one_row(op.n_out, op.y + (ctx.slot + i) * op.z_row, out)

    return kernel(copy_outputs)


@register_jitable
def _sixteens(n):
    return (n + 15) // 16 * 16


@register_jitable
def _clear(address, n, dtype):
    """Zeros behind n elements, up to a multiple of 16, for `sum16`."""
    elements = array(address, _sixteens(n), dtype)
    for j in range(n, _sixteens(n)):
        elements[j] = dtype(0)
