"""Networks of layers of every kind: trainings and gradients by the reference, files, copies, refusals."""

import copy
import pickle

import numpy as np
import pytest

import fastbp
from fastbp import BatchNorm, Dense, Dropout, LayerNorm, Residual
from fastbp.division import splits_columns, sums_in_chunks
from fastbp.plan import Plan
from tests import reference
from tests.samples import (
    LAYERED,
    difference,
    draw_inputs,
    make_layered,
    stack_of,
    train_by_reference,
)

every_network = pytest.mark.parametrize("name", LAYERED)


@every_network
def test_training_follows_the_reference(name):
    net, x, y, batch_size = make_layered(name)
    before = net.parameters.copy()
    expected = train_by_reference(net, x, y, epochs=3, batch_size=batch_size, rate=0.1, seed=5)
    fastbp.train(
        net,
        x,
        y,
        epochs=3,
        batch_size=batch_size,
        shuffle=False,
        optimizer=fastbp.SGD(0.1),
        seed=5,
        threads=2,
    )
    assert difference(net.parameters, expected) < 1e-11
    assert difference(before, expected) > 1e-3


@every_network
def test_gradient_follows_the_reference(name):
    net, x, y, _ = make_layered(name)
    loss = net.loss_function
    for batch_statistics in (False, True):
        stack = stack_of(net, batch_statistics=batch_statistics)
        value, flat, dx = reference.stack_gradient(stack, x, y, loss.name, loss.option)
        before = net.parameters.copy()
        found, gradient = net.gradient(x, y, batch_statistics=batch_statistics)
        assert found == pytest.approx(value, rel=1e-12)
        assert difference(gradient.parameters, flat) < 1e-11
        assert difference(gradient.inputs, dx) < 1e-11
        assert np.array_equal(net.parameters, before), "running statistics moved"
    assert net.loss(x, y) == net.gradient(x, y)[0]


@every_network
def test_central_differences(name):
    net, x, y, _ = make_layered(name)
    assert fastbp.check_gradients(net, x[:6], y[:6], at_most=60)


@every_network
def test_predictions_follow_the_reference(name):
    net, x, _, _ = make_layered(name)
    logits = reference.stack_forward(stack_of(net), x)
    for n in (1, 3, len(x)):
        np.testing.assert_allclose(net.logits(x[:n]), logits[:n], rtol=1e-10, atol=1e-12)
    expected = reference.LOSSES[net.loss_function.name][2](logits)
    np.testing.assert_allclose(net.predict(x[0]), expected[0], rtol=1e-10)
    net.parameters[:] *= 1.5
    assert difference(net.predict(x[0]), reference.LOSSES[net.loss_function.name][2](
        reference.stack_forward(stack_of(net), x[:1]))[0]) < 1e-10  # fmt: skip


@every_network
def test_saved_pickled_and_copied(name, tmp_path):
    net, x, y, batch_size = make_layered(name, "float32")
    fastbp.train(net, x, y, epochs=1, batch_size=batch_size)
    net.save(tmp_path / "net.safetensors")
    for other in (
        fastbp.load(tmp_path / "net.safetensors"),
        pickle.loads(pickle.dumps(net)),
        copy.deepcopy(net),
    ):
        assert np.array_equal(other.parameters, net.parameters)
        assert np.array_equal(other.predict(x), net.predict(x))
        assert other._described == net._described
        assert repr(other) == repr(net)
        assert [layer.name for layer in other.layers] == [layer.name for layer in net.layers]
    other.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()


def test_networks_are_summed_and_split_as_their_names_say():
    for name in LAYERED:
        net, _, _, batch_size = make_layered(name)
        assert sums_in_chunks(net.architecture, batch_size) == name.endswith("in chunks")
        assert splits_columns(net.architecture, batch_size, 2) == name.endswith("by columns")


def test_float32():
    for name in ("layer norm", "batch norm", "residual"):
        net, x, y, batch_size = make_layered(name, "float32")
        expected = train_by_reference(net, x, y, epochs=2, batch_size=batch_size, rate=0.05, seed=5)
        fastbp.train(
            net, x, y, epochs=2, batch_size=batch_size, shuffle=False, optimizer=fastbp.SGD(0.05), seed=5
        )
        assert difference(net.parameters, expected) < 1e-4


def test_old_content_of_memory_does_not_matter(monkeypatch):
    from fastbp import layout

    def everything():
        found = []
        for name in ("layer norm", "batch norm", "residual", "dropout"):
            net, x, y, batch_size = make_layered(name)
            for materialise, threads in ((False, 3), (True, 1)):
                how = dict(threads=threads, materialise=materialise, optimizer=fastbp.SGD(0.05, momentum=0.9))
                for shaped in ({}, dict(clip_norm=0.1, clip_value=0.05, gradient_noise=1e-3)):
                    fastbp.train(net, x, y, epochs=2, batch_size=batch_size, **how, **shaped)
                    found.append(net.parameters.copy())
            value, gradient = net.gradient(x, y)
            found += [value, gradient.parameters, gradient.inputs, net.predict(x), net.predict(x[:2])]
        return found

    def poisoned(n_bytes):
        memory = layout.aligned_zeros(n_bytes + 256)
        memory.view(np.uint8)[:] = 0xFF
        return memory

    clean = everything()
    monkeypatch.setattr(layout, "clean_workspace", poisoned)
    for got, expected in zip(everything(), clean):
        assert np.array_equal(got, expected)
        assert np.isfinite(expected).all()


def test_normalised_to_mean_0_and_deviation_1():
    x = 5 + 3 * draw_inputs(100, 40)
    net = fastbp.Network([LayerNorm(1e-12)], inputs=40, dtype="float64")
    np.testing.assert_allclose(net.predict(x).mean(axis=1), 0, atol=1e-14)
    np.testing.assert_allclose(net.predict(x).std(axis=1), 1, rtol=1e-10)
    net = fastbp.Network([BatchNorm(momentum=1.0)], inputs=40, dtype="float64")
    assert np.array_equal(net.layers[0].mean, np.zeros(40))
    assert np.array_equal(net.layers[0].variance, np.ones(40))
    fastbp.train(net, x, x, epochs=1, batch_size=100, optimizer=fastbp.SGD(1e-12))
    np.testing.assert_allclose(net.layers[0].mean, x.mean(axis=0))
    np.testing.assert_allclose(net.layers[0].variance, x.var(axis=0, ddof=1))


def test_no_optimizer_touches_running_statistics():
    net, x, y, _ = make_layered("batch norm")
    for layer in net.layers:
        if layer.kind == "BatchNorm":
            layer.mean[:] = 0.0
            layer.variance[:] = 1.0
    x, y = x[:1], y[:1]  # of one row there are no statistics
    fastbp.train(net, x, y, epochs=3, optimizer=fastbp.AdamW(0.1, weight_decay=0.5))
    for layer in net.layers:
        if layer.kind == "BatchNorm":
            assert not layer.mean.any()
            assert (layer.variance == 1).all()


def test_biases_without_decay_are_gamma_and_beta_too():
    net = fastbp.Network([Dense(5), LayerNorm(), Dense(2)], inputs=3, seed=0)
    gamma = net.layers[1].gamma.copy()
    x = np.zeros((4, 3))
    decayed = copy.deepcopy(net)
    for one, decay_biases in ((net, False), (decayed, True)):
        optimizer = fastbp.SGD(0.1, weight_decay=1.0, decay_biases=decay_biases)
        fastbp.train(one, x, np.zeros((4, 2)), epochs=1, optimizer=optimizer)
    assert np.array_equal(net.layers[1].gamma, gamma)
    np.testing.assert_allclose(decayed.layers[1].gamma, 0.9 * gamma)


def test_layers_by_name():
    block = Residual([Dense(4, "relu"), LayerNorm(name="norm"), Dense(4)], name="block")
    net = fastbp.Network([block, Dense(2), BatchNorm()], inputs=4, seed=0)
    assert [(layer.name, layer.kind) for layer in net.layers] == [
        ("block.layer0", "Dense"),
        ("block.norm", "LayerNorm"),
        ("block.layer2", "Dense"),
        ("block", "Residual"),
        ("layer1", "Dense"),
        ("layer2", "BatchNorm"),
    ]
    assert list(net.layers[5].arrays) == ["gamma", "beta", "mean", "variance"]
    assert list(net.layers[5].learnt) == ["gamma", "beta"]
    assert net.layers[3].arrays == {}
    assert np.shares_memory(net.layers[1].gamma, net.parameters)
    assert repr(net).startswith("Network(4 → x + (4 relu → layer norm → 4) → 2 → batch norm, ")
    assert "block.norm" in net.summary()
    gradient = net.gradient(draw_inputs(3, 4), np.ones((3, 2)))[1]
    assert np.shares_memory(gradient.layers[1].gamma, gradient.parameters)
    assert not gradient.layers[5].mean.any()
    optimizer = fastbp.SGD(0.1, layers={"block.norm": {"learning_rate": 0}})
    fastbp.train(net, draw_inputs(3, 4), np.ones((3, 2)), epochs=1, optimizer=optimizer)
    assert (net.layers[1].gamma == 1).all()
    assert (net.layers[5].gamma != 1).any()


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"layer1: a Residual adds its inputs .* 4 inputs and 5 outputs"):
        fastbp.Network([Dense(4), Residual([Dense(5)])], inputs=3)
    net = fastbp.Network([BatchNorm(), Dense(1)], inputs=3)
    with pytest.raises(ValueError, match="LBFGS cannot train BatchNorm"):
        fastbp.train(net, draw_inputs(3, 3), np.ones(3), optimizer=fastbp.LBFGS())
    with pytest.raises(TypeError, match="batch_statistics must be True or False"):
        fastbp.Network([Dense(1)], inputs=1).gradient([[1]], [1], batch_statistics=1)


def test_a_network_without_these_layers_has_the_same_program():
    """gather, two products, activation, loss, activation backward, product, prepare, two updates, end."""
    net = fastbp.Network([64, 32, 10], seed=0)
    with_dropout = fastbp.Network([Dense(32, "relu"), Dropout(0.0), Dense(10)], inputs=64, seed=0)
    programs = [
        [int(each["kernel"]) for each in Plan(one.architecture, "train", 32, optimizer="sgd").programs[0][0]]
        for one in (net, with_dropout)
    ]
    assert programs[0] == programs[1]
    assert len(programs[0]) == 15


@pytest.mark.parametrize("name", ["dropout", "batch norm", "residual", "layer norm in chunks"])
def test_resumed_to_the_bit(name, tmp_path):
    how = dict(optimizer=fastbp.Adam(0.01), seed=5)
    whole, x, y, batch_size = make_layered(name)
    fastbp.train(whole, x, y, epochs=4, batch_size=batch_size, **how)
    cut, again = make_layered(name)[0], make_layered(name)[0]
    checkpoints = fastbp.Checkpoints(tmp_path, every=3)
    fastbp.train(cut, x, y, epochs=3, batch_size=batch_size, checkpoints=checkpoints, **how)
    fastbp.train(again, x, y, epochs=4, batch_size=batch_size, resume=tmp_path, threads=2, **how)
    assert np.array_equal(again.parameters, whole.parameters)
    assert not np.array_equal(cut.parameters, whole.parameters)


def test_steps_of_ones_own_are_those_of_training():
    for name in ("dropout", "residual"):
        optimizer = fastbp.SGD(0.01, momentum=0.9)
        (net, x, y, n), (online, *_), (compiled, *_) = (make_layered(name) for _ in range(3))
        x, y = x[: 2 * n], y[: 2 * n]
        fastbp.train(net, x, y, epochs=1, batch_size=n, optimizer=optimizer, shuffle=False)
        trainer = fastbp.OnlineTrainer(online, optimizer, batch_size=n)
        step = compiled.compiled(optimizer, batch_size=n).step
        for rows in (slice(n), slice(n, 2 * n)):
            trainer.step(x[rows], y[rows])
            step(x[rows], y[rows])
        assert np.array_equal(online.parameters, net.parameters)
        assert np.array_equal(compiled.parameters, net.parameters)
        row = np.empty(net.layers[-1].n_out)
        compiled.compiled().predict_into(x[0], row)
        assert np.array_equal(row, net.predict(x[0]))


@pytest.mark.parametrize(("n", "value"), [(3, 12345.678), (1000, 12345.678), (10, 1000000.1)])
def test_rows_of_one_large_number_have_no_deviation(n, value):
    """The mean is rounded; what is left of the row by it is no deviation."""
    net = fastbp.Network([LayerNorm()], inputs=n, seed=0)
    assert np.abs(net.predict(np.full((1, n), value, np.float32))).max() == 0


def test_small_deviations_of_large_numbers_keep_their_digits():
    x = (1e5 + np.random.default_rng(0).normal(size=(5, 300))).astype(np.float32)
    exact = x.astype(np.float64) - x.mean(axis=1, keepdims=True, dtype=np.float64)
    exact /= np.sqrt((exact**2).mean(axis=1, keepdims=True) + 1e-5)
    found = fastbp.Network([LayerNorm()], inputs=300, seed=0).predict(x)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [2, 300])
def test_small_deviations_of_large_columns_keep_their_digits(rows):
    """The gradients of β and γ tell mean and mean square of what is normalised: the loss is that of zeros."""
    x = (1e5 + np.random.default_rng(0).normal(size=(rows, 5))).astype(np.float32)
    exact = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    variance = (exact**2).mean(axis=0)
    exact /= np.sqrt(variance + 1e-5)
    net = fastbp.Network([BatchNorm(momentum=1.0)], inputs=5, seed=0)
    _, gradient = net.gradient(x, np.zeros_like(x), batch_statistics=True)
    assert np.abs(gradient.layers[0].beta).max() < 1e-6
    np.testing.assert_allclose(gradient.layers[0].gamma, 2 * (exact**2).mean(axis=0) / 5, rtol=1e-6)
    fastbp.train(net, x, exact, epochs=1, batch_size=rows, optimizer=fastbp.SGD(1e-30))
    np.testing.assert_allclose(net.layers[0].variance, variance * rows / (rows - 1), rtol=1e-6)


@pytest.mark.parametrize("momentum", [1.0, 0.5])
def test_running_statistics_of_small_numbers_keep_their_digits(momentum):
    """The running variance begins at 1, of which float32 leaves no digit of a millionth."""
    x = (1e-3 * np.random.default_rng(0).normal(size=(64, 2))).astype(np.float32)
    net = fastbp.Network([BatchNorm(momentum=momentum)], inputs=2, seed=0)
    fastbp.train(net, x, x, epochs=1, batch_size=64, optimizer=fastbp.SGD(1e-30))
    expected = (1 - momentum) + momentum * x.var(axis=0, ddof=1, dtype=np.float64)
    np.testing.assert_allclose(net.layers[0].variance, expected, rtol=1e-6)


@pytest.mark.parametrize("n", [16_384, 25_000, 65_536])
def test_wide_rows_of_one_number_are_no_nan(n):
    rows = np.repeat(np.linspace(1e4, 1e5, 60, dtype=np.float32)[:, None], n, axis=1)
    assert np.isfinite(fastbp.Network([LayerNorm()], inputs=n, seed=0).predict(rows)).all()
