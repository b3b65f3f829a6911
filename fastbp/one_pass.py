"""One pass of a plan over rows, in their order: what it must know of them, where they lie, and running it."""

import numpy as np

from .interrupts import run_whole
from .sparse import SparseRows, address_of

# Rows that a GPU predicts together.
ROWS_ON_DEVICE = 1 << 14

# Inputs of sparse rows, all that are 0 included, that a gradient has in memory at a time.
INPUTS_AT_ONCE = 1 << 24


def form_of(x):
    """What a plan must know of rows: whether they are bytes, whether sparse."""
    kind = "bytes" if x.dtype == np.uint8 else "numbers"
    if type(x) is SparseRows:
        return {"data": f"sparse {kind}"}
    return {} if kind == "numbers" else {"data": kind}


def options_of(x, y, weights):
    """The same of rows, targets and weights: which of two kinds of targets, whether weights."""
    options = {"targets": "classes" if y.ndim == 1 else "probabilities", **form_of(x)}
    return options if weights is None else options | {"weighted": True}


def places_of(x, y, weights):
    """What a plan must be told of rows, which are to stay where they are; y and weights may be None."""
    targets, weights = (0 if array is None else array.ctypes.data for array in (y, weights))
    return dict(x=address_of(x), n_rows=len(x), targets=targets, weights=weights)


def run_over(plan, network, x, y, *, outputs=None, weights=None):
    """Run a plan once over all rows; returns the sum of their losses, float64 (1,)."""
    row_losses = np.empty(0 if y is None else len(x), network.dtype)
    return _run(plan, network, outputs, row_losses=row_losses.ctypes.data, **places_of(x, y, weights))


def on_device(network, task, x, y, weights):
    """A function that takes rows, which are sent once to a GPU, through the network as it is at the call.

    It returns the mean loss and, for the task "evaluate", the predictions (n, n_outputs), else None.
    """
    from .device_plan import DevicePlan  # needs numba-cuda

    plan = DevicePlan(network.architecture, task, min(len(x), ROWS_ON_DEVICE), **options_of(x, y, weights))
    rows, shape = (x, y, weights), (len(x), network.architecture.sizes[-1])
    plan.set(**places_of(*rows))

    def run():
        outputs = np.empty(shape, network.dtype) if task == "evaluate" else None
        losses = _run(plan, network, outputs)
        return float(losses[0] / len(rows[0])), outputs

    return run


def _run(plan, network, outputs=None, **fields):
    """Run a plan once over the rows that it was told of, or that `fields` tell it of; see `run_over`."""
    losses = np.zeros(1)
    plan.set(
        order=0, losses=losses.ctypes.data, outputs=0 if outputs is None else outputs.ctypes.data,
        epoch=0, first_epoch=0, last_epoch=1, shuffle=0, step=0, **fields,
    )  # fmt: skip
    plan.pack(network.parameters)
    run_whole(plan)
    return losses
