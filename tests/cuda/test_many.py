"""Many small networks at once, in launches of many steps: the bits of each alone."""

import signal

import numpy as np
import pytest

import fastbp
from fastbp import device_plan, device_small, division
from fastbp.cuda import small
from tests.samples import draw_inputs, draw_targets, make_network, pythons_own_handler


def assert_same_as_alone(device, make, x, y, **options):
    """Each ends with the parameters and the history that it has alone on the CPU; returns the histories."""
    options |= dict(progress=False)
    expected, found = make(), make()
    histories = fastbp.train_many(expected, x, y, **options)
    on_device = fastbp.train_many(found, x, y, device=device, **options)
    for net, other, history, told in zip(expected, found, histories, on_device):
        assert net.parameters.tobytes() == other.parameters.tobytes()
        for name in ("loss", "validation_loss", "metrics", "learning_rate", "stopped", "best_epoch"):
            assert getattr(history, name) == getattr(told, name), name
        assert len(told.seconds) == len(told.samples_per_second) == len(told)
        assert not told.interrupted
    return on_device


def rows(n, inputs, outputs, loss="mean_squared_error"):
    return draw_inputs(n, inputs), draw_targets(loss, n, outputs)


def tanh_networks(*hidden, loss="mean_squared_error"):
    return lambda: [make_network([3, n, 2], "tanh", loss, seed=n) for n in hidden]


@pytest.fixture
def launches(monkeypatch):
    """How many networks each launch takes further; the first one two steps, then as many as asked."""
    monkeypatch.setattr(device_small, "FIRST_STEPS", 2)
    seen, configured = [], device_small.device.configured

    def counted(kernel, blocks, threads, shared=0, *stream):
        if threads == small.THREADS and shared:
            seen.append(blocks)
        return configured(kernel, blocks, threads, shared, *stream)

    monkeypatch.setattr(device_small.device, "configured", counted)
    return seen


def test_networks_of_several_sizes_seeds_and_optimizers(device, launches):
    make = lambda: [make_network([4, n, 3], "gelu", "softmax_cross_entropy", seed=n) for n in (5, 18, 7)]
    optimizers = [fastbp.Adam(0.01), fastbp.SGD(0.1), fastbp.Adam(0.02)]
    x, y = rows(9, 4, 3, "softmax_cross_entropy")
    assert_same_as_alone(device, make, x, y, epochs=2, batch_size=4, optimizer=optimizers)
    assert set(launches) == {1, 2}  # two kernels, of which one trains two networks


def test_several_activations_of_hidden_layers(device, launches):
    def make():
        hidden = ["tanh", "identity", "gelu"], ["gelu", "tanh", "identity"], ["gelu", "gelu", "gelu"]
        return [
            fastbp.Network([*map(fastbp.Dense, (4, 3, 5), names), fastbp.Dense(2)], inputs=3, seed=1)
            for names in hidden
        ]

    assert_same_as_alone(device, make, *rows(6, 3, 2), epochs=2, batch_size=4)
    assert set(launches) == {1, 2}  # one kernel for all orders of the same activations


def test_deep_without_shuffle(device):
    make = lambda: [fastbp.Network([3, 5, 4, 2], activation="tanh", output_activation="tanh", seed=1)]
    assert_same_as_alone(device, make, *rows(9, 3, 2), epochs=2, batch_size=4, shuffle=False)


def test_one_layer_without_bias_in_float64(device):
    make = lambda: [fastbp.Network([fastbp.Dense(2, use_bias=False)], inputs=3, dtype="float64", seed=0)]
    assert_same_as_alone(device, make, *rows(9, 3, 2), epochs=1, batch_size=4, optimizer="rmsprop")


@pytest.mark.parametrize("shuffle", [False, True])
def test_launches_that_end_within_epochs(shuffle, device, launches, monkeypatch):
    monkeypatch.setattr(device_small, "SECONDS_PER_LAUNCH", 0)
    how = dict(epochs=2, batch_size=4, optimizer=fastbp.SGD(0.1, momentum=0.9), shuffle=shuffle)
    assert_same_as_alone(device, tanh_networks(2, 3), *rows(9, 3, 2), **how)
    assert launches == [2] * 5  # two steps, then one each


def test_kinds_run_side_by_side(device, launches, monkeypatch):
    monkeypatch.setattr(device_small, "SECONDS_PER_LAUNCH", 0)
    streams, configured = [], device_small.device.configured

    def seen(*launch):
        streams.append(launch[4])
        return configured(*launch)

    monkeypatch.setattr(device_small.device, "configured", seen)
    make = lambda: [*tanh_networks(2, 3)(), make_network([3, 4, 2], "gelu", seed=1)]
    assert_same_as_alone(device, make, *rows(9, 3, 2), epochs=[3, 3, 2], batch_size=4)
    assert launches == [2, 1] * 5 + [2] * 3  # two steps, then one each; three of two networks alone
    first, second = streams[:2]
    assert len({0, first, second}) == 3
    assert streams == [first, second] * 5 + [0] * 3


def test_chunks(device, monkeypatch):
    monkeypatch.setattr(division, "CHUNK_ROWS", 4)
    make = lambda: [fastbp.Network([3, 6, 2], seed=1)]
    assert division.sums_in_chunks(make()[0].architecture, 13)
    assert_same_as_alone(device, make, *rows(14, 3, 2), epochs=1, batch_size=13)


def test_validation_and_what_watches(device, tmp_path, launches):
    class Watch(fastbp.Callback):
        def __init__(self):
            self.seen = []

        def epoch(self, training):
            self.seen.append((training.epoch, training.network.parameters.tobytes()))
            if training.epoch == 2:
                training.learning_rate = 0.01

    watching = [[[Watch()], [Watch()]] for _ in range(2)]
    x, y = rows(9, 3, 2)
    how = dict(epochs=[3, 4], batch_size=4, validation=0.3, metrics=["r2"], progress=False)
    stopping = fastbp.EarlyStopping(patience=1, monitor="loss", min_delta=10.0)
    nets = [tanh_networks(2, 3)() for _ in range(2)]
    for place, made, callbacks in zip(("cpu", device), nets, watching):
        checkpoints = [fastbp.Checkpoints(tmp_path / f"{place} {i}", every=1) for i in range(2)]
        fastbp.train_many(
            made, x, y, device=place, callbacks=callbacks, early_stopping=[None, stopping],
            checkpoints=checkpoints, **how,
        )  # fmt: skip
    seen = [[each.seen for (each,) in callbacks] for callbacks in watching]
    assert seen[0] == seen[1]
    assert [len(each) for each in seen[0]] == [3, 2]
    assert all(a.parameters.tobytes() == b.parameters.tobytes() for a, b in zip(*nets))
    # What a GPU wrote down is gone on from on a CPU, and the other way round.
    resumed = [tanh_networks(2, 3)() for _ in range(2)]
    for made, place, written in zip(resumed, ("cpu", device), (device, "cpu")):
        folders = [tmp_path / f"{written} {i}" for i in range(2)]
        fastbp.train_many(made, x, y, device=place, resume=folders, **how | dict(epochs=5))
    assert all(a.parameters.tobytes() == b.parameters.tobytes() for a, b in zip(*resumed))


def test_validation_rows_are_measured_where_the_parameters_are(device, monkeypatch):
    """Both networks by one plan, whose rows were sent once; parameters come to the host at the end."""
    made, read, evaluating = [], [], device_plan.DevicePlan
    monkeypatch.setattr(
        "fastbp.device_evaluate.DevicePlan", lambda *a, **k: made.append(1) or evaluating(*a, **k)
    )
    unpack = device_small.SmallPlan.unpack
    monkeypatch.setattr(device_small.SmallPlan, "unpack", lambda *a: read.append(1) or unpack(*a))
    monkeypatch.setattr("fastbp.training.SHARE_OF_LOOKS", 0.0)  # a first look, and no further one
    x, y = (array.astype(np.float32) for array in rows(5, 3, 2))
    make = lambda: [make_network([3, 4, 2], "tanh", seed=n) for n in (1, 2)]
    assert_same_as_alone(device, make, *rows(6, 3, 2), epochs=4, validation=(x, y), metrics=["r2"])
    assert (len(made), len(read)) == (1, 2 + 2)


EACH_THEIR_OWN = {
    "weights": dict(sample_weight=np.arange(1.0, 10)),
    "balanced": dict(sampling="balanced"),
    "a schedule": dict(optimizer=fastbp.SGD(schedule=fastbp.schedules.Cosine())),
    "settings of biases": dict(optimizer=fastbp.SGD(weight_decay=0.1, decay_biases=False)),
    "clipping and noise": dict(clip_norm=0.1, input_noise=0.1),
}


@pytest.mark.parametrize(
    "name",
    [*list(EACH_THEIR_OWN)[:1], *(pytest.param(n, marks=pytest.mark.slow) for n in list(EACH_THEIR_OWN)[1:])],
)
def test_what_a_step_may_be_asked_for(name, device, launches):
    make = tanh_networks(2, 3, loss="softmax_cross_entropy")
    x, y = rows(9, 3, 2, "softmax_cross_entropy")
    assert_same_as_alone(device, make, x, y, epochs=2, batch_size=4, **EACH_THEIR_OWN[name])
    assert set(launches) == {2}


def test_bytes_and_scaled_inputs(device):
    make = lambda: [fastbp.Network([3, n, 2], input_scale=1 / 255, seed=n) for n in (2, 3)]
    x = np.random.default_rng(0).integers(0, 256, (9, 3), np.uint8)
    assert_same_as_alone(device, make, x, rows(9, 3, 2)[1], epochs=1, batch_size=4)


def test_networks_that_no_block_can_train_are_trained_alone(device, launches):
    layers = [fastbp.Dense(3, "tanh"), fastbp.LayerNorm(), fastbp.Dense(2)]
    make = lambda: [fastbp.Network(layers, inputs=3, seed=0), *tanh_networks(2, 3)()]
    assert_same_as_alone(device, make, *rows(6, 3, 2), epochs=2, batch_size=3, validation=0.4)
    assert set(launches) == {2}


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([fastbp.Dense(3), fastbp.LayerNorm(), fastbp.Dense(1)], "other layers than Dense"),
        ([fastbp.Dense(3000, "tanh"), fastbp.Dense(1)], "memory has 47104 bytes, and a step takes"),
    ],
)
def test_what_a_block_cannot_train(layers, why):
    net = fastbp.Network(layers, inputs=4, seed=0)
    assert why in device_small.why_not(net.architecture, 4)


def test_train_many(device):
    def networks():
        made = [make_network([3, n, 2], "tanh", "softmax_cross_entropy", seed=n) for n in (4, 5)]
        return [*made, make_network([3, 4, 3, 2], "gelu", "softmax_cross_entropy", seed=1)]

    x, y = draw_inputs(7, 3), draw_targets("softmax_cross_entropy", 7, 2)
    options = dict(epochs=[2, 1, 3], batch_size=[4, 7, 3], seed=[None, 5, 6], progress=False)
    options["optimizer"] = [fastbp.Adam(0.1), "sgd", fastbp.Adam(0.2)]
    first, second = networks(), networks()
    expected = fastbp.train_many(first, x, y, **options)
    found = fastbp.train_many(second, x, y, device=device, **options)
    for one, other, on_cpu, history in zip(first, second, expected, found):
        assert one.parameters.tobytes() == other.parameters.tobytes()
        assert (on_cpu.loss, on_cpu.learning_rate) == (history.loss, history.learning_rate)
        assert len(history.seconds) == len(history.samples_per_second) == len(history)
        assert not history.interrupted


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # plain Python in the simulator
def test_train_many_names_what_diverged(device):
    nets, (plain,) = ([make_network([2, 3, 1]) for _ in range(n)] for n in (3, 1))
    x, y = draw_inputs(6, 2), draw_targets("mean_squared_error", 6, 1)
    start = nets[1].parameters.copy()
    rates = [fastbp.SGD(rate) for rate in (0.1, 1e30, 1e30)]
    with pytest.raises(fastbp.DivergenceError, match=r"^network 1: training diverged in epoch 1") as caught:
        fastbp.train_many(nets, x, y, epochs=2, batch_size=2, optimizer=rates, device=device)
    assert list(caught.value.errors) == [1, 2]
    assert np.array_equal(nets[1].parameters, start)
    fastbp.train(plain, x, y, epochs=2, batch_size=2, optimizer=rates[0])
    assert nets[0].parameters.tobytes() == plain.parameters.tobytes()
    assert [len(history) for history in caught.value.histories] == [2, 0, 0]


def test_an_error_of_one_ends_no_other(device):
    def fails(training):
        raise KeyError("here")

    (plain,) = tanh_networks(3)()
    nets, (x, y) = tanh_networks(2, 3)(), rows(6, 3, 2)
    with pytest.raises(KeyError) as caught:
        fastbp.train_many(nets, x, y, epochs=2, callbacks=[[fails], []], device=device)
    assert caught.value.network == 0
    assert [len(history) for history in caught.value.histories] == [1, 2]
    fastbp.train(plain, x, y, epochs=2)
    assert nets[1].parameters.tobytes() == plain.parameters.tobytes()


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # plain Python in the simulator
def test_divergence_in_a_later_launch(device, monkeypatch):
    monkeypatch.setattr(device_small, "FIRST_STEPS", 4)
    monkeypatch.setattr(device_small, "SECONDS_PER_LAUNCH", 0)
    monkeypatch.setattr("fastbp.training.SHARE_OF_LOOKS", 1e9)
    monkeypatch.setattr("fastbp.training.SECONDS_PER_CALL", 0.0)  # so calls of an epoch
    monkeypatch.setattr("fastbp.turns.SECONDS_OF_PYTHON", 0.0)
    on_cpu, net = (make_network([3, 4, 2], "relu", seed=1) for _ in range(2))
    x, y = draw_inputs(8, 3), draw_targets("mean_squared_error", 8, 2)
    how = dict(batch_size=4, optimizer=fastbp.SGD(1.5), shuffle=False)
    with pytest.raises(fastbp.DivergenceError, match=r"the loss became (nan|inf)") as caught:
        fastbp.train_many([net], x, y, epochs=9, device=device, **how)
    step, last = caught.value.steps
    assert step == last > 5  # after the first launch, so of one step
    epochs = caught.value.epoch - 1
    assert epochs == (step - 1) // 2
    history = fastbp.train(on_cpu, x, y, epochs=epochs, **how)
    assert net.parameters.tobytes() == on_cpu.parameters.tobytes()
    assert caught.value.histories[0].loss == history.loss


def test_ctrl_c_ends_after_a_launch(device, monkeypatch):
    monkeypatch.setattr(device_small, "FIRST_STEPS", 4)
    monkeypatch.setattr(device_small, "SECONDS_PER_LAUNCH", 0)
    wait = device_small.device.wait

    def press():
        wait()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(device_small.device, "wait", press)
    first, second = (make_network([3, 4, 2], seed=1) for _ in range(2))
    x, y = draw_inputs(9, 3), draw_targets("mean_squared_error", 9, 2)
    options = dict(batch_size=4, optimizer="adam", shuffle=False)
    with pythons_own_handler():
        (history,) = fastbp.train_many([first], x, y, epochs=9, device=device, **options)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert history.interrupted
    # Four steps: an epoch of three, and one of the next.
    assert len(history) == len(history.seconds) == 1
    trainer = fastbp.OnlineTrainer(second, "adam", batch_size=4)
    trainer.step(x, y)
    trainer.step(x[:4], y[:4])
    assert first.parameters.tobytes() == second.parameters.tobytes()
