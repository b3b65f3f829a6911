"""What stands around the steps: short calls, rows one at a time, metrics, checkpoints."""

import tempfile

import numpy as np

import fastbp
from fastbp.formulas.losses import LOSSES
from fastbp.metrics import METRICS, as_metrics, measure

from .timing import least, measured

NETWORKS = {
    "2-8-1": ([2, 8, 1], "tanh", "mean_squared_error"),
    "64-32-10": ([64, 32, 10], "relu", "softmax_cross_entropy"),
    "784-128-10": ([784, 128, 10], "relu", "softmax_cross_entropy"),
}
CALLS, ROWS = 200, 10_000


@measured(network=NETWORKS)
def time_short_training(network):
    """A call of `train` for one epoch of 64 rows; seconds per call."""
    network, x, y = _case(network, 64)
    return least(lambda: fastbp.train(network, x, y, epochs=1))


@measured(network=NETWORKS, update_network=[True, False])
def time_online_step(network, update_network):
    """`OnlineTrainer.step` of one row; seconds per call."""
    network, x, y = _case(network, 1)
    trainer = fastbp.OnlineTrainer(network, fastbp.SGD(1e-4), update_network=update_network)
    row, target = x[0], y[0]

    def run():
        for _ in range(CALLS):
            trainer.step(row, target)

    return least(run) / CALLS


@measured(network=NETWORKS)
def time_chunk(network):
    """A chunk of 32 rows in a stream, one step; seconds per chunk."""
    network, x, y = _case(network, 32)
    chunks = [(x, y)] * CALLS
    return least(lambda: fastbp.train(network, chunks, epochs=1, optimizer=fastbp.SGD(1e-4))) / CALLS


@measured(metric=METRICS)
def time_metric(metric):
    """Of 10 classes or one number; seconds per row."""
    draw = np.random.default_rng(0)
    loss = LOSSES["softmax_cross_entropy" if METRICS[metric].of != "values" else "mean_squared_error"]
    y = draw.integers(0, 10, ROWS) if loss.targets == "classes" else draw.random((ROWS, 1))
    predictions = draw.dirichlet(np.ones(10), ROWS) if y.ndim == 1 else draw.random((ROWS, 1))
    metrics = as_metrics([metric], loss)
    return least(lambda: measure(metrics, loss, y, predictions)) / ROWS


@measured(network=NETWORKS)
def time_checkpoint(network):
    """An epoch of 64 rows by Adam with a checkpoint, less one without; seconds per checkpoint."""
    network, x, y = _case(network, 64)
    epochs, optimizer = 10, fastbp.Adam(1e-4)

    def train(**how):
        fastbp.train(network, x, y, epochs=epochs, optimizer=optimizer, callbacks=[_nothing], **how)

    def with_checkpoints():
        with tempfile.TemporaryDirectory() as folder:
            train(checkpoints=fastbp.Checkpoints(folder, every=1))

    return max(0.0, least(with_checkpoints) - least(train)) / epochs


def _nothing(training):
    """A callback, so that each epoch is a call of its own either way."""


def _case(name, rows):
    """(network, x, y)"""
    sizes, activation, loss = NETWORKS[name]
    draw = np.random.default_rng(0)
    x = draw.standard_normal((rows, sizes[0])).astype(np.float32)
    classes = loss == "softmax_cross_entropy"
    y = draw.integers(0, 10, rows) if classes else draw.random((rows, sizes[-1])).astype(np.float32)
    return fastbp.Network(sizes, activation=activation, loss=loss, seed=0), x, y
