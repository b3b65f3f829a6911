"""Losses and their links, for the rows of the batch.

A loss reads the logits (op.y), leaves the gradient of the batch's mean loss with respect to them in op.dz,
and each row's own loss in ctx.row_losses. The 1/n of the mean is applied here and nowhere else.

Sixteen threads take a row, which makes the sixteen partial sums of ``cpu/loss.py`` (`rows`).
"""

import numpy as np

from fastbp.cuda.device import cuda
from fastbp.cuda.gather import data_row
from fastbp.cuda.program import REAL, context, operation
from fastbp.cuda.rows import LANES, ROWS, SHAPE, join_max, join_sum
from fastbp.cuda.simt import array, part
from fastbp.formulas import elementary
from fastbp.formulas.losses import (
    LOSSES,
    smoothed_target,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)


def elementwise_loss(name, real):
    """A loss that looks at one output at a time: targets (n, n_out), mean over rows and outputs."""
    loss, dtype, size = LOSSES[name], REAL[real], REAL[real](0).itemsize
    forward, backward, add_up = part(loss.forward), part(loss.backward), join_sum(real)

    def elementwise_loss(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        shared = cuda.shared.array(SHAPE, dtype)
        if ctx.halt != 0:
            return
        n, option = op.n_out, array(ctx.option, 1, dtype)[0]
        scale = dtype(1) / dtype(ctx.batch_rows * n)
        losses = array(ctx.row_losses, ctx.batch_rows, dtype)
        for block in range(cuda.blockIdx.x * ROWS, ctx.batch_rows, cuda.gridDim.x * ROWS):
            i, partial = block + cuda.threadIdx.y, dtype(0)
            if i < ctx.batch_rows:
                t = array(ctx.targets + data_row(ctx, i) * n * size, n, dtype)
                z, dz = array(op.y + i * op.z_row, n, dtype), array(op.dz + i * op.z_row, n, dtype)
                for j in range(cuda.threadIdx.x, n, LANES):
                    partial += dtype(forward(z[j], t[j], option))
                    dz[j] = scale * dtype(backward(z[j], t[j], option))
            total = add_up(shared, partial)
            if i < ctx.batch_rows and cuda.threadIdx.x == 0:
                losses[i] = total / dtype(n)

    return elementwise_loss


def softmax_loss(targets, real):
    """Softmax and cross-entropy; ``targets``: "classes" (n,) int64 or "probabilities" (n, n_out). Mean over
    rows.
    """
    dtype, add_up, exponentials = REAL[real], join_sum(real), _exponentials(real)
    target = _target(targets, real)
    is_class = targets == "classes"

    def softmax_loss(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        shared = cuda.shared.array(SHAPE, dtype)
        if ctx.halt != 0:
            return
        n, smoothing = op.n_out, array(ctx.option, 1, dtype)[0]
        scale = dtype(1) / dtype(ctx.batch_rows)
        losses = array(ctx.row_losses, ctx.batch_rows, dtype)
        for block in range(cuda.blockIdx.x * ROWS, ctx.batch_rows, cuda.gridDim.x * ROWS):
            i, partial = block + cuda.threadIdx.y, dtype(0)
            there = i < ctx.batch_rows
            row = data_row(ctx, i) if there else 0
            y = array(op.y + i * op.z_row, n if there else 0, dtype)
            dz = array(op.dz + i * op.z_row, n if there else 0, dtype)
            largest, total = exponentials(shared, cuda.threadIdx.x, y, dz)
            log_total = elementary.log(total)
            if there:
                for j in range(cuda.threadIdx.x, n, LANES):
                    t = target(ctx, row, n, j, smoothing)
                    term = softmax_cross_entropy(y[j] - largest, log_total, t)
                    if not is_class or smoothing != 0:
                        partial += term
                    elif t != 0:
                        losses[i] = term
                    dz[j] = scale * softmax_cross_entropy_backward(softmax(dz[j], total), t)
            if not is_class or smoothing != 0:
                loss = add_up(shared, partial)
                if there and cuda.threadIdx.x == 0:
                    losses[i] = loss

    return softmax_loss


def _target(targets, real):
    """A function for the target of output j: of a class, or as it is given; smoothed."""
    dtype, size = REAL[real], REAL[real](0).itemsize

    @part
    def of_class(ctx, row, n, j, smoothing):
        here = array(ctx.targets + 8 * row, 1, np.int64)[0] == j
        return smoothed_target(dtype(1) if here else dtype(0), smoothing, dtype(n))

    @part
    def given(ctx, row, n, j, smoothing):
        t = array(ctx.targets + row * n * size, n, dtype)
        return smoothed_target(t[j], smoothing, dtype(n))

    return of_class if targets == "classes" else given


def _exponentials(real):
    """A function that writes e^(y − largest) of a row, and finds the largest and the total."""
    dtype, largest_of, add_up = REAL[real], join_max(real), join_sum(real)
    nothing = dtype("-inf")

    @part
    def exponentials(shared, lane, y, e):
        largest, total, n = nothing, dtype(0), y.size
        for j in range(lane, n, LANES):
            largest = largest if y[j] <= largest else y[j]
        largest = largest_of(shared, largest)
        for j in range(lane, n, LANES):
            e[j] = elementary.exp(y[j] - largest)
            total += e[j]
        return largest, add_up(shared, total)

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

    def elementwise_link(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        for i in range(row, ctx.batch_rows, rows):
            y = array(op.y + i * op.z_row, op.n_out, dtype)
            out = array(ctx.outputs + (ctx.start + i) * op.n_out * size, op.n_out, dtype)
            for j in range(first, op.n_out, step):
                out[j] = dtype(link(y[j]))

    return elementwise_link


def copy_outputs(real):
    """The logits themselves to ctx.outputs (n, n_out)."""
    return elementwise_link("mean_squared_error", real)


def total_weight(real):
    """What a row of weight 1 counts in this batch: rows / Σ weights, at ctx.row_scale; no weight at all: 0.

    One thread adds up all weights in the order of the batch, in float64, as on the CPU.
    """
    dtype = REAL[real]

    def total_weight(op_address, ctx_address):
        ctx, total = context(ctx_address), 0.0
        weights = array(ctx.weights, ctx.n_rows, dtype)
        for i in range(ctx.batch_rows):
            total += np.float64(weights[data_row(ctx, i)])
        array(ctx.row_scale, 1, np.float64)[0] = ctx.batch_rows / total if total > 0.0 else 0.0

    return total_weight


def weigh_rows(real):
    """Multiply the loss of each row, and the row of dz, by what its weight makes of it."""
    dtype = REAL[real]

    def weigh_rows(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        one = array(ctx.row_scale, 1, np.float64)[0]
        weights, losses = array(ctx.weights, ctx.n_rows, dtype), array(ctx.row_losses, ctx.batch_rows, dtype)
        for i in range(row, ctx.batch_rows, rows):
            scale = dtype(np.float64(weights[data_row(ctx, i)]) * one)
            dz = array(op.dz + i * op.z_row, op.n_out, dtype)
            if first == 0:
                losses[i] *= scale
            for j in range(first, op.n_out, step):
                dz[j] *= scale

    return weigh_rows
