"""What happens between epochs: early stopping, callbacks, tables and loggers."""

import _thread
import csv
import itertools
import os
import signal

import numpy as np
import pytest

import fastbp
from fastbp import SGD, Callback, CSVLogger, EarlyStopping, schedules
from tests.samples import draw_inputs, draw_targets, make_network

X, Y = draw_inputs(30, 3), draw_targets("mean_squared_error", 30, 2)
HELD = draw_inputs(10, 3, seed=5), draw_targets("mean_squared_error", 10, 2, seed=5)


def trained(**how):
    net = make_network([3, 4, 2], dtype="float64")
    return net, fastbp.train(net, X, Y, **dict(epochs=6, batch_size=5, optimizer=SGD(0.1)) | how)


def scripted(values):
    """A metric that says what it was told to."""
    left = iter(values)

    def scripted(targets, predictions):
        return next(left)

    return scripted


# Early stopping


@pytest.mark.parametrize(
    ("values", "how", "epochs", "best"),
    [
        ([5, 4, 3, 4, 5, 6, 7], dict(patience=2, mode="min"), 5, 3),
        ([5, 4, 3, 4, 5, 2, 7], dict(patience=3, mode="min"), 7, 6),
        ([5, 6, 7, 6, 5, 9, 9], dict(patience=2, mode="max"), 5, 3),
        ([5, 4.9, 4.8, 4.7, 4, 4, 4], dict(patience=3, mode="min", min_delta=0.5), 4, 1),
        ([5, 4.9, 4.8, 4.3, 4, 4, 4], dict(patience=4, mode="min", min_delta=0.5), 7, 4),
        ([float("nan")] * 7, dict(patience=2, mode="min"), 2, None),
        ([float("inf"), 3, 4, 5, 6, 7, 8], dict(patience=2, mode="min"), 4, 2),
        ([5, 5, 5, 5, 5, 5, 5], dict(patience=3, mode="max"), 4, 1),
        ([1, 2, 3, 4, 5, 6, 7], dict(patience=1, mode="max"), 7, 7),
    ],
)
def test_early_stopping(values, how, epochs, best):
    weights = []
    net, history = trained(
        epochs=7, validation=HELD, metrics=[scripted(values)],
        early_stopping=EarlyStopping(monitor="scripted", **how),
        callbacks=[lambda training: weights.append(training.network.parameters.copy())],
    )  # fmt: skip
    assert len(history) == epochs
    assert history.best_epoch == best
    assert (history.stopped is not None) == (epochs < 7)
    assert np.array_equal(net.parameters, weights[(best or epochs) - 1])


def test_any_reason_stops():
    assert len(trained(epochs=5, callbacks=[lambda training: training.stop("")])[1]) == 1


def test_early_stopping_may_leave_the_last_weights():
    stopping = EarlyStopping(2, monitor="scripted", mode="max", restore_best=False)
    net, history = trained(validation=HELD, metrics=[scripted([3, 2, 1, 0, 0, 0])], early_stopping=stopping)
    assert (len(history), history.best_epoch) == (3, 1)
    assert net.parameters.tobytes() == trained(epochs=3)[0].parameters.tobytes()


def test_early_stopping_watches_the_validation_loss_by_itself():
    net, history = trained(epochs=300, validation=HELD, early_stopping=EarlyStopping(5))
    assert len(history) < 300
    assert history.best_epoch == np.argmin(history.validation_loss) + 1 == len(history) - 5
    assert history.stopped == "validation_loss was not better in 5 epochs"
    assert net.loss(*HELD) == min(history.validation_loss)
    _, history = trained(epochs=300, early_stopping=EarlyStopping(5, monitor="loss", min_delta=1e-3))
    assert len(history) < 300


def test_early_stopping_may_be_used_again():
    stopping = EarlyStopping(2)
    first, second = (trained(epochs=50, validation=HELD, early_stopping=stopping) for _ in range(2))
    assert first[0].parameters.tobytes() == second[0].parameters.tobytes()
    assert first[1].loss == second[1].loss


def test_direction_of_a_metric_of_ones_own_must_be_said():
    net = make_network([3, 4, 2], dtype="float64")
    before = net.parameters.copy()
    with pytest.raises(ValueError, match='say mode="min" or mode="max"'):
        fastbp.train(net, X, Y, validation=HELD, metrics=[scripted([1])],
                     early_stopping=EarlyStopping(monitor="scripted"))  # fmt: skip
    assert np.array_equal(net.parameters, before)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        (dict(patience=0), ValueError),
        (dict(min_delta=-1), ValueError),
        (dict(mode="lowest"), ValueError),
        (dict(monitor=3), TypeError),
        (dict(restore_best=1), TypeError),
    ],
)
def test_early_stopping_refuses(how, error):
    with pytest.raises(error):
        EarlyStopping(**how)


# Callbacks


class Noted(Callback):
    def __init__(self, notes, each=1):
        self.notes, self.each = notes, each

    def next_epoch(self, done):
        return self.each and (done // self.each + 1) * self.each

    def start(self, training):
        self.notes.append(("start", training.epoch, training.epochs))

    def epoch(self, training):
        self.notes.append((training.epoch, training.history.loss[-1], training.network.parameters.copy()))

    def end(self, training):
        self.notes.append(("end", training.epoch, training.failed))


def test_callbacks_come_in_order_with_the_weights_of_the_epoch():
    notes = []
    net, history = trained(callbacks=[Noted(notes)])
    assert notes[0] == ("start", 0, 6)
    assert notes[-1] == ("end", 6, False)
    assert [note[:2] for note in notes[1:-1]] == list(zip(range(1, 7), history.loss))
    for epochs in (1, 4):
        assert np.array_equal(notes[epochs][2], trained(epochs=epochs)[0].parameters)
    assert net.parameters.tobytes() == trained()[0].parameters.tobytes()


@pytest.mark.parametrize("each", [None, 3])
def test_callbacks_that_need_few_weights_let_epochs_run_together(each):
    notes = []
    trained(epochs=7, callbacks=[Noted(notes, each)])
    assert [note[0] for note in notes] == ["start", 1, 2, 3, 4, 5, 6, 7, "end"]
    if each:
        assert np.array_equal(notes[3][2], trained(epochs=3)[0].parameters)
        assert np.array_equal(notes[1][2], notes[2][2]), "epochs 1 and 2 ran in one call with 3"


def test_a_callback_may_stop():
    def enough(training):
        if training.epoch == 2:
            training.stop("it was enough")

    net, history = trained(callbacks=[enough])
    assert (len(history), history.stopped, history.interrupted) == (2, "it was enough", False)
    assert net.parameters.tobytes() == trained(epochs=2)[0].parameters.tobytes()


def test_a_callback_may_set_the_weights():
    start = make_network([3, 4, 2], dtype="float64").parameters.copy()

    def back_to_the_start(training):
        if training.epoch == 3:
            training.set_parameters(start)

    net, _ = trained(callbacks=[back_to_the_start], shuffle=False)
    assert net.parameters.tobytes() == trained(epochs=3, shuffle=False)[0].parameters.tobytes()


def test_what_a_callback_writes_is_trained_on():
    start = make_network([3, 4, 2], dtype="float64").parameters.copy()

    def back_to_the_start(training):
        if training.epoch == 3:
            training.network.parameters[:] = start

    net, history = trained(callbacks=[back_to_the_start], shuffle=False)
    short, history_of_short = trained(epochs=3, shuffle=False)
    assert net.parameters.tobytes() == short.parameters.tobytes()
    assert history.loss[3:] == history_of_short.loss


def test_a_callback_may_set_the_learning_rate():
    def tenth(training):
        training.learning_rate = 0.1 / 10**training.epoch

    _, history = trained(epochs=3, callbacks=[tenth])
    assert history.learning_rate == [0.1, 0.01, 0.001]
    by_hand = trained(epochs=2, callbacks=[tenth])[0]
    assert not np.array_equal(by_hand.parameters, trained(epochs=2)[0].parameters)
    with pytest.raises(ValueError, match="learning_rate must be"):
        trained(callbacks=[lambda training: setattr(training, "learning_rate", -1)])


def test_a_checkpoint_has_what_a_callback_wrote(tmp_path):
    def back_to_zero(training):
        if training.epoch == 3:
            training.network.parameters[:] = 0.0

    net, _ = trained(epochs=3, callbacks=[back_to_zero], checkpoints=fastbp.Checkpoints(tmp_path, every=1))
    assert not net.parameters.any()
    assert not fastbp.load(tmp_path / "epoch-00000003.safetensors").parameters.any()


def test_what_a_callback_writes_is_trained_on_in_a_stream_too():
    start = make_network([3, 4, 2], dtype="float64").parameters.copy()

    def back_to_the_start(training):
        if training.epoch == 3:
            training.network.layers[0].W[:], training.network.parameters[:] = 7, start

    nets = [make_network([3, 4, 2], dtype="float64") for _ in range(2)]
    for net, epochs in zip(nets, (6, 3)):
        how = dict(batch_size=5, optimizer=SGD(0.1), shuffle=False)
        fastbp.train(net, [(X, Y)], epochs=epochs, callbacks=[back_to_the_start] * (epochs > 3), **how)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_what_is_written_to_a_network_that_was_collected_is_trained_on():
    class Zeros(Callback):
        def next_epoch(self, done):
            return None

        def epoch(self, training):
            if training.epoch == 6:
                training.collect()
                training.network.parameters[:] = 0

    net, _ = trained(callbacks=[Zeros()])
    assert not net.parameters.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    def spoil(training):
        training.network.parameters[0] = bad

    net = make_network([3, 4, 2], dtype="float64")
    with pytest.raises(ValueError, match="a callback gave the network a weight that is infinite or NaN"):
        fastbp.train(net, X, Y, epochs=1, callbacks=[spoil])
    assert np.isfinite(net.parameters).all()
    fastbp.train(net, X, Y, epochs=1, on_divergence="continue", callbacks=[spoil])
    assert not np.isfinite(net.parameters[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_set_parameters_refuses_what_is_not_finite(bad):
    weights = np.full(26, bad)
    with pytest.raises(ValueError, match="set_parameters was given a weight that is infinite or NaN"):
        trained(callbacks=[lambda training: training.set_parameters(weights)])


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"takes an array of shape \(26,\); got \(\)"):
        trained(callbacks=[lambda training: training.set_parameters(7.0)])


def test_the_next_epoch_is_a_later_one():
    class Late(Callback):
        def next_epoch(self, done):
            return done

    with pytest.raises(ValueError, match=r"Late.next_epoch must return None or an integer above 0; got 0"):
        trained(callbacks=[Late()])


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Cosine(warmup=2),
        schedules.Step(2, gamma=0.5),
        schedules.Exponential(0.97, per="step", warmup=8, warmup_start=0.1),
    ],
    ids=repr,
)
def test_the_history_has_the_rates_of_a_schedule(schedule):
    _, history = trained(epochs=6, optimizer=SGD(0.1, schedule=schedule))
    rates = schedule.rates(0.1, 6, 6)
    assert history.learning_rate == (rates if schedule.per == "epoch" else rates[5::6])


def test_the_history_has_the_rates_of_a_plateau():
    plateau = schedules.ReduceOnPlateau(factor=0.5, patience=0, threshold=0.9)
    optimizer = SGD(0.1, schedule=plateau, layers={0: {"learning_rate": 0.01}})
    _, history = trained(epochs=4, optimizer=optimizer)
    follower = plateau.follow([0.1])
    assert history.learning_rate == [0.1] + [follower.next_rates(loss)[0] for loss in history.loss][:-1]
    assert history.learning_rate[-1] < 0.1


def test_a_plateau_lowers_the_rate_that_was_set():
    def set_once(training):
        if training.epoch == 1:
            training.learning_rate = 0.05

    plateau = schedules.ReduceOnPlateau(factor=0.5, patience=0, threshold=0.9)
    _, history = trained(epochs=4, optimizer=SGD(0.1, schedule=plateau), callbacks=[set_once])
    np.testing.assert_allclose(history.learning_rate, [0.1, 0.05, 0.025, 0.0125], rtol=1e-15)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Exponential(0.9),
        schedules.Step(2, gamma=0.5),
        schedules.Cosine(warmup=2),
        schedules.OneCycle(momentum=None),
    ],
    ids=repr,
)
def test_a_learning_rate_is_set_where_its_schedule_has_it(schedule):
    def halve(training):
        seen.append(training.learning_rate)
        training.learning_rate /= 2
        seen.append(training.learning_rate)

    seen, optimizer = [], SGD(0.1, momentum=0.5, schedule=schedule)
    _, history = trained(epochs=4, optimizer=optimizer, callbacks=[halve])
    rates = np.array(trained(epochs=4, optimizer=optimizer)[1].learning_rate)
    np.testing.assert_allclose(history.learning_rate, rates * 0.5 ** np.arange(4), rtol=1e-14)
    np.testing.assert_allclose(seen[1::2], np.array(seen[::2]) / 2, rtol=1e-14)


def test_where_a_schedule_has_come_to_0_it_goes_on_as_if_from_what_is_set():
    def wake(training):
        if training.epoch == 3:
            training.learning_rate = 0.2

    _, history = trained(epochs=4, optimizer=SGD(0.1, schedule=schedules.Cosine(2)), callbacks=[wake])
    np.testing.assert_allclose(history.learning_rate, [0.1, 0.05, 0.0, 0.1], atol=1e-15)


def test_rates_of_layers_change_in_proportion():
    def double(training):
        training.learning_rate = 0.2

    def layers(first):
        return {0: {"learning_rate": first}}

    by_hand = make_network([3, 4, 2], dtype="float64")
    for rate in (0.1, 0.2):
        how = dict(batch_size=30, epochs=1, shuffle=False, optimizer=SGD(rate, layers=layers(rate / 2)))
        fastbp.train(by_hand, X, Y, **how)
    alike, _ = trained(
        epochs=2, batch_size=30, shuffle=False, optimizer=SGD(0.1, layers=layers(0.05)), callbacks=[double]
    )
    assert np.array_equal(alike.parameters, by_hand.parameters)


@pytest.mark.parametrize("first", [0.0, 0.05])
def test_the_rate_is_the_optimizers_where_no_layer_has_it(first):
    def halve(training):
        told.append(training.learning_rate)
        training.learning_rate /= 2

    told, layers = [], {0: {"learning_rate": first}, 1: {"learning_rate": 0.2}}
    _, history = trained(epochs=3, optimizer=SGD(0.1, layers=layers), callbacks=[halve])
    np.testing.assert_allclose(told, [0.1, 0.05, 0.025], rtol=1e-15)
    assert history.learning_rate == told


def test_an_error_in_a_callback_comes_out_and_leaves_whole_weights():
    notes = []

    def fails(training):
        if training.epoch == 2:
            raise KeyError("mine")

    net = make_network([3, 4, 2], dtype="float64")
    with pytest.raises(KeyError, match="mine"):
        fastbp.train(net, X, Y, epochs=6, batch_size=5, optimizer=SGD(0.1), callbacks=[fails, Noted(notes)])
    assert notes[-1] == ("end", 2, True)
    assert net.parameters.tobytes() == trained(epochs=2)[0].parameters.tobytes()


def test_all_callbacks_are_told_of_the_end_though_one_fails_there():
    class Fails(Callback):
        def end(self, training):
            raise KeyError("mine")

    notes = []
    with pytest.raises(KeyError, match="mine"):
        trained(callbacks=[Fails(), Noted(notes)])
    assert notes[-1] == ("end", 6, False)


def test_ctrl_c_leaves_the_last_weights_and_a_checkpoint(tmp_path):
    def ctrl_c(training):
        if training.epoch == 3:
            _thread.interrupt_main()

    # The metric is best in the first epoch; its weights are not given back here.
    stopping = EarlyStopping(9, monitor="scripted", mode="max")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        net, history = trained(
            validation=HELD, metrics=[scripted([9, 1, 1, 1, 1, 1])], early_stopping=stopping,
            callbacks=[ctrl_c], checkpoints=fastbp.Checkpoints(tmp_path),
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    assert (len(history), history.interrupted, history.stopped) == (3, True, None)
    assert net.parameters.tobytes() == trained(epochs=3)[0].parameters.tobytes()
    resumed, _ = trained(
        validation=HELD, metrics=[scripted([1, 1, 1])], resume=tmp_path, epochs=6,
        early_stopping=EarlyStopping(9, monitor="scripted", mode="max"),
    )  # fmt: skip
    assert resumed.parameters.tobytes() == trained(epochs=1)[0].parameters.tobytes(), "those of epoch 1"


# Tables and loggers


def test_verbose_writes_a_table(capsys):
    _, history = trained(epochs=3, validation=HELD, metrics=["r2"], verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["epoch", "loss", "validation", "r2", "learning", "rate", "seconds"]
    assert len(lines) == 4
    assert lines[2].split()[:4] == [
        "2/3", *(f"{v[1]:.5g}" for v in (history.loss, history.validation_loss, history.metrics["r2"]))
    ]  # fmt: skip
    assert len({len(line) for line in lines}) == 1


def test_verbose_every_few_epochs(capsys):
    trained(epochs=7, verbose=3)
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert first == ["epoch", "3/7", "6/7", "7/7"]
    trained(epochs=7, verbose=5, callbacks=[lambda t: t.stop("enough") if t.epoch == 6 else None])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["epoch", "5/7", "6/7", "stopped:"]
    trained(epochs=7, verbose=False)
    assert capsys.readouterr().out == ""


def test_csv(tmp_path):
    path = tmp_path / "history.csv"
    for _ in range(2):  # the second time it is written anew
        _, history = trained(validation=HELD, metrics=["r2"], callbacks=[CSVLogger(path)])
    head, *rows = csv.reader(path.read_text().splitlines())
    assert head == ["epoch", "loss", "validation_loss", "r2", "learning_rate", "seconds"]
    assert [int(row[0]) for row in rows] == [1, 2, 3, 4, 5, 6]
    columns = [history.loss, history.validation_loss, history.metrics["r2"], [0.1] * 6, history.seconds]
    assert [[float(cell) for cell in row[1:]] for row in rows] == [list(row) for row in zip(*columns)]


def test_csv_grows_while_training_runs(tmp_path):
    path, seen = tmp_path / "history.csv", []
    trained(callbacks=[CSVLogger(path), lambda training: seen.append(len(path.read_text().splitlines()))])
    assert seen == [2, 3, 4, 5, 6, 7]


def test_a_csv_stays_where_training_does_not_begin(tmp_path):
    path, refused = tmp_path / "history.csv", tmp_path / "new.csv"
    how = dict(checkpoints=fastbp.Checkpoints(tmp_path / "run", every=1), epochs=3)
    trained(callbacks=[CSVLogger(path)], **how)
    before = path.read_text()
    with pytest.raises(ValueError, match="checkpoints of another training"):
        trained(callbacks=[CSVLogger(path), CSVLogger(refused)], **how)
    assert path.read_text() == before
    assert not refused.exists()


def test_csv_that_cannot_be_written_is_known_at_once(tmp_path):
    net = make_network([3, 4, 2], dtype="float64")
    before = net.parameters.copy()
    with pytest.raises(OSError):
        fastbp.train(net, X, Y, callbacks=[CSVLogger(tmp_path / "no" / "folder.csv")])
    assert np.array_equal(net.parameters, before)


def test_any_number_of_calls_give_the_same_bits():
    results = []
    for each, verbose in itertools.product((None, 1, 4), (False, 2)):
        net, history = trained(epochs=9, callbacks=[Noted([], each)], verbose=verbose, progress=False)
        results.append((net.parameters.tobytes(), tuple(history.loss)))
    assert len(set(results)) == 1


def test_a_callback_is_given_once(tmp_path):
    logger = CSVLogger(tmp_path / "history.csv")
    with pytest.raises(
        ValueError, match="each callback must be an object of its own; a CSVLogger is there twice"
    ):
        trained(callbacks=[logger, print, logger])
    stopping = EarlyStopping()
    with pytest.raises(ValueError, match="a EarlyStopping is there twice"):
        trained(early_stopping=stopping, callbacks=[stopping])
    assert not (tmp_path / "history.csv").exists()


@pytest.mark.skipif(os.name != "posix", reason="the name of the device")
def test_csv_to_a_device():
    trained(callbacks=[CSVLogger(os.devnull)])


def test_csv_stays_the_file_that_was_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "log.csv").write_text("old\n")
    trained(callbacks=[lambda training: os.chdir(tmp_path / "elsewhere"), CSVLogger("log.csv")])
    assert (tmp_path / "log.csv").read_text().startswith("epoch,loss,")
