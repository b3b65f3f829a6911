"""What a thread's program has, and what it has not where nobody wants it."""

import numpy as np

import fastbp
from fastbp.plan import Plan
from fastbp.shaping import Shaping
from tests.samples import make_architecture


def test_a_small_step_is_a_short_program():
    """gather, two products, activation, loss, activation backward, product, prepare, two updates, end."""
    made = Plan(make_architecture((64, 32, 10)), "train", 32, optimizer="sgd")
    by_rows, after = made.programs[0][1][1:3]
    assert after["last"] - by_rows["first"] <= 13


def test_shaping_is_paid_for_by_who_wants_it():
    for threads in (1, 2):
        plain = Plan(make_architecture(), "train", 32, threads, optimizer="sgd")
        again = Plan(make_architecture(), "train", 32, threads, optimizer="sgd", shaping=None, weighted=False)
        for (program, sections), (same, same_sections) in zip(plain.programs, again.programs):
            assert (program["kernel"] == same["kernel"]).all()
            assert (sections == same_sections).all()
            assert not program["shaping"].any()
    net = fastbp.Network([fastbp.Dense(5), fastbp.LayerNorm(), fastbp.BatchNorm(), fastbp.Dense(2)], inputs=3)
    for materialise in (False, True):
        options = dict(optimizer="sgd", materialise=materialise)
        ((program, _),) = Plan(net.architecture, "train", 32, **options).programs
        assert not any(program[field].any() for field in ("shaping", "shape", "collected"))
    shaping = Shaping(((0.1, 0.0), (0.0, 0.0)), (0.0, 0.0))
    ((program, _),) = Plan(make_architecture(), "train", 32, optimizer="sgd", shaping=shaping).programs
    ((plain, _),) = Plan(make_architecture(), "train", 32, optimizer="sgd").programs
    assert (program["kernel"] == plain["kernel"]).all(), "a penalty needs no operation of its own"
    assert np.count_nonzero(program["shaping"]) == 1
