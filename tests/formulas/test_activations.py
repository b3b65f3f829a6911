import functools
import math
import os

import numpy as np
import pytest
from numba import njit

from fastbp.formulas.activations import ACTIVATIONS
from tests import reference

CASES = {name: (row, *reference.ACTIVATIONS[name]) for name, row in ACTIVATIONS.items()}
every_activation = pytest.mark.parametrize("name", CASES)

GRID = np.arange(-12, 12, 1 / 16) + 1 / 32  # keeps away from kinks
KINKS = np.array([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 6.0, -6.0])


@functools.cache
def compiled(name, dtype):
    row = ACTIVATIONS[name]
    forward, backward, keeps_y = row.forward, row.backward, row.keeps == "y"

    def run(z, dy, y, dz):
        for i in range(z.size):
            y[i] = forward(z[i])
            dz[i] = backward(dy[i], y[i] if keeps_y else z[i])

    return njit(f"void({', '.join(4 * [dtype + '[::1]'])})", error_model="numpy")(run)


def evaluate(name, z, dy=1.0, dtype="float64"):
    z = np.array(z, dtype=dtype, ndmin=1)
    dy = np.full_like(z, dy)
    y, dz = np.full_like(z, 7.0), np.full_like(z, 7.0)
    compiled(name, dtype)(z, dy, y, dz)
    return y, dz


def test_every_reference_has_a_row():
    assert set(CASES) == set(reference.ACTIVATIONS)


@every_activation
def test_forward(name):
    z = np.concatenate([GRID, KINKS])
    np.testing.assert_allclose(evaluate(name, z)[0], CASES[name][1](z), rtol=1e-12, atol=1e-14)


@every_activation
def test_backward_is_the_central_difference_of_forward(name):
    h = 2.0**-10
    before2, before, after, after2 = (evaluate(name, GRID + i * h)[0] for i in (-2, -1, 1, 2))
    slope = (8 * (after - before) - (after2 - before2)) / (12 * h)
    np.testing.assert_allclose(evaluate(name, GRID)[1], slope, rtol=1e-8, atol=1e-9)


@every_activation
def test_backward_including_kinks(name):
    z = np.concatenate([GRID, KINKS])
    dy = np.linspace(-3, 2, z.size)
    np.testing.assert_allclose(evaluate(name, z, dy)[1], dy * CASES[name][2](z), rtol=1e-12, atol=1e-14)


@every_activation
@pytest.mark.parametrize("z", [0.0, -0.0, 300.0, -300.0, 5e-324, math.inf, -math.inf, math.nan])
def test_forward_at_extremes(name, z):
    with np.errstate(all="ignore"):
        expected = CASES[name][1](np.array([z]))
    np.testing.assert_allclose(evaluate(name, z)[0], expected, rtol=1e-12)
    assert np.isnan(expected[0]) or not math.isnan(z)


@every_activation
@pytest.mark.parametrize("z", [0.0, -0.0, 300.0, -300.0, 5e-324])
def test_backward_at_extremes(name, z):
    expected = CASES[name][2](np.array([z]))
    np.testing.assert_allclose(evaluate(name, z)[1], expected, rtol=1e-12, atol=1e-15)


@every_activation
def test_nan_gradient_stays_nan(name):
    assert np.isnan(evaluate(name, 0.75, dy=math.nan)[1])


@pytest.mark.parametrize("name", ["softplus", "squareplus", "mish", "silu", "sigmoid", "exponential"])
def test_lower_tail_keeps_its_digits(name):
    z = np.array([-20.0, -30.0, -36.0])
    expected = CASES[name][1](z)
    np.testing.assert_allclose(evaluate(name, z)[0], expected, rtol=1e-14)
    h = 1e-4
    slope = (CASES[name][1](z + h) - CASES[name][1](z - h)) / (2 * h)
    np.testing.assert_allclose(evaluate(name, z)[1], slope, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["softplus", "squareplus", "gelu_tanh"])
def test_nothing_overflows_before_y_does(name, dtype):
    z = np.array([0.9 * np.finfo(dtype).max, 1e25, 1e19, 1e10])
    y, dz = evaluate(name, z, dtype=dtype)
    assert y.tolist() == z.astype(dtype).tolist()
    assert np.allclose(dz, 1, rtol=1e-9)
    assert np.isfinite(evaluate(name, -z, dtype=dtype)).all()


def test_upper_tail_of_log_sigmoid_keeps_its_digits():
    y, dz = evaluate("log_sigmoid", [30.0, 36.0])
    np.testing.assert_allclose(y, -np.exp([-30.0, -36.0]), rtol=1e-12)
    np.testing.assert_allclose(dz, np.exp([-30.0, -36.0]), rtol=1e-12)


@every_activation
def test_float32(name):
    z = np.concatenate([GRID, KINKS])
    dy = np.linspace(-3, 2, z.size).astype(np.float32)
    y, dz = evaluate(name, z, dy, dtype="float32")
    np.testing.assert_allclose(y, CASES[name][1](z), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(dz, dy * CASES[name][2](z), rtol=2e-6, atol=3e-6)


@every_activation
@pytest.mark.parametrize("z", [0.0, -0.0, 80.0, -300.0, 1e-45, math.nan])
def test_float32_at_extremes(name, z):
    y, dz = evaluate(name, z, dtype="float32")
    if math.isnan(z):
        assert np.isnan(y)
    else:
        np.testing.assert_allclose(y, CASES[name][1](np.array([z])), rtol=1e-6, atol=1e-30)
        np.testing.assert_allclose(dz, CASES[name][2](np.array([z])), rtol=1e-6, atol=1e-7)


@every_activation
def test_float32_loop_has_no_double_in_it(name):
    kernel = compiled(name, "float32")
    assert "double" not in kernel.inspect_llvm(kernel.signatures[0])


@every_activation
@pytest.mark.skipif("NUMBA_CPU_NAME" in os.environ, reason="compiled for another machine")
def test_float32_loop_becomes_vector_code(name):
    kernel = compiled(name, "float32")
    assert " x float>" in kernel.inspect_llvm(kernel.signatures[0])


@every_activation
def test_plain_python_gives_the_type_and_the_bits_of_compiled_code(name):
    row = ACTIVATIONS[name]
    for dtype in (np.float32, np.float64):
        z, dy = dtype(-0.7), dtype(1.3)
        y = row.forward(z)
        dz = row.backward(dy, y if row.keeps == "y" else z)
        assert type(y) is dtype
        assert type(dz) is dtype
        assert (y, dz) == evaluate(name, z, dy, dtype.__name__)


@every_activation
def test_initializer(name):
    special = {"relu6": "he_uniform", "selu": "lecun_normal", "exponential": "glorot_uniform"}
    low, high = CASES[name][2](np.array([-300.0, 300.0]))
    like_relu = low < 0.02 and high > 0.98
    usual = "he_uniform" if like_relu else "glorot_uniform"
    assert ACTIVATIONS[name].initializer == special.get(name, usual)


def torch_functions(torch):
    f = torch.nn.functional
    return {
        "identity": lambda z: z * 1,
        "relu": f.relu,
        "leaky_relu": f.leaky_relu,
        "elu": f.elu,
        "selu": f.selu,
        "celu": f.celu,
        "relu6": f.relu6,
        "sigmoid": f.sigmoid,
        "hard_sigmoid": lambda z: f.relu6(z + 3) / 6,  # not f.hardsigmoid: see its test
        "tanh": f.tanh,
        "hard_tanh": f.hardtanh,
        "softplus": lambda z: f.softplus(z, threshold=700),  # above its threshold PyTorch returns z
        "softsign": f.softsign,
        "silu": f.silu,
        "hard_silu": f.hardswish,
        "mish": f.mish,
        "gelu": f.gelu,
        "gelu_tanh": lambda z: f.gelu(z, approximate="tanh"),
        "log_sigmoid": f.logsigmoid,
        "tanhshrink": f.tanhshrink,
        "softshrink": f.softshrink,
        "hardshrink": f.hardshrink,
        "squareplus": lambda z: (z + torch.sqrt(z * z + 4)) / 2,  # Keras's
        "exponential": torch.exp,
    }


@every_activation
def test_against_pytorch(name):
    torch = pytest.importorskip("torch")
    z = np.concatenate([GRID, KINKS, [300.0, -300.0]])
    dy = np.linspace(-3, 2, z.size)
    z_torch = torch.tensor(z, requires_grad=True)
    y_torch = torch_functions(torch)[name](z_torch)
    y_torch.backward(torch.tensor(dy))
    y, dz = evaluate(name, z, dy)
    np.testing.assert_allclose(y, y_torch.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dz, z_torch.grad.numpy(), rtol=1e-12, atol=1e-13)


def test_where_pytorch_rounds_the_slope_of_hard_sigmoid():
    """Its float64 slope is 1/6 rounded to float32, 3e-8 off what central differences say; ours is exact."""
    torch = pytest.importorskip("torch")
    z = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.hardsigmoid(z)
    y.sum().backward()
    ours, slope = evaluate("hard_sigmoid", z.detach().numpy(), np.ones(11))
    np.testing.assert_allclose(ours, y.detach().numpy(), rtol=1e-15)
    assert set(z.grad.tolist()) == {float(np.float32(1 / 6))}
    assert set(slope.tolist()) == {1 / 6}
