"""Training as a user calls it: seconds of one step, and of one epoch of 8192 rows in shuffled batches."""

import os

import numpy as np

import fastbp

from .timing import measured

# name: (sizes, activation, loss, batch)
NETWORKS = {
    "2-8-1 tanh, batch 4": ([2, 8, 1], "tanh", "mean_squared_error", 4),
    "64-32-10 relu, batch 32": ([64, 32, 10], "relu", "softmax_cross_entropy", 32),
    "784-128-10 relu, batch 32": ([784, 128, 10], "relu", "softmax_cross_entropy", 32),
    "784-128-10 relu, batch 128": ([784, 128, 10], "relu", "softmax_cross_entropy", 128),
}
ROWS = 8192
THREADS = [threads for threads in (1, 2, 4, 8) if threads <= (os.cpu_count() or 1)]


@measured(network=NETWORKS, threads=THREADS)
def time_step(network, threads):
    """One step on a batch that is in cache: an epoch of one batch, unshuffled."""
    batch = NETWORKS[network][-1]
    return epoch_seconds(*NETWORKS[network], rows=batch, shuffle=False, threads=threads)


@measured(network=NETWORKS, threads=THREADS)
def time_epoch(network, threads):
    """Strong scaling: the same work on more threads."""
    return epoch_seconds(*NETWORKS[network], rows=ROWS, shuffle=True, threads=threads)


@measured(network=NETWORKS)
def time_epoch_automatic_threads(network):
    return epoch_seconds(*NETWORKS[network], rows=ROWS, shuffle=True, threads=None)


OPTIMIZERS = {
    "sgd": fastbp.SGD(1e-4),
    "momentum": fastbp.SGD(1e-4, momentum=0.9),
    "nesterov": fastbp.SGD(1e-4, momentum=0.9, nesterov=True),
    "momentum, biases apart": fastbp.SGD(1e-4, momentum=0.9, weight_decay=1e-4, decay_biases=False),
    "momentum, cosine": fastbp.SGD(1e-4, momentum=0.9, schedule=fastbp.schedules.Cosine(per="step")),
    "adam": fastbp.Adam(1e-4),
    "amsgrad": fastbp.Adam(1e-4, amsgrad=True),
}


@measured(optimizer=OPTIMIZERS, real=["float32", "float64"])
def time_step_64_32_10(optimizer, real):
    """What the optimizer and the type of numbers change in a step."""
    return epoch_seconds(
        *NETWORKS["64-32-10 relu, batch 32"], rows=32, shuffle=False, threads=1, real=real,
        optimizer=OPTIMIZERS[optimizer],
    )  # fmt: skip


def epoch_seconds(sizes, activation, loss, batch, *, rows, shuffle, threads, real="float32", optimizer=None):
    """The least seconds of an epoch, in a training long enough to be in its stride."""
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, sizes[0])).astype(real)
    classes = loss == "softmax_cross_entropy"
    y = (
        random.integers(0, sizes[-1], rows)
        if classes
        else random.standard_normal((rows, sizes[-1])).astype(real)
    )
    network = fastbp.Network(sizes, activation=activation, loss=loss, dtype=real, seed=0)

    def seconds(epochs):
        history = fastbp.train(
            network, x, y, epochs=epochs, batch_size=batch, shuffle=shuffle, threads=threads, progress=False,
            optimizer=optimizer or fastbp.SGD(1e-4, momentum=0.9),
        )  # fmt: skip
        return history.seconds

    return min(seconds(max(3, int(0.1 / min(seconds(2))))))
