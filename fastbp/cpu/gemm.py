"""Matrix products out of register tiles.

    c[m, n] = c0[n] + a[m, k] · b[k, n]

B is read in panels: blocks of columns as wide as the widest tile, the last one narrower (whole vectors; a
matrix that a part of a vector holds is one panel of that width).
Packed, a panel is contiguous: its element (k, j) lies at ``panel + (k * width + j) * size``, and the panel
that begins with column j begins at ``b + j * b_panel`` with ``b_panel = k * size``; ``b_step = 0`` says so.
Otherwise B is an ordinary matrix with ``b_panel = size`` and rows ``b_step`` bytes apart. Reads and writes
run to whole vectors: n is what `Machine.columns` makes of a number of columns.

``c0 = 0`` says that c0 is the row of B behind its last: packed weights carry their bias there. ``one``, where
not 0, is the address of a 1 and stands for one more row of A, all ones: C's row m is the sum of B's rows.

Rows of A, or its steps of k, may lie anywhere: then `a` is a table of their addresses, and `a_at` says how
many bytes behind each of them A begins (`simd.tile`).
"""

from functools import cache

from fastbp.cpu.machine import this_machine
from fastbp.cpu.program import REAL, kernel
from fastbp.cpu.simd import part, tile

# Steps of k that a panel of B stays in the first-level cache for, while rows of A pass by.
K_BLOCK = 256

# Rows of W whose gradient is computed, shaped, applied and transposed while it is in the first-level cache.
ROW_BLOCK = 96


def matrix_product(scattered, real):
    """The product described by an operation's fields m to c_row; ``scattered``: see `simd.tile`."""
    size, panel_width, fill = REAL[real](0).itemsize, width_of_panel(real), fill_strip(scattered, real)
    by_rows = scattered == "rows"

    def matrix_product(op, ctx):
        m, done = op.m + (1 if op.one != 0 else 0), 0
        while done < op.k:
            k = min(K_BLOCK, op.k - done)
            skipped = done * op.a_step
            a, a_at = (op.a, op.a_at + skipped) if by_rows else (op.a + skipped, op.a_at)
            j = 0
            while j < op.n:
                width = panel_width(op.n - j)
                b_step = op.b_step if op.b_step != 0 else width * size
                b = op.b + j * op.b_panel
                c = op.c + j * size
                if done != 0:
                    c0, c0_row = c, op.c_row
                elif op.c0 == 0:
                    c0, c0_row = b + op.k * b_step, 0
                else:
                    c0, c0_row = op.c0 + j * size, 0
                b += done * b_step
                fill(m, width, a, a_at, op.a_row, op.a_step, op.one, b, b_step, c0, c0_row, c, op.c_row, k)
                j += width
            done += k

    return kernel(matrix_product)


@cache
def width_of_panel(real):
    """A function that tells how wide the next panel is when so many columns (whole vectors) are left.

    As wide as the widest tile, but four vectors are two panels of two: a tile of one vector keeps the
    multiply-add units no more than three quarters busy.
    """
    lanes, panel = this_machine().lanes(real), this_machine().panel(real)

    @part
    def panel_width(left):
        return 2 * lanes if left == 4 * lanes else min(panel, left)

    return panel_width


@cache
def place_of_panel(real):
    """A function that tells (first column, width) of the panel that holds a column, of n columns in all."""
    lanes, panel = this_machine().lanes(real), this_machine().panel(real)

    @part
    def panel_holding(column, n):
        if n <= panel:
            return 0, n
        ends_in_four = n >= 4 * lanes and n % panel == lanes
        if ends_in_four and column >= n - 4 * lanes:
            return (n - 4 * lanes if column < n - 2 * lanes else n - 2 * lanes), 2 * lanes
        first = column // panel * panel
        return first, min(panel, n - first)

    return panel_holding


def fill_strip(scattered, real):
    """A function that fills m rows of one panel of C with tiles; the last two are about equally tall.

    The last row of A is `one`, where that is not 0.
    """
    machine = this_machine()
    one_tile, lanes = tile(real, machine.tiles(real), scattered), machine.lanes(real)
    by_steps = scattered == "steps"
    rows_of_one, rows_of_two, rows_of_three = machine.tile_rows

    @part
    def fill(m, width, a, a_at, a_row, a_step, one, b, b_step, c0, c0_row, c, c_row, k):
        most_rows = rows_of_one if width <= lanes else (rows_of_two if width == 2 * lanes else rows_of_three)
        while m > 0:
            rows = (m + 1) >> 1 if most_rows < m < 2 * most_rows else min(m, most_rows)
            ones = one if rows == m else 0
            one_tile(rows, width, a, a_at, a_row, a_step, ones, b, b_step, c0, c0_row, c, c_row, k)
            m -= rows
            if by_steps:
                a_at += rows * a_row
            else:
                a += rows * a_row
            c0 += rows * c0_row
            c += rows * c_row

    return fill
