"""Training as a user calls it: seconds of one step, and of one epoch in shuffled batches.

The networks are those that are measured beside other libraries, `peers/cases.py`.
"""

import dataclasses

import fastbp
from fastbp.division import available_cores
from fastbp.formulas import optimizers
from fastbp.optimizers import BY_NAME

from .peers.cases import CASES
from .timing import REALS, measured

NETWORKS = {case.name: case for case in CASES}
ROWS = 8192  # of an epoch; a full batch has as many as it has
THREADS = [threads for threads in (1, 2, 4, 8) if threads <= available_cores()]

# One for each row of the optimizers' table, and what is more work than a row by itself.
OPTIMIZERS = {
    name: make(learning_rate=1e-4) for name, make in BY_NAME.items() if make is not fastbp.LBFGS
} | {
    "momentum": fastbp.SGD(1e-4, momentum=0.9),
    "nesterov": fastbp.SGD(1e-4, momentum=0.9, nesterov=True),
    "amsgrad": fastbp.Adam(1e-4, amsgrad=True),
    "rmsprop_momentum": fastbp.RMSprop(1e-4, momentum=0.9),
    "rmsprop_centered": fastbp.RMSprop(1e-4, centered=True),
    "momentum, biases apart": fastbp.SGD(1e-4, momentum=0.9, weight_decay=1e-4, decay_biases=False),
    "momentum, cosine": fastbp.SGD(1e-4, momentum=0.9, schedule=fastbp.schedules.Cosine(per="step")),
}
for _name in optimizers.OPTIMIZERS:
    if _name not in {each.formula for each in OPTIMIZERS.values()}:
        raise NotImplementedError(
            f"no step with {_name} is measured: say in OPTIMIZERS which optimizer has it"
        )


@measured(network=NETWORKS, threads=THREADS)
def time_step(network, threads):
    """One step on a batch that is in cache: an epoch of one batch, unshuffled."""
    case = NETWORKS[network]
    return epoch_seconds(dataclasses.replace(case, rows=case.batch_rows), threads=threads, shuffle=False)


@measured(network=NETWORKS, threads=THREADS)
def time_epoch(network, threads):
    """Strong scaling: the same work on more threads."""
    return epoch_seconds(_of_rows(network), threads=threads)


@measured(network=NETWORKS)
def time_epoch_automatic_threads(network):
    return epoch_seconds(_of_rows(network), threads=None)


@measured(optimizer=OPTIMIZERS, real=REALS)
def time_step_64_32_10(optimizer, real):
    """What the optimizer and the type of numbers change in a step."""
    case = dataclasses.replace(NETWORKS["64-32-10 relu, batch 32"], rows=32)
    return epoch_seconds(case, threads=1, shuffle=False, real=real, optimizer=OPTIMIZERS[optimizer])


def _of_rows(network):
    case = NETWORKS[network]
    return dataclasses.replace(case, rows=ROWS) if case.batch else case


def epoch_seconds(case, *, threads, shuffle=True, real="float32", optimizer=None):
    """The least seconds of an epoch, in a training long enough to be in its stride."""
    x, y = case.data()
    x, y = x.astype(real), y if case.classes else y.astype(real)
    loss = "softmax_cross_entropy" if case.classes else "mean_squared_error"
    network = fastbp.Network(list(case.sizes), activation=case.activation, loss=loss, dtype=real, seed=0)
    optimizer = optimizer or OPTIMIZERS[case.optimizer]

    def seconds(epochs):
        history = fastbp.train(
            network, x, y, epochs=epochs, batch_size=case.batch, shuffle=shuffle, threads=threads,
            progress=False, optimizer=optimizer,
        )  # fmt: skip
        return history.seconds

    return min(seconds(max(3, int(0.1 / min(seconds(2))))))
