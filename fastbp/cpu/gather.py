"""The rows of a block: where the epoch's order finds them, or copied side by side from there."""

import numpy as np
from numba import int64

from fastbp.cpu.elementwise import copy_elements
from fastbp.cpu.native import array, part, prefetch
from fastbp.cpu.records import REAL, kernel

LINE = 64  # bytes that a cache holds together, on every processor of today


@part
def data_row(ctx, i):
    """Which row of the data is row i of this block."""
    place = ctx.start + ctx.row + i
    return array(ctx.order + 8 * place, 1, int64)[0] if ctx.order != 0 else place


def scale_rows(real):
    """x (rows, n_in) of the workspace, inputs or their gradient, times the number at op.numbers, in place."""
    dtype, multiply = REAL[real], _multiply(real, REAL[real])

    def scale_rows(op, ctx):
        scale = dtype(array(op.numbers, 1, np.float64)[0])
        for i in range(ctx.rows):
            x = op.x + (ctx.place + i) * op.x_row
            multiply(op.n_in, x, scale, x)

    return kernel(scale_rows)


def require_finite(real):
    """Raise where x (rows, n_in) of the workspace holds NaN or an infinity."""
    dtype = REAL[real]

    @part
    def count_others(n, x):
        x, others = array(x, n, dtype), 0
        for k in range(n):
            others += 1 if x[k] - x[k] != 0 else 0
        return others

    def require_finite(op, ctx):
        for i in range(ctx.rows):
            if count_others(op.n_in, op.x + (ctx.place + i) * op.x_row) > 0:
                raise ValueError

    return kernel(require_finite)


def check_rows(real):
    """Set ctx.not_finite where the block's rows of the data, which come in their order, hold NaN or infinity.

    No exception: the other threads would wait for this one.
    """
    size, bits = REAL[real](0).itemsize, np.uint32 if real == "float32" else np.uint64
    all_ones = bits(0x7F800000 if real == "float32" else 0x7FF << 52)  # the exponent of what is not finite

    @part
    def largest_exponent(n, x):
        x, largest = array(x, n, bits), bits(0)
        for k in range(n):
            largest = max(largest, x[k] & all_ones)
        return largest

    def check_rows(op, ctx):
        first = ctx.x + (ctx.start + ctx.row) * op.n_in * size
        if largest_exponent(ctx.rows * op.n_in, first) == all_ones:
            ctx.not_finite = 1

    return kernel(check_rows)


@part
def _ask_for(row, n_bytes):
    """Ask the memory for a row that is needed soon."""
    for offset in range(0, n_bytes, LINE):
        prefetch(row + offset)


@part
def _rows_ahead(ctx):
    """How many rows of the next batch are known: those in the places of this block, if there is an order."""
    return 0 if ctx.order == 0 else min(ctx.rows, ctx.n_rows - ctx.start - ctx.row - ctx.batch_size)


def find_rows(real):
    """x (rows, 1) int64 of the workspace = the addresses of the block's rows of the data.

    The rows of the next batch are asked for meanwhile, as `gather` does.
    """
    size = REAL[real](0).itemsize

    @part
    def in_order(n, first, n_bytes, x):
        x = array(x, n, int64)
        for i in range(n):
            x[i] = first + i * n_bytes

    @part
    def ordered(n, order, first, n_bytes, x):
        order, x = array(order, n, int64), array(x, n, int64)
        for i in range(n):
            x[i] = first + order[i] * n_bytes

    def find_rows(op, ctx):
        n_bytes, ahead, place = op.n_in * size, _rows_ahead(ctx), ctx.start + ctx.row
        x = op.x + ctx.place * op.x_row
        if ctx.order == 0:
            in_order(ctx.rows, ctx.x + place * n_bytes, n_bytes, x)
        else:
            ordered(ctx.rows, ctx.order + 8 * place, ctx.x, n_bytes, x)
        for i in range(ahead):
            _ask_for(ctx.x + data_row(ctx, i + ctx.batch_size) * n_bytes, n_bytes)

    return kernel(find_rows)


def gather(real):
    """x (rows, n_in) of the workspace = the block's rows of the data.

    The order of the epoch is known, so the rows of the next batch are asked for meanwhile.
    """
    size, copy = REAL[real](0).itemsize, copy_elements(real)

    def gather(op, ctx):
        n_bytes, ahead = op.n_in * size, _rows_ahead(ctx)
        for i in range(ctx.rows):
            copy(op.n_in, ctx.x + data_row(ctx, i) * n_bytes, op.x + (ctx.place + i) * op.x_row)
            if i < ahead:
                _ask_for(ctx.x + data_row(ctx, i + ctx.batch_size) * n_bytes, n_bytes)

    return kernel(gather)


def gather_scaled(data, real):
    """x (rows, n_in) of the workspace = the block's rows of the data times the number at op.numbers.

    ``data``: "bytes", uint8, which become numbers of the network's type exactly, or "numbers" of that type.
    The scale is rounded to the type, and each product.
    """
    dtype, source = REAL[real], np.uint8 if data == "bytes" else REAL[real]
    size, multiply = source(0).itemsize, _multiply(real, source)

    def gather_scaled(op, ctx):
        n_bytes, ahead = op.n_in * size, _rows_ahead(ctx)
        scale = dtype(array(op.numbers, 1, np.float64)[0])
        for i in range(ctx.rows):
            multiply(op.n_in, ctx.x + data_row(ctx, i) * n_bytes, scale, op.x + (ctx.place + i) * op.x_row)
            if i < ahead:
                _ask_for(ctx.x + data_row(ctx, i + ctx.batch_size) * n_bytes, n_bytes)

    return kernel(gather_scaled)


def gather_sparse(data, real):
    """x (rows, n_in) of the workspace = the block's rows of sparse data times the number at op.numbers.

    At ctx.x lie three addresses (`fastbp.sparse.SparseRows`): of the numbers that are stored, of their
    columns (int32), and of where each row begins among them (int64). ``data``: "bytes", uint8, or "numbers"
    of the network's type.
    """
    dtype, source = REAL[real], np.uint8 if data == "bytes" else REAL[real]
    size, scatter = source(0).itemsize, _scatter(real, source)

    def gather_sparse(op, ctx):
        scale = dtype(array(op.numbers, 1, np.float64)[0])
        at = array(ctx.x, 3, int64)
        for i in range(ctx.rows):
            bounds = array(at[2] + 8 * data_row(ctx, i), 2, int64)
            first, n = bounds[0], bounds[1] - bounds[0]
            x = op.x + (ctx.place + i) * op.x_row
            scatter(n, at[0] + first * size, at[1] + first * 4, scale, op.n_in, x)

    return kernel(gather_sparse)


def _scatter(real, source):
    """A function ``scatter(n, x, columns, scale, n_in, target)``: n numbers to their columns, 0 elsewhere."""
    dtype = REAL[real]

    @part
    def scatter(n, x, columns, scale, n_in, target):
        x, columns, target = array(x, n, source), array(columns, n, np.int32), array(target, n_in, dtype)
        for j in range(n_in):
            target[j] = 0
        for k in range(n):
            # Columns were checked; but they lie in the caller's memory, and a callback may write there.
            j, known = columns[k], 0 <= columns[k] < n_in
            value = (dtype(x[k]) + dtype(0)) * scale  # + 0: what is stored as -0 is 0
            target[j if known else 0] = value if known else dtype(np.nan)

    return scatter


def _multiply(real, source):
    """A function ``multiply(n, x, scale, target)`` for n numbers of type `source` that lie side by side."""
    dtype = REAL[real]

    @part
    def multiply(n, x, scale, target):
        x, target = array(x, n, source), array(target, n, dtype)
        for k in range(n):
            target[k] = dtype(x[k]) * scale

    return multiply
