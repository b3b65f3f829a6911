"""What a normalisation learns: y = γ · x̂ + β, one γ and one β for each column.

    dγ = Σ_rows dy · x̂        dβ = Σ_rows dy
    update     γ, β ← optimizer(γ, dγ), optimizer(β, dβ)

Clipping and noise are done to both as to any gradient (shaping.py); there are no penalties.

The parameters lie as on the host: γ | β | running mean | variance, those that there are; a γ that is not
learnt is 1, a β 0. op.z holds x̂, op.dz dy. A thread takes a column: each sum is one chain of partial sums
over `ROWS` rows of the batch, or of a chunk, in their order.
"""

from functools import cache

import numpy as np

from fastbp.cuda.device import cuda
from fastbp.cuda.elementwise import update_one
from fastbp.cuda.records import REAL, context, operation
from fastbp.cuda.shaping import bound_one, noise_one
from fastbp.cuda.simt import array, part
from fastbp.formulas.normalization import ROWS


@cache
def gamma_beta(real):
    """A function that tells γ and β of a column."""
    dtype, size = REAL[real], REAL[real](0).itemsize

    @part
    def gamma_beta(op, j):
        gamma = array(op.w, op.n_out, dtype)[j] if op.use_scale != 0 else dtype(1)
        beta_at = op.w + op.use_scale * op.n_out * size
        beta = array(beta_at, op.n_out, dtype)[j] if op.use_bias != 0 else dtype(0)
        return gamma, beta

    return gamma_beta


@part
def slots_in_use(ctx):
    """How many slots this step's rows fill."""
    return (ctx.batch_rows + ctx.chunk_rows - 1) // ctx.chunk_rows


def scale_shift_gradient(real):
    """dγ and dβ over the rows of each chunk, into its gradient slot: γ's, then β's.

    Chunks lie along x of the grid; one alone is the whole batch. The backward of a batch normalisation needs
    the sums over that, even where they are not learnt: they lie at op.sums too.
    """
    dtype, size = REAL[real], REAL[real](0).itemsize

    def scale_shift_gradient(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        j, chunk = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x, cuda.blockIdx.x
        first = chunk * ctx.chunk_rows
        if ctx.halt != 0 or j >= op.n_out or first >= ctx.batch_rows:
            return
        rows = ctx.batch_rows if cuda.gridDim.x == 1 else ctx.chunk_rows
        dgamma, dbeta, last = dtype(0), dtype(0), min(first + rows, ctx.batch_rows)
        for start in range(first, last, ROWS):
            some_dgamma, some_dbeta = dtype(0), dtype(0)
            for i in range(start, min(start + ROWS, last)):
                dy = array(op.dz + i * op.z_row, op.n_out, dtype)[j]
                some_dgamma = some_dgamma + dy * array(op.z + i * op.z_row, op.n_out, dtype)[j]
                some_dbeta = some_dbeta + dy
            dgamma, dbeta = dgamma + some_dgamma, dbeta + some_dbeta
        slot, n = op.slots + chunk * op.slot_bytes, op.n_out
        if op.use_scale != 0:
            array(slot, n, dtype)[j] = dgamma
        if op.use_bias != 0:
            array(slot + op.use_scale * n * size, n, dtype)[j] = dbeta
        if op.sums != 0:
            array(op.sums, n, dtype)[j] = dgamma
            array(op.sums + n * size, n, dtype)[j] = dbeta

    return scale_shift_gradient


def scale_shift_apply(optimizer, shaped, real):
    """The update of γ and β from gradient slots, added in the order of the chunks.

    Both are trained with the settings of biases. `shaped`: 1 where gradients are clipped or get noise first;
    γ and β of a column take the first two words of a block.
    """
    dtype, size, update = REAL[real], REAL[real](0).itemsize, update_one(optimizer, real)
    bound, add_noise = bound_one(real), noise_one(real)

    @part
    def shape(op, ctx, e, d):
        if op.collected != 0:
            d = d * array(ctx.shortening, 1, dtype)[0]
        else:
            d = bound(op, d)
        which = e // op.n_out if op.use_scale != 0 else 1
        return add_noise(op, ctx, e % op.n_out, which, d)

    def scale_shift_apply(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        n = (op.use_scale + op.use_bias) * op.n_out
        if ctx.halt != 0:
            return
        for e in range(cuda.grid(1), n, cuda.gridsize(1)):
            d = array(op.slots, n, dtype)[e]
            for slot in range(1, 1 if op.collected != 0 else slots_in_use(ctx)):
                d += array(op.slots + slot * op.slot_bytes, n, dtype)[e]
            if shaped:
                d = shape(op, ctx, e, d)
            update(op.w + e * size, d, op.state_bytes, op.bias_hyper)

    return scale_shift_apply


def scale_shift_collect(real):
    """The gradient slots all in the first, clipped by value; a thread takes a column.

    op.squares (n_out,): dγ² + dβ² of each column, of those that are learnt, in float64.
    """
    dtype, bound = REAL[real], bound_one(real)

    def scale_shift_collect(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        j, vectors, total = cuda.grid(1), op.use_scale + op.use_bias, 0.0
        if ctx.halt != 0 or j >= op.n_out:
            return
        for e in range(j, vectors * op.n_out, op.n_out):
            d = array(op.slots, vectors * op.n_out, dtype)[e]
            for slot in range(1, slots_in_use(ctx)):
                d += array(op.slots + slot * op.slot_bytes, vectors * op.n_out, dtype)[e]
            d = bound(op, d)
            array(op.slots, vectors * op.n_out, dtype)[e] = d
            total += np.float64(d) * np.float64(d)
        array(op.squares, op.n_out, np.float64)[j] = total

    return scale_shift_collect


def slots_total(real):
    """The gradient slots of all chunks, added in their order, into the first; op.n_in elements of each."""
    dtype = REAL[real]

    def slots_total(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        total = array(op.slots, op.n_in, dtype)
        for e in range(cuda.grid(1), op.n_in, cuda.gridsize(1)):
            for slot in range(1, slots_in_use(ctx)):
                total[e] += array(op.slots + slot * op.slot_bytes, op.n_in, dtype)[e]

    return slots_total
