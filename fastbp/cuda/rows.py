"""Sums and largest elements along a row, in the one fixed order: the counterpart of `cpu.simd.sum16`.

Sixteen threads take a row: element j joins partial result j mod 16, so each thread has one partial result;
the sixteen are then joined pairwise, halves first, in shared memory. All threads of a block come together
here, so all must call, whether they have a row or not.
"""

from functools import cache

from fastbp.cuda.device import SIMULATED, block_part, cuda
from fastbp.cuda.simt import part

LANES = 16
ROWS = 2 if SIMULATED else 8  # rows of a block: 16 x 8 threads
SHAPE = ROWS, LANES


@cache
def join_sum(real):
    """A function ``join(shared, partial)``: the sum of the sixteen partial sums of this thread's row."""

    @part
    def add(a, b):
        return a + b

    return _join(add)


@cache
def join_max(real):
    """The same for the largest; NaN in either of two is not above the other, and the second is taken."""

    @part
    def larger(a, b):
        return a if b <= a else b

    return _join(larger)


def _join(both):
    def join(shared, partial):
        lane, row = cuda.threadIdx.x, cuda.threadIdx.y
        shared[row, lane] = partial
        half = LANES // 2
        while half > 0:
            cuda.syncthreads()
            if lane < half:
                shared[row, lane] = both(shared[row, lane], shared[row, lane + half])
            half //= 2
        cuda.syncthreads()
        total = shared[row, 0]
        cuda.syncthreads()
        return total

    return block_part(join)
