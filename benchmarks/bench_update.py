"""The update of every optimizer: seconds per parameter, the gradient read from memory."""

from fastbp.formulas.optimizers import OPTIMIZERS

from .operations import Alone, running
from .timing import REALS, measured

# A layer whose parameters, states and gradient lie in the second-level cache.
N_IN, N_OUT = 96, 96


@measured(optimizer=OPTIMIZERS, real=REALS)
def time_update(optimizer, real):
    with running([N_IN, N_OUT], 32, optimizer=optimizer, real=real, materialise=True) as plan:
        return Alone(plan, "dense_apply", times=8).seconds() / ((N_IN + 1) * N_OUT)
