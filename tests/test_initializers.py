import hashlib
import inspect
import math

import numpy as np
import pytest
from scipy import stats

from fastbp.formulas.activations import ACTIVATIONS
from fastbp.initializers import INITIALIZERS

N_IN, N_OUT = 90, 210  # their fans differ, so a swap shows

UNIFORM_LIMITS = {
    "uniform": 0.05,
    "glorot_uniform": math.sqrt(6 / 300),
    "he_uniform": math.sqrt(6 / 90),
    "lecun_uniform": math.sqrt(3 / 90),
}
NORMAL_SCALES = {
    "normal": 0.05,
    "glorot_normal": math.sqrt(2 / 300),
    "he_normal": math.sqrt(2 / 90),
    "lecun_normal": math.sqrt(1 / 90),
}
CONSTANTS = {"zeros": 0.0, "ones": 1.0}
OTHERS = {"truncated_normal", "orthogonal"}

DIGESTS = {
    "zeros": "569cfdcf139f915b",
    "ones": "3086203a5839d451",
    "uniform": "abc7f818123dea08",
    "normal": "cbfe749b4b5bf677",
    "truncated_normal": "ede851962fab2748",
    "glorot_uniform": "d69dc2f0dc8eb6d5",
    "glorot_normal": "a1d85164431f8a67",
    "he_uniform": "bd6559ac35adca28",
    "he_normal": "b222bb580012942c",
    "lecun_uniform": "b0c4ba8a1a1a378b",
    "lecun_normal": "0ef4eb16e964fa54",
    "orthogonal": "3752d8a4d9f5fc09",
}


def test_every_initializer_has_a_reference_here():
    assert set(INITIALIZERS) == UNIFORM_LIMITS.keys() | NORMAL_SCALES.keys() | CONSTANTS.keys() | OTHERS
    assert set(INITIALIZERS) == set(DIGESTS)
    assert {activation.initializer for activation in ACTIVATIONS.values()} <= set(INITIALIZERS)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_shape_dtype_and_dependence_on_seed_and_stream(name):
    f = INITIALIZERS[name]
    W = f(3, 5, 1)
    assert (W.shape, W.dtype) == ((3, 5), np.float64)
    assert W.flags.carray
    assert list(inspect.signature(f).parameters) == ["n_in", "n_out", "seed", "stream"]
    assert f.__doc__
    assert np.array_equal(W, f(3, 5, 1, 0))
    for other in (f(3, 5, 2), f(3, 5, 1, 1)):
        assert np.array_equal(W, other) == (name in CONSTANTS)
    for shape in ((1, 1), (1, 7), (7, 1)):
        assert f(*shape, 3).shape == shape
        assert np.isfinite(f(*shape, 3)).all()


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants(name):
    assert np.all(INITIALIZERS[name](4, 3, 0) == CONSTANTS[name])


@pytest.mark.parametrize("name", UNIFORM_LIMITS)
def test_uniform_ones(name):
    W, limit = INITIALIZERS[name](N_IN, N_OUT, 5), UNIFORM_LIMITS[name]
    assert limit * 0.999 < np.abs(W).max() <= limit
    assert stats.kstest(W.ravel(), stats.uniform(-limit, 2 * limit).cdf).pvalue > 0.01


@pytest.mark.parametrize("name", NORMAL_SCALES)
def test_normal_ones(name):
    W = INITIALIZERS[name](N_IN, N_OUT, 5)
    assert stats.kstest(W.ravel(), stats.norm(0, NORMAL_SCALES[name]).cdf).pvalue > 0.01


def test_truncated_normal():
    W = INITIALIZERS["truncated_normal"](N_IN, N_OUT, 5)
    assert np.abs(W).max() < 0.1
    assert stats.kstest(W.ravel(), stats.truncnorm(-2, 2, 0, 0.05).cdf).pvalue > 0.01
    assert W.std() == pytest.approx(0.04398, rel=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (5, 5), (40, 17), (17, 40), (130, 130)])
def test_orthogonal(shape):
    W = INITIALIZERS["orthogonal"](*shape, 5)
    gram = W.T @ W if shape[0] >= shape[1] else W @ W.T
    assert np.abs(gram - np.eye(min(shape))).max() < 1e-12


def test_orthogonal_is_the_q_of_the_draws_with_a_positive_diagonal():
    a = INITIALIZERS["normal"](20, 12, 5)
    q, r = np.linalg.qr(a)
    q *= np.sign(np.diag(r))
    assert np.allclose(INITIALIZERS["orthogonal"](20, 12, 5), q, atol=1e-12)


def test_orthogonal_signs_are_fair():
    signs = [np.sign(INITIALIZERS["orthogonal"](1, 1, seed)[0, 0]) for seed in range(200)]
    assert 70 < signs.count(1) < 130


@pytest.mark.parametrize("name", INITIALIZERS)
def test_bits_are_pinned(name):
    W = INITIALIZERS[name](33, 20, 2026, 4)
    assert hashlib.sha256(W.astype("<f8").tobytes()).hexdigest()[:16] == DIGESTS[name]
