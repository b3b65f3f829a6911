"""Activations of the user's own: what is taken, and what is refused at once."""

import functools
import math
import os

import numpy as np
import pytest
from numba import njit

from fastbp.formulas import activations
from fastbp.formulas.activations import ACTIVATIONS, Activation
from fastbp.own_activations import register_activation
from fastbp.program import _users_own

SLOPES = {"one": 1.0}  # Numba knows no dict of a module


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setattr(activations, "ACTIVATIONS", dict(ACTIVATIONS))


def test_pair_that_keeps_z():
    row = register_activation("sine", lambda z: math.sin(z), lambda dy, z: dy * math.cos(z))
    assert activations.ACTIVATIONS["sine"] is row
    assert (row.keeps, row.initializer) == ("z", "glorot_uniform")
    forward = row.forward
    assert njit(lambda z: forward(z))(0.5) == pytest.approx(math.sin(0.5))


def test_pair_that_keeps_y():
    row = register_activation(
        "squash", np.tanh, lambda dy, y: dy * (1 - y * y), "y", initializer="he_uniform"
    )
    assert row == Activation(np.tanh, row.backward, "y", "he_uniform")


def test_one_that_is_made_of_ours_is_the_users_all_the_same():
    """What is compiled for it must not be kept under its name."""
    tanh = ACTIVATIONS["tanh"]
    register_activation("borrowed", tanh.forward, tanh.backward, "y")
    assert _users_own("borrowed") is activations.ACTIVATIONS["borrowed"]
    assert _users_own("tanh") is None
    register_activation("tanh", lambda z: z, lambda dy, z: dy, overwrite=True)
    assert _users_own("tanh") is activations.ACTIVATIONS["tanh"]


def test_jitted_functions_are_unwrapped():
    forward, backward = njit(lambda z: 2 * z), njit(lambda dy, z: 2 * dy)
    row = register_activation("double", forward, backward)
    assert (row.forward(3), row.backward(3, 0)) == (6, 6)


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (abs, lambda dy, z: math.copysign(dy, dy * z)),
        (abs, lambda dy, z: dy if z > 0 else (-dy if z < 0 else 0.0)),
        (lambda z: max(z, 0.0), lambda dy, z: dy if z >= 0 else 0.0),
        (lambda z: z if abs(z) > 1 else 0.0, lambda dy, z: dy if abs(z) > 1 else 0.0),
        (lambda z: math.log(z), lambda dy, z: dy / z),
        (lambda z: math.exp(100 * z), lambda dy, z: dy * 100 * math.exp(100 * z)),
        (lambda z: math.sin(20 * z), lambda dy, z: 20 * dy * math.cos(20 * z)),
        (lambda z: math.sin(300 * z), lambda dy, z: 300 * dy * math.cos(300 * z)),
        (lambda z: 0.0, lambda dy, z: 0.0),
    ],
    ids=["abs", "abs_zero", "relu", "jump", "log", "overflow", "wave", "steep", "constant"],
)
def test_kinks_and_gaps_are_accepted(forward, backward):
    register_activation("own", forward, backward)


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (math.sin, lambda dy, z: -dy * math.cos(z)),
        (math.sin, lambda dy, z: math.cos(z)),
        (math.sin, lambda dy, z: dy * dy * math.cos(z)),
        (math.sin, lambda dy, z: dy * math.cos(z) * 1.0001),
        (math.tanh, lambda dy, z: dy * (1 - z * z)),
        (lambda z: max(z, 0.0), lambda dy, z: dy if z > -0.2 else 0.0),
        (lambda z: max(z, 0.0), lambda dy, z: dy),
        (lambda z: z, lambda dy, z: dy if z < 5 else math.nan),
        (lambda z: z, lambda dy, z: dy if z < 5 else math.log(-1)),
    ],
    ids=[
        "sign",
        "no_dy",
        "dy_squared",
        "scale",
        "keeps_mixed_up",
        "kink_moved",
        "no_kink",
        "nan",
        "error",
    ],
)
def test_wrong_derivative_is_refused(forward, backward):
    with pytest.raises(ValueError, match=r"'own' is not the derivative.*z = .*expected .*, got "):
        register_activation("own", forward, backward)
    assert "own" not in activations.ACTIVATIONS


def test_the_worst_point_is_named():
    with pytest.raises(ValueError, match=r"at z = 8 with dy = -0.75 expected -0.75 .*, got -3$"):
        register_activation("own", lambda z: z, lambda dy, z: dy * (4 if z == 8 else 1 + (z > 7)))


def test_further_arguments_may_have_defaults():
    row = register_activation("own", lambda z, f=2.0: f * z, lambda dy, y, f=2.0: f * dy)
    assert (row.forward(3.0), row.backward(3.0, 1.0)) == (6, 6)


def test_forward_that_is_finite_nowhere():
    with pytest.raises(ValueError, match="finite nowhere"):
        register_activation("own", lambda z: math.nan, lambda dy, z: dy)


@pytest.mark.parametrize("name", ["", "two words", "1st", 3, None])
def test_name_must_be_an_identifier(name):
    with pytest.raises(ValueError, match="must be a Python identifier"):
        register_activation(name, lambda z: z, lambda dy, z: dy)


def test_name_taken():
    with pytest.raises(ValueError, match="'relu' exists already; overwrite=True"):
        register_activation("relu", lambda z: z, lambda dy, z: dy)
    row = register_activation("relu", lambda z: z, lambda dy, z: dy, overwrite=True)
    assert activations.ACTIVATIONS["relu"] is row


def test_keeps_must_be_y_or_z():
    with pytest.raises(ValueError, match='keeps must be "y" or "z"; got \'x\''):
        register_activation("own", lambda z: z, lambda dy, z: dy, keeps="x")


@pytest.mark.parametrize(
    ("forward", "backward", "sentence"),
    [
        (lambda z: os.nice(0) * z, lambda dy, z: dy, r"cannot compile the forward of .* 'own': .*'nice'"),
        (lambda z: z, lambda dy, z: SLOPES["one"] * dy, r"cannot compile the backward .* 'SLOPES'"),
        (lambda z: z, lambda dy: dy, r"cannot compile the backward .*takes 1 arg"),
        (lambda z: missing(z), lambda dy, z: dy, r"cannot compile the forward .*'missing' is not"),  # noqa: F821
        (lambda z: np.clip(z, 0, 1), lambda dy, z: dy, r"cannot compile the forward .*clip\(float64, "),
        (functools.partial(pow, 2.0), lambda dy, z: dy, r"cannot compile the forward .*partial"),
        (lambda z: None, lambda dy, z: dy, r"the forward .* must return a number; .* none$"),
        (lambda z: z, lambda dy, z: np.where(z > 0, dy, dy), r"the backward .* must return a number"),
        (lambda z: z + 1j, lambda dy, z: dy, r"the forward .* must return a number; .* complex128$"),
    ],
)
def test_what_numba_cannot_compile_is_refused_at_once(forward, backward, sentence):
    with pytest.raises(TypeError, match=sentence) as error:
        register_activation("own", forward, backward)
    assert "\n" not in str(error.value)
    assert "own" not in activations.ACTIVATIONS


@pytest.mark.parametrize("pair", [(None, lambda dy, z: dy), (lambda z: z, 3)])
def test_functions_must_be_callable(pair):
    with pytest.raises(TypeError, match="must be a function of one number; got"):
        register_activation("own", *pair)
