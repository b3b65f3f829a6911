"""The device that tests run on: Numba's simulator, or a GPU where there is one; else they are skipped."""

import sys

import pytest

from fastbp.cuda import device as the_device


@pytest.fixture(scope="session")
def device():
    """The name to hand to ``device=``."""
    if the_device.missing():
        pytest.skip(the_device.missing())
    if the_device.SIMULATED:  # a Python thread stands for each of the GPU's: let them take turns often
        sys.setswitchinterval(1e-4)
    return "cuda"


@pytest.fixture
def numba_cuda():
    """Skip where there is no compiler for GPUs."""
    if the_device.cuda is None:
        pytest.skip(the_device.missing())
    if the_device.SIMULATED:
        pytest.skip("the simulator compiles nothing")
