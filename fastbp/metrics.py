"""Metrics: how well predictions meet targets, in numbers that people read; NumPy, between epochs.

Values are scikit-learn's. Where there are several classes, precision, recall and F1 are unweighted means
over the classes that occur among targets or predictions (``average="macro"``), ROC AUC is the mean of each
class against the rest, and balanced accuracy the mean recall of the classes among the targets. Where there
are two, precision, recall, F1 and ROC AUC are those of class 1. A network of several outputs that are each a
yes or no of their own has the mean of the metric over outputs. Targets given as probabilities count as
their likeliest class.

To add one: a function here, a row in ``METRICS``, a row in ``tests/test_metrics.py``.
"""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import validation

# Of decisions: classes (n,) that were to be found, and classes that were (n,); integers below n_classes.


def accuracy(classes, decided, n_classes):
    """Share of rows that are right."""
    return (classes == decided).mean()


def balanced_accuracy(classes, decided, n_classes):
    """Mean over the classes of the share of their rows that are found."""
    hits, _, actual = _counts(classes, decided, n_classes)
    return (hits[actual > 0] / actual[actual > 0]).mean()


def precision(classes, decided, n_classes):
    """Share of the rows taken for a class that are of it; 0 where none was."""
    hits, found, actual = _counts(classes, decided, n_classes)
    return _over_classes(hits / np.maximum(found, 1), found + actual)


def recall(classes, decided, n_classes):
    """Share of the rows of a class that are found; 0 where there is none."""
    hits, found, actual = _counts(classes, decided, n_classes)
    return _over_classes(hits / np.maximum(actual, 1), found + actual)


def f1(classes, decided, n_classes):
    """Harmonic mean of precision and recall; 0 where there is nothing to find and nothing found."""
    hits, found, actual = _counts(classes, decided, n_classes)
    return _over_classes(2 * hits / np.maximum(found + actual, 1), found + actual)


def _counts(classes, decided, n_classes):
    """For each class: rows found rightly, rows taken for it, rows of it."""
    rows = (classes[classes == decided], decided, classes)
    return [np.bincount(of, minlength=n_classes) for of in rows]


def _over_classes(values, seen):
    return values[1] if len(values) == 2 else values[seen > 0].mean()


# Of scores: classes (n,) and how likely the network finds each (n, n_classes).


def top_k_accuracy(classes, scores, k=5):
    """Share of rows whose class is among the k likeliest."""
    best = np.argsort(scores, axis=1, kind="stable")[:, : -k - 1 : -1]
    return (best == classes[:, None]).any(axis=1).mean()


def roc_auc(classes, scores):
    """Probability that a row of a class scores higher for it than a row that is not of it; ties count half.

    NaN where a class has no row, or every row.
    """
    n_classes = scores.shape[1]
    return np.mean([_auc(classes == c, scores[:, c]) for c in ([1] if n_classes == 2 else range(n_classes))])


def _auc(positive, scores):
    """Mann and Whitney's U from the sum of the positives' ranks; ranks of ties are their mean."""
    n, n_positive = len(scores), int(positive.sum())
    if n_positive in (0, n):
        return math.nan
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return (ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * (n - n_positive))


def log_loss(classes, scores):
    """Mean of −log of the probability of what came; probabilities are kept an epsilon away from 0 and 1."""
    p = scores[np.arange(len(classes)), classes]
    epsilon = np.finfo(p.dtype).eps
    return -np.log(np.clip(p.astype(np.float64), epsilon, 1 - epsilon)).mean()


# Of values: targets (n, n_outputs) and predictions (n, n_outputs), float64.


def mean_squared_error(y, predicted):
    """Mean of (y − predicted)²."""
    return ((y - predicted) ** 2).mean()


def root_mean_squared_error(y, predicted):
    """Root of the mean of (y − predicted)² of each output; their mean."""
    return np.sqrt(((y - predicted) ** 2).mean(axis=0)).mean()


def mean_absolute_error(y, predicted):
    """Mean of |y − predicted|."""
    return np.abs(y - predicted).mean()


def r2(y, predicted):
    """1 − Σ(y − predicted)² / Σ(y − mean of y)² of each output; their mean.

    A constant target gives 1 where it is predicted exactly, else 0; a single row gives NaN.
    """
    if len(y) < 2:
        return math.nan
    left, total = ((y - predicted) ** 2).sum(axis=0), ((y - y.mean(axis=0)) ** 2).sum(axis=0)
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
    """A metric under the name that results have; a user's own has no row and is called as it is."""

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
        wanted = "numbers" if row.of == "values" else "classes or zeros and ones"
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


def measure(metrics, loss, y, predictions):
    """Values of metrics.

    Parameters
    ----------
    metrics : list of Named
    loss : fastbp.formulas.losses.Loss
    y : array
        Targets, checked: classes (n,), or (n, n_outputs).
    predictions : array (n, n_outputs)
        After the loss's link.

    Returns
    -------
    dict of str to float

    Raises
    ------
    TypeError
        If a user's function returns no number.
    """
    return {metric.name: _value(metric, loss, y, predictions) for metric in metrics}


def _value(metric, loss, y, predictions):
    if metric.row is None:
        value = metric.function(y, predictions)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(f"the metric {metric.name!r} must return a number; got {value!r}") from None
    if metric.row.of == "values":
        return float(metric.function(y.astype(np.float64), predictions.astype(np.float64)))
    if loss.targets == "classes":
        return _of_classes(metric, y if y.ndim == 1 else y.argmax(axis=1), predictions)
    middle = 0.5 if loss.targets == "binary" else 0.0
    yes = (y > middle).astype(np.int64)
    columns = [
        _of_classes(metric, yes[:, c], np.stack([2 * middle - p, p], axis=1))
        for c, p in enumerate(predictions.T)
    ]
    return float(np.mean(columns))


def _of_classes(metric, classes, scores):
    if metric.row.of == "scores":
        return float(metric.function(classes, scores))
    return float(metric.function(classes, scores.argmax(axis=1), scores.shape[1]))


def higher_is_better(name):
    """Whether more is better; False for losses, None for what the table lacks."""
    if name in ("loss", "validation_loss"):
        return False
    if name in METRICS or _TOP.fullmatch(name):
        return METRICS.get(name, METRICS["top_k_accuracy"]).higher_is_better
    return None
