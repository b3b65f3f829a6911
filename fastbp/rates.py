"""Learning rates while training runs: what an optimizer and its schedule ask of a plan."""

import numpy as np

from . import validation
from .formulas.optimizers import OPTIMIZERS, ROOM
from .formulas.schedules import SCHEDULES
from .metrics import watched
from .schedules import ReduceOnPlateau

# A rate that a schedule has brought down to this share of what it began with has nothing left to multiply.
NEARLY_0 = 1e-9

# No rate is larger: it is a float64.
LARGEST = np.finfo(np.float64).max


class Rates:
    """Settings of each layer, and how the learning rate changes.

    Parameters
    ----------
    optimizer : Optimizer
    network : Network
    epochs, steps_per_epoch : int
        Of the whole training, which a schedule may fill; None for steps that nobody knows beforehand.

    Attributes
    ----------
    options : dict
        What `Plan` needs to know.
    schedule_settings : tuple of float
        Of a schedule that the compiled step follows; empty without.
    plateau : Plateau or None
        Of a schedule that acts between epochs.
    """

    def __init__(self, optimizer, network, epochs, steps_per_epoch):
        self._rows, groups = optimizer.settings_of([layer.name for layer in network.layers])
        for row in self._rows:
            named = dict(zip(OPTIMIZERS[optimizer.formula].settings, row, strict=True))
            numbers = [named[name] for name in ("learning_rate", "epsilon") if name in named]
            validation.numbers_in(network.dtype, optimizer, numbers)
        self.options, self.schedule_settings, self.plateau = dict(groups=groups), (), None
        self._minimum_at = None  # among the settings of the schedule
        self._own = own = optimizer.learning_rate
        rates = [row[0] for row in self._rows]
        # The optimizer's own rate is told by a row that has it; where each layer has another, in proportion.
        self._shown = rates.index(own) if own in rates else int(np.argmax(rates))
        self._share = own / rates[self._shown] if rates[self._shown] else 1.0
        schedule = optimizer.schedule
        if isinstance(schedule, ReduceOnPlateau):
            self.plateau = schedule.follow(rates)
        elif schedule is not None:
            self.options["schedule"] = schedule.formula
            if steps_per_epoch is None and schedule.per == "step" and getattr(schedule, "total", 0) is None:
                raise ValueError(
                    "the steps of a stream are not known beforehand, so a schedule of steps needs total=; "
                    f"got {schedule!r}"
                )
            self.schedule_settings = schedule.settings(epochs, steps_per_epoch or 1)
            names = SCHEDULES[schedule.formula].settings
            if "minimum" in names:
                self._minimum_at = len(self.schedule_settings) - len(names) + names.index("minimum")

    def set(self, plan):
        """Write the settings where the plan's program reads them."""
        plan.settings[:, : len(self._rows[0])] = self._rows
        plan.schedule_settings[: len(self.schedule_settings)] = self.schedule_settings

    def watch(self, validates, metric_names):
        """Settle what a schedule that acts between epochs looks at; ValueError if that is not measured."""
        if self.plateau:
            rule = self.plateau.rule
            self._monitor, self.plateau.higher = watched(rule.monitor, rule.mode, validates, metric_names)

    def adapt(self, plan, history):
        """After an epoch: let the learning rates fall if it was on a plateau."""
        plan.settings[:, 0] = self.plateau.next_rates(history.column(self._monitor)[-1])

    def at_end_of(self, plan, epoch, steps):
        """The learning rate of the last step of an epoch, counted from 1, after so many steps in all; before
        the first, what it is.
        """
        rate = float(plan.settings[self._shown, 0]) * self._share
        if not self.schedule_settings:
            return rate
        settings = plan.schedule_settings.tolist()
        count = max(0, (steps if settings[0] else epoch) - 1)
        return SCHEDULES[self.options["schedule"]].rate_at(rate, settings, count)

    def change(self, plan, rate, epoch, steps):
        """Make the optimizer's learning rate, which is `at_end_of` them, another, and those of layers in
        proportion; a compiled schedule goes on as it would have, times the same factor.
        """
        now, begun = self.at_end_of(plan, epoch, steps), plan.settings[self._shown, 0] * self._share
        if self.schedule_settings and now > NEARLY_0 * begun:
            plan.settings[:, 0] *= rate / now
            if self._minimum_at is not None:
                plan.schedule_settings[self._minimum_at] *= rate / now
            return
        rates = [row[0] / self._own * rate for row in self._rows]
        plan.settings[:, 0] = rates
        if self.plateau:
            self.plateau.rates = rates

    def state(self, plan):
        """What a checkpoint keeps beside the plan's settings: of a plateau, or the minimum that the schedule
        has now, if it was changed; JSON values.
        """
        plateau, at = self.plateau, self._minimum_at
        if plateau:
            return [plateau.rates, plateau.best, plateau.bad_epochs, plateau.cooldown]
        if at is None or plan.schedule_settings[at] == self.schedule_settings[at]:
            return None
        return float(plan.schedule_settings[at])

    def fits(self, state, settings):
        """Whether `state` returned this, and a plan had these `settings`, in a training of the same."""
        if settings.shape != (len(self._rows), ROOM) or not np.isfinite(settings).all():
            return False
        others = settings[:, 1 : len(self._rows[0])]
        if (settings[:, 0] < 0).any() or not np.array_equal(others, np.array(self._rows)[:, 1:]):
            return False
        if self.plateau is None:
            scheduled = self._minimum_at is not None and type(state) is float
            return state is None or (scheduled and 0 <= state < np.inf)
        lists = isinstance(state, list) and len(state) == 4 and isinstance(state[0], list)
        if not lists or len(state[0]) != len(self.plateau.rates):
            return False
        rates, best, *counts = state
        numbers = [*rates, *([] if best is None else [best])]
        known = all(type(number) in (int, float) and number == number for number in numbers)
        counted = all(type(count) is int and count >= 0 for count in counts)
        return known and counted and all(0 <= rate <= LARGEST for rate in rates)

    def restore(self, plan, state):
        """Take back what `state` returned."""
        if type(state) is float:
            plan.schedule_settings[self._minimum_at] = state
        if self.plateau:
            rates, best, bad_epochs, cooldown = state
            self.plateau.rates, self.plateau.best = list(rates), best
            self.plateau.bad_epochs, self.plateau.cooldown = bad_epochs, cooldown


def single_steps(optimizer, network):
    """Learning rates of a training without epochs: as if every step were one.

    Raises
    ------
    ValueError
        If the optimizer's schedule counts epochs, or takes its length from them.
    """
    schedule = optimizer.schedule
    if isinstance(schedule, ReduceOnPlateau):
        raise ValueError("ReduceOnPlateau acts between epochs, and there are none in single steps")
    if schedule is not None and (
        getattr(schedule, "per", None) != "step" or getattr(schedule, "total", 0) is None
    ):
        raise ValueError(
            'there are no epochs in single steps, so a schedule needs per="step" and, where it has a '
            f"length, total=; got {schedule!r}"
        )
    return Rates(optimizer, network, epochs=1, steps_per_epoch=1)
