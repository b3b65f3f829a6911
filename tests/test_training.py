"""train(): what it does to the weights, what it tells, how it ends, and what it refuses."""

import _thread
import copy
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time

import numpy as np
import pytest
from numba import njit

import fastbp
from fastbp import SGD, EarlyStopping, division, interrupts, training
from fastbp.cpu import notice
from fastbp.datasets import split
from fastbp.formulas import random as draws
from fastbp.history import History
from tests import reference
from tests.samples import batches, difference, draw_inputs, draw_targets, flat, make_network, reference_layers

NAN = float("nan")


def data(n, n_in=3, n_out=2, loss="mean_squared_error"):
    return draw_inputs(n, n_in), draw_targets(loss, n, n_out)


def trained(x, y, *, dtype="float64", sizes=(3, 4, 2), loss="mean_squared_error", **how):
    """(network, history) of a training of the same start."""
    net = make_network(list(sizes), loss=loss, dtype=dtype)
    return net, fastbp.train(net, x, y, **how)


def bits(x, y, **how):
    net, history = trained(x, y, **how)
    return net.parameters.tobytes(), tuple(history.loss)


# The weights


@pytest.mark.parametrize("widths", [(9, 3), (1, 2), (2, 5)], ids=str)
def test_layers_without_biases_stay_without(widths):
    """The update of W runs to whole vectors, and these layers are narrower."""
    layers = [fastbp.Dense(units, "tanh", use_bias=False) for units in widths]
    net = fastbp.Network(layers, inputs=5, dtype="float64", seed=1)
    x, y = data(20, 5, widths[-1])
    expected = reference_layers(net)
    for each in batches(x, y, 10, 2):
        _, gradients, _ = reference.gradient(expected, *each, "mean_squared_error")
        expected = [(W - 0.1 * dW, b, f) for (W, b, f), (dW, _) in zip(expected, gradients)]
    fastbp.train(net, x, y, epochs=2, batch_size=10, shuffle=False, optimizer=SGD(0.1))
    for layer, (W, *_) in zip(net.layers, expected):
        np.testing.assert_allclose(layer.W, W, rtol=1e-12)


@pytest.mark.parametrize("loss", ["mean_squared_error", "softmax_cross_entropy"])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 23, 24, None, 1000])
def test_against_reference(batch_size, loss):
    x, y = data(23, loss=loss)
    net = make_network([3, 4, 2], loss=loss, dtype="float64", option=False)
    layers, losses = reference.train(
        reference_layers(net), batches(x, y, min(batch_size or 23, 23), 3), loss, "momentum",
        option=0.0, learning_rate=0.1, momentum=0.9, weight_decay=0.01,
    )  # fmt: skip
    optimizer = SGD(0.1, momentum=0.9, weight_decay=0.01)
    history = fastbp.train(net, x, y, epochs=3, batch_size=batch_size, shuffle=False, optimizer=optimizer)
    assert difference(net.parameters, flat(layers)) < 1e-12
    sizes = [len(batch) for batch, _ in batches(x, y, min(batch_size or 23, 23), 3)]
    by_epoch = np.multiply(losses, sizes).reshape(3, -1).sum(axis=1) / 23
    np.testing.assert_allclose(history.loss, by_epoch, rtol=1e-12)


def test_layers_without_bias():
    x, y = data(12)
    net = fastbp.Network(
        [fastbp.Dense(4, "tanh", use_bias=False), fastbp.Dense(2)], inputs=3, dtype="float64", seed=1
    )
    expected = net.parameters.copy()
    other = fastbp.Network(
        [fastbp.Dense(4, "tanh", use_bias=False), fastbp.Dense(2)], inputs=3, dtype="float64", seed=1
    )
    for _ in range(3):
        expected -= 0.1 * other.gradient(x, y)[1].parameters
        other.parameters[:] = expected
    fastbp.train(net, x, y, epochs=3, batch_size=None, optimizer=SGD(0.1))
    np.testing.assert_allclose(net.parameters, expected, rtol=1e-12)


@njit
def shuffle(order, seed, epoch):
    draws.shuffle(order, seed, epoch)


def test_shuffle_is_a_function_of_seed_and_epoch():
    x, y = data(23)
    net, _ = trained(x, y, epochs=3, batch_size=5, seed=77, optimizer=SGD(0.1))
    by_hand = make_network([3, 4, 2], dtype="float64")
    for epoch in range(3):
        order = np.arange(23)
        shuffle(order, 77, epoch)
        fastbp.train(by_hand, x[order], y[order], epochs=1, batch_size=5, shuffle=False, optimizer=SGD(0.1))
    assert net.parameters.tobytes() == by_hand.parameters.tobytes()


def test_seeds():
    x, y = data(23)
    how = dict(epochs=2, batch_size=5)
    assert bits(x, y, seed=1, **how) == bits(x, y, seed=1, **how)
    assert bits(x, y, seed=1, **how) != bits(x, y, seed=2, **how)
    assert bits(x, y, **how) == bits(x, y, seed=1, **how), "the network's own seed, 1, by default"
    assert bits(x, y, seed=2**64 - 1, **how) != bits(x, y, seed=2**63 - 1, **how)
    assert bits(x, y, seed=1, shuffle=False, **how) == bits(x, y, seed=2, shuffle=False, **how)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", [dict(materialise=True), dict(threads=2), dict(threads=3, materialise=True)])
def test_how_it_is_done_does_not_change_bits(how, dtype):
    for n, batch_size in ((23, 5), (700, 300)):
        x, y = data(n)
        options = dict(epochs=3, batch_size=batch_size, dtype=dtype, optimizer=SGD(0.1, momentum=0.9))
        assert bits(x, y, **options, **how) == bits(x, y, **options)


def test_epochs_in_one_call_or_in_many_give_the_same_bits(monkeypatch):
    x, y = data(23)
    at_once = bits(x, y, epochs=50, batch_size=5, optimizer=SGD(0.1, momentum=0.9))
    monkeypatch.setattr(training, "SECONDS_PER_CALL", 0.0)
    one_by_one = bits(x, y, epochs=50, batch_size=5, optimizer=SGD(0.1, momentum=0.9))
    monkeypatch.setattr(training, "SECONDS_INLINE", 0.0)
    in_threads = bits(x, y, epochs=50, batch_size=5, optimizer=SGD(0.1, momentum=0.9))
    assert at_once == one_by_one == in_threads


def test_data_stay_as_they_are():
    x, y = data(23)
    x_before, y_before = x.copy(), y.copy()
    trained(x, y, epochs=3, batch_size=5)
    assert np.array_equal(x, x_before)
    assert np.array_equal(y, y_before)


def test_momentum_starts_anew():
    x, y = data(23)
    net, _ = trained(x, y, epochs=2, batch_size=None, shuffle=False, optimizer=SGD(0.1, momentum=0.9))
    twice = make_network([3, 4, 2], dtype="float64")
    for _ in range(2):
        fastbp.train(twice, x, y, epochs=1, batch_size=None, shuffle=False, optimizer=SGD(0.1, momentum=0.9))
    assert difference(twice.parameters, net.parameters) > 1e-3


def test_one_row_one_weight():
    net = fastbp.Network([1, 1], dtype="float64", seed=0)
    net.parameters[:] = [2.0, 0.5]
    history = fastbp.train(net, [[3.0]], [[6.0]], epochs=1, optimizer=SGD(0.1))
    # z = 6.5, loss 0.25, dz = 1: dW = 3, db = 1
    np.testing.assert_allclose(net.parameters, [1.7, 0.4], rtol=1e-15)
    assert history.loss == [0.25]


def test_it_learns():
    x, y = fastbp.datasets.digits()
    net = fastbp.Network([64, 32, 10], loss="softmax_cross_entropy", seed=0)
    history = fastbp.train(net, x[:1500], y[:1500], epochs=20, optimizer=SGD(0.1, momentum=0.9))
    assert history.loss[-1] < 0.02
    assert net.evaluate(x[1500:], y[1500:])["accuracy"] > 0.9


# The history


def test_history():
    x, y = data(23)
    net, history = trained(x, y, epochs=7, batch_size=5)
    assert isinstance(history, History)
    assert len(history) == len(history.loss) == len(history.seconds) == len(history.samples_per_second) == 7
    assert all(type(value) is float for value in history.loss + history.seconds + history.samples_per_second)
    assert all(value > 0 for value in history.seconds)
    assert history.validation_loss == []
    assert not history.interrupted
    assert history.threads == 1
    assert net.loss(x, y) < history.loss[0]


def test_loss_of_a_whole_batch_is_the_networks():
    x, y = data(23)
    net = make_network([3, 4, 2], dtype="float64")
    before = net.loss(x, y)
    history = fastbp.train(net, x, y, epochs=1, batch_size=None, shuffle=False)
    assert history.loss == [before]


def test_validation_pair():
    x, y = data(40)
    net, history = trained(x[:30], y[:30], epochs=5, batch_size=7, validation=(x[30:], y[30:]))
    assert len(history.validation_loss) == 5
    assert history.validation_loss[-1] == net.loss(x[30:], y[30:])
    assert bits(x[:30], y[:30], epochs=5, batch_size=7) == (net.parameters.tobytes(), tuple(history.loss))


def test_validation_share():
    x, y = data(40)
    net, history = trained(x, y, epochs=3, batch_size=7, validation=0.25, seed=9)
    x_train, y_train, x_held, y_held = split(x, y, 0.25, 9)
    assert len(x_held) == 10
    assert history.validation_loss[-1] == net.loss(x_held, y_held)
    assert bits(x_train, y_train, epochs=3, batch_size=7, seed=9) == (
        net.parameters.tobytes(),
        tuple(history.loss),
    )


def test_validation_of_classes():
    x, y = data(40, loss="softmax_cross_entropy")
    _, history = trained(x, y, loss="softmax_cross_entropy", epochs=2, validation=(x, np.eye(2)[y]))
    assert len(history.validation_loss) == 2


def test_progress(capfd):
    x, y = data(23)
    trained(x, y, epochs=3, progress=True)
    shown = capfd.readouterr()
    assert "training" in shown.err
    assert "100%" in shown.err
    assert "loss=" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("progress", ["auto", False])
def test_short_training_is_silent(progress, capfd):
    x, y = data(23)
    trained(x, y, epochs=3, progress=progress)
    assert capfd.readouterr() == ("", "")


def test_progress_shows_in_a_terminal_and_in_a_notebook(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not notice.somebody_waits()
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    assert notice.somebody_waits()
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert notice.somebody_waits()


@pytest.mark.parametrize("stderr", [None, io.StringIO(), object()], ids=["none", "closed", "bare"])
def test_training_without_a_standard_error(stderr, monkeypatch):
    if isinstance(stderr, io.StringIO):
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert len(fastbp.train(make_network([3, 2]), *data(20, n_out=2), epochs=2)) == 2


def test_progress_of_a_resumed_training_starts_where_it_was(tmp_path, capfd):
    x, y = data(23)
    trained(x, y, epochs=3, checkpoints=fastbp.Checkpoints(tmp_path, every=3))
    trained(x, y, epochs=4, resume=tmp_path, progress=True)
    shown = capfd.readouterr().err
    assert "| 69.0/92.0 [" in shown
    assert "epoch=4/4" in shown


def test_progress_with_validation_and_threads(capfd, monkeypatch):
    monkeypatch.setattr(interrupts, "POLL_SECONDS", 0.0005)
    x, y = data(2000)
    trained(x, y, epochs=30, batch_size=5, progress=True, threads=2, validation=0.1, metrics=["r2"])
    shown = capfd.readouterr().err
    assert "validation=" in shown
    assert "r2=" in shown
    assert "rows/s" in shown
    assert "epoch=30/30" in shown


# The end


LONG = dict(epochs=10**7, batch_size=5, optimizer=SGD(0.01))


def interrupted(x, y, after=0.4, **how):
    """(network, history) of a training that gets Ctrl-C after some seconds."""
    # Python's own handler: a shell that starts the tests in the background has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(after, _thread.interrupt_main)
    timer.start()
    try:
        return trained(x, y, **how)
    except KeyboardInterrupt:  # would end the test run
        raise AssertionError("the interrupt came out of train()") from None
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("validation", [None, 0.2])
def test_interrupt_returns_what_was_done(threads, validation):
    x, y = data(23)
    trained(x, y, epochs=2, batch_size=5, threads=threads, validation=validation)  # compiles
    start = time.perf_counter()
    net, history = interrupted(x, y, threads=threads, validation=validation, **LONG)
    assert time.perf_counter() - start < 30
    assert history.interrupted
    assert 0 < len(history) < LONG["epochs"]
    assert np.isfinite(net.parameters).all()
    assert np.isfinite(history.loss).all()
    assert net.loss(x, y) < history.loss[0]
    if validation:
        assert len(history.validation_loss) in (len(history), len(history) - 1)


@pytest.mark.parametrize("long_steps", ["", "in phase 1", "in phase 2"])
@pytest.mark.parametrize("threads", [1, 2])
def test_interrupted_weights_are_those_of_a_whole_step(threads, long_steps, monkeypatch):
    if long_steps:  # those are given up
        monkeypatch.setattr(division, "WORK_TO_GIVE_UP", 0)
    if long_steps == "in phase 2":
        monkeypatch.setattr(division, "WORK_OF_PHASE_TWO", -1)
    x, y = data(5)
    how = dict(batch_size=5, optimizer=SGD(1e-4), shuffle=False)
    trained(x, y, epochs=1, threads=threads, **how)  # compiles
    for i in range(3 if long_steps else 1):
        net, history = interrupted(x, y, after=0.2 + 0.01 * i, epochs=10**7, threads=threads, **how)
        assert history.interrupted
        # One step is one epoch here: so many epochs again, uninterrupted, give the same bits.
        again, whole = trained(x, y, epochs=len(history), **how)
        assert again.parameters.tobytes() == net.parameters.tobytes()
        assert whole.loss == history.loss


@pytest.mark.parametrize("threads", [1, 2])
def test_interrupts_at_any_time(threads):
    x, y = data(23)
    for i in range(20):
        net, history = interrupted(x, y, after=0.05 + 0.007 * i, threads=threads, **LONG)
        assert history.interrupted
        assert np.isfinite(net.parameters).all()
        assert not history.loss or net.loss(x, y) < history.loss[0]  # a busy machine has not begun by then


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_real_signal(monkeypatch):
    monkeypatch.setattr(_thread, "interrupt_main", lambda: os.kill(os.getpid(), signal.SIGINT))
    assert interrupted(*data(23), **LONG)[1].interrupted


def test_ctrl_c_in_a_training_within_a_training_ends_both():
    x, y = data(23)
    within = []

    def begin_others(training):
        within.extend(trained(x, y, **LONG)[1] for _ in range(2))

    _, history = interrupted(x, y, callbacks=[begin_others], **LONG)
    assert [each.interrupted for each in within] == [True, True]
    assert [len(each) > 0 for each in within] == [True, False]  # the second one knows of it from the first
    assert history.interrupted
    assert len(history) == 1


def test_training_goes_on_after_an_interrupt():
    x, y = data(23)
    net, history = interrupted(x, y, **LONG)
    assert history.interrupted
    assert len(fastbp.train(net, x, y, epochs=3)) == 3
    assert np.isfinite(net.predict(x)).all()


def test_the_handler_of_ctrl_c_is_put_back():
    def handler(number, frame):
        raise AssertionError("called by nobody")

    before = signal.signal(signal.SIGINT, handler)
    try:
        trained(*data(23), epochs=3)
        assert signal.getsignal(signal.SIGINT) is handler
        with pytest.raises(ValueError):
            trained(*data(23), epochs=0)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


# Side by side


def test_trainings_in_several_threads_equal_those_alone():
    cases = [
        (seed, dict(epochs=40, batch_size=6 + seed, threads=1 + seed % 2, optimizer=SGD(0.05, momentum=0.9)))
        for seed in range(6)
    ]
    x, y = data(60)

    def run(seed, how, found):
        net = make_network([3, 8, 2], seed=seed)
        found[seed] = fastbp.train(net, x, y, **how).loss, net.parameters.tobytes()

    alone, together = {}, {}
    for seed, how in cases:
        run(seed, how, alone)
    threads = [threading.Thread(target=run, args=(*case, together)) for case in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def train_in_child(queue):
    x, y = data(60)
    net = make_network([3, 8, 2])
    history = fastbp.train(net, x, y, epochs=20, batch_size=7, threads=2)
    queue.put((net.parameters.tobytes(), history.loss))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_training_after_fork():
    x, y = data(60)
    net = make_network([3, 8, 2])
    history = fastbp.train(net, x, y, epochs=20, batch_size=7, threads=2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=train_in_child, args=(queue,))
    child.start()
    result = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert result == (net.parameters.tobytes(), history.loss)


def test_no_thread_stays_behind():
    before = _thread._count()  # those of a team are unknown to the module threading
    trained(*data(500), epochs=100, batch_size=5, threads=3)
    for _ in range(100):  # a thread's work is over a moment before it is
        if _thread._count() == before:
            break
        time.sleep(0.01)
    assert _thread._count() == before


# Bad input


BAD_SETTINGS = [
    (dict(epochs=0), ValueError, "epochs must be an integer at least 1"),
    (dict(epochs=-1), ValueError, "epochs must be .* got -1"),
    (dict(epochs=2.0), TypeError, "epochs must be .* got 2.0"),
    (dict(batch_size=0), ValueError, "batch_size must be .* got 0"),
    (dict(batch_size=2.5), TypeError, "batch_size must be .* got 2.5"),
    (
        dict(threads=10**9),
        ValueError,
        "threads must be an integer at least 1 and at most 1024; got 1000000000",
    ),
    (dict(optimizer="sdg"), ValueError, "unknown optimizer 'sdg': did you mean 'sgd'"),
    (dict(optimizer=None), TypeError, "optimizer must be a name"),
    (dict(optimizer=SGD), TypeError, r"optimizer must be a name .*or such as fastbp.SGD\(0.1\); got <class"),
    (dict(optimizer=0.1), TypeError, "optimizer must be a name"),
    (dict(shuffle="yes"), TypeError, "shuffle must be True or False; got 'yes'"),
    (dict(shuffle=1), TypeError, "shuffle must be True or False"),
    (dict(seed=-1), ValueError, "seed must be"),
    (dict(seed=0.5), TypeError, "seed must be"),
    (dict(threads=0), ValueError, "threads must be .* got 0"),
    (dict(threads="2"), TypeError, "threads must be .* got '2'"),
    (dict(progress="yes"), TypeError, 'progress must be True, False or "auto"; got'),
    (dict(progress=None), TypeError, 'progress must be True, False or "auto"; got'),
    (dict(metrics=["r2"]), ValueError, "metrics are measured on validation rows; give validation="),
    (dict(metrics=["f1"], validation=0.5), ValueError, "the metric 'f1' is of classes"),
    (dict(metrics="r2"), TypeError, "metrics must be a list"),
    (dict(early_stopping=5), TypeError, "early_stopping must be a fastbp.EarlyStopping; got 5"),
    (dict(early_stopping=EarlyStopping(monitor="r2")), ValueError, "'r2' is not measured here.*give valid"),
    (dict(callbacks=print), TypeError, "callbacks must be a list"),
    (dict(callbacks=[3]), TypeError, "callbacks must be functions or of fastbp.Callback; got 3"),
    (dict(callbacks=[EarlyStopping]), TypeError, "callbacks must be functions or of fastbp.Callback"),
    (dict(checkpoints="runs"), TypeError, "checkpoints must be a fastbp.Checkpoints"),
    (dict(resume=3), TypeError, "resume must be the path"),
    (dict(resume="nowhere"), FileNotFoundError, "nowhere"),
    (dict(on_divergence="ignore"), ValueError, "unknown on_divergence 'ignore'"),
    (dict(verbose=-1), ValueError, "verbose must be"),
    (dict(verbose="yes"), TypeError, "verbose must be"),
    (dict(device="gpu"), ValueError, "unknown device 'gpu'"),
    (dict(device=0), TypeError, "device must be a name"),
    (dict(materialise=None), TypeError, "materialise must be True or False"),
    (dict(validation=0.0), ValueError, "validation must be .* above 0 and below 1"),
    (dict(validation=1.0), ValueError, "validation must be .* above 0 and below 1"),
    (dict(validation=NAN), ValueError, "validation must be"),
    (dict(validation=True), TypeError, "validation must be"),
    (dict(validation="0.1"), TypeError, r"validation must be a share of the rows, .* or \(x, y\) or"),
    (dict(validation=np.ones(3)), TypeError, r"validation must be a share .* got a ndarray"),
    (dict(validation="0.1"), TypeError, "validation must be"),
    (dict(validation=(1, 2, 3, 4)), ValueError, "a pair .x, y. or .x, y, sample_weight.; got 4 things"),
    (dict(validation=([[1.0, 2.0]], [[1.0]])), ValueError, r"validation: x must have shape \(n, 3\)"),
    (dict(validation=([[1.0, 2.0, NAN]], [[1.0, 2.0]])), ValueError, "validation: x must be finite"),
    (dict(validation=([[1.0, 2.0, 3.0]], [[1.0]])), ValueError, "validation: y must have shape"),
    (dict(validation=([], [])), ValueError, "validation: x must have at least one row"),
    (dict(validation=np.zeros((2, 3))), TypeError, "validation must be"),
]


@pytest.mark.parametrize(("how", "error", "message"), BAD_SETTINGS)
def test_refuses_before_anything_changes(how, error, message):
    net, (x, y) = make_network([3, 4, 2]), data(6)
    before = net.parameters.copy()
    with pytest.raises(error, match=message) as caught:
        fastbp.train(net, x, y, **how)
    assert "\n" not in str(caught.value)
    assert np.array_equal(net.parameters, before)


def test_a_share_for_validation_needs_two_rows():
    with pytest.raises(ValueError, match="at least 2"):
        fastbp.train(make_network([3, 4, 2]), *data(1), validation=0.5)


def test_settings_go_by_name():
    with pytest.raises(TypeError):
        fastbp.train(make_network([3, 4, 2]), *data(6), 10)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (dict(learning_rate=0), ValueError),
        (dict(learning_rate=-0.1), ValueError),
        (dict(learning_rate=NAN), ValueError),
        (dict(learning_rate="0.1"), TypeError),
        (dict(momentum=-0.1), ValueError),
        (dict(weight_decay=-0.1), ValueError),
        (dict(nesterov=True), ValueError),
        (dict(nesterov=1, momentum=0.9), TypeError),
        (dict(nesterov=True, momentum=0.9, dampening=0.1), ValueError),
    ],
)
def test_sgd_refuses(settings, error):
    with pytest.raises(error):
        SGD(**settings)


def test_optimizer_by_name_has_its_defaults():
    x, y = data(23)
    assert (
        bits(x, y, epochs=2, optimizer="sgd") == bits(x, y, epochs=2, optimizer=SGD()) == bits(x, y, epochs=2)
    )


# Divergence


def step_of_divergence(rows, validation):
    """The first step whose loss is not finite, found step by step."""
    x, y = (100 * part for part in data(25))
    if validation:
        x, y, *_ = split(x, y, validation, 1)
    trainer = fastbp.OnlineTrainer(
        make_network([3, 4, 2], dtype="float64"), SGD(10.0), batch_size=5, on_divergence="continue"
    )
    for epoch in range(500):
        order = np.arange(rows)
        shuffle(order, 1, epoch)
        for start in range(0, rows, 5):
            batch = order[start : start + 5]
            if not np.isfinite(trainer.step(x[batch], y[batch])):
                return trainer.steps


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("validation", [None, 0.2])
def test_divergence_is_an_error_that_names_epoch_and_step(threads, validation):
    x, y = data(25)
    net = make_network([3, 4, 2], dtype="float64")
    how = dict(epochs=500, batch_size=5, optimizer=SGD(10.0), threads=threads, validation=validation)
    steps = 4 if validation else 5
    with pytest.raises(fastbp.DivergenceError, match="learning rate that is too high") as caught:
        fastbp.train(net, 100 * x, 100 * y, **how)
    error = caught.value
    assert isinstance(error, ArithmeticError)
    assert "\n" not in str(error)
    assert f"in epoch {error.epoch} (" in str(error)
    assert np.isfinite(net.parameters).all()
    assert np.isfinite(error.history.loss).all()
    assert error.steps == 2 * (step_of_divergence(25 if not validation else 20, validation),)
    assert (error.epoch - 1) * steps < error.steps[0] <= error.epoch * steps
    if validation:  # each epoch is a call of its own: these are the weights from before the epoch
        assert len(error.history) == error.epoch - 1
        assert net.loss(100 * x, 100 * y) > 0
        again = make_network([3, 4, 2], dtype="float64")
        fastbp.train(again, 100 * x, 100 * y, **how | dict(epochs=error.epoch - 1))
        assert again.parameters.tobytes() == net.parameters.tobytes()


def test_weights_that_overflow_in_the_last_step_are_seen():
    net = fastbp.Network([1, 1], dtype="float32", seed=0)
    before = net.parameters.copy()
    with pytest.raises(fastbp.DivergenceError, match=r"epoch 1 \(step 1\): a weight became infinite"):
        fastbp.train(net, [[1e5]], [[1.0]], epochs=1, optimizer=SGD(1e38))
    assert np.array_equal(net.parameters, before)


def test_a_loss_that_overflows_is_seen_where_weights_do_not():
    net = fastbp.Network([1, 1], dtype="float32", seed=0)
    before = net.parameters.copy()
    with pytest.raises(fastbp.DivergenceError, match=r"epoch 1 \(step 1\): the loss became inf"):
        fastbp.train(net, [[1.0]], [[1e30]], epochs=1, optimizer=SGD(1e-37))
    assert np.array_equal(net.parameters, before)


def test_divergence_may_be_gone_through():
    x, y = data(23)
    _, history = trained(100 * x, 100 * y, epochs=200, optimizer=SGD(10.0), on_divergence="continue")
    assert len(history) == 200
    assert not np.isfinite(history.loss[-1])


def test_looks_at_the_weights_that_are_rare_change_no_bit(monkeypatch):
    x, y = data(23)
    often = bits(x, y, epochs=50, batch_size=5, optimizer=SGD(0.1, momentum=0.9))
    monkeypatch.setattr(training, "SECONDS_PER_CALL", 0.0)
    monkeypatch.setattr(training, "SHARE_OF_LOOKS", 1e-9)
    assert bits(x, y, epochs=50, batch_size=5, optimizer=SGD(0.1, momentum=0.9)) == often


# Metrics


def test_metrics_of_each_epoch():
    x, y = data(60, loss="softmax_cross_entropy")
    held = x[40:], y[40:]

    def ones(targets, predictions):
        return (targets == 1).mean()

    net, history = trained(
        x[:40],
        y[:40],
        loss="softmax_cross_entropy",
        epochs=4,
        validation=held,
        metrics=["f1", "log_loss", ones],
    )
    assert {name: len(values) for name, values in history.metrics.items()} == dict(f1=4, log_loss=4, ones=4)
    found = net.evaluate(*held, metrics=["f1", "log_loss", ones])
    assert found == {"loss": history.validation_loss[-1]} | {
        name: values[-1] for name, values in history.metrics.items()
    }
    plain = trained(x[:40], y[:40], loss="softmax_cross_entropy", epochs=4)
    assert plain[0].parameters.tobytes() == net.parameters.tobytes()
    assert plain[1].metrics == {}


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
def test_parameters_that_are_not_finite_are_told_before_any_work(optimizer):
    if optimizer == "lbfgs":
        pytest.importorskip("scipy")
    net = fastbp.Network([2, 3, 1], seed=0)
    net.layers[0].W[1, 2] = np.nan
    told = r"^the network's parameters must be finite before training; W\[1, 2\] of layer '\w+' is nan$"
    with pytest.raises(ValueError, match=told):
        fastbp.train(net, [[0, 1], [1, 0]], [1, 0], optimizer=optimizer)
    history = fastbp.train(net, [[0, 1], [1, 0]], [1, 0], epochs=2, on_divergence="continue")
    assert len(history) == 2


def test_divergence_survives_pickle_and_copy():
    """As pools of processes need it."""
    with pytest.raises(fastbp.DivergenceError) as caught:
        fastbp.train(make_network([3, 2]), *data(20), epochs=5, optimizer=fastbp.SGD(1e30))
    for again in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert type(again) is fastbp.DivergenceError
        assert str(again) == str(caught.value)
        assert (again.epoch, again.steps) == (caught.value.epoch, caught.value.steps)
        assert again.history.loss == caught.value.history.loss


@pytest.mark.parametrize("bad", [-1, 3, 10**9])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_that_a_callback_spoils_reach_no_memory(bad, smoothing):
    loss = fastbp.Loss("softmax_cross_entropy", label_smoothing=smoothing)
    net, x, y = fastbp.Network([3, 4, 3], loss=loss, seed=0), draw_inputs(30, 3), np.arange(30) % 3

    def spoil(training):
        y[5] = bad

    with pytest.raises(fastbp.DivergenceError, match=r"epoch 2 .* the loss became nan"):
        fastbp.train(net, x, y, epochs=3, callbacks=[spoil])
    assert np.isfinite(net.parameters).all()
