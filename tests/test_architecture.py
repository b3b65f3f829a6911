"""What a plan needs to know of a network: offsets and work."""

from fastbp.architecture import Architecture
from tests.samples import make_architecture


def test_parameter_offsets():
    assert make_architecture((64, 32, 10)).parameter_offsets() == [
        0,
        64 * 32 + 32,
        64 * 32 + 32 + 32 * 10 + 10,
    ]
    no_bias = Architecture((3, 4, 2), ("relu",) * 2, (False, True), "mean_squared_error", 0.0, "float64")
    assert no_bias.parameter_offsets() == [0, 12, 22]


def test_multiply_adds():
    # Forward, gradient of W and of x; no gradient of the first layer's x.
    assert make_architecture((64, 32, 10)).multiply_adds(7) == 7 * (2 * 64 * 32 + 3 * 32 * 10)
