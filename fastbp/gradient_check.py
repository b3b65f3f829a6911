"""The hand-derived gradient against central differences of the loss, in float64."""

from dataclasses import dataclass

import numpy as np

from . import random, validation
from .formulas.random import SPLIT
from .network import Network, as_network

# Near the cube root of float64's precision, where truncation and rounding of a central difference balance;
# a power of two, so that v + step is exact for most v.
STEP = 2.0**-17

# Below this share of the loss, the loss's own rounding drowns a slope: 1e-16 · loss / STEP = 1e-11 · loss.
_FLOOR = 1e-3

# Where the first difference disagrees, shorter steps are tried: they leave a kink outside.
_SHORTER = (1.0, 1 / 16, 1 / 256)


@dataclass(frozen=True, repr=False)
class GradientCheck:
    """What `check_gradients` found. True where all derivatives agree.

    Attributes
    ----------
    max_error : float
        The largest error, as `check_gradients` defines it.
    worst : str
        Where it is: "layer0.W[3, 1]", "inputs[0, 2]".
    derived, measured : float
        The two values there: by the backward pass, by differences of the loss.
    errors : dict of str to float
        The largest error in each array, "layer0.W", "layer0.b", …, "inputs".
    n_checked, n_derivatives : int
        How many derivatives were compared, and how many there are.
    tolerance : float
    """

    max_error: float
    worst: str
    derived: float
    measured: float
    errors: dict[str, float]
    n_checked: int
    n_derivatives: int
    tolerance: float

    @property
    def passed(self):
        """Whether the largest error is within the tolerance."""
        return self.max_error <= self.tolerance

    def __bool__(self):
        return self.passed

    def __repr__(self):
        return (
            f"GradientCheck({'passed' if self.passed else 'FAILED'}: "
            f"{self.n_checked:,} of {self.n_derivatives:,} derivatives, "
            f"largest error {self.max_error:.1e} at {self.worst}: "
            f"derived {self.derived:.9g}, measured {self.measured:.9g}; tolerance {self.tolerance:.0e})"
        )


def check_gradients(network, x, y, *, step=STEP, tolerance=1e-6, at_most=1000):
    """Compare the hand-derived gradient with central differences of the loss, in float64.

    A float64 copy of the network is checked, so the network is left alone, and a float32 network's formulas
    are checked to float64's precision. Smooth activations agree to about 1e-8 or better.

    Parameters
    ----------
    network : Network
    x, y : array-like
        Rows and targets, see `Network.loss`. A few rows are enough.
    step : float
        How far a value v is moved to both sides; times |v| where that is above 1.
    tolerance : float
        The largest error that passes.
    at_most : int
        How many derivatives are checked of each array (W, b, inputs); of a larger array a sample is, the same
        in every call.

    Returns
    -------
    GradientCheck
        True in a condition where all agree: ``assert fastbp.check_gradients(net, x, y)``.

    Raises
    ------
    TypeError, ValueError
        If x or y does not fit the network, or another argument is of the wrong kind or out of bounds, or a
        parameter is not finite.

    Notes
    -----
    `Dropout` drops nothing here, and `BatchNorm` uses the statistics of the rows of x, as in training.

    With a the derived and d the measured value, d = (L(v + step) − L(v − step)) / (2 step), the error is
    |a − d| / max(|a|, |d|, 1e-3, 1e-3 |L|): relative, and for small derivatives measured by the loss L, whose
    rounding would drown them otherwise. A derivative that is not finite has an infinite error.

    At a kink (relu at 0) the loss has two slopes. Where v lies near one, shorter steps leave it outside;
    where v lies on one, any value between the slopes of its two sides passes. Where v moves several units
    that are on their kinks, a correct formula may fail: move x a little.

    Examples
    --------
    >>> net = Network([2, 3, 1], activation="tanh", seed=0)
    >>> check = check_gradients(net, [[0.5, -0.2], [0.1, 0.9]], [1.0, 2.0])
    >>> check.passed, check.max_error < 1e-8, check.n_checked
    (True, True, 17)
    """
    as_network(network)
    step = validation.real_number("step", step, above=0)
    tolerance = validation.real_number("tolerance", tolerance, at_least=0)
    at_most = validation.positive_integer("at_most", at_most)
    twin = _in_float64(network)
    x, y = twin.check_data(x, y)
    x = x.copy()  # it may be the caller's, and is moved below
    batch_statistics = any(layer.kind == "BatchNorm" for layer in twin.layers)
    _, gradient = twin.gradient(x, y, batch_statistics=batch_statistics)
    loss = _Loss(twin, x, y, batch_statistics)

    arrays = {}  # name -> (values that may be moved, what the backward pass says of them)
    for layer, d_layer in zip(twin.layers, gradient.layers, strict=True):
        for name, values in layer.learnt.items():
            arrays[f"{layer.name}.{name}"] = values, d_layer.learnt[name]
    arrays["inputs"] = x, gradient.inputs

    errors, worst, n_checked = {}, (-1.0,), 0
    for name, (values, derived) in arrays.items():
        errors[name] = 0.0
        for i in _sample(values.size, at_most):
            index = tuple(map(int, np.unravel_index(i, values.shape)))
            a = float(derived[index])
            error, d = loss.compare(a, values, index, step, tolerance)
            errors[name] = max(errors[name], error)
            worst = max(
                worst, (error, f"{name}[{', '.join(map(str, index))}]", a, d), key=lambda found: found[0]
            )
            n_checked += 1
    n_derivatives = sum(values.size for values, _ in arrays.values())
    return GradientCheck(*worst, errors, n_checked, n_derivatives, tolerance)


class _Loss:
    """The loss as a function of one value at a time."""

    def __init__(self, network, x, y, batch_statistics):
        self._network, self._x, self._y, self._batch_statistics = network, x, y, batch_statistics
        self._here = self._value()
        self._floor = _FLOOR * max(1.0, abs(self._here))

    def _value(self):
        if self._batch_statistics:
            return self._network.gradient(self._x, self._y, batch_statistics=True)[0]
        return self._network._loss(self._x, self._y)

    def compare(self, a, values, index, step, tolerance):
        """(error, measured) of the derivative `a` with respect to values[index], at the best step."""
        v = float(values[index])
        step *= max(1.0, abs(v))
        best = np.inf, np.nan

        def consider(d):
            nonlocal best
            error = abs(a - d) / max(abs(a), abs(d), self._floor)
            if error < best[0]:
                best = error, d
            return error <= tolerance

        def at(moved):
            values[index] = moved
            loss = self._value()
            values[index] = v
            return loss

        for shorter in _SHORTER:
            above, below = v + step * shorter, v - step * shorter
            if consider((at(above) - at(below)) / (above - below)):
                return best
        # The slopes of both sides, to second order as well: L'(v) = (4 L(v + h) − L(v + 2h) − 3 L(v)) / 2h
        right, left = ((4 * at(v + h) - at(v + 2 * h) - 3 * self._here) / (2 * h) for h in (step, -step))
        if np.isfinite(left) and np.isfinite(right):
            consider(min(max(a, min(left, right)), max(left, right)))
        return best


def _in_float64(network):
    """A copy of a network whose parameters and arithmetic are float64."""
    finite = np.isfinite(network.parameters)
    if not finite.all():
        i = int(finite.argmin())
        raise ValueError(f"parameters must be finite; number {i} is {network.parameters[i]!s}")
    twin = Network._bare(
        network._described, network.architecture.sizes[0], network.loss_function, np.dtype("float64"),
        network.input_scale, network.seed,
    )  # fmt: skip
    twin.parameters[:] = network.parameters
    return twin


def _sample(size, at_most):
    """All indices below `size`, or `at_most` of them in random order, the same in every call."""
    if size <= at_most:
        return range(size)
    return random.permutation(0, SPLIT, size)[:at_most]
