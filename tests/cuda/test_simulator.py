"""The tests of this folder in Numba's simulator, in a process of its own: it is chosen before any import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastbp.cuda import device

FOLDER = Path(__file__).parent


@pytest.mark.skipif(device.cuda is None, reason="numba-cuda is not installed")
@pytest.mark.skipif(device.SIMULATED, reason="this is the simulator")
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_everything_in_the_simulator(which):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", which, FOLDER],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}, cwd=FOLDER.parents[1], capture_output=True, text=True,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
