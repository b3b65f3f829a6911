"""How much rows count and how often they are drawn: weights of rows and of classes, balanced sampling."""

import numpy as np
import pytest

import fastbp
from fastbp.balance import rows_by_class
from fastbp.division import sums_in_chunks
from fastbp.formulas import random as draws
from tests import reference
from tests.samples import difference, draw_inputs, draw_targets, flat, make_network, reference_layers
from tests.test_gradients import slopes


def draw_weights(n, seed=0):
    weights = np.random.default_rng(seed).uniform(0, 3, n)
    weights[:: max(2, n // 3)] = 0
    return weights


CASES = [
    ("mean_squared_error", 1, False), ("mean_squared_error", 3, False), ("binary_cross_entropy", 9, False),
    ("softmax_cross_entropy", 3, False), ("softmax_cross_entropy", 17, True),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "n_out", "probabilities"), CASES)
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_weighted_gradient_against_reference(loss, n_out, probabilities, real):
    net = make_network([5, 7, n_out], loss=loss, dtype=real)
    x, y = draw_inputs(29, 5).astype(real), draw_targets(loss, 29, n_out, probabilities=probabilities)
    weights = draw_weights(29).astype(real)
    option = net.loss_function.option
    layers = reference_layers(net)
    expected, gradients, dx = reference.weighted_gradient(layers, x, y, loss, weights.astype(float), option)
    loss, gradient = net.gradient(x, y, sample_weight=weights)
    tolerance = 1e-5 if real == "float32" else 1e-13
    assert loss == pytest.approx(expected, rel=tolerance)
    assert loss == net.loss(x, y, sample_weight=weights)
    assert difference(gradient.parameters, flat(gradients)) < tolerance
    assert difference(gradient.inputs, dx) < tolerance


def test_weighted_gradient_in_chunks():
    net = make_network([4, 5, 3], loss="softmax_cross_entropy", dtype="float64")
    x, y, weights = draw_inputs(300, 4), draw_targets("softmax_cross_entropy", 300, 3), draw_weights(300)
    layers, option = reference_layers(net), net.loss_function.option
    expected, gradients, dx = reference.weighted_gradient(
        layers, x, y, net.loss_function.name, weights, option
    )
    assert sums_in_chunks(net.architecture, 300)
    loss, gradient = net.gradient(x, y, sample_weight=weights)
    assert loss == pytest.approx(expected, rel=1e-13)
    assert difference(gradient.parameters, flat(gradients)) < 1e-13
    assert difference(gradient.inputs, dx) < 1e-13


def test_weighted_loss_by_central_differences():
    net = make_network([3, 4, 3], loss="softmax_cross_entropy", dtype="float64")
    x, y, weights = draw_inputs(7, 3), draw_targets("softmax_cross_entropy", 7, 3), draw_weights(7)
    _, gradient = net.gradient(x, y, sample_weight=weights)
    value = lambda: net.loss(x, y, sample_weight=weights)
    np.testing.assert_allclose(gradient.parameters, slopes(value, net.parameters), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(gradient.inputs, slopes(value, x), rtol=1e-7, atol=1e-9)


def test_equal_weights_change_no_bit():
    x, y = draw_inputs(50, 5), draw_targets("softmax_cross_entropy", 50, 3)
    made = []
    for weights in (None, np.ones(50)):
        net = make_network([5, 7, 3], loss="softmax_cross_entropy")
        history = fastbp.train(net, x, y, epochs=3, batch_size=7, sample_weight=weights)
        made.append((net.parameters.tobytes(), history.loss, net.loss(x, y, sample_weight=weights)))
    assert made[0] == made[1]


def trained(sizes, rows, batch_size, *, real="float64", epochs=2, **options):
    """(bytes of the parameters, losses) after training with weights."""
    loss = "softmax_cross_entropy"
    net = make_network(sizes, loss=loss, dtype=real)
    x, y = draw_inputs(rows, sizes[0]), draw_targets(loss, rows, sizes[-1])
    history = fastbp.train(net, x, y, epochs=epochs, batch_size=batch_size, seed=3, **options)
    return net.parameters.tobytes(), history.loss


@pytest.mark.parametrize(
    ("sizes", "rows", "batch_size"),
    [([5, 9, 3], 50, 16), ([4, 16, 7, 3], 700, 600), ([400, 50, 3], 70, 32)],
    ids=["by rows", "in chunks", "by columns"],
)
def test_same_bits(sizes, rows, batch_size):
    options = dict(sample_weight=draw_weights(rows), class_weight="balanced", sampling="balanced")
    expected = trained(sizes, rows, batch_size, threads=1, **options)
    assert sums_in_chunks(make_network(sizes).architecture, batch_size) == (batch_size == 600)
    for threads, materialise in ((2, False), (3, True)):
        again = trained(sizes, rows, batch_size, threads=threads, materialise=materialise, **options)
        assert again == expected
    for name in options:
        assert trained(sizes, rows, batch_size, **(options | {name: None})) != expected


def test_rows_of_weight_0_change_nothing():
    x, y, weights = draw_inputs(30, 5), draw_targets("mean_squared_error", 30, 2), np.ones(30)
    weights[10:20] = 0  # a whole batch, whose step does nothing
    nets = [make_network([5, 7, 2], dtype="float64") for _ in range(2)]
    keep = np.flatnonzero(weights)
    first = fastbp.train(nets[0], x, y, batch_size=10, shuffle=False, sample_weight=weights)
    second = fastbp.train(nets[1], x[keep], y[keep], batch_size=10, shuffle=False)
    assert (nets[0].parameters == nets[1].parameters).all()
    assert first.loss == pytest.approx([2 / 3 * loss for loss in second.loss], rel=1e-14)


def test_class_weights_follow_pytorch():
    torch = pytest.importorskip("torch")
    x, y = draw_inputs(40, 4), draw_targets("softmax_cross_entropy", 40, 3)
    net = make_network([4, 3], loss="softmax_cross_entropy", option=False, dtype="float64")
    W, b = (torch.tensor(p.copy(), requires_grad=True) for p in (net.layers[0].W, net.layers[0].b))
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64))
    optimizer, losses = torch.optim.SGD([W, b], lr=0.1), []
    for _ in range(50):
        for start in (0, 10, 20, 30):
            optimizer.zero_grad()
            value = loss(torch.tensor(x[start : start + 10]) @ W + b, torch.tensor(y[start : start + 10]))
            value.backward()
            optimizer.step()
            losses.append(value.item())
    history = fastbp.train(
        net, x, y, epochs=50, batch_size=10, shuffle=False, optimizer=fastbp.SGD(0.1),
        class_weight={0: 0.5, 1: 2},
    )  # fmt: skip
    assert difference(net.layers[0].W, W.detach().numpy()) < 1e-12
    assert difference(net.layers[0].b, b.detach().numpy()) < 1e-12
    np.testing.assert_allclose(history.loss, np.reshape(losses, (50, 4)).mean(axis=1), rtol=1e-12)


def test_balanced_class_weights_are_those_of_scikit_learn():
    y = np.array([0] * 13 + [2] * 4 + [1])
    x, net = draw_inputs(18, 2), make_network([2, 4], loss="softmax_cross_entropy", dtype="float64")
    weights = reference.balanced_weights(y)
    again = make_network([2, 4], loss="softmax_cross_entropy", dtype="float64")
    fastbp.train(net, x, y, class_weight="balanced")
    fastbp.train(again, x, y, sample_weight=weights)
    assert (net.parameters == again.parameters).all()
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    np.testing.assert_allclose(weights, sklearn.compute_sample_weight("balanced", y), rtol=1e-15)


@pytest.mark.parametrize(("loss", "no"), [("binary_cross_entropy", 0), ("hinge", -1)])
def test_class_weights_of_one_output(loss, no):
    x, y = draw_inputs(18, 2), draw_targets(loss, 18, 1)
    made = []
    for options in (
        dict(class_weight=[2, 0.5]), dict(class_weight={no: 2, 1: 0.5}),
        dict(sample_weight=np.where(y[:, 0] == 1, 0.5, 2)),
    ):  # fmt: skip
        net = make_network([2, 1], loss=loss)
        fastbp.train(net, x, y, **options)
        made.append(net.parameters.tobytes())
    assert len(set(made)) == 1


def test_balanced_draws():
    labels = np.array([2] * 90 + [5] * 9 + [7])
    by_class, starts = rows_by_class(labels)
    order = np.empty(3001, np.int64)
    draws.sample_balanced(order, by_class, starts, 5, 8)
    counts = [(labels[order] == label).sum() for label in (2, 5, 7)]
    assert min(counts) > 900
    assert len(set(order[labels[order] == 2])) > 85
    again, other = np.empty(7, np.int64), np.empty(7, np.int64)
    draws.sample_balanced(again, by_class, starts, 5, 8)
    draws.sample_balanced(other, by_class, starts, 5, 9)
    assert (again == order[:7]).all()  # draw i depends on nothing after it
    assert (other != again).any()
    words = np.array([draws.philox(5, draws.SAMPLE, 8, 0, block) for block in range(4)]).reshape(-1, 2)
    for row, (first, second) in zip(again, words.tolist()):
        rows = np.flatnonzero(labels == (2, 5, 7)[first * 3 >> 32])
        assert row == rows[second * len(rows) >> 32]


def test_training_takes_the_drawn_rows():
    x, y = draw_inputs(31, 3), (np.arange(31) > 26).astype(int)
    net, again = (make_network([3, 2], loss="softmax_cross_entropy") for _ in range(2))
    weights = draw_weights(31)
    fastbp.train(net, x, y, epochs=2, batch_size=5, seed=4, sampling="balanced", sample_weight=weights)
    order = np.empty(31, np.int64)
    for epoch in range(2):
        draws.sample_balanced(order, *rows_by_class(y), 4, epoch)
        drawn = dict(sample_weight=weights[order])
        fastbp.train(again, x[order], y[order], epochs=1, batch_size=5, shuffle=False, **drawn)
    assert (net.parameters == again.parameters).all()


def test_validation_counts_by_sample_weights():
    x, y, weights = draw_inputs(40, 3), draw_targets("mean_squared_error", 40, 2), draw_weights(40)
    net = make_network([3, 2], dtype="float64")
    options = dict(sample_weight=weights, seed=2, epochs=1, metrics=["r2"])
    history = fastbp.train(net, x, y, validation=0.25, **options)
    _, _, x_held, y_held = fastbp.datasets.split(x, y, 0.25, 2)
    _, _, w_held, _ = fastbp.datasets.split(weights, weights, 0.25, 2)
    found = net.evaluate(x_held, y_held, metrics=["r2"], sample_weight=w_held)
    assert history.validation_loss == [found["loss"]]
    assert history.metrics["r2"] == [found["r2"]] != [net.evaluate(x_held, y_held, metrics=["r2"])["r2"]]
    history = fastbp.train(net, x, y, validation=(x, y, weights), **options)
    found = net.evaluate(x, y, metrics=["r2"], sample_weight=weights)
    assert history.validation_loss == [found["loss"]]
    assert history.metrics["r2"] == [found["r2"]]


def test_evaluation_weighs_the_loss_and_the_metrics():
    net = make_network([2, 2], loss="softmax_cross_entropy")
    x, y, weights = draw_inputs(6, 2), [0, 1, 0, 1, 1, 0], [1, 1, 3, 1, 1, 0]
    found = net.evaluate(x, y, sample_weight=weights)
    assert found["loss"] == net.loss(x, y, sample_weight=weights) != net.loss(x, y)
    right = net.predict(x).argmax(axis=1) == y
    assert found["accuracy"] == pytest.approx(np.average(right, weights=weights), rel=1e-12)
    assert found["accuracy"] != net.evaluate(x, y)["accuracy"]


def test_lbfgs_takes_weights():
    pytest.importorskip("scipy")
    x, y = draw_inputs(30, 3), draw_targets("mean_squared_error", 30, 2)
    weights = np.arange(30) % 3
    net, again = (make_network([3, 2], dtype="float64") for _ in range(2))
    options = dict(optimizer=fastbp.LBFGS(), epochs=3)
    history = fastbp.train(net, x, y, sample_weight=weights, **options)
    twice = np.repeat(np.arange(30), weights)
    fastbp.train(again, x[twice], y[twice], **options)
    assert difference(net.parameters, again.parameters) < 1e-9
    assert history.loss[-1] == pytest.approx(net.loss(x, y, sample_weight=weights), rel=1e-12)


def test_resume_knows_weights_and_sampling(tmp_path):
    x, y, weights = draw_inputs(30, 3), np.arange(30) % 7 // 5, draw_weights(30)
    made, options = [], dict(sample_weight=weights, sampling="balanced", gradient_noise=0.1, input_noise=0.1)
    for run in ((6,), (3, 6)):
        net = make_network([3, 2], loss="softmax_cross_entropy")
        for epochs in run:
            resume = dict(resume=tmp_path) if epochs != run[0] else {}
            checkpoints = fastbp.Checkpoints(tmp_path) if len(run) > 1 else None
            history = fastbp.train(net, x, y, epochs=epochs, checkpoints=checkpoints, **options, **resume)
        made.append((net.parameters.tobytes(), history.loss))
    assert made[0] == made[1]
    for other in (dict(sample_weight=None), dict(sampling=None), dict(gradient_noise=0.0)):
        with pytest.raises(
            ValueError, match=r"the (weights of rows|sampling was|penalties, .* or noise are)"
        ):
            fastbp.train(net, x, y, epochs=9, resume=tmp_path, **(options | other))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(sample_weight=[1, 2]), ValueError, r"sample_weight must have shape \(6,\); got \(2,\)"),
        (dict(sample_weight="heavy"), TypeError, "sample_weight must hold real numbers; got text"),
        (dict(sample_weight=[1, -2, 1, 1, 1, 1]), ValueError, "must be at least 0; row 1 is -2"),
        (dict(sample_weight=[np.nan] * 6), ValueError, "sample_weight must be finite; row 0 is nan"),
        (dict(sample_weight=[0] * 6), ValueError, "sample_weight must not be 0 everywhere"),
        (dict(class_weight="even"), ValueError, "unknown class_weight 'even'"),
        (dict(class_weight={3: 1}), ValueError, "class_weight has a weight for 3; classes are 0, 1, 2"),
        (dict(class_weight={1: -1}), ValueError, r"class_weight\[1\] must be a finite .* got -1"),
        (dict(class_weight=[1, 2]), ValueError, r"class_weight must have shape \(3,\); got \(2,\)"),
        (dict(class_weight={0: 0, 1: 0, 2: 0}), ValueError, "must leave a row of weight above 0; all are 0"),
        (dict(sampling="even"), ValueError, "unknown sampling 'even'"),
        (dict(sampling="balanced", shuffle=False), ValueError, "shuffle must be True; got False"),
        (dict(validation=(1, 2, 3, 4)), ValueError, r"or \(x, y, sample_weight\); got 4 things"),
        (dict(validation=0.5, sample_weight=[0, 0, 0, 0, 0, 1]), ValueError, "not be 0 in all rows that are"),
    ],
)  # fmt: skip
def test_what_cannot_be(options, error, message):
    net = make_network([2, 3], loss="softmax_cross_entropy")
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        fastbp.train(net, draw_inputs(6, 2), [0, 1, 2, 0, 1, 2], **options)
    assert (net.parameters == before).all()


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        ("mean_squared_error", [0.0, 1.0], "; the targets of this network's loss are numbers, not classes"),
        ("softmax_cross_entropy", [[0.5, 0.5], [1, 0]], r"; got probabilities of shape \(2, 2\)"),
        ("binary_cross_entropy", [[0, 1], [1, 1]], "; got 2 outputs of a yes or no each"),
        ("binary_cross_entropy", [[1], [0.5]], ", 0 or 1; row 1 is 0.5"),
    ],
)
def test_classes_that_are_none(loss, y, message):
    net = make_network([2, np.shape(y)[1] if np.ndim(y) == 2 else 1], loss=loss)
    for option in ("class_weight", "sampling"):
        with pytest.raises(ValueError, match=f"{option} needs one class for each row{message}"):
            fastbp.train(net, draw_inputs(2, 2), y, **{option: "balanced"})


@pytest.mark.parametrize("weight", [1e300, 1e-300])
def test_weights_whose_sums_float64_cannot_hold(weight):
    net = make_network([2, 1], dtype="float64")
    with pytest.raises(
        ValueError, match=r"sample_weight must be 0 or between 1e-290 and 1e\+290; row 1 is 1e"
    ):
        net.loss(np.eye(2), [1.0, 2.0], sample_weight=[0, weight])
    assert np.isfinite(net.loss(np.eye(2), [1.0, 2.0], sample_weight=[1e-290, 1e290]))


def test_class_weights_of_pandas_go_by_their_labels():
    pandas = pytest.importorskip("pandas")
    weights = {2: 3.0, 1: 2.0, 0: 1.0}
    nets = [make_network([2, 3], loss="softmax_cross_entropy") for _ in range(2)]
    x, y = draw_inputs(60, 2), draw_targets("softmax_cross_entropy", 60, 3)
    for net, each in zip(nets, (weights, pandas.Series(weights)), strict=True):
        fastbp.train(net, x, y, epochs=1, class_weight=each)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


@pytest.mark.parametrize(
    ("loss", "sizes", "target"), [("mean_squared_error", [3, 8, 1], 1e20), ("poisson", [3, 2], 3)]
)
def test_rows_of_weight_0_may_have_any_loss(loss, sizes, target):
    x, y = draw_inputs(30, 3), np.array(draw_targets(loss, 30, sizes[-1]), np.float32)
    weights = np.ones(30)
    weights[7] = 0
    if loss == "poisson":
        x[7] = 1e30  # exp(z) is infinite
    y[7] = target
    net, alone = (fastbp.Network(sizes, activation="tanh", loss=loss, seed=0) for _ in range(2))
    others = np.arange(30) != 7
    assert net.loss(x, y, sample_weight=weights) == pytest.approx(alone.loss(x[others], y[others]), rel=1e-6)
    gradient, expected = net.gradient(x, y, sample_weight=weights)[1], alone.gradient(x[others], y[others])[1]
    np.testing.assert_allclose(gradient.parameters, expected.parameters, rtol=1e-4, atol=1e-6)
    history = fastbp.train(net, x, y, epochs=3, sample_weight=weights)
    assert np.isfinite(history.loss).all()


def test_rows_of_a_class_come_in_their_order():
    labels = np.random.default_rng(0).integers(0, 3, 1000)
    by_class, starts = rows_by_class(labels)
    assert by_class.tolist() == [row for c in range(3) for row in np.flatnonzero(labels == c)]
    assert starts.tolist() == [0, *np.cumsum(np.bincount(labels))]


def test_products_of_weights_that_the_type_cannot_hold():
    net = make_network([2, 3], loss="softmax_cross_entropy")
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="weights of rows overflows float32"):
        fastbp.train(net, draw_inputs(3, 2), [0, 1, 2], sample_weight=[1e30, 1, 1], class_weight=[1e30, 1, 1])
    assert (net.parameters == before).all()
