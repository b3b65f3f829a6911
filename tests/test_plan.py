"""The plan while it runs: asking it to stop, and how far it is."""

import fastbp
from fastbp.cpu.program import STOP
from fastbp.plan import Plan
from tests.samples import draw_inputs, draw_targets, make_network


def test_stop_and_steps_done():
    net = make_network([3, 4, 2])
    made = Plan(net.architecture, "train", 4, optimizer="sgd")
    assert made.steps_done == 0
    assert not made.halted
    made.stop()
    assert made.shared[STOP] == 1


def test_replicas_stay_the_same(monkeypatch):
    """Each of two threads updates parameters of its own: the same ones."""
    made = []

    def keep(*arguments, **options):
        made.append(Plan(*arguments, **options))
        return made[0]

    monkeypatch.setattr("fastbp.jobs.Plan", keep)
    net = make_network([40, 48, 37, 10], "tanh", "softmax_cross_entropy")
    x, y = draw_inputs(150, 40), draw_targets("softmax_cross_entropy", 150, 10)
    before = net.parameters.copy()
    fastbp.train(net, x, y, epochs=2, batch_size=64, optimizer=fastbp.Adam(0.01), threads=2)
    assert made[0].choices.replicas == 2
    first, second = made[0].layout.arena[: 2 * made[0].layout.replica_bytes].reshape(2, -1)
    assert (first == second).all()
    assert (net.parameters != before).mean() > 0.9
