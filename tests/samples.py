"""Small networks and data for the tests, and what the reference makes of them."""

import numpy as np

import fastbp
from fastbp.formulas.losses import LOSSES

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
