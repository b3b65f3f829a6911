"""Normalisation's formulas, one value at a time, against the definition and its central differences."""

import numpy as np
import pytest

from fastbp.formulas import normalization as formulas


def normalized(x, epsilon):
    mean, variance = x.mean(), x.var()
    r = formulas.inverse_deviation(variance, epsilon)
    return np.array([formulas.normalize(each, mean, r) for each in x]), r


def test_forward():
    x = np.array([1.0, 2.0, 4.0, -3.0])
    y, r = normalized(x, 0.25)
    np.testing.assert_allclose(y, (x - 1) / np.sqrt(6.5 + 0.25), rtol=1e-15)
    assert r == 1 / np.sqrt(6.75)
    assert formulas.scale_and_shift(2.0, 3.0, 0.5) == 6.5


def test_backward_by_central_differences():
    x, dy = np.random.default_rng(0).normal(size=(2, 7))
    y, r = normalized(x, 0.1)
    dx = [formulas.normalize_backward(d, v, dy.mean(), (dy * y).mean(), r) for d, v in zip(dy, y)]
    for i in range(7):
        step = 1e-6 * np.eye(7)[i]
        slope = dy @ (normalized(x + step, 0.1)[0] - normalized(x - step, 0.1)[0]) / 2e-6
        assert dx[i] == pytest.approx(slope, rel=1e-7, abs=1e-9)


def test_running_statistics():
    assert formulas.follow(2.0, 4.0, 0.25) == 2.5
    assert formulas.follow(2.0, 4.0, 1.0) == 4.0


def test_float32_stays_float32():
    one = np.float32(1)
    assert formulas.inverse_deviation(one, one).dtype == np.float32
    assert type(formulas.normalize_backward(one, one, one, one, one)) is np.float32
    assert type(formulas.follow(one, one, one)) is np.float32
