"""check_gradients: small errors where the formulas are right, and a clear finding where one is wrong."""

import math

import numpy as np
import pytest

import fastbp
from fastbp.formulas.activations import ACTIVATIONS, Activation
from fastbp.formulas.losses import LOSSES

SMOOTH = ("sigmoid", "tanh", "softplus", "silu", "mish", "gelu", "gelu_tanh", "squareplus", "exponential")


def data(n=5, n_in=3, n_out=2, seed=0):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, n_in)), draw.normal(size=(n, n_out))


@pytest.fixture
def added():
    """A function that puts a row into the table unchecked; it is taken out again."""
    names = []

    def add(name, forward, backward, keeps="z"):
        names.append(name)
        ACTIVATIONS[name] = Activation(forward, backward, keeps)
        return name

    yield add
    for name in names:
        del ACTIVATIONS[name]


@pytest.mark.parametrize("activation", SMOOTH)
def test_smooth_activations_agree_closely(activation):
    check = fastbp.check_gradients(fastbp.Network([3, 4, 2], activation=activation, seed=1), *data())
    assert check
    assert check.max_error < 1e-7, check


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_agree(loss):
    draw = np.random.default_rng(2)
    targets = {
        "real": draw.normal(size=(5, 2)),
        "binary": draw.uniform(size=(5, 2)),
        "count": draw.poisson(3.0, size=(5, 2)),
        "sign": draw.choice([-1.0, 1.0], size=(5, 2)),
        "classes": [0, 1, 1, 0, 1],
    }
    network = fastbp.Network([3, 4, 2], activation="tanh", loss=loss, seed=1)
    check = fastbp.check_gradients(network, data()[0], targets[LOSSES[loss].targets])
    assert check, check


def test_the_result_says_what_was_checked():
    network = fastbp.Network(
        [fastbp.Dense(4, "tanh", name="in"), fastbp.Dense(2, use_bias=False)], inputs=3, seed=0
    )
    check = fastbp.check_gradients(network, *data())
    assert check.n_checked == check.n_derivatives == 12 + 4 + 8 + 15
    assert list(check.errors) == ["in.W", "in.b", "layer1.W", "inputs"]
    assert check.max_error == max(check.errors.values())
    assert check.worst.split("[")[0] in check.errors
    assert check.derived == pytest.approx(check.measured, rel=1e-5)
    assert repr(check).startswith("GradientCheck(passed: 39 of 39 derivatives, largest error ")


def test_a_wrong_backward_is_found(added):
    added("wrong_tanh", math.tanh, lambda dy, y: dy * (1 - y), "y")  # should be 1 - y²
    check = fastbp.check_gradients(fastbp.Network([3, 4, 2], activation="wrong_tanh", seed=1), *data())
    assert not check
    assert not check.passed
    assert check.max_error > 0.01
    assert repr(check).startswith("GradientCheck(FAILED: ")
    assert check.errors["layer1.W"] < 1e-7, "nothing is wrong behind the activation"
    assert check.errors["layer0.W"] > 0.01


def test_a_slightly_wrong_backward_is_found(added):
    added("nearly", math.tanh, lambda dy, y: dy * (1 - y * y) * 1.00001, "y")
    check = fastbp.check_gradients(fastbp.Network([3, 4, 2], activation="nearly", seed=1), *data())
    assert not check
    assert 0.9e-5 < check.max_error < 1.1e-5


def test_an_activation_wrong_on_one_side_is_found(added):
    added("half", lambda z: z if z > 0 else 0.5 * z, lambda dy, z: dy if z > 0 else 0.25 * dy)
    assert not fastbp.check_gradients(fastbp.Network([3, 4, 2], activation="half", seed=1), *data())


def test_a_users_activation_passes():
    try:
        fastbp.register_activation("cubic", lambda z: z * z * z, lambda dy, z: 3 * dy * z * z)
        assert fastbp.check_gradients(fastbp.Network([3, 4, 2], activation="cubic", seed=1), *data())
    finally:
        ACTIVATIONS.pop("cubic", None)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "hard_tanh", "hardshrink"])
def test_values_next_to_a_kink_pass(activation):
    kink = {"hard_tanh": 1.0, "hardshrink": 0.5}.get(activation, 0.0)
    network = fastbp.Network([1, 1, 1], activation=activation, dtype="float64", seed=0)
    network.layers[0].W[:] = 1.0
    for distance in (1e-6, -1e-6, 1e-7, -1e-7):
        if activation == "hardshrink" and abs(distance) < 1e-6:
            continue  # it jumps there: the shortest step still crosses
        check = fastbp.check_gradients(network, [kink + distance], [5.0])
        assert check, check


def test_values_on_a_kink_pass():
    network = fastbp.Network([2, 1], output_activation="relu", seed=0)  # z = b = 0 for the row of zeros
    assert fastbp.check_gradients(network, [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [1.0, 2.0, 3.0])


def test_a_wrong_slope_on_a_kink_is_found(added):
    added("outside", lambda z: max(z, 0.0), lambda dy, y: dy if y > 0 else -0.1 * dy, "y")
    network = fastbp.Network([2, 1], output_activation="outside", seed=0)
    assert not fastbp.check_gradients(network, [[0.0, 0.0]], [1.0])


def test_a_perfect_fit_passes():
    network = fastbp.Network([3, 4, 2], activation="tanh", dtype="float64", seed=0)
    x, _ = data()
    check = fastbp.check_gradients(network, x, network.predict(x))
    assert check, check


def test_large_inputs_pass():
    network = fastbp.Network([3, 4, 2], activation="tanh", seed=0)
    x, y = data()
    assert fastbp.check_gradients(network, 1000 * x, y)
    assert fastbp.check_gradients(network, x, 1000 * y)


def test_nothing_of_the_callers_is_changed():
    network = fastbp.Network([3, 4, 2], activation="tanh", dtype="float64", seed=0)
    x, y = data()
    before = network.parameters.tobytes(), x.tobytes(), y.tobytes()
    fastbp.check_gradients(network, x, y)
    assert before == (network.parameters.tobytes(), x.tobytes(), y.tobytes())


def test_a_sample_of_large_arrays_is_checked_the_same_each_time():
    network = fastbp.Network([30, 20, 2], activation="tanh", seed=0)
    x, y = data(4, 30)
    checks = [fastbp.check_gradients(network, x, y, at_most=25) for _ in range(2)]
    assert checks[0] == checks[1]
    assert checks[0].n_checked == 25 + 20 + 25 + 2 + 25
    assert checks[0].n_derivatives == 600 + 20 + 40 + 2 + 120


def test_an_overflow_is_a_failure(added):
    network = fastbp.Network([1, 1, 1], activation="exponential", dtype="float64", seed=0)
    network.layers[0].W[:] = 800.0
    check = fastbp.check_gradients(network, [1.0], [1.0])
    assert not check
    assert check.max_error == np.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0.0}, "step must be a finite number above 0"),
        ({"tolerance": -1.0}, "tolerance must be a finite number at least 0"),
        ({"at_most": 0}, "at_most must be an integer at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        fastbp.check_gradients(fastbp.Network([3, 2], seed=0), *data(), **options)


def test_bad_data_and_parameters():
    network = fastbp.Network([3, 2], seed=0)
    with pytest.raises(ValueError, match="x must have shape"):
        fastbp.check_gradients(network, [[1.0]], [[1.0, 2.0]])
    network.parameters[3] = np.nan
    with pytest.raises(ValueError, match="parameters must be finite; number 3 is nan"):
        fastbp.check_gradients(network, *data())


def test_probabilities_that_rounding_left_off_1():
    """0.333333 three times: what is taken for a distribution has a gradient that is the loss's."""
    net = fastbp.Network([4, 8, 3], activation="tanh", loss="softmax_cross_entropy", dtype="float64", seed=0)
    x, y = np.random.default_rng(0).normal(size=(4, 4)), np.full((4, 3), 0.333333)
    given = y.copy()
    assert fastbp.check_gradients(net, x, y)
    assert np.array_equal(y, given)
    assert net.loss(x, y) == net.loss(x, np.full((4, 3), 1 / 3))
