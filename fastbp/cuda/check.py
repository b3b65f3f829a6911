"""``python -m fastbp.cuda check``: is it right on this GPU, and how fast?

First the tests of ``tests/cuda``, where they are at hand. Then networks from tiny to large, those of the
benchmarks, are trained on CPU and GPU, compared bit for bit, as are predictions, gradients and losses, and
timed, beside PyTorch where that is installed: eager, and compiled with CUDA graphs. What it yields is a table
in Markdown.
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
LEARNING_RATE, MOMENTUM = 1e-3, 0.9


class Case(NamedTuple):
    """A training: sizes, hidden activation, rows of a batch (None: all) and of an epoch, optimizer.

    networks : how many at once.
    """

    sizes: tuple
    activation: str
    batch: int | None
    rows: int
    optimizer: str = "momentum"
    networks: int = 1

    @property
    def name(self):
        """As in the table."""
        batch = f"batch {self.batch}" if self.batch else f"full batch of {self.rows}"
        text = f"{'-'.join(map(str, self.sizes))} {self.activation}, {batch}"
        text += "" if self.optimizer == "momentum" else f", {self.optimizer}"
        return text if self.networks == 1 else f"{self.networks} × {text}"

    @property
    def steps(self):
        """Steps of an epoch."""
        return -(-self.rows // (self.batch or self.rows))

    def data(self):
        """Rows, and classes where there are ten outputs, else numbers."""
        draw = np.random.default_rng(0)
        x = draw.standard_normal((self.rows, self.sizes[0]), np.float32)
        if self.sizes[-1] == 10:
            return x, draw.integers(0, 10, self.rows)
        return x, draw.standard_normal((self.rows, self.sizes[-1]), np.float32)

    def network(self, seed=0):
        """One with the first weights that every library begins from."""
        loss = "softmax_cross_entropy" if self.sizes[-1] == 10 else "mean_squared_error"
        return fastbp.Network(list(self.sizes), activation=self.activation, loss=loss, seed=seed)

    def trained(self, x, y, device):
        """(networks, mean losses of each, microseconds of a step) after `EPOCHS`."""
        optimizer = fastbp.SGD(LEARNING_RATE, momentum=MOMENTUM)
        if self.optimizer == "adam":
            optimizer = fastbp.Adam(LEARNING_RATE)
        options = dict(
            epochs=EPOCHS, batch_size=self.batch, optimizer=optimizer, device=device, progress=False
        )
        nets = [self.network(seed) for seed in range(self.networks)]
        if self.networks == 1:
            history = fastbp.train(*nets, x, y, **options)
            return nets, [history.loss], min(history.seconds) / self.steps * 1e6
        fastbp.train_many([self.network()], x, y, **options)  # compiles
        start = time.perf_counter()
        histories = fastbp.train_many(nets, x, y, **options)
        steps = EPOCHS * self.steps * self.networks
        return nets, [each.loss for each in histories], (time.perf_counter() - start) / steps * 1e6


# The networks of benchmarks/peers/cases.py; and many of one of them.
CASES = [
    Case((2, 1, 1), "sigmoid", 2, 2000), Case((2, 8, 1), "tanh", 4, 4000),
    Case((64, 32, 10), "relu", 32, 8192), Case((32, 64, 64, 1), "tanh", 64, 16384),
    Case((784, 128, 10), "relu", 32, 16384), Case((784, 128, 10), "relu", 128, 16384),
    Case((784, 256, 128, 10), "relu", 128, 16384), Case((784, 1024, 1024, 10), "relu", 256, 8192),
    Case((1024, 1024, 1024, 1024), "gelu_tanh", 1024, 8192),
    Case((4, 32, 16, 4), "tanh", None, 10000, "adam"), Case((64, 32, 10), "relu", 32, 8192, networks=256),
]  # fmt: skip
TINY_CASES = [Case((3, 5, 10), "tanh", 4, 9), Case((2, 3), "tanh", None, 3, "adam", 2)]  # for the simulator


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
        apart, times = compare(case)
        same = "yes" if apart is None else f"NO: {apart:.2g} apart"
        yield "| " + " | ".join([case.name, same, *times]) + " |", apart is None


def compare(case):
    """How a GPU does beside a CPU.

    Returns
    -------
    apart : float or None
        None where all bits are the same: of trained weights and losses, and of what the network then
        predicts, its gradient and its loss. Else the largest difference, as a share of the largest number.
    times : list of str
        Microseconds of a step: of the GPU, the CPU, PyTorch eager and compiled.
    """
    x, y = case.data()
    found, times = [], []
    for device in ("cuda", "cpu"):
        nets, losses, microseconds = case.trained(x, y, device)
        loss, gradient = nets[0].gradient(x, y, device=device)
        found.append(
            [*(net.parameters for net in nets), *map(np.array, losses), nets[0].predict(x, device=device),
             gradient.parameters, np.array([loss, nets[0].loss(x, y, device=device)])]
        )  # fmt: skip
        times.append(f"{microseconds:.3g}")
    apart = None
    if any(a.tobytes() != b.tobytes() for a, b in zip(*found, strict=True)):
        apart = max(_difference(a, b) for a, b in zip(*found, strict=True))
    for how in ("eager", "compiled"):
        times.append("" if case.networks > 1 else _pytorch_microseconds(case, x, y, how))
    return apart, times


def _difference(a, b):
    """The largest difference, as a share of the largest number; NaN and infinity are far from all else."""
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    found = float(np.abs(a - b).max() / np.abs(b).max())
    return found if np.isfinite(found) else float("inf")


def _pytorch_microseconds(case, x, y, how):
    """Microseconds of a step of PyTorch on the same GPU; empty where it is not there, or knows no GPU."""
    if not importlib.util.find_spec("torch"):
        return ""
    import torch

    if not torch.cuda.is_available():
        return ""
    training = PyTorch(case, x, y, how)
    return f"{min(training.epoch() for _ in range(EPOCHS)) / case.steps * 1e6:.3g}"


class PyTorch:
    """The same training by PyTorch: data on the device, rows in another random order in each epoch.

    how : "eager", or "compiled" with CUDA graphs: network and loss, forward and backward. The optimizer is
    one kernel for all parameters.
    """

    def __init__(self, case, x, y, how, where="cuda"):
        import torch

        kinds = {
            "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "sigmoid": torch.nn.Sigmoid,
            "gelu_tanh": lambda: torch.nn.GELU(approximate="tanh"),
        }  # fmt: skip
        self._where, self._batch, self._linears, modules = where, case.batch or case.rows, [], []
        for layer in case.network().layers:
            self._linears.append(torch.nn.Linear(layer.n_in, layer.n_out))
            with torch.no_grad():
                self._linears[-1].weight.copy_(torch.from_numpy(layer.W.T.copy()))
                self._linears[-1].bias.zero_()
            modules += [self._linears[-1], kinds[case.activation]()]
        model = torch.nn.Sequential(*modules[:-1]).to(where)
        if case.optimizer == "adam":
            self._optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
        else:
            self._optimizer = torch.optim.SGD(
                model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=True
            )
        criterion = torch.nn.CrossEntropyLoss() if y.ndim == 1 else torch.nn.MSELoss()
        loss = lambda rows, targets: criterion(model(rows), targets)
        self._loss = torch.compile(loss, mode="reduce-overhead") if how == "compiled" else loss
        self._x, self._y = torch.from_numpy(x).to(where), torch.from_numpy(y).to(where)

    def epoch(self):
        """Train on all rows; returns the seconds it took."""
        import torch

        wait = torch.cuda.synchronize if self._where == "cuda" else lambda: None
        wait()
        start, n = time.perf_counter(), len(self._x)
        order = torch.randperm(n, device=self._where)
        for first, last in itertools.pairwise([*range(0, n, self._batch), n]):
            rows = order[first:last]
            self._optimizer.zero_grad(set_to_none=True)
            self._loss(self._x[rows], self._y[rows]).backward()
            self._optimizer.step()
        wait()
        return time.perf_counter() - start

    def parameters(self):
        """The weights, laid out as `Network.parameters`."""
        arrays = [array for each in self._linears for array in (each.weight.T, each.bias)]
        return np.concatenate([array.detach().cpu().numpy().ravel() for array in arrays])
