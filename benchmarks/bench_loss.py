"""fastbp/cpu/loss.py: seconds per output of every loss (value and gradient together) and of every link."""

from fastbp.formulas.losses import LOSSES

from .operations import TARGETS, Alone, running
from .timing import REALS, measured

BATCH = 128


def _cases():
    """Name of each case: (loss, kind of targets). softmax_cross_entropy takes two kinds."""
    for name, row in LOSSES.items():
        for targets in ("classes", "probabilities") if row.targets == "classes" else (row.targets,):
            if targets not in TARGETS:
                raise NotImplementedError(f"{name} has no benchmark: say in TARGETS what {targets!r} are")
            yield (f"{name} of {targets}" if row.targets == "classes" else name), (name, targets)


CASES = dict(_cases())


@measured(loss=CASES, outputs=[1, 10, 100], real=REALS)
def time_loss(loss, outputs, real):
    name, targets = CASES[loss]
    kernel = "softmax_loss" if LOSSES[name].rowwise else "elementwise_loss"
    with running([16, outputs], BATCH, loss=name, targets=targets, real=real) as plan:
        operation = Alone(plan, kernel, times=8)
        return operation.seconds() / (operation.rows * outputs)


@measured(loss=LOSSES, outputs=[10, 100], real=REALS)
def time_link(loss, outputs, real):
    """The prediction out of the logits, to the caller's array."""
    return _prediction(
        "softmax_link" if LOSSES[loss].rowwise else "elementwise_link", "predict", loss, outputs, real
    )


@measured(outputs=[10, 100], real=REALS)
def time_logits(outputs, real):
    """The logits themselves to the caller's array."""
    return _prediction("copy_outputs", "logits", "mean_squared_error", outputs, real)


def _prediction(kernel, task, loss, outputs, real):
    with running([16, outputs], BATCH, loss=loss, real=real, task=task) as plan:
        operation = Alone(plan, kernel)
        logits = operation.matrix("y", outputs, real)
        fresh = logits.copy()

        def put_back():
            logits[...] = fresh  # the softmax overwrites them

        return operation.seconds(before=put_back) / (operation.rows * outputs)
