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

Meanwhile the memory may be asked for what comes next: what the field `ahead` tells of, `ahead_parts`
stretches of `ahead_bytes` each that lie `arena_bytes` apart, and `also_parts` more from `also` on,
`also_apart` bytes apart; where `ahead` is 0, the next panel of a packed B.

Rows of A, or its steps of k, may lie anywhere: then `a` is a table of their addresses, and `a_at` says how
many bytes behind each of them A begins (`tile.tile`).
"""

from functools import cache

from fastbp.cpu.machine import this_machine
from fastbp.cpu.native import part
from fastbp.cpu.records import REAL, kernel
from fastbp.cpu.tile import tile

# Steps of k that a panel of B stays in the first-level cache for, while rows of A pass by.
K_BLOCK = 256

# Rows of W whose gradient is computed, shaped, applied and transposed while it is in the first-level cache.
ROW_BLOCK = 96


def matrix_product(scattered, asks, real):
    """The product described by an operation's fields m to c_row.

    scattered : see `tile.tile`.
    asks : {"asks", "does not ask"}
        Whether the memory is asked for what comes next, which a product of little data does better without.
    """
    size, panel_width, fill = REAL[real](0).itemsize, width_of_panel(real), fill_strip(scattered, asks, real)
    by_rows, comes_next = scattered == "rows", _comes_next(real) if asks == "asks" else _nothing_comes

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
                fill(
                    m, width, a, a_at, op.a_row, op.a_step, op.one, b, b_step, c0, c0_row, c, op.c_row, k,
                    comes_next(op, j, width, done, k),
                )  # fmt: skip
                j += width
            done += k

    return kernel(matrix_product)


def _comes_next(real):
    """A function that tells what to ask for, see `fill_strip`, while k rows of a panel are multiplied, from
    the row `done` on.
    """
    size, panel_width = REAL[real](0).itemsize, width_of_panel(real)

    @part
    def comes_next(op, j, width, done, k):
        if op.ahead != 0:
            # As much of it as this is of the whole product.
            before, work = done * op.n + k * j, op.k * op.n
            first, end = op.ahead_bytes * before // work, op.ahead_bytes * (before + k * width) // work
            parts = (op.ahead + first, op.ahead_parts, op.arena_bytes)
            return end - first, parts, (op.also + first, op.also_parts, op.also_apart)
        j += width
        if j >= op.n:
            j, done = 0, done + k
        if op.b_step != 0 or done >= op.k:
            return 0, (op.b, 1, 0), (0, 0, 0)
        row = panel_width(op.n - j) * size
        return min(K_BLOCK, op.k - done) * row, (op.b + j * op.b_panel + done * row, 1, 0), (0, 0, 0)

    return comes_next


@part
def _nothing_comes(op, j, width, done, k):
    """The same where nothing is asked for."""
    return 0, (0, 1, 0), (0, 0, 0)


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


def fill_strip(scattered, asks, real):
    """A function that fills m rows of one panel of C with tiles; the last two are about equally tall.

    The last row of A is `one`, where that is not 0. ahead: (bytes, *two of (address, parts, apart)) of memory
    that is asked for meanwhile, evenly: so many bytes of each of the parts, which tiles take in turn.
    """
    machine = this_machine()
    one_tile, lanes = tile(real, machine.tiles(real), scattered, asks == "asks"), machine.lanes(real)
    by_steps = scattered == "steps"
    rows_of_one, rows_of_two, rows_of_three = machine.tile_rows

    @part
    def fill(m, width, a, a_at, a_row, a_step, one, b, b_step, c0, c0_row, c, c_row, k, ahead):
        most_rows = rows_of_one if width <= lanes else (rows_of_two if width == 2 * lanes else rows_of_three)
        (n_bytes, (place, parts, apart), (also, others, others_apart)), turn, step = ahead, 0, 0
        if n_bytes > 0:
            rounds = max(1, (m + most_rows - 1) // most_rows // (parts + others))
            step = (n_bytes - 1) // (rounds * k) + 1
        while m > 0:
            rows = (m + 1) >> 1 if most_rows < m < 2 * most_rows else min(m, most_rows)
            ones = one if rows == m else 0
            here = place + turn * apart if turn < parts else also + (turn - parts) * others_apart
            one_tile(
                rows, width, a, a_at, a_row, a_step, ones, b, b_step, c0, c0_row, c, c_row, k, here, step
            )
            turn += 1
            if turn == parts + others:
                place, also, turn = place + step * k, also + step * k, 0
            m -= rows
            if by_steps:
                a_at += rows * a_row
            else:
                a += rows * a_row
            c0 += rows * c0_row
            c += rows * c_row

    return fill
