"""Many small networks at once, in launches of many steps: the bits of each alone."""

import signal

import numpy as np
import pytest

import fastbp
from fastbp import device_many, division
from fastbp.device_many import Small, train_small
from tests.samples import draw_inputs, draw_targets, make_network


def small(net, x, y, optimizer, batch_size=4, **options):
    """A network as `train_small` takes it, with parameters of its own."""
    x, y = net.check_data(x, y)
    return Small(
        net.architecture, net.parameters.copy(), x, y, optimizer.formula, optimizer.settings, batch_size,
        net.seed, **options,
    )  # fmt: skip


def assert_same_as_alone(networks, optimizers, rows=9, epochs=2, **options):
    """Each ends with the parameters and the losses of `fastbp.train`."""
    sizes, loss = networks[0].architecture.sizes, networks[0].loss_function.name
    x, y = draw_inputs(rows, sizes[0]), draw_targets(loss, rows, sizes[-1])
    together = [small(net, x, y, opt, **options) for net, opt in zip(networks, optimizers)]
    assert [each.why_not() for each in together] == [None] * len(networks)
    seen = []
    look = lambda trained: seen.append([each.rows for each in trained])
    for net, each, optimizer, found in zip(
        networks, together, optimizers, train_small(together, epochs, look)
    ):
        options = dict(batch_size=each.batch_size, shuffle=each.shuffle)
        history = fastbp.train(net, x, y, epochs=epochs, optimizer=optimizer, **options)
        assert found.losses == history.loss
        assert each.parameters.tobytes() == net.parameters.tobytes()
        assert (found.steps, found.diverged) == (epochs * -(-rows // each.batch_size), False)
    assert seen[-1] == [epochs * rows] * len(networks)
    return seen


def test_networks_of_several_sizes_seeds_and_optimizers(device):
    networks = [
        make_network([4, hidden, 3], "gelu", "softmax_cross_entropy", seed=hidden) for hidden in (5, 18, 7)
    ]
    assert_same_as_alone(networks, [fastbp.Adam(0.01), fastbp.SGD(0.1), fastbp.Adam(0.02)])


def test_deep_without_shuffle(device):
    networks = [fastbp.Network([3, 5, 4, 2], activation="tanh", output_activation="tanh", seed=1)]
    assert_same_as_alone(networks, [fastbp.SGD(0.1, momentum=0.9)], shuffle=False)


def test_one_layer_without_bias_in_float64(device):
    networks = [fastbp.Network([fastbp.Dense(2, use_bias=False)], inputs=3, dtype="float64", seed=0)]
    assert_same_as_alone(networks, [fastbp.RMSprop()])


@pytest.mark.parametrize("shuffle", [False, True])
def test_launches_that_end_within_epochs(shuffle, device, monkeypatch):
    monkeypatch.setattr(device_many, "FIRST_STEPS", 2)
    monkeypatch.setattr(device_many, "SECONDS_PER_LAUNCH", 0)
    networks = [make_network([3, hidden, 2], "tanh", seed=hidden) for hidden in (2, 3)]
    seen = assert_same_as_alone(networks, [fastbp.SGD(0.1, momentum=0.9)] * 2, shuffle=shuffle)
    assert seen == [[rows] * 2 for rows in (8, 9, 13, 17, 18)]


def test_chunks(device, monkeypatch):
    monkeypatch.setattr(division, "CHUNK_ROWS", 4)
    net = fastbp.Network([3, 6, 2], seed=1)
    assert division.sums_in_chunks(net.architecture, 13)
    assert_same_as_alone([net], [fastbp.SGD(0.1)], rows=14, batch_size=13)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # plain Python in the simulator
def test_one_that_diverges_stops_no_other(device):
    nets = [make_network([2, 3, 1], seed=seed) for seed in (1, 2)]
    x, y = draw_inputs(6, 2), draw_targets("mean_squared_error", 6, 1)
    together = [small(net, x, y, fastbp.SGD(rate)) for net, rate in zip(nets, (1e30, 0.1))]
    bad, good = train_small(together, 3)
    assert bad.diverged
    assert not np.isfinite(bad.losses[-1])
    assert together[0].parameters.tobytes() == nets[0].parameters.tobytes()
    assert not good.diverged
    assert len(good.losses) == 3


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([fastbp.Dense(3), fastbp.LayerNorm(), fastbp.Dense(1)], "other layers than Dense"),
        ([fastbp.Dense(3, "tanh"), fastbp.Dense(3, "relu"), fastbp.Dense(1)], "different activations"),
        ([fastbp.Dense(3000, "tanh"), fastbp.Dense(1)], "memory has 47104 bytes, and a step takes"),
    ],
)
def test_what_a_block_cannot_train(layers, why):
    net = fastbp.Network(layers, inputs=4, seed=0)
    x, y = np.zeros((8, 4)), np.zeros((8, 1))
    assert why in small(net, x, y, fastbp.SGD()).why_not()


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


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (dict(validation=0.5), "cannot do this: validation, metrics"),
        (dict(callbacks=[print]), "cannot do this: validation, metrics, early stopping, callbacks"),
        (dict(sample_weight=np.arange(1.0, 7)), "weights of rows or classes"),
        (dict(optimizer=fastbp.SGD(schedule=fastbp.schedules.Cosine())), "schedules"),
        (dict(optimizer=fastbp.SGD(weight_decay=0.1, decay_biases=False)), "of biases"),
        (dict(clip_norm=1.0), "clipping or noise"),
        (dict(batch_size=1000), "memory has"),
    ],
)
def test_train_many_refuses_before_any_work(option, why, device):
    networks = [make_network([2, 3, 1]), make_network([2, 1000 if "memory" in why else 3, 1])]
    start = [net.parameters.copy() for net in networks]
    x, y = draw_inputs(6, 2), draw_targets("mean_squared_error", 6, 1)
    with pytest.raises(ValueError, match=f'^network [01]: train_many.device="cuda".*{why}'):
        fastbp.train_many(networks, x, y, device=device, **option)
    assert all(np.array_equal(net.parameters, before) for net, before in zip(networks, start))


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # plain Python in the simulator
def test_divergence_in_a_later_launch(device, monkeypatch):
    monkeypatch.setattr(device_many, "FIRST_STEPS", 4)
    monkeypatch.setattr(device_many, "SECONDS_PER_LAUNCH", 0)
    on_cpu, net = (make_network([3, 4, 2], "relu", seed=1) for _ in range(2))
    x, y = draw_inputs(8, 3), draw_targets("mean_squared_error", 8, 2)
    optimizer = fastbp.SGD(1.5)
    with pytest.raises(fastbp.DivergenceError, match=r"the loss became (nan|inf)") as caught:
        fastbp.train_many(
            [net], x, y, batch_size=4, epochs=9, optimizer=optimizer, shuffle=False, device=device
        )
    step, last = caught.value.steps
    assert step == last > 5  # after the first launch, so of one step
    trainer = fastbp.OnlineTrainer(on_cpu, optimizer, batch_size=4)
    losses = [
        trainer.step(*((x[:4], y[:4]) if done % 2 == 0 else (x[4:], y[4:]))) for done in range(step - 1)
    ]
    assert net.parameters.tobytes() == on_cpu.parameters.tobytes()
    assert caught.value.epoch == (step + 1) // 2
    assert caught.value.histories[0].loss == pytest.approx(
        [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2])], rel=1e-6
    )


def test_ctrl_c_ends_after_a_launch(device, monkeypatch):
    monkeypatch.setattr(device_many, "FIRST_STEPS", 4)
    monkeypatch.setattr(device_many, "SECONDS_PER_LAUNCH", 0)
    wait = device_many.device.wait

    def press():
        wait()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(device_many.device, "wait", press)
    first, second = (make_network([3, 4, 2], seed=1) for _ in range(2))
    x, y = draw_inputs(9, 3), draw_targets("mean_squared_error", 9, 2)
    options = dict(batch_size=4, optimizer="adam", shuffle=False)
    (history,) = fastbp.train_many([first], x, y, epochs=9, device=device, **options)
    assert history.interrupted
    # Four steps: an epoch of three, and one of the next.
    assert len(history) == len(history.seconds) == 1
    trainer = fastbp.OnlineTrainer(second, "adam", batch_size=4)
    trainer.step(x, y)
    trainer.step(x[:4], y[:4])
    assert first.parameters.tobytes() == second.parameters.tobytes()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
