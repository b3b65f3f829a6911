"""Prediction as a user calls it, from Python: seconds per call for one row, seconds per row for 100,000."""

import numpy as np

import fastbp

from .timing import least, measured

NETWORKS = {
    "2-8-1": ([2, 8, 1], "tanh", "mean_squared_error"),
    "64-32-10": ([64, 32, 10], "relu", "softmax_cross_entropy"),
    "784-128-10": ([784, 128, 10], "relu", "softmax_cross_entropy"),
}
CALLS, ROWS = 200, 100_000


@measured(network=NETWORKS)
def time_one_row(network):
    predict, x = _network(network).predict, _rows(network, 1)

    def run():
        for _ in range(CALLS):
            predict(x)

    return least(run) / CALLS


@measured(network=NETWORKS)
def time_rows(network):
    network, x = _network(network), _rows(network, ROWS)
    return least(lambda: network.predict(x), times=3) / ROWS


@measured(network=NETWORKS)
def time_gradient_of_32_rows(network):
    """`net.gradient`: loss, gradient of the parameters and of the inputs; seconds per call."""
    x = _rows(network, 32)
    network = _network(network)
    y = (
        np.zeros(32, np.int64)
        if network.loss_function.formula.targets == "classes"
        else np.zeros((32, 1), np.float32)
    )
    return least(lambda: network.gradient(x, y))


def _network(name):
    sizes, activation, loss = NETWORKS[name]
    return fastbp.Network(sizes, activation=activation, loss=loss, seed=0)


def _rows(name, n):
    block = np.random.default_rng(0).standard_normal((min(n, 1000), NETWORKS[name][0][0])).astype(np.float32)
    return np.tile(block, (-(-n // len(block)), 1))[:n]
