"""Schedules as a user meets them; formulas and PyTorch: formulas/test_schedules.py, test_pytorch.py."""

import math

import numpy as np
import pytest

import fastbp
from fastbp import schedules
from fastbp.formulas.schedules import SCHEDULES
from tests.samples import draw_inputs, draw_targets, make_network

EVERY_SCHEDULE = [
    schedules.Constant(warmup=2),
    schedules.Step(3),
    schedules.MultiStep((2, 4)),
    schedules.Exponential(0.9),
    schedules.Polynomial(),
    schedules.Cosine(warmup=2),
    schedules.CosineRestarts(3),
    schedules.InverseScaling(),
    schedules.OneCycle(),
    schedules.OneCycle(momentum=None),
]


def test_every_formula_can_be_had():
    assert {each.formula for each in EVERY_SCHEDULE} == set(SCHEDULES)


def trained(schedule, *, epochs, rate=0.1, **how):
    x, y = draw_inputs(10, 3), draw_targets("mean_squared_error", 10, 2)
    net = make_network([3, 4, 2], dtype="float64")
    how = dict(batch_size=5, shuffle=False) | how
    optimizer = fastbp.SGD(rate, momentum=how.pop("momentum", 0.0), schedule=schedule)
    history = fastbp.train(net, x, y, epochs=epochs, optimizer=optimizer, **how)
    return net, history


def by_hand(rates_of_epochs):
    """The same training, an epoch in each call with a rate of its own."""
    net = make_network([3, 4, 2], dtype="float64")
    x, y = draw_inputs(10, 3), draw_targets("mean_squared_error", 10, 2)
    for rate in rates_of_epochs:
        fastbp.train(net, x, y, epochs=1, batch_size=5, shuffle=False, optimizer=fastbp.SGD(rate))
    return net


@pytest.mark.parametrize(
    "schedule",
    [each for each in EVERY_SCHEDULE if each.per == "epoch"],
    ids=lambda each: type(each).__name__,
)
def test_epochs_have_the_rates_that_the_schedule_tells(schedule):
    got = trained(schedule, epochs=6)[0].parameters
    assert got.tobytes() == by_hand(schedule.rates(0.1, 6)).parameters.tobytes()


WITH_A_MINIMUM = [schedules.Cosine(minimum=0.05), schedules.CosineRestarts(2, minimum=0.05)]


@pytest.mark.parametrize("schedule", [*EVERY_SCHEDULE, *WITH_A_MINIMUM], ids=repr)
def test_a_layer_of_rate_0_stays_as_it_is(schedule):
    net, x, y = make_network([3, 4, 2]), draw_inputs(10, 3), draw_targets("mean_squared_error", 10, 2)
    before = net.layers[0].W.copy(), net.layers[1].W.copy()
    layers = {0: {"learning_rate": 0}}
    optimizer = fastbp.SGD(0.1, 0.9, layers=layers, schedule=schedule)
    fastbp.train(net, x, y, epochs=6, batch_size=5, optimizer=optimizer)
    assert np.array_equal(net.layers[0].W, before[0])
    assert not np.array_equal(net.layers[1].W, before[1])


def test_steps_are_counted_over_epochs():
    per_step = trained(schedules.Step(2, 0.5, per="step"), epochs=5)[0]
    assert (
        per_step.parameters.tobytes() == by_hand(0.1 * 0.5**epoch for epoch in range(5)).parameters.tobytes()
    )


def test_total_is_the_whole_training_after_the_warm_up():
    assert schedules.Cosine().settings(10, 7) == (0.0, 0.0, 1 / 3, 10.0, 0.0)
    assert schedules.Cosine(per="step", warmup=4).settings(10, 7) == (1.0, 4.0, 1 / 3, 66.0, 0.0)
    assert schedules.Cosine(25, warmup=4).settings(10, 7)[3] == 25.0
    assert schedules.OneCycle().settings(10, 7)[:4] == (1.0, 0.0, 1 / 3, 70.0)


def test_refuses_a_warm_up_that_leaves_nothing():
    net = make_network([3, 4, 2])
    before = net.parameters.copy()
    optimizer = fastbp.SGD(0.1, schedule=schedules.Cosine(warmup=5))
    with pytest.raises(ValueError, match="a warm-up of 5 epochs leaves nothing of 5"):
        fastbp.train(net, np.ones((5, 3)), np.ones((5, 2)), epochs=5, optimizer=optimizer)
    assert np.array_equal(net.parameters, before)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (schedules.Constant, dict(per="batch"), "unknown per 'batch'"),
        (schedules.Constant, dict(warmup=-1), "warmup must be an integer at least 0"),
        (schedules.Constant, dict(warmup_start=0.0), "warmup_start"),
        (schedules.Step, dict(size=0), "size"),
        (schedules.Step, dict(size=2, gamma=0.0), "gamma"),
        (schedules.MultiStep, dict(milestones=3), "milestones must be at most 16 integers"),
        (schedules.MultiStep, dict(milestones=range(17)), "milestones must be at most 16 integers"),
        (schedules.MultiStep, dict(milestones=(0.5,)), "a milestone must be an integer"),
        (schedules.Exponential, dict(gamma=-1), "gamma"),
        (schedules.Polynomial, dict(total=0), "total"),
        (schedules.Polynomial, dict(power=0.0), "power"),
        (schedules.Cosine, dict(minimum=-0.1), "minimum"),
        (schedules.CosineRestarts, dict(total=None), "total"),
        (schedules.CosineRestarts, dict(total=2, factor=0), "factor"),
        (schedules.InverseScaling, dict(power=0), "power"),
        (schedules.OneCycle, dict(rise=1.0), "rise must be a finite number at least 0 and below 1"),
        (schedules.OneCycle, dict(rise=0.6, three_phases=True), "rise must be .* at most 0.5"),
        (schedules.OneCycle, dict(warmup=3), "one cycle begins with a rise of its own"),
        (schedules.OneCycle, dict(shape="square"), "unknown shape"),
        (schedules.OneCycle, dict(momentum=0.9), "momentum must be two numbers"),
        (schedules.OneCycle, dict(momentum=(0.9, 1.0)), "the highest momentum"),
        (schedules.OneCycle, dict(divisor=0), "divisor"),
        (schedules.ReduceOnPlateau, dict(factor=1.0), "factor"),
        (schedules.ReduceOnPlateau, dict(patience=-1), "patience"),
        (schedules.ReduceOnPlateau, dict(mode="best"), "unknown mode"),
        (schedules.ReduceOnPlateau, dict(monitor=3), "monitor must be the name"),
        (schedules.ReduceOnPlateau, dict(relative=1), "relative"),
    ],
)
def test_refuses(make, settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make(**settings)


@pytest.mark.parametrize("make", [fastbp.SGD, fastbp.Adagrad, fastbp.Adadelta, fastbp.RMSprop, fastbp.NAdam])
def test_one_cycle_wants_a_momentum(make):
    with pytest.raises(ValueError, match="momentum=None"):
        make(schedule=schedules.OneCycle())
    make(schedule=schedules.OneCycle(momentum=None))


# Reduce on plateau

LOSSES = [
    1.0,
    0.9,
    0.8999,
    0.95,
    0.91,
    0.7,
    0.7,
    0.7,
    0.71,
    0.69999,
    0.6,
    0.8,
    0.9,
    0.9,
    math.nan,
    0.9,
    0.9,
    0.9,
]
PLATEAUS = [
    (dict(), dict()),
    (dict(patience=1), dict(patience=1)),
    (dict(patience=0, factor=0.5), dict(patience=0, factor=0.5)),
    (dict(patience=0, cooldown=2), dict(patience=0, cooldown=2)),
    (
        dict(patience=1, threshold=0.05, relative=False),
        dict(patience=1, threshold=0.05, threshold_mode="abs"),
    ),
    (dict(patience=0, minimum=0.02), dict(patience=0, min_lr=0.02)),
    (dict(patience=0, epsilon=1e-3), dict(patience=0, eps=1e-3)),
    (dict(patience=1, mode="max"), dict(patience=1, mode="max")),
    (dict(patience=1, mode="max", relative=False), dict(patience=1, mode="max", threshold_mode="abs")),
]


@pytest.mark.parametrize(("ours", "theirs"), PLATEAUS)
@pytest.mark.parametrize("sign", [1, -1])
def test_plateau_of_pytorch(ours, theirs, sign):
    torch = pytest.importorskip("torch")
    groups = [dict(params=[torch.nn.Parameter(torch.zeros(1))], lr=rate) for rate in (0.1, 0.01)]
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD(groups), **theirs)
    plateau = schedules.ReduceOnPlateau(**ours).follow([0.1, 0.01])
    for loss in LOSSES:
        scheduler.step(sign * loss)
        assert plateau.next_rates(sign * loss) == [group["lr"] for group in scheduler.optimizer.param_groups]


@pytest.mark.parametrize("validation", [None, 0.3])
def test_a_plateau_lowers_the_rate_between_epochs(validation):
    rule = schedules.ReduceOnPlateau(factor=0.5, patience=0, threshold=0.2)
    net, history = trained(rule, epochs=8, validation=validation, rate=0.3)
    losses = history.loss if validation is None else history.validation_loss
    plateau = rule.follow([0.3])
    rates = [0.3, *(plateau.next_rates(loss)[0] for loss in losses[:-1])]
    assert len(set(rates)) > 1
    if validation is None:
        assert net.parameters.tobytes() == by_hand(rates).parameters.tobytes()


def on_a_plateau(rule, metrics=("r2", "mean_absolute_error")):
    x, y = draw_inputs(40, 3), draw_targets("mean_squared_error", 40, 2)
    net = make_network([3, 4, 2], dtype="float64")
    optimizer = fastbp.SGD(0.3, schedule=rule)
    return fastbp.train(net, x, y, epochs=12, optimizer=optimizer, validation=0.5, metrics=metrics)


@pytest.mark.parametrize(
    ("monitor", "mode", "higher"),
    [
        ("r2", "auto", True),
        ("r2", "min", False),
        ("mean_absolute_error", "auto", False),
        ("loss", "auto", False),
    ],
)
def test_a_plateau_of_what_is_watched(monitor, mode, higher):
    bounds = dict(threshold=0.02, relative=False)
    rule = schedules.ReduceOnPlateau(factor=0.5, patience=0, monitor=monitor, mode=mode, **bounds)
    history = on_a_plateau(rule)
    follower, by_loss = rule.follow([0.3], higher), rule.follow([0.3])
    values, losses = history.column(monitor), history.validation_loss
    rates = [0.3, *(follower.next_rates(value)[0] for value in values[:-1])]
    assert history.learning_rate == rates
    assert len(set(rates)) > 1
    assert rates != [0.3, *(by_loss.next_rates(loss)[0] for loss in losses[:-1])], "another than by default"


def test_a_plateau_of_a_metric_of_ones_own():
    def own(targets, predictions):
        return float(predictions.mean())

    rule = schedules.ReduceOnPlateau(patience=0, monitor="own", mode="max")
    assert len(on_a_plateau(rule, [own])) == 12
    for wrong, sentence in (
        (dict(monitor="own"), 'say mode="min" or mode="max"'),
        (dict(monitor="r2"), "monitor 'r2' is not measured here; measured are loss, validation_loss, own"),
    ):
        with pytest.raises(ValueError, match=sentence):
            on_a_plateau(schedules.ReduceOnPlateau(**wrong), [own])


def test_layers_keep_their_share_on_a_plateau():
    x, y = draw_inputs(10, 3), draw_targets("mean_squared_error", 10, 2)
    rule = schedules.ReduceOnPlateau(factor=0.5, patience=0, mode="max")  # a loss that falls is never better
    net, by_hand = (make_network([3, 4, 2], dtype="float64") for _ in range(2))
    how = dict(batch_size=5, shuffle=False)
    optimizer = fastbp.SGD(0.1, layers={1: dict(learning_rate=0.04)}, schedule=rule)
    fastbp.train(net, x, y, epochs=3, optimizer=optimizer, **how)
    for rate in (1.0, 1.0, 0.5):
        optimizer = fastbp.SGD(0.1 * rate, layers={1: dict(learning_rate=0.04 * rate)})
        fastbp.train(by_hand, x, y, epochs=1, optimizer=optimizer, **how)
    assert net.parameters.tobytes() == by_hand.parameters.tobytes()


def test_milestones_of_every_kind_are_the_same():
    for milestones in ([10, 20, 30], range(10, 40, 10), np.array([10, 20, 30])):
        assert schedules.MultiStep(milestones) == schedules.MultiStep((10, 20, 30))
