"""What stands in for LLVM's language in the simulator."""

import numpy as np
import pytest

from fastbp.cuda import simt
from fastbp.formulas.elementary import fma


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fused_rounds_once(dtype):
    draw = np.random.default_rng(0)
    a, b, c = (draw.normal(size=300) * 10.0 ** draw.integers(-30, 30, 300) for _ in range(3))
    c[:150] = -(a * b)[:150] * (1 + 1e-8 * draw.normal(size=150))  # cancellation, ties
    extremes = np.array([0.0, -0.0, 1.0, -1.0, np.inf, np.nan, 1e-45, 3e38])
    with np.errstate(all="ignore"):
        a, b, c = (
            np.concatenate([each, part.ravel()]).astype(dtype)
            for each, part in zip((a, b, c), np.meshgrid(extremes, extremes, extremes))
        )
        expected = np.array([fma(*each) for each in zip(a, b, c)], dtype)
    found = simt.fused(a, b, c)
    assert np.array_equal(found, expected, equal_nan=True)
    numbers = ~np.isnan(expected)
    assert np.array_equal(np.signbit(found)[numbers], np.signbit(expected)[numbers])
