"""A network inside other compiled code: functions that ``@njit`` code calls; no Python, no allocation.

They run the same programs that `Network.predict` and `fastbp.train` do, by address.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import config, njit
from numba.extending import register_jitable

from . import validation
from .cpu import step as cpu_step
from .cpu.cache import address
from .cpu.native import array, call
from .cpu.records import REAL, context
from .optimizers import LBFGS, as_optimizer
from .plan import Plan
from .rates import single_steps
from .shaping import shaping_of


class CompiledNetwork(NamedTuple):
    """What `Network.compiled` returns; each function works in memory of its own, for one thread at a time.

    Attributes
    ----------
    predict_into : compiled function
        ``predict_into(x, y)``: writes the prediction for one row x (n_inputs,) to y (n_outputs,). It reads
        the network's own parameters, so changes show at once. ValueError if a size does not fit or x is not
        finite.
    step : compiled function or None
        ``step(x, y) -> loss``: one step of training on the rows x (n, n_inputs), at most `batch_size`, and
        their targets: y (n,) classes for softmax_cross_entropy, else (n, n_outputs). The network has the new
        weights when it returns; the loss is the mean before the step. ValueError, and no weight is changed,
        if a size does not fit or a number is not one that the loss takes. None without an optimizer.
        With ``weighted=True`` it is ``step(x, y, weights)``: the loss of each row times its weight (n,).
        It trains a copy of the parameters, see `take_parameters`. Nothing looks for divergence but the
        caller: the loss is then infinite or NaN, and so are the weights soon.
    take_parameters : compiled function or None
        ``take_parameters()``: lets `step` go on from the weights that the network has now, after somebody
        other than `step` wrote to them. None without an optimizer.
    """

    predict_into: Any
    step: Any
    take_parameters: Any

    def __reduce_ex__(self, protocol):
        """Refuse pickle and copy: the functions know memory by its address."""
        raise TypeError(
            "compiled functions cannot be copied or pickled: copy the network, and call compiled() again"
        )


def compile_network(network, optimizer=None, batch_size=1, weighted=False):
    """See `Network.compiled`."""
    if config.DISABLE_JIT:
        raise RuntimeError("compiled() needs Numba's compiler, which NUMBA_DISABLE_JIT switches off")
    batch_size = validation.positive_integer("batch_size", batch_size)
    if optimizer is not None:
        optimizer = as_optimizer(optimizer)
        if isinstance(optimizer, LBFGS):
            raise ValueError("LBFGS needs all rows at once, so it has no step")
    weighted = validation.boolean("weighted", weighted)
    training = (None, None) if optimizer is None else _training(network, optimizer, batch_size, weighted)
    return CompiledNetwork(_predict_into(network), *training)


def _predict_into(network):
    architecture = network.architecture
    n_in, n_out = architecture.sizes[0], architecture.sizes[-1]
    plan = Plan(architecture, "predict", 1, unpacked=True, staged=True)
    made = np.empty(n_out, network.dtype)
    plan.set(host=network.parameters.ctypes.data, outputs=made.ctypes.data)
    staged, _ = plan.stage()
    row_at, made_at, real = staged.ctypes.data, made.ctypes.data, REAL[architecture.real]
    run, at, program = address(cpu_step.run_section), int(plan.contexts[0]["address"]), plan.by_rows

    @njit(nogil=True)
    def predict_into(x, y):
        if x.ndim != 1:  # known when it is compiled, and what follows is left out then
            raise ValueError("predict_into takes x (n_inputs,) and y (n_outputs,)")
        if y.ndim != 1:
            raise ValueError("predict_into takes x (n_inputs,) and y (n_outputs,)")
        if x.size != n_in or y.size != n_out:
            raise ValueError("predict_into takes x (n_inputs,) and y (n_outputs,)")
        row, made = array(row_at, n_in, real), array(made_at, n_out, real)
        for i in range(n_in):
            row[i] = x[i]
        if call(run, at, program) != 0:
            raise ValueError("x must be finite")
        for j in range(n_out):
            y[j] = made[j]

    return _keeping(predict_into, plan, made, network)


def _training(network, optimizer, batch_size, weighted):
    """The functions `step` and `take_parameters`."""
    architecture = network.architecture
    n_in, n_out = architecture.sizes[0], architecture.sizes[-1]
    rates, real = single_steps(optimizer, network), REAL[architecture.real]
    options = dict(optimizer=optimizer.formula, shaping=shaping_of(network), **rates.options)
    plan = Plan(architecture, "train", batch_size, weighted="as they are" if weighted else False, **options)
    classes = network.loss_function.formula.targets == "classes"
    rows = np.empty((batch_size, n_in), network.dtype)
    targets = np.empty(batch_size, np.int64) if classes else np.empty((batch_size, n_out), network.dtype)
    losses, row_losses, counts = np.zeros(1), *np.empty((2, batch_size), network.dtype)
    rates.set(plan)
    plan.set(
        x=rows.ctypes.data, targets=targets.ctypes.data, order=0, shuffle=0, step=0, epoch=0,
        seed=np.uint64(network.seed).astype(np.int64),
        first_epoch=0, last_epoch=1, losses=losses.ctypes.data, row_losses=row_losses.ctypes.data,
        weights=counts.ctypes.data,
    )  # fmt: skip
    plan.pack(network.parameters)
    run, run_section = address(cpu_step.run_epochs), address(cpu_step.run_section)
    at, pack, unpack = int(plan.contexts[0]["address"]), plan.packing, plan.unpacking
    rows_at, losses_at, counts_at = rows.ctypes.data, losses.ctypes.data, counts.ctypes.data
    take_targets = _taker_of_targets(network.loss_function.formula.targets, targets.ctypes.data, n_out, real)

    @register_jitable
    def take(x, y):
        if x.ndim != 2:
            raise ValueError("step takes x (n, n_inputs), n from 1 to batch_size, and as many targets")
        n = len(x)
        if n == 0 or n > batch_size or x.size != n * n_in or len(y) != n:
            raise ValueError("step takes x (n, n_inputs), n from 1 to batch_size, and as many targets")
        rows, finite = array(rows_at, n * n_in, real), True
        for i in range(n):
            for k in range(n_in):
                rows[i * n_in + k] = x[i, k]
                finite &= rows[i * n_in + k] - rows[i * n_in + k] == 0  # a float64 may be none in float32
        if not finite:
            raise ValueError("x must be finite")
        take_targets(n, y)

    @register_jitable
    def take_step(n):
        losses, thread = array(losses_at, 1, np.float64), context(at)
        thread.n_rows, thread.epoch, losses[0] = n, 0, 0.0
        call(run, at, 0)
        call(run_section, at, unpack)
        return losses[0] / n

    @njit(nogil=True)
    def step(x, y):
        take(x, y)
        return take_step(len(x))

    @njit(nogil=True)
    def weighted_step(x, y, weights):
        take(x, y)
        if len(weights) != len(x):
            raise ValueError("step takes as many weights as rows")
        counts = array(counts_at, len(x), real)
        for i in range(len(x)):
            counts[i] = weights[i]
            if not 0 <= counts[i] < np.inf:
                raise ValueError("weights must be finite and at least 0")
        return take_step(len(x))

    @njit(nogil=True)
    def take_parameters():
        call(run_section, at, pack)

    kept = plan, rows, targets, losses, row_losses, counts, network
    return tuple(_keeping(each, *kept) for each in (weighted_step if weighted else step, take_parameters))


def _taker_of_targets(kind, targets_at, n_out, real):
    """A function that copies the targets of some rows to where the program reads them, if they are ones."""
    allowed = {
        "real": lambda t: t - t == 0,
        "binary": lambda t: 0 <= t <= 1,
        "count": lambda t: 0 <= t < np.inf,
        "sign": lambda t: t == 1 or t == -1,
        "classes": lambda t: 0 <= t < n_out and t == int(t),
    }[kind]
    allowed = register_jitable(allowed)

    @register_jitable
    def take_classes(n, y):
        if y.ndim != 1:
            raise ValueError("y must be classes (n,)")
        targets = array(targets_at, n, np.int64)
        for i in range(n):
            if not allowed(y[i]):
                raise ValueError("y must be classes, integers from 0 to n_outputs - 1")
        for i in range(n):
            targets[i] = int(y[i])

    @register_jitable
    def take_numbers(n, y):
        if y.ndim != 2:
            raise ValueError("y must be targets (n, n_outputs)")
        targets = array(targets_at, n * n_out, real)
        if y.size != n * n_out:
            raise ValueError("y must be targets (n, n_outputs)")
        for i in range(n):
            for j in range(n_out):
                targets[i * n_out + j] = y[i, j]
                if not allowed(targets[i * n_out + j]):
                    raise ValueError("y must be numbers that the loss takes")

    return take_classes if kind == "classes" else take_numbers


def _keeping(function, *things):
    """The function, which keeps alive what it knows by address alone."""
    function.py_func.keeps = things
    return function
