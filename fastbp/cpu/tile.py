"""The register tile: the one piece of code in which nearly all arithmetic of a step is done.

LLVM cannot be talked into keeping a tile in registers, so its vectors are written out, for any width.
"""

from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastbp.cpu.native import declare, emit_prefetch
from fastbp.cpu.simd import REAL, SUFFIX

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


def _opaque(builder, value):
    """The same number, of which LLVM knows nothing: it would reach each row from the one before it, and so
    make every step of a loop as long as that chain.
    """
    return builder.asm(ir.FunctionType(_INT64, [_INT64]), "", "=r,0", [value], side_effect=False)


class _RowsOfA:
    """The rows of A in a tile, each an address that moves on with k; see `tile` for where they lie.

    counts : list of (first, step)
        Numbers that grow by a step with each k. The last row has one of its own: one register less in the
        loop than an address and an offset.
    """

    def __init__(self, builder, scattered, rows, size, operands):
        self._builder, self._scattered, self._n, self._size = builder, scattered, rows, size
        self._a, self._at, self._row, step, self._one = operands
        self.counts = [(_INT64(0), step)]
        if scattered != "steps":
            *self._rows, last = map(self._row_address, range(rows))
            self.counts.append((self._unless_ones(last, self._one), self._unless_ones(step, _INT64(0))))

    def addresses(self, offset, last=None):
        """Of each row, where the counts are these."""
        add = self._builder.add
        if self._scattered != "steps":
            return [*(add(row, offset) for row in self._rows), last]
        here = self._listed(add(self._a, offset))
        *rows, last = [add(here, _INT64(self._size * i)) for i in range(self._n)]
        return [*rows, self._unless_ones(last, self._one)]

    def _row_address(self, i):
        at = self._builder.add(self._a, self._builder.mul(self._row, _INT64(i)))
        at = self._listed(at) if self._scattered == "rows" else self._builder.add(at, self._at)
        return _opaque(self._builder, at)

    def _listed(self, place):
        found = self._builder.load(self._builder.inttoptr(place, _INT64.as_pointer()), align=8)
        return self._builder.add(found, self._at)

    def _unless_ones(self, value, otherwise):
        return self._builder.select(self._builder.icmp_signed("==", self._one, _INT64(0)), value, otherwise)


@cache
def tile(real, shapes, scattered="no", asks_ahead=True):
    """The register tile: C[rows, columns] = C0 + A @ B, with all of C in registers, as one intrinsic.

    ``tile(rows, columns, *of_a, one, b, b_step, c0, c0_row, c, c_row, k, ahead, ahead_step)`` with `of_a` =
    a, a_at, a_row, a_step; addresses and strides in bytes, k >= 1. `shapes` are (columns, lanes of a vector,
    most rows) of all that may be wanted.

        for each of the k steps:                       row i of A moves by a_step, the row of B by b_step
            for i in rows, j in columns:
                c[i, j] = fma(a[i, k], b[k, j], c[i, j])

    Where A[i, k] lies:

        scattered = "no"       a + a_at + i * a_row + k * a_step
        scattered = "rows"     table[i] + a_at + k * a_step        row i of the table lies at a + i * a_row
        scattered = "steps"    table[k] + a_at + i elements        step k of the table lies at a + k * a_step

    So the same tile multiplies x by W (a_row = row of x, a_step = one element) and the transpose of x by dz
    (a_row = one element, a_step = row of x), and rows of x may lie anywhere. Where `one` is not 0, it is the
    address of a 1, and the last row of A is all ones: the rows of dz are summed in the same pass. C starts as
    C0: a bias (c0_row = 0) or what an earlier call left in C. Each element is one chain of fused
    multiply-adds in the order of k, so its bits do not depend on the shape.

    With `asks_ahead` the memory is asked for the line at ``ahead + k * ahead_step`` in each step. One by one,
    because a processor keeps but some requests in mind: what is asked for at once holds up all else.
    """
    element = REAL[real]
    size = np.dtype(real).itemsize

    def emit(builder, rows, vectors, lanes, operands):
        *of_a, b, b_step, c0, c0_row, c, c_row, k, ahead, ahead_step = operands
        vector = ir.VectorType(element, lanes)
        undefined = ir.Constant(vector, ir.Undefined)
        broadcast = ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes)
        fma = declare(builder, f"llvm.fma.v{lanes}{SUFFIX[real]}", vector, [vector] * 3)

        def row(base, stride, i):
            return builder.add(base, builder.mul(stride, _INT64(i)))

        def place(address, j):
            return builder.inttoptr(builder.add(address, _INT64(size * lanes * j)), vector.as_pointer())

        def splat(address):
            scalar = builder.load(builder.inttoptr(address, element.as_pointer()), align=size)
            first = builder.insert_element(undefined, scalar, _INT32(0))
            return builder.shuffle_vector(first, undefined, broadcast)

        tiles = [(i, j) for i in range(rows) for j in range(vectors)]
        start = {(i, j): builder.load(place(row(c0, c0_row, i), j), align=size) for i, j in tiles}
        rows_of_a = _RowsOfA(builder, scattered, rows, size, of_a)
        counts = [(k, _INT64(-1)), (b, b_step), *rows_of_a.counts]
        counts += [(ahead, ahead_step)] if asks_ahead else []
        before = builder.block
        loop, done = builder.append_basic_block("k"), builder.append_basic_block("done")
        builder.branch(loop)

        builder.position_at_end(loop)
        left, b_row, *counts_of_a = phis = [builder.phi(_INT64) for _ in counts]
        sums = {ij: builder.phi(vector) for ij in tiles}
        if asks_ahead:
            emit_prefetch(builder, counts_of_a.pop(), level=1)
        a_k = rows_of_a.addresses(*counts_of_a)
        b_k = [builder.load(place(b_row, j), align=size) for j in range(vectors)]
        new = {}
        for i in range(rows):
            a_ik = splat(a_k[i])
            for j in range(vectors):
                new[i, j] = builder.call(fma, [a_ik, b_k[j], sums[i, j]])
        carried = [(phi, first, builder.add(phi, step)) for phi, (first, step) in zip(phis, counts)]
        for phi, first, following in [*carried, *((sums[ij], start[ij], new[ij]) for ij in tiles)]:
            phi.add_incoming(first, before)
            phi.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed(">", left.incomings[1][0], _INT64(0)), loop, done)

        builder.position_at_end(done)
        for i, j in tiles:
            builder.store(new[i, j], place(row(c, c_row, i), j), align=size)

    def case(builder, switch, value, name):
        block = builder.append_basic_block(name)
        switch.add_case(_INT64(value), block)
        builder.position_at_end(block)

    @intrinsic
    def tile(typingctx, rows, columns, a, a_at, a_row, a_step, one, b, b_step, c0, c0_row, c, c_row, k,
             ahead, ahead_step):  # fmt: skip
        def codegen(context, builder, signature, arguments):
            rows, columns, *operands = arguments
            end = builder.append_basic_block("end")
            width = builder.switch(columns, end)
            for wide, lanes, most_rows in shapes:
                case(builder, width, wide, f"columns{wide}")
                height = builder.switch(rows, end)
                for tall in range(1, most_rows + 1):
                    case(builder, height, tall, f"rows{tall}")
                    emit(builder, tall, wide // lanes, lanes, operands)
                    builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 16), codegen

    return tile
