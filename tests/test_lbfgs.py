"""L-BFGS: where it ends, what it tells, what it needs."""

import signal
import sys

import numpy as np
import pytest

import fastbp
from fastbp.cpu.team import Team
from fastbp.lbfgs import WholeBatch, _decay
from tests.samples import draw_inputs, draw_targets, make_network, pythons_own_handler

pytest.importorskip("scipy")


def regression(decay=0.0, decay_biases=True, dtype="float64", **how):
    """A linear fit, and the exact one: minimise mean((x·W + b − y)²) + decay/2 · |w|²."""
    x, y = draw_inputs(40, 3), draw_targets("mean_squared_error", 40, 2)
    net = make_network([3, 2], dtype=dtype)
    optimizer = fastbp.LBFGS(weight_decay=decay, decay_biases=decay_biases, loss_tolerance=0.0)
    history = fastbp.train(net, x, y, epochs=200, optimizer=optimizer, **how)
    ones = np.column_stack([x, np.ones(40)])
    penalty = decay * np.diag([1.0, 1.0, 1.0, float(decay_biases)])
    exact = np.linalg.solve(ones.T @ ones * 2 / y.size + penalty, ones.T @ y * 2 / y.size)
    return net, history, exact


@pytest.mark.parametrize(("decay", "decay_biases"), [(0.0, True), (0.3, True), (0.3, False)])
def test_a_linear_fit_is_exact(decay, decay_biases):
    net, history, exact = regression(decay, decay_biases)
    np.testing.assert_allclose(np.vstack([net.layers[0].W, net.layers[0].b]), exact, atol=1e-5)
    assert 3 <= len(history) < 40
    x, y = draw_inputs(40, 3), draw_targets("mean_squared_error", 40, 2)
    assert history.loss[-1] == pytest.approx(net.loss(x, y), rel=1e-12)
    assert len(history.seconds) == len(history.samples_per_second) == len(history)


def test_float32():
    net, _, exact = regression(dtype="float32")
    np.testing.assert_allclose(np.vstack([net.layers[0].W, net.layers[0].b]), exact, atol=2e-3)


def test_scales_and_shifts_decay_as_little_as_biases():
    layers = [fastbp.Dense(3), fastbp.LayerNorm(), fastbp.Dense(2)]
    net = fastbp.Network(layers, inputs=3)
    decay = _decay(net, fastbp.LBFGS(weight_decay=0.5, decay_biases=False))
    for layer in net._views(decay):
        for name, values in layer.learnt.items():
            assert (values == (0.5 if name == "W" else 0.0)).all(), name


@pytest.mark.parametrize("loss", ["mean_squared_error", "softmax_cross_entropy"])
def test_follows_scipy_on_the_reference(loss):
    from scipy.optimize import minimize

    from tests import reference
    from tests.samples import flat, reference_layers

    x, y = draw_inputs(30, 4), draw_targets(loss, 30, 3)
    net, start = (make_network([4, 6, 3], "tanh", loss, dtype="float64") for _ in range(2))
    option = net.loss_function.option

    def loss_and_gradient(vector):
        start.parameters[:] = vector
        value, gradients, _ = reference.gradient(reference_layers(start), x, y, loss, option)
        return value, flat(gradients)

    expected = minimize(
        loss_and_gradient, start.parameters.copy(), jac=True, method="L-BFGS-B", options=dict(maxiter=10)
    )
    history = fastbp.train(net, x, y, epochs=10, optimizer="lbfgs")
    assert len(history) == 10
    np.testing.assert_allclose(net.parameters, expected.x, rtol=1e-9, atol=1e-10)
    assert history.loss == sorted(history.loss, reverse=True)


def test_validation_and_threads():
    net, history, _ = regression(validation=(draw_inputs(40, 3), draw_targets("mean_squared_error", 40, 2)))
    np.testing.assert_allclose(history.validation_loss, history.loss, rtol=1e-12)
    two, _, _ = regression(threads=2)
    assert two.parameters.tobytes() == net.parameters.tobytes()


def test_ends_where_the_gradient_vanishes():
    x = draw_inputs(20, 3)
    net = make_network([3, 2], dtype="float64")
    before = net.parameters.copy()
    history = fastbp.train(net, x, net.predict(x), epochs=5, optimizer=fastbp.LBFGS())
    assert len(history) == 0
    assert np.array_equal(net.parameters, before)


def test_interrupt_returns_the_last_iteration(monkeypatch):
    run, calls = WholeBatch._over_all_rows, []

    def interrupted(training):
        calls.append(1)
        if len(calls) == 12:
            signal.raise_signal(signal.SIGINT)
        return run(training)

    monkeypatch.setattr(WholeBatch, "_over_all_rows", interrupted)
    x, y = draw_inputs(30, 4), draw_targets("mean_squared_error", 30, 3)
    net = make_network([4, 6, 3], dtype="float64")
    with pythons_own_handler():
        history = fastbp.train(net, x, y, epochs=100, optimizer=fastbp.LBFGS())
    assert history.interrupted
    assert 1 <= len(history) < 12
    assert history.loss[-1] == pytest.approx(net.loss(x, y), rel=1e-12)


def test_an_interrupt_ends_an_evaluation(monkeypatch):
    """One that takes long enough, in one part, for the interrupt to find it at work."""
    monkeypatch.setattr("fastbp.lbfgs.SECONDS_INLINE", 0.0)
    monkeypatch.setattr("fastbp.lbfgs.WORK_OF_A_PART", 1 << 40)
    start, interrupted, halted = Team.start, [], []

    def start_and_interrupt(team):
        start(team)
        if len(interrupted) == 3:
            signal.raise_signal(signal.SIGINT)
            team.wait()
            contexts = team._keeps.contexts
            halted.append(contexts["begin"][0] == 0 and contexts["epoch"][0] == 0)
        interrupted.append(1)
        return team

    monkeypatch.setattr(Team, "start", start_and_interrupt)
    x, y = draw_inputs(20_000, 64), draw_targets("mean_squared_error", 20_000, 3)
    net = make_network([64, 1024, 3], dtype="float64")
    with pythons_own_handler():
        history = fastbp.train(net, x, y, epochs=100, optimizer=fastbp.LBFGS())
    assert history.interrupted
    assert halted == [True]
    assert history.loss[-1] == pytest.approx(net.loss(x, y), rel=1e-12)


def test_an_interrupt_ends_an_evaluation_between_parts(monkeypatch, in_parts):
    run, calls = WholeBatch._run_part, []

    def interrupted(training):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        run(training)

    monkeypatch.setattr(WholeBatch, "_run_part", interrupted)
    net = make_network([4, 6, 3], dtype="float64")
    before = net.parameters.copy()
    with pythons_own_handler():
        history = fastbp.train(net, *many_rows(), epochs=100, optimizer="lbfgs")
    assert history.interrupted
    assert (len(history), len(calls)) == (0, 2)
    assert np.array_equal(net.parameters, before)


@pytest.fixture
def in_parts(monkeypatch):
    """Rows are taken sixteen at a time."""
    monkeypatch.setattr("fastbp.lbfgs.WORK_OF_A_PART", 1)
    monkeypatch.setattr("fastbp.lbfgs.LEAST_ROWS_OF_A_PART", 16)


def many_rows():
    return draw_inputs(70, 4), draw_targets("mean_squared_error", 70, 3)


@pytest.mark.parametrize("weighted", [False, True])
def test_parts_add_up(in_parts, monkeypatch, weighted):
    x, y = many_rows()
    weights = np.random.default_rng(0).uniform(0, 2, 70) if weighted else None
    if weighted:
        weights[16:32] = 0  # a part that counts nothing
    found, whole = [], WholeBatch._over_all_rows
    monkeypatch.setattr(WholeBatch, "_over_all_rows", lambda self: found.append(whole(self)) or found[-1])
    net = make_network([4, 6, 3], dtype="float64")
    loss, gradient = net.gradient(x, y, sample_weight=weights)
    history = fastbp.train(net, x, y, epochs=5, optimizer="lbfgs", sample_weight=weights)
    assert found[0][0] == pytest.approx(loss, rel=1e-14)
    np.testing.assert_allclose(found[0][1], gradient.parameters, rtol=1e-12, atol=1e-15)
    assert history.loss[-1] == pytest.approx(net.loss(x, y, sample_weight=weights), rel=1e-12)


def test_sparse_rows_stay_sparse_to_the_same_bits(in_parts, monkeypatch):
    from scipy import sparse

    x, y = many_rows()
    x[np.abs(x) < 0.8] = 0
    dense, other = (make_network([4, 6, 3]) for _ in range(2))
    fastbp.train(dense, x, y, epochs=5, optimizer="lbfgs")
    monkeypatch.setattr("fastbp.sparse.SparseRows.toarray", None)
    history = fastbp.train(other, sparse.csr_array(x), y, epochs=5, optimizer="lbfgs")
    assert len(history) == 5
    assert other.parameters.tobytes() == dense.parameters.tobytes()


def test_watching(tmp_path, capsys):
    x, y = draw_inputs(60, 4), draw_targets("mean_squared_error", 60, 3)
    net, seen = make_network([4, 20, 3], dtype="float64"), []

    def look(training):
        seen.append((training.epoch, training.network.loss(x[:20], y[:20]), training.learning_rate))

    history = fastbp.train(
        net, x[:20], y[:20], epochs=200, optimizer="lbfgs", validation=(x[20:], y[20:]), metrics=["r2"],
        early_stopping=fastbp.EarlyStopping(5), callbacks=[look, fastbp.CSVLogger(tmp_path / "log.csv")],
        verbose=10,
    )  # fmt: skip
    assert history.stopped == "validation_loss was not better in 5 epochs"
    assert len(history) == history.best_epoch + 5 < 200
    assert history.validation_loss[history.best_epoch - 1] == min(history.validation_loss)
    assert net.loss(x[20:], y[20:]) == min(history.validation_loss)
    assert net.evaluate(x[20:], y[20:], ["r2"])["r2"] == history.metrics["r2"][history.best_epoch - 1]
    assert [epoch for epoch, *_ in seen] == list(range(1, len(history) + 1))
    np.testing.assert_allclose([loss for _, loss, _ in seen], history.loss, rtol=1e-12)
    assert {rate for *_, rate in seen} == {None}
    assert history.learning_rate == []
    head, *lines = (tmp_path / "log.csv").read_text().splitlines()
    assert head == "epoch,loss,validation_loss,r2,seconds"
    assert len(lines) == len(history)
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["epoch", "loss", "validation", "r2", "seconds"]
    assert table[-1] == f"stopped: {history.stopped}"


def test_a_callback_may_end_it_and_change_no_weight():
    x, y = many_rows()
    refused = []

    def stop(training):
        for change in (lambda: training.set_parameters(0), lambda: setattr(training, "learning_rate", 1.0)):
            with pytest.raises(ValueError, match="LBFGS") as error:
                change()
            refused.append(error)
        training.stop("enough")

    net = make_network([4, 6, 3], dtype="float64")
    history = fastbp.train(net, x, y, optimizer="lbfgs", callbacks=[stop])
    assert (history.stopped, len(history), len(refused), history.interrupted) == ("enough", 1, 2, False)
    assert history.loss[-1] == pytest.approx(net.loss(x, y), rel=1e-12)


def test_what_a_callback_writes_is_refused():
    x, y = many_rows()
    seen = []

    def write(training):
        seen.append(training.network.parameters.copy())
        training.network.parameters[0] = 7

    net = make_network([4, 6, 3], dtype="float64")
    with pytest.raises(ValueError, match="so a callback cannot change its weights"):
        fastbp.train(net, x, y, optimizer="lbfgs", callbacks=[write])
    assert np.array_equal(net.parameters, seen[0])


def test_a_callback_that_raises_leaves_the_weights_of_the_iteration():
    x, y = many_rows()
    net, losses, ended = make_network([4, 6, 3], dtype="float64"), [], []

    class Fails(fastbp.Callback):
        def epoch(self, training):
            losses.append(training.history.loss[-1])
            if training.epoch == 3:
                raise OSError("the disk is full")

        def end(self, training):
            ended.append(training.failed)

    with pytest.raises(OSError, match="the disk is full"):
        fastbp.train(net, x, y, optimizer="lbfgs", callbacks=[Fails()])
    assert ended == [True]
    assert losses[2] == pytest.approx(net.loss(x, y), rel=1e-12)


@pytest.mark.parametrize(
    ("tolerances", "why"),
    [
        (dict(gradient_tolerance=1e-3, loss_tolerance=0.0), "the gradient is within gradient_tolerance"),
        (dict(loss_tolerance=0.1), "the loss fell by no more than loss_tolerance"),
    ],
)
def test_tells_why_it_ended_early(tolerances, why):
    net = make_network([4, 3], dtype="float64")
    assert fastbp.train(net, *many_rows(), epochs=99, optimizer=fastbp.LBFGS(**tolerances)).stopped == why
    assert fastbp.train(net, *many_rows(), epochs=1, optimizer="lbfgs").stopped is None


def test_a_loss_that_is_infinite_at_the_start_is_an_error():
    x, y = 1e3 * draw_inputs(20, 3), np.ones((20, 1))
    net = make_network([3, 1], loss="poisson", dtype="float64")
    before = net.parameters.copy()
    with pytest.raises(fastbp.DivergenceError, match=r"epoch 1 .*the loss is inf at the start"):
        fastbp.train(net, x, y, optimizer="lbfgs")
    assert np.array_equal(net.parameters, before)
    assert len(fastbp.train(net, x, y, optimizer="lbfgs", on_divergence="continue")) == 0


def test_without_scipy_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    net = make_network([3, 2])
    before = net.parameters.copy()
    with pytest.raises(ImportError, match=r"fastbp.LBFGS needs SciPy: pip install 'fastbp\[scipy\]'"):
        fastbp.train(net, np.ones((5, 3)), np.ones((5, 2)), optimizer="lbfgs")
    assert np.array_equal(net.parameters, before)


@pytest.mark.parametrize(
    "settings",
    [
        dict(memory=0), dict(gradient_tolerance=-1), dict(loss_tolerance=np.nan), dict(line_search=0.5),
        dict(weight_decay=-1), dict(decay_biases=1),
    ],
)  # fmt: skip
def test_refuses(settings):
    (name,) = settings
    with pytest.raises((TypeError, ValueError), match=name):
        fastbp.LBFGS(**settings)


@pytest.mark.parametrize("way", ["checkpoints", "callbacks", "resume"])
def test_nobody_can_go_on_to_the_same_bits(way, tmp_path):
    checkpoints = fastbp.Checkpoints(tmp_path / "new")
    option = {"checkpoints": checkpoints, "callbacks": [checkpoints], "resume": tmp_path}[way]
    net = fastbp.Network([2, 1])
    with pytest.raises(ValueError, match="save the network in a callback, and train again from it"):
        fastbp.train(net, [[0, 1], [1, 0]], [1, 0], optimizer="lbfgs", **{way: option})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layer", [fastbp.BatchNorm(), fastbp.Dropout(), fastbp.Residual([fastbp.Dropout()])])
def test_layers_that_are_refused_before_any_training(layer):
    x, y = draw_inputs(20, 3), draw_targets("mean_squared_error", 20, 2)
    first, other = make_network([3, 2]), fastbp.Network([layer, fastbp.Dense(2)], inputs=3)
    before = first.parameters.copy()
    with pytest.raises(ValueError, match=r"network 1: LBFGS cannot train (BatchNorm|Dropout)"):
        fastbp.train_many([first, other], x, y, optimizer="lbfgs")
    assert np.array_equal(first.parameters, before)


def test_a_callback_that_raises_stop_iteration():
    """SciPy would take it for a wish to end, and the history would tell another reason."""

    def exhausted(training):
        next(iter([]))

    with pytest.raises(RuntimeError, match="a callback raised StopIteration"):
        regression(callbacks=[exhausted])


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads):
    x, y = draw_inputs(190, 8), draw_targets("mean_squared_error", 190, 16)

    def run(threads):
        net = make_network([8, 129, 64, 95, 16], "tanh", dtype="float32")
        history = fastbp.train(net, x, y, epochs=5, optimizer="lbfgs", threads=threads)
        return net.parameters.tobytes(), history.loss

    assert run(threads) == run(1)


@pytest.mark.parametrize(("dtype", "low", "high"), [("float32", 50, 100), ("float64", 1010, 2020)])
def test_a_first_step_too_far_is_stepped_back_from(dtype, low, high):
    """e^z of the first trial is infinite, which SciPy's line search alone would take for the end."""
    draw = np.random.default_rng(0)
    x = draw.uniform(low, high, (200, 1))
    y = draw.poisson(4 * x / high).astype(float)
    net = fastbp.Network([1, 1], loss="poisson", dtype=dtype, seed=0)
    net.parameters[:] = 0
    fastbp.train(net, x, y, epochs=200, optimizer="lbfgs")
    exact = fastbp.Network([1, 1], loss="poisson", dtype="float64", seed=0)
    exact.parameters[:] = 0
    fastbp.train(exact, x / high, y, epochs=200, optimizer="lbfgs")  # the same function of scaled inputs
    assert net.loss(x, y) == pytest.approx(exact.loss(x / high, y), abs=1e-3)


def test_the_tolerance_of_the_loss_is_a_share_of_small_ones_too():
    x = np.random.default_rng(0).uniform(-1, 1, (40, 1))
    share = 1e-4
    for scale in (1.0, 1e-3):
        net = fastbp.Network([1, 10, 1], activation="tanh", dtype="float64", seed=0)
        optimizer = fastbp.LBFGS(gradient_tolerance=0, loss_tolerance=share)
        history = fastbp.train(net, x, scale * np.sin(3 * x), epochs=2000, optimizer=optimizer)
        assert history.stopped == "the loss fell by no more than loss_tolerance"
        falls = -np.diff(history.loss) / history.loss[:-1]
        assert falls[-1] <= share < falls[:-1].min()
        assert history.loss[-1] < 0.01 * scale**2
