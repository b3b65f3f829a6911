"""Every check of what a user hands in, and its message.

A value of the wrong kind raises TypeError, a value or shape out of bounds ValueError; the message is one
sentence that names what was expected and what came. What passes is returned in the one form that kernels
take, so nothing reaches a kernel unchecked and nothing is converted twice.
"""

import dataclasses
import decimal
import difflib
import math
import numbers
import operator
import os
import reprlib
from collections.abc import Mapping

import numpy as np

from .sparse import SparseRows, is_sparse, sparse_rows

# What other libraries call things, where what is spelt alike is something else.
_ELSEWHERE = {
    "linear": "identity", "logistic": "sigmoid", "swish": "silu", "hard_swish": "hard_silu",
    "xavier_uniform": "glorot_uniform", "xavier_normal": "glorot_normal", "kaiming_uniform": "he_uniform",
    "kaiming_normal": "he_normal", "cross_entropy": "softmax_cross_entropy",
    "crossentropy": "softmax_cross_entropy", "categorical_crossentropy": "softmax_cross_entropy",
    "gpu": "cuda",
}  # fmt: skip

_BLOCK = 1 << 16  # elements looked at together: the temporary of np.isfinite stays in cache


def known_name(kind, name, table):
    """Check that a name is in a table.

    Parameters
    ----------
    kind : str
        What the names stand for, for the message: "activation".
    name : str
    table : dict or other collection of str

    Returns
    -------
    str
        The name.

    Raises
    ------
    TypeError
        If it is no string.
    ValueError
        If the table lacks it. The nearest known name is suggested, or all are listed.

    Examples
    --------
    >>> known_name("activation", "rleu", {"relu": 1, "tanh": 2})
    Traceback (most recent call last):
    ...
    ValueError: unknown activation 'rleu': did you mean 'relu'?
    """
    if not isinstance(name, str):
        raise TypeError(f"{kind} must be a name such as {next(iter(table))!r}; got {_describe(name)}")
    if name in table:
        return name
    by_initials = {"".join(word[:1] for word in known.split("_")): known for known in table}  # mse, bce
    near = difflib.get_close_matches(name.lower(), table, n=1)
    if name.lower() == "softmax" and "sigmoid" in table:  # of activations
        raise ValueError(
            f"unknown {kind} {name!r}: the loss 'softmax_cross_entropy' applies it itself; leave the output "
            "layer's activation 'identity'"
        )
    elsewhere = _ELSEWHERE.get(name.lower())
    suggestion = elsewhere if elsewhere in table else by_initials.get(name.lower(), *near[:1])
    if suggestion:
        raise ValueError(f"unknown {kind} {name!r}: did you mean {suggestion!r}?")
    raise ValueError(f"unknown {kind} {name!r}: known are {', '.join(table)}")


def integer(name, value, *, at_least=None, at_most=None):
    """Check an integer and its bounds.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : int or numpy integer
    at_least, at_most : int or None

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If it is no integer; True and 3.0 are none.
    ValueError
        If it is out of bounds.
    """

    def wanted():
        return f"{name} must be an integer" + _bounds(at_least=at_least, at_most=at_most)

    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{wanted()}; got {value}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{wanted()}; got {_describe(value)}") from None
    if (at_least is not None and number < at_least) or (at_most is not None and number > at_most):
        raise ValueError(f"{wanted()}; got {number}")
    return number


def positive_integer(name, value):
    """Check an integer that is at least 1 and at most 2**31 - 1, as sizes are; see `integer`."""
    return integer(name, value, at_least=1, at_most=2**31 - 1)


def threads(value):
    """Check a number of threads, from 1 to 1024, more than any processor has cores; see `integer`."""
    return integer("threads", value, at_least=1, at_most=1024)


def seed(value):
    """Check a seed, an integer from 0 to 2**64 - 1; see `integer`."""
    return integer("seed", value, at_least=0, at_most=2**64 - 1)


def device(value):
    """Check where to compute: "cpu", or "cuda" where there is one.

    Raises
    ------
    TypeError, ValueError
        If it is no string or another one.
    RuntimeError
        If it is "cuda" and numba-cuda, a GPU or its driver is missing.
    """
    if known_name("device", value, ("cpu", "cuda")) == "cuda":
        from .cuda.device import require

        require()
    return value


def what_to_watch(monitor, mode):
    """Check the name of what shall be watched, and which way is better.

    Raises
    ------
    TypeError
        If `monitor` is neither a name nor None.
    ValueError
        If `mode` is none of "auto", "min" and "max".
    """
    if monitor is not None and not isinstance(monitor, str):
        raise TypeError(f"monitor must be the name of what is watched; got {monitor!r}")
    known_name("mode", mode, ("auto", "min", "max"))


def real_number(name, value, *, at_least=None, above=None, at_most=None, below=None):
    """Check a finite real number and its bounds.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : int, float or numpy number
    at_least, above, at_most, below : float or None

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If it is no real number; True is none.
    ValueError
        If it is NaN, infinite or out of bounds.

    Examples
    --------
    >>> real_number("learning_rate", -0.1, above=0)
    Traceback (most recent call last):
    ...
    ValueError: learning_rate must be a finite number above 0; got -0.1
    """

    def wanted():
        bounds = _bounds(at_least=at_least, above=above, at_most=at_most, below=below)
        return f"{name} must be a finite number{bounds}"

    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{wanted()}; got {_describe(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    inside = (
        math.isfinite(number)
        and (at_least is None or number >= at_least)
        and (above is None or number > above)
        and (at_most is None or number <= at_most)
        and (below is None or number < below)
    )
    if not inside:
        raise ValueError(f"{wanted()}; got {_describe(value)}")
    return number


def as_plain(settings):
    """Make NumPy's numbers among a dataclass's fields Python's, whole ones floats where a float is meant, and
    lists and arrays tuples; mappings are put in order.

    Equal settings are written alike then, which is what a checkpoint compares, and can be hashed.
    """
    for field in dataclasses.fields(settings):
        value, kind = _plain(getattr(settings, field.name)), str(field.type)
        if "float" in kind or "Mapping" in kind:
            value = _as_float(value)
        object.__setattr__(settings, field.name, value)


def _plain(value):
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in sorted(value, key=str)}
    return tuple(map(_plain, value)) if isinstance(value, (list, range)) else value


def _as_float(value):
    if isinstance(value, dict):
        return {key: _as_float(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_as_float, value))
    return float(value) if type(value) is int and abs(value) < 2**53 else value


def boolean(name, value):
    """Check a truth value: True or False, Python's or NumPy's, and nothing else.

    Raises
    ------
    TypeError
        If it is anything else; 0 and 1 are.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {_describe(value)}")
    return bool(value)


def input_scale(value, dtype):
    """Check what a network multiplies its inputs by: above 0, in the network's type too, and at most 1.

    Raises
    ------
    TypeError, ValueError
        As `real_number`.
    """
    scale = real_number("input_scale", value, above=0, at_most=1)
    if dtype.type(scale) == 0:
        raise ValueError(f"input_scale must be a number above 0 in {dtype}; got {value!r}")
    return scale


def no_link_twice(loss, layers):
    """Check that the last layer, dropout aside, does not apply what the loss applies itself.

    Raises
    ------
    ValueError
        If its activation is the link of the loss.
    """
    last_layer = next((layer for layer in reversed(layers) if not hasattr(layer, "rate")), None)
    activation = getattr(last_layer, "activation", "identity")
    if activation == loss.formula.link_name != "identity":
        raise ValueError(
            f"the loss applies {activation} itself, so the output layer must not: leave its activation "
            f"'identity'; got {loss!r} behind {last_layer!r}"
        )


def numbers_in(dtype, described, numbers):
    """Check that none of these numbers of a loss, layer or optimizer becomes 0 or infinite in the network's
    type, where it would mean something else.

    Raises
    ------
    ValueError
        If one does.
    """
    for value in numbers:
        with np.errstate(over="ignore"):
            theirs = dtype.type(value)
        if (value != 0 and theirs == 0) or not np.isfinite(theirs):
            raise ValueError(f"{described!r} has a number that is {theirs:g} in {dtype}: {value!r}")


def layer_name(value):
    """Check the name of a layer: text without dots, which separate it from "W" in saved files.

    Raises
    ------
    TypeError
        If it is no string.
    ValueError
        If it is empty or has a dot.
    """
    if not isinstance(value, str):
        raise TypeError(f"name must be text; got {_describe(value)}")
    if not value or "." in value:
        raise ValueError(f"name must be text that is not empty and has no dot; got {value!r}")
    return value


def path(name, value):
    """Check a path: text, bytes or os.PathLike, not empty.

    Returns
    -------
    str

    Raises
    ------
    TypeError, ValueError
        If it is none, or empty.
    """
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"{name} must be a path; got {_describe(value)}")
    if not os.fspath(value):
        raise ValueError(f"{name} must be a path that is not empty; got {value!r}")
    return os.fsdecode(value)


def real_dtype(value):
    """Check the type of a network's numbers.

    Parameters
    ----------
    value : {"float32", "float64"}, numpy.float32, numpy.float64 or numpy.dtype

    Returns
    -------
    numpy.dtype
        In native byte order.

    Raises
    ------
    TypeError
        If it names no type of NumPy.
    ValueError
        If it names another type.
    """
    try:
        dtype = np.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or value is None:
        raise TypeError(f'dtype must be "float32" or "float64"; got {_describe(value)}')
    if dtype not in (np.float32, np.float64):
        raise ValueError(f'dtype must be "float32" or "float64"; got {dtype}')
    return dtype


def split_sizes(x, y, fraction):
    """Check what is to be split in two, and tell how many rows go into each part.

    Parameters
    ----------
    x, y : arrays (n, …)
    fraction : float
        The second part's, above 0 and below 1.

    Returns
    -------
    first, second : int
        At least 1 each; n together.

    Raises
    ------
    TypeError
        If `fraction` is no number.
    ValueError
        If it is out of bounds, or x and y have not the same number of rows, at least two.
    """
    fraction = real_number("fraction", fraction, above=0, below=1)
    n = x.shape[0] if x.ndim else 0  # SciPy's sparse tables have no len
    if n < 2 or y.ndim == 0 or y.shape[0] != n:
        raise ValueError(
            f"x and y must have the same number of rows, at least 2; got shapes {x.shape} and {y.shape}"
        )
    second = min(max(round(n * fraction), 1), n - 1)
    return n - second, second


def inputs(x, n_inputs, dtype, *, row=False, keep_bytes=False, keep_sparse=False):
    """Check the inputs of a network and give them the form that kernels take.

    Parameters
    ----------
    x : array-like (n, n_inputs)
        Real numbers, integers or booleans in any layout: an array, a frame, a list of lists, a sparse matrix
        or array of SciPy. An array (n,) is taken as (n, 1) where `n_inputs` is 1.
    n_inputs : int
    dtype : numpy.dtype
        The network's, float32 or float64.
    row : bool
        Whether one row, (n_inputs,), may stand for (1, n_inputs).
    keep_bytes : bool
        Whether uint8 stays uint8.
    keep_sparse : bool
        Whether sparse rows stay sparse.

    Returns
    -------
    array (n, n_inputs) of dtype, or uint8
        C-contiguous, aligned, in native byte order; `x` itself, or a view of it, if it is all that already,
        as a memory-mapped array may be. Of sparse rows that stay so `fastbp.sparse.SparseRows`, of which the
        same holds.

    Raises
    ------
    TypeError
        If x holds text, complex numbers or anything else that is no real number.
    ValueError
        If x is empty or ragged, has another number of columns, or holds NaN, an infinity or a number that
        overflows `dtype`; the message names the first such row and column. Or if sparse rows contradict
        themselves.

    Examples
    --------
    >>> inputs([[1, 2], [3, 4]], 2, np.dtype("float32"))
    array([[1., 2.],
           [3., 4.]], dtype=float32)
    >>> inputs([[1.0, 2.0], [3.0, float("nan")]], 2, np.dtype("float32"))
    Traceback (most recent call last):
    ...
    ValueError: x must be finite; row 1, column 1 is nan
    """
    if type(x) is SparseRows:
        a = x
    else:
        if is_sparse(x) and x.shape == (n_inputs,) and row and n_inputs > 1:  # a row of an array of SciPy's
            x = x.reshape(1, -1)
        a = sparse_rows("x", x) if is_sparse(x) else _numbers("x", x)
    if a.ndim == 1 and n_inputs == 1:
        a = a.reshape(-1, 1)
    elif row and a.shape == (n_inputs,):
        a = a.reshape(1, -1)
    if a.size == 0:
        raise ValueError(f"x must have at least one row and one column; got shape {a.shape}")
    if a.ndim != 2 or a.shape[1] != n_inputs:
        hint = "; one row is x[None, :]" if a.shape == (n_inputs,) else ""
        raise ValueError(f"x must have shape (n, {n_inputs}); got {a.shape}{hint}")
    if type(a) is SparseRows:
        kept = a.with_data(_kept("x", a.data, dtype, keep_bytes, a.place))
        return kept if keep_sparse else kept.toarray()
    return _kept("x", a, dtype, keep_bytes)


def _kept(name, a, dtype, keep_bytes, place=tuple):
    """The form that kernels take, which may be uint8."""
    if keep_bytes and a.dtype == np.uint8:
        return _in_kernel_form(a, a.dtype)
    return _finite(name, a, dtype, place)


def has_form(x, row_shape, dtype):
    """Whether x is what kernels take as it is: an array (n, *row_shape) of dtype, contiguous and aligned.

    That all of it is finite is not looked at.
    """
    return (
        type(x) is np.ndarray
        and x.dtype == dtype
        and x.shape[1:] == row_shape
        and x.size > 0
        and x.flags.c_contiguous
        and x.flags.aligned
    )


def targets(y, n_rows, n_outputs, loss, dtype):
    """Check the targets of a network by what its loss takes, and give them the form that kernels take.

    Parameters
    ----------
    y : array-like
        Real numbers (n_rows, n_outputs), or (n_rows,) where there is one output. For a loss of classes:
        integers 0 … n_outputs - 1 (n_rows,) or (n_rows, 1), also as floats, or as booleans for two classes;
        or probabilities (n_rows, n_outputs), at least 0, whose rows sum to 1 within 1e-5.
    n_rows : int
        How many rows x has.
    n_outputs : int
    loss : fastbp.formulas.losses.Loss
        Its `targets` says which: "real"; "binary", from 0 to 1; "count", at least 0; "sign", -1 or +1;
        "classes".
    dtype : numpy.dtype
        The network's, float32 or float64.

    Returns
    -------
    array (n_rows, n_outputs) of dtype, or int64 array (n_rows,) of classes
        C-contiguous, aligned, in native byte order; `y` itself, or a view of it, if it is all that already.

    Raises
    ------
    TypeError
        If y holds text, complex numbers or anything else that is no real number, or booleans for more than
        two classes.
    ValueError
        If y has another number of rows or columns, or holds a number that is not finite or that the loss does
        not take; the message names the first such row.

    Examples
    --------
    >>> from fastbp.formulas.losses import LOSSES
    >>> targets([0, 2, 3], 3, 3, LOSSES["softmax_cross_entropy"], np.dtype("float32"))
    Traceback (most recent call last):
    ...
    ValueError: y must hold classes from 0 to 2; row 2 is 3
    """
    classes = loss.targets == "classes"
    y = y.toarray() if is_sparse(y) else y
    a = _numbers("y", y, f"integer classes from 0 to {n_outputs - 1}" if classes else "real numbers")
    if a.ndim == 0 or len(a) != n_rows:
        raise ValueError(f"y must have as many rows as x, {n_rows}; got shape {a.shape}")
    if classes:
        if n_outputs < 2:
            raise ValueError(f"a loss of classes needs a network of at least 2 outputs; got {n_outputs}")
        if a.shape in ((n_rows,), (n_rows, 1)):
            return _classes(a.reshape(-1), n_outputs)
        if a.shape != (n_rows, n_outputs):
            raise ValueError(
                f"y must be classes of shape ({n_rows},) or probabilities of shape ({n_rows}, {n_outputs}); "
                f"got {a.shape}"
            )
        return _probabilities(_finite("y", a, dtype))
    if a.ndim == 1 and n_outputs == 1:
        a = a.reshape(-1, 1)
    if a.shape != (n_rows, n_outputs):
        looks_like_classes = a.size == n_rows and np.issubdtype(a.dtype, np.integer)
        hint = '; for classes the network needs loss="softmax_cross_entropy"' if looks_like_classes else ""
        raise ValueError(f"y must have shape ({n_rows}, {n_outputs}); got {a.shape}{hint}")
    t = _finite("y", a, dtype)
    if loss.targets in _TARGETS:
        wanted, fits = _TARGETS[loss.targets]
        _refuse_first(~fits(t), f"y must be {wanted} for this loss", a)
    return t


def weights(name, values, n, dtype, *, all_may_be_0=False):
    """Check weights: how much each of n things counts.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    values : array-like (n,)
    n : int
    dtype : numpy.dtype
    all_may_be_0 : bool

    Returns
    -------
    array (n,) of dtype
        C-contiguous, aligned, in native byte order.

    Raises
    ------
    TypeError
        If they are no numbers.
    ValueError
        If there are not n of them, one is negative or not finite in `dtype`, or so far from 1 that sums of
        them might not be finite or their reciprocals, or all are 0 and may not be.
    """
    a = _numbers(name, values)
    if a.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},); got {a.shape}")
    w = _finite(name, a, dtype)
    _refuse_first(w < 0, f"{name} must be at least 0", a)
    if w.dtype == np.float64:
        far = (w > _LARGEST_WEIGHT) | ((w > 0) & (w < 1 / _LARGEST_WEIGHT))
        _refuse_first(far, f"{name} must be 0 or between {1 / _LARGEST_WEIGHT:g} and {_LARGEST_WEIGHT:g}", a)
    if not all_may_be_0 and not w.any():
        raise ValueError(f"{name} must not be 0 everywhere")
    return w


def parameters(network):
    """Check that a network's parameters are finite, from which nothing could be learned otherwise.

    Raises
    ------
    ValueError
        If one is not; the message names the first.
    """
    if all_finite(network.parameters):
        return
    for layer in network.layers:
        for name, values in layer.arrays.items():
            finite = np.isfinite(values)
            if not finite.all():
                index = tuple(map(int, np.unravel_index(int(finite.argmin()), values.shape)))
                raise ValueError(
                    "the network's parameters must be finite before training; "
                    f"{name}[{', '.join(map(str, index))}] of layer {layer.name!r} is {values[index]}"
                )


# Sums of weights are float64, in which so many as fit in memory are finite, and their reciprocals.
_LARGEST_WEIGHT = 1e290

_TARGETS = {
    "binary": ("between 0 and 1", lambda t: (t >= 0) & (t <= 1)),
    "count": ("at least 0", lambda t: t >= 0),
    "sign": ("-1 or +1", lambda t: np.abs(t) == 1),
}


def _classes(labels, n_classes):
    """Labels (n,) of any real dtype -> int64 classes (n,)."""
    wanted = f"y must hold classes from 0 to {n_classes - 1}"
    if labels.dtype.kind == "b" and n_classes != 2:
        raise TypeError(f"{wanted}; got True and False, which are two classes")
    if labels.dtype.kind == "f":
        _refuse_first(~np.isfinite(labels), wanted, labels)
        _refuse_first(labels != np.floor(labels), f"{wanted}, which are integers", labels)
    elif labels.dtype.kind != "b":
        labels = labels.astype(labels.dtype.newbyteorder("="), copy=False)
    if labels.dtype.kind != "b":
        _refuse_first((labels < 0) | (labels >= n_classes), wanted, labels)
    return _in_kernel_form(labels, np.dtype(np.int64))


def _probabilities(p):
    """Rows of probabilities; those that rounding has left a little off 1 divided by their sums, because the
    gradient of softmax and cross-entropy relies on 1.
    """
    _refuse_first(p < 0, "y must hold probabilities, at least 0", p)
    sums = p.sum(axis=1, dtype=np.float64)
    off = np.abs(sums - 1)
    _refuse_first(off > 1e-5, "rows of y must sum to 1", sums)
    off = off > 16 * np.finfo(p.dtype).eps
    if off.any():
        p = p.copy()
        p[off] /= sums[off, None]
    return p


def _numbers(name, values, wanted="real numbers"):
    """Anything array-like -> an array of booleans, integers or floats, without a copy where it is one."""
    if type(values) is np.ndarray and values.dtype.kind in "biuf":
        return values  # the checks below take 5 µs, as long as predicting a row
    not_masked(name, values)
    try:
        a = np.asarray(values)
    except ValueError:
        if not isinstance(values, (list, tuple)):  # it speaks for itself
            raise
        # NumPy's message for a ragged list
        raise ValueError(
            f"{name} must be a table whose rows are equally long; got {_describe(values)}"
        ) from None
    if a.dtype.kind in "biuf":
        return a
    if a.dtype != object:
        kind = {"U": "text", "S": "bytes", "c": "complex numbers", "M": "dates", "m": "durations"}
        raise TypeError(f"{name} must hold {wanted}; got {kind.get(a.dtype.kind, a.dtype)}")
    if a.ndim == 0:
        raise TypeError(f"{name} must be a table of {wanted}; got {_describe(values)}")
    if all(isinstance(value, (bool, np.bool_)) for value in a.flat):
        return a.astype(bool)
    out = np.empty(a.shape)
    for index, value in np.ndenumerate(a):
        if not isinstance(value, (numbers.Real, np.bool_, decimal.Decimal)):
            raise TypeError(f"{name} must hold {wanted}; {_place(index)} is {_describe(value)}")
        try:
            out[index] = value
        except OverflowError:
            raise ValueError(f"{name} overflows float64; {_place(index)} is {reprlib.repr(value)}") from None
    return out


def not_masked(name, values):
    """Check that no element is masked, of a masked array or of a list of such rows.

    Raises
    ------
    ValueError
        If one is.
    """
    rows = values if isinstance(values, (list, tuple)) else ()
    masked_rows = any(issubclass(kind, np.ma.MaskedArray) for kind in set(map(type, rows)))
    if np.ma.is_masked(values) or (masked_rows and any(map(np.ma.is_masked, rows))):
        raise ValueError(f"{name} must have no masked elements; fill or drop them first")


def all_finite(a):
    """Whether a contiguous array holds finite numbers only."""
    flat = a.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = np.isfinite(flat[start : start + _BLOCK])
        if np.count_nonzero(block) < block.size:
            return False
    return True


def _finite(name, a, dtype, place=tuple):
    """Give `a` the form that kernels take, or refuse its first element that is not finite in `dtype`.

    ``place``: what the message calls the element of an index.
    """
    out = _in_kernel_form(a, dtype)
    if a.dtype.kind != "f":
        return out  # an integer of 64 bits is finite in float32
    flat = out.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        finite = np.isfinite(flat[start : start + _BLOCK])
        if np.count_nonzero(finite) < finite.size:  # four times as fast as finite.all() on a row
            index = np.unravel_index(start + int(finite.argmin()), a.shape)
            where = _place(place(index))
            if np.isfinite(a[index]):
                raise ValueError(f"{name} overflows {dtype}; {where} is {a[index]!s}")
            raise ValueError(f"{name} must be finite; {where} is {a[index]!s}")
    return out


def _in_kernel_form(a, dtype):
    """C-contiguous, aligned, native: kernels read by address, and write to nothing of the user's."""
    if a.dtype == dtype and a.flags.c_contiguous and a.flags.aligned:
        return a
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.array(a, dtype=dtype, order="C")


def _refuse_first(bad, sentence, values):
    if bad.any():
        index = np.unravel_index(int(bad.argmax()), bad.shape)
        raise ValueError(f"{sentence}; {_place(index)} is {values[index]!s}")


def _place(index):
    return ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column", "depth"), index))


def _bounds(**bounds):
    """Put bounds in words, with a space before: at_least=0, below=1 are at least 0 and below 1."""
    words = [f"{name.replace('_', ' ')} {bound}" for name, bound in bounds.items() if bound is not None]
    return " " + " and ".join(words) if words else ""


def _describe(value):
    if isinstance(value, np.generic):
        return str(value)
    if isinstance(value, (int, float, complex, str, bytes, type(None))):
        return reprlib.repr(value)
    return f"a {type(value).__name__}" + (f" of shape {value.shape}" if hasattr(value, "shape") else "")
