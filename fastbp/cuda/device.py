"""The one place that imports numba-cuda: the device, its memory, and how a kernel is compiled for it.

Nothing here runs at import, and without numba-cuda the module still loads, so that `require` can say what is
missing. With ``NUMBA_ENABLE_CUDASIM=1`` Numba's simulator stands for the device.

Bits. By default libNVVM fuses products and sums where it likes, and ptxas does so with instructions whose
rounding is left open. Kernels here are compiled with ``fma=0``: every product and sum is rounded as it is
written, and is one instruction only where a formula says ``fma``, as on the CPU.
"""

import importlib.util
import os
import threading
import warnings
from functools import cache

import numpy as np
from numba import types
from numba.extending import register_jitable

from fastbp.formulas.activations import ACTIVATIONS

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"

if importlib.util.find_spec("numba_cuda"):
    from numba import cuda
else:
    cuda = None

# What every kernel is called with: the addresses of an operation's record and of the context.
ARGUMENTS = (types.int64, types.int64)

_lock = threading.RLock()


def missing():
    """What is missing for ``device="cuda"``, as a sentence; None where nothing is."""
    if cuda is None:
        return (
            'device="cuda" needs numba-cuda, which is not installed: '
            "python -m pip install 'fastbp[cuda]' brings it"
        )
    if not SIMULATED and not cuda.is_available():
        return 'device="cuda" needs an NVIDIA GPU and its driver, and numba-cuda finds none on this machine'
    return None


def require():
    """Raise if there is no device to run on.

    Raises
    ------
    RuntimeError
        In one sentence: numba-cuda is not installed, or finds no GPU or driver.
    """
    sentence = missing()
    if sentence:
        raise RuntimeError(sentence)


# Decorator: a function that kernels of any module call and that speaks of threads. The simulator has to put
# its own `cuda` into the function's module while it runs.
def block_part(function):
    """Mark a function that kernels call and that itself uses ``cuda.threadIdx`` and the like."""
    if SIMULATED and cuda is not None:
        return cuda.jit(device=True)(function)
    return register_jitable(function)


def kernel(factory, *arguments):
    """The kernel that ``factory(*arguments)`` describes, compiled for this device at its first use."""
    names = " ".join(map(str, arguments)).split()
    named = tuple(ACTIVATIONS[name] for name in names if name in ACTIVATIONS)
    return _kernel(factory, arguments, named)  # a user's activation may be registered anew


@cache
def _kernel(factory, arguments, activations):
    function = factory(*arguments)
    if SIMULATED:
        return cuda.jit(function)
    dispatcher = cuda.jit(lto=False)(function)
    with _Separate():
        dispatcher.compile(ARGUMENTS)
    return dispatcher


def compile_ptx(factory, arguments, *capabilities):
    """The PTX of a kernel for compute capabilities such as (9, 0), one text for each; needs no device.

    Types are inferred once for all: that takes most of the time. numba-cuda's public `compile` does not.
    """
    from numba.cuda import compiler

    with _Separate(), _Capability(capabilities[0]):
        library, _ = compiler._compile_pyfunc_with_fixup(
            factory(*arguments), ARGUMENTS, device=False, cc=capabilities[0], abi="numba"
        )
        return [library.get_asm_str(cc=capability) for capability in capabilities]


class _Separate:
    """While it is open, libNVVM keeps products and sums separate. numba-cuda has no option for it."""

    def __enter__(self):
        from numba.cuda.cudadrv import nvvm

        _lock.acquire()
        self._unit, self._begin = nvvm.CompilationUnit, nvvm.CompilationUnit.__init__
        begin = self._begin
        self._unit.__init__ = lambda unit, options: begin(unit, {**options, "fma": 0})

    def __exit__(self, *exception):
        self._unit.__init__ = self._begin
        _lock.release()


class _Capability:
    """Stands in for the current device, which numba-cuda asks for while it compiles functions of a kernel."""

    def __init__(self, compute_capability):
        self.compute_capability = compute_capability

    def __enter__(self):
        from numba.cuda import dispatcher

        self._module, self._current = dispatcher, dispatcher.get_current_device
        dispatcher.get_current_device = lambda: self

    def __exit__(self, *exception):
        self._module.get_current_device = self._current


def configured(compiled, blocks, threads, shared=0, stream=0):
    """A compiled kernel with its grid, and bytes of shared memory that it asks for beside its own.

    ``launch(operation, context)`` enqueues it, in a `new_stream` or in the default one (0). numba-cuda warns
    of small grids, which are what small networks have.
    """
    grid = blocks, threads, stream, shared
    if SIMULATED:  # there a grid belongs to the kernel, not to the launch
        return lambda operation, context: compiled[grid](operation, context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compiled[grid]


def new_stream():
    """A queue whose launches run beside those of other such queues.

    It has an order with the default one, which copies are in: each waits for what the other was given before.
    """
    return cuda.stream()


class Memory:
    """A piece of the device's memory, zeros at first: `address` of the first byte, a multiple of 256.

    Copies are in the order of the launches. Those from and to the host return when they are done.
    """

    def __init__(self, n_bytes):
        self._begin(np.zeros(n_bytes, np.uint8))

    @classmethod
    def of(cls, array):
        """One that begins with what is in a host array, C-contiguous: sent once, no zeros before."""
        source, made = np.ascontiguousarray(array).reshape(-1).view(np.uint8), cls.__new__(cls)
        made._begin(source if source.size else np.zeros(256, np.uint8))
        return made

    def _begin(self, content):
        self.n_bytes = content.size
        if SIMULATED:
            memory = np.zeros(content.size + 256, np.uint8)
            start = -memory.ctypes.data % 256
            self._host = memory[start : start + content.size]
            self._host[:] = content
            self.address = self._host.ctypes.data
        else:
            self._bytes = cuda.to_device(content)
            self.address = self._bytes.device_ctypes_pointer.value

    def write(self, offset, array):
        """Copy a host array, C-contiguous, to an offset in bytes."""
        source = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if SIMULATED:
            self._host[offset : offset + source.size] = source
        elif source.size:
            self._bytes[offset : offset + source.size].copy_to_device(source)

    def read(self, offset, array):
        """Fill a host array, C-contiguous, from an offset in bytes, when all that was enqueued is done."""
        target = array.reshape(-1).view(np.uint8)
        if SIMULATED:
            target[:] = self._host[offset : offset + target.size]
        elif target.size:
            self._bytes[offset : offset + target.size].copy_to_host(target)

    def copy(self, offset, other, other_offset, n_bytes):
        """Copy so many bytes of another piece to an offset; the host takes no part."""
        if SIMULATED:
            self._host[offset : offset + n_bytes] = other._host[other_offset : other_offset + n_bytes]
        elif n_bytes:
            source = other._bytes[other_offset : other_offset + n_bytes]
            self._bytes[offset : offset + n_bytes].copy_to_device(source)


def wait():
    """Return when the device has done all that was enqueued."""
    if not SIMULATED:
        cuda.synchronize()


def mark():
    """A place in the queue: a function that returns when the device has passed it."""
    if SIMULATED:
        return lambda: None
    event = cuda.event(timing=False)
    event.record()
    return event.synchronize
