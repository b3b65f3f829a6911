"""Batch normalisation: each column by its mean and deviation over the rows (``formulas/normalization.py``).

    forward    m, v = mean, variance over the batch     r = 1/√(v + ε)     x̂ = (x − m) · r     y = γ · x̂ + β
    backward   dx = r · γ · (dy − dβ/n − x̂ · dγ/n)            dγ = Σ dy · x̂, dβ = Σ dy over the n rows

The sums need all rows, so barriers stand around them, and each thread takes columns of its own: one chain of
additions for each column, of partial sums over `ROWS` rows. m as it was rounded, r and how far m is off lie
in op.kept, x̂ in op.z, dγ and dβ in the gradient slot.

Outside training m and v are the running ones, constants:   dx = dy · γ · r.
"""

import numpy as np

from fastbp.cpu.native import array, part
from fastbp.cpu.records import REAL, kernel
from fastbp.cpu.scale_shift import vector_bytes
from fastbp.formulas import normalization as formulas
from fastbp.formulas.normalization import ROWS


def batch_norm_statistics(real):
    """m, r and how far m is off, of a thread's columns over the batch; the running statistics follow.

    op.numbers: ε, momentum. Of one row there is no unbiased variance: the running statistics stay.
    """
    dtype, size, stride = REAL[real], REAL[real](0).itemsize, vector_bytes(real)
    means, centred_means = _means(real)

    @part
    def variances(n, off, mean_square):
        off, v = array(off, n, dtype), array(mean_square, n, dtype)
        for j in range(n):
            v[j] = formulas.variance_about(v[j], off[j])

    @part
    def follow(n, mean, off, v, unbiased, running_mean, running_variance, momentum):
        mean, off, v = array(mean, n, dtype), array(off, n, dtype), array(v, n, dtype)
        running_mean, running_variance = array(running_mean, n, dtype), array(running_variance, n, dtype)
        for j in range(n):
            running_mean[j] = formulas.follow(running_mean[j], mean[j] + off[j], momentum)
            running_variance[j] = formulas.follow(running_variance[j], v[j] * unbiased, momentum)

    @part
    def invert(n, epsilon, r):
        r = array(r, n, dtype)
        for j in range(n):
            r[j] = formulas.inverse_deviation(r[j], epsilon)

    def batch_norm_statistics(op, ctx):
        numbers, n = array(op.numbers, 2, np.float64), op.last_column - op.first_column
        epsilon, momentum, step = dtype(numbers[0]), dtype(numbers[1]), stride(op)
        x, mean = op.x + op.first_column * size, op.kept + op.first_column * size
        r, off, running = mean + step, mean + 2 * step, op.w + 2 * step + op.first_column * size
        means(op, ctx, n, x, mean)
        centred_means(op, ctx, n, x, mean, off, r)
        variances(n, off, r)
        if ctx.rows > 1:
            unbiased = dtype(ctx.rows) / dtype(ctx.rows - 1)
            follow(n, mean, off, r, unbiased, running, running + step, momentum)
        invert(n, epsilon, r)

    return kernel(batch_norm_statistics)


def _means(real):
    """Functions that write means over the rows, of n columns at x: of x; of x − mean and of its squares."""
    dtype, stride = REAL[real], vector_bytes(real)

    @part
    def clear(n, total):
        total = array(total, n, dtype)
        for j in range(n):
            total[j] = dtype(0)

    @part
    def add(n, x, total):
        x, total = array(x, n, dtype), array(total, n, dtype)
        for j in range(n):
            total[j] = total[j] + x[j]

    @part
    def add_centred(n, x, mean, total, squares):
        x, mean = array(x, n, dtype), array(mean, n, dtype)
        total, squares = array(total, n, dtype), array(squares, n, dtype)
        for j in range(n):
            centred = x[j] - mean[j]
            total[j] = total[j] + centred
            squares[j] = squares[j] + centred * centred

    @part
    def divide(n, rows, total):
        total, rows = array(total, n, dtype), dtype(rows)
        for j in range(n):
            total[j] = total[j] / rows

    @part
    def means(op, ctx, n, x, total):
        some, first = ctx.scratch, 0
        clear(n, total)
        while first < ctx.rows:
            clear(n, some)
            for i in range(first, min(first + ROWS, ctx.rows)):
                add(n, x + i * op.x_row, some)
            add(n, some, total)
            first += ROWS
        divide(n, ctx.rows, total)

    @part
    def centred_means(op, ctx, n, x, mean, total, squares):
        some, some_squares, first = ctx.scratch, ctx.scratch + stride(op), 0
        clear(n, total)
        clear(n, squares)
        while first < ctx.rows:
            clear(n, some)
            clear(n, some_squares)
            for i in range(first, min(first + ROWS, ctx.rows)):
                add_centred(n, x + i * op.x_row, mean, some, some_squares)
            add(n, some, total)
            add(n, some_squares, squares)
            first += ROWS
        divide(n, ctx.rows, total)
        divide(n, ctx.rows, squares)

    return means, centred_means


def batch_norm_running(real):
    """m and r of all columns from the running mean and variance; m is not off."""
    dtype, stride = REAL[real], vector_bytes(real)

    @part
    def take(n, running_mean, running_variance, epsilon, kept, step):
        running_mean, running_variance = array(running_mean, n, dtype), array(running_variance, n, dtype)
        mean, r, off = array(kept, n, dtype), array(kept + step, n, dtype), array(kept + 2 * step, n, dtype)
        for j in range(n):
            mean[j], off[j] = running_mean[j], dtype(0)
            r[j] = formulas.inverse_deviation(running_variance[j], epsilon)

    def batch_norm_running(op, ctx):
        epsilon, step = dtype(array(op.numbers, 1, np.float64)[0]), stride(op)
        take(op.columns, op.w + 2 * step, op.w + 3 * step, epsilon, op.kept, step)

    return kernel(batch_norm_running)


def batch_norm_forward(real):
    """y (rows, n) = γ · x̂ + β for the rows of a block."""
    dtype, stride = REAL[real], vector_bytes(real)

    @part
    def one_row(n, x, kept, step, normalized, parameters, y):
        x, normalized, y = array(x, n, dtype), array(normalized, n, dtype), array(y, n, dtype)
        mean, r, off = array(kept, n, dtype), array(kept + step, n, dtype), array(kept + 2 * step, n, dtype)
        gamma, beta = array(parameters, n, dtype), array(parameters + step, n, dtype)
        for j in range(n):
            each = formulas.normalize(x[j] - mean[j], off[j], r[j])
            normalized[j] = each
            y[j] = formulas.scale_and_shift(each, gamma[j], beta[j])

    def batch_norm_forward(op, ctx):
        step = stride(op)
        for i in range(ctx.rows):
            x, at = op.x + (ctx.place + i) * op.x_row, (ctx.place + i) * op.z_row
            one_row(op.columns, x, op.kept, step, op.z + at, op.w, op.y + at)

    return kernel(batch_norm_forward)


def batch_norm_backward(real):
    """dx (rows, n) for the rows of a block, where m and r are of this batch."""
    dtype, stride = REAL[real], vector_bytes(real)

    @part
    def one_row(n, dy, normalized, r, gamma, sums, step, share, dx):
        dy, normalized, dx = array(dy, n, dtype), array(normalized, n, dtype), array(dx, n, dtype)
        r, gamma = array(r, n, dtype), array(gamma, n, dtype)
        dgamma, dbeta = array(sums, n, dtype), array(sums + step, n, dtype)
        for j in range(n):
            mean_d, mean_product = gamma[j] * dbeta[j] * share, gamma[j] * dgamma[j] * share
            d = dy[j] * gamma[j]
            dx[j] = formulas.normalize_backward(d, normalized[j], mean_d, mean_product, r[j])

    def batch_norm_backward(op, ctx):
        step, share = stride(op), dtype(1) / dtype(ctx.batch_rows)
        for i in range(ctx.rows):
            dx, at = op.dx + (ctx.place + i) * op.x_row, (ctx.place + i) * op.z_row
            one_row(op.columns, op.dz + at, op.z + at, op.kept + step, op.w, op.slots, step, share, dx)

    return kernel(batch_norm_backward)


def batch_norm_backward_running(real):
    """dx (rows, n) = dy · γ · r for the rows of a block, where m and r are constants."""
    dtype, stride = REAL[real], vector_bytes(real)

    @part
    def one_row(n, dy, gamma, r, dx):
        dy, dx = array(dy, n, dtype), array(dx, n, dtype)
        gamma, r = array(gamma, n, dtype), array(r, n, dtype)
        for j in range(n):
            dx[j] = dy[j] * gamma[j] * r[j]

    def batch_norm_backward_running(op, ctx):
        for i in range(ctx.rows):
            dx, at = op.dx + (ctx.place + i) * op.x_row, (ctx.place + i) * op.z_row
            one_row(op.columns, op.dz + at, op.w, op.kept + stride(op), dx)

    return kernel(batch_norm_backward_running)
