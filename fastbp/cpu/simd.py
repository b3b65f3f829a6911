"""Explicit vectors: sums along a row in one fixed order for every machine, and transposes of squares."""

from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)

# LLVM's types of the numbers, and what the names of its functions for them end with.
REAL = {"float32": ir.FloatType(), "float64": ir.DoubleType()}
SUFFIX = {"float32": "f32", "float64": "f64"}


def _vector16(real):
    """(vector of sixteen, bytes of an element, Numba's type of an element)"""
    element = REAL[real]
    number = types.float32 if real == "float32" else types.float64
    return ir.VectorType(element, 16), np.dtype(real).itemsize, number


def _within(builder, i, n):
    """Which of elements i … i + 15 come before n."""
    numbers = ir.VectorType(_INT32, 16)
    nothing = ir.Constant(numbers, ir.Undefined)
    left = builder.insert_element(nothing, builder.trunc(builder.sub(n, i), _INT32), _INT32(0))
    left = builder.shuffle_vector(left, nothing, ir.Constant(ir.VectorType(_INT32, 16), [0] * 16))
    return builder.icmp_signed("<", ir.Constant(numbers, list(range(16))), left)


def _loop16(builder, n, start, body):
    """Emit ``for i in 0, 16, … below n: state = body(i, state)`` (at least once); returns the last state."""
    before = builder.block
    loop, done = builder.append_basic_block("sixteen"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    i, state = builder.phi(_INT64), builder.phi(start.type)
    following_state, following = body(i, state), builder.add(i, _INT64(16))
    for phi, first, then in ((i, _INT64(0), following), (state, start, following_state)):
        phi.add_incoming(first, before)
        phi.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", following, n), loop, done)
    builder.position_at_end(done)
    return following_state


def _load16(builder, vector, address, i, size):
    """Elements i … i + 15 at an address."""
    here = builder.add(address, builder.mul(i, _INT64(size)))
    return builder.load(builder.inttoptr(here, vector.as_pointer()), align=size)


def _join_pairwise(builder, total, join):
    """Sixteen partial results into one: halves first."""
    for half in (8, 4, 2, 1):
        undefined = ir.Constant(total.type, ir.Undefined)
        low, high = (
            builder.shuffle_vector(
                total,
                undefined,
                ir.Constant(ir.VectorType(_INT32, half), list(range(first, first + half))),
            )
            for first in (0, half)
        )
        total = join(builder, low, high)
    return builder.extract_element(total, _INT32(0))


def _reduce16(real, name, nothing, join):
    """An intrinsic ``name(address, n)`` that joins n elements in a fixed order, for any vector width.

    Element i joins partial result i mod 16; the sixteen are then joined pairwise, halves first. Memory is
    read up to a multiple of 16 elements.
    """
    vector, size, number = _vector16(real)

    def reduce16(typingctx, address, n):
        def codegen(context, builder, signature, arguments):
            address, n = arguments
            neutral = ir.Constant(vector, [nothing] * 16)

            def body(i, partial):
                loaded = _load16(builder, vector, address, i, size)
                return join(builder, partial, builder.select(_within(builder, i, n), loaded, neutral))

            return _join_pairwise(builder, _loop16(builder, n, neutral, body), join)

        return number(types.int64, types.int64), codegen

    reduce16.__name__ = reduce16.__qualname__ = name
    return intrinsic(reduce16)


@cache
def dot16(real):
    """``dot16(a, b, n)``: the sum of the products of n elements at two addresses, see `_reduce16`."""
    vector, size, number = _vector16(real)

    @intrinsic
    def dot16(typingctx, a, b, n):
        def codegen(context, builder, signature, arguments):
            a, b, n = arguments
            zeros = ir.Constant(vector, [0.0] * 16)

            def body(i, partial):
                x, y = (_load16(builder, vector, address, i, size) for address in (a, b))
                product = builder.select(_within(builder, i, n), builder.fmul(x, y), zeros)
                return builder.fadd(partial, product)

            total = _loop16(builder, n, zeros, body)
            return _join_pairwise(builder, total, lambda builder, low, high: builder.fadd(low, high))

        return number(types.int64, types.int64, types.int64), codegen

    return dot16


@cache
def sum16(real):
    """``sum16(address, n)``: the sum of n elements at an address, see `_reduce16`."""
    return _reduce16(real, "sum16", 0.0, lambda builder, a, b: builder.fadd(a, b))


@cache
def max16(real):
    """``max16(address, n)``: the largest of n elements at an address, none of which is NaN."""

    def larger(builder, a, b):
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)  # as x86's max does it: one instruction

    return _reduce16(real, "max16", -np.inf, larger)


@cache
def transpose_square(real, lanes):
    """The transpose of a square of lanes x lanes elements, as an intrinsic.

    ``transpose_square(rows, zeros, source, source_row, target, target_row)``: addresses and strides in bytes;
    rows of the source from `rows` on are not read, a row of zeros stands for each.

    One round for each bit of an element's place: rows i and j = i + bit trade the elements whose place lacks
    the bit against those whose place has it.
    """
    element = REAL[real]
    vector = ir.VectorType(element, lanes)
    size = np.dtype(real).itemsize

    @intrinsic
    def transpose_square(typingctx, rows, zeros, source, source_row, target, target_row):
        def codegen(context, builder, signature, arguments):
            n_rows, zeros, source, source_row, target, target_row = arguments

            def row(base, stride, i):
                return builder.add(base, builder.mul(stride, _INT64(i)))

            def load(i):
                is_there = builder.icmp_signed("<", _INT64(i), n_rows)
                place = builder.select(is_there, row(source, source_row, i), zeros)
                return builder.load(builder.inttoptr(place, vector.as_pointer()), align=size)

            def pick(a, b, lanes_of_a_and_b):
                return builder.shuffle_vector(
                    a, b, ir.Constant(ir.VectorType(_INT32, lanes), lanes_of_a_and_b)
                )

            rows = [load(i) for i in range(lanes)]
            bit = 1
            while bit < lanes:
                low = [lane if not lane & bit else lanes + lane - bit for lane in range(lanes)]
                high = [lane + bit if not lane & bit else lanes + lane for lane in range(lanes)]
                for i in range(lanes):
                    if not i & bit:
                        a, b = rows[i], rows[i + bit]
                        rows[i], rows[i + bit] = pick(a, b, low), pick(a, b, high)
                bit *= 2
            for i in range(lanes):
                place = builder.inttoptr(row(target, target_row, i), vector.as_pointer())
                builder.store(rows[i], place, align=size)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    return transpose_square
