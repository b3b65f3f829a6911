"""Ctrl-C while kernels are compiled is raised until somebody hears of it."""

import contextlib
import signal
import time

import numpy as np
import pytest

import fastbp
from fastbp import interrupts
from fastbp.interrupts import NotLost
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
    ("optimizer", "made"), [("sgd", "fastbp.jobs.Plan"), ("lbfgs", "fastbp.network.Plan")]
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
