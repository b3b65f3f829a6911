"""A parameter and its optimizer's states: numbers at one stride, loaded and stored as a tuple.

Number s of parameter i lies at ``address + s * stride + i * size``, stride in bytes: runs of parameters, of
first states and so on lie one behind the other, as in the plan's arena. The runs do not overlap, and LLVM is
told so. Otherwise it would check that before every loop, and with more than two states it would not vectorise
the loop at all.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_MOST_NUMBERS = 4


@intrinsic
def load_column(typingctx, dtype, address, stride, numbers, i):
    """The tuple (w, *states) of parameter i; `numbers` is a constant of the code."""
    if not isinstance(numbers, types.IntegerLiteral):
        return None  # Numba asks again with the constant
    result = types.UniTuple(dtype.dtype, numbers.literal_value)

    def codegen(context, builder, signature, arguments):
        _, address, stride, _, i = arguments
        values = [
            _of_run(builder, builder.load(place), s)
            for s, place in _places(context, builder, result, address, stride, i)
        ]
        return context.make_tuple(builder, result, values)

    return result(dtype, address, stride, numbers, i), codegen


@intrinsic
def store_column(typingctx, address, stride, i, values):
    """Write the tuple (w, *states) of parameter i."""

    def codegen(context, builder, signature, arguments):
        address, stride, i, tuple_of_values = arguments
        for s, place in _places(context, builder, values, address, stride, i):
            _of_run(builder, builder.store(builder.extract_value(tuple_of_values, s), place), s)
        return context.get_dummy_value()

    return types.void(address, stride, i, values), codegen


def _places(context, builder, kind, address, stride, i):
    """(s, code for the pointer to number s of parameter i), for each s."""
    pointer = context.get_data_type(kind.dtype).as_pointer()
    for s in range(len(kind)):
        run = builder.add(address, builder.mul(stride, ir.IntType(64)(s)))
        yield s, builder.gep(builder.inttoptr(run, pointer), [i])


def _of_run(builder, access, s):
    """Tell LLVM that a load or store touches run s and no other run."""
    module = builder.module
    domain = module.add_metadata(["runs of parameters and states"])
    runs = [module.add_metadata([f"run {s}", domain]) for s in range(_MOST_NUMBERS)]
    access.set_metadata("alias.scope", module.add_metadata([runs[s]]))
    access.set_metadata("noalias", module.add_metadata(runs[:s] + runs[s + 1 :]))
    return access
