"""The dense layer: z = x · W + b.

    forward    z  = x · W + b
    backward   dx = dz · Wᵀ          dW = xᵀ · dz          db = Σ_rows dz
    update     W, b ← optimizer(W, dW), optimizer(b, db)

W lies packed in panels (gemm.py), its transpose in a second packed copy for dx. Forward and dx are given rows of the batch,
dW and the update a share of W: rows [first_row, last_row) of columns [first_column, last_column).
The bias goes with the share that holds row 0.
"""

from numba.extending import register_jitable

from fastbp.cpu.elementwise import update_loop
from fastbp.cpu.machine import this_machine
from fastbp.cpu.program import REAL, kernel
from fastbp.cpu.simd import array, call

# Rows of W whose gradient is computed, applied and transposed while it is in the first-level cache.
ROW_BLOCK = 96


def dense_forward(real):
    """z (rows, n_out) = x (rows, n_in) · W + b for the rows of a block."""
    size = REAL[real](0).itemsize

    def dense_forward(op, ctx):
        op.m, op.n, op.k = ctx.rows, op.columns, op.n_in
        op.a, op.a_row, op.a_step = op.x + ctx.slot * op.x_row, op.x_row, size
        op.b, op.b_panel, op.b_step = op.w, op.n_in * size, 0
        op.c0, op.c0_row = op.bias, 0
        op.c, op.c_row = op.z + ctx.slot * op.z_row, op.z_row
        call(ctx.product, op.address, ctx.address)

    return kernel(dense_forward)


def dense_forward_unpacked(real):
    """The same from the host's own row-major W and b: for few rows, where packing would cost more than it gains.

    A row of W is read to whole vectors, past its end: what the surplus columns of z hold is never used.
    """
    size = REAL[real](0).itemsize

    def dense_forward_unpacked(op, ctx):
        op.m, op.n, op.k = ctx.rows, op.columns, op.n_in
        op.a, op.a_row, op.a_step = op.x + ctx.slot * op.x_row, op.x_row, size
        op.b, op.b_panel, op.b_step = ctx.host + op.host, size, op.n_out * size
        op.c0, op.c0_row = op.b + op.n_in * op.n_out * size if op.use_bias != 0 else ctx.zeros, 0
        op.c, op.c_row = op.z + ctx.slot * op.z_row, op.z_row
        call(ctx.product, op.address, ctx.address)

    return kernel(dense_forward_unpacked)


def dense_backward(real):
    """dx (rows, n_in) = dz (rows, n_out) · Wᵀ for the rows of a block."""
    size, lanes = REAL[real](0).itemsize, this_machine().lanes(real)

    def dense_backward(op, ctx):
        op.m, op.n, op.k = ctx.rows, _whole_vectors(op.n_in, lanes), op.n_out
        op.a, op.a_row, op.a_step = op.dz + ctx.slot * op.z_row, op.z_row, size
        op.b, op.b_panel, op.b_step = op.wt, op.n_out * size, 0
        op.c0, op.c0_row = ctx.zeros, 0
        op.c, op.c_row = op.dx + ctx.slot * op.x_row, op.x_row
        call(ctx.product, op.address, ctx.address)

    return kernel(dense_backward)


def _gradient(real):
    """Functions for dW of a block of W's rows in one panel, and for db of some columns; both over ctx.rows rows."""
    dtype, size = REAL[real], REAL[real](0).itemsize

    @register_jitable
    def weight_gradient(op, ctx, row, rows, column, width, dw):
        op.m, op.n, op.k = rows, width, ctx.rows
        op.a, op.a_row, op.a_step = op.x + ctx.slot * op.x_row + row * size, size, op.x_row
        op.b, op.b_panel, op.b_step = op.dz + ctx.slot * op.z_row + column * size, size, op.z_row
        op.c0, op.c0_row = ctx.zeros, 0
        op.c, op.c_row = dw, width * size
        call(ctx.product, op.address, ctx.address)

    @register_jitable
    def bias_gradient(op, ctx, db):
        n = op.last_column - op.first_column
        sums = array(db, n, dtype)
        for j in range(n):
            sums[j] = dtype(0)
        for i in range(ctx.rows):
            add(sums, op.dz + (ctx.slot + i) * op.z_row + op.first_column * size, n)

    @register_jitable
    def add(sums, address, n):
        row = array(address, n, dtype)
        for j in range(n):
            sums[j] += row[j]

    return weight_gradient, bias_gradient


def dense_gradient(real):
    """dW and db, summed over ctx.rows rows, into the gradient slot of this block: laid out as W and b are."""
    weight_gradient, bias_gradient = _gradient(real)
    size, panel = REAL[real](0).itemsize, this_machine().panel(real)

    def dense_gradient(op, ctx):
        slot = op.slots + ctx.block * op.slot_bytes
        for column in range(op.first_column, op.last_column, panel):
            width = min(panel, op.last_column - column)
            dw = slot + (column * op.n_in + op.first_row * width) * size
            weight_gradient(op, ctx, op.first_row, op.last_row - op.first_row, column, width, dw)
        if op.first_row == 0 and op.use_bias != 0:
            bias_gradient(op, ctx, slot + (op.bias - op.w) + op.first_column * size)

    return kernel(dense_gradient)


def dense_update(optimizer, real):
    """dW in registers over the whole batch, applied to W while it is hot; W's transpose kept current."""
    weight_gradient, bias_gradient = _gradient(real)
    update, transpose = update_loop(optimizer, real), _transpose(real)
    size, panel = REAL[real](0).itemsize, this_machine().panel(real)

    def dense_update(op, ctx):
        for column in range(op.first_column, op.last_column, panel):
            width = min(panel, op.last_column - column)
            for row in range(op.first_row, op.last_row, ROW_BLOCK):
                rows = min(ROW_BLOCK, op.last_row - row)
                weight_gradient(op, ctx, row, rows, column, width, ctx.scratch)
                w = op.w + (column * op.n_in + row * width) * size
                update(rows * width, ctx.scratch, w, op.arena_bytes, ctx.hyper)
                if op.wt != 0:
                    transpose(op, row, rows, column, width, w)
        if op.first_row == 0 and op.use_bias != 0:
            n, b = op.last_column - op.first_column, op.bias + op.first_column * size
            bias_gradient(op, ctx, ctx.scratch)
            update(n, ctx.scratch, b, op.arena_bytes, ctx.hyper)

    return kernel(dense_update)


def dense_apply(optimizer, real):
    """The update from gradient slots that are already there: added in the order of the blocks, then applied."""
    update, transpose, (total, _) = update_loop(optimizer, real), _transpose(real), _sum_of_slots(real)
    size, panel = REAL[real](0).itemsize, this_machine().panel(real)

    def dense_apply(op, ctx):
        slots = (ctx.batch_rows + ctx.chunk_rows - 1) // ctx.chunk_rows
        for column in range(op.first_column, op.last_column, panel):
            width = min(panel, op.last_column - column)
            for row in range(op.first_row, op.last_row, ROW_BLOCK):
                rows = min(ROW_BLOCK, op.last_row - row)
                w = op.w + (column * op.n_in + row * width) * size
                total(rows * width, op.slots + (w - op.w), op.slot_bytes, slots, ctx.scratch)
                update(rows * width, ctx.scratch, w, op.arena_bytes, ctx.hyper)
                if op.wt != 0:
                    transpose(op, row, rows, column, width, w)
        if op.first_row == 0 and op.use_bias != 0:
            n, b = op.last_column - op.first_column, op.bias + op.first_column * size
            total(n, op.slots + (b - op.w), op.slot_bytes, slots, ctx.scratch)
            update(n, ctx.scratch, b, op.arena_bytes, ctx.hyper)

    return kernel(dense_apply)


def _sum_of_slots(real):
    """Functions that add gradient slots in their order: into other memory, or into the first slot."""
    dtype = REAL[real]

    @register_jitable
    def total(n, first, slot_bytes, slots, target):
        copy(n, first, target)
        for slot in range(1, slots):
            add(n, first + slot * slot_bytes, target)

    @register_jitable
    def total_in_place(n, first, slot_bytes, slots):
        for slot in range(1, slots):
            add(n, first + slot * slot_bytes, first)

    @register_jitable
    def copy(n, source, target):
        source, target = array(source, n, dtype), array(target, n, dtype)
        for i in range(n):
            target[i] = source[i]

    @register_jitable
    def add(n, source, target):
        source, target = array(source, n, dtype), array(target, n, dtype)
        for i in range(n):
            target[i] += source[i]

    return total, total_in_place


def _transpose(real):
    """A function that copies a block of one panel of W into the packed transpose."""
    dtype, size = REAL[real], REAL[real](0).itemsize
    lanes, panel = this_machine().lanes(real), this_machine().panel(real)

    @register_jitable
    def transpose(op, row, rows, column, width, w):
        source = array(w, rows * width, dtype)
        columns = min(width, op.n_out - column)
        last = _whole_vectors(op.n_in, lanes)
        for r in range(rows):
            first = (row + r) // panel * panel  # the panel of the transpose that holds this row of W
            step = min(panel, last - first)
            target = array(op.wt + (first * op.n_out + column * step + (row + r - first)) * size, columns * step, dtype)
            for c in range(columns):
                target[c * step] = source[r * width + c]

    return transpose


def dense_pack(real):
    """The host's W and b into panels, their transpose, and zeros where panels are wider than the layer."""
    dtype, size = REAL[real], REAL[real](0).itemsize
    transpose, panel = _transpose(real), this_machine().panel(real)

    def dense_pack(op, ctx):
        n_in, n_out = op.n_in, op.n_out
        host = array(ctx.host + op.host, n_in * n_out + n_out, dtype)
        bias = array(op.bias, op.columns, dtype)
        for j in range(op.columns):
            bias[j] = host[n_in * n_out + j] if j < n_out and op.use_bias != 0 else dtype(0)
        for column in range(0, op.columns, panel):
            width = min(panel, op.columns - column)
            w = op.w + column * n_in * size
            packed = array(w, n_in * width, dtype)
            for row in range(n_in):
                for j in range(width):
                    packed[row * width + j] = host[row * n_out + column + j] if column + j < n_out else dtype(0)
            if op.wt != 0:
                transpose(op, 0, n_in, column, width, w)

    return kernel(dense_pack)


def dense_unpack(real):
    """Panels back into the host's W and b."""
    dtype, size, panel = REAL[real], REAL[real](0).itemsize, this_machine().panel(real)

    def dense_unpack(op, ctx):
        n_in, n_out = op.n_in, op.n_out
        host = array(ctx.host + op.host, n_in * n_out + n_out, dtype)
        bias = array(op.bias, n_out, dtype)
        if op.use_bias != 0:
            for j in range(n_out):
                host[n_in * n_out + j] = bias[j]
        for column in range(0, n_out, panel):
            width = min(panel, op.columns - column)
            packed = array(op.w + column * n_in * size, n_in * width, dtype)
            for row in range(n_in):
                for j in range(min(width, n_out - column)):
                    host[row * n_out + column + j] = packed[row * width + j]

    return kernel(dense_unpack)


def dense_total(real):
    """The gradient slots of all blocks, added in their order, into the first of them."""
    _, total_in_place = _sum_of_slots(real)
    size = REAL[real](0).itemsize

    def dense_total(op, ctx):
        slots = (ctx.batch_rows + ctx.chunk_rows - 1) // ctx.chunk_rows
        total_in_place(op.n_in * op.columns, op.slots, op.slot_bytes, slots)
        total_in_place(op.columns, op.slots + (op.bias - op.w), op.slot_bytes, slots)

    return kernel(dense_total)


@register_jitable
def _whole_vectors(n, lanes):
    return (n + lanes - 1) // lanes * lanes
