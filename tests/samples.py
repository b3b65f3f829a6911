"""Small networks and data for the tests, and what the reference makes of them."""

import contextlib
import signal

import numpy as np

import fastbp
from fastbp.architecture import Architecture
from fastbp.formulas.losses import LOSSES
from tests import reference

OPTIONS = {"huber": {"delta": 0.7}, "softmax_cross_entropy": {"label_smoothing": 0.1}}


def draw_inputs(n, n_in, seed=0):
    """x (n, n_in), normal."""
    return np.random.default_rng(seed).normal(size=(n, n_in))


def draw_targets(loss, n, n_out, seed=0, *, probabilities=False):
    """Targets that a loss takes: (n, n_out), or (n,) classes."""
    draw = np.random.default_rng(seed + 1)
    kind = LOSSES[loss].targets
    if kind == "classes":
        return draw.dirichlet(np.ones(n_out), n) if probabilities else draw.integers(0, n_out, n)
    return {
        "real": lambda: draw.normal(size=(n, n_out)),
        "binary": lambda: draw.integers(0, 2, (n, n_out)).astype(float),
        "count": lambda: draw.poisson(1.5, (n, n_out)).astype(float),
        "sign": lambda: draw.integers(0, 2, (n, n_out)) * 2.0 - 1,
    }[kind]()


def make_network(sizes, activation="tanh", loss="mean_squared_error", *, seed=1, option=True, **keywords):
    """A network whose biases are not zero; with `option`, that of the loss is not the default.

    Where the activation is the exponential, weights are small: it would overflow within a few steps.
    """
    loss = fastbp.Loss(loss, **(OPTIONS.get(loss, {}) if option else {}))
    net = fastbp.Network(sizes, activation=activation, loss=loss, seed=seed, **keywords)
    draw = np.random.default_rng(seed)
    for layer in net.layers:
        if layer.b is not None:
            layer.b[:] = 0.3 * draw.normal(size=layer.b.shape)
    if activation == "exponential":
        net.parameters[:] *= 0.1
    return net


def make_architecture(sizes=(64, 32, 10), activation="relu", loss="softmax_cross_entropy", real="float32"):
    """What a plan needs to know of a network of dense layers."""
    layers = len(sizes) - 1
    return Architecture(tuple(sizes), (activation,) * layers, (True,) * layers, loss, 0.0, real)


def reference_layers(net):
    """The layers of a network as `tests.reference` takes them."""
    return [
        (
            layer.W.astype(np.float64),
            np.zeros(layer.n_out) if layer.b is None else layer.b.astype(np.float64),
            layer.activation,
        )
        for layer in net.layers
    ]


def flat(pairs):
    """One vector of [(dW, db), …] or of reference layers."""
    return np.concatenate([array.ravel() for pair in pairs for array in pair[:2]])


def batches(x, y, batch_size, epochs):
    """The batches of some epochs without shuffling."""
    starts = range(0, len(x), batch_size)
    return [(x[i : i + batch_size], y[i : i + batch_size]) for _ in range(epochs) for i in starts]


def difference(got, expected):
    """The largest difference, relative to the largest number expected."""
    return np.abs(np.asarray(got, np.float64) - expected).max() / np.abs(expected).max()


class Frame:
    """All that is asked of a frame: __array__."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype=dtype)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def stack_of(net, *, parameters=None, draws=None, batch_statistics=False):
    """A network of any layers as `tests.reference` takes it.

    parameters : a flat vector in place of the network's, float64; draws : (seed, epoch, step, rows) of a
    training step, or None outside training.
    """
    vector = np.array(net.parameters, np.float64) if parameters is None else parameters
    training = draws is not None or batch_statistics
    stack = []
    for number, (layer, placed) in enumerate(zip(net._views(vector), net._placed)):
        if layer.kind == "Residual":
            inner = [each for place, each in stack if place >= placed.first]
            stack = [pair for pair in stack if pair[0] < placed.first]
            stack.append((placed.first, reference.residual_layer(inner)))
        else:
            stack.append((number, _of_reference(layer, placed.layer, number, draws, training)))
    return [each for _, each in stack]


def _of_reference(layer, described, number, draws, training):
    if layer.kind == "Dense":
        return reference.dense_layer(layer.W, layer.b, layer.activation)
    if layer.kind == "Activation":
        return reference.activation_layer(layer.activation)
    if layer.kind == "Dropout":
        multipliers = 1.0
        if draws is not None:
            seed, epoch, step, rows = draws
            words = reference.dropout_words(seed, number, epoch, step, rows, layer.n_in)
            multipliers = reference.dropout_multipliers(described.rate, words)
        return reference.dropout_layer(multipliers)
    if layer.kind == "LayerNorm":
        return reference.layer_norm_layer(layer.gamma, layer.beta, described.epsilon)
    if layer.kind == "BatchNorm":
        running = layer.mean, layer.variance, described.epsilon, described.momentum
        return reference.batch_norm_layer(layer.gamma, layer.beta, *running, training)
    raise NotImplementedError(f"{layer.kind} has no reference")


def train_by_reference(net, x, y, *, epochs, batch_size, rate, seed, shape=None):
    """The flat vector after plain gradient descent without shuffling.

    shape : function of (flat gradient, step) that every gradient goes through.
    """
    vector, step = net.parameters.astype(np.float64), 0
    loss = net.loss_function
    for epoch in range(epochs):
        for start in range(0, len(x), batch_size):
            step, rows = step + 1, slice(start, start + batch_size)
            stack = stack_of(net, parameters=vector, draws=(seed, epoch, step, len(x[rows])))
            _, gradient, _ = reference.stack_gradient(stack, x[rows], y[rows], loss.name, loss.option)
            vector -= rate * (shape(gradient, step) if shape else gradient)
    return vector


# Networks of layers of every kind, for tests of the bits.
# name: layers, number of inputs, loss, rows, batch size
LAYERED = {
    "dropout": (
        [fastbp.Dropout(0.2), fastbp.Dense(19, "tanh"), fastbp.Dropout(0.5), fastbp.Dense(33, "gelu"),
         fastbp.Dropout(0.9), fastbp.Dense(3)], 7, "softmax_cross_entropy", 50, 20,
    ),
    "dropout in chunks": (
        [fastbp.Dense(16, "tanh"), fastbp.Dropout(0.5), fastbp.Dense(3)], 5, "mean_squared_error", 700, 300,
    ),
    "dropout, by columns": (
        [fastbp.Dense(70, "tanh"), fastbp.Dropout(0.5), fastbp.Dense(2)], 200, "mean_squared_error", 50, 20,
    ),
    "layer norm": (
        [fastbp.LayerNorm(0.01), fastbp.Dense(19, "gelu"), fastbp.LayerNorm(), fastbp.Dense(33, "tanh"),
         fastbp.LayerNorm(shift=False), fastbp.Dense(2), fastbp.LayerNorm(scale=False), fastbp.Dense(3)],
        7, "softmax_cross_entropy", 50, 20,
    ),
    "layer norm in chunks": (
        [fastbp.Dense(18, "tanh"), fastbp.LayerNorm(), fastbp.Dense(3)], 5, "mean_squared_error", 700, 300,
    ),
    "layer norm, by columns": (
        [fastbp.Dense(70, "tanh"), fastbp.LayerNorm(), fastbp.Dense(2)], 200, "mean_squared_error", 50, 20,
    ),
    "batch norm": (
        [fastbp.BatchNorm(), fastbp.Dense(19, "gelu"), fastbp.BatchNorm(0.01, 0.3), fastbp.Dense(33, "tanh"),
         fastbp.BatchNorm(shift=False), fastbp.BatchNorm(scale=False), fastbp.Dense(3)],
        7, "softmax_cross_entropy", 141, 70,  # the last batch has one row
    ),
    "batch norm of many rows": (
        [fastbp.Dense(6, "tanh"), fastbp.BatchNorm(), fastbp.Dense(3)], 5, "mean_squared_error", 700, 300,
    ),
    "batch norm, by columns": (
        [fastbp.Dense(70, "tanh"), fastbp.BatchNorm(), fastbp.Dense(2)], 200, "mean_squared_error", 50, 20,
    ),
    "residual": (
        [fastbp.Residual([fastbp.Dense(7, "tanh"), fastbp.Residual([fastbp.LayerNorm(), fastbp.Dense(7)])]),
         fastbp.Dense(19, "gelu"), fastbp.Residual([fastbp.Dropout(0.3)], name="odd"),
         fastbp.Residual([fastbp.Residual([fastbp.Dense(5, "relu"), fastbp.BatchNorm(), fastbp.Dense(19)])]),
         fastbp.Dense(3), fastbp.Residual([fastbp.Dense(3, "tanh")])], 7, "softmax_cross_entropy", 50, 20,
    ),
    "activations": (
        [fastbp.Activation("tanh"), fastbp.Dense(19), fastbp.BatchNorm(), fastbp.Activation("gelu"),
         fastbp.Dense(9, "tanh"), fastbp.Activation("identity"), fastbp.Residual([fastbp.Dense(9)]),
         fastbp.Activation("softplus"), fastbp.Dense(3), fastbp.Activation("sigmoid")],
        7, "softmax_cross_entropy", 50, 20,
    ),
    "activations in chunks": (
        [fastbp.Dense(16), fastbp.LayerNorm(), fastbp.Activation("silu"), fastbp.Activation("tanh"),
         fastbp.Dense(3)], 5, "mean_squared_error", 700, 300,
    ),
    "activations, by columns": (
        [fastbp.Dense(70), fastbp.Activation("gelu"), fastbp.Dense(2)], 200, "mean_squared_error", 50, 20,
    ),
    "residual in chunks": (
        [fastbp.Residual([fastbp.Dense(16, "tanh"), fastbp.Dropout(0.2), fastbp.Dense(5)]),
         fastbp.LayerNorm(), fastbp.Dense(3)], 5, "mean_squared_error", 700, 300,
    ),
    "residual, by columns": (
        [fastbp.Residual([fastbp.Dense(200, "tanh")]), fastbp.Dense(2)], 200, "mean_squared_error", 50, 20,
    ),
}  # fmt: skip


def make_layered(name, dtype="float64"):
    """(network, x, y, batch size) of a row of `LAYERED`."""
    layers, inputs, loss, rows, batch_size = LAYERED[name]
    net = fastbp.Network(layers, inputs=inputs, loss=loss, dtype=dtype, seed=1)
    net.parameters[:] += 0.1 * np.random.default_rng(2).uniform(-1, 1, net.parameters.size)
    x, y = draw_inputs(rows, inputs), draw_targets(loss, rows, net.layers[-1].n_out)
    return net, x.astype(dtype), y.astype(dtype) if y.ndim == 2 else y, batch_size


@contextlib.contextmanager
def pythons_own_handler():
    """A shell that starts the tests in the background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
