"""On a GPU: seconds of a step and of a row's prediction. Skipped where there is none."""

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


def _trained(case):
    x, y = case.data()
    net = fastbp.Network(
        list(case.sizes), activation=case.activation, seed=0,
        loss="softmax_cross_entropy" if case.classes else "mean_squared_error",
    )  # fmt: skip
    optimizer = "adam" if case.optimizer == "adam" else fastbp.SGD(1e-3, momentum=0.9)
    history = fastbp.train(
        net, x, y, epochs=3, batch_size=case.batch, optimizer=optimizer, device="cuda", progress=False
    )
    return net, x, min(history.seconds)


@measured(network=NETWORKS)
def time_step_on_a_gpu(network):
    """A step of whole epochs in shuffled batches, the transfer of the data not counted after the first."""
    case = NETWORKS[network]
    return _trained(case)[2] / case.steps


@measured(network=NETWORKS)
def time_predict_on_a_gpu(network):
    """A row of all rows at once, transfers of rows and outputs included."""
    net, x, _ = _trained(NETWORKS[network])
    net.predict(x, device="cuda")
    start = time.perf_counter()
    net.predict(x, device="cuda")
    return (time.perf_counter() - start) / len(x)


for _benchmark in (time_step_on_a_gpu, time_predict_on_a_gpu):
    _benchmark.setup = setup
