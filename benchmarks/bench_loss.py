"""fastbp/cpu/loss.py: seconds per output of every loss (value and gradient together) and of every link."""

import numpy as np

from fastbp.cpu import loss as kernels
from fastbp.cpu.cache import address
from fastbp.formulas.losses import LOSSES

from .timing import REALS, Program, array, measured

ROWS, TIMES = 128, 8

# Targets (rows, outputs) that a loss of each kind takes; a new kind needs a row here.
TARGETS = {
    "real": lambda random, shape: random.standard_normal(shape),
    "binary": lambda random, shape: random.integers(0, 2, shape),
    "count": lambda random, shape: random.poisson(2.0, shape),
    "sign": lambda random, shape: random.choice([-1, 1], shape),
    "probabilities": lambda random, shape: random.dirichlet(np.ones(shape[1]), shape[0]),
    "classes": lambda random, shape: random.integers(0, shape[1], shape[0]),
}


def _cases():
    """Name of each case: (loss, kind of targets). softmax_cross_entropy takes two kinds."""
    for name, row in LOSSES.items():
        for targets in ("classes", "probabilities") if row.targets == "classes" else (row.targets,):
            if targets not in TARGETS:
                raise NotImplementedError(
                    f"the loss {name} has no benchmark: say what targets of kind {targets!r} are"
                )
            yield (f"{name} of {targets}" if row.targets == "classes" else name), (name, targets)


CASES = dict(_cases())


@measured(loss=CASES, outputs=[1, 10, 100], real=REALS)
def time_loss(loss, outputs, real):
    name, targets = CASES[loss]
    if LOSSES[name].rowwise:
        kernel = address(kernels.softmax_loss, targets, real)
    else:
        kernel = address(kernels.elementwise_loss, name, real)
    return _seconds(kernel, targets, outputs, real)


@measured(loss=[*LOSSES, "none"], outputs=[10, 100], real=REALS)
def time_link(loss, outputs, real):
    """The prediction out of the logits, to the caller's array; "none": the logits themselves."""
    if loss not in LOSSES:
        kernel = address(kernels.copy_outputs, real)
    elif LOSSES[loss].rowwise:
        kernel = address(kernels.softmax_link, real)
    else:
        kernel = address(kernels.elementwise_link, loss, real)
    return _seconds(kernel, "real", outputs, real)


def _seconds(kernel, targets, outputs, real):
    random, columns = np.random.default_rng(0), -(-outputs // 16) * 16
    logits = random.standard_normal((ROWS, columns))
    y = array((ROWS, columns), real, logits)
    operation = dict(
        kernel=kernel,
        n_out=outputs,
        columns=columns,
        y=y,
        dz=array((ROWS, columns), real),
        z_row=columns * y.itemsize,
    )
    values = TARGETS[targets](random, (ROWS, outputs))
    program = Program(
        [operation] * TIMES,
        rows=ROWS, batch_rows=ROWS, targets=array(values.shape, "int64" if targets == "classes" else real, values),
        row_losses=array(ROWS, real), outputs=array((ROWS, outputs), real),
        option=np.array([0.0 if targets in ("classes", "probabilities") else 1.0]),
        scratch=array((ROWS + 2) * (columns + 2), real),
    )  # fmt: skip

    def put_back():
        y[...] = logits  # softmax_link overwrites them

    return program.seconds(before=put_back) / (TIMES * ROWS * outputs)
