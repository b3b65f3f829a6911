"""Matrix products out of register tiles.

    c[m, n] = c0[m or 1, n] + a[m, k] · b[k, n]

B is read in panels: blocks of columns as wide as the widest tile, the last one narrower (whole vectors). Packed, a panel
is contiguous: its element (k, j) lies at ``panel + (k * width + j) * size``, and the panel that begins with column j
begins at ``b + j * b_panel`` with ``b_panel = k * size``; ``b_step = 0`` says so. Otherwise B is an ordinary matrix with
``b_panel = size`` and rows ``b_step`` bytes apart. Reads and writes run to whole vectors: n is a multiple of the lanes.
"""

from numba.extending import register_jitable

from fastbp.cpu.machine import this_machine
from fastbp.cpu.program import REAL, kernel
from fastbp.cpu.simd import tile

# Steps of k that a panel of B stays in the first-level cache for, while rows of A pass by.
K_BLOCK = 256


def matrix_product(real):
    """The product described by an operation's fields m to c_row."""
    machine = this_machine()
    size, lanes, panel = REAL[real](0).itemsize, machine.lanes(real), machine.panel(real)
    one, two, three = (strip(real, i + 1, rows, lanes) for i, rows in enumerate(machine.tile_rows))

    def matrix_product(op, ctx):
        for done in range(0, op.k, K_BLOCK):
            k = min(K_BLOCK, op.k - done)
            a = op.a + done * op.a_step
            for j in range(0, op.n, panel):
                width = min(panel, op.n - j)
                b_step = op.b_step if op.b_step != 0 else width * size
                b = op.b + j * op.b_panel + done * b_step
                c = op.c + j * size
                c0, c0_row = (op.c0 + j * size, op.c0_row) if done == 0 else (c, op.c_row)
                if width == panel:
                    three(op.m, a, op.a_row, op.a_step, b, b_step, c0, c0_row, c, op.c_row, k)
                elif width == 2 * lanes:
                    two(op.m, a, op.a_row, op.a_step, b, b_step, c0, c0_row, c, op.c_row, k)
                else:
                    one(op.m, a, op.a_row, op.a_step, b, b_step, c0, c0_row, c, op.c_row, k)

    return kernel(matrix_product)


def strip(real, vectors, most_rows, lanes):
    """A function that fills m rows of one panel of C with tiles of nearly equal height, none above ``most_rows``."""
    one_tile = tile(real, most_rows, vectors, lanes)

    @register_jitable
    def strip(m, a, a_row, a_step, b, b_step, c0, c0_row, c, c_row, k):
        tiles = (m + most_rows - 1) // most_rows
        low = m // tiles
        taller = m - low * tiles
        for i in range(tiles):
            rows = low + 1 if i < taller else low
            one_tile(rows, a, a_row, a_step, b, b_step, c0, c0_row, c, c_row, k)
            a += rows * a_row
            c0 += rows * c0_row
            c += rows * c_row

    return strip
