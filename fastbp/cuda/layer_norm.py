"""Layer normalisation: each row by its own mean and deviation (``formulas/normalization.py``).

    forward    m, v = mean, variance of x (n,)     r = 1/√(v + ε)     x̂ = (x − m) · r     y = γ · x̂ + β
    backward   dx̂ = dy · γ        dx = r · (dx̂ − mean(dx̂) − x̂ · mean(dx̂ · x̂))

x̂ is kept in op.z, r of every row in op.kept. Sixteen threads take a row (`rows`).
"""

from fastbp.cuda.device import cuda
from fastbp.cuda.records import REAL, context, operation
from fastbp.cuda.rows import LANES, ROWS, SHAPE, join_sum
from fastbp.cuda.scale_shift import gamma_beta
from fastbp.cuda.simt import array
from fastbp.formulas import normalization as formulas


def layer_norm_forward(real):
    """y (rows, n) = γ · x̂ + β for the rows of the batch."""
    dtype, parameters = REAL[real], gamma_beta(real)

    def layer_norm_forward(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        shared = cuda.shared.array(SHAPE, dtype)
        if ctx.halt != 0:
            return
        epsilon, lane = array(op.numbers, 1, dtype)[0], cuda.threadIdx.x
        for block in range(cuda.blockIdx.x * ROWS, ctx.batch_rows, cuda.gridDim.x * ROWS):
            i = block + cuda.threadIdx.y
            n = op.n_out if i < ctx.batch_rows else 0
            x, y = array(op.x + i * op.x_row, n, dtype), array(op.y + i * op.z_row, n, dtype)
            total, rest, squares = dtype(0), dtype(0), dtype(0)
            for j in range(lane, n, LANES):
                total += x[j]
            mean = join_sum(shared, total) / dtype(op.n_out)
            for j in range(lane, n, LANES):
                centred = x[j] - mean
                rest += centred
                squares += centred * centred
            off = join_sum(shared, rest) / dtype(op.n_out)
            variance = formulas.variance_about(join_sum(shared, squares) / dtype(op.n_out), off)
            r = formulas.inverse_deviation(variance, epsilon)
            normalized = array(op.z + i * op.z_row, n, dtype)
            for j in range(lane, n, LANES):
                gamma, beta = parameters(op, j)
                normalized[j] = formulas.normalize(x[j] - mean, off, r)
                y[j] = formulas.scale_and_shift(normalized[j], gamma, beta)
            if n > 0 and lane == 0:
                array(op.kept, ctx.batch_rows, dtype)[i] = r

    return layer_norm_forward


def layer_norm_backward(real):
    """dx (rows, n) for the rows of the batch."""
    dtype, parameters = REAL[real], gamma_beta(real)

    def layer_norm_backward(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        shared = cuda.shared.array(SHAPE, dtype)
        if ctx.halt != 0:
            return
        lane = cuda.threadIdx.x
        for block in range(cuda.blockIdx.x * ROWS, ctx.batch_rows, cuda.gridDim.x * ROWS):
            i = block + cuda.threadIdx.y
            n = op.n_out if i < ctx.batch_rows else 0
            dy, dx = array(op.dz + i * op.z_row, n, dtype), array(op.dx + i * op.x_row, n, dtype)
            normalized, total, products = array(op.z + i * op.z_row, n, dtype), dtype(0), dtype(0)
            for j in range(lane, n, LANES):
                d = dy[j] * parameters(op, j)[0]
                total += d
                products += d * normalized[j]
            mean_d = join_sum(shared, total) / dtype(op.n_out)
            mean_product = join_sum(shared, products) / dtype(op.n_out)
            r = array(op.kept, ctx.batch_rows, dtype)[i] if n > 0 else dtype(0)
            for j in range(lane, n, LANES):
                d = dy[j] * parameters(op, j)[0]
                dx[j] = formulas.normalize_backward(d, normalized[j], mean_d, mean_product, r)

    return layer_norm_backward
