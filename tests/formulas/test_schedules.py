"""Schedules: the formulas against the reference and PyTorch, and the kernel against the formulas."""

import math

import numpy as np
import pytest

from fastbp import schedules
from fastbp.cpu import elementwise
from fastbp.formulas.optimizers import ROOM
from fastbp.formulas.schedules import MOST_MILESTONES, SCHEDULES
from tests import reference
from tests.cpu.kernels import Guarded, run

RATE, COUNTS = 0.3, range(101)
CYCLE = dict(divisor=20.0, final_divisor=50.0, lowest_momentum=0.8, highest_momentum=0.95)


def milestones(*counts):
    counts += (math.inf,) * (MOST_MILESTONES - len(counts))
    return {f"milestone_{i}": float(count) for i, count in enumerate(counts, start=1)}


SETTINGS = {
    "constant": [{}],
    "step": [dict(size=7.0, gamma=0.5), dict(size=1.0, gamma=0.99)],
    "multi_step": [
        dict(gamma=0.3) | milestones(),
        dict(gamma=0.5) | milestones(10, 80, 40, 40),
        dict(gamma=1.1) | milestones(*range(MOST_MILESTONES)),
    ],
    "exponential": [dict(gamma=0.97)],
    "polynomial": [dict(total=60.0, power=1.0), dict(total=100.0, power=2.5)],
    "cosine": [dict(total=100.0, minimum=0.0), dict(total=15.0, minimum=0.01)],
    "cosine_restarts": [
        dict(total=10.0, factor=1.0, minimum=0.01),
        dict(total=5.0, factor=2.0, minimum=0.0),
        dict(total=4.0, factor=3.0, minimum=0.0),
    ],
    "inverse_scaling": [dict(power=0.5), dict(power=1.0)],
    "one_cycle": [
        dict(total=101.0, rise=0.3, linear=0.0, three_phases=0.0) | CYCLE,
        dict(total=60.0, rise=0.25, linear=1.0, three_phases=0.0) | CYCLE,
        dict(total=101.0, rise=0.4, linear=0.0, three_phases=1.0) | CYCLE,
        dict(total=50.0, rise=0.0, linear=1.0, three_phases=1.0) | CYCLE,
        dict(total=10.0, rise=0.1, linear=0.0, three_phases=0.0) | CYCLE,
        dict(total=1.0, rise=0.3, linear=0.0, three_phases=0.0) | CYCLE,
    ],
}
SETTINGS["one_cycle_with_momentum"] = SETTINGS["one_cycle"][:3]
CASES = [(name, settings) for name in SCHEDULES for settings in SETTINGS[name]]
every_case = pytest.mark.parametrize(("name", "settings"), CASES)


def test_tables_agree():
    assert set(SCHEDULES) == set(SETTINGS) == set(reference.SCHEDULES)
    for name, settings in CASES:
        assert set(settings) == set(SCHEDULES[name].settings)


def in_order(name, settings):
    return tuple(settings[key] for key in SCHEDULES[name].settings)


@every_case
def test_against_reference(name, settings):
    row = SCHEDULES[name]
    got = [row.rate(RATE, in_order(name, settings), count) for count in COUNTS]
    expected = [reference.SCHEDULES[name](RATE, count, **settings) for count in COUNTS]
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-16)
    if row.momentum:
        got = [row.momentum(in_order(name, settings), count) for count in COUNTS]
        expected = [reference.one_cycle_momentum(count, **settings) for count in COUNTS]
        np.testing.assert_allclose(got, expected, rtol=1e-13)


@every_case
def test_kernel_gives_the_bits_of_the_formula(name, settings):
    row, rest = SCHEDULES[name], in_order(name, settings)
    given = np.linspace(RATE, 1, ROOM)
    for per_step, warmup, step, epoch in (
        (0.0, 0.0, 3, 50),
        (1.0, 0.0, 51, 3),
        (1.0, 20.0, 8, 90),
        (0.0, 20.0, 8, 90),
    ):
        made = Guarded(ROOM, "float64")
        schedule = np.array([per_step, warmup, 0.25, *rest])
        op = dict(settings=given, scheduled=made.array, schedule=schedule, momentum=made.array[2:])
        run(elementwise.scheduled_settings, name, op=op, ctx=dict(step=step, epoch=epoch))
        made.assert_intact()
        count = step - 1 if per_step else epoch
        expected = given.copy()
        if count < warmup:
            expected[0] = RATE * (0.25 + 0.75 * count / warmup)
        else:
            expected[0] = row.rate(RATE, rest, count - int(warmup))
        if row.momentum:
            expected[2] = row.momentum(rest, count)
        assert np.array_equal(made.array, expected)


# PyTorch


def torch_rates(torch, make, steps=100, **options):
    """Learning rates and momenta of some steps of SGD."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE, momentum=0.9)
    scheduler = make(optimizer, **options)
    rates, momenta = [], []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    return rates, momenta


IN_TORCH = [
    (schedules.Step(7, 0.5), "StepLR", dict(step_size=7, gamma=0.5)),
    (schedules.MultiStep((40, 10, 80, 40), 0.5), "MultiStepLR", dict(milestones=[10, 40, 40, 80], gamma=0.5)),
    (schedules.Exponential(0.97), "ExponentialLR", dict(gamma=0.97)),
    (schedules.Polynomial(60, 2.5), "PolynomialLR", dict(total_iters=60, power=2.5)),
    (schedules.Polynomial(), "PolynomialLR", dict(total_iters=100)),
    (schedules.Cosine(), "CosineAnnealingLR", dict(T_max=100)),
    (schedules.Cosine(15, minimum=0.01), "CosineAnnealingLR", dict(T_max=15, eta_min=0.01)),
    (schedules.CosineRestarts(10, minimum=0.01), "CosineAnnealingWarmRestarts", dict(T_0=10, eta_min=0.01)),
    (schedules.CosineRestarts(5, 2), "CosineAnnealingWarmRestarts", dict(T_0=5, T_mult=2)),
    (schedules.InverseScaling(0.5), "LambdaLR", dict(lr_lambda=lambda t: (1 + t) ** -0.5)),
    (schedules.Constant(), "ConstantLR", dict(factor=1.0)),
    (schedules.Constant(warmup=30, warmup_start=0.1), "LinearLR", dict(start_factor=0.1, total_iters=30)),
    (schedules.OneCycle(per="epoch"), "OneCycleLR", dict(max_lr=RATE, total_steps=100)),
    (
        schedules.OneCycle(
            120, per="epoch", rise=0.2, divisor=10, final_divisor=100, momentum=(0.7, 0.8), shape="linear",
            three_phases=True,
        ),
        "OneCycleLR",
        dict(max_lr=RATE, total_steps=120, pct_start=0.2, div_factor=10, final_div_factor=100,
             base_momentum=0.7, max_momentum=0.8, anneal_strategy="linear", three_phase=True),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "options"), IN_TORCH, ids=lambda x: x if isinstance(x, str) else ""
)
@pytest.mark.filterwarnings("ignore:Detected call of")
def test_a_hundred_rates_of_pytorch(ours, theirs, options):
    torch = pytest.importorskip("torch")
    rates, momenta = torch_rates(torch, getattr(torch.optim.lr_scheduler, theirs), **options)
    np.testing.assert_allclose(ours.rates(RATE, 100), rates, rtol=1e-12, atol=1e-13)
    row = SCHEDULES[ours.formula]
    if row.momentum:
        settings = ours.settings(100, 1)[3:]
        np.testing.assert_allclose(
            [row.momentum(settings, count) for count in range(100)], momenta, rtol=1e-12
        )


def test_warm_up_comes_before_the_schedule():
    torch = pytest.importorskip("torch")
    lr = torch.optim.lr_scheduler

    def both(optimizer):
        first, then = lr.LinearLR(optimizer, 0.2, total_iters=20), lr.CosineAnnealingLR(optimizer, 80)
        return lr.SequentialLR(optimizer, [first, then], milestones=[20])

    rates, _ = torch_rates(torch, both)
    ours = schedules.Cosine(warmup=20, warmup_start=0.2)
    np.testing.assert_allclose(ours.rates(RATE, 100), rates, rtol=1e-12, atol=1e-13)
    assert ours.rates(RATE, 100)[20] == RATE
