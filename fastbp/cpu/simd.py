"""What Numba cannot say: explicit vectors, addresses, atomics.

An address is an int64. A kernel turns one into an array with :func:`array`; the register tile works on bare
addresses.
"""

from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable
from numba.np import arrayobj

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_REAL = {"float32": ir.FloatType(), "float64": ir.DoubleType()}
_SUFFIX = {"float32": "f32", "float64": "f64"}


# Decorator: a function that kernels inline. No wrapper for calls from C: a tenth of the time of compilation.
part = register_jitable(no_cfunc_wrapper=True)


def _prefetch(builder, address, level):
    """Ask for the cache line at an address, which may be any, to be brought to the cache of this level."""
    byte = ir.IntType(8).as_pointer()
    kind = [byte, _INT32, _INT32, _INT32]
    reading = [_INT32(0), _INT32(4 - level), _INT32(1)]  # a read, of this locality, of data
    line = builder.inttoptr(address, byte)
    builder.call(_declare(builder, "llvm.prefetch.p0", ir.VoidType(), kind), [line, *reading])


def _declare(builder, name, result, arguments):
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


@intrinsic
def array(typingctx, address, n, dtype):
    """A one-dimensional array of n elements over memory at an address."""
    kind = types.Array(dtype.dtype, 1, "C")

    def codegen(context, builder, signature, arguments):
        address, n, _ = arguments
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        made = context.make_array(kind)(context, builder)
        data = builder.inttoptr(address, context.get_data_type(kind.dtype).as_pointer())
        arrayobj.populate_array(
            made, data=data, shape=[n], strides=[itemsize], itemsize=itemsize, meminfo=None
        )
        return made._getvalue()

    return kind(types.int64, types.int64, dtype), codegen


@intrinsic
def call(typingctx, kernel, operation, context):
    """Call the kernel at an address: kernel(operation, context), all three int64 addresses.

    Returns 0, or what tells that the kernel raised: those that check data do, and code compiled with bounds
    checks.
    """

    def codegen(cgctx, builder, signature, arguments):
        nowhere = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(_INT32, [nowhere.as_pointer(), nowhere.as_pointer(), _INT64, _INT64])
        ignored = cgutils.alloca_once(builder, nowhere)
        kernel = builder.inttoptr(arguments[0], kind.as_pointer())
        return builder.call(kernel, [ignored, ignored, *arguments[1:]])

    return types.int32(types.int64, types.int64, types.int64), codegen


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
    element = _REAL[real]
    size = np.dtype(real).itemsize

    def emit(builder, rows, vectors, lanes, operands):
        *of_a, b, b_step, c0, c0_row, c, c_row, k, ahead, ahead_step = operands
        vector = ir.VectorType(element, lanes)
        undefined = ir.Constant(vector, ir.Undefined)
        broadcast = ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes)
        fma = _declare(builder, f"llvm.fma.v{lanes}{_SUFFIX[real]}", vector, [vector] * 3)

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
            _prefetch(builder, counts_of_a.pop(), level=1)
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


@cache
def transpose_square(real, lanes):
    """The transpose of a square of lanes x lanes elements, as an intrinsic.

    ``transpose_square(rows, zeros, source, source_row, target, target_row)``: addresses and strides in bytes;
    rows of the source from `rows` on are not read, a row of zeros stands for each.

    One round for each bit of an element's place: rows i and j = i + bit trade the elements whose place lacks
    the bit against those whose place has it.
    """
    element = _REAL[real]
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


def _vector16(real):
    """(vector of sixteen, bytes of an element, Numba's type of an element)"""
    element = _REAL[real]
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


@intrinsic
def atomic_add(typingctx, address, value):
    """Add to the int64 at an address; returns what was there."""

    def codegen(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], _INT64.as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, address):
    """The int64 at an address, with everything that its writer wrote before it."""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(builder.inttoptr(arguments[0], _INT64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx, address, value):
    """Publish an int64 at an address, after everything written before it."""

    def codegen(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], _INT64.as_pointer())
        builder.store_atomic(arguments[1], place, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at an address, which may be any, to be brought to the second-level cache."""

    def codegen(context, builder, signature, arguments):
        _prefetch(builder, *arguments, level=2)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def relax(typingctx):
    """Tell the core that this is a spin loop (x86 ``pause``, AArch64 ``yield``; nothing elsewhere)."""

    def codegen(context, builder, signature, arguments):
        triple = builder.module.triple
        if triple.startswith(("x86_64", "i686")):
            builder.call(_declare(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        elif triple.startswith(("aarch64", "arm64")):
            builder.call(_declare(builder, "llvm.aarch64.hint", ir.VoidType(), [_INT32]), [_INT32(1)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def yield_to_others(typingctx):
    """Let the operating system run another thread (``sched_yield``; ``SwitchToThread`` on Windows)."""

    def codegen(context, builder, signature, arguments):
        name = "SwitchToThread" if "windows" in builder.module.triple else "sched_yield"
        builder.call(_declare(builder, name, _INT32, []), [])
        return context.get_dummy_value()

    return types.void(), codegen
