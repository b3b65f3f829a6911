"""Small networks on a GPU, many at once: `train_small`, a block of threads for each; see ``cuda/small.py``.

Of one alone that is how a `DevicePlan` trains it.
"""

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fastbp.cuda import device, small
from fastbp.cuda.elementwise import ROOM
from fastbp.division import chunk_rows
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.optimizers import OPTIMIZERS

# A launch lasts about this long: rarely enough to cost nothing, often enough to show progress and to hear
# Ctrl-C. The first one tells how long a step takes.
SECONDS_PER_LAUNCH = 0.25
FIRST_STEPS = 64

# Numbers for the losses of the epochs of a launch, at most.
_MOST_LOSSES = 1 << 22


class Small(NamedTuple):
    """A network and how it is trained.

    architecture : plan.Architecture. parameters : array (n_parameters,), changed in place. x, y : data as
    `Network.check_data` returns them; networks may share them. optimizer : row of ``OPTIMIZERS``; settings :
    its float64 settings. batch_size, seed, shuffle, careful : as in a plan.
    """

    architecture: object
    parameters: np.ndarray
    x: np.ndarray
    y: np.ndarray
    optimizer: str
    settings: tuple
    batch_size: int
    seed: int
    shuffle: bool = True
    careful: bool = True

    @property
    def kernel(self):
        """`kernel_of` it."""
        targets = "classes" if self.y.ndim == 1 else "probabilities"
        return kernel_of(self.architecture, targets, self.optimizer)

    def why_not(self):
        """Why it cannot be trained by one block, as the end of a sentence; None where it can."""
        if self.x.dtype != self.architecture.dtype:
            return "its inputs are scaled"
        return why_not(self.architecture, self.batch_size)


def kernel_of(architecture, targets, optimizer):
    """What a kernel is made of: hidden and last activation, loss, kind of targets, optimizer, type."""
    *hidden, output = architecture.activations
    names = hidden[0] if hidden else "identity", output, architecture.loss, targets
    return (*names, optimizer, architecture.real)


def why_not(architecture, batch_size):
    """Why a network cannot be trained by one block, as the end of a sentence; None where it can."""
    if not all(map(architecture.is_dense, range(architecture.n_layers))):
        return "it has other layers than Dense"
    if len(set(architecture.activations[:-1])) > 1:
        return "its hidden layers have different activations"
    if getattr(architecture, "input_scale", 1.0) != 1:
        return "its inputs are scaled"
    n_bytes = shared_bytes(architecture, batch_size)
    if n_bytes > small.MOST_BYTES:
        return f"a block's memory has {small.MOST_BYTES} bytes, and a step takes {n_bytes}"
    return None


def shared_bytes(architecture, batch_size):
    """Bytes of a block's memory that a step works in."""
    return _places(architecture, batch_size)[0] * architecture.dtype.itemsize


def _places(architecture, batch_size):
    """`small.elements` of a network."""
    keeps_z = [ACTIVATIONS[name].keeps == "z" for name in architecture.activations]
    n_parameters = architecture.parameter_offsets()[-1]
    return small.elements(architecture.sizes, keeps_z, n_parameters, batch_size)


def describe(architecture, batch_size):
    """(a LAYER record for each layer, the fields of a NETWORK record that follow from the architecture)."""
    offsets, (_, row_losses, places) = architecture.parameter_offsets(), _places(architecture, batch_size)
    layers = np.zeros(architecture.n_layers, small.LAYER)
    layers["n_in"], layers["n_out"] = architecture.sizes[:-1], architecture.sizes[1:]
    layers["use_bias"], layers["w"] = architecture.biases, offsets[:-1]
    layers["x"], layers["z"], layers["y"], layers["dz"] = zip(*places, strict=True)
    fields = dict(
        n_layers=len(layers), n_parameters=offsets[-1], row_losses=row_losses,
        chunk_rows=chunk_rows(architecture, batch_size),
    )  # fmt: skip
    return layers, fields


@dataclass
class Trained:
    """What has become of a network.

    losses, seconds : list of float
        Mean loss of each epoch, and how long it took.
    rows, steps : int
        Done in all, those of an epoch begun included.
    diverged : bool
        Whether a loss was not finite: the last one. The parameters are those of before the launch.
    known : int
        Epochs before the launch in which it diverged.
    """

    losses: list = field(default_factory=list)
    seconds: list = field(default_factory=list)
    rows: int = 0
    steps: int = 0
    diverged: bool = False
    known: int = 0
    begun: tuple = (0.0, 0.0)  # loss and seconds of the epoch begun, so far


def train_small(networks, epochs, show=None):
    """Train networks side by side, to the bits of each alone on the CPU.

    Parameters
    ----------
    networks : list of Small
        For each `Small.why_not` is None.
    epochs : int or list of int
        For all networks, or for each.
    show : callable, optional
        Called with what has become of all so far, a list of `Trained`, a few times a second; if it returns
        True, that is the end.

    Returns
    -------
    list of Trained
    """
    groups, each = {}, np.broadcast_to(epochs, len(networks))
    trained = [Trained() for _ in networks]
    for index, network in enumerate(networks):
        groups.setdefault(network.kernel, []).append(index)
    launches = [
        _Launch(kernel, *([values[i] for i in group] for values in (networks, each, trained)))
        for kernel, group in groups.items()
    ]
    steps = FIRST_STEPS
    while any(launch.goes_on for launch in launches):
        start = time.perf_counter()
        for launch in launches:
            launch.enqueue(steps)
        device.wait()
        elapsed = max(time.perf_counter() - start, 1e-6)
        for launch in launches:
            launch.collect(elapsed)
        steps = max(1, int(steps * SECONDS_PER_LAUNCH / elapsed))
        if show is not None and show(trained):
            break
    for launch in launches:
        launch.finish()
    return trained


class _Launch:
    """Networks that one kernel trains, and the device's memory for them."""

    def __init__(self, kernel, networks, epochs, trained):
        self._networks, self._writes, self._used, self._shared = networks, [], 0, {}
        self._epochs, self._trained = np.array(epochs), trained
        self._records = np.zeros(len(networks), small.NETWORK)
        self._at = self._take(self._records.nbytes)
        self._parameters = [self._describe(*each) for each in zip(self._records, networks, strict=True)]
        self._memory = device.Memory(self._used)
        for at, array in self._writes:
            self._memory.write(at, array)
        for name in ("layers", "parameters", "settings", "option", "x", "targets", "order", "heads",
                     "following", "hyper"):  # fmt: skip
            self._records[name] += self._memory.address
        n_bytes = max(shared_bytes(each.architecture, each.batch_size) for each in networks)
        self._launch = device.configured(
            device.kernel(small.train_small, *kernel), len(networks), small.THREADS, n_bytes
        )

    def _take(self, n_bytes):
        at, self._used = self._used, -(-(self._used + n_bytes) // 256) * 256
        return at

    def _place(self, array):
        """Where an array will lie; the same array once for all networks."""
        if id(array) not in self._shared:
            self._shared[id(array)] = self._take(array.nbytes)
            self._writes.append((self._shared[id(array)], array))
        return self._shared[id(array)]

    def _describe(self, record, network):
        """Fill the record of a network, with offsets for addresses; returns where its parameters lie."""
        architecture, dtype = network.architecture, network.architecture.dtype
        layers, fields = describe(architecture, network.batch_size)
        for name, value in fields.items():
            record[name] = value
        settings = np.zeros(ROOM)
        settings[: len(network.settings)] = network.settings
        states, n = OPTIMIZERS[network.optimizer].states, len(network.x)
        record["state_bytes"] = state_bytes = -(-network.parameters.nbytes // 16) * 16
        parameters = record["parameters"] = self._take(state_bytes * (1 + states))
        self._writes.append((parameters, network.parameters))
        record["layers"], record["settings"] = self._place(layers), self._place(settings)
        record["option"] = self._place(np.array([architecture.option], dtype))
        record["x"], record["targets"] = self._place(network.x), self._place(network.y)
        record["hyper"], record["ordered"] = self._take(ROOM * dtype.itemsize), 1
        if network.shuffle:
            for name in ("order", "heads", "following"):
                record[name] = self._take(8 * n)
        record["shuffle"], record["careful"] = network.shuffle, network.careful
        record["n_rows"], record["batch_size"] = n, network.batch_size
        record["seed"] = np.uint64(network.seed).astype(np.int64)
        return parameters

    @property
    def goes_on(self):
        """Whether a network has something to do."""
        return bool(self._going.any())

    @property
    def _going(self):
        return (self._records["epoch"] < self._epochs) & (self._records["halt"] == 0)

    def enqueue(self, steps):
        """One launch: at most so many steps of every network that has some to do and has not diverged."""
        records, n = self._records, len(self._networks)
        of_epoch = -(-records["n_rows"] // records["batch_size"])
        steps = min(steps, max(1, _MOST_LOSSES // n - 2) * int(of_epoch.min()))
        touched = 2 + steps // int(of_epoch.min())  # epochs, at most
        self._found = np.zeros((n, touched))
        self._found[:, 0] = [each.begun[0] for each in self._trained]
        self._memory_of_losses = device.Memory(self._found.nbytes)
        self._memory_of_losses.write(0, self._found)
        records["losses"] = self._memory_of_losses.address + 8 * touched * np.arange(n)
        records["last_epoch"] = np.where(self._going, self._epochs, records["epoch"])
        records["last_step"] = records["step"] + steps
        self._before = records.copy()
        self._memory.write(self._at, records)
        self._launch(self._memory.address + self._at, 0)

    def collect(self, elapsed):
        """What a launch of so many seconds has made of each network."""
        self._memory.read(self._at, self._records)
        self._memory_of_losses.read(0, self._found)
        for trained, before, now, sums in zip(
            self._trained, self._before, self._records, self._found, strict=True
        ):
            n, completed = int(now["n_rows"]), int(now["epoch"] - before["epoch"])
            trained.rows, trained.steps = int(now["epoch"] * n + now["start"]), int(now["step"])
            if now["halt"] and not trained.diverged:
                trained.diverged, trained.known = True, len(trained.losses)
            of_row = elapsed / max(1, trained.rows - int(before["epoch"] * n + before["start"]))
            seconds = [trained.begun[1] + of_row * int(n - before["start"]), *[of_row * n] * (completed - 1)]
            trained.losses += (sums[:completed] / n).tolist()
            trained.seconds += seconds[:completed]
            begun = of_row * int(now["start"]) if completed else trained.begun[1] + elapsed
            trained.begun = (float(sums[completed]), begun) if now["start"] else (0.0, 0.0)

    def finish(self):
        """Parameters to the host."""
        for at, network in zip(self._parameters, self._networks, strict=True):
            self._memory.read(at, network.parameters)
