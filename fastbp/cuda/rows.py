"""Kernels over the rows of the batch, and what joins a row: its sum, its largest element.

Sums are in the one fixed order of `cpu.simd.sum16`: sixteen threads take a row, element j joins partial
result j mod 16, so each thread has one partial result; the sixteen are then joined pairwise, halves first, in
shared memory. All threads of a block come together there, before each halving, before the total is read and
after it, when the memory may be used again. So all must call, whether they have a row or not, and equally
often: kernels count blocks of rows, not rows, and leave early only where the context tells all to.
"""

from fastbp.cuda.device import SIMULATED, block_part, cuda
from fastbp.cuda.records import context, operation
from fastbp.cuda.simt import part

LANES = 16
ROWS = 2 if SIMULATED else 8  # rows of a block: 16 x 8 threads
SHAPE = ROWS, LANES


@part
def outputs(op):
    """How many columns a row has: the layer's outputs."""
    return op.n_out


@part
def inputs(op):
    """The same of its inputs."""
    return op.n_in


def over_rows(one_row, width=outputs):
    """The kernel that calls ``one_row(op, ctx, i, columns)`` for the rows of the batch.

    `columns`, a range, are those of row i that are this thread's, out of ``width(op)``: neighbours in x have
    neighbouring columns, those in y neighbouring rows.
    """
    body = part(one_row)

    def kernel(op_address, ctx_address):
        op, ctx = operation(op_address), context(ctx_address)
        if ctx.halt != 0:
            return
        first, row = cuda.grid(2)
        step, rows = cuda.gridsize(2)
        for i in range(row, ctx.batch_rows, rows):
            body(op, ctx, i, range(first, width(op), step))

    kernel.__name__ = kernel.__qualname__ = one_row.__name__  # profilers show it
    return kernel


def _join(both):
    """A function ``join(shared, partial)``: what `both` makes of the sixteen partial results of this thread's
    row.
    """

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


@part
def _add(a, b):
    return a + b


@part
def _larger(a, b):
    return a if b <= a else b  # NaN in either is not above the other, and the second is taken


join_sum, join_max = _join(_add), _join(_larger)
