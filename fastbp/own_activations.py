"""Activations of the user's own: functions of plain Python, checked and put into the table ACTIVATIONS."""

import math
from types import FunctionType

import numpy as np
from numba import njit, types

from .formulas import activations
from .formulas.activations import Activation
from .formulas.formula import formula

# How often a row was replaced: whoever keeps what it made from the table looks here.
replacements = 0


def register_activation(name, forward, backward, keeps="z", *, initializer="glorot_uniform", overwrite=False):
    """Add an activation of one's own; layers then know it by its name.

    Both functions are plain Python of one number at a time, using arithmetic, ``math`` and NumPy functions
    that Numba compiles. Before the activation is added, both are compiled for float64, some tenths of a
    second, and `backward` is compared with differences of `forward` between -8 and 8. At a kink any slope
    between those on its two sides is accepted.

    Parameters
    ----------
    name : str
        A Python identifier.
    forward : callable
        z -> y.
    backward : callable
        (dy, kept) -> dz, where dy and dz are the gradients of the loss with respect to y and z.
    keeps : {"z", "y"}
        What `backward` receives as its second argument.
    initializer : str
        How weights of a layer with this activation start: a name in
        ``fastbp.initializers.INITIALIZERS``, looked up when there is such a layer.
    overwrite : bool
        Whether a known activation of this name may be replaced.

    Returns
    -------
    Activation
        The new row of ``ACTIVATIONS``.

    Raises
    ------
    TypeError
        If `forward` or `backward` is not callable, Numba cannot compile it, or it returns no number.
    ValueError
        If the name is no identifier or taken, `keeps` is neither "y" nor "z", or `backward` is not the
        derivative of `forward`: the message names the worst point.

    Examples
    --------
    >>> import math
    >>> from fastbp.formulas.activations import ACTIVATIONS
    >>> row = register_activation("bent", lambda z: (math.sqrt(z * z + 1) - 1) / 2 + z,
    ...                           lambda dy, z: dy * (z / (2 * math.sqrt(z * z + 1)) + 1))
    >>> row.keeps
    'z'
    >>> del ACTIVATIONS["bent"]
    """
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"an activation's name must be a Python identifier such as 'bent'; got {name!r}")
    if name in activations.ACTIVATIONS and not overwrite:
        raise ValueError(f"the activation {name!r} exists already; overwrite=True replaces it")
    row = Activation(_formula(forward, "forward"), _formula(backward, "backward"), keeps, initializer)
    _check_compiles(f"the forward of activation {name!r}", row.forward, 1)
    _check_compiles(f"the backward of activation {name!r}", row.backward, 2)
    _check_backward(name, row)
    global replacements
    replacements += name in activations.ACTIVATIONS
    activations.ACTIVATIONS[name] = row
    return row


def _formula(function, role):
    """`function` as one that compiled code can call and Numba's disk cache can keep."""
    if not callable(function):
        raise TypeError(f"{role} must be a function of one number; got {function!r}")
    function = getattr(function, "py_func", function)  # loops over an @njit function would not be cached
    if not isinstance(function, FunctionType):
        return function
    # A copy: Numba compiles a function once, and would not see constants that have changed since.
    parts = function.__code__, function.__globals__, function.__name__, function.__defaults__
    copy = FunctionType(*parts, function.__closure__)
    copy.__kwdefaults__, copy.__module__ = function.__kwdefaults__, function.__module__
    copy.__qualname__, copy.__doc__ = function.__qualname__, function.__doc__
    return formula(copy)


def _check_compiles(what, function, n_arguments):
    """Refuse what Numba cannot compile for so many numbers, rather than at the first use."""
    of_python = isinstance(function, FunctionType)
    if not of_python or function.__defaults__:  # math.sin, np.tanh, lambda z, factor=2.0: factor * z
        called = njit(function) if of_python else function
        function = (lambda z: called(z)) if n_arguments == 1 else (lambda dy, kept: called(dy, kept))
    try:
        compiled = njit(function)
        compiled.compile((types.float64,) * n_arguments)
    except Exception as error:  # Numba's own, TypeError, NotImplementedError …
        raise TypeError(f"Numba cannot compile {what}: {_first_reason(error)}") from error
    returned = compiled.nopython_signatures[0].return_type
    if not isinstance(returned, (types.Float, types.Integer, types.Boolean)):
        raise TypeError(f"{what} must return a number; Numba finds that it returns {returned}")


def _first_reason(error):
    """The line of Numba's message that says what is wrong, and the call behind it."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith("Failed in nopython mode")]
    called = lines[1:2] if lines[1:] and lines[1].startswith(">>>") else []
    return " ".join([*lines[:1], *called])


def _check_backward(name, row):
    """Compare row.backward with slopes of row.forward; a kink may have any slope between its two sides."""
    dy = -0.75  # neither 1 nor positive: shows a backward that forgets or squares it
    worst = None
    with np.errstate(all="ignore"):
        for z in np.concatenate([np.linspace(-8, 8, 129), np.linspace(-7.93, 7.91, 64)]):
            y = _value(row.forward, z)
            got = _value(row.backward, np.float64(dy), y if row.keeps == "y" else z)
            # The longest step has the least noise; where a function bends too much for it, a shorter one.
            found = (_excess(row.forward, z, y, dy, got, step) for step in (2.0**-16, 2.0**-21))
            found = [each for each in found if each is not None]
            if found and (worst is None or min(found)[0] > worst[0]):
                excess, expected = min(found)
                worst = excess, z, got, expected
    if worst is None:
        raise ValueError(f"the forward of activation {name!r} is finite nowhere between -8 and 8")
    excess, z, got, expected = worst
    if excess > 1:
        raise ValueError(
            f"the backward of activation {name!r} is not the derivative of its forward: at z = {z:.6g} with "
            f"dy = {dy} expected {expected:.8g} (central differences), got {got:.8g}"
        )


def _excess(forward, z, y, dy, got, step):
    """(how many times the tolerance `got` is off, the slope by differences), or None where there is no slope.

    Any slope between those on the two sides of z is right.
    """
    before2, before, after, after2 = (_value(forward, z + i * step) for i in (-2, -1, 1, 2))
    left = dy * (3 * y - 4 * before + before2) / (2 * step)
    right = dy * (-3 * y + 4 * after - after2) / (2 * step)
    if not (math.isfinite(left) and math.isfinite(right)):
        return None  # outside the domain of forward, or beyond the largest number
    expected = min(max(got, min(left, right)), max(left, right))
    noise = 1e-6 * max(1.0, abs(left), abs(right)) + 1e-14 * abs(y) / step
    excess = abs(got - expected) / noise if math.isfinite(got) else math.inf
    return excess, dy * (after - before) / (2 * step)


def _value(function, *arguments):
    try:
        return np.float64(function(*arguments))
    except (ArithmeticError, ValueError):  # as math.log and math.exp say NaN and overflow
        return np.float64(np.nan)
