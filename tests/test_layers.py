import dataclasses

import pytest

from fastbp.formulas.activations import ACTIVATIONS
from fastbp.layers import Dense, Parameter


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
