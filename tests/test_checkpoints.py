"""Checkpoints: a training that was cut off goes on to the very bits; what does not fit is refused."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import fastbp
from fastbp import SGD, Adam, Checkpoints, EarlyStopping, schedules, storage
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.optimizers import BY_NAME
from fastbp.plan import Plan
from fastbp.progress import Bar
from tests.samples import draw_inputs, draw_targets, make_network, pythons_own_handler

X, Y = draw_inputs(40, 3), draw_targets("mean_squared_error", 40, 2)
HELD = draw_inputs(10, 3, seed=5), draw_targets("mean_squared_error", 10, 2, seed=5)


def network(**how):
    return make_network([3, 4, 2], **dict(dtype="float64") | how)


def trained(net=None, x=X, y=Y, **how):
    net = network() if net is None else net
    return net, fastbp.train(net, x, y, **dict(epochs=9, batch_size=7, optimizer=Adam(0.02)) | how)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def same(first, second):
    """Whether two (network, history) agree in all that is not time."""
    (net, history), (other, theirs) = first, second
    assert net.parameters.tobytes() == other.parameters.tobytes()
    for name in ("loss", "validation_loss", "metrics", "learning_rate", "stopped", "best_epoch"):
        assert getattr(history, name) == getattr(theirs, name), name
    return True


# To the very bits


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, momentum=0.9, dampening=0.3), Adam(0.02)], ids=repr)
@pytest.mark.parametrize("threads", [(1, 1), (1, 2), (2, 1)], ids=str)
def test_resumed_equals_uninterrupted(optimizer, threads, tmp_path):
    before, after = threads
    whole = trained(optimizer=optimizer)
    trained(epochs=4, optimizer=optimizer, threads=before, checkpoints=Checkpoints(tmp_path, every=2))
    assert files(tmp_path) == ["best.safetensors", "epoch-00000002.safetensors", "epoch-00000004.safetensors"]
    assert same(trained(optimizer=optimizer, threads=after, resume=tmp_path), whole)
    one = tmp_path / "epoch-00000002.safetensors"
    assert same(trained(network(seed=9), optimizer=optimizer, threads=after, resume=str(one)), whole)


@pytest.mark.parametrize(
    ("sizes", "rows", "how"),
    [
        ([4, 32, 16, 4], 600, dict(batch_size=300)),  # gradients summed in chunks
        ([300, 70, 3], 20, dict(batch_size=8, threads=2)),  # the first layer split by columns
        ([300, 70, 3], 20, dict(batch_size=8, materialise=True)),
    ],
)
def test_layouts_of_the_arena(sizes, rows, how, tmp_path):
    x, y = draw_inputs(rows, sizes[0]), draw_targets("mean_squared_error", rows, sizes[-1])
    how = dict(optimizer=Adam(0.01), x=x, y=y) | how

    def start():
        return make_network(sizes, dtype="float32")

    whole = trained(start(), epochs=5, **how)
    trained(start(), epochs=3, checkpoints=Checkpoints(tmp_path, every=3), **how)
    assert same(trained(start(), epochs=5, resume=tmp_path, **how), whole)


def every_optimizer():
    """One with each row of the table of formulas, and each way for the rate to change."""
    yield from (kind(0.01) for kind in BY_NAME.values() if kind is not fastbp.LBFGS)
    yield from (SGD(0.1, momentum=0.9), SGD(0.1, momentum=0.9, nesterov=True), Adam(0.01, amsgrad=True))
    yield from (fastbp.RMSprop(0.01, centered=True), fastbp.RMSprop(0.01, centered=True, momentum=0.5))
    yield fastbp.RMSprop(0.01, momentum=0.5)
    yield Adam(0.01, schedule=schedules.Step(2, gamma=0.5, warmup=2))
    yield fastbp.NAdam(0.01, schedule=schedules.Exponential(0.99, per="step", warmup=9))
    yield SGD(0.1, momentum=0.9, layers={0: {"learning_rate": 0.03}, "layer1": {"weight_decay": 0.1}},
              schedule=schedules.ReduceOnPlateau(patience=0, threshold=0.02, cooldown=1))  # fmt: skip


OPTIMIZERS_BY_TEXT = {repr(optimizer): optimizer for optimizer in every_optimizer()}


def test_every_formula_is_resumed():
    assert {optimizer.formula for optimizer in OPTIMIZERS_BY_TEXT.values()} == set(OPTIMIZERS)


@pytest.mark.parametrize("optimizer", OPTIMIZERS_BY_TEXT.values(), ids=OPTIMIZERS_BY_TEXT)
def test_every_optimizer_is_resumed(optimizer, tmp_path):
    whole = trained(optimizer=optimizer)
    trained(epochs=3, optimizer=optimizer, checkpoints=Checkpoints(tmp_path, every=3))
    assert same(trained(optimizer=optimizer, threads=2, resume=tmp_path), whole)


def test_a_schedule_that_fills_the_training_is_of_its_length(tmp_path):
    optimizer = SGD(0.1, schedule=schedules.Cosine())
    trained(epochs=3, optimizer=optimizer, checkpoints=Checkpoints(tmp_path, every=3))
    with pytest.raises(ValueError, match="the schedule was laid out for another number of epochs"):
        trained(epochs=9, optimizer=optimizer, resume=tmp_path)


def test_states_come_back_as_they_went():
    net = make_network([5, 50, 3], dtype="float32")
    plan = Plan(net.architecture, "train", 8, optimizer="adam")
    plan.pack(net.parameters)
    assert not plan.states().any()
    before = plan.layout.arena.copy()
    plan.set_states(plan.states())
    assert np.array_equal(plan.layout.arena, before), "transposes of the weights stay"
    states = np.random.default_rng(0).normal(size=(2, net.parameters.size)).astype(np.float32)
    plan.set_states(states)
    assert np.array_equal(plan.states(), states)
    unpacked = np.empty_like(net.parameters)
    plan.unpack(unpacked)
    assert np.array_equal(unpacked, net.parameters)
    assert Plan(net.architecture, "train", 8, optimizer="sgd").states().shape == (0, net.parameters.size)


def test_everything_at_once(tmp_path):
    def options(values):
        return dict(
            validation=0.25, metrics=["r2"], early_stopping=EarlyStopping(3, monitor="r2", min_delta=0.05),
            callbacks=[lambda training: values.append(training.epoch)], seed=77, epochs=60,
        )  # fmt: skip

    seen = []
    whole = trained(**options(seen))
    assert whole[1].stopped
    assert whole[1].best_epoch < len(whole[1]) < 60
    for cut in (1, 2, len(whole[1]) - 1, len(whole[1])):
        folder, seen = tmp_path / str(cut), []
        trained(**options([]) | dict(epochs=cut, checkpoints=Checkpoints(folder, every=1)))
        assert same(trained(**options(seen) | dict(resume=folder)), whole)
        assert seen == list(range(cut + 1, len(whole[1]) + 1))


@pytest.mark.parametrize("schedule", [None, schedules.Cosine(4, minimum=0.01)])
def test_a_learning_rate_that_was_set_is_kept(schedule, tmp_path):
    def halve(training):
        if training.epoch < 5:
            training.learning_rate /= 2

    how = dict(optimizer=Adam(0.02, schedule=schedule), callbacks=[halve])
    whole = trained(**how)
    trained(**how | dict(epochs=5), checkpoints=Checkpoints(tmp_path, every=1))
    assert same(trained(**how, resume=tmp_path), whole)


def test_csv_of_a_resumed_training_has_every_epoch(tmp_path):
    trained(epochs=4, checkpoints=Checkpoints(tmp_path / "c", every=3))
    _, history = trained(
        resume=tmp_path / "c" / "epoch-00000003.safetensors", callbacks=[fastbp.CSVLogger(tmp_path / "a.csv")]
    )
    rows = (tmp_path / "a.csv").read_text().splitlines()[1:]
    assert [float(row.split(",")[1]) for row in rows] == history.loss


def test_csv_of_a_training_that_had_ended_has_every_epoch(tmp_path):
    trained(epochs=3, checkpoints=Checkpoints(tmp_path / "c", every=1))
    trained(epochs=3, resume=tmp_path / "c", callbacks=[fastbp.CSVLogger(tmp_path / "a.csv")])
    rows = (tmp_path / "a.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3"]


def test_a_finished_training_has_nothing_to_resume(tmp_path):
    net, history = trained(checkpoints=Checkpoints(tmp_path, every=9))
    assert same(trained(resume=tmp_path), (net, history))
    assert same(trained(epochs=3, resume=tmp_path), (net, history))


@hypothesis.settings(
    max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    rows=st.integers(2, 60),
    batch_size=st.integers(1, 60) | st.none(),
    optimizer=st.sampled_from([SGD(0.01), SGD(0.01, momentum=0.9, nesterov=True), Adam(0.01)]),
    threads=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    materialise=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    shuffle=st.booleans(),
    validation=st.sampled_from([None, 0.3]),
    cuts=st.lists(st.integers(1, 6), min_size=2, max_size=2),
    seed=st.integers(0, 2**64 - 1),
)
def test_no_combination_changes_a_bit(
    sizes, rows, batch_size, optimizer, threads, materialise, shuffle, validation, cuts, seed
):
    x, y = draw_inputs(rows, sizes[0]), draw_targets("mean_squared_error", rows, sizes[-1])
    first, second = sorted(cuts)

    def run(epochs, part, **more):
        return trained(
            make_network(sizes, dtype="float64"), x, y, epochs=epochs, batch_size=batch_size, seed=seed,
            optimizer=optimizer, threads=threads[part], materialise=materialise[part], shuffle=shuffle,
            validation=validation, **more,
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        run(first, 0, checkpoints=Checkpoints(folder))
        run(second, 1, checkpoints=Checkpoints(folder, every=1), resume=folder)
        assert same(run(7, 2, resume=folder), run(7, 0))


# Within an epoch


def test_weights_are_looked_at_before_they_are_written_within_an_epoch(tmp_path):
    net = fastbp.Network([1, 1], dtype="float32", seed=0)
    before = net.parameters.copy()
    with pytest.raises(
        fastbp.DivergenceError, match=r"epoch 1 \(step 1\): a weight became infinite"
    ) as caught:
        fastbp.train(net, [[1e5]] * 4, [1.0] * 4, epochs=1, batch_size=1, optimizer=SGD(1e38),
                     checkpoints=Checkpoints(tmp_path, steps=1))  # fmt: skip
    assert caught.value.steps == (1, 1)
    assert np.array_equal(net.parameters, before)
    assert not files(tmp_path)


@pytest.mark.parametrize("threads", [(1, 1), (1, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), every_optimizer], ids=["SGD", "schedules"])
def test_resumed_within_an_epoch(optimizer, threads, tmp_path):
    """Nine epochs of six steps: checkpoints within the first one, later ones, and at an end."""
    optimizers = [optimizer] if optimizer is not every_optimizer else list(every_optimizer())[-3:]
    for number, optimizer in enumerate(optimizers):
        folder, how = tmp_path / str(number), dict(optimizer=optimizer, validation=HELD, metrics=["r2"])
        whole = trained(**how)
        kept = trained(threads=threads[0], checkpoints=Checkpoints(folder, steps=4, keep=99), **how)
        assert same(kept, whole)
        names = files(folder)
        assert len([name for name in names if name.startswith("epoch-")]) == 14
        for name in ("epoch-00000000.step-00000004", "epoch-00000001.step-00000002", "epoch-00000002",
                     "epoch-00000008.step-00000004"):  # fmt: skip
            assert f"{name}.safetensors" in names
            resume = folder / f"{name}.safetensors"
            assert same(trained(network(seed=9), threads=threads[1], resume=resume, **how), whole)


def test_epochs_do_not_run_past_callbacks_for_a_checkpoint_by_steps(tmp_path):
    def weights_seen(**how):
        seen = []
        trained(callbacks=[lambda training: seen.append(training.network.parameters.tobytes())], **how)
        return seen

    assert weights_seen(checkpoints=Checkpoints(tmp_path, steps=5 * 6)) == weights_seen()


def test_epochs_do_not_run_past_a_plateau_for_a_checkpoint_by_steps(tmp_path):
    optimizer = SGD(0.1, schedule=schedules.ReduceOnPlateau(patience=0, threshold=0.5))
    kept = trained(optimizer=optimizer, checkpoints=Checkpoints(tmp_path, steps=5 * 6))
    assert same(kept, trained(optimizer=optimizer))


LONG = draw_inputs(40_000, 3), draw_targets("mean_squared_error", 40_000, 2)  # 20 000 steps of two rows


def test_long_epochs_are_kept_by_the_time(tmp_path, monkeypatch):
    how = dict(x=LONG[0], y=LONG[1], batch_size=2, epochs=2, validation=HELD, optimizer=Adam(0.001))
    whole = trained(**how)
    monkeypatch.setattr("fastbp.interrupts.POLL_SECONDS", 0.001)
    assert same(trained(**how, checkpoints=Checkpoints(tmp_path, seconds=0.002, keep=10**6)), whole)
    within = [name for name in files(tmp_path) if ".step-" in name]
    assert within
    for name in (within[0], within[len(within) // 2], within[-1]):
        assert same(trained(**how, resume=tmp_path / name), whole)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_checkpoint_waits_for_the_end_of_a_long_step(threads, tmp_path, monkeypatch):
    """Only Ctrl-C gives it up; else it would be begun, and given up, for ever."""
    monkeypatch.setattr("fastbp.division.WORK_TO_GIVE_UP", 0)
    how = dict(x=LONG[0], y=LONG[1], batch_size=None, epochs=3, threads=threads)
    whole = trained(**how)
    monkeypatch.setattr("fastbp.interrupts.POLL_SECONDS", 1e-5)
    monkeypatch.setattr("fastbp.training.SECONDS_PER_CALL", 0.0)  # no epochs together
    monkeypatch.setattr("fastbp.training.SECONDS_INLINE", 0.0)
    monkeypatch.setattr(Checkpoints, "is_late", lambda checkpoints: True)
    team, calls = Plan.team, []
    monkeypatch.setattr(Plan, "team", lambda plan: calls.append(1) or team(plan))
    assert same(trained(**how, checkpoints=Checkpoints(tmp_path, seconds=1, keep=10)), whole)
    assert len(calls) == len([name for name in files(tmp_path) if name.startswith("epoch-")]) == 3


@pytest.mark.parametrize("threads", [1, 2])
def test_gone_on_after_an_interrupt_in_the_middle_of_an_epoch(threads, tmp_path, monkeypatch):
    monkeypatch.setattr("fastbp.interrupts.POLL_SECONDS", 0.001)
    how = dict(x=LONG[0], y=LONG[1], batch_size=2, epochs=4, optimizer=Adam(0.001), threads=threads)
    whole = trained(**how)
    show = Bar.show

    def show_and_interrupt(bar, rows, history=None):
        show(bar, rows, history)
        if rows % len(LONG[0]) and not history:  # called while the program runs
            signal.raise_signal(signal.SIGINT)
            monkeypatch.setattr(Bar, "show", show)

    with pythons_own_handler():
        monkeypatch.setattr(Bar, "show", show_and_interrupt)
        net, history = trained(**how, checkpoints=Checkpoints(tmp_path))
    assert history.interrupted
    assert len(history) < 4
    newest = files(tmp_path)[-1]
    assert ".step-" in newest
    assert fastbp.load(tmp_path / newest).parameters.tobytes() == net.parameters.tobytes()
    assert same(trained(**how, resume=tmp_path), whole)


def test_the_sum_of_the_epoch_begun_is_kept_where_several_ran_in_a_call(tmp_path, monkeypatch):
    def run_and_interrupt(interrupts, *rest):
        """As if Ctrl-C had come in the third of the epochs, with 12 of its rows left."""
        interrupts._plan.set(last_epoch=3, rest=12)
        interrupts._plan.run()
        interrupts.asked = True

    with monkeypatch.context() as patch:
        patch.setattr("fastbp.interrupts.Interrupts.run", run_and_interrupt)
        _, history = trained(checkpoints=Checkpoints(tmp_path))
    assert (len(history), history.interrupted) == (2, True)
    assert files(tmp_path)[-1] == "epoch-00000002.step-00000004.safetensors"
    assert same(trained(resume=tmp_path), trained())


def test_what_was_interrupted_is_not_kept_if_it_is_not_finite(tmp_path, monkeypatch):
    run = Plan.run

    def run_and_interrupt(plan):
        run(plan)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Plan, "run", run_and_interrupt)
    with pythons_own_handler():
        net = fastbp.Network([1, 1], dtype="float32", seed=0)
        history = fastbp.train(net, [[1e5]], [[1.0]], epochs=1, optimizer=SGD(1e38),
                               checkpoints=Checkpoints(tmp_path))  # fmt: skip
    assert history.interrupted
    assert not np.isfinite(net.parameters).all()
    assert not files(tmp_path)


CHILD = """
import sys
import fastbp
from tests.test_checkpoints import X, Y, network
def tell(training):
    print(training.epoch, flush=True)
fastbp.train(network(), X, Y, epochs=10**6, batch_size=7, optimizer=fastbp.Adam(0.02), callbacks=[tell],
             checkpoints=fastbp.Checkpoints(sys.argv[1], every=3), threads=2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_at_any_time(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    for line in child.stdout:
        if int(line) >= 20:
            break
    time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    done = max(int(name[6:14]) for name in files(tmp_path) if name.startswith("epoch-"))
    assert done >= 18
    assert same(trained(epochs=done + 20, resume=tmp_path), trained(epochs=done + 20))


# Files


def test_a_checkpoint_is_a_network(tmp_path):
    net, _ = trained(epochs=4, checkpoints=Checkpoints(tmp_path, every=4))
    assert (
        fastbp.load(tmp_path / "epoch-00000004.safetensors").parameters.tobytes() == net.parameters.tobytes()
    )


@pytest.mark.parametrize("links", [True, False])
def test_the_newest_and_the_best_are_kept(links, tmp_path, monkeypatch):
    if not links:

        def no_links(*paths):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)
    values = iter([1, 5, 3, 2, 4, 1, 0, 0, 0])

    def scripted(targets, predictions):
        return next(values)

    weights = []
    trained(
        validation=HELD, metrics=[scripted],
        callbacks=[lambda training: weights.append(training.network.parameters.copy())],
        checkpoints=Checkpoints(tmp_path, every=1, keep=2, monitor="scripted", mode="max"),
    )  # fmt: skip
    assert files(tmp_path) == ["best.safetensors", "epoch-00000008.safetensors", "epoch-00000009.safetensors"]
    assert np.array_equal(fastbp.load(tmp_path / "best.safetensors").parameters, weights[1])
    assert np.array_equal(fastbp.load(tmp_path / "epoch-00000008.safetensors").parameters, weights[7])


def test_keeping_goes_on_after_a_resume(tmp_path):
    trained(epochs=4, checkpoints=Checkpoints(tmp_path, every=1, keep=2))
    trained(epochs=7, resume=tmp_path, checkpoints=Checkpoints(tmp_path, every=1, keep=2))
    assert files(tmp_path) == ["best.safetensors", "epoch-00000006.safetensors", "epoch-00000007.safetensors"]


def test_a_checkpoint_in_the_working_directory_is_gone_on_from_by_its_name_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained(epochs=2, checkpoints=Checkpoints(".", every=2))
    trained(epochs=3, resume="epoch-00000002.safetensors", checkpoints=Checkpoints(".", every=1))
    assert files(tmp_path)[1:] == ["epoch-00000002.safetensors", "epoch-00000003.safetensors"]


def test_the_last_epoch_is_always_written(tmp_path):
    trained(epochs=5, checkpoints=Checkpoints(tmp_path))
    trained(epochs=5, checkpoints=Checkpoints(tmp_path / "b", every=2))
    assert files(tmp_path) == ["b", "best.safetensors", "epoch-00000005.safetensors"]
    assert files(tmp_path / "b")[-1] == "epoch-00000005.safetensors"


def test_a_training_that_failed_is_not_written_at_its_end(tmp_path):
    """A callback that did not come to its end may have left its state half changed."""

    def fails(training):
        if training.epoch == 3:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trained(callbacks=[fails], checkpoints=Checkpoints(tmp_path, every=99))
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("how", "seconds"),
    [(dict(), 60), (dict(every=5), None), (dict(steps=5), None), (dict(steps=5, seconds=9), 9)],
)
def test_one_is_written_each_minute_where_nobody_says_how_often(how, seconds):
    assert Checkpoints("somewhere", **how).seconds == seconds


def test_every_so_many_seconds(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr("fastbp.checkpoints.time.monotonic", lambda: next(clock))
    trained(epochs=9, validation=HELD, checkpoints=Checkpoints(tmp_path, seconds=8, keep=9))
    # Looks at the clock at the start, after each epoch, and after each checkpoint.
    assert files(tmp_path) == [
        "best.safetensors", *(f"epoch-{epoch:08d}.safetensors" for epoch in (3, 6, 9))
    ]  # fmt: skip


def test_short_epochs_that_run_together_are_written_at_their_end(tmp_path):
    checkpoints = Checkpoints(tmp_path, seconds=1e-9, keep=10**6)
    _, history = trained(epochs=300, checkpoints=checkpoints)
    epochs = [int(name[6:14]) for name in files(tmp_path)[1:]]
    assert epochs[-1] == 300
    for epoch in epochs[:: max(1, len(epochs) // 3)]:
        whole = trained(epochs=epoch)
        kept = fastbp.load(tmp_path / f"epoch-{epoch:08d}.safetensors")
        assert kept.parameters.tobytes() == whole[0].parameters.tobytes()
        assert same(trained(epochs=300, resume=tmp_path / f"epoch-{epoch:08d}.safetensors"), (
            trained(epochs=300)[0], history
        ))  # fmt: skip


def test_a_folder_of_another_training_is_not_mixed_in(tmp_path):
    trained(epochs=2, checkpoints=Checkpoints(tmp_path, every=1))
    net = network()
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="has checkpoints of another training: resume it"):
        trained(net, checkpoints=Checkpoints(tmp_path, every=1))
    assert np.array_equal(net.parameters, before)
    trained(epochs=1, checkpoints=Checkpoints(tmp_path, every=1, overwrite=True))
    assert files(tmp_path) == ["best.safetensors", "epoch-00000001.safetensors"]


def test_a_write_that_fails_comes_out_and_leaves_older_files_whole(tmp_path, monkeypatch):
    trained(epochs=2, checkpoints=Checkpoints(tmp_path, every=1))
    before = files(tmp_path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        trained(resume=tmp_path, checkpoints=Checkpoints(tmp_path, every=1))
    assert files(tmp_path) == before
    monkeypatch.undo()
    assert same(trained(resume=tmp_path), trained())


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(fastbp.DivergenceError):
        trained(x=100 * X, y=100 * Y, epochs=500, optimizer=SGD(10.0),
                checkpoints=Checkpoints(tmp_path, seconds=1e-9, keep=1000))  # fmt: skip
    for name in files(tmp_path):
        assert np.isfinite(fastbp.load(tmp_path / name).parameters).all()


def test_weights_that_were_not_looked_at_are_before_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("fastbp.training.SHARE_OF_LOOKS", -1.0)
    net = fastbp.Network([1, 1], dtype="float32", seed=0)
    with pytest.raises(fastbp.DivergenceError, match="a weight became infinite"):
        fastbp.train(net, [[1e5]], [[1.0]], epochs=1, optimizer=SGD(1e38),
                     checkpoints=Checkpoints(tmp_path, seconds=1e-9))  # fmt: skip
    assert files(tmp_path) == []


# What does not fit


REFUSED = [
    (dict(net=network(seed=2), seed=3), "the seed was 1; got 3"),
    (dict(x=X + 1e-9), "the data are others"),
    (dict(y=Y * 2), "the data are others"),
    (dict(x=X[:-1], y=Y[:-1]), "the number of rows was 40; got 39"),
    (dict(batch_size=8), "the batch size was 7; got 8"),
    (dict(shuffle=False), "the shuffle was True; got False"),
    (dict(optimizer=Adam(0.03)), r"the optimizer was Adam\(learning_rate=0.02.*got Adam\(learning_rate=0.03"),
    (dict(optimizer=SGD(0.02)), r"the optimizer was Adam.*got SGD"),
    (dict(validation=HELD), "the validation rows are others"),
    (dict(net=network(dtype="float32")), "another network: its dtype is float64; got float32"),
    (dict(net=make_network([3, 5, 2], dtype="float64")), r"another network: its layers are Dense\(4"),
    (dict(net=make_network([3, 4, 2], "relu", dtype="float64")), "another network: its layers are"),
    (dict(net=make_network([3, 4, 2], loss="huber", dtype="float64")), "another network: its loss is"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    trained(epochs=2, checkpoints=Checkpoints(folder, every=2))
    return folder


@pytest.mark.parametrize(("how", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_another_training_is_refused(how, message, written):
    net = how.get("net") or network()
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=message) as caught:
        trained(**dict(net=net) | how | dict(resume=written))
    assert "\n" not in str(caught.value)
    assert np.array_equal(net.parameters, before)


def test_other_metrics_are_refused(tmp_path):
    trained(epochs=2, validation=HELD, metrics=["r2"], checkpoints=Checkpoints(tmp_path, every=1))
    with pytest.raises(ValueError, match=r"the metrics were \['r2'\]; got \['mean_absolute_error'\]"):
        trained(epochs=3, validation=HELD, metrics=["mean_absolute_error"], resume=tmp_path)


def test_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
        trained(resume=tmp_path)
    network().save(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="is not a checkpoint: it holds a network"):
        trained(resume=tmp_path / "net.safetensors")


def test_damaged_files(written, tmp_path):
    path, content = tmp_path / "c.safetensors", (written / "epoch-00000002.safetensors").read_bytes()
    for length in (0, 7, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            trained(resume=path)


def rewritten(written, path, change=None, tensors=None):
    """A checkpoint in which something is another."""
    source = written / "epoch-00000002.safetensors"
    with storage.safe_open(source, framework="numpy") as file:
        metadata = dict(file.metadata())
    described = json.loads(metadata[storage.TRAINING_KEY])
    if change:
        change(described)
    metadata[storage.TRAINING_KEY] = json.dumps(described)
    whole = load_file(source) | (tensors or {})
    save_file({name: each for name, each in whole.items() if each is not None}, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format_version=2), "was written by a newer fastbp"),
        (lambda d: d.pop("epoch"), "is a damaged checkpoint"),
        (lambda d: d.update(epoch=3), "is a damaged checkpoint"),
        (lambda d: d.update(step=None), "is a damaged checkpoint"),
        (lambda d: d.pop("begun"), "is a damaged checkpoint"),
        (lambda d: d["begun"].update(rows=-1), "is a damaged checkpoint"),
        (lambda d: d["begun"].update(rows=40), "is a damaged checkpoint"),
        (lambda d: d["begun"].pop("loss"), "is a damaged checkpoint"),
        (lambda d: d.update(states=3), "is a damaged checkpoint"),
        (lambda d: d.update(identity=7), "is a damaged checkpoint"),
        (lambda d: d.update(settings=["a"]), "is a damaged checkpoint"),
        (lambda d: d.update(settings=[[0.1]]), "is a damaged checkpoint"),
        (lambda d: d.update(states=0), "is a damaged checkpoint"),
        (lambda d: d.update(rates=[[0.1], 1.0, 0, 0]), "is a damaged checkpoint"),
        (lambda d: d.pop("rates"), "is a damaged checkpoint"),
        (lambda d: d["callbacks"][0].pop("arrays"), "is a damaged checkpoint"),
        (lambda d: d["callbacks"][0].update(arrays=["weights"]), "is a damaged checkpoint"),
        (lambda d: d.update(states=10**15), "is a damaged checkpoint"),
        (lambda d: d.update(step=2**63), "is a damaged checkpoint"),
        (lambda d: d["begun"].update(loss=10**400), "is a damaged checkpoint"),
        (lambda d: d.update(settings=[[10**400]]), "is a damaged checkpoint"),
    ],
)
def test_damaged_descriptions(written, tmp_path, change, message):
    net = network()
    with pytest.raises(ValueError, match=message):
        trained(net, resume=rewritten(written, tmp_path / "c.safetensors", change))
    assert net.parameters.tobytes() == network().parameters.tobytes()


WEIGHTS_OF_BEST = "training.callback.0.weights"


@pytest.mark.parametrize(
    ("change", "tensors"),
    [
        (lambda d: d["callbacks"][0]["state"].pop("epoch"), {}),
        (lambda d: d["callbacks"][0]["state"].pop("value"), {}),
        (lambda d: d["callbacks"][0]["state"].update(value="3"), {}),
        (lambda d: d["callbacks"][0]["state"].update(value=float("nan")), {}),
        (lambda d: d["callbacks"][0]["state"].update(epoch=1.5), {}),
        (lambda d: d["callbacks"][0]["state"].update(epoch=3), {}),
        (lambda d: d["callbacks"][1]["state"].update(best=[]), {}),
        (None, {WEIGHTS_OF_BEST: np.zeros(3)}),
        (None, {WEIGHTS_OF_BEST: np.zeros(26, np.float32)}),
        (None, {WEIGHTS_OF_BEST: np.full(26, np.nan)}),
        (None, {"training.history.validation_loss": None}),
        (None, {"training.history.seconds": None}),
        (None, {"training.history.r2": np.zeros(2)}),
        (lambda d: d["settings"][0].__setitem__(1, float("nan")), {}),
        (lambda d: d["settings"][0].__setitem__(0, -1.0), {}),
        (lambda d: d["settings"][0].__setitem__(4, 0.5), {}),
        (lambda d: d.update(step=11), {}),
        (lambda d: d["begun"].update(rows=3), {}),
        (lambda d: d["begun"].update(loss=1.0), {}),
        (None, {"training.history.loss": np.zeros((2, 2))}),
    ],
)
def test_damage_is_found_before_anything_changes(change, tensors, tmp_path):
    stopping = dict(early_stopping=EarlyStopping(3), validation=HELD)
    trained(epochs=2, checkpoints=Checkpoints(tmp_path, every=1), **stopping)
    spoilt = rewritten(tmp_path, tmp_path / "c.safetensors", change, tensors)
    net = network(seed=9)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="is a damaged checkpoint"):
        trained(net, resume=spoilt, checkpoints=Checkpoints(tmp_path), **stopping)
    assert np.array_equal(net.parameters, before)


def test_a_best_value_that_is_infinite_is_no_damage(tmp_path):
    how = dict(optimizer=SGD(1e-4), on_divergence="continue", early_stopping=EarlyStopping(9, monitor="loss"))
    net, y = make_network([3, 2], dtype="float32"), 1e25 * Y
    trained(net, y=y, epochs=2, checkpoints=Checkpoints(tmp_path, every=1), **how)
    _, history = trained(make_network([3, 2], dtype="float32"), y=y, epochs=4, resume=tmp_path, **how)
    assert len(history) == 4
    assert not np.isfinite(history.loss[0])


def test_a_state_of_another_shape(written, tmp_path):
    other = rewritten(written, tmp_path / "c.safetensors", tensors={"training.state.0": np.zeros(3)})
    with pytest.raises(ValueError, match="is a damaged checkpoint"):
        trained(resume=other)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        (dict(every=0), ValueError),
        (dict(every=1.5), TypeError),
        (dict(seconds=0), ValueError),
        (dict(steps=0), ValueError),
        (dict(keep=0), ValueError),
        (dict(overwrite=1), TypeError),
        (dict(monitor=1), TypeError),
        (dict(folder=7), TypeError),
    ],
)
def test_checkpoints_refuse(how, error):
    with pytest.raises(error):
        Checkpoints(**dict(folder="somewhere") | how)


def test_a_resumed_training_mixes_nothing_into_the_folder_of_another(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    trained(epochs=2, checkpoints=Checkpoints(here, every=1))
    trained(network(seed=9), epochs=4, checkpoints=Checkpoints(there, every=1))
    before = {path.name: path.read_bytes() for path in there.iterdir()}
    with pytest.raises(ValueError, match="has checkpoints of another training"):
        trained(epochs=3, resume=here, checkpoints=Checkpoints(there, every=1))
    assert {path.name: path.read_bytes() for path in there.iterdir()} == before
    last, _ = trained(epochs=3, resume=here, checkpoints=Checkpoints(there, every=1, overwrite=True))
    assert files(there) == ["best.safetensors", "epoch-00000003.safetensors"]
    assert np.array_equal(fastbp.load(there / "epoch-00000003.safetensors").parameters, last.parameters)
    assert files(here) == ["best.safetensors", "epoch-00000001.safetensors", "epoch-00000002.safetensors"]


def test_a_training_that_goes_back_does_not_leave_later_checkpoints(tmp_path):
    """They would be taken for the newest."""
    trained(epochs=6, checkpoints=Checkpoints(tmp_path, every=1, keep=4))
    before, older = files(tmp_path), tmp_path / "epoch-00000004.safetensors"

    def slower(training):
        training.learning_rate = 1e-6

    options = dict(epochs=5, resume=older, callbacks=[slower])
    with pytest.raises(ValueError, match="later checkpoints than the one that is resumed, epoch-00000006"):
        trained(**options, checkpoints=Checkpoints(tmp_path, every=1))
    assert files(tmp_path) == before
    last, _ = trained(**options, checkpoints=Checkpoints(tmp_path, every=1, keep=4, overwrite=True))
    assert files(tmp_path)[1:] == [f"epoch-0000000{epoch}.safetensors" for epoch in (3, 4, 5)]
    assert np.array_equal(trained(epochs=5, resume=tmp_path)[0].parameters, last.parameters)


@pytest.mark.parametrize("monitor", ["r2", "validation_loss"])
def test_what_is_watched_anew_begins_anew(monitor, tmp_path):
    """A best loss says nothing of r2, nor is it of use without the weights that are to be given back."""
    options = dict(validation=HELD, metrics=["r2"])
    by_loss = EarlyStopping(5, monitor="validation_loss", restore_best=False)
    trained(epochs=2, early_stopping=by_loss, checkpoints=Checkpoints(tmp_path, every=1), **options)
    stopping = EarlyStopping(3, monitor=monitor, min_delta=1e9)  # so that the first value is the best
    net, history = trained(epochs=40, early_stopping=stopping, resume=tmp_path, **options)
    assert (history.best_epoch, len(history)) == (3, 6)
    assert net.loss(*HELD) == pytest.approx(history.validation_loss[2], rel=1e-12)


def test_what_is_watched_the_other_way_begins_anew(tmp_path):
    """The lowest loss is no highest one, which the next epoch, whose loss is lower, would have to beat."""
    lowest, highest = (EarlyStopping(9, monitor="loss", mode=mode) for mode in ("min", "max"))
    trained(epochs=2, early_stopping=lowest, checkpoints=Checkpoints(tmp_path, every=1))
    _, history = trained(epochs=3, early_stopping=highest, resume=tmp_path)
    assert history.best_epoch == 3


def test_a_checkpoint_removes_nothing_outside_its_folder(written, tmp_path):
    mine, folder = tmp_path / "thesis.txt", tmp_path / "kept"
    mine.write_text("years of work")
    folder.mkdir()

    def change(described):
        for callback in described["callbacks"]:
            callback["state"]["files"] = ["../thesis.txt", str(mine)] * 3

    rewritten(written, folder / "epoch-00000002.safetensors", change)
    trained(resume=folder, checkpoints=Checkpoints(folder, every=1, keep=1))
    assert mine.read_text() == "years of work"


def test_the_best_of_another_folder_is_not_waited_for(tmp_path):
    trained(epochs=3, checkpoints=Checkpoints(tmp_path / "first", every=1, monitor="loss", mode="max"))
    falling = Checkpoints(tmp_path / "second", every=1, monitor="loss", mode="max")
    trained(epochs=5, resume=tmp_path / "first", checkpoints=falling)
    assert "best.safetensors" in files(tmp_path / "second")


def test_a_callback_of_somebody_else_is_not_given_the_state_of_ours(tmp_path):
    trained(epochs=2, early_stopping=fastbp.EarlyStopping(), checkpoints=Checkpoints(tmp_path, every=1))
    given = []

    class EarlyStopping(fastbp.Callback):
        def restore(self, state):
            given.append(state)

    EarlyStopping.__qualname__ = "EarlyStopping"
    trained(epochs=3, resume=tmp_path, callbacks=[EarlyStopping()])
    assert given == []


def test_equal_optimizers_are_one(tmp_path):
    of_layers = {0: dict(learning_rate=0.5, weight_decay=0.25), 1: dict(weight_decay=0.5)}
    turned = {key: dict(reversed(of_layers[key].items())) for key in reversed(of_layers)}
    trained(epochs=2, optimizer=SGD(1, layers=of_layers), checkpoints=Checkpoints(tmp_path, every=1))
    turned[1]["weight_decay"] = 0.5
    assert len(trained(epochs=3, optimizer=SGD(1.0, layers=turned), resume=tmp_path)[1]) == 3
    first, second = (
        Adam(betas=(0, 0.5), layers={0: {"learning_rate": 1}}),
        Adam(betas=[0.0, 0.5], layers={0: {"learning_rate": 1.0}}),
    )
    assert repr(first) == repr(second)


class Keeps(fastbp.Callback):
    def __init__(self, value):
        self.value = value

    def state(self):
        return {"a": self.value}

    def restore(self, state):
        self.value = state["a"]


def test_callbacks_of_one_class_get_each_what_it_kept(tmp_path):
    trained(epochs=2, callbacks=[Keeps(1), Keeps(2)], checkpoints=Checkpoints(tmp_path, every=1))
    first, second = Keeps(None), Keeps(None)
    trained(epochs=3, callbacks=[first, second], resume=tmp_path)
    assert (first.value, second.value) == (1, 2)


def test_a_callbacks_own_error_is_no_sign_of_a_damaged_checkpoint(tmp_path):
    class Fails(Keeps):
        def restore(self, state):
            raise KeyError("mine")

    trained(epochs=2, callbacks=[Fails(1)], checkpoints=Checkpoints(tmp_path, every=1))
    with pytest.raises(KeyError, match="mine"):
        trained(epochs=3, callbacks=[Fails(1)], resume=tmp_path)


def test_numbers_of_numpy_are_kept_and_what_cannot_be_is_named(tmp_path):
    for value in (np.int64(3), np.float32(0.5), np.True_):
        folder, again = tmp_path / repr(value), Keeps(None)
        trained(epochs=1, callbacks=[Keeps(value)], checkpoints=Checkpoints(folder, every=1))
        trained(epochs=2, callbacks=[again], resume=folder)
        assert again.value == value
    with pytest.raises(TypeError, match=r"Keeps.state\(\) must return JSON values or arrays; 'a' is {1}"):
        trained(callbacks=[Keeps({1})], checkpoints=Checkpoints(tmp_path / "set", every=1))


def test_two_checkpoints_need_two_folders(tmp_path):
    with pytest.raises(ValueError, match="two callbacks would write to"):
        trained(callbacks=[Checkpoints(tmp_path / "a" / ".." / "a", every=1), Checkpoints(tmp_path / "a")])
    assert not (tmp_path / "a").exists()


def test_checkpoints_among_callbacks_keep_what_the_others_do_after_them(tmp_path):
    def halve(training):
        training.learning_rate = training.learning_rate / 2

    whole = trained(callbacks=[halve])
    trained(epochs=3, callbacks=[Checkpoints(tmp_path, every=1), halve])
    assert same(trained(callbacks=[halve], resume=tmp_path), whole)


def test_an_array_of_no_dimensions_comes_back_as_one(tmp_path):
    class Keeps(fastbp.Callback):
        found = None

        def state(self):
            return {"a": np.array(3.0)}

        def restore(self, state):
            self.found = state["a"]

    trained(epochs=1, callbacks=[Keeps()], checkpoints=Checkpoints(tmp_path, every=1))
    kept = Keeps()
    trained(epochs=2, callbacks=[kept], resume=tmp_path)
    assert kept.found.shape == ()
    assert kept.found == 3


def test_a_checkpoint_that_is_not_finite_is_not_gone_on_from(tmp_path):
    how = dict(optimizer=SGD(1e200), on_divergence="continue")
    trained(epochs=4, checkpoints=Checkpoints(tmp_path, every=1), **how)
    net = network()
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="cannot be resumed: its weights or states are not all finite"):
        trained(net, resume=tmp_path, optimizer=SGD(1e200))
    assert np.array_equal(net.parameters, before)
    trained(net, resume=tmp_path, **how)


def test_a_sum_of_losses_that_is_not_finite_is_not_gone_on_from(written, tmp_path):
    spoilt = rewritten(
        written, tmp_path / "c.safetensors", lambda d: d["begun"].update(loss=float("nan"), rows=7)
    )
    with pytest.raises(ValueError, match="cannot be resumed: its weights or states are not all finite"):
        trained(resume=spoilt)


def test_layers_that_are_called_like_parts_of_a_checkpoint(tmp_path):
    def net():
        inner = fastbp.Residual([fastbp.Dense(3, name="history")], name="training")
        return fastbp.Network([inner, fastbp.Dense(2)], inputs=3, seed=0, dtype="float64")

    trained(net(), epochs=2, checkpoints=Checkpoints(tmp_path, every=1))
    assert same(trained(net(), resume=tmp_path), trained(net()))


def test_more_patience_goes_on_where_less_had_ended(tmp_path):
    def train(patience, **how):
        stopping = None if patience is None else EarlyStopping(patience, monitor="r2", min_delta=0.05)
        return trained(validation=0.25, metrics=["r2"], early_stopping=stopping, epochs=40, **how)

    _, ended = train(2, checkpoints=Checkpoints(tmp_path, every=1))
    assert ended.stopped == "r2 was not better in 2 epochs"
    assert len(ended) < 30
    whole, resumed = train(20), train(20, resume=tmp_path)
    assert len(whole[1]) > len(ended)
    assert same(resumed, whole)
    _, alone = train(None, resume=tmp_path)
    assert (len(alone), alone.stopped, alone.best_epoch) == (40, None, None)


def test_patience_begins_where_early_stopping_came_in(tmp_path):
    def nothing(targets, predictions):
        return float("nan")

    how = dict(validation=HELD, metrics=[nothing])
    trained(epochs=5, checkpoints=Checkpoints(tmp_path, every=1), **how)
    stopping = EarlyStopping(3, monitor="nothing", mode="min")
    assert len(trained(resume=tmp_path, early_stopping=stopping, **how)[1]) == 5 + 3


def test_what_a_callback_has_ended_goes_on(tmp_path):
    def enough(training):
        if training.epoch == 3:
            training.stop("it was enough")

    trained(callbacks=[enough], checkpoints=Checkpoints(tmp_path, every=1))
    assert same(trained(resume=tmp_path), trained())


def test_old_checkpoints_stay_until_there_is_a_new_one(tmp_path):
    trained(epochs=2, checkpoints=Checkpoints(tmp_path, every=1))
    old = files(tmp_path)
    with pytest.raises(fastbp.DivergenceError):
        trained(optimizer=SGD(1e300), checkpoints=Checkpoints(tmp_path, every=1, overwrite=True))
    assert files(tmp_path) == old
    trained(epochs=1, checkpoints=Checkpoints(tmp_path, every=1, overwrite=True))
    assert files(tmp_path) == ["best.safetensors", "epoch-00000001.safetensors"]


def test_what_somebody_who_was_killed_left_is_removed(tmp_path):
    trained(epochs=2, checkpoints=Checkpoints(tmp_path, every=1))
    left = [
        tmp_path / f"{name}.0123456789abcdef.tmp"
        for name in ("epoch-00000003.safetensors", "best.safetensors")
    ]
    mine = tmp_path / "notes.tmp"
    for path in [*left, mine]:
        path.write_bytes(b"half of it")
    trained(epochs=3, resume=tmp_path, checkpoints=Checkpoints(tmp_path, every=1))
    assert not any(path.exists() for path in left)
    assert mine.exists()


def test_the_best_of_what_is_gone_back_from_is_no_best(tmp_path):
    how = dict(checkpoints=Checkpoints(tmp_path, every=1, keep=99), optimizer=SGD(0.02))
    trained(epochs=8, **how)
    kept = json.loads(
        storage.safe_open(tmp_path / "best.safetensors", "numpy").metadata()[storage.TRAINING_KEY]
    )
    assert kept["epoch"] == 8, "the loss falls in every epoch"
    middle = tmp_path / "epoch-00000004.safetensors"
    again = Checkpoints(tmp_path, every=1, keep=99, overwrite=True)
    trained(epochs=6, resume=middle, checkpoints=again, optimizer=SGD(0.02))
    kept = json.loads(
        storage.safe_open(tmp_path / "best.safetensors", "numpy").metadata()[storage.TRAINING_KEY]
    )
    assert kept["epoch"] == 6


@pytest.mark.parametrize("dropped", [False, True])
def test_of_two_folders_each_has_its_own_state(tmp_path, dropped):
    """Whatever the order in which they are given then, and whichever is left out."""

    def keeping(name, **how):
        return Checkpoints(tmp_path / name, every=1, keep=2, **how)

    options = dict(validation=HELD, optimizer=SGD(0.01))
    first = keeping("first", monitor="loss", mode="max")
    trained(epochs=4, callbacks=[first], checkpoints=keeping("second"), **options)
    best = (tmp_path / "first" / "best.safetensors").read_bytes()
    again = keeping("first", monitor="loss", mode="max", overwrite=True)
    others = [] if dropped else [keeping("third")]
    trained(epochs=6, resume=tmp_path / "first", callbacks=others, checkpoints=again, **options)
    assert (tmp_path / "first" / "best.safetensors").read_bytes() == best, "the loss only falls"
    assert files(tmp_path / "first")[1:] == ["epoch-00000005.safetensors", "epoch-00000006.safetensors"]


def test_of_two_early_stoppings_each_has_its_own_state(tmp_path):
    both = [EarlyStopping(50, monitor="loss"), EarlyStopping(50, monitor="validation_loss")]
    options = dict(validation=HELD, optimizer=Adam(0.2))
    trained(epochs=6, callbacks=both, checkpoints=Checkpoints(tmp_path, every=1), **options)
    _, history = trained(epochs=7, resume=tmp_path, callbacks=[EarlyStopping(50)], **options)
    assert history.best_epoch == 1 + int(np.argmin(history.validation_loss))
    assert history.best_epoch != 1 + int(np.argmin(history.loss))
