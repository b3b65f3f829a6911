"""Schedules: the learning rate of a step, given the rate that the optimizer has and how far training is.

``name(rate, settings, count)`` returns the rate. ``count`` is an integer from 0: of steps or of epochs before
this one. ``settings`` is a tuple of float64 in the order of ``Schedule.settings``. All of it is float64, and
run once per step at most.

Every schedule follows torch.optim.lr_scheduler of its name, in closed form, so that a rate is a function of
the count alone. Before it, for ``warmup`` counts, the rate may rise in a line: ``warm_up``.

To add one: a function here, a row in ``SCHEDULES``, a row in ``tests/reference.py``.
"""
# ruff: noqa: D103    (the derivation above a formula is its documentation)

from collections.abc import Callable
from dataclasses import dataclass

from fastbp.formulas.elementary import cospi, exp, log
from fastbp.formulas.formula import formula
from fastbp.formulas.optimizers import integer_power

MOST_MILESTONES = 16


# The rise before any schedule: from start · rate to rate, which it reaches at count = warmup.
@formula
def warm_up(rate, warmup, start, count):
    return rate * (start + (1.0 - start) * count / warmup)


# constant: the optimizer's own rate
@formula
def constant(rate, settings, count):
    return rate


# step: times γ after every `size` counts
@formula
def step(rate, settings, count):
    size, gamma = settings
    return rate * integer_power(gamma, count // int(size))


# multi_step: times γ at every milestone; those that are not used are infinite
@formula
def multi_step(rate, settings, count):
    gamma, passed = settings[0], 0
    for milestone in settings[1:]:
        if count >= milestone:
            passed += 1
    return rate * integer_power(gamma, passed)


# exponential: times γ at every count
@formula
def exponential(rate, settings, count):
    return rate * integer_power(settings[0], count)


# polynomial: rate · (1 − count/total)^power, then 0
@formula
def polynomial(rate, settings, count):
    total, power = settings
    return rate * real_power(1.0 - min(count, total) / total, power)


# cosine: from rate down to minimum in half a wave of length total, then up again, and so on
#     minimum + (rate − minimum) · (1 + cos(π · count/total)) / 2
#     A rate of 0, of a layer that is left as it is, stays 0.
@formula
def cosine(rate, settings, count):
    total, minimum = settings
    minimum = minimum if rate > 0.0 else 0.0
    return minimum + (rate - minimum) * (1.0 + cospi((count % (2 * int(total))) / total)) / 2.0


# cosine_restarts: the same, but from rate again after total counts, and each cycle `factor` times as long
@formula
def cosine_restarts(rate, settings, count):
    total, factor, minimum = settings
    length, factor, minimum = int(total), int(factor), minimum if rate > 0.0 else 0.0
    if factor == 1:
        count = count % length
    else:
        while count >= length:
            count -= length
            length *= factor
    return minimum + (rate - minimum) * (1.0 + cospi(count / length)) / 2.0


# inverse_scaling: rate / (1 + count)^power
@formula
def inverse_scaling(rate, settings, count):
    return rate * real_power(1.0 + count, -settings[0])


# one_cycle (Smith and Topin, 2018): up to rate and down again over `total` counts, below where it began
#     from rate/divisor to rate until count = rise · total − 1
#     then down to rate/divisor/final_divisor at count = total − 1; with three phases first back to
#     rate/divisor, as fast as it rose
# While the rate rises the momentum falls from highest to lowest, and the other way round.
@formula
def one_cycle(rate, settings, count):
    three_phases, linear, divisor, final_divisor = settings[2:6]
    first, last = rate / divisor, rate / divisor / final_divisor
    phase, fraction = _phase(settings[:3], count)
    if phase == 1:
        return _between(first, rate, linear, fraction)
    if three_phases == 0.0:
        return _between(rate, last, linear, fraction)
    if phase == 2:
        return _between(rate, first, linear, fraction)
    return _between(first, last, linear, fraction)


@formula
def one_cycle_momentum(settings, count):
    linear, (lowest, highest) = settings[3], settings[6:]
    phase, fraction = _phase(settings[:3], count)
    if phase == 1:
        return _between(highest, lowest, linear, fraction)
    if phase == 2:
        return _between(lowest, highest, linear, fraction)
    return highest


@formula
def _phase(settings, count):
    """(phase of the cycle, from 1; what fraction of it is over)."""
    total, rise, three_phases = settings
    start, end, phase = 0.0, rise * total - 1.0, 1
    if count >= end:
        start, end, phase = end, total - 1.0, 2
        if three_phases != 0.0:
            end = 2.0 * rise * total - 2.0
            if count >= end:
                start, end, phase = end, total - 1.0, 3
    fraction = (count - start) / (end - start)
    return phase, (fraction if fraction < 1.0 else 1.0)


@formula
def _between(start, end, linear, fraction):
    """From start to end in a line, or in half a wave of the cosine."""
    if linear != 0.0:
        return (end - start) * fraction + start
    return end + (start - end) / 2.0 * (1.0 + cospi(fraction))


@formula
def real_power(base, exponent):
    """base**exponent for a base of at least 0; its error grows with the size of exponent · log(base)."""
    return exp(exponent * log(base))


@dataclass(frozen=True)
class Schedule:
    """A schedule: what an engine needs to know of it.

    Attributes
    ----------
    rate : callable
        Scalar formula, (rate, settings, count) -> rate, in float64.
    settings : tuple of str
        The names of what the user sets, in the order in which `rate` unpacks them.
    momentum : callable or None
        (settings, count) -> the optimizer's momentum, or beta1 where it has one, if that is scheduled too.
    """

    rate: Callable
    settings: tuple[str, ...] = ()
    momentum: Callable | None = None

    def rate_at(self, rate, settings, count):
        """The rate of a count on the host; settings as a plan has them: whether to count steps, counts of
        warm-up, where that starts, then the formula's.
        """
        _, warmup, start, *own = settings
        if count < warmup:
            return float(warm_up(rate, warmup, start, count))
        return float(self.rate(rate, tuple(own), count - int(warmup)))


_ONE_CYCLE = (
    "total", "rise", "three_phases", "linear", "divisor", "final_divisor", "lowest_momentum",
    "highest_momentum",
)  # fmt: skip
SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule(constant),
    "step": Schedule(step, ("size", "gamma")),
    "multi_step": Schedule(multi_step, ("gamma", *(f"milestone_{i}" for i in range(1, MOST_MILESTONES + 1)))),
    "exponential": Schedule(exponential, ("gamma",)),
    "polynomial": Schedule(polynomial, ("total", "power")),
    "cosine": Schedule(cosine, ("total", "minimum")),
    "cosine_restarts": Schedule(cosine_restarts, ("total", "factor", "minimum")),
    "inverse_scaling": Schedule(inverse_scaling, ("power",)),
    "one_cycle": Schedule(one_cycle, _ONE_CYCLE),
    "one_cycle_with_momentum": Schedule(one_cycle, _ONE_CYCLE, one_cycle_momentum),
}
