"""Plans that wait for the next call: few of them, and none that was made for another activation."""

import pytest

from fastbp import kept_plans, own_activations
from tests.samples import draw_inputs, draw_targets, make_network


def test_many_sizes_of_batch_keep_few_plans():
    net = make_network([3, 4, 2])
    for n in range(1, 40):
        net.gradient(draw_inputs(n, 3), draw_targets("mean_squared_error", n, 2))
    assert 1 <= len(net._plans) <= 10


def test_a_plan_is_lent_to_one_caller_at_a_time():
    net = make_network([3, 4, 2])
    with net._plan("loss", 4, 1) as first, net._plan("loss", 4, 1) as second:
        assert first is not second
    with net._plan("loss", 4, 1) as again:
        assert again in (first, second)


def test_a_plan_that_may_have_stopped_in_the_middle_is_forgotten():
    net = make_network([3, 4, 2])
    with pytest.raises(KeyError), net._plan("loss", 4, 1):
        raise KeyError("mine")
    assert len(net._plans) == 0


def test_a_plan_that_was_lent_while_an_activation_was_replaced_is_forgotten(monkeypatch):
    net = make_network([3, 4, 2])
    with net._plan("loss", 4, 1) as old:
        monkeypatch.setattr(own_activations, "replacements", own_activations.replacements + 1)
        net.loss([[1.0, 2.0, 3.0]], [[1.0, 0.0]])
    with net._plan("loss", 4, 1) as new:
        assert new is not old


def test_large_plans_do_not_wait_together(monkeypatch):
    """All activations of the rows are in each."""
    net, sizes = make_network([3, 40, 2]), range(100, 105)
    for n in sizes:
        net.gradient(draw_inputs(n, 3), draw_targets("mean_squared_error", n, 2))
    assert len(net._plans) == len(sizes)
    one = net._plans._bytes() // len(sizes)
    assert one > 2 * 4 * 40 * 100, "activations and their gradients"
    for room, expected in ((3 * one, 2), (1, 1)):
        monkeypatch.setattr(kept_plans, "BYTES_KEPT", room)
        net.gradient(draw_inputs(99, 3), draw_targets("mean_squared_error", 99, 2))
        assert expected <= len(net._plans) <= expected + 1
