"""Same seed, same bits: for any number of threads, fused or materialised, on every kind of processor."""

import functools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding as llvm

from tests.bits import CASES, MODES, SHAPED_LAYERS, hashes
from tests.samples import LAYERED

# name: its environment, bytes of its vectors
MACHINES = {
    "AVX2": ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+avx"}, 32),
    "SSE": ({"NUMBA_CPU_NAME": "x86-64-v2", "NUMBA_CPU_FEATURES": "+sse4.2"}, 16),
}

expected = functools.cache(lambda real: hashes(real, 1, "fused"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_threads(real, threads, mode):
    assert hashes(real, threads, mode) == expected(real)


def test_cases_differ():
    cases = len(CASES) + len(LAYERED) + len(SHAPED_LAYERS)
    assert len({*expected("float32").values(), *expected("float64").values()}) == 2 * cases


@functools.cache
def started(machine, real):
    """A process that trains on another machine."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bits", real, "2", "fused"],
        env=os.environ | MACHINES[machine][0], cwd=Path(__file__).parent.parent, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86 processors")
@pytest.mark.parametrize("real", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("machine", MACHINES)
def test_machines(machine, real):
    features = llvm.get_host_cpu_features()
    if machine == "AVX2" and not (features["avx2"] and features["fma"]):
        pytest.skip("this processor has no AVX2")
    for other in MACHINES:  # side by side: compiling is what takes its time
        started(other, real)
    out, err = started(machine, real).communicate(timeout=600)
    assert started(machine, real).returncode == 0, err
    vector_bytes, found = json.loads(out)
    assert vector_bytes == MACHINES[machine][1], "this was compiled for another machine"
    assert found == expected(real)
