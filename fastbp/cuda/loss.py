"""Losses and their links, for the rows of the batch.

A loss reads the logits (op.y), leaves the gradient of the batch's mean loss with respect to them in op.dz,
and each row's own loss in ctx.row_losses. The 1/n of the mean is applied here and nowhere else.

Sixteen threads take a row, which makes the sixteen partial sums of ``cpu/loss.py`` (`rows`).
"""

import numpy as np

from fastbp.cuda.device import cuda
from fastbp.cuda.gather import data_row
from fastbp.cuda.records import REAL, context, operation
from fastbp.cuda.rows import LANES, ROWS, SHAPE, join_max, join_sum, over_rows
from fastbp.cuda.simt import array, part
from fastbp.formulas import elementary
from fastbp.formulas.losses import (
    LOSSES,
    smoothed_target,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    weighed,
)


def elementwise_loss(name, real):
    """A loss that looks at one output at a time: targets (n, n_out), mean over rows and outputs."""
    return _loss(elementwise_row(name, real), True, real)


def softmax_loss(targets, real):
    """Softmax and cross-entropy; ``targets``: "classes" (n,) int64 or "probabilities" (n, n_out). Mean over
    rows.
    """
    return _loss(softmax_row(targets, real), False, real)


def _loss(row_loss, over_outputs, real):
    """The kernel that takes the loss of each row."""
    dtype = REAL[real]

    def loss(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        shared = cuda.shared.array(SHAPE, dtype)
        if ctx.halt != 0:
            return
        n, option = op.n_out, array(ctx.option, 1, dtype)[0]
        scale = dtype(1) / dtype(ctx.batch_rows * n if over_outputs else ctx.batch_rows)
        losses = array(ctx.row_losses, ctx.batch_rows, dtype)
        for block in range(cuda.blockIdx.x * ROWS, ctx.batch_rows, cuda.gridDim.x * ROWS):
            i = block + cuda.threadIdx.y
            there = i < ctx.batch_rows
            target = ctx.targets, (data_row(ctx, i) if there else 0)
            y = array(op.y + i * op.z_row, n if there else 0, dtype)
            dz = array(op.dz + i * op.z_row, n if there else 0, dtype)
            found = row_loss(shared, cuda.threadIdx.x, target, n, y, dz, option, scale)
            if there and cuda.threadIdx.x == 0:
                losses[i] = found

    return loss


def elementwise_row(name, real):
    """A function ``loss(shared, lane, target, n, y, dz, option, scale)`` for one row of n logits y.

    Sixteen threads call it, of which `lane` tells one; target: address of all targets, and which row. Where
    there is no row, y and dz are empty. Writes dz, returns the row's loss.
    """
    dtype, size = REAL[real], REAL[real](0).itemsize
    forward, backward = part(LOSSES[name].forward), part(LOSSES[name].backward)

    @part
    def elementwise_row(shared, lane, target, n, y, dz, option, scale):
        t, partial = array(target[0] + target[1] * n * size, y.size, dtype), dtype(0)
        for j in range(lane, y.size, LANES):
            partial += dtype(forward(y[j], t[j], option))
            dz[j] = scale * dtype(backward(y[j], t[j], option))
        return join_sum(shared, partial) / dtype(n)

    return elementwise_row


def softmax_row(targets, real):
    """The same for softmax and cross-entropy; the option is the smoothing of the targets."""
    dtype, exponentials = REAL[real], _exponentials(real)
    target_of, is_class = _target(targets, real), targets == "classes"

    @part
    def softmax_row(shared, lane, target, n, y, dz, smoothing, scale):
        largest, total = exponentials(shared, lane, y, dz)
        log_total, partial = elementary.log(total), dtype(0)
        for j in range(lane, y.size, LANES):
            t = target_of(target, n, j, smoothing)
            if t != 0 or not is_class:
                partial += softmax_cross_entropy(y[j] - largest, log_total, t)
            dz[j] = scale * softmax_cross_entropy_backward(softmax(dz[j], total), t)
        return join_sum(shared, partial)

    return softmax_row


def _target(targets, real):
    """A function for the target of output j: of a class, or as it is given; smoothed."""
    dtype, size = REAL[real], REAL[real](0).itemsize

    @part
    def of_class(target, n, j, smoothing):
        here = array(target[0] + 8 * target[1], 1, np.int64)[0] == j
        return smoothed_target(dtype(1) if here else dtype(0), smoothing, dtype(n))

    @part
    def given(target, n, j, smoothing):
        t = array(target[0] + target[1] * n * size, n, dtype)
        return smoothed_target(t[j], smoothing, dtype(n))

    return of_class if targets == "classes" else given


def _exponentials(real):
    """A function that writes e^(y − largest) of a row, and finds the largest and the total."""
    dtype = REAL[real]
    nothing = dtype("-inf")

    @part
    def exponentials(shared, lane, y, e):
        largest, total, n = nothing, dtype(0), y.size
        for j in range(lane, n, LANES):
            largest = largest if y[j] <= largest else y[j]
        largest = join_max(shared, largest)
        for j in range(lane, n, LANES):
            e[j] = elementary.exp_nonpositive(y[j] - largest)
            total += e[j]
        return largest, join_sum(shared, total)

    return exponentials


def softmax_link(real):
    """Class probabilities to ctx.outputs (n, n_out)."""
    dtype, size, exponentials = REAL[real], REAL[real](0).itemsize, _exponentials(real)

    def softmax_link(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        shared = cuda.shared.array(SHAPE, dtype)
        n = op.n_out
        for block in range(cuda.blockIdx.x * ROWS, ctx.batch_rows, cuda.gridDim.x * ROWS):
            i = block + cuda.threadIdx.y
            there = i < ctx.batch_rows
            y = array(op.y + i * op.z_row, n if there else 0, dtype)
            out = array(ctx.outputs + (ctx.start + i) * n * size, n if there else 0, dtype)
            _, total = exponentials(shared, cuda.threadIdx.x, y, out)
            for j in range(cuda.threadIdx.x, out.size, LANES):
                out[j] = softmax(out[j], total)

    return softmax_link


def elementwise_link(name, real):
    """The prediction: the loss's link of the logits, to ctx.outputs (n, n_out)."""
    dtype, size, link = REAL[real], REAL[real](0).itemsize, part(LOSSES[name].link)

    def elementwise_link(op, ctx, i, columns):
        n, place = op.n_out, ctx.start + i
        y, out = array(op.y + i * op.z_row, n, dtype), array(ctx.outputs + place * n * size, n, dtype)
        for j in columns:
            out[j] = dtype(link(y[j]))

    return over_rows(elementwise_link)


def copy_outputs(real):
    """The logits themselves to ctx.outputs (n, n_out)."""
    return elementwise_link("mean_squared_error", real)


def total_weight(real):
    """What a row of weight 1 counts in this batch: rows / Σ weights, at ctx.row_scale; no weight at all: 0.

    One thread adds up all weights in the order of the batch, in float64, as on the CPU. Where losses go on
    from batch to batch, all rows are one, and the first batch finds it.
    """
    dtype = REAL[real]

    def total_weight(op_address, ctx_address):
        ctx, total = context(ctx_address), 0.0
        if ctx.continues != 0 and ctx.start > 0:
            return
        weights, rows = array(ctx.weights, ctx.n_rows, dtype), ctx.batch_rows
        if ctx.continues != 0:
            rows = ctx.n_rows
        for i in range(rows):
            total += np.float64(weights[data_row(ctx, i)])
        array(ctx.row_scale, 1, np.float64)[0] = rows / total if total > 0.0 else 0.0

    return total_weight


def weigh_rows(real):
    """Multiply the loss of each row, and the row of dz, by what its weight makes of it."""
    dtype = REAL[real]

    def weigh_rows(op, ctx, i, columns):
        weights, losses = array(ctx.weights, ctx.n_rows, dtype), array(ctx.row_losses, ctx.batch_rows, dtype)
        one, dz = array(ctx.row_scale, 1, np.float64)[0], array(op.dz + i * op.z_row, op.n_out, dtype)
        scale = dtype(np.float64(weights[data_row(ctx, i)]) * one)
        for j in columns:
            dz[j] = weighed(dz[j], scale)
            if j == 0:
                losses[i] = weighed(losses[i], scale)

    return over_rows(weigh_rows)
