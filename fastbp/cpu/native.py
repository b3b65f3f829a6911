"""What Numba cannot say: arrays at addresses, calls of kernels by address, atomics.

An address is an int64. A kernel turns one into an array with :func:`array`.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable
from numba.np import arrayobj

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


# Decorator: a function that kernels inline. No wrapper for calls from C: a tenth of the time of compilation.
part = register_jitable(no_cfunc_wrapper=True)


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
        emit_prefetch(builder, *arguments, level=2)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def relax(typingctx):
    """Tell the core that this is a spin loop (x86 ``pause``, AArch64 ``yield``; nothing elsewhere)."""

    def codegen(context, builder, signature, arguments):
        triple = builder.module.triple
        if triple.startswith(("x86_64", "i686")):
            builder.call(declare(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        elif triple.startswith(("aarch64", "arm64")):
            builder.call(declare(builder, "llvm.aarch64.hint", ir.VoidType(), [_INT32]), [_INT32(1)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def yield_to_others(typingctx):
    """Let the operating system run another thread (``sched_yield``; ``SwitchToThread`` on Windows)."""

    def codegen(context, builder, signature, arguments):
        name = "SwitchToThread" if "windows" in builder.module.triple else "sched_yield"
        builder.call(declare(builder, name, _INT32, []), [])
        return context.get_dummy_value()

    return types.void(), codegen


# For code that emits LLVM's instructions itself


def emit_prefetch(builder, address, level):
    """Ask for the cache line at an address, which may be any, to be brought to the cache of this level."""
    byte = ir.IntType(8).as_pointer()
    kind = [byte, _INT32, _INT32, _INT32]
    reading = [_INT32(0), _INT32(4 - level), _INT32(1)]  # a read, of this locality, of data
    line = builder.inttoptr(address, byte)
    builder.call(declare(builder, "llvm.prefetch.p0", ir.VoidType(), kind), [line, *reading])


def declare(builder, name, result, arguments):
    """LLVM's function of this name, which the module is told of once."""
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)
