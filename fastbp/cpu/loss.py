"""Losses and their links, for the rows of a block.

A loss reads the logits (op.y), leaves the gradient of the batch's mean loss with respect to them in op.dz,
and each row's own loss in ctx.row_losses. The 1/n of the mean is applied here and nowhere else.

Sums along a row are made of sixteen partial sums (`simd.sum16`), whatever the machine. Loops along a row of
logits run to a multiple of sixteen, where its memory ends, so that a short row is one vector. Code that
separates logits from the padding behind them compares int32, because a vector holds as many int32 as float32.
"""

import numpy as np
from numba import int32, int64

from fastbp.cpu.elementwise import copy_elements, runs_of_rows, whole_vectors
from fastbp.cpu.gather import data_row
from fastbp.cpu.native import array, part
from fastbp.cpu.records import REAL, kernel
from fastbp.cpu.simd import max16, sum16
from fastbp.formulas import elementary
from fastbp.formulas.losses import (
    LOSSES,
    smoothed_target,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    weighed,
)

# Outputs that an element-wise loss works on at a time: little enough for the first-level cache.
OUTPUTS_AT_ONCE = 1024


def elementwise_loss(name, real):
    """A loss that looks at one output at a time: targets (n, n_out), mean over rows and outputs.

    The targets of some rows are laid out as their outputs are, so that short rows make one long loop. What
    stands between the rows is treated as outputs with a target of 0; nobody reads what comes of it.
    """
    loss, dtype, size = LOSSES[name], REAL[real], REAL[real](0).itemsize
    forward, backward, add_up = loss.forward, loss.backward, sum16(real)
    copy, runs, whole = copy_elements(real), runs_of_rows(real), whole_vectors(real)

    @part
    def copy_targets(n, columns, source, t):
        copy(n, source, t)
        behind = array(t + n * size, columns - n, dtype)
        for j in range(columns - n):
            behind[j] = dtype(0)

    @part
    def add_up_fours(rows, terms, losses):
        """The means of four terms each, in the order of `add_up`."""
        terms, losses = array(terms, 4 * rows, dtype), array(losses, rows, dtype)
        for i in range(rows):
            even, odd = terms[4 * i] + terms[4 * i + 2], terms[4 * i + 1] + terms[4 * i + 3]
            losses[i] = (even + odd) / dtype(4)

    @part
    def one_run(n, z, t, dz, terms, scale, option):
        n = whole(n)
        z, t, dz, terms = array(z, n, dtype), array(t, n, dtype), array(dz, n, dtype), array(terms, n, dtype)
        for j in range(n):
            terms[j] = forward(z[j], t[j], option)
        for j in range(n):
            dz[j] = scale * backward(z[j], t[j], option)

    @part
    def one_output(op, ctx, losses, scale, option):
        for i in range(ctx.rows):
            at, t = (ctx.place + i) * op.z_row, ctx.targets + data_row(ctx, i) * size
            y_i, t_i = array(op.y + at, 1, dtype)[0], array(t, 1, dtype)[0]
            losses[i] = forward(y_i, t_i, option)
            array(op.dz + at, 1, dtype)[0] = scale * backward(y_i, t_i, option)

    @part
    def several_outputs(op, ctx, losses, scale, option):
        # scratch: targets (some rows, columns) | terms of the loss (some rows, columns)
        n, row_bytes, at_once = op.n_out, op.columns * size, max(1, OUTPUTS_AT_ONCE // op.columns)
        fours = n == 4 and op.columns == 4
        terms = ctx.scratch + whole(at_once * op.columns) * size
        for first in range(0, ctx.rows, at_once):
            rows = min(at_once, ctx.rows - first)
            for i in range(rows):
                source, t = ctx.targets + data_row(ctx, first + i) * n * size, ctx.scratch + i * row_bytes
                if fours:
                    copy(4, source, t)  # a known number is one instruction, not a loop
                else:
                    copy_targets(n, op.columns, source, t)
            pieces, length = runs(rows, op.columns, op.z_row)
            for i in range(pieces):
                at, here = (ctx.place + first + i) * op.z_row, i * row_bytes
                one_run(length, op.y + at, ctx.scratch + here, op.dz + at, terms + here, scale, option)
            if fours:
                add_up_fours(rows, terms, ctx.row_losses + (ctx.row + first) * size)
            else:
                for i in range(rows):
                    losses[first + i] = add_up(terms + i * row_bytes, n) / dtype(n)

    def elementwise_loss(op, ctx):
        option = dtype(array(ctx.option, 1, np.float64)[0])
        scale = dtype(1) / dtype(ctx.batch_rows * op.n_out)
        losses = array(ctx.row_losses + ctx.row * size, ctx.rows, dtype)
        if op.n_out == 1:
            one_output(op, ctx, losses, scale, option)
        else:
            several_outputs(op, ctx, losses, scale, option)

    return kernel(elementwise_loss)


def softmax_loss(targets, real):
    """Softmax and cross-entropy; ``targets``: "classes" (n,) int64 or "probabilities" (n, n_out). Mean over
    rows.

    Worked in passes over the block, so that the exponentials and logarithms of many rows overlap.
    """
    dtype, size = REAL[real], REAL[real](0).itemsize
    exponentials = _softmax_passes(real)
    one_row = (_against_class if targets == "classes" else _against_probabilities)(real)

    @part
    def logarithms(n, totals, logs):
        totals, logs = array(totals, n, dtype), array(logs, n, dtype)
        for i in range(n):
            logs[i] = elementary.log(totals[i])

    def softmax_loss(op, ctx):
        n, rows, wide = op.n_out, ctx.rows, _sixteens(op.n_out)
        # scratch: e (rows, wide) | largest, totals, logarithms of totals (rows each) | terms of a row (wide)
        largest_at = ctx.scratch + rows * wide * size
        totals_at = largest_at + rows * size
        logs_at = totals_at + rows * size
        terms = logs_at + rows * size
        y = op.y + ctx.place * op.z_row
        exponentials(rows, n, y, op.z_row, ctx.scratch, largest_at, totals_at)
        logarithms(rows, totals_at, logs_at)
        largest, totals = array(largest_at, rows, dtype), array(totals_at, rows, dtype)
        logs = array(logs_at, rows, dtype)
        losses = array(ctx.row_losses + ctx.row * size, rows, dtype)
        smoothing = dtype(array(ctx.option, 1, np.float64)[0])
        scale = dtype(1) / dtype(ctx.batch_rows)
        for i in range(rows):
            lines = y + i * op.z_row, ctx.scratch + i * wide * size, op.dz + (ctx.place + i) * op.z_row
            target = ctx.targets, data_row(ctx, i)
            losses[i] = one_row(n, lines, target, smoothing, scale, (largest[i], totals[i], logs[i]), terms)

    return kernel(softmax_loss)


def total_weight(real):
    """What a row of weight 1 counts in this batch: rows / Σ weights, in this thread's ctx.row_scale.

    The weighted mean of a batch is Σ wᵢ lᵢ / Σ wᵢ = 1/n Σ sᵢ lᵢ with sᵢ = wᵢ · n / Σ w, so the loss keeps
    its 1/n and `weigh_rows` multiplies by sᵢ, which is 1 where all weights are. Every thread adds up all
    weights, in the order of the batch: that costs less than to wait for each other. No weight at all: 0.
    """
    dtype, size = REAL[real], REAL[real](0).itemsize

    def total_weight(op, ctx):
        total = 0.0
        for i in range(ctx.rows):
            total += np.float64(array(ctx.weights + data_row(ctx, i) * size, 1, dtype)[0])
        array(ctx.row_scale, 1, np.float64)[0] = ctx.rows / total if total > 0.0 else 0.0

    return kernel(total_weight)


def weigh_rows(real):
    """Multiply the loss of each row of the block, and the row of dz, by what its weight makes of it.

    Exactly to the end of a row: the next one, which has a weight of its own, may lie in the same vector.
    """
    dtype, size = REAL[real], REAL[real](0).itemsize

    @part
    def multiply(n, dz, scale):
        dz = array(dz, n, dtype)
        for j in range(n):
            dz[j] = weighed(dz[j], scale)

    def weigh_rows(op, ctx):
        one = array(ctx.row_scale, 1, np.float64)[0]
        losses = array(ctx.row_losses + ctx.row * size, ctx.rows, dtype)
        for i in range(ctx.rows):
            weight = array(ctx.weights + data_row(ctx, i) * size, 1, dtype)[0]
            scale = dtype(np.float64(weight) * one)
            losses[i] = weighed(losses[i], scale)
            multiply(op.n_out, op.dz + (ctx.place + i) * op.z_row, scale)

    return kernel(weigh_rows)


def _against_class(real):
    """A function for one row: dz, loss against the distribution that a class and smoothing stand for."""
    dtype, add_up = REAL[real], sum16(real)

    @part
    def against_others(n, e, dz, total, off, scale):
        wide, n = _sixteens(n), int32(n)
        e, dz = array(e, wide, dtype), array(dz, wide, dtype)
        for j in range(wide):
            each = scale * softmax_cross_entropy_backward(softmax(e[j], total), off)
            dz[j] = each if int32(j) < n else dtype(0)

    @part
    def terms_of_others(n, y, largest, log_total, off, terms):
        y, each = array(y, n, dtype), array(terms, n, dtype)
        for j in range(n):
            each[j] = softmax_cross_entropy(y[j] - largest, log_total, off)

    @part
    def one_row(n, lines, target, smoothing, scale, found, terms):
        (y, e, dz), (targets, row), (largest, total, log_total) = lines, target, found
        label = array(targets + 8 * row, 1, int64)[0]
        # It was checked; but it lies in the caller's memory, and a callback may write there.
        known = 0 <= label < n
        label = label if known else 0
        off, on = (
            smoothed_target(dtype(0), smoothing, dtype(n)),
            smoothed_target(dtype(1), smoothing, dtype(n)),
        )
        p_label, s_label = softmax(array(e, n, dtype)[label], total), array(y, n, dtype)[label] - largest
        against_others(n, e, dz, total, off, scale)
        array(dz, n, dtype)[label] = scale * softmax_cross_entropy_backward(p_label, on)
        loss = softmax_cross_entropy(s_label, log_total, on)
        if smoothing != 0:
            terms_of_others(n, y, largest, log_total, off, terms)
            array(terms, n, dtype)[label] = loss
            loss = add_up(terms, n)
        return loss if known else dtype(np.nan)

    return one_row


def _against_probabilities(real):
    """A function for one row: dz and the loss against a given distribution."""
    dtype, size, add_up = REAL[real], REAL[real](0).itemsize, sum16(real)

    @part
    def one_row(n, lines, target, smoothing, scale, found, terms):
        (y, e, dz), (targets, row), (largest, total, log_total) = lines, target, found
        loss_terms(n, y, targets + row * n * size, smoothing, largest, log_total, terms)
        gradient(n, e, dz, total, targets + row * n * size, smoothing, scale)
        return add_up(terms, n)

    @part
    def loss_terms(n, y, t, smoothing, largest, log_total, terms):
        y, t, terms = array(y, n, dtype), array(t, n, dtype), array(terms, n, dtype)
        for j in range(n):
            terms[j] = softmax_cross_entropy(
                y[j] - largest, log_total, smoothed_target(t[j], smoothing, dtype(n))
            )

    @part
    def gradient(n, e, dz, total, t, smoothing, scale):
        e, dz, t = array(e, n, dtype), array(dz, n, dtype), array(t, n, dtype)
        for j in range(n):
            target = smoothed_target(t[j], smoothing, dtype(n))
            dz[j] = scale * softmax_cross_entropy_backward(softmax(e[j], total), target)

    return one_row


def _softmax_passes(real):
    """A function that turns rows of logits into exponentials; finds each row's largest and total."""
    dtype, size, add_up, largest_of = REAL[real], REAL[real](0).itemsize, sum16(real), max16(real)

    @part
    def subtract(n, y, e, largest):
        wide, n = _sixteens(n), int32(n)
        y, e = array(y, wide, dtype), array(e, wide, dtype)
        for j in range(wide):
            e[j] = y[j] - largest if int32(j) < n else dtype(0)

    @part
    def exponentiate(n, e):
        e = array(e, n, dtype)
        for j in range(n):
            e[j] = elementary.exp_nonpositive(e[j])

    @part
    def exponentials(rows, n, y, y_row, e, largest, totals):
        wide = _sixteens(n)
        largest, totals = array(largest, rows, dtype), array(totals, rows, dtype)
        for i in range(rows):
            largest[i] = largest_of(y + i * y_row, n)
            subtract(n, y + i * y_row, e + i * wide * size, largest[i])
        exponentiate(rows * wide, e)
        for i in range(rows):
            totals[i] = add_up(e + i * wide * size, n)

    return exponentials


def softmax_link(real):
    """Class probabilities to ctx.outputs (n, n_out)."""
    dtype, size = REAL[real], REAL[real](0).itemsize
    exponentials = _softmax_passes(real)

    @part
    def divide(n, e, total, out):
        e, out = array(e, n, dtype), array(out, n, dtype)
        for j in range(n):
            out[j] = softmax(e[j], total)

    @part
    def divide_sixteens(n, e, total, out):
        divide(_sixteens(n), e, total, out)

    def softmax_link(op, ctx):
        n, rows, wide = op.n_out, ctx.rows, _sixteens(op.n_out)
        largest = ctx.scratch + rows * wide * size
        totals_at = largest + rows * size
        exponentials(rows, n, op.y + ctx.place * op.z_row, op.z_row, ctx.scratch, largest, totals_at)
        totals, out = array(totals_at, rows, dtype), ctx.outputs + (ctx.start + ctx.row) * n * size
        # Whole sixteens, whose end the next row overwrites; the last rows have none behind them.
        last = max(0, rows - (wide - 1) // n)
        for i in range(last):
            divide_sixteens(n, ctx.scratch + i * wide * size, totals[i], out + i * n * size)
        for i in range(last, rows):
            divide(n, ctx.scratch + i * wide * size, totals[i], out + i * n * size)

    return kernel(softmax_link)


def elementwise_link(name, real):
    """The prediction: the loss's link of the logits, to ctx.outputs (n, n_out)."""
    dtype, size, link = REAL[real], REAL[real](0).itemsize, LOSSES[name].link

    @part
    def one_row(n, y, out):
        y, out = array(y, n, dtype), array(out, n, dtype)
        for j in range(n):
            out[j] = link(y[j])

    def elementwise_link(op, ctx):
        for i in range(ctx.rows):
            out = ctx.outputs + (ctx.start + ctx.row + i) * op.n_out * size
            one_row(op.n_out, op.y + (ctx.place + i) * op.z_row, out)

    return kernel(elementwise_link)


def copy_outputs(real):
    """The logits themselves to ctx.outputs (n, n_out)."""
    size, copy = REAL[real](0).itemsize, copy_elements(real)

    def copy_outputs(op, ctx):
        for i in range(ctx.rows):
            out = ctx.outputs + (ctx.start + ctx.row + i) * op.n_out * size
            copy(op.n_out, op.y + (ctx.place + i) * op.z_row, out)

    return kernel(copy_outputs)


@part
def _sixteens(n):
    return (n + 15) & -16
