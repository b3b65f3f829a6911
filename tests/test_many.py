"""train_many(): the bits of each alone, what each is given, how it ends, and what it refuses."""

import _thread
import pickle
import re
import signal
import threading

import numpy as np
import pytest

import fastbp
from fastbp import SGD, Adam, many, turns
from fastbp.cpu import cache
from tests.samples import draw_inputs, draw_targets, make_network


@pytest.fixture(autouse=True)
def several_threads(monkeypatch):
    """For networks that are too small for them."""
    monkeypatch.setattr(many, "SECONDS_OF_PYTHON", 1e-9)


X, Y = draw_inputs(40, 3), draw_targets("mean_squared_error", 40, 2)


def make(n, *sizes, dtype="float64"):
    return [make_network([3, *sizes, 2], dtype=dtype) for _ in range(n)]


def bits(networks, histories):
    return [
        (network.parameters.tobytes(), history.loss, history.validation_loss)
        for network, history in zip(networks, histories, strict=True)
    ]


def alone(networks, x, y, *options, **shared):
    each = options or ({},) * len(networks)
    pairs = zip(networks, each, strict=True)
    return bits(networks, [fastbp.train(n, x, y, threads=1, **shared, **own) for n, own in pairs])


@pytest.mark.parametrize("threads", [1, 3])
def test_options_of_each_and_the_bits_of_each_alone(threads):
    options = dict(
        epochs=[3, 1, 2, 5], optimizer=("sgd", Adam(0.1), SGD(0.1, momentum=0.9), "sgd"), seed=range(4),
        batch_size=np.array([7, 40, 1, 7]), validation=[None, 0.2, (X[:5], Y[:5]), 0.2],
    )  # fmt: skip
    each = [dict(zip(options, values)) for values in zip(*options.values())]
    each = [{**one, "batch_size": int(one["batch_size"])} for one in each]

    def networks():
        return [*make(1, 4), *make(1, 5), *make(2, 4, 4)]

    expected = alone(networks(), X, Y, *each)
    trained = networks()
    assert bits(trained, fastbp.train_many(trained, X, Y, threads=threads, **options)) == expected


def test_a_plan_is_used_again_and_forgets():
    networks, how = make(6, 4), dict(epochs=2, optimizer=Adam(0.1))
    for scale, network in enumerate(networks):
        network.parameters[:] *= scale
    expected = alone(pickle.loads(pickle.dumps(networks)), X, Y, **how)
    assert bits(networks, fastbp.train_many(networks, X, Y, threads=2, **how)) == expected


def test_a_plan_that_was_left_in_the_middle_of_an_epoch_is_used_again():
    expected = alone(make(1, 4), X, Y, epochs=2, batch_size=7)
    networks, y = make(2, 4), Y.copy()
    y[9] = 1e300
    with pytest.raises(fastbp.DivergenceError, match=r"network 0: .* \(step 2\)") as caught:
        fastbp.train_many(networks, X, [y, Y], epochs=2, batch_size=7, shuffle=[False, True], threads=1)
    assert bits(networks[1:], caught.value.histories[1:]) == expected


def test_data_of_each_and_shared_data_are_checked_once(monkeypatch):
    checked = []
    check = fastbp.Network.check_data
    monkeypatch.setattr(
        fastbp.Network, "check_data", lambda *data, **how: checked.append(len(data[1])) or check(*data, **how)
    )
    expected = alone(make(1, 4), X, Y) + alone(make(1, 4), X[:9], -Y[:9])
    checked.clear()
    networks = make(2, 4)
    assert bits(networks, fastbp.train_many(networks, [X, X[:9]], [Y, -Y[:9]])) == expected
    checked.clear()
    fastbp.train_many(make(5, 4), X.tolist(), Y.tolist())
    assert len(checked) == 2, "once as it is given, once in the form that kernels take"


def test_shared_rows_are_cut_as_each_wants_them():
    x = np.arange(120, dtype=np.uint8).reshape(40, 3)
    how = dict(validation=(x[:9], Y[:9]), sample_weight=np.arange(40.0))
    options = dict(batch_size=[7, 7, 40, 5], epochs=[None, 3, 2, 4])
    each = [dict(zip(options, values)) for values in zip(*options.values())]

    def networks():
        return [fastbp.Network([3, 4, 2], input_scale=1 / 255, dtype="float64", seed=i) for i in range(4)]

    expected = alone(networks(), x, Y, *each, **how)
    trained = networks()
    assert bits(trained, fastbp.train_many(trained, x, Y, threads=3, **how, **options)) == expected
    jobs = many._jobs(trained, many._for_each(x, Y, {**how, **options}, 4))
    assert [(job.epochs, job.data.steps) for job in jobs] == [(10, 6), (3, 6), (2, 1), (4, 8)]
    assert all(job.data.x is x and job.data.weights is jobs[0].data.weights for job in jobs)


@pytest.mark.parametrize(
    ("dtypes", "shuffle"),
    [(("float64", "float64"), (True, False)), (("float64", "float32"), (True, True))],
)
def test_data_are_not_shared_by_networks_that_take_them_in_other_ways(dtypes, shuffle):
    def networks():
        return [network for dtype in dtypes for network in make(1, 4, dtype=dtype)]

    expected = alone(networks(), X, Y, *(dict(shuffle=each) for each in shuffle), epochs=2)
    trained = networks()
    assert bits(trained, fastbp.train_many(trained, X, Y, epochs=2, shuffle=list(shuffle))) == expected


def test_early_stopping_metrics_and_weights():
    how = dict(
        epochs=30, validation=(X[:9], Y[:9]), early_stopping=fastbp.EarlyStopping(2), metrics=["r2"],
        optimizer=SGD(0.5), sample_weight=np.arange(40.0),
    )  # fmt: skip
    expected = alone(make(3, 4), X, Y, **how)
    networks = make(3, 4)
    histories = fastbp.train_many(networks, X, Y, **how)
    assert bits(networks, histories) == expected
    assert all(len(history.metrics["r2"]) == len(history) for history in histories)
    unweighted = many._for_each(X, Y, dict(sample_weight=[None] * 3), 3)
    assert all(each["sample_weight"] is None for each in unweighted)
    stops = {id(each["early_stopping"]) for each in many._for_each(X, Y, how, 3)}
    assert len(stops | {id(how["early_stopping"])}) == 4, "each watches for itself"


def test_a_function_is_called_for_all():
    seen = []
    networks = make(3, 4)
    fastbp.train_many(networks, X, Y, epochs=2, callbacks=[lambda training: seen.append(training.network)])
    assert sorted(map(id, seen)) == sorted(map(id, networks * 2))


def test_kernels_are_loaded_once(monkeypatch):
    load, names = cache._load_or_compile, []
    monkeypatch.setattr(cache, "_loaded", kept := {})
    monkeypatch.setattr(cache, "_load_or_compile", lambda name, *how: names.append(name) or load(name, *how))
    networks = make(4, 4)
    fastbp.train_many(networks, X, Y, threads=4, callbacks=[lambda training: None])
    assert names
    assert len(names) == len(set(names))
    assert len(kept) == len(names)
    many_kernels.append(kept)


many_kernels = []  # the code of those must live on: plans may have its addresses


def test_an_error_names_its_network_and_leaves_the_others_trained():
    networks, (plain,) = make(4, 4), make(1, 4)
    expected = alone([plain], X, Y, epochs=3)
    start = networks[1].parameters.copy()

    def fail(training):
        if training.network is networks[3]:
            raise KeyError("three")

    how = dict(epochs=3, optimizer=["sgd", SGD(1e300), "sgd", "sgd"], callbacks=[fail])
    with pytest.raises(fastbp.DivergenceError, match=r"^network 1: training diverged in epoch 1") as caught:
        fastbp.train_many(networks, X, Y, **how)
    error = caught.value
    assert (error.network, list(error.errors)) == (1, [1, 3])
    assert [len(history) for history in error.histories] == [3, 0, 3, 1]
    assert np.array_equal(networks[1].parameters, start)
    for i in (0, 2):
        assert bits(networks[i : i + 1], error.histories[i : i + 1]) == expected


def test_interrupt():
    networks = make(4, 4)
    start = networks[0].parameters.copy()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.4, _thread.interrupt_main)
    timer.start()
    how = dict(batch_size=40, shuffle=False, optimizer=SGD(1e-4))
    try:
        histories = fastbp.train_many(networks, X, Y, epochs=[1, 10**8, 10**8, 10**7], threads=2, **how)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert [history.interrupted for history in histories] == [True] * 4
    assert [len(history) > 0 for history in histories] == [False, True, True, False]
    assert np.array_equal(networks[0].parameters, start)
    again = make(1, 4)
    assert alone(again, X, Y, epochs=len(histories[1]), **how) == bits(networks[1:2], histories[1:2])


def test_lbfgs():
    pytest.importorskip("scipy")
    expected = alone(make(2, 4), X, Y, optimizer=fastbp.LBFGS(), epochs=5)
    networks = make(2, 4)
    assert bits(networks, fastbp.train_many(networks, X, Y, optimizer=fastbp.LBFGS(), epochs=5)) == expected


def test_checkpoints_within_an_epoch(tmp_path, monkeypatch):
    x, y = np.tile(X, (2500, 1)), np.tile(Y, (2500, 1))
    how = dict(epochs=1, batch_size=1, optimizer=Adam(0.001))
    expected = alone(make(2, 4), x, y, **how)
    monkeypatch.setattr("fastbp.interrupts.POLL_SECONDS", 0.001)
    monkeypatch.setattr(fastbp.Checkpoints, "is_late", lambda checkpoints: True)
    kept = [fastbp.Checkpoints(tmp_path / name, seconds=1, keep=10**6) for name in "ab"]
    networks = make(2, 4)
    assert bits(networks, fastbp.train_many(networks, x, y, checkpoints=kept, **how)) == expected
    resume = [sorted((tmp_path / name).glob("*.step-*"))[0] for name in "ab"]
    again = make(2, 4)
    assert bits(again, fastbp.train_many(again, x, y, resume=resume, **how)) == expected


@pytest.mark.parametrize("drawn", [None, 0.2], ids=["all rows", "rows drawn"])
def test_a_checkpoint_that_does_not_fit_is_found_before_any_work(tmp_path, drawn):
    networks, how = make(3, 4), dict(epochs=2, batch_size=8, validation=drawn)
    kept = [fastbp.Checkpoints(tmp_path / name, every=1) for name in "abc"]
    fastbp.train_many(networks, X, Y, checkpoints=kept, **how)
    resume = [tmp_path / name for name in "abc"]
    again = make(3, 4)
    start, how = [network.parameters.copy() for network in again], how | dict(epochs=4, resume=resume)
    for message, bad in [
        ("the data are others", dict(y=[Y, Y, -Y])),
        ("the batch size was 8; got 7", dict(batch_size=[8, 8, 7])),
        (r"the optimizer was SGD\(", dict(optimizer=["sgd", "sgd", "adam"])),
        ("the validation rows are others", dict(validation=[drawn, drawn, (X[:5], Y[:5])])),
    ]:
        message = rf"^network 2: {re.escape(str(tmp_path / 'c'))}.* cannot be resumed: {message}"
        options = {"y": Y, **how, **bad}
        if drawn and "validation" in bad:
            message = r"^network 2: .* cannot be resumed: the number of rows was 32; got 40"
        with pytest.raises(ValueError, match=message):
            fastbp.train_many(again, X, **options)
        assert all(map(np.array_equal, start, (network.parameters for network in again)))
    expected = alone(make(3, 4), X, Y, epochs=4, batch_size=8, validation=drawn)
    assert bits(again, fastbp.train_many(again, X, Y, **how)) == expected


def test_progress(capfd):
    fastbp.train_many(make(3, 4), X, Y, epochs=2, progress=True)
    shown = capfd.readouterr().err
    assert "networks=3/3" in shown
    assert "| 240/240 [" in shown


def test_what_is_refused(tmp_path):
    networks = make(2, 4)
    start = [network.parameters.copy() for network in networks]
    logger = fastbp.CSVLogger(tmp_path / "log.csv")
    warm = SGD(0.1, schedule=fastbp.schedules.Cosine(warmup=9))
    for error, message, bad in [
        (TypeError, "unknown option 'optimiser': did you mean 'optimizer'", dict(optimiser="sgd")),
        (TypeError, "verbose= is for one network", dict(verbose=True)),
        (ValueError, "epochs has a list of 3 values, but there are 2 networks", dict(epochs=[1, 2, 3])),
        (ValueError, "network 1: epochs must be an integer at least 1", dict(epochs=[1, 0])),
        (ValueError, "threads must be", dict(threads=0)),
        (ValueError, "unknown device", dict(device="gpu")),
        (ValueError, "network 0: metrics are measured on validation rows", dict(metrics=["r2"])),
        (ValueError, "a CSVLogger keeps what it knows of one training", dict(callbacks=[logger])),
        (
            ValueError,
            "two callbacks would write to",
            dict(checkpoints=[fastbp.Checkpoints(tmp_path) for _ in "ab"]),
        ),
        (
            ValueError,
            "two callbacks would write to",
            dict(callbacks=[[fastbp.Checkpoints(tmp_path)] for _ in "ab"]),
        ),
        (
            ValueError,
            "two callbacks would write to",
            dict(callbacks=[[fastbp.CSVLogger(tmp_path / "a")] for _ in "ab"]),
        ),
        (OSError, "network 1: there is no checkpoint in", dict(resume=[None, str(tmp_path)])),
        (OSError, "network 1: No such file", dict(resume=[None, str(tmp_path / "nowhere")])),
        (ValueError, "x has a list of 3 arrays, but there are 2 networks", dict(x=[X, X, X])),
        (ValueError, "network 1: y must have as many rows as x", dict(y=[Y, Y[:3]])),
        (TypeError, "train_many needs y, the targets of x", dict(x=[(X, Y)], y=None)),
        (TypeError, "train_many needs y, the targets of x", dict(y=[Y, None])),
        (ValueError, "network 0: a warm-up of 9 epochs leaves nothing", dict(epochs=[9, 10], optimizer=warm)),
        (ValueError, "networks must have at least one", dict(networks=[])),
        (TypeError, "networks must be of fastbp.Network; number 1 is 3", dict(networks=[networks[0], 3])),
        (ValueError, "number 0 is there 2 times", dict(networks=networks[:1] * 2)),
    ]:
        with pytest.raises(error, match=message):
            fastbp.train_many(**{"networks": networks, "x": X, "y": Y, **bad})
    assert all(map(np.array_equal, start, (network.parameters for network in networks)))


def test_threads_that_would_wait_for_each_other_are_not_started(monkeypatch):
    monkeypatch.undo()
    tiny, small = (
        [many.Job(net, **many._for_each(X, Y, dict(epochs=e), 1)[0], threads=1, verbose=False)]
        for net, e in ((make(1, 4)[0], 1), (make(1, 4)[0], 10**6))
    )
    assert many._useful_threads(tiny * 9, 4) == 1
    assert many._useful_threads(small * 9, 4) == 4
    assert many._useful_threads(small * 3, 4) == 3


def test_large_plans_are_not_kept(monkeypatch):
    monkeypatch.setattr(turns, "BYTES_TO_FORGET", 0)
    plans = turns.Plans()
    architecture = make(1, 4)[0].architecture
    how = dict(optimizer="momentum")
    assert plans(architecture, "train", 4, 1, **how) is not plans(architecture, "train", 4, 1, **how)


def test_what_failed_survives_pickle():
    """As pools of processes hand it on; among the errors is the error itself."""
    networks = make(2, 4)
    with pytest.raises(fastbp.DivergenceError) as caught:
        fastbp.train_many(networks, X, Y, epochs=3, optimizer=[SGD(0.01), SGD(1e300)])
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert (again.network, again.epoch, again.steps) == (1, caught.value.epoch, caught.value.steps)
    assert again.errors[1] is again
    assert again.histories[0].loss == caught.value.histories[0].loss


def test_ctrl_c_that_comes_too_late_for_any_network_is_told(monkeypatch):
    def ask_late(crew, interrupts):
        run(crew, interrupts)
        interrupts._ask()

    run = turns.Crew._run
    monkeypatch.setattr(turns.Crew, "_run", ask_late)
    histories = fastbp.train_many(make(2, 4), X, Y, epochs=2)
    assert [(len(history), history.interrupted) for history in histories] == [(2, True), (2, True)]
