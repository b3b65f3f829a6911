"""Metrics: scikit-learn's values for every kind of targets, and what is refused."""

import functools
import math

import numpy as np
import pytest
from sklearn import metrics as theirs

import fastbp
from fastbp.formulas.losses import LOSSES
from fastbp.metrics import METRICS, as_metrics, higher_is_better, measure
from tests.samples import draw_inputs, draw_targets, make_network

SOFTMAX, BINARY = "softmax_cross_entropy", "binary_cross_entropy"


def of(name, loss, y, predictions, weights=None):
    return measure(as_metrics([name], LOSSES[loss]), LOSSES[loss], y, predictions, weights)[name]


def drawn(loss, n, n_out, seed=0, dtype="float64"):
    """(targets, predictions that know something of them)."""
    y = draw_targets(loss, n, n_out, seed)
    noise = np.random.default_rng(seed + 9).normal(size=(n, n_out))
    if loss == SOFTMAX:
        e = np.exp(noise + 1.2 * np.eye(n_out)[y])
        return y, (e / e.sum(axis=1, keepdims=True)).astype(dtype)
    if loss == BINARY:
        return y, (1 / (1 + np.exp(-noise - 1.5 * (y - 0.5)))).astype(dtype)
    return y, (y + noise).astype(dtype)


# name: (scikit-learn's of classes and what was decided, of two classes, of several)
DECISIONS = {
    "accuracy": (theirs.accuracy_score, {}, {}),
    "balanced_accuracy": (theirs.balanced_accuracy_score, {}, {}),
    "precision": (theirs.precision_score, {}, {"average": "macro"}),
    "recall": (theirs.recall_score, {}, {"average": "macro"}),
    "f1": (theirs.f1_score, {}, {"average": "macro"}),
}
VALUES = {
    "mean_squared_error": theirs.mean_squared_error,
    "root_mean_squared_error": theirs.root_mean_squared_error,
    "mean_absolute_error": theirs.mean_absolute_error,
    "r2": theirs.r2_score,
}


def test_every_metric_has_a_reference():
    assert set(METRICS) == {*DECISIONS, *VALUES, "roc_auc", "log_loss", "top_k_accuracy"}


@pytest.mark.parametrize("name", DECISIONS)
@pytest.mark.parametrize("seed", range(3))
def test_decisions(name, seed):
    function, binary, several = DECISIONS[name]
    several = several | ({"zero_division": 0} if "average" in several else {})
    y, p = drawn(SOFTMAX, 60, 4, seed)
    y[y == 3] = 2  # a class that is predicted and never there
    if name == "balanced_accuracy":  # theirs warns of it
        expected = np.mean([(p.argmax(axis=1)[y == c] == c).mean() for c in range(3)])
    else:
        expected = function(y, p.argmax(axis=1), **several)
    assert of(name, SOFTMAX, y, p) == pytest.approx(expected, rel=1e-12)
    assert of(name, SOFTMAX, np.eye(4)[y], p) == of(name, SOFTMAX, y, p)
    y, p = drawn(SOFTMAX, 60, 3, seed)
    assert of(name, SOFTMAX, y, p) == pytest.approx(function(y, p.argmax(axis=1), **several), rel=1e-12)
    y, p = drawn(SOFTMAX, 60, 2, seed)
    assert of(name, SOFTMAX, y, p) == pytest.approx(function(y, p.argmax(axis=1), **binary), rel=1e-12)
    y, p = drawn(BINARY, 60, 1, seed)
    assert of(name, BINARY, y, p) == pytest.approx(function(y[:, 0], p[:, 0] > 0.5, **binary), rel=1e-12)
    y, p = drawn("hinge", 60, 1, seed)
    assert of(name, "hinge", y, p) == pytest.approx(function(y[:, 0] > 0, p[:, 0] > 0, **binary), rel=1e-12)
    y, p = drawn(BINARY, 60, 3, seed)
    expected = np.mean([function(y[:, c], p[:, c] > 0.5, **binary) for c in range(3)])
    assert of(name, BINARY, y, p) == pytest.approx(expected, rel=1e-12)


def test_f1_of_labels_is_macro():
    y, p = drawn(BINARY, 60, 3)
    assert of("f1", BINARY, y, p) == pytest.approx(theirs.f1_score(y, p > 0.5, average="macro"), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores(dtype):
    y, p = drawn(SOFTMAX, 60, 4, dtype=dtype)
    close = functools.partial(pytest.approx, rel=1e-5 if dtype == "float32" else 1e-12)
    wide = p.astype(np.float64)
    wide /= wide.sum(axis=1, keepdims=True)
    assert of("roc_auc", SOFTMAX, y, p) == close(theirs.roc_auc_score(y, wide, multi_class="ovr"))
    assert of("log_loss", SOFTMAX, y, p) == close(theirs.log_loss(y, wide))
    for k in (1, 2, 3):
        expected = theirs.top_k_accuracy_score(y, p, k=k)
        assert of(f"top_{k}_accuracy", SOFTMAX, y, p) == close(expected)
    assert of("top_k_accuracy", SOFTMAX, y, p) == 1
    y, p = drawn(SOFTMAX, 60, 2, dtype=dtype)
    assert of("roc_auc", SOFTMAX, y, p) == close(theirs.roc_auc_score(y, p[:, 1]))
    y, p = drawn(BINARY, 60, 3, dtype=dtype)
    assert of("roc_auc", BINARY, y, p) == close(theirs.roc_auc_score(y, p))
    assert of("log_loss", BINARY, y, p) == close(
        np.mean([theirs.log_loss(y[:, c], p[:, c].astype(np.float64)) for c in range(3)])
    )
    y, p = drawn("hinge", 60, 1)
    assert of("roc_auc", "hinge", y, p) == close(theirs.roc_auc_score(y[:, 0], p[:, 0]))


def drawn_weights(n, seed=0):
    """Weights of rows, a fifth of them 0."""
    draw = np.random.default_rng(seed)
    return draw.uniform(0, 3, n) * (draw.random(n) < 0.8)


@pytest.mark.parametrize("name", DECISIONS)
def test_weighted_decisions(name):
    function, binary, several = DECISIONS[name]
    several = several | ({"zero_division": 0} if "average" in several else {})
    w = drawn_weights(60)
    y, p = drawn(SOFTMAX, 60, 4)
    y[:7], y[7:][y[7:] == 3] = 3, 2  # a class with no weight, which counts among those that occur
    w[:7] = 0
    if name == "balanced_accuracy":  # theirs warns of it
        right = p.argmax(axis=1) == y
        expected = np.mean([np.average(right[y == c], weights=w[y == c]) for c in range(3)])
    else:
        expected = function(y, p.argmax(axis=1), sample_weight=w, **several)
    assert of(name, SOFTMAX, y, p, w) == pytest.approx(expected, rel=1e-12)
    assert of(name, SOFTMAX, y, p, w) != of(name, SOFTMAX, y, p)
    y, p = drawn(SOFTMAX, 60, 2)
    expected = function(y, p.argmax(axis=1), sample_weight=w, **binary)
    assert of(name, SOFTMAX, y, p, w) == pytest.approx(expected, rel=1e-12)
    y, p = drawn(BINARY, 60, 3)
    expected = np.mean([function(y[:, c], p[:, c] > 0.5, sample_weight=w, **binary) for c in range(3)])
    assert of(name, BINARY, y, p, w) == pytest.approx(expected, rel=1e-12)


def test_weighted_scores():
    w, close = drawn_weights(60), functools.partial(pytest.approx, rel=1e-12)
    y, p = drawn(SOFTMAX, 60, 4)
    p = p.round(1) + 0.01  # with ties
    p /= p.sum(axis=1, keepdims=True)
    expected = theirs.roc_auc_score(y, p, multi_class="ovr", sample_weight=w)
    assert of("roc_auc", SOFTMAX, y, p, w) == close(expected)
    assert of("log_loss", SOFTMAX, y, p, w) == close(theirs.log_loss(y, p, sample_weight=w))
    expected = theirs.top_k_accuracy_score(y, drawn(SOFTMAX, 60, 4)[1], k=2, sample_weight=w)
    assert of("top_2_accuracy", SOFTMAX, y, drawn(SOFTMAX, 60, 4)[1], w) == close(expected)
    y, p = drawn(BINARY, 60, 3)
    assert of("roc_auc", BINARY, y, p, w) == close(theirs.roc_auc_score(y, p, sample_weight=w))
    expected = np.mean([theirs.log_loss(y[:, c], p[:, c], sample_weight=w) for c in range(3)])
    assert of("log_loss", BINARY, y, p, w) == close(expected)
    y, p = drawn("hinge", 60, 1)
    expected = theirs.roc_auc_score(y[:, 0], p[:, 0], sample_weight=w)
    assert of("roc_auc", "hinge", y, p, w) == close(expected)
    assert math.isnan(of("roc_auc", "hinge", y, p, w * (y[:, 0] > 0)))


@pytest.mark.parametrize("name", VALUES)
def test_weighted_values(name):
    w = drawn_weights(40)
    for n_out in (1, 3):
        y, p = drawn("mean_squared_error", 40, n_out)
        expected = VALUES[name](y, p, sample_weight=w)
        assert of(name, "mean_squared_error", y, p, w) == pytest.approx(expected, rel=1e-12)
        assert of(name, "mean_squared_error", y, p, w) != of(name, "mean_squared_error", y, p)


@pytest.mark.parametrize("name", [*METRICS, "top_2_accuracy"])
def test_whole_weights_are_rows_that_come_so_often(name):
    loss = (
        BINARY
        if name == "roc_auc"
        else SOFTMAX
        if "values" != METRICS.get(name, METRICS["f1"]).of
        else "huber"
    )
    (y, p), times = drawn(loss, 50, 3), np.arange(50) % 4
    again = of(name, loss, np.repeat(y, times, axis=0), np.repeat(p, times, axis=0))
    assert of(name, loss, y, p, times) == pytest.approx(again, rel=1e-12)
    assert of(name, loss, y, p, np.ones(50)) == pytest.approx(of(name, loss, y, p), rel=1e-14)


def test_functions_of_a_user_take_weights_by_name():
    x, y, w = draw_inputs(50, 3), draw_targets("mean_squared_error", 50, 1), drawn_weights(50)
    net = make_network([3, 5, 1], dtype="float64")
    metrics = [theirs.mean_absolute_error, lambda targets, predictions: len(targets)]
    found = net.evaluate(x, y, metrics=["mean_absolute_error"], sample_weight=w)
    own = net.evaluate(x, y, metrics=metrics, sample_weight=w)
    assert own["mean_absolute_error"] == pytest.approx(found["mean_absolute_error"], rel=1e-12)
    assert own["<lambda>"] == 50


def test_ties_and_extremes():
    y, p = drawn(SOFTMAX, 200, 3)
    p = p.round(1)
    p /= p.sum(axis=1, keepdims=True)
    assert of("roc_auc", SOFTMAX, y, p) == pytest.approx(
        theirs.roc_auc_score(y, p, multi_class="ovr"), rel=1e-12
    )
    assert of("top_2_accuracy", SOFTMAX, y, p) == theirs.top_k_accuracy_score(y, p, k=2)
    certain = np.eye(3)[(y + (y == 0)) % 3]
    assert of("log_loss", SOFTMAX, y, certain) == pytest.approx(theirs.log_loss(y, certain), rel=1e-12)
    assert math.isnan(of("roc_auc", SOFTMAX, np.zeros(5, int), np.full((5, 2), 0.5)))
    assert of("accuracy", BINARY, np.array([[0.5]]), np.array([[0.4]])) == 1, "half is no yes"
    none_found = np.tile([0.9, 0.1], (4, 1))
    for name in ("precision", "recall", "f1"):
        assert of(name, SOFTMAX, np.array([0, 1, 0, 1]), none_found) == 0


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("n_out", [1, 3])
def test_values(name, n_out):
    y, p = drawn("mean_squared_error", 40, n_out)
    assert of(name, "mean_squared_error", y, p) == pytest.approx(VALUES[name](y, p), rel=1e-12)
    y[:, 0] = 2.0  # r2 of a constant
    assert of(name, "mean_squared_error", y, p) == pytest.approx(VALUES[name](y, p), rel=1e-12)
    assert of(name, "mean_squared_error", y, y) == pytest.approx(VALUES[name](y, y), rel=1e-12)


def test_r2_of_a_row():
    assert math.isnan(of("r2", "mean_squared_error", np.ones((1, 1)), np.ones((1, 1))))


def test_evaluate_by_name_and_by_function():
    x, y = draw_inputs(50, 3), draw_targets(SOFTMAX, 50, 4)
    net = make_network([3, 5, 4], loss=SOFTMAX)

    def share_of_zeros(targets, predictions):
        assert targets.dtype == np.int64
        assert np.array_equal(predictions, net.predict(x))
        return (targets == 0).mean()

    found = net.evaluate(x, y, metrics=["f1", "top_2_accuracy", share_of_zeros])
    assert list(found) == ["loss", "f1", "top_2_accuracy", "share_of_zeros"]
    assert all(type(value) is float for value in found.values())
    assert found["loss"] == net.loss(x, y)
    assert found["share_of_zeros"] == (y == 0).mean()
    assert net.evaluate(x, y, metrics=[]) == {"loss": net.loss(x, y)}
    partial = functools.partial(lambda targets, predictions, by: by, by=3)
    assert list(net.evaluate(x, y, metrics=[partial])) == ["loss", "<lambda>"]


REFUSED = [
    ("accuracy", TypeError, "metrics must be a list"),
    (["acuracy"], ValueError, "unknown metric 'acuracy': did you mean 'accuracy'"),
    ([3], TypeError, "metric must be a name"),
    (["f1", "f1"], ValueError, "'f1' is taken"),
    (["r2"], ValueError, "the metric 'r2' is of numbers; the loss's targets are classes"),
    (["top_0_accuracy"], ValueError, "k of top_k_accuracy must be"),
    ([lambda y, p: "much"], TypeError, "must return a number; got 'much'"),
    ([lambda y, p: None], TypeError, "must return a number"),
]


@pytest.mark.parametrize(("metrics", "error", "message"), REFUSED)
def test_refuses(metrics, error, message):
    net = make_network([3, 4], loss=SOFTMAX)
    with pytest.raises(error, match=message):
        net.evaluate(draw_inputs(5, 3), draw_targets(SOFTMAX, 5, 4), metrics=metrics)


def test_classes_are_not_measured_on_numbers():
    with pytest.raises(ValueError, match=r"'accuracy' is of classes or zeros and ones; .* real numbers"):
        fastbp.Network([3, 1], seed=0).evaluate([[1, 2, 3]], [1], metrics=["accuracy"])


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (SOFTMAX, ["accuracy", "top_1_accuracy", "log_loss"]),
        ("binary_cross_entropy", ["roc_auc", "f1"]),
        ("mean_squared_error", ["r2"]),
    ],
)
def test_nothing_is_known_of_predictions_that_are_nan(loss, names):
    net = make_network([3, 2], loss=loss)
    net.parameters[:] = np.nan
    found = net.evaluate(draw_inputs(20, 3), draw_targets(loss, 20, 2), metrics=names)
    assert np.isnan([found[name] for name in names]).all()


def test_direction():
    for name in METRICS:
        assert higher_is_better(name) is not name.endswith(("_loss", "_error")), name
    assert higher_is_better("top_3_accuracy")
    assert higher_is_better("validation_loss") is False
    assert higher_is_better("own") is None
