"""Ctrl-C while kernels are compiled is raised until somebody hears of it."""

import contextlib
import signal
import time

import numpy as np
import pytest

import fastbp
from fastbp import interrupts
from fastbp.cpu.team import Team
from fastbp.interrupts import Interrupts, NotLost
from tests.samples import pythons_own_handler


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(interrupts, "SECONDS_UNTIL_AGAIN", 0.02)
    with pythons_own_handler():
        yield
        time.sleep(0.06)  # what comes too late would be raised here
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def lose_one():
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def work():
    for _ in range(1000):  # no long sleep, from which this does not wake
        time.sleep(0.01)
    raise AssertionError("nobody was told")


def loses_two():
    lose_one()
    with contextlib.suppress(KeyboardInterrupt):
        work()
    work()


def loses_one_and_fails():
    lose_one()
    raise OSError("the disk is full")


@pytest.mark.parametrize(
    ("compile_kernels", "error"),
    [
        (lambda: signal.raise_signal(signal.SIGINT) or pytest.fail("it goes on"), KeyboardInterrupt),
        (loses_two, KeyboardInterrupt),
        (lose_one, KeyboardInterrupt),  # told at the end
        (loses_one_and_fails, OSError),
    ],
    ids=["at once", "again", "at the end", "an error stays what it is"],
)
def test_ctrl_c_is_heard_of(compile_kernels, error):
    with pytest.raises(error), NotLost():
        compile_kernels()


def test_without_ctrl_c_and_with_another_handler_nothing_happens():
    with NotLost():
        pass
    heard = []
    signal.signal(signal.SIGINT, lambda *arguments: heard.append(1))
    with NotLost():
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert heard == [1]


@pytest.mark.parametrize(
    ("optimizer", "made"), [("sgd", "fastbp.jobs.Plan"), ("lbfgs", "fastbp.kept_plans.Plan")]
)
def test_train_hears_of_one_that_was_lost_while_it_compiled(monkeypatch, optimizer, made):
    if optimizer == "lbfgs":
        pytest.importorskip("scipy")

    class LosesOne(fastbp.plan.Plan):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            lose_one()

    monkeypatch.setattr(made, LosesOne)
    net = fastbp.Network([2, 3, 1], seed=0, dtype="float64")
    before = net.parameters.copy()
    with pytest.raises(KeyboardInterrupt):
        fastbp.train(net, [[0, 1], [1, 0]], [1, 0], optimizer=optimizer)
    assert np.array_equal(net.parameters, before)


@pytest.mark.parametrize("task", ["loss", "predict"])
@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
def test_a_long_validation_is_given_up(monkeypatch, task, optimizer):
    if optimizer == "lbfgs":
        pytest.importorskip("scipy")
    history, net, halted = interrupted_validation(monkeypatch, task, optimizer=optimizer)
    assert halted == [True], "not after its rows"
    assert history.interrupted
    assert len(history) == 1
    assert np.isnan([history.validation_loss, history.metrics["r2"]]).all()
    assert np.isfinite(history.loss).all()
    assert np.isfinite(net.parameters).all()


def test_with_checkpoints_it_comes_to_its_end(monkeypatch, tmp_path):
    checkpoints = fastbp.Checkpoints(tmp_path, every=1)
    history, net, _ = interrupted_validation(monkeypatch, "predict", checkpoints=checkpoints)
    assert history.interrupted
    x, y = rows()
    assert history.validation_loss == [net.loss(x, y)]
    assert history.metrics["r2"] == [net.evaluate(x, y, ["r2"])["r2"]]


def rows():
    """So many that nobody is done with them before Ctrl-C comes."""
    return np.random.default_rng(0).normal(size=(40_000, 64)), np.ones((40_000, 1))


def interrupted_validation(monkeypatch, task, **how):
    """(history, network, whether each call that Ctrl-C came to was given up) of one in a validation."""
    start, halted = Team.start, []

    def start_and_interrupt(team):
        start(team)
        plan = team._keeps
        if plan.choices.task == task and not halted:
            signal.raise_signal(signal.SIGINT)
            team.wait()
            halted.append(int(plan.contexts["epoch"][0]) == 0)
        return team

    monkeypatch.setattr(Team, "start", start_and_interrupt)
    x, y = rows()
    net = fastbp.Network([64, 400, 1], seed=0, dtype="float64")
    held_out = dict(validation=(x, y), metrics=["r2"])
    return fastbp.train(net, x[:50], y[:50], epochs=9, **held_out, **how), net, halted


class Noted:
    """As much of a plan as Ctrl-C knows."""

    def __init__(self, name, stopped):
        self.name, self.stopped = name, stopped

    def stop(self):
        self.stopped.append(self.name)


def test_a_plan_that_runs_instead_is_stopped_until_it_has_ended():
    """However it ended: the first Ctrl-C asks, each later one raises too."""
    stopped = []
    with Interrupts(Noted("own", stopped)) as interrupts:
        with interrupts.instead(Noted("other", stopped)):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), interrupts.instead(Noted("other", stopped)):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stopped == ["other", "own", "other", "own"]


def test_ctrl_c_raises_nothing_when_the_waiting_is_over():
    stopped = []
    with Interrupts(Noted("own", stopped)) as interrupts:
        with pytest.raises(OSError), interrupts.waiting():
            raise OSError("the disk is full")
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pytest.fail("nobody waits any more")
        assert interrupts.asked
    with Interrupts(Noted("own", stopped)) as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.waiting():
            signal.raise_signal(signal.SIGINT)
        assert interrupts.asked
    assert stopped == ["own", "own"]


@pytest.mark.parametrize("kind", [NotLost, lambda: Interrupts(None)], ids=["NotLost", "Interrupts"])
def test_a_handler_that_was_left_behind_is_pythons(kind):
    """Another signal's handler may raise where a with statement begins or ends."""
    listener = kind()
    listener.__enter__()
    handler = signal.getsignal(signal.SIGINT)
    assert handler is not signal.default_int_handler
    del listener
    with NotLost():  # takes its place, and puts Python's back
        assert signal.getsignal(signal.SIGINT) is not handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, handler)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_callers_may_be_any_object():
    class Handler:
        listener = "somebody"

        def __call__(self, number, frame):
            """Nothing."""

    signal.signal(signal.SIGINT, handler := Handler())
    net = fastbp.Network([2, 1], seed=0)
    fastbp.train(net, [[0, 1], [1, 0]], [1, 0], epochs=1)
    assert signal.getsignal(signal.SIGINT) is handler
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_nobody_raises_again_for_who_is_gone():
    listener = NotLost()
    listener.__enter__()
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    del listener
    time.sleep(0.1)  # would be interrupted
    signal.signal(signal.SIGINT, signal.default_int_handler)
