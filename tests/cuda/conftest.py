"""The device that tests run on: Numba's simulator, or a GPU where there is one; else they are skipped."""

import sys

import numpy as np
import pytest

from fastbp.cuda import device as the_device


def shared_array(self, shape, dtype, alignment=None):
    """One array for a line of a kernel, whichever thread is first; the simulator's own may give two."""
    if shape == 0:
        return np.frombuffer(self._dynshared.data, dtype=np_type(dtype))
    caller = sys._getframe(1)
    place = caller.f_code.co_filename, caller.f_lineno
    return self._allocations.setdefault(place, np.empty(shape, np_type(dtype)))


def np_type(dtype):
    """NumPy's type for one of Numba's, or for itself."""
    from numba.np import numpy_support

    return dtype if isinstance(dtype, (type, np.dtype)) else numpy_support.as_dtype(dtype)


@pytest.fixture(scope="session")
def device():
    """The name to hand to ``device=``."""
    if the_device.missing():
        pytest.skip(the_device.missing())
    if the_device.SIMULATED:  # a Python thread stands for each of the GPU's: let them take turns often
        sys.setswitchinterval(1e-4)
        from numba.cuda.simulator.kernelapi import FakeCUDAShared

        FakeCUDAShared.array = shared_array
    return "cuda"


@pytest.fixture
def numba_cuda():
    """Skip where there is no compiler for GPUs."""
    if the_device.cuda is None:
        pytest.skip(the_device.missing())
    if the_device.SIMULATED:
        pytest.skip("the simulator compiles nothing")
