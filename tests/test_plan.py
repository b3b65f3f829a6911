"""The plan while it runs: asking it to stop, and how far it is."""

from fastbp.cpu.program import STOP
from fastbp.plan import Plan
from tests.samples import make_network


def test_stop_and_steps_done():
    net = make_network([3, 4, 2])
    made = Plan(net.architecture, "train", 4, optimizer="sgd")
    assert made.steps_done == 0
    assert not made.halted
    made.stop()
    assert made.shared[STOP] == 1
