"""The dense layer: z = x · W + b.

    forward    z  = x · W + b
    backward   dx = dz · Wᵀ          dW = xᵀ · dz          db = Σ_rows dz = 1ᵀ · dz
    update     W, b ← optimizer(W, dW), optimizer(b, db)

W lies packed in panels (gemm.py), each followed by its part of b as one row more; its transpose lies in a
second packed copy, for dx. Forward and dx are given rows of the batch, dW and the update a share of W: rows
[first_row, last_row) of columns [first_column, last_column). The share that holds W's last row has b too.
"""

import numpy as np

from fastbp.cpu.elementwise import copy_elements, update_loop
from fastbp.cpu.gemm import ROW_BLOCK, place_of_panel, width_of_panel
from fastbp.cpu.machine import this_machine
from fastbp.cpu.native import array, call, part
from fastbp.cpu.records import REAL, kernel
from fastbp.cpu.shaping import MOST, SHAPE, add_penalty, add_squares, bound_elements, clear_totals
from fastbp.cpu.simd import transpose_square
from fastbp.cpu.slots import slots_in_use, sum_of_slots, sum_slots_in_place
from fastbp.cpu.team import gives_up
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.formulas.shaping import renorm_factor


def dense_forward(real):
    """z (rows, n_out) = x (rows, n_in) · W + b for the rows of a block."""
    times_packed_w = _times_packed_w(real)

    def dense_forward(op, ctx):
        times_packed_w(op, ctx, op.x + ctx.place * op.x_row, op.x_row)

    return kernel(dense_forward)


def dense_forward_in_order(real):
    """The same for the first layer, straight from the rows of the data, which come in their order.

    The rows of the next block are asked for meanwhile, where they are more than W.
    """
    size, times_packed_w = REAL[real](0).itemsize, _times_packed_w(real)

    def dense_forward_in_order(op, ctx):
        row_bytes = op.n_in * size
        x = ctx.x + (ctx.start + ctx.row) * row_bytes
        op.ahead = x + ctx.rows * row_bytes if ctx.rows > op.n_out else 0
        op.ahead_bytes, op.ahead_parts = ctx.rows * row_bytes, 1
        times_packed_w(op, ctx, x, row_bytes)

    return kernel(dense_forward_in_order)


def _times_packed_w(real):
    """A function for z = x · W + b of a block, of x whose first row and distance between rows are given."""
    size = REAL[real](0).itemsize

    @part
    def times_packed_w(op, ctx, x, x_row):
        op.m, op.n, op.k = ctx.rows, op.columns, op.n_in
        op.a, op.a_row, op.a_step = x, x_row, size
        op.b, op.b_panel, op.b_step = op.w, (op.n_in + 1) * size, 0
        op.c0 = 0
        op.c, op.c_row = op.z + ctx.place * op.z_row, op.z_row
        call(op.product, op.address, ctx.address)

    return times_packed_w


def dense_forward_unpacked(real):
    """The same from the host's own row-major W and b: for few rows, where packing would cost more than it
    gains.

    A row of W is read to whole vectors, past its end: what the surplus columns of z hold is never used.
    """
    size = REAL[real](0).itemsize

    def dense_forward_unpacked(op, ctx):
        op.m, op.n, op.k = ctx.rows, op.columns, op.n_in
        op.a, op.a_row, op.a_step = op.x + ctx.place * op.x_row, op.x_row, size
        op.b, op.b_panel, op.b_step = ctx.host + op.host, size, op.host_row
        op.c0 = op.b + op.n_in * op.b_step if op.use_bias != 0 else ctx.zeros
        op.c, op.c_row = op.z + ctx.place * op.z_row, op.z_row
        call(op.product, op.address, ctx.address)

    return kernel(dense_forward_unpacked)


def dense_backward(real):
    """dx (rows, n_in) = dz (rows, n_out) · Wᵀ for the rows of a block."""
    size = REAL[real](0).itemsize

    def dense_backward(op, ctx):
        op.m, op.n, op.k = ctx.rows, op.x_columns, op.n_out
        op.a, op.a_row, op.a_step = op.dz + ctx.place * op.z_row, op.z_row, size
        op.b, op.b_panel, op.b_step = op.wt, op.columns * size, 0
        op.c0 = ctx.zeros
        op.c, op.c_row = op.dx + ctx.place * op.x_row, op.x_row
        call(op.product, op.address, ctx.address)

    return kernel(dense_backward)


def _over_share(real, begin, body, ends=None):
    """A function that visits a thread's share of W: blocks of rows, and in each the panels.

    ``begin(op, ctx, row, rows)`` once for a block of rows, then ``body(op, ctx, row, rows, column, width)``
    for each of its panels: the block's columns of x stay in cache while the panels of dz pass by. Where there
    is an ``ends(op, ctx)``, no further block is visited when it says so.
    """
    panel_width, ends = width_of_panel(real), ends or _never

    @part
    def over_share(op, ctx):
        row = op.first_row
        while row < op.last_row and not ends(op, ctx):
            rows = min(ROW_BLOCK, op.last_row - row)
            begin(op, ctx, row, rows)
            column = op.first_column
            while column < op.last_column:
                width = panel_width(op.columns - column)
                body(op, ctx, row, rows, column, width)
                column += width
            row += rows

    return over_share


def _gradient(real):
    """Functions for dW of some rows of one panel and, where they end W, db behind them; over ctx.rows rows.

    ``pack_dz(op, ctx)`` comes first, ``pack_x(op, ctx, row, rows)`` before a block of rows of W, then
    ``gradient(op, ctx, row, rows, column, width, dw)`` for each panel, which returns the number of rows
    written, b's included. Large batches of wide layers are copied into packed memory first (op.packed_x,
    op.packed_dz), because there each row of x and dz begins on a page of its own.
    """
    size, panel_width, copy = REAL[real](0).itemsize, width_of_panel(real), copy_elements(real)

    @part
    def pack_dz(op, ctx):
        if op.packed_dz != 0:
            target, column = op.packed_dz, op.first_column
            while column < op.last_column:
                width = panel_width(op.columns - column)
                for i in range(ctx.rows):
                    copy(width, op.dz + (ctx.place + i) * op.z_row + column * size, target)
                    target += width * size
                column += width

    @part
    def pack_x(op, ctx, row, rows):
        if op.packed_x != 0:
            for i in range(ctx.rows):
                source = op.x + (ctx.place + i) * op.x_row + row * size
                copy(rows, source, op.packed_x + i * rows * size)

    @part
    def gradient(op, ctx, row, rows, column, width, dw):
        op.m, op.n, op.k = rows, width, ctx.rows
        if op.packed_x != 0:
            op.a, op.a_at, op.a_row, op.a_step = op.packed_x, 0, size, rows * size
            op.b, op.b_panel = op.packed_dz + (column - op.first_column) * ctx.rows * size, ctx.rows * size
            op.b_step = width * size
        else:
            op.a, op.a_at, op.a_row, op.a_step = op.x + ctx.place * op.x_row, row * size, size, op.x_row
            op.b, op.b_panel = op.dz + ctx.place * op.z_row + column * size, size
            op.b_step = op.z_row
        op.c0 = ctx.zeros
        op.c, op.c_row = dw, width * size
        written = _with_bias(op, row, rows)
        op.one = ctx.one if written > rows else 0
        call(op.product, op.address, ctx.address)
        return written

    return pack_dz, pack_x, gradient


def dense_gradient(real):
    """dW and db, summed over ctx.rows rows, into the gradient slot of this block: laid out as W and b are.

    It is left midway where the step is given up.
    """
    pack_dz, pack_x, gradient = _gradient(real)
    size = REAL[real](0).itemsize

    @part
    def one_panel(op, ctx, row, rows, column, width):
        slot = op.slots + ctx.block * op.slot_bytes
        gradient(op, ctx, row, rows, column, width, slot + _place(op, row, column, width) * size)

    over_share = _over_share(real, pack_x, one_panel, ends=_given_up)

    def dense_gradient(op, ctx):
        pack_dz(op, ctx)
        over_share(op, ctx)

    return kernel(dense_gradient)


def dense_update(optimizer, real):
    """dW in registers over the whole batch, applied to W while it is hot; W's transpose kept current.

    While dW is computed, what will change is asked for: W and the optimizer's states, and the transpose.
    """
    (pack_dz, pack_x, gradient), (shape, apply) = _gradient(real), _apply(optimizer, real)
    parts, size = 1 + OPTIMIZERS[optimizer].states, REAL[real](0).itemsize
    panel_holding = place_of_panel(real)

    @part
    def ask_for_what_changes(op, row, rows, column, width):
        op.ahead = op.w + _place(op, row, column, width) * size
        op.ahead_bytes, op.ahead_parts = rows * width * size, parts
        if op.wt != 0:
            first, wide = panel_holding(row, op.x_columns)
            op.also = op.wt + (first * op.columns + column * wide) * size
            op.also_apart, op.also_parts = wide * op.columns * size, (rows + wide - 1) // wide

    @part
    def one_panel(op, ctx, row, rows, column, width):
        ask_for_what_changes(op, row, rows, column, width)
        written = gradient(op, ctx, row, rows, column, width, ctx.scratch)
        shape(op, ctx, row, rows, column, width, written)
        apply(op, ctx, row, rows, column, width, written, ctx.scratch, 0)

    over_share = _over_share(real, pack_x, one_panel)

    def dense_update(op, ctx):
        pack_dz(op, ctx)
        over_share(op, ctx)

    return kernel(dense_update)


def dense_apply(optimizer, real):
    """The update from gradient slots that are there: added in the order of the blocks, then applied.

    One or two that nothing is done to are applied from where they lie.
    """
    (shape, apply), total, size = _apply(optimizer, real), sum_of_slots(real), REAL[real](0).itemsize

    @part
    def one_panel(op, ctx, row, rows, column, width):
        written = _with_bias(op, row, rows)
        first = op.slots + _place(op, row, column, width) * size
        slots = 1 if op.collected != 0 else slots_in_use(ctx)
        if slots <= 2 and op.shaping == 0:
            other = first + op.slot_bytes if slots == 2 else 0
        else:
            total(written * width, first, op.slot_bytes, slots, ctx.scratch)
            shape(op, ctx, row, rows, column, width, written)
            first, other = ctx.scratch, 0
        apply(op, ctx, row, rows, column, width, written, first, other)

    over_share = _over_share(real, _nothing, one_panel)

    def dense_apply(op, ctx):
        over_share(op, ctx)

    return kernel(dense_apply)


def dense_collect(real):
    """The gradient slots of this thread's columns, all in the first of them, with what comes before the norm:
    penalties, and clipping by value.

    op.squares (n_out,): the sum of squares of each column, b's element included, in float64, from the first
    row on. Columns are never shared, so that order is one, and what pads W has no part in it.
    """
    size, penalise, squares = REAL[real](0).itemsize, add_penalty(real), add_squares(real)
    total_in_place, bound = sum_slots_in_place(real), bound_elements(real)

    @part
    def one_panel(op, ctx, row, rows, column, width):
        written = _with_bias(op, row, rows)
        place, n = _place(op, row, column, width) * size, min(width, op.n_out - column)
        total_in_place(written * width, op.slots + place, op.slot_bytes, slots_in_use(ctx))
        penalise(op, rows * width, op.w + place, op.slots + place)
        bound(op, written * width, op.slots + place)
        here = op.squares + column * 8
        if row == 0:
            clear_totals(n, here)
        for r in range(written):
            squares(n, op.slots + place + r * width * size, here)

    over_share = _over_share(real, _nothing, one_panel)

    def dense_collect(op, ctx):
        over_share(op, ctx)

    return kernel(dense_collect)


def dense_max_norm(real):
    """Columns of W that are longer than asked, shortened to that; W's transpose kept current.

    For whole columns, as this thread's update has just left them; b is not part of a column.
    """
    dtype, size, panel_width = REAL[real], REAL[real](0).itemsize, width_of_panel(real)
    squares, transpose = add_squares(real), _transpose(real)

    @part
    def factors(n, totals, most):
        totals, shorter = array(totals, n, np.float64), 0
        for j in range(n):
            totals[j] = renorm_factor(totals[j], most)
            shorter += 1 if totals[j] != 1.0 else 0
        return shorter

    @part
    def multiply(n, row, factors):
        row, factors = array(row, n, dtype), array(factors, n, np.float64)
        for j in range(n):
            row[j] *= dtype(factors[j])

    def dense_max_norm(op, ctx):
        most, column = array(op.shape, SHAPE, np.float64)[MOST], op.first_column
        while column < op.last_column:
            width = panel_width(op.columns - column)
            n, w = min(width, op.n_out - column), op.w + _place(op, 0, column, width) * size
            clear_totals(n, ctx.scratch)
            for row in range(op.n_in):
                squares(n, w + row * width * size, ctx.scratch)
            if factors(n, ctx.scratch, most) > 0:
                for row in range(op.n_in):
                    multiply(n, w + row * width * size, ctx.scratch)
                if op.wt != 0:
                    transpose(op, ctx, 0, op.n_in, column, width, w)
            column += width

    return kernel(dense_max_norm)


def _apply(optimizer, real):
    """Functions for a piece of W: one that shapes its gradient in ctx.scratch, where that is asked for; one
    that steps it by a gradient, or the sum of two (other: 0, where there is but one), and transposes it.
    """
    update, update_by_two = update_loop(optimizer, real), update_loop(optimizer, real, gradients=2)
    transpose, size = _transpose(real), REAL[real](0).itemsize

    @part
    def shape(op, ctx, row, rows, column, width, written):
        if op.shaping != 0:
            op.piece = op.w + _place(op, row, column, width) * size
            op.row, op.rows, op.column, op.width, op.written = row, rows, column, width, written
            call(op.shaping, op.address, ctx.address)

    @part
    def apply(op, ctx, row, rows, column, width, written, dw, other):
        w = op.w + _place(op, row, column, width) * size
        # One piece, or two where b behind W has settings of its own.
        n, here, hyper = (written if op.bias_settings == 0 else rows) * width, 0, ctx.hyper
        while here < written * width:
            at = here * size
            if other == 0:
                update(n, dw + at, w + at, op.arena_bytes, hyper)
            else:
                update_by_two(n, (dw + at, other + at), w + at, op.arena_bytes, hyper)
            n, here, hyper = width, here + n, ctx.bias_hyper
        if op.wt != 0:
            transpose(op, ctx, row, rows, column, width, w)

    return shape, apply


@part
def _nothing(op, ctx, row, rows):
    """What comes ahead of a block of rows where nothing needs to."""


@part
def _never(op, ctx):
    """Nothing ends early."""
    return False


@part
def _given_up(op, ctx):
    """Whether this step is given up, if it may be."""
    return op.gives_up != 0 and gives_up(ctx)


@part
def _with_bias(op, row, rows):
    """How many rows of parameters a block has: with b, if it ends W and there is one."""
    return rows + 1 if row + rows == op.n_in and op.use_bias != 0 else rows


@part
def _place(op, row, column, width):
    """Where W[row, column] lies among the packed elements of a layer, for the first column of a panel."""
    return column * (op.n_in + 1) + row * width


def _transpose(real):
    """A function that copies a block of one panel of W into the packed transpose, square by square.

    The transpose (columns, x_columns) has room for whole squares: rows and columns beyond W's are zero there.
    """
    machine, size, panel_holding = this_machine(), REAL[real](0).itemsize, place_of_panel(real)
    side, least = machine.lanes(real), machine.least_lanes(real)
    square, least_square = transpose_square(real, side), transpose_square(real, least)

    @part
    def transpose(op, ctx, row, rows, column, width, w):
        if width < side or op.x_columns < side:
            squares(least_square, least, op, ctx, row, rows, column, width, w)
        else:
            squares(square, side, op, ctx, row, rows, column, width, w)

    @part
    def squares(one_square, side, op, ctx, row, rows, column, width, w):
        for r in range(0, rows, side):
            first, step = panel_holding(row + r, op.x_columns)
            target = op.wt + (first * op.columns + column * step + row + r - first) * size
            for c in range(0, width, side):
                source = w + (r * width + c) * size
                one_square(rows - r, ctx.zeros, source, width * size, target + c * step * size, step * size)

    return transpose


def dense_pack(real):
    """The host's W and b into panels, zero where they are wider than the layer, and the transpose of W."""
    size, panel_width = REAL[real](0).itemsize, width_of_panel(real)
    transpose, copy = _transpose(real), copy_elements(real)

    def dense_pack(op, ctx):
        column = 0
        while column < op.columns:
            width = panel_width(op.columns - column)
            n = min(width, op.n_out - column)
            w = op.w + _place(op, 0, column, width) * size
            for row in range(op.n_in + 1 if op.use_bias != 0 else op.n_in):
                copy(n, ctx.host + op.host + row * op.host_row + column * size, w + row * width * size)
            if op.wt != 0:
                transpose(op, ctx, 0, op.n_in, column, width, w)
            column += width

    return kernel(dense_pack)


def dense_unpack(real):
    """Panels back into the host's W and b."""
    size, panel_width, copy = REAL[real](0).itemsize, width_of_panel(real), copy_elements(real)

    def dense_unpack(op, ctx):
        column = 0
        while column < op.columns:
            width = panel_width(op.columns - column)
            n = min(width, op.n_out - column)
            w = op.w + _place(op, 0, column, width) * size
            for row in range(op.n_in + 1 if op.use_bias != 0 else op.n_in):
                copy(n, w + row * width * size, ctx.host + op.host + row * op.host_row + column * size)
            column += width

    return kernel(dense_unpack)


def dense_total(real):
    """The gradient slots of all blocks, added in their order, into the first of them."""
    total_in_place = sum_slots_in_place(real)

    def dense_total(op, ctx):
        total_in_place((op.n_in + 1) * op.columns, op.slots, op.slot_bytes, slots_in_use(ctx))

    return kernel(dense_total)
