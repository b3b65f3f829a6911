import dataclasses

import pytest

from fastbp.formulas.activations import ACTIVATIONS
from fastbp.layers import Activation, BatchNorm, Dense, Dropout, LayerNorm, Parameter, Residual, place


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_kernel_starts_as_its_activation_wants(activation):
    layer = Dense(3, activation)
    assert layer.parameters(7) == (
        Parameter("W", (7, 3), ACTIVATIONS[activation].initializer),
        Parameter("b", (3,), "zeros"),
    )
    assert layer.n_outputs(7) == 3


def test_options():
    layer = Dense(3, "relu", kernel_initializer="orthogonal", bias_initializer="ones", name="hidden")
    assert [p.initializer for p in layer.parameters(2)] == ["orthogonal", "ones"]
    assert layer.name == "hidden"
    assert Dense(3, use_bias=False).parameters(2) == (Parameter("W", (2, 3), "glorot_uniform"),)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Dense(3), "Dense(3)"),
        (Dense(3, "tanh"), "Dense(3, 'tanh')"),
        (Dense(units=3, activation="selu", kernel_initializer="lecun_normal"), "Dense(3, 'selu')"),
        (
            Dense(3, use_bias=False, kernel_initializer="zeros", bias_initializer="ones", name="out"),
            "Dense(3, use_bias=False, kernel_initializer='zeros', bias_initializer='ones', name='out')",
        ),
    ],
)
def test_repr_is_what_one_would_write(layer, text):
    assert repr(layer) == text
    assert eval(text) == layer


@pytest.mark.parametrize(
    "text",
    [
        "Dropout(0.5)",
        "Dropout(0.25, name='a')",
        "Dropout(0.3333333333333333)",
        "Activation('relu')",
        "Activation('tanh', name='a')",
        "LayerNorm()",
        "LayerNorm(epsilon=0.001, scale=False, shift=False, name='n')",
        "BatchNorm()",
        "BatchNorm(momentum=0.2, shift=False)",
        "Residual([Dense(3, 'relu'), Residual([LayerNorm()], name='b')])",
    ],
)
def test_repr_of_other_kinds_is_what_one_would_write(text):
    layer = eval(text)
    assert repr(layer) == text
    assert eval(text) == layer
    assert hash(eval(text)) == hash(layer)
    assert layer.n_outputs(7) == 7


def test_parameters_of_other_kinds():
    gamma, beta = Parameter("gamma", (3,), "ones"), Parameter("beta", (3,), "zeros")
    running = Parameter("mean", (3,), "zeros"), Parameter("variance", (3,), "ones")
    assert Dropout().parameters(3) == Residual([Dense(3)]).parameters(3) == ()
    assert LayerNorm().parameters(3) == (gamma, beta)
    assert LayerNorm(scale=False).parameters(3) == (beta,)
    assert BatchNorm().parameters(3) == (gamma, beta, *running)
    assert BatchNorm(shift=False).parameters(3) == (gamma, *running)


def test_place():
    block = Residual([Dense(5), Residual([Dropout()]), Dense(3)], name="block")
    placed = [(each.name, each.n_in, each.n_out, each.first) for each in place([Dense(3), block], 2)]
    assert placed == [
        ("layer0", 2, 3, None),
        ("block.layer0", 3, 5, None),
        ("block.layer1.layer0", 5, 5, None),
        ("block.layer1", 5, 5, 2),
        ("block.layer2", 5, 3, None),
        ("block", 3, 3, 1),
    ]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Dropout(1.0), ValueError, "rate must be a finite number .* below 1; got 1.0"),
        (lambda: Dropout(-0.1), ValueError, "rate must be .* at least 0"),
        (lambda: Dropout("0.5"), TypeError, "rate must be"),
        (lambda: Activation("rleu"), ValueError, "did you mean 'relu'"),
        (lambda: Activation(3), TypeError, "activation must be a name"),
        (lambda: Dropout(0.5, name="a.b"), ValueError, "name must be text"),
        (lambda: LayerNorm(0), ValueError, "epsilon must be a finite number above 0; got 0"),
        (lambda: LayerNorm(scale=1), TypeError, "scale must be True or False; got 1"),
        (lambda: BatchNorm(shift=None), TypeError, "shift must be True or False; got None"),
        (lambda: BatchNorm(momentum=0), ValueError, "momentum must be .* above 0"),
        (lambda: BatchNorm(momentum=1.1), ValueError, "momentum must be .* at most 1"),
        (lambda: Residual([]), ValueError, "Residual takes at least one layer; got none"),
        (lambda: Residual(3), TypeError, "Residual takes a sequence of layers; got 3"),
        (lambda: Residual([3]), TypeError, "Residual takes layers; got 3"),
    ],
)
def test_other_kinds_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_is_a_value():
    assert Dense(3, "relu") == Dense(3, "relu") != Dense(4, "relu")
    assert len({Dense(3), Dense(3), Dense(3, name="a")}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Dense(3).units = 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(units=0), ValueError, "units must be an integer at least 1 .*; got 0"),
        (dict(units=2.0), TypeError, "units must be an integer .*; got 2.0"),
        (dict(units=True), TypeError, "units must be an integer .*; got True"),
        (dict(units=2**31), ValueError, "units must be .*; got 2147483648"),
        (dict(units=3, activation="rleu"), ValueError, "unknown activation 'rleu': did you mean 'relu'"),
        (dict(units=3, activation=None), TypeError, "activation must be a name .*; got None"),
        (dict(units=3, use_bias=1), TypeError, "use_bias must be True or False; got 1"),
        (dict(units=3, kernel_initializer="glorot"), ValueError, "unknown kernel_initializer 'glorot': did"),
        (dict(units=3, bias_initializer="zero"), ValueError, "unknown bias_initializer 'zero'.* 'zeros'"),
        (dict(units=3, bias_initializer=0), TypeError, "bias_initializer must be a name such as 'zeros'"),
        (dict(units=3, name=""), ValueError, "name must be text"),
        (dict(units=3, name="a.b"), ValueError, "name must be text"),
        (dict(units=3, name=5), TypeError, "name must be text; got 5"),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        Dense(**arguments)


def test_options_go_by_name():
    with pytest.raises(TypeError):
        Dense(3, "relu", False)
