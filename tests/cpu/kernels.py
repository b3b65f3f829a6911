"""Kernels called from Python, on records filled from names: the tests' way in, below the plan."""

import numpy as np
import pytest

from fastbp.cpu import gemm
from fastbp.cpu.cache import address
from fastbp.cpu.machine import this_machine
from fastbp.cpu.records import CONTEXT, OPERATION
from fastbp.cpu.team import function
from fastbp.layout import aligned_zeros

REALS = ("float32", "float64")

# Compiling is what these tests cost. Each kernel is compiled in float64; in float32 by default those made
# from these formulas, the others by `-m slow`.
IN_FLOAT32 = {
    "relu", "sigmoid", "tanh", "gelu", "softplus", "silu", "sgd", "momentum", "classes", "probabilities",
    "mean_squared_error", "binary_cross_entropy", "poisson",
}  # fmt: skip


# One optimizer for each number of states, and what was there first: where all optimizers differ only in a
# formula that is tested by itself, the others run by `-m slow`.
DIFFERENT_OPTIMIZERS = {"sgd", "momentum", "nesterov", "adam", "amsgrad"}


def cases(names, *, different=None):
    """(name, real) to parametrize by; a name may be a tuple of arguments.

    different : names that are not slow; by default all of them.
    """
    known = {name: set(name if isinstance(name, tuple) else (name,)) for name in names}

    def is_slow(parts, real):
        return (real == "float32" and not parts <= IN_FLOAT32) or not parts <= set(different or parts)

    return [
        pytest.param(name, real, marks=pytest.mark.slow if is_slow(parts, real) else ())
        for name, parts in known.items()
        for real in REALS
    ]


def fill(dtype, fields):
    """A record of these fields; of an array it gets the address."""
    made = aligned_zeros(dtype.itemsize).view(dtype)
    made["address"] = made.ctypes.data
    for name, value in fields.items():
        made[name] = value.ctypes.data if isinstance(value, np.ndarray) else value
    return made


def run(factory, *arguments, op=None, ctx=None, real=None):
    """Run the kernel that ``factory(*arguments)`` describes on records of the fields `op` and `ctx`.

    With `real` they have what every plan puts there: zeros and a one, the matrix product of that type.
    """
    op, ctx = dict(op or {}), dict(ctx or {})
    if real:
        zeros, one = np.zeros(4096, real), np.ones(1, real)
        ctx.update(zeros=zeros, one=one)
        op.setdefault("product", address(gemm.matrix_product, "no", "asks", real))
    operation, context = fill(OPERATION, op), fill(CONTEXT, ctx)
    function(address(factory, *arguments))(operation.ctypes.data, context.ctypes.data)


class Guarded:
    """An ``array`` between two canaries; ``assert_intact()`` says that nobody wrote beside it."""

    def __init__(self, shape, dtype, value=np.nan):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._all = np.full(size + 256, 0xA5, np.uint8)
        self.array = self._all[128 : 128 + size].view(dtype).reshape(shape)
        self.array[...] = value

    def assert_intact(self):
        assert (self._all[:128] == 0xA5).all(), "written before the memory"
        assert (self._all[-128:] == 0xA5).all(), "written behind the memory"


def whole_vectors(n, real):
    """N rounded up to whole vectors."""
    return this_machine().columns(n, real)


def in_panels(matrix, real):
    """A matrix (k, n) in the panels of gemm.py, flat; its columns padded with zeros to whole vectors."""
    k, n = matrix.shape
    padded = np.zeros((k, whole_vectors(n, real)), real)
    padded[:, :n] = matrix
    panels, column = [], 0
    while column < padded.shape[1]:
        width = gemm.width_of_panel(real)(padded.shape[1] - column)
        panels.append(padded[:, column : column + width].ravel())
        column += width
    return np.concatenate(panels)
