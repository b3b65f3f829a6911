"""Layer normalisation: each row by its own mean and deviation (``formulas/normalization.py``).

    forward    m, v = mean, variance of x (n,)     r = 1/√(v + ε)     x̂ = (x − m) · r     y = γ · x̂ + β
    backward   dx̂ = dy · γ        dx = r · (dx̂ − mean(dx̂) − x̂ · mean(dx̂ · x̂))

x̂ is kept in op.z, r of every row in op.kept. Sums along a row are made of sixteen partial sums
(`simd.sum16`), whatever the machine.
"""

import numpy as np

from fastbp.cpu.native import array, part
from fastbp.cpu.records import REAL, kernel
from fastbp.cpu.scale_shift import vector_bytes
from fastbp.cpu.simd import dot16, sum16
from fastbp.formulas import normalization as formulas


def layer_norm_forward(real):
    """y (rows, n) = γ · x̂ + β for the rows of a block."""
    dtype, size = REAL[real], REAL[real](0).itemsize
    add_up, dot, stride = sum16(real), dot16(real), vector_bytes(real)

    @part
    def subtract(n, x, mean, centred):
        x, centred = array(x, n, dtype), array(centred, n, dtype)
        for j in range(n):
            centred[j] = x[j] - mean

    @part
    def scale(n, centred, off, r, gamma, beta, y):
        normalized, y = array(centred, n, dtype), array(y, n, dtype)
        gamma, beta = array(gamma, n, dtype), array(beta, n, dtype)
        for j in range(n):
            each = formulas.normalize(normalized[j], off, r)
            normalized[j] = each
            y[j] = formulas.scale_and_shift(each, gamma[j], beta[j])

    def layer_norm_forward(op, ctx):
        n, epsilon = op.n_out, dtype(array(op.numbers, 1, np.float64)[0])
        kept, beta = array(op.kept + ctx.place * size, ctx.rows, dtype), op.w + stride(op)
        for i in range(ctx.rows):
            x, at = op.x + (ctx.place + i) * op.x_row, (ctx.place + i) * op.z_row
            centred, mean = op.z + at, add_up(x, n) / dtype(n)
            subtract(op.columns, x, mean, centred)
            off, mean_square = add_up(centred, n) / dtype(n), dot(centred, centred, n) / dtype(n)
            r = formulas.inverse_deviation(formulas.variance_about(mean_square, off), epsilon)
            kept[i] = r
            scale(op.columns, centred, off, r, op.w, beta, op.y + at)

    return kernel(layer_norm_forward)


def layer_norm_backward(real):
    """dx (rows, n) for the rows of a block."""
    dtype, size = REAL[real], REAL[real](0).itemsize
    add_up, dot = sum16(real), dot16(real)

    @part
    def multiply(n, dy, gamma, product):
        dy, gamma, product = array(dy, n, dtype), array(gamma, n, dtype), array(product, n, dtype)
        for j in range(n):
            product[j] = dy[j] * gamma[j]

    @part
    def subtract(n, d, normalized, mean_d, mean_product, r, dx):
        d, normalized, dx = array(d, n, dtype), array(normalized, n, dtype), array(dx, n, dtype)
        for j in range(n):
            dx[j] = formulas.normalize_backward(d[j], normalized[j], mean_d, mean_product, r)

    def layer_norm_backward(op, ctx):
        n, d, kept = op.n_out, ctx.scratch, array(op.kept + ctx.place * size, ctx.rows, dtype)
        for i in range(ctx.rows):
            at = (ctx.place + i) * op.z_row
            multiply(op.columns, op.dz + at, op.w, d)
            mean_d, mean_product = add_up(d, n) / dtype(n), dot(d, op.z + at, n) / dtype(n)
            dx = op.dx + (ctx.place + i) * op.x_row
            subtract(op.columns, d, op.z + at, mean_d, mean_product, kept[i], dx)

    return kernel(layer_norm_backward)
