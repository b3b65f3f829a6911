"""On a GPU: seconds of a step, alone and of many networks at once, and of a row's prediction and evaluation.

Skipped where there is none.
"""

import time

import fastbp
from fastbp.cuda import device

from .peers.cases import CASES
from .timing import measured

NETWORKS = {case.name: case for case in CASES}


def setup(*values):
    """asv skips a benchmark whose setup raises this."""
    if device.missing():
        raise NotImplementedError(device.missing())


def _network(case, seed=0):
    return fastbp.Network(
        list(case.sizes), activation=case.activation, seed=seed,
        loss="softmax_cross_entropy" if case.classes else "mean_squared_error",
    )  # fmt: skip


def _trained(case):
    (x, y), net = case.data(), _network(case)
    optimizer = "adam" if case.optimizer == "adam" else fastbp.SGD(1e-3, momentum=0.9)
    history = fastbp.train(
        net, x, y, epochs=3, batch_size=case.batch, optimizer=optimizer, device="cuda", progress=False
    )
    return net, x, y, min(history.seconds)


@measured(network=NETWORKS)
def time_step_on_a_gpu(network):
    """A step of whole epochs in shuffled batches, the transfer of the data not counted after the first."""
    case = NETWORKS[network]
    return _trained(case)[-1] / case.steps


@measured(network=NETWORKS)
def time_predict_on_a_gpu(network):
    """A row of all rows at once, transfers of rows and outputs included."""
    net, x, _, _ = _trained(NETWORKS[network])
    net.predict(x, device="cuda")
    start = time.perf_counter()
    net.predict(x, device="cuda")
    return (time.perf_counter() - start) / len(x)


@measured(network=NETWORKS)
def time_evaluate_on_a_gpu(network):
    """A row of the loss of all rows at once, the transfer of the rows included."""
    net, x, y, _ = _trained(NETWORKS[network])
    net.loss(x, y, device="cuda")
    start = time.perf_counter()
    net.loss(x, y, device="cuda")
    return (time.perf_counter() - start) / len(x)


@measured(networks=[1, 16, 256])
def time_step_of_many_on_a_gpu(networks):
    """A step of 64-32-10 where so many are trained at once, all that is done before and after included."""
    case = next(case for case in CASES if case.sizes == (64, 32, 10))
    (x, y), options = case.data(), dict(epochs=3, batch_size=case.batch, device="cuda", progress=False)
    nets = [_network(case, seed) for seed in range(networks)]
    fastbp.train_many(nets[:1], x, y, **options)
    start = time.perf_counter()
    fastbp.train_many(nets, x, y, **options)
    return (time.perf_counter() - start) / (networks * options["epochs"] * case.steps)


for _benchmark in (
    time_step_on_a_gpu,
    time_predict_on_a_gpu,
    time_evaluate_on_a_gpu,
    time_step_of_many_on_a_gpu,
):
    _benchmark.setup = setup
