"""SciPy's sparse rows on a device, where they stay sparse: the bits of the CPU."""

import numpy as np
import pytest

import fastbp
from fastbp import device_memory
from fastbp.cuda import small
from tests.samples import draw_inputs, draw_targets, make_network


@pytest.fixture(params=["steps", "a block"])
def way(request, device, monkeypatch):
    """How a network is trained: in steps of many launches, or by a block of threads."""
    if request.param == "steps":
        monkeypatch.setattr(small, "MOST_BYTES", 0)
    return request.param


@pytest.fixture
def sent(monkeypatch):
    """Where each array that was sent to the device lies on the host."""
    places, begin = [], device_memory.device.Memory._begin
    monkeypatch.setattr(
        device_memory.device.Memory, "_begin",
        lambda memory, content: places.append(content.ctypes.data) or begin(memory, content),
    )  # fmt: skip
    return places


def sparse_rows(n, columns, dtype="float32"):
    """Rows in CSR, one of them empty, columns in any order, a stored 0."""
    csr_array = pytest.importorskip("scipy.sparse").csr_array
    x = draw_inputs(n, columns)
    x = np.where(np.abs(x) < 0.7, 0, x) if dtype == "float32" else np.abs(10 * x) * (np.abs(x) > 0.7)
    x[1] = 0
    made = csr_array(x.astype(dtype))
    made.data[0] = -0.0 if dtype == "float32" else 0
    for first, last in zip(made.indptr[:-1], made.indptr[1:]):
        for array in (made.indices, made.data):
            array[first:last] = array[first:last][::-1].copy()
    return made


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_sparse_rows(dtype, way, device, sent):
    x, y = sparse_rows(9, 5, dtype), draw_targets("mean_squared_error", 9, 2)
    make = lambda: fastbp.Network([5, 3, 2], activation="tanh", input_scale=1 / 3, seed=1)
    options = dict(epochs=2, batch_size=4, validation=(x[6:], y[6:]), metrics=["r2"], seed=3)
    nets = [make() for _ in range(4)]
    histories = [
        fastbp.train(net, x, y, device=where, **options) for net, where in zip(nets, ("cpu", device))
    ]
    assert [sent.count(array.ctypes.data) for array in (x.data, x.indices)] == [1, 1]
    histories += fastbp.train_many(nets[2:], x, y, device=device, **options)
    assert [sent.count(array.ctypes.data) for array in (x.data, x.indices)] == [
        2 if way == "a block" else 3
    ] * 2
    assert all(net.parameters.tobytes() == nets[0].parameters.tobytes() for net in nets)
    assert all(each.validation_loss == histories[0].validation_loss for each in histories)
    assert all(each.metrics == histories[0].metrics for each in histories)


def test_sparse_chunks_of_a_stream(way, device):
    x, y = sparse_rows(9, 5), draw_targets("mean_squared_error", 9, 2)
    nets = [make_network([5, 3, 2]) for _ in range(2)]
    for net, where in zip(nets, ("cpu", device)):
        fastbp.train(net, [(x[:5], y[:5]), (x[5:], y[5:])], epochs=1, batch_size=4, device=where)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_sparse_rows_in_float64(way, device):
    x, y = sparse_rows(5, 4), draw_targets("mean_squared_error", 5, 1)
    nets = [make_network([4, 3, 1], dtype="float64") for _ in range(2)]
    for net, where in zip(nets, ("cpu", device)):
        fastbp.train(net, x, y, epochs=1, batch_size=4, validation=0.4, device=where)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_predictions_and_gradients(device):
    x, y = sparse_rows(9, 5), draw_targets("mean_squared_error", 9, 2)
    net = make_network([5, 3, 2])
    assert net.predict(x).tobytes() == net.predict(x, device=device).tobytes()
    found = [net.gradient(x, y, device=where)[1] for where in ("cpu", device)]
    assert found[0].parameters.tobytes() == found[1].parameters.tobytes()
    assert found[1].inputs is None
    assert net.evaluate(x, y, ["r2"]) == net.evaluate(x, y, ["r2"], device=device)
