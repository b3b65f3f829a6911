"""The dense layer: z = x · W + b.

    forward    z  = x · W + b
    backward   dx = dz · Wᵀ          dW = xᵀ · dz          db = Σ_rows dz = 1ᵀ · dz
    update     W, b ← optimizer(W, dW), optimizer(b, db)

W and b lie as on the host: b is one row more of W, and the gradient of both is one product whose A has one
more row, of ones. Activations are applied to the tile of the product while it is in registers.
"""

import numpy as np

from fastbp.cuda.device import cuda
from fastbp.cuda.elementwise import update_one
from fastbp.cuda.gemm import finish, four_numbers, product, start, tile_named
from fastbp.cuda.records import REAL, context, operation
from fastbp.cuda.scale_shift import slots_in_use
from fastbp.cuda.shaping import MOST, SHAPE, SHAPE64, before_norm_one, shape_one
from fastbp.cuda.simt import array, load4, part, store4
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.shaping import renorm_factor


def dense_forward(activation, tile, real):
    """y (rows, n_out) = f(x (rows, n_in) · W + b) for the rows of the batch; z too where that is kept."""
    tile, dtype, size = tile_named(tile, real), REAL[real], REAL[real](0).itemsize
    accumulate, numbers = product(real, tile, True, False), four_numbers(real)
    keeps_z, formula = ACTIVATIONS[activation].keeps == "z", part(ACTIVATIONS[activation].forward)

    @part
    def bias(j, op):
        rows = 1 if op.use_bias != 0 else 0
        return numbers(op.w + op.n_in * op.n_out * size, 0, rows, op.n_out, 0, j, 0)

    @part
    def body(op, ctx, first, i, j, z):
        if i < ctx.batch_rows and j < op.n_out:
            at = i * op.z_row + j * size
            if keeps_z:
                store4(op.z + at, z)
            y = dtype(formula(z[0])), dtype(formula(z[1])), dtype(formula(z[2])), dtype(formula(z[3]))
            store4(op.y + at, y)

    begin, end = start(tile, bias), finish(tile, body)

    def dense_forward(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        first = cuda.blockIdx.x * tile.edge, cuda.blockIdx.y * tile.edge
        if ctx.halt != 0 or first[0] >= ctx.batch_rows:
            return
        x, W, sizes = (op.x, op.x_row), (op.w, op.n_out * size), (ctx.batch_rows, op.n_out, op.n_in)
        end(op, ctx, first, accumulate(x, W, first, sizes, 0, begin(op, first)))

    return dense_forward


def dense_backward(activation, tile, real):
    """dx (rows, n_in) = dz (rows, n_out) · Wᵀ for the rows of the batch.

    Times the derivative of the activation before this layer, whose gradient is then dz of that layer.
    """
    tile, dtype, size = tile_named(tile, real), REAL[real], REAL[real](0).itemsize
    accumulate, formula = product(real, tile, True, True), part(ACTIVATIONS[activation].backward)
    is_identity = activation == "identity"

    @part
    def body(op, ctx, first, i, j, d):
        if i < ctx.batch_rows and j < op.n_in:
            at = i * op.x_row + j * size
            if is_identity:
                store4(op.dx + at, d)
            else:
                kept = load4(op.kept_before + at, dtype)
                dz = (
                    dtype(formula(d[0], kept[0])),
                    dtype(formula(d[1], kept[1])),
                    dtype(formula(d[2], kept[2])),
                    dtype(formula(d[3], kept[3])),
                )
                store4(op.dx + at, dz)

    begin, end = start(tile, _zeros(real)), finish(tile, body)

    def dense_backward(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        first = cuda.blockIdx.x * tile.edge, cuda.blockIdx.y * tile.edge
        if ctx.halt != 0 or first[0] >= ctx.batch_rows:
            return
        dz, W, sizes = (op.dz, op.z_row), (op.w, op.n_out * size), (ctx.batch_rows, op.n_in, op.n_out)
        end(op, ctx, first, accumulate(dz, W, first, sizes, 0, begin(op, first)))

    return dense_backward


def _zeros(real):
    dtype = REAL[real]

    @part
    def zeros(j, op):
        return dtype(0), dtype(0), dtype(0), dtype(0)

    return zeros


def _gradient(real, tile, one):
    """The kernel that calls ``one(op, ctx, first, i, j, dw)`` for each element of dW and db.

    Over all rows of the batch, or over those of one chunk, first[2]: along x of the grid are the tiles of the
    first chunk, then those of the next.
    """
    accumulate = product(real, tile, False, False)

    @part
    def body(op, ctx, first, i, j, dw):
        if i < op.n_in + op.use_bias:
            if j < op.n_out:
                one(op, ctx, first, i, j, dw[0])
            if j + 1 < op.n_out:
                one(op, ctx, first, i, j + 1, dw[1])
            if j + 2 < op.n_out:
                one(op, ctx, first, i, j + 2, dw[2])
            if j + 3 < op.n_out:
                one(op, ctx, first, i, j + 3, dw[3])

    begin, end = start(tile, _zeros(real)), finish(tile, body)

    def gradient(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        tiles = (op.n_in + tile.edge) // tile.edge  # of n_in + 1 rows
        chunk = cuda.blockIdx.x // tiles
        first = cuda.blockIdx.x % tiles * tile.edge, cuda.blockIdx.y * tile.edge, chunk
        row = chunk * ctx.chunk_rows
        if ctx.halt != 0 or row >= ctx.batch_rows:
            return
        x, dz = (op.x + row * op.x_row, op.x_row), (op.dz + row * op.z_row, op.z_row)
        sizes = op.n_in, op.n_out, min(ctx.chunk_rows, ctx.batch_rows - row)
        end(op, ctx, first, accumulate(x, dz, first, sizes, op.use_bias, begin(op, first)))

    return gradient


def dense_gradient(tile, real):
    """dW and db of the batch, or of each chunk, into gradient slots: laid out as W and b are."""
    tile, dtype, size = tile_named(tile, real), REAL[real], REAL[real](0).itemsize

    @part
    def one(op, ctx, first, i, j, dw):
        slot = op.slots + first[2] * op.slot_bytes
        array(slot + (i * op.n_out + j) * size, 1, dtype)[0] = dw

    return _gradient(real, tile, one)


def dense_update(optimizer, shaped, tile, real):
    """dW in registers over the whole batch, applied to W there; `shaped`: 1 where it is shaped first."""
    apply = _apply(optimizer, shaped, real)

    @part
    def one(op, ctx, first, i, j, dw):
        apply(op, ctx, i, j, dw)

    return _gradient(real, tile_named(tile, real), one)


def _apply(optimizer, shaped, real):
    """A function that steps element (i, j) of W and b, given its gradient."""
    dtype, size = REAL[real], REAL[real](0).itemsize
    update, shape = update_one(optimizer, real), shape_one(real)

    @part
    def apply(op, ctx, i, j, dw):
        w = op.w + (i * op.n_out + j) * size
        if shaped:
            dw = shape(op, ctx, i, j, array(w, 1, dtype)[0], dw)
        update(w, dw, op.state_bytes, op.hyper if i < op.n_in else op.bias_hyper)

    return apply


def dense_apply(optimizer, shaped, real):
    """The update from gradient slots that are there: added in the order of the chunks, then applied."""
    dtype, size, apply = REAL[real], REAL[real](0).itemsize, _apply(optimizer, shaped, real)

    def dense_apply(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        slots = 1 if op.collected != 0 else slots_in_use(ctx)
        for i in range(row, op.n_in + op.use_bias, rows):
            for j in range(first, op.n_out, step):
                slot = op.slots + (i * op.n_out + j) * size
                dw = array(slot, 1, dtype)[0]
                for s in range(1, slots):
                    dw += array(slot + s * op.slot_bytes, 1, dtype)[0]
                apply(op, ctx, i, j, dw)

    return dense_apply


def dense_collect(real):
    """The gradient slots all in the first, with what comes before the norm: penalties, clipping by value.

    A thread takes a column.

    op.squares (n_out,): the sum of squares of each column, b's element included, in float64, from the first
    row on.
    """
    dtype, size, before_norm = REAL[real], REAL[real](0).itemsize, before_norm_one(real)

    def dense_collect(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        j = cuda.grid(1)
        if ctx.halt != 0 or j >= op.n_out:
            return
        total = 0.0
        for i in range(op.n_in + op.use_bias):
            at = (i * op.n_out + j) * size
            dw = array(op.slots + at, 1, dtype)[0]
            for s in range(1, slots_in_use(ctx)):
                dw += array(op.slots + at + s * op.slot_bytes, 1, dtype)[0]
            dw = before_norm(op, i, array(op.w + at, 1, dtype)[0], dw)
            array(op.slots + at, 1, dtype)[0] = dw
            total += np.float64(dw) * np.float64(dw)
        array(op.squares, op.n_out, np.float64)[j] = total

    return dense_collect


def dense_max_norm(real):
    """Columns of W that are longer than asked, shortened to that; b is not part of a column."""
    dtype, size = REAL[real], REAL[real](0).itemsize

    def dense_max_norm(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        j, total = cuda.grid(1), 0.0
        if ctx.halt != 0 or j >= op.n_out:
            return
        row_bytes, most = op.n_out * size, array(op.shaping + SHAPE * size, SHAPE64, np.float64)[MOST]
        for i in range(op.n_in):
            w = np.float64(array(op.w + i * row_bytes, op.n_out, dtype)[j])
            total += w * w
        factor = renorm_factor(total, most)
        if factor != 1.0:
            for i in range(op.n_in):
                array(op.w + i * row_bytes, op.n_out, dtype)[j] *= dtype(factor)

    return dense_max_norm
