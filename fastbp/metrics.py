"""Metrics: how well predictions meet targets, in numbers that people read; NumPy, between epochs.

Values are scikit-learn's. Where there are several classes, precision, recall and F1 are unweighted means
over the classes that occur among targets or predictions (``average="macro"``), ROC AUC is the mean of each
class against the rest, and balanced accuracy the mean recall of the classes among the targets. Where there
are two, precision, recall, F1 and ROC AUC are those of class 1. A network of several outputs that are each a
yes or no of their own has the mean of the metric over outputs. Targets given as probabilities count as
their likeliest class. Weights of rows are scikit-learn's ``sample_weight``. Of predictions that hold NaN all
are NaN.

To add one: a function here, a row in ``METRICS``, a row in ``tests/test_metrics.py``.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import validation

# Every function takes at last the weights of the rows: float64 (n,), at least 0 and not all 0, or None, where
# all rows count the same.


def _mean(values, weights):
    """Mean over rows: Σ wᵢ vᵢ / Σ wᵢ."""
    return values.mean(axis=0) if weights is None else np.average(values, axis=0, weights=weights)


# Of decisions: classes (n,) that were to be found, and classes that were (n,); integers below n_classes.


def accuracy(classes, decided, n_classes, weights=None):
    """Share of rows that are right.

    Parameters
    ----------
    classes, decided : int64 arrays (n,)
        The class of each row, and the one that it was taken for; from 0 to below `n_classes`.
    n_classes : int
    weights : float64 array (n,), optional
        How much each row counts, at least 0 and not all 0.

    Returns
    -------
    float
    """
    return _mean(classes == decided, weights)


def balanced_accuracy(classes, decided, n_classes, weights=None):
    """Mean over the classes of the share of their rows that are found.

    Parameters
    ----------
    classes, decided : int64 arrays (n,)
        The class of each row, and the one that it was taken for; from 0 to below `n_classes`.
    n_classes : int
    weights : float64 array (n,), optional
        How much each row counts, at least 0 and not all 0.

    Returns
    -------
    float
    """
    hits, _, actual = _counts(classes, decided, n_classes, weights)
    return (hits[actual > 0] / actual[actual > 0]).mean()


def precision(classes, decided, n_classes, weights=None):
    """Share of the rows taken for a class that are of it; 0 where none was.

    Parameters
    ----------
    classes, decided : int64 arrays (n,)
        The class of each row, and the one that it was taken for; from 0 to below `n_classes`.
    n_classes : int
    weights : float64 array (n,), optional
        How much each row counts, at least 0 and not all 0.

    Returns
    -------
    float
    """
    hits, found, _ = _counts(classes, decided, n_classes, weights)
    return _over_classes(hits, found, classes, decided)


def recall(classes, decided, n_classes, weights=None):
    """Share of the rows of a class that are found; 0 where there is none.

    Parameters
    ----------
    classes, decided : int64 arrays (n,)
        The class of each row, and the one that it was taken for; from 0 to below `n_classes`.
    n_classes : int
    weights : float64 array (n,), optional
        How much each row counts, at least 0 and not all 0.

    Returns
    -------
    float
    """
    hits, _, actual = _counts(classes, decided, n_classes, weights)
    return _over_classes(hits, actual, classes, decided)


def f1(classes, decided, n_classes, weights=None):
    """Harmonic mean of precision and recall; 0 where there is nothing to find and nothing found.

    Parameters
    ----------
    classes, decided : int64 arrays (n,)
        The class of each row, and the one that it was taken for; from 0 to below `n_classes`.
    n_classes : int
    weights : float64 array (n,), optional
        How much each row counts, at least 0 and not all 0.

    Returns
    -------
    float
    """
    hits, found, actual = _counts(classes, decided, n_classes, weights)
    return _over_classes(2 * hits, found + actual, classes, decided)


def _counts(classes, decided, n_classes, weights):
    """For each class: rows found rightly, rows taken for it, rows of it; in float64, by their weights."""
    weights = np.ones(len(classes)) if weights is None else weights
    right = classes == decided
    rows = (classes[right], weights[right]), (decided, weights), (classes, weights)
    return [np.bincount(of, by, minlength=n_classes) for of, by in rows]


def _over_classes(hits, counts, classes, decided):
    """hits / counts of class 1 of two; of more the mean over the classes that occur, with whatever weight."""
    values = np.divide(hits, counts, out=np.zeros(len(hits)), where=counts > 0)
    return values[1] if len(values) == 2 else values[np.union1d(classes, decided)].mean()


# Of scores: classes (n,) and how likely the network finds each (n, n_classes).


def top_k_accuracy(classes, scores, weights=None, k=5):
    """Share of rows whose class is among the k likeliest.

    Parameters
    ----------
    classes : int64 array (n,)
        The class of each row.
    scores : array (n, n_classes)
        How likely the network finds each class; any numbers that rise with it.
    weights : float64 array (n,), optional
        How much each row counts, at least 0 and not all 0.
    k : int
        At least 1.

    Returns
    -------
    float
    """
    best = np.argsort(scores, axis=1, kind="stable")[:, : -k - 1 : -1]
    return _mean((best == classes[:, None]).any(axis=1), weights)


def roc_auc(classes, scores, weights=None):
    """Probability that a row of a class scores higher for it than a row that is not of it; ties count half.

    NaN where a class has no row, or every row.

    Parameters
    ----------
    classes : int64 array (n,)
        The class of each row.
    scores : array (n, n_classes)
        How likely the network finds each class; any numbers that rise with it.
    weights : float64 array (n,), optional
        How much each row counts, at least 0 and not all 0.

    Returns
    -------
    float
    """
    weights = np.ones(len(classes)) if weights is None else weights
    positives = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    return np.mean([_auc(classes == c, scores[:, c], weights) for c in positives])


def _auc(positive, scores, weights):
    """Share of the pairs of a positive and a negative row, by their weights, in which the positive is higher.

    Mann and Whitney's U over its largest value: of each score, the positives' weight times that of the
    negatives below, and of half of those beside.
    """
    _, place = np.unique(scores, return_inverse=True)
    ours = np.bincount(place, weights * positive)
    others = np.bincount(place, weights * ~positive)
    pairs = ours.sum() * others.sum()
    return (ours * (np.cumsum(others) - others / 2)).sum() / pairs if pairs > 0 else math.nan


def log_loss(classes, scores, weights=None):
    """Mean of −log of the probability of what came; probabilities are kept an epsilon away from 0 and 1.

    Parameters
    ----------
    classes : int64 array (n,)
        The class of each row.
    scores : array (n, n_classes)
        Probabilities.
    weights : float64 array (n,), optional
        How much each row counts, at least 0 and not all 0.

    Returns
    -------
    float
    """
    p = scores[np.arange(len(classes)), classes]
    epsilon = np.finfo(p.dtype).eps
    return _mean(-np.log(np.clip(p.astype(np.float64), epsilon, 1 - epsilon)), weights)


# Of values: targets (n, n_outputs) and predictions (n, n_outputs), float64.


def mean_squared_error(y, predicted, weights=None):
    """Mean of (y − predicted)².

    Parameters
    ----------
    y, predicted : float64 arrays (n, n_outputs)
        Targets and predictions.
    weights : float64 array (n,), optional
        How much each row counts, at least 0 and not all 0.

    Returns
    -------
    float
    """
    return _mean((y - predicted) ** 2, weights).mean()


def root_mean_squared_error(y, predicted, weights=None):
    """Root of the mean of (y − predicted)² of each output; their mean.

    Parameters
    ----------
    y, predicted : float64 arrays (n, n_outputs)
        Targets and predictions.
    weights : float64 array (n,), optional
        How much each row counts, at least 0 and not all 0.

    Returns
    -------
    float
    """
    return np.sqrt(_mean((y - predicted) ** 2, weights)).mean()


def mean_absolute_error(y, predicted, weights=None):
    """Mean of |y − predicted|.

    Parameters
    ----------
    y, predicted : float64 arrays (n, n_outputs)
        Targets and predictions.
    weights : float64 array (n,), optional
        How much each row counts, at least 0 and not all 0.

    Returns
    -------
    float
    """
    return _mean(np.abs(y - predicted), weights).mean()


def r2(y, predicted, weights=None):
    """1 − Σ(y − predicted)² / Σ(y − mean of y)² of each output; their mean.

    A constant target gives 1 where it is predicted exactly, else 0; a single row gives NaN.

    Parameters
    ----------
    y, predicted : float64 arrays (n, n_outputs)
        Targets and predictions.
    weights : float64 array (n,), optional
        How much each row counts, at least 0 and not all 0.

    Returns
    -------
    float
    """
    if len(y) < 2:
        return math.nan
    left, total = _mean((y - predicted) ** 2, weights), _mean((y - _mean(y, weights)) ** 2, weights)
    constant = total == 0
    return np.where(constant, left == 0, 1 - left / np.where(constant, 1, total)).mean()


@dataclass(frozen=True)
class Metric:
    """A metric, and what must be known of it.

    Attributes
    ----------
    function : callable
    of : {"decisions", "scores", "values"}
        What the function takes, see the sections of this file.
    targets : tuple of str
        Kinds of targets it can measure, as ``fastbp.formulas.losses.Loss.targets`` names them.
    higher_is_better : bool
    """

    function: Callable
    of: str
    targets: tuple[str, ...]
    higher_is_better: bool = True


_CLASSES = ("classes", "binary", "sign")
_VALUES = ("real", "count", "binary", "sign")

METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, "decisions", _CLASSES),
    "top_k_accuracy": Metric(top_k_accuracy, "scores", ("classes",)),
    "balanced_accuracy": Metric(balanced_accuracy, "decisions", _CLASSES),
    "precision": Metric(precision, "decisions", _CLASSES),
    "recall": Metric(recall, "decisions", _CLASSES),
    "f1": Metric(f1, "decisions", _CLASSES),
    "roc_auc": Metric(roc_auc, "scores", _CLASSES),
    "log_loss": Metric(log_loss, "scores", ("classes", "binary"), higher_is_better=False),
    "mean_squared_error": Metric(mean_squared_error, "values", _VALUES, higher_is_better=False),
    "root_mean_squared_error": Metric(root_mean_squared_error, "values", _VALUES, higher_is_better=False),
    "mean_absolute_error": Metric(mean_absolute_error, "values", _VALUES, higher_is_better=False),
    "r2": Metric(r2, "values", _VALUES),
}

_TOP = re.compile(r"top_(\d+)_accuracy")


class Named(NamedTuple):
    """A metric under the name that results have.

    Attributes
    ----------
    name : str
    row : Metric or None
        None of a user's own, which is called as it is.
    function : callable
    """

    name: str
    row: Metric | None
    function: Callable


# What else a history and its tables have.
_TAKEN = ("epoch", "loss", "validation_loss", "learning_rate", "seconds", "samples_per_second")


def as_metrics(metrics, loss):
    """The metrics that names and functions mean, for a network of this loss.

    Parameters
    ----------
    metrics : sequence of str or callable
        Names in ``METRICS``, ``top_3_accuracy`` and the like, or functions (targets, predictions) -> float.
    loss : fastbp.formulas.losses.Loss

    Returns
    -------
    list of Named

    Raises
    ------
    TypeError, ValueError
        If one is neither, has a name that is not known or is there already, or cannot measure the targets
        of this loss.
    """
    if isinstance(metrics, str) or not isinstance(metrics, (list, tuple)):
        raise TypeError(f"metrics must be a list of names or functions; got {metrics!r}")
    found = [_named(metric, loss) for metric in metrics]
    names = [metric.name for metric in found]
    for name in names:
        if name in _TAKEN or names.count(name) > 1:
            raise ValueError(f"metrics must have names of their own; {name!r} is taken")
    return found


def _named(metric, loss):
    if callable(metric):
        name = getattr(metric, "__name__", None) or getattr(getattr(metric, "func", None), "__name__", None)
        return Named(name or type(metric).__name__, None, metric)
    top = _TOP.fullmatch(metric) if isinstance(metric, str) else None
    row = METRICS["top_k_accuracy" if top else validation.known_name("metric", metric, METRICS)]
    if loss.targets not in row.targets:
        of_classes = "classes or zeros and ones" if "binary" in row.targets else "classes"
        wanted = "numbers" if row.of == "values" else of_classes
        raise ValueError(
            f"the metric {metric!r} is of {wanted}; the loss's targets are {_IN_WORDS[loss.targets]}"
        )
    if top:
        k = validation.positive_integer("k of top_k_accuracy", int(top[1]))
        return Named(metric, row, functools.partial(row.function, k=k))
    return Named(metric, row, row.function)


_IN_WORDS = {
    "real": "real numbers", "count": "counts", "binary": "zeros and ones", "sign": "signs",
    "classes": "classes",
}  # fmt: skip


def measure(metrics, loss, y, predictions, weights=None):
    """Values of metrics.

    Parameters
    ----------
    metrics : list of Named
    loss : fastbp.formulas.losses.Loss
    y : array (n, n_outputs), or classes (n,)
        Targets, checked.
    predictions : array (n, n_outputs)
        After the loss's link.
    weights : array (n,), optional
        How much each row counts. A user's function is given them as ``sample_weight=`` if it has a
        parameter of that name.

    Returns
    -------
    dict of str to float

    Raises
    ------
    TypeError
        If a user's function returns no number.
    """
    weights = None if weights is None else weights.astype(np.float64)
    return {metric.name: _value(metric, loss, y, predictions, weights) for metric in metrics}


def _value(metric, loss, y, predictions, weights):
    if metric.row is None:
        weighted = weights is not None and _takes_weights(metric.function)
        value = metric.function(y, predictions, **(dict(sample_weight=weights) if weighted else {}))
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(f"the metric {metric.name!r} must return a number; got {value!r}") from None
    if metric.row.of == "values":
        return float(metric.function(y.astype(np.float64), predictions.astype(np.float64), weights))
    if loss.targets == "classes":
        return _of_classes(metric, y if y.ndim == 1 else y.argmax(axis=1), predictions, weights)
    middle = 0.5 if loss.targets == "binary" else 0.0
    yes = (y > middle).astype(np.int64)
    columns = [
        _of_classes(metric, yes[:, c], np.stack([2 * middle - p, p], axis=1), weights)
        for c, p in enumerate(predictions.T)
    ]
    return float(np.mean(columns))


def _of_classes(metric, classes, scores, weights):
    if np.isnan(scores).any():
        return math.nan
    if metric.row.of == "scores":
        return float(metric.function(classes, scores, weights))
    return float(metric.function(classes, scores.argmax(axis=1), scores.shape[1], weights))


def _takes_weights(function):
    """Whether a user's function has a parameter for them."""
    try:
        return "sample_weight" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions do not say
        return False


def higher_is_better(name):
    """Whether more is better.

    Parameters
    ----------
    name : str
        Of a metric, or "loss" or "validation_loss".

    Returns
    -------
    bool or None
        None for what the table lacks.
    """
    if name in ("loss", "validation_loss"):
        return False
    if name in METRICS or _TOP.fullmatch(name):
        return METRICS.get(name, METRICS["top_k_accuracy"]).higher_is_better
    return None


def watched(monitor, mode, validates, metric_names):
    """What of a training is watched.

    Parameters
    ----------
    monitor : str or None
        "loss", "validation_loss" or a metric; None is the loss on validation rows where there are any.
    mode : {"auto", "min", "max"}
    validates : bool
        Whether there are validation rows.
    metric_names : list of str
        Of what is measured on them.

    Returns
    -------
    monitor : str
    higher : bool
        Whether more is better.

    Raises
    ------
    ValueError
        If it is not measured, or nobody knows which way is better.
    """
    monitor = monitor or ("validation_loss" if validates else "loss")
    measured = ["loss", *(["validation_loss"] if validates else []), *metric_names]
    if monitor not in measured:
        hint = "" if validates else "; give validation="
        raise ValueError(
            f"monitor {monitor!r} is not measured here; measured are {', '.join(measured)}{hint}"
        )
    higher = higher_is_better(monitor) if mode == "auto" else mode == "max"
    if higher is None:
        raise ValueError(f'{monitor!r} is of your own: say mode="min" or mode="max"')
    return monitor, higher
