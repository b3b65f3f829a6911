"""The update of every optimizer: seconds per parameter, the gradient read from memory. What comes before it
once a step: seconds of every schedule, and of preparing every optimizer.
"""

from fastbp import schedules
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.formulas.schedules import SCHEDULES as ALL_SCHEDULES

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
    """After a hundred steps: some numbers take the longer the more steps there were."""
    with running([2, 1], 2, optimizer=optimizer, real="float64") as plan:
        plan.set(step=100)
        return Alone(plan, "optimizer_prepare", times=50).seconds()


SCHEDULES = {
    each.formula: each
    for each in (
        schedules.Constant(warmup=1), schedules.Step(3), schedules.MultiStep((10, 20)),
        schedules.Exponential(0.9), schedules.Polynomial(power=2.0), schedules.Cosine(),
        schedules.CosineRestarts(5, 2), schedules.InverseScaling(), schedules.OneCycle(),
        schedules.OneCycle(momentum=None),
    )
}  # fmt: skip
for _name in ALL_SCHEDULES:
    if _name not in SCHEDULES:
        raise NotImplementedError(f"the schedule {_name} has no benchmark: give it one in SCHEDULES")


@measured(schedule=SCHEDULES)
def time_schedule(schedule):
    with running([2, 1], 2, optimizer="momentum", schedule=SCHEDULES[schedule]) as plan:
        plan.set(step=60, epoch=60)
        return Alone(plan, "scheduled_settings", times=50).seconds()
