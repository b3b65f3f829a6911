"""What is said where there is no device, and that importing asks for none."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastbp
from fastbp.cuda import device

X, Y = np.zeros((4, 2)), np.zeros((4, 1))


def network():
    return fastbp.Network([2, 3, 1], seed=0)


@pytest.mark.parametrize(
    "ask",
    [
        lambda net: net.predict(X, device="cuda"),
        lambda net: net.logits(X, device="cuda"),
        lambda net: net.gradient(X, Y, device="cuda"),
        lambda net: net.loss(X, Y, device="cuda"),
        lambda net: net.evaluate(X, Y, device="cuda"),
        lambda net: fastbp.train(net, X, Y, device="cuda"),
        lambda net: fastbp.train_many([net], X, Y, device="cuda"),
    ],
    ids=["predict", "logits", "gradient", "loss", "evaluate", "train", "train_many"],
)
def test_without_numba_cuda_one_sentence_says_what_to_do(ask, monkeypatch):
    monkeypatch.setattr(device, "cuda", None)
    net = network()
    before = net.parameters.copy()
    with pytest.raises(RuntimeError, match=r"which is not installed: .*'fastbp\[cuda\]' brings it"):
        ask(net)
    assert np.array_equal(net.parameters, before)


def test_without_a_driver_too(numba_cuda):
    if device.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RuntimeError, match="needs an NVIDIA GPU and its driver"):
        fastbp.train(network(), X, Y, device="cuda")


@pytest.mark.parametrize(
    ("how", "grid"), [((), (2, 64, 0, 0)), ((48,), (2, 64, 0, 48)), ((48, "a"), (2, 64, "a", 48))]
)
def test_a_launch_has_its_grid_its_memory_and_its_stream(how, grid):
    class Compiled:
        def __getitem__(self, grid):
            return lambda operation, context: (grid, operation, context)

    assert device.configured(Compiled(), 2, 64, *how)(1, 2) == (grid, 1, 2)


def test_devices_have_names():
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        network().predict(X, device="gpu")


def test_numba_cuda_is_imported_in_one_place():
    found = set()
    for file in Path(fastbp.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {file.name for name in names if name.startswith(("numba.cuda", "numba_cuda"))}
    assert found == {"device.py"}


def test_importing_asks_for_no_gpu():
    code = "import fastbp, sys; assert not {'numba.cuda', 'numba_cuda'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_lbfgs_is_refused(device):
    with pytest.raises(ValueError, match="LBFGS is run by SciPy on the CPU"):
        fastbp.train(network(), X, Y, optimizer=fastbp.LBFGS(), device=device)
