"""What Numba cannot say: memory at an address, four numbers in one access, the register tile.

The counterpart of ``cpu/native.py``. An address is an int64, in the device's memory; in the simulator that is
the host's. Each function has a Python form, which the simulator runs, and a form in LLVM's language.
"""

import ctypes

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable
from numba.np import arrayobj

from fastbp.cuda.device import SIMULATED
from fastbp.formulas.elementary import fma

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_GLOBAL = 1  # the address space of what all blocks see

# Decorator: a function that kernels inline.
part = register_jitable(no_cfunc_wrapper=True)


def _form_of(python):
    """Decorator for the form in LLVM's language of a Python function: the simulator gets the latter."""
    return lambda compiled: python if SIMULATED else intrinsic(compiled)


def _pointer(builder, address, element):
    """A pointer into global memory. LLVM is told that it is global: generic accesses are slower."""
    there = builder.inttoptr(address, ir.PointerType(element, _GLOBAL))
    return builder.addrspacecast(there, element.as_pointer())


# array(address, n, dtype): a one-dimensional array of n elements over memory at an address.


def _array_in_python(address, n, dtype):
    """A one-dimensional array of n elements over memory at an address."""
    if n <= 0:
        return np.empty(0, dtype)
    n_bytes = int(n) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * n_bytes).from_address(int(address)), dtype)


@_form_of(_array_in_python)
def array(typing_context, address, n, dtype):
    """Type and code of `_array_in_python`."""
    kind = types.Array(dtype.dtype, 1, "C")

    def codegen(context, builder, signature, arguments):
        address, n, _ = arguments
        element = context.get_data_type(kind.dtype)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(element))
        made = context.make_array(kind)(context, builder)
        data = _pointer(builder, address, element)
        arrayobj.populate_array(
            made, data=data, shape=[n], strides=[itemsize], itemsize=itemsize, meminfo=None
        )
        return made._getvalue()

    return kind(types.int64, types.int64, dtype), codegen


def view(dtype):
    """A function for kernels that takes the address of a record and returns the record."""
    kind = from_dtype(dtype)

    def in_python(address):
        return array(address, 1, dtype).view(np.recarray)[0]

    @_form_of(in_python)
    def record(typing_context, address):
        def codegen(context, builder, signature, arguments):
            return _pointer(builder, arguments[0], ir.ArrayType(ir.IntType(8), dtype.itemsize))

        return kind(types.int64), codegen

    return record


# Four numbers in one access of 128 bits (two, for float64), at an address that is a multiple of 16.
#
#     load4(address, dtype) -> (x0, x1, x2, x3)           store4(address, (x0, x1, x2, x3))


def _load4_in_python(address, dtype):
    """Four numbers of a type that lie at an address, a multiple of 16."""
    return tuple(array(address, 4, dtype))


def _store4_in_python(address, numbers):
    """Write four numbers to an address, a multiple of 16."""
    array(address, 4, type(numbers[0]))[:] = numbers


def _wide(pointer, builder, element, lanes):
    return builder.bitcast(pointer, ir.PointerType(ir.VectorType(element, lanes), pointer.type.addrspace))


def _emit_load4(builder, pointer, element, size):
    lanes, values = 16 // size, []
    wide = _wide(pointer, builder, element, lanes)
    for i in range(4 // lanes):
        loaded = builder.load(builder.gep(wide, [_INT32(i)]), align=16)
        values += [builder.extract_element(loaded, _INT32(lane)) for lane in range(lanes)]
    return values


def _emit_store4(builder, pointer, element, size, values):
    lanes = 16 // size
    wide = _wide(pointer, builder, element, lanes)
    for i in range(4 // lanes):
        vector = ir.Constant(ir.VectorType(element, lanes), ir.Undefined)
        for lane in range(lanes):
            vector = builder.insert_element(vector, values[i * lanes + lane], _INT32(lane))
        builder.store(vector, builder.gep(wide, [_INT32(i)]), align=16)


def _elements(builder, values):
    return [builder.extract_value(values, i) for i in range(values.type.count)]


@_form_of(_load4_in_python)
def load4(typing_context, address, dtype):
    """Type and code of `_load4_in_python`."""
    result = types.UniTuple(dtype.dtype, 4)

    def codegen(context, builder, signature, arguments):
        element = context.get_data_type(result.dtype)
        pointer = builder.inttoptr(arguments[0], ir.PointerType(element, _GLOBAL))
        values = _emit_load4(builder, pointer, element, context.get_abi_sizeof(element))
        return context.make_tuple(builder, result, values)

    return result(types.int64, dtype), codegen


@_form_of(_store4_in_python)
def store4(typing_context, address, numbers):
    """Type and code of `_store4_in_python`."""

    def codegen(context, builder, signature, arguments):
        element = context.get_data_type(numbers.dtype)
        pointer = builder.inttoptr(arguments[0], ir.PointerType(element, _GLOBAL))
        size = context.get_abi_sizeof(element)
        _emit_store4(builder, pointer, element, size, _elements(builder, arguments[1]))
        return context.get_dummy_value()

    return types.void(types.int64, numbers), codegen


# The same in a block's shared memory: put4(shared, i, j, numbers), to row i from column j on. Column and rows
# of the array are multiples of 16 bytes.


def _put4_in_python(shared, i, j, numbers):
    """Write four numbers to shared[i, j …]."""
    shared[i, j : j + 4] = numbers


def _place(context, builder, kind, shared, i, j):
    """(pointer to element (i, j), type of an element, bytes of one) of an array in shared memory."""
    made = context.make_array(kind)(context, builder, shared)
    columns = builder.extract_value(made.shape, 1)
    index = builder.add(builder.mul(i, columns), j)
    element = context.get_data_type(kind.dtype)
    return builder.gep(made.data, [index]), element, context.get_abi_sizeof(element)


@_form_of(_put4_in_python)
def put4(typing_context, shared, i, j, numbers):
    """Type and code of `_put4_in_python`."""

    def codegen(context, builder, signature, arguments):
        *place, numbers = arguments
        _emit_store4(builder, *_place(context, builder, shared, *place), _elements(builder, numbers))
        return context.get_dummy_value()

    return types.void(shared, types.int64, types.int64, numbers), codegen


# The register tile: tuples, whose elements have names of their own in LLVM and so are registers.
#
#     steps(n, …)         c[i, j] = fma(a[i], b[j], c[i, j]), c (m · n) row by row, n times
#     row(c, i, like)     row i of c, as many numbers as `like` has


def _outer_in_python(a, b, c):
    """Add the outer product of a (m) and b (n) to c (m · n), with fused multiply-adds."""
    each = np.array(a)[:, None], np.array(b)[None, :], np.array(c).reshape(len(a), len(b))
    return tuple(fused(*each).reshape(-1))


def _row_in_python(c, i, like):
    """Row i of c (m · n), of as many numbers n as `like` has."""
    return c[i * len(like) : (i + 1) * len(like)]


@np.errstate(all="ignore")
def fused(a, b, c):
    """a · b + c rounded once, for arrays of one type; the same numbers as `elementary.fma`, at NumPy's speed.

    float32: as there, the exact product plus c is rounded to odd in float64, then to float32.
    """
    if a.dtype != np.float32:
        return np.vectorize(fma, otypes=[a.dtype])(a, b, c)
    product, c = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)
    odd = np.nextafter(total, np.copysign(np.inf, error))
    inexact = np.isfinite(total) & (error != 0) & (total.view(np.int64) % 2 == 0)
    return np.where(inexact, odd, total).astype(np.float32)


def steps(n, half_a, half_b):
    """A function ``steps(a, b, s, i, j, c)``: n outer products, of rows s … s + n − 1 of slices a and b.

    Of numbers i … i + 3 of a row of a and j … j + 3 of one of b; of those `half_a` and `half_b` further on
    too, where these are not 0. All n are written out, so that neither LLVM nor ptxas is left a choice.
    """
    of_a, of_b = ((0, half) if half else (0,) for half in (half_a, half_b))

    def in_python(a, b, s, i, j, c):
        for step in range(s, s + n):
            left = np.concatenate([a[step, i + h : i + h + 4] for h in of_a])
            right = np.concatenate([b[step, j + h : j + h + 4] for h in of_b])
            c = _outer_in_python(left, right, c)
        return c

    @_form_of(in_python)
    def steps(typing_context, a, b, s, i, j, c):
        def codegen(context, builder, signature, arguments):
            a_slice, b_slice, s, i, j, start = arguments
            total = _elements(builder, start)
            fused = _fma(builder, total[0].type)
            for step in range(n):
                line = builder.add(s, _INT64(step))
                left, right = (
                    [
                        value
                        for h in halves
                        for value in _emit_load4(
                            builder, *_place(context, builder, kind, shared, line, builder.add(at, _INT64(h)))
                        )
                    ]
                    for kind, shared, at, halves in ((a, a_slice, i, of_a), (b, b_slice, j, of_b))
                )
                pairs = [(x, y) for x in left for y in right]
                total = [builder.call(fused, [x, y, z]) for (x, y), z in zip(pairs, total)]
            return context.make_tuple(builder, c, total)

        return c(a, b, types.int64, types.int64, types.int64, c), codegen

    return steps


def _fma(builder, element):
    name = "llvm.fma.f32" if element == ir.FloatType() else "llvm.fma.f64"
    kind = ir.FunctionType(element, [element] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, name)


@_form_of(_row_in_python)
def row(typing_context, c, i, like):
    """Type and code of `_row_in_python`."""

    def codegen(context, builder, signature, arguments):
        c, i, _ = arguments
        values, n = _elements(builder, c), len(like)
        chosen = values[:n]
        for k in range(1, len(values) // n):
            here = builder.icmp_signed("==", i, ir.Constant(i.type, k))
            chosen = [builder.select(here, values[k * n + j], chosen[j]) for j in range(n)]
        return context.make_tuple(builder, like, chosen)

    return like(c, i, like), codegen


# A parameter and its optimizer's states, or the numbers of a hyper tuple: numbers at one stride, as a tuple.


def column(n):
    """(load, store): ``load(address, stride, dtype)`` -> n numbers, ``store(address, stride, numbers)``.

    Number s lies at ``address + s * stride``, stride in bytes.
    """

    def load_in_python(address, stride, dtype):
        return tuple(array(address + s * stride, 1, dtype)[0] for s in range(n))

    def store_in_python(address, stride, numbers):
        for s in range(n):
            array(address + s * stride, 1, type(numbers[s]))[0] = numbers[s]

    def places(builder, address, stride, element):
        for s in range(n):
            here = builder.add(address, builder.mul(stride, ir.Constant(stride.type, s)))
            yield builder.inttoptr(here, ir.PointerType(element, _GLOBAL))

    @_form_of(load_in_python)
    def load(typing_context, address, stride, dtype):
        result = types.UniTuple(dtype.dtype, n)

        def codegen(context, builder, signature, arguments):
            element = context.get_data_type(result.dtype)
            found = [builder.load(place) for place in places(builder, *arguments[:2], element)]
            return context.make_tuple(builder, result, found)

        return result(types.int64, types.int64, dtype), codegen

    @_form_of(store_in_python)
    def store(typing_context, address, stride, numbers):
        def codegen(context, builder, signature, arguments):
            values = _elements(builder, arguments[2])
            for value, place in zip(values, places(builder, *arguments[:2], values[0].type)):
                builder.store(value, place)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, numbers), codegen

    return load, store
