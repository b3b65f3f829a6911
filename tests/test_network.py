"""Network: how it is made, what can be asked of it, and what it refuses."""

import copy
import io
import pickle
import signal
import threading
import types

import numpy as np
import pytest

import fastbp
from fastbp import Dense, Loss, Network, validation
from fastbp.cpu.team import Team
from fastbp.formulas import activations
from fastbp.initializers import INITIALIZERS
from fastbp.network import FEW_ROWS
from tests import reference
from tests.samples import (
    Frame,
    draw_inputs,
    draw_targets,
    make_network,
    pythons_own_handler,
    read_only,
    reference_layers,
    stack_of,
)

NAN, INF = float("nan"), float("inf")


# Making


def test_sizes():
    net = Network([3, 4, 5, 2], activation="tanh", output_activation="relu", seed=0)
    assert [(layer.n_in, layer.n_out, layer.activation) for layer in net.layers] == [
        (3, 4, "tanh"), (4, 5, "tanh"), (5, 2, "relu"),
    ]  # fmt: skip
    assert net.dtype == np.float32
    assert net.loss_function.name == "mean_squared_error"


def test_both_constructors_give_the_same_network():
    sizes = Network([3, 4, 2], activation="tanh", seed=5)
    layers = Network([Dense(4, "tanh"), Dense(2)], inputs=3, seed=5)
    assert sizes.parameters.tobytes() == layers.parameters.tobytes()
    assert repr(sizes) == repr(layers)


@pytest.mark.parametrize("layers", [(3, 4, 2), np.array([3, 4, 2]), iter([3, 4, 2]), range(3, 0, -1)])
def test_sizes_in_any_sequence(layers):
    assert Network(layers, seed=0).architecture.sizes[0] == 3


def test_views_may_be_multiplied_in_place():
    net = fastbp.Network([2, 1], seed=0)
    before = net.parameters.copy()
    net.layers[0].W *= 2
    net.layers[0].b += 1
    assert net.parameters.tolist() == [*(2 * before[:2]).tolist(), 1.0]
    with pytest.raises(AttributeError, match=r"layer\.W\[:\] = values"):
        net.layers[0].W = np.zeros((2, 1))


def test_what_describes_a_layer_stays():
    layer = fastbp.Network([2, 3, 1], seed=0).layers[0]
    for name, message in [
        ("activation", r"layer.activation stays 'relu'; make a network of other layers"),
        ("n_in", "layer.n_in stays 2"),
        ("gamma", "layer.gamma stays None"),
        ("weights", "a layer has no 'weights'; it has name, n_in, "),
    ]:
        with pytest.raises(AttributeError, match=message):
            setattr(layer, name, 7)


def test_a_seed_may_be_set_to_what_it_may_be():
    net = fastbp.Network([2, 1], seed=0)
    net.seed = 5
    assert net.seed == pickle.loads(pickle.dumps(net)).seed == 5
    with pytest.raises(ValueError, match="seed must be"):
        net.seed = -5
    assert net.seed == 5


@pytest.mark.parametrize(("loss", "link"), [("binary_cross_entropy", "sigmoid"), ("poisson", "exponential")])
def test_a_link_is_not_applied_twice(loss, link):
    for how in (
        dict(layers=[2, 1], output_activation=link),
        dict(layers=[Dense(1, link)], inputs=2),
        dict(layers=[Dense(1), fastbp.Activation(link), fastbp.Dropout(0.1)], inputs=2),
    ):
        with pytest.raises(ValueError, match=f"the loss applies {link} itself, so the output layer must not"):
            fastbp.Network(**how, loss=loss)
        assert fastbp.Network(**how).loss_function.name == "mean_squared_error"


def test_settings_that_are_nothing_in_the_networks_type():
    huber, normal = fastbp.Loss("huber", delta=1e-50), fastbp.LayerNorm(1e-50)
    inside = fastbp.Residual([fastbp.Residual([normal])])
    for how in (
        dict(layers=[2, 1], loss=huber),
        dict(layers=[normal, Dense(1)], inputs=2),
        dict(layers=[inside, Dense(1)], inputs=2),
    ):
        with pytest.raises(ValueError, match="a number that is 0 in float32: 1e-50"):
            fastbp.Network(**how)
        assert fastbp.Network(**how, dtype="float64").dtype == "float64"


def test_views():
    net = Network([3, 4, 2], seed=0)
    assert net.parameters.shape == (3 * 4 + 4 + 4 * 2 + 2,)
    net.parameters[:] = np.arange(net.parameters.size)
    assert net.layers[0].W.tolist() == np.arange(12).reshape(3, 4).tolist()
    assert net.layers[0].b.tolist() == [12, 13, 14, 15]
    assert net.layers[1].b.tolist() == [24, 25]
    net.layers[1].W[0, 1] = -7
    assert net.parameters[17] == -7
    for layer in net.layers:
        assert np.shares_memory(layer.W, net.parameters)
        assert layer.W.flags.writeable


def test_initial_parameters():
    net = Network(
        [Dense(40, "relu"), Dense(30, "tanh", bias_initializer="ones"), Dense(2, use_bias=False)], inputs=50
    )
    he, glorot = np.sqrt(6 / 50), np.sqrt(6 / 70)
    assert 0.9 * he < np.abs(net.layers[0].W).max() <= he
    assert 0.9 * glorot < np.abs(net.layers[1].W).max() <= glorot
    assert not net.layers[0].b.any()
    assert (net.layers[1].b == 1).all()
    assert net.layers[2].b is None


@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_every_initializer(initializer):
    net = Network([Dense(4, kernel_initializer=initializer, bias_initializer=initializer)], inputs=3, seed=1)
    again = Network(
        [Dense(4, kernel_initializer=initializer, bias_initializer=initializer)], inputs=3, seed=1
    )
    assert np.isfinite(net.parameters).all()
    assert net.parameters.tobytes() == again.parameters.tobytes()


def test_seed():
    assert Network([3, 4, 2], seed=1).parameters.tobytes() == Network([3, 4, 2], seed=1).parameters.tobytes()
    assert Network([3, 4, 2], seed=1).parameters.tobytes() != Network([3, 4, 2], seed=2).parameters.tobytes()
    drawn = Network([3, 4, 2])
    assert Network([3, 4, 2], seed=drawn.seed).parameters.tobytes() == drawn.parameters.tobytes()
    assert Network([3, 4, 2]).seed != drawn.seed


def test_float32_starts_as_float64_rounded():
    wide, narrow = (Network([3, 4, 2], seed=1, dtype=dtype) for dtype in ("float64", "float32"))
    assert np.array_equal(wide.parameters.astype(np.float32), narrow.parameters)


BAD_NETWORKS = [
    (dict(layers=3), TypeError, "layers must be sizes such as .* got 3"),
    (dict(layers=None), TypeError, "layers must be sizes .* got None"),
    (dict(layers="relu"), TypeError, "size 0 must be an integer"),
    (dict(layers=[]), ValueError, "at least the number of inputs and of outputs; got"),
    (dict(layers=[3]), ValueError, "at least the number of inputs and of outputs; got"),
    (dict(layers=[3, 0]), ValueError, "size 1 must be an integer at least 1 .*; got 0"),
    (dict(layers=[3, -2, 1]), ValueError, "size 1 .* got -2"),
    (dict(layers=[3, 2.5, 1]), TypeError, "size 1 .* got 2.5"),
    (dict(layers=[3, True]), TypeError, "size 1 .* got True"),
    (dict(layers=[3, Dense(2)]), TypeError, "all be sizes or all be layers; layer 0 is 3"),
    (dict(layers=[Dense(2)]), ValueError, "needs inputs="),
    (dict(layers=[Dense(2)], inputs=0), ValueError, "inputs must be .* got 0"),
    (dict(layers=[Dense(2)], inputs="3"), TypeError, "inputs must be .* got '3'"),
    (dict(layers=[3, 2], inputs=3), ValueError, "inputs= goes with layers"),
    (dict(layers=[Dense(2)], inputs=3, activation="tanh"), ValueError, "activation= and .* go with sizes"),
    (dict(layers=[Dense], inputs=3), TypeError, "layers must be such as .* where inputs= is given"),
    (dict(layers=["relu"], inputs=3), TypeError, "layers must be such as .* where inputs= is given"),
    (dict(layers=[Dense(2, name="a"), Dense(2, name="a")], inputs=3), ValueError, "'a' is used 2 times"),
    (dict(layers=[3, 2, 2], activation="rleu"), ValueError, "unknown activation 'rleu': did you mean 'relu'"),
    (
        dict(layers=[3, 2], output_activation="softmax"),
        ValueError,
        "unknown activation 'softmax'",
    ),
    (dict(layers=[3, 2, 2], activation=None), TypeError, "activation must be a name"),
    (dict(layers=[3, 2], loss="mse"), ValueError, "unknown loss 'mse': did you mean 'mean_squared_error'"),
    (dict(layers=[3, 2], loss=None), TypeError, "loss must be a name"),
    (dict(layers=[3, 2], dtype="float16"), ValueError, 'dtype must be "float32" or "float64"; got float16'),
    (dict(layers=[3, 2], dtype=int), ValueError, "dtype must be .* got int"),
    (dict(layers=[3, 2], seed=-1), ValueError, "seed must be .* got -1"),
    (dict(layers=[3, 2], seed="0"), TypeError, "seed must be .* got '0'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_NETWORKS)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        Network(**arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_activation_is_refused_where_no_layer_is_hidden():
    with pytest.raises(ValueError, match="unknown activation 'rleu'"):
        Network([3, 2], activation="rleu")


def test_options_of_losses():
    net = Network([3, 2], loss=Loss("huber", delta=2.0))
    assert net.loss_function.option == 2.0
    for arguments, error in (
        (dict(name="huber", delta=0), ValueError),
        (dict(name="huber", delta="1"), TypeError),
        (dict(name="huber", alpha=1.0), TypeError),
        (dict(name="softmax_cross_entropy", label_smoothing=1.0), ValueError),
        (dict(name="softmax_cross_entropy", label_smoothing=NAN), ValueError),
        (dict(name="hubert"), ValueError),
    ):
        with pytest.raises(error):
            Loss(**arguments)


@pytest.mark.parametrize("name", ["dtype", "architecture", "loss_function", "layers", "parameters"])
def test_what_kernels_rely_on_cannot_be_replaced(name):
    net = Network([3, 4, 2], seed=0)
    with pytest.raises(AttributeError):
        setattr(net, name, np.zeros(3))


def test_parameters_may_be_stepped_in_place():
    net = make_network([3, 4, 2])
    before, vector = net.parameters.copy(), net.parameters
    net.parameters -= 0.5 * before
    net.parameters *= 2
    assert np.array_equal(vector, before)
    assert net.parameters is vector


# Asking


def test_predict_logits_and_call():
    net = make_network([3, 4, 5], loss="softmax_cross_entropy", dtype="float64")
    x = draw_inputs(7, 3)
    logits = reference.forward(reference_layers(net), x)
    np.testing.assert_allclose(net.logits(x), logits, rtol=1e-13)
    np.testing.assert_allclose(net.predict(x), reference.softmax(logits), rtol=1e-13)
    np.testing.assert_allclose(net.predict(x).sum(axis=1), 1, rtol=1e-15)
    assert np.array_equal(net(x), net.predict(x))
    assert net.predict(x).dtype == np.float64


def test_one_row():
    net = make_network([3, 4, 2])
    row = draw_inputs(1, 3)[0]
    assert net.predict(row).shape == (2,)
    assert np.array_equal(net.predict(row), net.predict(row[None, :])[0])
    assert net.predict(row.tolist()).shape == (2,)
    one_input = make_network([1, 4, 2])
    assert one_input.predict([1.0, 2.0, 3.0]).shape == (3, 2)
    assert one_input.predict([1.0]).shape == (1, 2)


@pytest.mark.parametrize("n_in", [1, 2, 16, 17])
def test_one_row_again_and_again(n_in):
    """Single rows of the network's own type go a shorter way."""
    net = make_network([n_in, 4, 2], "gelu", "binary_cross_entropy")
    rows = draw_inputs(20, n_in).astype(np.float32)
    whole = net.predict(rows)
    kept = [net.predict(row[None]) for row in rows]
    assert np.array_equal(np.concatenate(kept), whole), "and none is overwritten by the next"
    strided = np.repeat(rows, 2, axis=1)[:, ::2]
    assert np.array_equal(net.predict(strided[3:4]), whole[3:4])
    assert np.array_equal(net.predict(rows[3:4].astype(">f4")), whole[3:4])
    if n_in > 1:
        assert np.array_equal(net.predict(rows[3]), whole[3])
    for bad in (NAN, INF, -INF):
        row = rows[:1].copy()
        row[0, -1] = bad
        with pytest.raises(ValueError, match=f"x must be finite; row 0, column {n_in - 1} is {bad}"):
            net.predict(row)
    assert np.array_equal(net.predict(rows[:1]), whole[:1])
    net.parameters[:] *= 2
    assert not np.array_equal(net.predict(rows[:1]), whole[:1])
    assert np.array_equal(net.predict(rows[:1]), net.predict(rows)[:1])


@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [[5, 9, 3], [3, 40, 1], [100, 200, 7], [1, 1]])
@pytest.mark.parametrize("loss", ["mean_squared_error", "binary_cross_entropy"])
def test_few_rows_and_many_give_the_same_bits(sizes, real, loss):
    net = make_network(sizes, "gelu", loss, dtype=real)
    x = draw_inputs(1000, sizes[0])
    for ask in (net.predict, net.logits):
        whole = ask(x)
        for rows in (1, 2, FEW_ROWS, FEW_ROWS + 1, 100):
            assert ask(x[:rows]).tobytes() == whole[:rows].tobytes()


@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("n_in", [7, 1024])  # rows of 4096 bytes are copied first
def test_many_rows_are_read_where_they_lie(n_in, real, monkeypatch):
    net = make_network([n_in, 5, 2], dtype=real)
    x = draw_inputs(300, n_in).astype(real)
    expected = np.concatenate([net.predict(x[:2]), net.predict(np.asfortranarray(x[2:]))])
    monkeypatch.setattr(validation, "inputs", None)  # nobody looks at them in Python
    x.flags.writeable = False
    assert np.array_equal(net.predict(x), expected)
    monkeypatch.undo()
    for bad in (NAN, INF, -INF):
        holed = x.copy()
        holed[299, 3] = bad
        for ask in (net.predict, net.logits):
            with pytest.raises(ValueError, match=f"x must be finite; row 299, column 3 is {bad}"):
                ask(holed)
    holed[299, 3] = np.finfo(real).max  # the largest number is one
    with np.errstate(over="ignore"):
        assert net.predict(holed).shape == (300, 2)
    assert np.array_equal(net.predict(x), expected)


def test_room_behind_the_vector():
    """Kernels read rows of W to whole vectors, of 64 bytes at most: past the end of the last row."""
    net = make_network([3, 4, 1])
    owner = net.parameters
    while owner.base is not None:
        owner = owner.base
    end = net.parameters.ctypes.data + net.parameters.nbytes
    assert owner.ctypes.data + owner.nbytes - end >= 64


def test_few_rows_of_a_net_without_biases():
    net = Network([Dense(9, "tanh", use_bias=False), Dense(3, use_bias=False)], inputs=5, seed=1)
    x = draw_inputs(50, 5)
    assert net.predict(x[:3]).tobytes() == net.predict(x)[:3].tobytes()


def test_changed_parameters_are_seen_at_once():
    net = make_network([3, 4, 2])
    x, y = draw_inputs(20, 3), draw_targets("mean_squared_error", 20, 2)
    before = net.predict(x), net.predict(x[:2]), net.loss(x, y), net.gradient(x, y)[1].parameters
    net.layers[1].b[0] += 1
    after = net.predict(x), net.predict(x[:2]), net.loss(x, y), net.gradient(x, y)[1].parameters
    np.testing.assert_allclose(after[0][:, 0], before[0][:, 0] + 1, atol=1e-6)
    np.testing.assert_allclose(after[1][:, 0], before[1][:, 0] + 1, atol=1e-6)
    assert after[2] != before[2]
    assert not np.array_equal(after[3], before[3])


def test_loss_and_gradient_agree():
    net = make_network([3, 4, 2], dtype="float64")
    x, y = draw_inputs(20, 3), draw_targets("mean_squared_error", 20, 2)
    loss, gradient = net.gradient(x, y)
    assert loss == net.loss(x, y)
    assert type(loss) is float
    assert gradient.parameters.shape == net.parameters.shape
    assert gradient.inputs.shape == x.shape
    for layer, mine in zip(gradient.layers, net.layers):
        assert layer.W.shape == mine.W.shape
        assert np.shares_memory(layer.W, gradient.parameters)
        assert not np.shares_memory(layer.W, net.parameters)


def test_asking_changes_nothing():
    net = make_network([3, 4, 2])
    before, x, y = net.parameters.copy(), draw_inputs(20, 3), draw_targets("mean_squared_error", 20, 2)
    x_before, y_before = x.copy(), y.copy()
    for ask in (net.gradient, net.loss, net.evaluate):
        ask(x, y)
    net.predict(x)
    assert np.array_equal(net.parameters, before)
    assert np.array_equal(x, x_before)
    assert np.array_equal(y, y_before)


def test_results_are_not_overwritten_by_the_next_call():
    net = make_network([3, 4, 2])
    x, y = draw_inputs(20, 3), draw_targets("mean_squared_error", 20, 2)
    outputs, gradient = net.predict(x), net.gradient(x, y)[1]
    kept = outputs.copy(), gradient.parameters.copy(), gradient.inputs.copy()
    net.predict(2 * x), net.gradient(2 * x, y)
    assert np.array_equal(outputs, kept[0])
    assert np.array_equal(gradient.parameters, kept[1])
    assert np.array_equal(gradient.inputs, kept[2])


def test_evaluate():
    x = draw_inputs(200, 3)
    net = make_network([3, 4, 5], loss="softmax_cross_entropy")
    labels = draw_targets("softmax_cross_entropy", 200, 5)
    result = net.evaluate(x, labels)
    assert result == {
        "loss": net.loss(x, labels),
        "accuracy": (net.predict(x).argmax(axis=1) == labels).mean(),
    }
    assert net.evaluate(x, np.eye(5)[labels])["accuracy"] == result["accuracy"]

    net = make_network([3, 4, 2], loss="binary_cross_entropy")
    y = draw_targets("binary_cross_entropy", 200, 2)
    assert net.evaluate(x, y)["accuracy"] == ((net.predict(x) > 0.5) == (y == 1)).mean()

    net = make_network([3, 4, 1], loss="hinge")
    y = draw_targets("hinge", 200, 1)
    assert net.evaluate(x, y)["accuracy"] == (np.sign(net.predict(x)) == y).mean()

    net = make_network([3, 4, 2])
    y = draw_targets("mean_squared_error", 200, 2)
    assert net.evaluate(x, y) == {"loss": net.loss(x, y)}


def test_repr_and_summary():
    net = Network([64, 32, 10], loss="softmax_cross_entropy", seed=0)
    assert repr(net) == "Network(64 → 32 relu → 10, softmax_cross_entropy, 2,410 parameters, float32)"
    summary = net.summary()
    assert "2,410 parameters, float32" in summary
    assert "loss: softmax_cross_entropy, link: softmax" in summary
    assert all(line == line.rstrip() for line in summary.splitlines())
    rows = [line.split() for line in summary.splitlines()]
    assert ["layer0", "64", "32", "relu", "2,080"] in rows
    named = Network([Dense(4, name="first"), Dense(2)], inputs=3, seed=0).summary()
    assert "first" in named
    assert "layer1" in named


@pytest.mark.parametrize(
    "copy_of",
    [
        copy.deepcopy,
        copy.copy,
        lambda net: pickle.loads(pickle.dumps(net)),
    ],
    ids=["deepcopy", "copy", "pickle"],
)
def test_copies_stand_alone(copy_of):
    net = make_network([3, 4, 2], "gelu", "huber", dtype="float64")
    x, y = draw_inputs(20, 3), draw_targets("huber", 20, 2)
    net.gradient(x, y)
    other = copy_of(net)
    assert repr(other) == repr(net)
    assert other.seed == net.seed
    assert other.loss_function.option == 0.7
    assert np.array_equal(other.parameters, net.parameters)
    assert other.loss(x, y) == net.loss(x, y)
    other.layers[0].W[0, 0] += 1
    assert other.loss(x, y) != net.loss(x, y)
    assert np.shares_memory(other.layers[0].W, other.parameters)
    fastbp.train(other, x, y, epochs=1)
    fastbp.train(net, x, y, epochs=1)


def test_threads_may_ask_at_once():
    net = make_network([20, 30, 5])
    x, y = draw_inputs(300, 20), draw_targets("mean_squared_error", 300, 5)
    expected = net.predict(x), net.gradient(x, y)[1].parameters, net.predict(x[:2])
    wrong = []

    def ask():
        for _ in range(30):
            got = net.predict(x), net.gradient(x, y)[1].parameters, net.predict(x[:2])
            if not all(map(np.array_equal, got, expected)):
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# A user's own activation


@pytest.fixture
def table(monkeypatch):
    """What is added to the activations is taken out again."""
    before = dict(activations.ACTIVATIONS)
    yield activations.ACTIVATIONS
    activations.ACTIVATIONS.clear()
    activations.ACTIVATIONS.update(before)


@pytest.mark.parametrize(
    ("forward", "backward", "keeps"),
    [
        (lambda z: z * z, lambda dy, z: dy * (z + z), "z"),
        (lambda z: np.sin(z), lambda dy, z: dy * np.cos(z), "z"),
        (np.tanh, lambda dy, y: dy * (1 - y * y), "y"),
    ],
    ids=["square", "sine", "ufunc"],
)
def test_own_activation(table, forward, backward, keeps):
    fastbp.register_activation("mine", forward, backward, keeps)
    net = make_network([3, 4, 2], "mine", dtype="float64")
    x, y = draw_inputs(20, 3), draw_targets("mean_squared_error", 20, 2)
    W, b, _ = reference_layers(net)[0]
    hidden = forward(x @ W + b)
    np.testing.assert_allclose(net.predict(x), hidden @ net.layers[1].W + net.layers[1].b, rtol=1e-12)
    loss, gradient = net.gradient(x, y)
    direction, start = np.linspace(-1, 1, net.parameters.size), net.parameters.copy()
    losses = []
    for sign in (1, -1):
        net.parameters[:] = start + sign * 1e-5 * direction
        losses.append(net.loss(x, y))
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(gradient.parameters @ direction, rel=1e-7)
    net.parameters[:] = start
    fastbp.train(net, x, y, epochs=20, optimizer=fastbp.SGD(0.01))
    assert net.loss(x, y) < loss


def test_own_activation_replaced(table):
    x = draw_inputs(5, 3)
    fastbp.register_activation("mine", lambda z: z + z, lambda dy, z: dy + dy)
    first = make_network([3, 4, 2], "mine", dtype="float64").predict(x)
    fastbp.register_activation("mine", lambda z: z, lambda dy, z: dy, overwrite=True)
    second = make_network([3, 4, 2], "mine", dtype="float64").predict(x)
    plain = make_network([3, 4, 2], "identity", dtype="float64").predict(x)
    assert np.array_equal(second, plain)
    assert not np.array_equal(first, second)


def test_own_activation_has_the_constants_of_its_latest_registration(table):
    def leaky(z):
        return z if z > 0 else slope * z

    def leaky_backward(dy, z):
        return dy if z > 0 else slope * dy

    for slope in (0.25, 0.75):
        fastbp.register_activation("mine", leaky, leaky_backward, overwrite=True)
        net = fastbp.Network([1, 1], output_activation="mine")
        net.parameters[:] = 1, 0
        assert net.predict([[-1.0]]) == -slope


@pytest.mark.parametrize("outside", [0, 1])
def test_a_residual_block_that_begins_with_dropout_reads_its_input_twice(outside):
    block = [fastbp.Dropout(0.5), fastbp.Dense(5, "tanh")]
    layers = [*[fastbp.Dropout(0.1)] * outside, fastbp.Residual(block), fastbp.Dense(2)]
    net = fastbp.Network(layers, inputs=5, dtype="float64", seed=1)
    x = draw_inputs(300, 5)
    np.testing.assert_allclose(
        net.logits(x), reference.stack_forward(stack_of(net), x), rtol=1e-10, atol=1e-12
    )


# Bad input


LAYOUTS = {
    "list": lambda a: a.tolist(),
    "float64": lambda a: a.astype(np.float64),
    "read-only": read_only,
    "Fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "object": lambda a: a.astype(object),
    "frame": Frame,
}


def ask_everything(net, x, y):
    loss, gradient = net.gradient(x, y)
    return [
        loss, gradient.parameters, gradient.inputs, net.loss(x, y), net.predict(x), net.logits(x), net(x),
        list(net.evaluate(x, y).values()),
    ]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", ["mean_squared_error", "softmax_cross_entropy"])
def test_any_layout_of_data_means_the_same(layout, loss):
    net = make_network([3, 4, 2], loss=loss)
    x, y = draw_inputs(20, 3).astype(np.float32), draw_targets(loss, 20, 2)
    y = y if y.ndim == 1 else y.astype(np.float32)
    for got, expected in zip(
        ask_everything(net, LAYOUTS[layout](x), LAYOUTS[layout](y)), ask_everything(net, x, y)
    ):
        assert np.array_equal(got, expected)


GOOD_X, GOOD_Y, LABELS = draw_inputs(6, 3), draw_targets("mean_squared_error", 6, 2), [0, 1, 1, 0, 1, 0]


def replaced(array, value):
    out = np.array(array, float)
    out[2, 1] = value
    return out


BAD_X = [
    (GOOD_X[:, :2], ValueError),
    (GOOD_X[:, :, None], ValueError),
    (GOOD_X[:0], ValueError),
    ([], ValueError),
    (replaced(GOOD_X, NAN), ValueError),
    (replaced(GOOD_X, INF), ValueError),
    (replaced(GOOD_X, 1e300), ValueError),
    (None, TypeError),
    ("text", TypeError),
    (GOOD_X.astype(str), TypeError),
    (GOOD_X.astype(complex), TypeError),
    ([[1, 2, 3], [4, 5]], ValueError),
    ({"a": 1}, TypeError),
    (np.ma.masked_array(GOOD_X, GOOD_X > 1), ValueError),
]
BAD_Y = [
    ("mean_squared_error", GOOD_Y[:5], ValueError),
    ("mean_squared_error", GOOD_Y[:, :1], ValueError),
    ("mean_squared_error", GOOD_Y.ravel(), ValueError),
    ("mean_squared_error", replaced(GOOD_Y, NAN), ValueError),
    ("mean_squared_error", GOOD_Y.astype(str), TypeError),
    ("mean_squared_error", None, (TypeError, ValueError)),
    ("softmax_cross_entropy", [0, 1, 1, 0, 2, 0], ValueError),
    ("softmax_cross_entropy", [0, 1, 1, 0, -1, 0], ValueError),
    ("softmax_cross_entropy", [0, 1, 1, 0, 0.5, 0], ValueError),
    ("softmax_cross_entropy", [0, 1, 1, 0, NAN, 0], ValueError),
    ("softmax_cross_entropy", ["a"] * 6, TypeError),
    ("softmax_cross_entropy", LABELS[:5], ValueError),
    ("softmax_cross_entropy", np.full((6, 2), 0.7), ValueError),
    ("softmax_cross_entropy", np.tile([1.5, -0.5], (6, 1)), ValueError),
    ("binary_cross_entropy", np.full((6, 2), 1.5), ValueError),
    ("poisson", np.full((6, 2), -1.0), ValueError),
    ("hinge", np.zeros((6, 2)), ValueError),
]


@pytest.mark.parametrize(("x", "error"), BAD_X)
@pytest.mark.parametrize(
    "ask", ["predict", "logits", "__call__", "loss", "gradient", "evaluate", "train", "check"]
)
def test_bad_inputs_are_refused(ask, x, error):
    net = make_network([3, 4, 2])
    if ask == "check" and np.array_equal(x, replaced(GOOD_X, 1e300)):
        pytest.skip("it checks in float64, which holds this number")
    before = net.parameters.copy()
    with pytest.raises(error):
        call(net, ask, x, GOOD_Y)
    assert np.array_equal(net.parameters, before)


@pytest.mark.parametrize(("loss", "y", "error"), BAD_Y)
@pytest.mark.parametrize("ask", ["loss", "gradient", "evaluate", "train", "check", "validation"])
def test_bad_targets_are_refused(ask, loss, y, error):
    net = make_network([3, 4, 2], loss=loss)
    before = net.parameters.copy()
    with pytest.raises(error):
        call(net, ask, GOOD_X, y)
    assert np.array_equal(net.parameters, before)


def call(net, ask, x, y):
    if ask == "train":
        return fastbp.train(net, x, y, epochs=1)
    if ask == "validation":
        good = LABELS if net.loss_function.name == "softmax_cross_entropy" else np.ones((6, 2))
        return fastbp.train(net, GOOD_X, good, epochs=1, validation=(x, y))
    if ask == "check":
        return fastbp.check_gradients(net, x, y)
    takes_targets = ask in ("loss", "gradient", "evaluate")
    return getattr(net, ask)(x, y) if takes_targets else getattr(net, ask)(x)


@pytest.mark.parametrize("path", [None, 3, io.BytesIO()])
def test_save_wants_a_path(path):
    with pytest.raises((TypeError, ValueError)):
        make_network([3, 4, 2]).save(path)


@pytest.mark.parametrize("not_a_network", [None, "net", [3, 4, 2], types.SimpleNamespace()])
def test_functions_want_a_network(not_a_network):
    with pytest.raises(TypeError, match="network must be a "):
        fastbp.train(not_a_network, GOOD_X, GOOD_Y)
    with pytest.raises(TypeError, match="network must be a "):
        fastbp.check_gradients(not_a_network, GOOD_X, GOOD_Y)


# Interrupting


@pytest.mark.parametrize("ask", ["predict", "loss", "gradient"])
def test_an_interrupt_waits_for_the_threads(ask, monkeypatch):
    """They read x and write to arrays of the call, which are gone when it has returned."""
    monkeypatch.setattr("fastbp.network.automatic_threads", lambda *arguments, **options: 2)
    net, x = make_network([64, 512, 3], dtype="float64"), draw_inputs(20_000, 64)
    rows = (x,) if ask == "predict" else (x, draw_targets("mean_squared_error", 20_000, 3))
    before, start, teams = getattr(net, ask)(*rows), Team.start, []

    def start_and_interrupt(team):
        start(team)
        teams.append(team)
        signal.raise_signal(signal.SIGINT)
        return team

    monkeypatch.setattr(Team, "start", start_and_interrupt)
    with pythons_own_handler(), pytest.raises(KeyboardInterrupt):
        getattr(net, ask)(*rows)
    assert [len(team._contexts) for team in teams] == [2]
    assert not teams[0].runs
    monkeypatch.setattr(Team, "start", start)
    np.testing.assert_equal(getattr(net, ask)(*rows), before)
