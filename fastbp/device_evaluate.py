"""Validation on the device: rows and parameters are both there, and neither is copied back."""

import numpy as np

from .device_plan import DevicePlan


def evaluator(plan, task, rows_at_once, places, **options):
    """A function without arguments that takes rows through the network as a plan has trained it by then.

    Plans that were launched together share what they need for the same rows.

    Parameters
    ----------
    plan : DevicePlan or SmallPlan
    task : {"loss", "evaluate"}
    rows_at_once : int
        Rows of a pass, at most.
    places : dict
        What a plan is told of the rows, which stay where they are; they are sent once.
    **options
        What `DevicePlan` must know of them.

    Returns
    -------
    callable
        It returns the mean loss and, for the task "evaluate", the predictions (n, n_outputs), else None.
    """
    n, architecture = places["n_rows"], plan.architecture
    key = architecture, task, *places.values(), *sorted(options.items())
    if key not in plan.evaluating:
        plan.evaluating[key] = DevicePlan(architecture, task, min(n, rows_at_once), **options)
        plan.evaluating[key].set(**places, order=0, shuffle=0, first_epoch=0, last_epoch=1)
    measuring = plan.evaluating[key]

    def measure():
        losses, outputs = np.zeros(1), None
        if task == "evaluate":
            outputs = np.empty((n, architecture.sizes[-1]), architecture.dtype)
        measuring.set(epoch=0, step=0, begin=0, losses=losses.ctypes.data)
        measuring.set(outputs=0 if outputs is None else outputs.ctypes.data)
        measuring.copy_parameters(plan)
        measuring.run()
        return float(losses[0] / n), outputs

    return measure
