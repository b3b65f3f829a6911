"""Matrix products: tiles in shared memory, tiles of those in registers.

    c[m, n] = c0[n] + a[m, k] · b[k, n]

A block of threads owns an `edge` x `edge` tile of C, a thread 4 or 8 rows and columns of it (of 8, four and
four that lie half a tile apart). Slices of A and B, `depth` steps of k, pass through shared memory; the next
slice is on its way to registers meanwhile. Each element of C is one chain of fused multiply-adds in the order
of k, from c0 on: the same bits as ``cpu/gemm.py``, for any tile. k beyond the last is not computed.

Two barriers a slice: one when the slice is there, before it is read, and one when all have read it, before
the next one takes its place. How many slices there are depends on k alone, so all threads of a block meet at
each; and a block whose tile lies outside C leaves as a whole, before any. Tiles of rows lie along x of the
grid, which may have 2³¹ − 1 blocks, as batches may be long; along y and z there are but 65,535.

A and B lie in one of two ways: with k along their rows in memory (x of the forward product, both operands of
dx), or across (W of the forward product, both operands of dW). An access takes four numbers, at once where
they lie at a multiple of 16 bytes.
"""

from functools import cache
from typing import NamedTuple

from fastbp.cuda.device import SIMULATED, block_part, cuda
from fastbp.cuda.records import REAL
from fastbp.cuda.simt import array, load4, part, put4, row, steps

ALIGNED = None if SIMULATED else 16  # the simulator knows no alignment


class Tile(NamedTuple):
    """How a product is cut: `edge` of a block's tile; rows and columns of a thread's, 4 or 8."""

    edge: int
    rows: int
    columns: int

    @property
    def threads(self):
        """Threads of a block."""
        return self.edge // self.rows * self.in_a_row

    @property
    def in_a_row(self):
        """Threads that lie side by side."""
        return self.edge // self.columns

    @property
    def depth(self):
        """Steps of k in a slice: each thread moves eight numbers of A and eight of B."""
        return 8 * self.threads // self.edge


# The largest that still gives most of the multiprocessors something to do is taken. Numbers of twice the size
# leave registers for half as many.
TILES = {
    "float32": {"large": Tile(128, 8, 8), "medium": Tile(64, 8, 8), "small": Tile(32, 4, 4)},
    "float64": {"large": Tile(64, 4, 8), "small": Tile(32, 4, 8)},
}
TINY = Tile(16, 4, 4)  # for the simulator
ENOUGH_BLOCKS = 64

# Steps of k that are written out, at most. Of eight in float64, shaped updates spill.
STEPS = {"float32": 8, "float64": 4}


def tile_for(m, n, real):
    """The name of the tile for a product of m rows and n columns."""
    if SIMULATED:
        return "tiny"
    for name, (edge, _, _) in TILES[real].items():
        if -(-m // edge) * -(-n // edge) >= ENOUGH_BLOCKS:
            return name
    return "small"


def tile_named(name, real):
    """The tile of a name."""
    return TINY if name == "tiny" else TILES[real][name]


@cache
def four_numbers(real):
    """A function ``fetch(base, row_bytes, rows, columns, i, j, ones)``: elements (i, j … j + 3) of a matrix.

    0 outside it; but 1 in column `columns` where `ones`: there stands the 1 that b is multiplied by.
    """
    dtype, size = REAL[real], REAL[real](0).itemsize

    @part
    def one(line, columns, j, ones):
        if j < columns:
            return line[j]
        return dtype(1) if ones != 0 and j == columns else dtype(0)

    @part
    def fetch(base, row_bytes, rows, columns, i, j, ones):
        if i >= rows:
            return dtype(0), dtype(0), dtype(0), dtype(0)
        at = base + i * row_bytes + j * size
        if j + 4 <= columns and at & 15 == 0:
            return load4(at, dtype)
        line = array(base + i * row_bytes, columns, dtype)
        return (
            one(line, columns, j, ones),
            one(line, columns, j + 1, ones),
            one(line, columns, j + 2, ones),
            one(line, columns, j + 3, ones),
        )

    return fetch


@cache
def product(real, tile, a_along_k, b_along_k):
    """A function ``accumulate(a, b, first, sizes, ones, c)``: a thread's part of C, which begins as c.

    a, b: (address, bytes of a row); first: (row, column) of the block's tile; sizes: (m, n, k). With `ones`
    A has one more row, of ones.
    """
    edge, depth, threads = tile.edge, tile.depth, tile.threads
    a_of, b_of = _operand(real, tile, a_along_k), _operand(real, tile, b_along_k)
    (fetch_a, stash_a), (fetch_b, stash_b), written = a_of, b_of, min(STEPS[real], depth // 2)
    halves = [edge // 2 if n == 8 else 0 for n in (tile.rows, tile.columns)]
    several, one, in_a_row = steps(written, *halves), steps(1, *halves), tile.in_a_row
    dtype, room = REAL[real], edge + 4  # four more than a row needs: fewer conflicts between banks

    def accumulate(a, b, first, sizes, ones, c):
        a_slice = cuda.shared.array((depth, room), dtype, alignment=ALIGNED)
        b_slice = cuda.shared.array((depth, room), dtype, alignment=ALIGNED)
        m, n, k = sizes
        t = cuda.threadIdx.x
        i, j = t // in_a_row * 4, t % in_a_row * 4
        a0, a1 = fetch_a(a, first[0], m, 0, k, ones, t), fetch_a(a, first[0], m, 0, k, ones, t + threads)
        b0, b1 = fetch_b(b, first[1], n, 0, k, 0, t), fetch_b(b, first[1], n, 0, k, 0, t + threads)
        done = 0
        while done < k:
            stash_a(a_slice, t, a0)
            stash_a(a_slice, t + threads, a1)
            stash_b(b_slice, t, b0)
            stash_b(b_slice, t + threads, b1)
            cuda.syncthreads()
            done += depth
            if done <= k:
                if done < k:
                    a0 = fetch_a(a, first[0], m, done, k, ones, t)
                    a1 = fetch_a(a, first[0], m, done, k, ones, t + threads)
                    b0 = fetch_b(b, first[1], n, done, k, 0, t)
                    b1 = fetch_b(b, first[1], n, done, k, 0, t + threads)
                for s in range(0, depth, written):
                    c = several(a_slice, b_slice, s, i, j, c)
            else:
                for s in range(depth - (done - k)):
                    c = one(a_slice, b_slice, s, i, j, c)
            cuda.syncthreads()
        return c

    return block_part(accumulate)


@cache
def _operand(real, tile, along_k):
    """(fetch, stash): one access of a thread to a slice of A or B, and its way into shared memory."""
    numbers, in_a_row = four_numbers(real), (tile.depth if along_k else tile.edge) // 4

    @part
    def fetch_along(matrix, first, rows, done, k, ones, t):
        return numbers(matrix[0], matrix[1], rows, k, first + t // in_a_row, done + t % in_a_row * 4, 0)

    @part
    def stash_along(shared, t, x):
        i, j = t // in_a_row, t % in_a_row * 4
        shared[j, i], shared[j + 1, i], shared[j + 2, i], shared[j + 3, i] = x

    @part
    def fetch_across(matrix, first, columns, done, k, ones, t):
        return numbers(matrix[0], matrix[1], k, columns, done + t // in_a_row, first + t % in_a_row * 4, ones)

    @part
    def stash_across(shared, t, x):
        put4(shared, t // in_a_row, t % in_a_row * 4, x)

    return (fetch_along, stash_along) if along_k else (fetch_across, stash_across)


def start(tile, c0):
    """A function ``begin(op, first)``: what a thread's C starts as, ``c0(j, op)`` in every row, by fours."""
    half, in_a_row, double = tile.edge // 2, tile.in_a_row, tile.rows == 8

    def four(op, first):
        b = c0(first[1] + cuda.threadIdx.x % in_a_row * 4, op)
        return b + b + b + b

    def eight(op, first):
        j = first[1] + cuda.threadIdx.x % in_a_row * 4
        b = c0(j, op) + c0(j + half, op)
        return b + b + b + b + b + b + b + b if double else b + b + b + b

    return block_part(four if tile.columns == 4 else eight)


def finish(tile, body):
    """A function ``(op, ctx, first, c)`` that calls ``body(op, ctx, first, i, j, numbers)`` for a thread's C.

    Four numbers at a time, of row i from column j on; some may lie outside C.
    """
    half, in_a_row, rows = tile.edge // 2, tile.in_a_row, tile.rows

    def four(op, ctx, first, c):
        t = cuda.threadIdx.x
        i, j = first[0] + t // in_a_row * 4, first[1] + t % in_a_row * 4
        for r in range(rows):
            body(op, ctx, first, i + r, j, row(c, r, c[:4]))

    def eight(op, ctx, first, c):
        t = cuda.threadIdx.x
        i, j = first[0] + t // in_a_row * 4, first[1] + t % in_a_row * 4
        for r in range(rows):
            numbers = row(c, r, c[:8])
            here = i + r + (r >> 2) * (half - 4)
            body(op, ctx, first, here, j, numbers[:4])
            body(op, ctx, first, here, j + half, numbers[4:])

    return block_part(four if tile.columns == 4 else eight)
