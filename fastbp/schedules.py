"""Schedules: how the learning rate changes while training goes on.

A schedule is given to an optimizer: ``fastbp.SGD(0.1, schedule=fastbp.schedules.Cosine())``. It counts
epochs, or steps with ``per="step"``, and the compiled step works the rate out by itself. Only
`ReduceOnPlateau`, which needs to know how training goes, acts between epochs.
"""

import math
from dataclasses import dataclass, field

from . import validation
from .formulas.optimizers import OPTIMIZERS
from .formulas.schedules import MOST_MILESTONES, SCHEDULES

_PER = {"epoch": 0.0, "step": 1.0}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What all schedules share; the classes below are meant for use.

    Parameters
    ----------
    per : {"epoch", "step"}
        What is counted, from 0.
    warmup : int
        For so many counts the rate rises in a line to the optimizer's own, as ``torch.optim.lr_scheduler``'s
        LinearLR; then the schedule begins, with count 0.
    warmup_start : float
        The share of the optimizer's rate that it rises from, above 0 and at most 1.

    Attributes
    ----------
    formula : str
        The row of ``fastbp.formulas.schedules.SCHEDULES`` that the settings need.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds.

    Notes
    -----
    A rise in a line before the schedule: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1
    hour", arXiv:1706.02677 (2017), section 2.2.
    """

    per: str = "epoch"
    warmup: int = 0
    warmup_start: float = 1 / 3

    formula = "constant"

    def __post_init__(self):
        validation.as_plain(self)
        validation.known_name("per", self.per, _PER)
        validation.integer("warmup", self.warmup, at_least=0)
        validation.real_number("warmup_start", self.warmup_start, above=0, at_most=1)
        self._check()

    def _check(self):
        """Check what is this class's own."""

    def _check_total(self):
        if self.total is not None:
            validation.positive_integer("total", self.total)

    def check_optimizer(self, name, formula):
        """Raise if an optimizer cannot follow this schedule.

        Parameters
        ----------
        name : str
            The optimizer's, for the message.
        formula : str
            Its row of ``fastbp.formulas.optimizers.OPTIMIZERS``.

        Raises
        ------
        ValueError
            If it cannot.
        """

    def settings(self, epochs, steps_per_epoch):
        """Tell what the compiled step needs to know, for a training of so many epochs and steps.

        Parameters
        ----------
        epochs, steps_per_epoch : int

        Returns
        -------
        tuple of float
            Whether steps are counted, counts of warm-up, where it starts; then values of the formula's
            settings, in its order.

        Raises
        ------
        ValueError
            If the schedule is to fill the whole training, and the warm-up leaves nothing of it.
        """
        counts = epochs if self.per == "epoch" else epochs * steps_per_epoch
        values = dict(vars(self))
        if values.get("total", 0) is None:
            values["total"] = counts - self.warmup
            if values["total"] < 1:
                raise ValueError(
                    f"a warm-up of {self.warmup} {self.per}s leaves nothing of {counts} for {self!r}"
                )
        own = (float(value) for value in self._own(values))
        return (_PER[self.per], float(self.warmup), float(self.warmup_start), *own)

    def _own(self, values):
        return [values[name] for name in SCHEDULES[self.formula].settings]

    def rates(self, learning_rate, epochs, steps_per_epoch=1):
        """Tell the learning rates of a training, to look at or to plot.

        Parameters
        ----------
        learning_rate : float
            The optimizer's own.
        epochs, steps_per_epoch : int

        Returns
        -------
        list of float
            One for each epoch, or for each step where the schedule counts steps.

        Raises
        ------
        TypeError, ValueError
            If one is no number above 0, or the warm-up leaves nothing of a schedule that is to fill all.

        Examples
        --------
        >>> Step(2, gamma=0.5).rates(0.1, 6)
        [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]
        """
        learning_rate = validation.real_number("learning_rate", learning_rate, above=0)
        epochs = validation.positive_integer("epochs", epochs)
        steps_per_epoch = validation.positive_integer("steps_per_epoch", steps_per_epoch)
        settings = self.settings(epochs, steps_per_epoch)
        counts = range(epochs if self.per == "epoch" else epochs * steps_per_epoch)
        return [SCHEDULES[self.formula].rate_at(learning_rate, settings, count) for count in counts]


@dataclass(frozen=True)
class Constant(Schedule):
    """The optimizer's own rate, after a warm-up such as PyTorch's LinearLR.

    Parameters
    ----------
    per, warmup, warmup_start
        Of every schedule, see `Schedule`.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds.
    """


@dataclass(frozen=True)
class Step(Schedule):
    """Times gamma after every `size` counts, as ``torch.optim.lr_scheduler.StepLR``.

    Parameters
    ----------
    size : int
        At least 1.
    gamma : float
        Above 0.
    per, warmup, warmup_start
        Of every schedule, see `Schedule`.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds.
    """

    size: int
    gamma: float = 0.1

    formula = "step"

    def _check(self):
        validation.positive_integer("size", self.size)
        validation.real_number("gamma", self.gamma, above=0)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Times gamma at every milestone, as ``torch.optim.lr_scheduler.MultiStepLR``.

    Parameters
    ----------
    milestones : sequence of int
        At most 16 counts, in any order; one that is there twice counts twice.
    gamma : float
        Above 0.
    per, warmup, warmup_start
        Of every schedule, see `Schedule`.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds.
    """

    milestones: tuple[int, ...]
    gamma: float = 0.1

    formula = "multi_step"

    def _check(self):
        if not isinstance(self.milestones, tuple) or len(self.milestones) > MOST_MILESTONES:
            raise ValueError(
                f"milestones must be at most {MOST_MILESTONES} integers, such as (30, 60); "
                f"got {self.milestones!r}"
            )
        for milestone in self.milestones:
            validation.integer("a milestone", milestone, at_least=0)
        validation.real_number("gamma", self.gamma, above=0)

    def _own(self, values):
        unused = MOST_MILESTONES - len(self.milestones)
        return [self.gamma, *self.milestones, *[math.inf] * unused]


@dataclass(frozen=True)
class Exponential(Schedule):
    """Times gamma at every count, as ``torch.optim.lr_scheduler.ExponentialLR``.

    Parameters
    ----------
    gamma : float
        Above 0.
    per, warmup, warmup_start
        Of every schedule, see `Schedule`.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds.
    """

    gamma: float

    formula = "exponential"

    def _check(self):
        validation.real_number("gamma", self.gamma, above=0)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """rate · (1 − count/total)^power, as ``torch.optim.lr_scheduler.PolynomialLR``.

    Parameters
    ----------
    total : int or None
        Counts until the rate is 0, where it stays; None is what training has after the warm-up.
    power : float
        Above 0; with 1 the rate falls in a line.
    per, warmup, warmup_start
        Of every schedule, see `Schedule`.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds.
    """

    total: int | None = None
    power: float = 1.0

    formula = "polynomial"

    def _check(self):
        self._check_total()
        validation.real_number("power", self.power, above=0)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Down in half a wave of the cosine, as ``torch.optim.lr_scheduler.CosineAnnealingLR``.

    Parameters
    ----------
    total : int or None
        Counts from the optimizer's rate down to `minimum`; then it rises again as it fell, and so on. None is
        what training has after the warm-up.
    minimum : float
        A learning rate, at least 0.
    per, warmup, warmup_start
        Of every schedule, see `Schedule`.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds.

    Notes
    -----
    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR (2017), equation 5.

    Examples
    --------
    >>> [round(rate, 6) for rate in Cosine(4).rates(0.1, 5)]
    [0.1, 0.085355, 0.05, 0.014645, 0.0]
    """

    total: int | None = None
    minimum: float = 0.0

    formula = "cosine"

    def _check(self):
        self._check_total()
        validation.real_number("minimum", self.minimum, at_least=0)


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Down by the cosine, and up at once, as ``torch.optim.lr_scheduler.CosineAnnealingWarmRestarts``.

    Parameters
    ----------
    total : int
        Counts of the first cycle.
    factor : int
        How many times as long as the one before a cycle is; at least 1.
    minimum : float
        A learning rate, at least 0.
    per, warmup, warmup_start
        Of every schedule, see `Schedule`.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds.

    Notes
    -----
    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR (2017), equation 5.
    """

    total: int
    factor: int = 1
    minimum: float = 0.0

    formula = "cosine_restarts"

    def _check(self):
        validation.positive_integer("total", self.total)
        validation.positive_integer("factor", self.factor)
        validation.real_number("minimum", self.minimum, at_least=0)


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """rate / (1 + count)^power, scikit-learn's "invscaling".

    Parameters
    ----------
    power : float
        Above 0.
    per, warmup, warmup_start
        Of every schedule, see `Schedule`.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds.

    Notes
    -----
    scikit-learn counts rows; this counts epochs or steps.
    """

    power: float = 0.5

    formula = "inverse_scaling"

    def _check(self):
        validation.real_number("power", self.power, above=0)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up and down once, below where it began, as ``torch.optim.lr_scheduler.OneCycleLR``.

    The rate rises from rate/divisor to the optimizer's own and falls to rate/divisor/final_divisor.

    Parameters
    ----------
    total : int or None
        Counts of the cycle; then the rate stays. None is the whole training.
    rise : float
        The share of them in which the rate rises; at least 0 and below 1, with three phases at most ½.
    divisor, final_divisor : float
        Above 0.
    momentum : (float, float) or None
        The lowest and the highest momentum: it falls while the rate rises, and the other way round. For
        Adam and its like it is the first of betas. None leaves it alone.
    shape : {"cosine", "linear"}
        Of rise and fall.
    three_phases : bool
        Whether the rate falls to where it began as fast as it rose, and only then below.
    per : {"epoch", "step"}
        What is counted; PyTorch's advice is steps.
    warmup, warmup_start
        Not to be given: the cycle begins with a rise of its own.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds, or there is a warm-up, which the cycle has itself.
        By the optimizer: if it has no momentum.

    Notes
    -----
    Smith and Topin, "Super-convergence: very fast training of neural networks using large learning rates",
    arXiv:1708.07120 (2018).
    """

    total: int | None = None
    rise: float = 0.3
    divisor: float = 25.0
    final_divisor: float = 1e4
    momentum: tuple[float, float] | None = (0.85, 0.95)
    shape: str = "cosine"
    three_phases: bool = False
    per: str = field(default="step", kw_only=True)

    @property
    def formula(self):
        """The row of ``SCHEDULES`` that these settings need."""
        return "one_cycle" if self.momentum is None else "one_cycle_with_momentum"

    def _check(self):
        self._check_total()
        if self.warmup:
            raise ValueError(f"one cycle begins with a rise of its own; got warmup={self.warmup}")
        validation.boolean("three_phases", self.three_phases)
        if self.three_phases:
            validation.real_number("rise", self.rise, at_least=0, at_most=0.5)
        else:
            validation.real_number("rise", self.rise, at_least=0, below=1)
        validation.real_number("divisor", self.divisor, above=0)
        validation.real_number("final_divisor", self.final_divisor, above=0)
        validation.known_name("shape", self.shape, ("cosine", "linear"))
        if self.momentum is not None:
            if not isinstance(self.momentum, (tuple, list)) or len(self.momentum) != 2:
                raise TypeError(
                    f"momentum must be two numbers, such as (0.85, 0.95), or None; got {self.momentum!r}"
                )
            for name, value in zip(("the lowest momentum", "the highest momentum"), self.momentum):
                validation.real_number(name, value, at_least=0, below=1)

    def check_optimizer(self, name, formula):
        """Raise if an optimizer has no momentum that could follow.

        Parameters
        ----------
        name : str
            The optimizer's, for the message.
        formula : str
            Its row of ``fastbp.formulas.optimizers.OPTIMIZERS``.

        Raises
        ------
        ValueError
            If it has none, or schedules it itself.
        """
        if self.momentum is None:
            return
        if OPTIMIZERS[formula].momentum_at is None:
            raise ValueError(
                f"OneCycle changes the momentum, and {name} has none: give it one, or OneCycle momentum=None"
            )
        if formula == "nadam":
            raise ValueError("NAdam schedules its momentum itself: give OneCycle momentum=None")

    def _own(self, values):
        lowest, highest = self.momentum or (0.0, 0.0)
        own = dict(linear=self.shape == "linear", lowest_momentum=lowest, highest_momentum=highest)
        return super()._own(values | own)


@dataclass(frozen=True)
class ReduceOnPlateau:
    """Times `factor` when a measurement stops getting better, as PyTorch's ReduceLROnPlateau.

    Parameters
    ----------
    factor : float
        Above 0 and below 1.
    patience : int
        How many epochs may pass without getting better before the rate falls.
    threshold : float
        How much better counts: a share of the best so far, or an amount if not `relative`.
    relative : bool
        As in PyTorch a share means little of what may be negative, such as "r2": False for those.
    cooldown : int
        For how many epochs after a fall nothing counts as bad.
    minimum : float
        A learning rate, at least 0, that none falls below.
    epsilon : float
        A fall by no more than this is left out.
    mode : {"auto", "min", "max"}
        Whether smaller or larger is better; "auto" knows it of losses and of the metrics in ``METRICS``.
    monitor : str, optional
        What is looked at after each epoch: "validation_loss" (the default where there is validation), "loss",
        or the name of a metric, as for `EarlyStopping`.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds; before training, also if what is to be looked at
        is not measured, or is of one's own and `mode` does not say which way is better.

    Examples
    --------
    >>> plateau = ReduceOnPlateau(factor=0.5, patience=1).follow([0.1])
    >>> [plateau.next_rates(loss)[0] for loss in (1.0, 0.5, 0.6, 0.5, 0.7)]
    [0.1, 0.1, 0.1, 0.05, 0.05]
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    relative: bool = True
    cooldown: int = 0
    minimum: float = 0.0
    epsilon: float = 1e-8
    mode: str = "auto"
    monitor: str | None = None

    def __post_init__(self):
        validation.as_plain(self)
        validation.real_number("factor", self.factor, above=0, below=1)
        validation.integer("patience", self.patience, at_least=0)
        validation.real_number("threshold", self.threshold, at_least=0)
        validation.boolean("relative", self.relative)
        validation.integer("cooldown", self.cooldown, at_least=0)
        validation.real_number("minimum", self.minimum, at_least=0)
        validation.real_number("epsilon", self.epsilon, at_least=0)
        validation.what_to_watch(self.monitor, self.mode)

    def check_optimizer(self, name, formula):
        """Do nothing: every optimizer can follow.

        Parameters
        ----------
        name, formula : str
        """

    def follow(self, rates, higher=None):
        """Begin with some learning rates.

        Parameters
        ----------
        rates : sequence of float
            One for each group of settings.
        higher : bool, optional
            Whether larger is better; by default what `mode` says, where "auto" is "min".

        Returns
        -------
        Plateau
        """
        return Plateau(self, list(rates), self.mode == "max" if higher is None else higher)


@dataclass
class Plateau:
    """How far a training is by `ReduceOnPlateau`.

    Attributes
    ----------
    rule : ReduceOnPlateau
    rates : list of float
        Learning rates, as they are now.
    higher : bool
        Whether larger is better.
    best : float or None
        The best measurement; None before the first.
    bad_epochs, cooldown : int
        Epochs since the last better one; of the cooldown that are left.
    """

    rule: ReduceOnPlateau
    rates: list[float]
    higher: bool = False
    best: float | None = None
    bad_epochs: int = 0
    cooldown: int = 0

    def next_rates(self, measured):
        """Learning rates for the next epoch, after one that ended with this measurement.

        Parameters
        ----------
        measured : float

        Returns
        -------
        list of float
        """
        rule = self.rule
        if self._is_better(measured):
            self.best, self.bad_epochs = measured, 0
        else:
            self.bad_epochs += 1
        if self.cooldown > 0:
            self.cooldown, self.bad_epochs = self.cooldown - 1, 0
        if self.bad_epochs > rule.patience:
            reduced = [max(rate * rule.factor, rule.minimum) for rate in self.rates]
            self.rates = [
                new if old - new > rule.epsilon else old for old, new in zip(self.rates, reduced, strict=True)
            ]
            self.cooldown, self.bad_epochs = rule.cooldown, 0
        return self.rates

    def _is_better(self, measured):
        best = self.best
        if best is None:  # before the first measurement: anything but NaN and the worst there is
            return measured > -math.inf if self.higher else measured < math.inf
        sign = 1.0 if self.higher else -1.0
        bound = (
            best * (1 + sign * self.rule.threshold)
            if self.rule.relative
            else best + sign * self.rule.threshold
        )
        return measured > bound if self.higher else measured < bound


def as_schedule(schedule):
    """Check that it is a schedule.

    Parameters
    ----------
    schedule : Schedule or ReduceOnPlateau

    Returns
    -------
    Schedule or ReduceOnPlateau
        As it is.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not isinstance(schedule, (Schedule, ReduceOnPlateau)):
        raise TypeError(
            f"schedule must be one of fastbp.schedules, such as fastbp.schedules.Cosine(); got {schedule!r}"
        )
    return schedule
