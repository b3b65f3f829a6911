"""``python -m fastbp.cuda check``: is it right on this GPU, and how fast?

First the tests of ``tests/cuda``, where they are at hand; then networks from tiny to large are trained on CPU
and GPU, compared bit for bit, and timed, beside PyTorch where that is installed: eager, and compiled with
CUDA graphs. What it yields is a table in Markdown.
"""

import importlib.util
import itertools
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastbp
from fastbp.cuda.device import SIMULATED, cuda

EPOCHS = 3


class Case(NamedTuple):
    """A training: sizes, hidden activation, rows of a batch, of an epoch."""

    sizes: tuple
    activation: str
    batch: int
    rows: int

    @property
    def name(self):
        """As in the table."""
        return f"{'-'.join(map(str, self.sizes))} {self.activation}, batch {self.batch}"

    def data(self):
        """Rows, and classes where there are ten outputs, else numbers."""
        draw = np.random.default_rng(0)
        x = draw.standard_normal((self.rows, self.sizes[0]), np.float32)
        if self.sizes[-1] == 10:
            return x, draw.integers(0, 10, self.rows)
        return x, draw.standard_normal((self.rows, self.sizes[-1]), np.float32)

    def network(self):
        """One with the first weights that every library begins from."""
        loss = "softmax_cross_entropy" if self.sizes[-1] == 10 else "mean_squared_error"
        return fastbp.Network(list(self.sizes), activation=self.activation, loss=loss, seed=0)


# The networks of benchmarks/peers/cases.py.
CASES = [
    Case((2, 8, 1), "tanh", 4, 1024), Case((64, 32, 10), "relu", 32, 4096),
    Case((32, 64, 64, 1), "tanh", 64, 4096), Case((784, 128, 10), "relu", 128, 8192),
    Case((784, 1024, 1024, 10), "relu", 256, 8192), Case((1024, 1024, 1024, 1024), "gelu_tanh", 1024, 8192),
    Case((4, 32, 16, 4), "tanh", 10000, 10000),
]  # fmt: skip
TINY_CASES = [Case((3, 5, 10), "tanh", 4, 9)]  # for the simulator


def check(folder=Path("tests/cuda")):
    """Yield (line, whether it is good news) one by one."""
    device = "Numba's simulator" if SIMULATED else cuda.get_current_device().name
    device = device.decode() if isinstance(device, bytes) else device
    yield (
        f"fastbp {fastbp.__version__}, {device}, {platform.platform()}, Python {platform.python_version()}",
        True,
    )
    if folder.is_dir() and not SIMULATED:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", folder], check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        yield done.stdout.strip().splitlines()[-1], done.returncode == 0
    columns = ["network", "same bits", "GPU, µs per step", "CPU", "PyTorch eager", "PyTorch compiled"]
    yield "| " + " | ".join(columns) + " |", True
    yield "|---" * len(columns) + "|", True
    for case in TINY_CASES if SIMULATED else CASES:
        same, cells = _compare(case)
        yield "| " + " | ".join([case.name, "yes" if same else "NO", *cells]) + " |", same


def _compare(case):
    """(whether both devices train to the same bits, microseconds of a step as text)."""
    x, y = case.data()
    steps, trained, cells = -(-case.rows // case.batch), [], []
    for device in ("cuda", "cpu"):
        net = case.network()
        history = fastbp.train(
            net, x, y, epochs=EPOCHS, batch_size=case.batch, optimizer=fastbp.SGD(1e-3, momentum=0.9),
            device=device, progress=False,
        )  # fmt: skip
        trained.append((net.parameters.tobytes(), history.loss))
        cells.append(f"{min(history.seconds) / steps * 1e6:.3g}")
    if not importlib.util.find_spec("torch"):
        return trained[0] == trained[1], [*cells, "", ""]
    return trained[0] == trained[1], [
        *cells,
        *(_pytorch(case, x, y, steps, how) for how in ("eager", "compiled")),
    ]


def _pytorch(case, x, y, steps, how):
    """Microseconds of a step of PyTorch on the same device, data and weights; empty where it cannot."""
    import torch

    if not torch.cuda.is_available():
        return ""
    layers = []
    kinds = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "gelu_tanh": lambda: torch.nn.GELU("tanh")}
    for layer in case.network().layers:
        linear = torch.nn.Linear(layer.n_in, layer.n_out)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(layer.W.T.copy()))
            linear.bias.zero_()
        layers += [linear, kinds[case.activation]()]
    model = torch.nn.Sequential(*layers[:-1]).cuda()
    loss_of = torch.nn.CrossEntropyLoss() if y.ndim == 1 else torch.nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
    x, y = torch.from_numpy(x).cuda(), torch.from_numpy(y).cuda()

    def forward_and_backward(rows, targets):
        loss = loss_of(model(rows), targets)
        loss.backward()
        return loss

    if how == "compiled":
        forward_and_backward = torch.compile(forward_and_backward, mode="reduce-overhead")
    best = float("inf")
    for _ in range(EPOCHS):
        torch.cuda.synchronize()
        start, order = time.perf_counter(), torch.randperm(len(x), device="cuda")
        for first, last in itertools.pairwise([*range(0, len(x), case.batch), len(x)]):
            rows = order[first:last]
            optimizer.zero_grad(set_to_none=True)
            forward_and_backward(x[rows], y[rows])
            optimizer.step()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return f"{best / steps * 1e6:.3g}"
