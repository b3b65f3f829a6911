"""Compile every kernel that ships, so that nobody waits for one later.

There is no list of kernels: plans are built for tiny networks that between them use every row of every table
and every operation, and building a plan compiles what it needs.
"""

import errno
import itertools
import os
import tempfile
import time
from typing import NamedTuple

from tqdm import tqdm

from .architecture import Architecture
from .cpu import cache, notice
from .division import CHUNK_ROWS
from .formulas.activations import ACTIVATIONS
from .formulas.losses import LOSSES
from .formulas.optimizers import OPTIMIZERS
from .formulas.schedules import SCHEDULES
from .operations import Activation, BatchNorm, Dense, Dropout, LayerNorm, Residual
from .plan import Plan
from .shaping import Shaping

REALS = ("float32", "float64")
EVALUATIONS = ("gradient", "loss", "predict", "logits")  # what a network is asked for beside training

# (sizes, rows of a batch) that plans treat differently: a few rows; so many that gradients are summed in
# chunks; a layer that threads share by columns, whose products ask the memory for what comes next; layers
# whose batch is packed.
SHAPES = [((3, 5, 2), 4), ((3, 5, 2), 4 * CHUNK_ROWS), ((700, 128, 2), 4), ((400, 400, 400), 256)]

# One of each kind of layer that is not dense.
OPERATIONS = [Activation(), Dropout(), LayerNorm(), BatchNorm(), Residual(first=1)]


class Warmed(NamedTuple):
    """What `warm_up` did.

    Attributes
    ----------
    found : int
        Kernels that were on disk.
    compiled : int
        Kernels that were not.
    kept : int
        Those of them that are there now.
    seconds : float
        How long it took.
    """

    found: int
    compiled: int
    kept: int
    seconds: float


def requests(real):
    """(what for, arguments, options) of plans that between them need every kernel of a type of numbers.

    Arguments and options are those of `Plan`; ``real`` is "float32" or "float64".
    """

    def request(
        what, task, *, shape=SHAPES[0], threads=1, activation="relu", loss="mean_squared_error",
        input_scale=1.0, **options,
    ):  # fmt: skip
        sizes, batch_size = shape
        layers = len(sizes) - 1
        architecture = Architecture(
            sizes, (activation,) * layers, (True,) * layers, loss, LOSSES[loss].option_default, real,
            input_scale=input_scale,
        )  # fmt: skip
        options |= {"optimizer": options.get("optimizer", "momentum")} if task == "train" else {}
        return f"{what} {real}", (architecture, task, batch_size, threads), options

    yield request("predict a row", "predict", shape=((3, 5, 2), 1), unpacked=True, staged=True)
    for task in EVALUATIONS:
        shapes = SHAPES if task == "gradient" else SHAPES[:1]
        for shape, threads in itertools.product(shapes, (1, 2)):
            yield request(task, task, shape=shape, threads=threads)
    yield request("gradient of inputs", "gradient", inputs=True)
    for data in ("bytes", "sparse numbers", "sparse bytes"):
        yield request(data, "train", data=data)
    yield request("scaled inputs", "gradient", inputs=True, input_scale=0.5)
    yield request("predict few rows", "predict", unpacked=True)
    for name, shape, threads, materialise in itertools.product(OPTIMIZERS, SHAPES, (1, 2), (False, True)):
        yield request(name, "train", optimizer=name, shape=shape, threads=threads, materialise=materialise)
    for name in OPTIMIZERS:
        yield request(f"{name} of a few units", "train", optimizer=name, shape=((2, 1, 1), 4))
    for name, loss in LOSSES.items():
        for targets in ("classes", "probabilities") if loss.targets == "classes" else ("classes",):
            yield request(name, "loss", loss=name, targets=targets)
        yield request(name, "predict", loss=name)
    yield request("weights of rows", "loss", weighted=True)
    for clip_norm in (0.0, 1.0):
        clip_norm, noise = dict(clip_norm=clip_norm), dict(gradient_noise=1.0, input_noise=1.0)
        shaping = Shaping(((0.0, 0.0),) * 2, (1.0,) * 2, **clip_norm, **noise)
        yield request("shaping of gradients", "train", shaping=shaping)
    for name in ACTIVATIONS:
        yield request(name, "train", activation=name)
    for name in SCHEDULES:
        yield request(name, "train", schedule=name)
    yield from layer_requests(real)


def layer_requests(real):
    """The same for layers that are not dense: each between two that are."""
    for operation in OPERATIONS:
        architecture = Architecture(
            (3, 5, 5, 2), ("relu", "identity", "identity"), (True,) * 3, "mean_squared_error", 0.0, real,
            (Dense(), operation, Dense()),
        )  # fmt: skip
        what = f"{type(operation).__name__} {real}"
        optimizers = OPTIMIZERS if operation.learns else ["momentum"]
        for optimizer, rows, materialise in itertools.product(optimizers, (4, 4 * CHUNK_ROWS), (False, True)):
            options = dict(optimizer=optimizer, materialise=materialise)
            yield what, (architecture, "train", rows, 1), options
        if operation.learns:
            shaping = Shaping(((0.0, 0.0),) * 3, (0.0,) * 3, clip_norm=1.0)
            yield what, (architecture, "train", 4, 1), dict(optimizer="momentum", shaping=shaping)
        yield what, (architecture, "gradient", 4, 1), {"batch_statistics": True}
        for rows in (4, 4 * CHUNK_ROWS):
            yield what, (architecture, "gradient", rows, 1), {}


def warm_up(reals=REALS, progress=True):
    """Compile and store every kernel that is not stored yet.

    Parameters
    ----------
    reals : sequence of {"float32", "float64"}
        Types of numbers to compile for.
    progress : bool
        Whether to draw a progress bar, where stderr is a terminal.

    Returns
    -------
    Warmed

    Raises
    ------
    OSError
        If kernels cannot be kept, before anything is compiled.
    """
    require_a_place()
    notice.silence()
    wanted = [request for real in reals for request in requests(real)]
    before, start = dict(cache.counts), time.perf_counter()
    with tqdm(wanted, desc="compiling", unit="", disable=None if progress else True, leave=False) as bar:
        for what, arguments, options in bar:
            bar.set_postfix_str(what)
            Plan(*arguments, **options)
    counts = {name: n - before[name] for name, n in cache.counts.items()}
    return Warmed(**counts, seconds=time.perf_counter() - start)


# Bytes without which it is not worth beginning: some of the larger kernels.
SPACE = 1 << 20


def require_a_place():
    """Raise OSError, with a sentence, where the cache is switched off or cannot be written, or is full."""
    folder = cache.directory()
    if folder is None:
        raise OSError(
            "the kernel cache is switched off, so there is nothing to warm up: FASTBP_CACHE_DIR is empty, "
            "the user has no home, or the sources of fastbp are not there as files; "
            "FASTBP_CACHE_DIR=/some/folder names a place"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(SPACE))
    except OSError as error:
        raise OSError(
            f"the kernel cache {str(folder)!r} cannot be written "
            f"({os.strerror(error.errno or errno.EIO)}); FASTBP_CACHE_DIR names another place"
        ) from None
