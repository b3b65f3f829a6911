"""Batch normalisation: each column by its mean and deviation over the rows (``formulas/normalization.py``).

    forward    m, v = mean, variance over the batch     r = 1/√(v + ε)     x̂ = (x − m) · r     y = γ · x̂ + β
    backward   dx = r · γ · (dy − dβ/n − x̂ · dγ/n)            dγ = Σ dy · x̂, dβ = Σ dy over the n rows

A thread takes a column: one chain of additions for each, of partial sums over `ROWS` rows. m as it was
rounded, r and how far m is off lie in op.kept, x̂ in op.z, dγ and dβ at op.sums (`scale_shift`).

Outside training m and v are the running ones, constants:   dx = dy · γ · r.
"""

from fastbp.cuda.device import cuda
from fastbp.cuda.records import REAL, context, operation
from fastbp.cuda.rows import over_rows
from fastbp.cuda.scale_shift import gamma_beta
from fastbp.cuda.simt import array
from fastbp.formulas import normalization as formulas
from fastbp.formulas.normalization import ROWS


def batch_norm_statistics(real):
    """m, r and how far m is off, of every column over the batch; the running statistics follow.

    op.numbers: ε, momentum. Of one row there is no unbiased variance: the running statistics stay.
    """
    dtype, size = REAL[real], REAL[real](0).itemsize

    def batch_norm_statistics(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        j, n = cuda.grid(1), op.n_out
        if ctx.halt != 0 or j >= n:
            return
        numbers, rows = array(op.numbers, 2, dtype), dtype(ctx.batch_rows)
        mean, off, square = dtype(0), dtype(0), dtype(0)
        for first in range(0, ctx.batch_rows, ROWS):
            partial = dtype(0)
            for i in range(first, min(first + ROWS, ctx.batch_rows)):
                partial = partial + array(op.x + i * op.x_row, n, dtype)[j]
            mean = mean + partial
        mean = mean / rows
        for first in range(0, ctx.batch_rows, ROWS):
            partial, partial_square = dtype(0), dtype(0)
            for i in range(first, min(first + ROWS, ctx.batch_rows)):
                centred = array(op.x + i * op.x_row, n, dtype)[j] - mean
                partial = partial + centred
                partial_square = partial_square + centred * centred
            off, square = off + partial, square + partial_square
        off = off / rows
        v = formulas.variance_about(square / rows, off)
        kept = array(op.kept, 3 * n, dtype)
        kept[j], kept[n + j], kept[2 * n + j] = mean, formulas.inverse_deviation(v, numbers[0]), off
        if ctx.batch_rows > 1:
            running = array(op.w + (op.use_scale + op.use_bias) * n * size, 2 * n, dtype)
            unbiased = rows / dtype(ctx.batch_rows - 1)
            running[j] = formulas.follow(running[j], mean + off, numbers[1])
            running[n + j] = formulas.follow(running[n + j], v * unbiased, numbers[1])

    return batch_norm_statistics


def batch_norm_running(real):
    """m and r of all columns from the running mean and variance; m is not off."""
    dtype, size = REAL[real], REAL[real](0).itemsize

    def batch_norm_running(op_address, ctx_address):
        op = operation(op_address)
        j, n = cuda.grid(1), op.n_out
        if j < n:
            running = array(op.w + (op.use_scale + op.use_bias) * n * size, 2 * n, dtype)
            kept = array(op.kept, 3 * n, dtype)
            kept[j], kept[2 * n + j] = running[j], dtype(0)
            kept[n + j] = formulas.inverse_deviation(running[n + j], array(op.numbers, 1, dtype)[0])

    return batch_norm_running


def batch_norm_forward(real):
    """y (rows, n) = γ · x̂ + β for the rows of the batch."""
    dtype, parameters = REAL[real], gamma_beta(real)

    def batch_norm_forward(op, ctx, i, columns):
        n, at = op.n_out, i * op.z_row
        x, kept = array(op.x + i * op.x_row, n, dtype), array(op.kept, 3 * n, dtype)
        normalized, y = array(op.z + at, n, dtype), array(op.y + at, n, dtype)
        for j in columns:
            gamma, beta = parameters(op, j)
            normalized[j] = formulas.normalize(x[j] - kept[j], kept[2 * n + j], kept[n + j])
            y[j] = formulas.scale_and_shift(normalized[j], gamma, beta)

    return over_rows(batch_norm_forward)


def batch_norm_backward(real):
    """dx (rows, n) for the rows of the batch, where m and r are of this batch."""
    dtype, parameters = REAL[real], gamma_beta(real)

    def batch_norm_backward(op, ctx, i, columns):
        n, at, share = op.n_out, i * op.z_row, dtype(1) / dtype(ctx.batch_rows)
        kept, sums = array(op.kept, 2 * n, dtype), array(op.sums, 2 * n, dtype)
        dy, normalized = array(op.dz + at, n, dtype), array(op.z + at, n, dtype)
        dx = array(op.dx + i * op.x_row, n, dtype)
        for j in columns:
            gamma, _ = parameters(op, j)
            mean_d, mean_product = gamma * sums[n + j] * share, gamma * sums[j] * share
            d = dy[j] * gamma
            dx[j] = formulas.normalize_backward(d, normalized[j], mean_d, mean_product, kept[n + j])

    return over_rows(batch_norm_backward)


def batch_norm_backward_running(real):
    """dx (rows, n) = dy · γ · r for the rows of the batch, where m and r are constants."""
    dtype, parameters = REAL[real], gamma_beta(real)

    def batch_norm_backward_running(op, ctx, i, columns):
        n, kept = op.n_out, array(op.kept, 2 * op.n_out, dtype)
        dy, dx = array(op.dz + i * op.z_row, n, dtype), array(op.dx + i * op.x_row, n, dtype)
        for j in columns:
            dx[j] = dy[j] * parameters(op, j)[0] * kept[n + j]

    return over_rows(batch_norm_backward_running)
