"""Optimizers as a user meets them: settings, checks, settings of layers. Trajectories: test_pytorch.py."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastbp
from fastbp import schedules
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.optimizers import BY_NAME, as_optimizer
from tests.samples import draw_inputs, draw_targets, make_network
from tests.test_architectures import drawn

WITH_OPTIONS = [
    fastbp.SGD(momentum=0.9),
    fastbp.SGD(momentum=0.9, nesterov=True),
    fastbp.Adam(amsgrad=True),
    fastbp.RMSprop(momentum=0.9),
    fastbp.RMSprop(centered=True),
]

IN_THE_STEP = {name: cls for name, cls in BY_NAME.items() if cls is not fastbp.LBFGS}


def test_every_formula_can_be_had():
    assert {o.formula for o in (*WITH_OPTIONS, *(cls() for cls in IN_THE_STEP.values()))} == set(OPTIMIZERS)


def test_every_optimizer_is_public_and_known_by_name():
    for name, cls in BY_NAME.items():
        assert getattr(fastbp, cls.__name__) is cls
        assert as_optimizer(name) == cls()
        assert name == cls.__name__.lower()
    for cls in IN_THE_STEP.values():
        assert len(cls().settings) == len(OPTIMIZERS[cls().formula].settings)


def test_is_a_value():
    assert fastbp.AdamW(0.1) == fastbp.AdamW(0.1) != fastbp.AdamW(0.2)
    assert hash(fastbp.Lion(layers={0: {}})) == hash(fastbp.Lion(layers={0: {}}))
    assert fastbp.Adam() != fastbp.AdamW(weight_decay=0.0)
    with pytest.raises(FrozenInstanceError):
        fastbp.SGD().momentum = 0.5


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (fastbp.SGD(), "SGD(learning_rate=0.01)"),
        (fastbp.SGD(0.1, 0.9), "SGD(learning_rate=0.1, momentum=0.9)"),
        (
            fastbp.AdamW(0.1, decay_biases=False, schedule=schedules.Constant(warmup=3)),
            "AdamW(learning_rate=0.1, decay_biases=False, "
            "schedule=Constant(per='epoch', warmup=3, warmup_start=0.3333333333333333))",
        ),
    ],
)
def test_repr_is_what_one_would_write(optimizer, text):
    assert repr(optimizer) == text
    assert eval(text, vars(fastbp) | vars(schedules)) == optimizer


def test_settings_of_layers_are_ours():
    layers = {0: {"learning_rate": 0.5}}
    optimizer = fastbp.SGD(0.1, layers=layers)
    layers[0]["learning_rate"] = -1.0
    assert optimizer.layers == {0: {"learning_rate": 0.5}}


def test_decay_is_coupled_or_not():
    place = OPTIMIZERS["adam"].settings.index
    for optimizer, coupled, decoupled in (
        (fastbp.Adam(weight_decay=0.5), 0.5, 0.0),
        (fastbp.AdamW(weight_decay=0.5), 0.0, 0.5),
        (fastbp.NAdam(weight_decay=0.5, decoupled=True), 0.0, 0.5),
        (fastbp.RAdam(weight_decay=0.5), 0.5, 0.0),
    ):
        settings = optimizer.settings
        assert settings[place("weight_decay")] == coupled
        assert settings[place("decoupled_decay")] == decoupled


NUMBERS = {
    "learning_rate": (0.0, -1.0, np.inf, "0.1", None),
    "weight_decay": (-0.1, np.nan, "0.1"),
    "momentum": (-0.1, "0.9"),
    "epsilon": (0.0, -1e-8),
    "alpha": (1.0, -0.1),
    "rho": (1.0, -0.1),
    "learning_rate_decay": (-1.0,),
    "initial_accumulator_value": (-1.0,),
    "momentum_decay": (-0.1,),
    "betas": (0.9, (0.9,), (0.9, 1.0), (-0.1, 0.9)),
    "amsgrad": (1,),
    "centered": (0,),
    "decoupled": (None,),
    "decay_biases": (1,),
    "schedule": (0.1, "cosine", schedules.Cosine),
}


@pytest.mark.parametrize("cls", IN_THE_STEP.values())
def test_refuses(cls):
    for name, values in NUMBERS.items():
        if name in cls.__dataclass_fields__:
            for value in values:
                with pytest.raises((TypeError, ValueError), match=name.replace("betas", "beta")):
                    cls(**{name: value})


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([0.1], TypeError, "layers must be settings by layer"),
        ({0: 0.1}, TypeError, r"layers\[0\] must be settings by name; got 0.1"),
        ({0: {"learning_rat": 0.1}}, ValueError, "did you mean 'learning_rate'"),
        ({0: {"schedule": None}}, ValueError, "unknown setting of layers"),
        ({"a": {"momentum": -1}}, ValueError, r"layers\['a'\]: momentum must be a finite number at least 0"),
        ({0: {"momentum": 0.0}}, ValueError, "would be 'sgd'"),
        ({0: {"learning_rate": -1.0}}, ValueError, "above 0"),
    ],
)
def test_refuses_settings_of_layers(layers, error, message):
    with pytest.raises(error, match=message):
        fastbp.SGD(0.1, momentum=0.9, layers=layers)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ({"laier1": {}}, ValueError, "unknown layer 'laier1': did you mean 'layer1'"),
        ({2: {}}, ValueError, "a key of layers must be an integer at least 0 and at most 1; got 2"),
        ({1.0: {}}, TypeError, "a key of layers must be an integer"),
        ({1: {}, "layer1": {}}, ValueError, "are the same layer"),
    ],
)
def test_refuses_layers_that_are_not_there(layers, error, message):
    net = make_network([3, 4, 2])
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        fastbp.train(net, np.ones((5, 3)), np.ones((5, 2)), optimizer=fastbp.SGD(layers=layers))
    assert np.array_equal(net.parameters, before)


def test_settings_of_layers_are_few_rows():
    names = ["a", "b", "c"]
    assert fastbp.SGD(0.1).settings_of(names) == ([(0.1, 0.0)], ((0, 0),) * 3)
    assert fastbp.SGD(0.1, decay_biases=False).settings_of(names)[1] == ((0, 0),) * 3
    optimizer = fastbp.SGD(
        0.1,
        weight_decay=0.5,
        decay_biases=False,
        layers={"c": {"decay_biases": True}, 0: {"learning_rate": 0}},
    )
    rows, groups = optimizer.settings_of(names)
    assert [(rows[W], rows[b]) for W, b in groups] == [
        ((0.0, 0.5), (0.0, 0.0)), ((0.1, 0.5), (0.1, 0.0)), ((0.1, 0.5), (0.1, 0.5)),
    ]  # fmt: skip
    assert len(rows) == 4


def trained(optimizer, *, sizes=(9, 20, 12, 3), rows=70, **how):
    x, y = draw_inputs(rows, sizes[0]), draw_targets("mean_squared_error", rows, sizes[-1])
    net = make_network(list(sizes), dtype="float64")
    fastbp.train(net, x, y, **dict(epochs=3, batch_size=12, optimizer=optimizer, seed=1) | how)
    return net


def test_what_nobody_asked_for_changes_no_bit():
    plain = trained(fastbp.SGD(0.1, weight_decay=0.2)).parameters.tobytes()
    for layers in ({}, {0: {}}, {"layer1": {"learning_rate": 0.1, "weight_decay": 0.2}}):
        assert trained(fastbp.SGD(0.1, weight_decay=0.2, layers=layers)).parameters.tobytes() == plain
    assert (
        trained(fastbp.SGD(0.1, weight_decay=0.2, schedule=schedules.Constant())).parameters.tobytes()
        == plain
    )


@pytest.mark.parametrize("how", [dict(materialise=True), dict(threads=2), dict(threads=3)], ids=str)
@pytest.mark.parametrize(
    "training",
    [dict(), dict(sizes=(4, 16, 7, 3), rows=600, batch_size=600), dict(sizes=(400, 50, 5, 3), batch_size=32)],
    ids=["rows", "chunks", "columns"],
)
def test_settings_of_layers_depend_on_no_way_of_working(training, how):
    optimizer = fastbp.SGD(
        0.1, weight_decay=0.2, decay_biases=False, schedule=schedules.Cosine(per="step"),
        layers={1: {"learning_rate": 0.05}, 2: {"weight_decay": 0.0}},
    )  # fmt: skip
    one = trained(optimizer, threads=1, **training)
    assert trained(optimizer, **how, **training).parameters.tobytes() == one.parameters.tobytes()


@st.composite
def an_optimizer(draw, classes):
    """Any optimizer with any schedule, for a network of three layers."""
    cls = draw(st.sampled_from(classes))
    a_share = st.floats(0.1, 1.0)
    settings = dict(weight_decay=draw(st.sampled_from([0.0, 0.2])), decay_biases=draw(st.booleans()))
    if cls is fastbp.SGD:
        settings["momentum"] = draw(st.sampled_from([0.0, 0.9]))
    if issubclass(cls, fastbp.Adam):
        settings["amsgrad"] = draw(st.booleans())
    places = draw(st.sets(st.integers(0, 2)))
    settings["layers"] = {place: {"learning_rate": 0.02 * draw(a_share)} for place in places}
    per, warmup = draw(st.sampled_from(["epoch", "step"])), draw(st.integers(0, 2))
    settings["schedule"] = draw(
        st.sampled_from([
            None, schedules.Step(2, 0.7, per=per, warmup=warmup), schedules.Cosine(per=per, warmup=warmup),
            schedules.Polynomial(power=1.7, per=per), schedules.OneCycle(per=per, momentum=None),
            schedules.ReduceOnPlateau(patience=0, factor=0.5),
        ])
    )  # fmt: skip
    return cls(0.02, **settings)


def same_bits_any_way(optimizer, sizes, rows, batch_size, threads, materialise):
    training = dict(sizes=(*sizes, 3), rows=rows, batch_size=batch_size)
    one = trained(optimizer, threads=1, **training)
    other = trained(optimizer, threads=threads, materialise=materialise, **training)
    assert other.parameters.tobytes() == one.parameters.tobytes()
    assert np.isfinite(one.parameters).all()


any_way = dict(
    sizes=st.lists(st.integers(1, 60), min_size=3, max_size=3),
    rows=st.integers(1, 80),
    batch_size=st.integers(1, 40),
    threads=st.integers(1, 3),
    materialise=st.booleans(),
)


@drawn(30)
@given(optimizer=an_optimizer([fastbp.SGD, fastbp.Adam, fastbp.AdamW]), **any_way)
def test_same_bits_any_way(optimizer, **how):
    same_bits_any_way(optimizer, **how)


@pytest.mark.slow
@drawn(300)
@given(optimizer=an_optimizer(list(IN_THE_STEP.values())), **any_way)
def test_same_bits_any_way_of_every_optimizer(optimizer, **how):
    same_bits_any_way(optimizer, **how)


def test_a_frozen_layer_stays():
    start = make_network([9, 20, 12, 3], dtype="float64")
    net = trained(fastbp.AdamW(0.1, weight_decay=0.5, layers={"layer1": {"learning_rate": 0.0}}))
    for before, after, stays in zip(start.layers, net.layers, (False, True, False)):
        assert np.array_equal(before.W, after.W) == np.array_equal(before.b, after.b) == stays


def test_no_schedule_and_no_layers_make_the_shortest_program():
    from fastbp.plan import Plan

    architecture = make_network([9, 20, 12, 3]).architecture
    plain = Plan(architecture, "train", 5, optimizer="sgd")
    grouped = Plan(architecture, "train", 5, optimizer="sgd", groups=((0, 1), (0, 1), (0, 0)))
    scheduled = Plan(architecture, "train", 5, optimizer="sgd", schedule="cosine")
    lengths = [len(plan.programs[0][0]) for plan in (plain, grouped, scheduled)]
    assert lengths == [lengths[0], lengths[0] + 1, lengths[0] + 1]
    assert not plain.programs[0][0]["bias_settings"].any()


def test_settings_that_are_equal_are_written_alike():
    layers = {0: {"learning_rate": 0.5}}
    milestones = fastbp.schedules.MultiStep((2, 4), gamma=0.5)
    plain = fastbp.Adam(0.25, betas=(0.9, 0.99), layers=layers, schedule=milestones)
    milestones = fastbp.schedules.MultiStep(np.array([2, 4]), gamma=np.float64(0.5))
    layers = {0: {"learning_rate": np.float64(0.5)}}
    other = fastbp.Adam(np.float32(0.25), betas=[0.9, np.float64(0.99)], layers=layers, schedule=milestones)
    assert repr(other) == repr(plain)
    assert other == plain
    assert hash(other) == hash(plain)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: fastbp.train(fastbp.Network([2, 1]), [[0, 1]], [1], optimizer=fastbp.Adam(epsilon=1e-46)),
            "that is 0 in float32",
        ),
        (
            lambda: fastbp.OnlineTrainer(fastbp.Network([2, 1]), fastbp.Adam(epsilon=1e-46)),
            "that is 0 in float32",
        ),
        (
            lambda: fastbp.OnlineTrainer(fastbp.Network([2, 1]), fastbp.Adam(layers={0: {"epsilon": 1e-46}})),
            "that is 0 in float32: 1e-46",
        ),
        (
            lambda: fastbp.train(fastbp.Network([2, 1]), [[0, 1]], [1], optimizer=fastbp.SGD(1e-50)),
            "that is 0 in float32: 1e-50",
        ),
        (
            lambda: fastbp.Network([fastbp.BatchNorm(1e39), fastbp.Dense(1)], inputs=2),
            "that is inf in float32",
        ),
    ],
)
def test_settings_that_the_networks_type_cannot_hold(made, message):
    with pytest.raises(ValueError, match=message):
        made()
