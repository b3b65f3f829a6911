"""Formulas of clipping and of the largest norm, where they have nothing to do or no number to do it with."""

import math

import numpy as np
import pytest

from fastbp.formulas import shaping


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_what_is_no_number_stays(real):
    assert math.isnan(shaping.clip(real(math.nan), real(1)))
    assert math.isnan(shaping.clip_factor(math.nan, 1.0))


def test_a_column_of_exactly_the_largest_norm_stays():
    assert shaping.renorm_factor(4.0, 2.0) == 1.0
    assert shaping.renorm_factor(4.1, 2.0) < 1.0
