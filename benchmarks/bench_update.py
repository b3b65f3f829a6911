"""The update of every optimizer, seconds per parameter with the gradient read from memory; every schedule."""

from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.formulas.schedules import SCHEDULES

from .operations import Alone, running
from .timing import REALS, measured

# A layer whose parameters, states and gradient lie in the second-level cache.
N_IN, N_OUT = 96, 96


@measured(optimizer=OPTIMIZERS, real=REALS)
def time_update(optimizer, real):
    with running([N_IN, N_OUT], 32, optimizer=optimizer, real=real, materialise=True) as plan:
        return Alone(plan, "dense_apply", times=8).seconds() / ((N_IN + 1) * N_OUT)


@measured(optimizer=OPTIMIZERS)
def time_prepare(optimizer):
    """What an optimizer works out once a step, here after a hundred steps."""
    with running([8, 8], 8, optimizer=optimizer) as plan:
        plan.set(step=100)
        return Alone(plan, "optimizer_prepare", times=64).seconds()


@measured(schedule=SCHEDULES)
def time_schedule(schedule):
    """The learning rate of one step: seconds per step."""
    with running([8, 8], 8, schedule=schedule) as plan:
        return Alone(plan, "scheduled_settings", times=64).seconds()
