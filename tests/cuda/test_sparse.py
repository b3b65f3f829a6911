"""SciPy's sparse rows on a device: dense there, to the bits of the CPU."""

import numpy as np
import pytest

import fastbp
from tests.samples import draw_inputs, draw_targets, make_network


def test_sparse_rows_become_dense(device):
    csr_array = pytest.importorskip("scipy.sparse").csr_array
    x, y = draw_inputs(9, 5), draw_targets("mean_squared_error", 9, 2)
    x[np.abs(x) < 0.7] = 0
    nets = [make_network([5, 3, 2]) for _ in range(3)]
    histories = [fastbp.train(nets[i], csr_array(x), y, epochs=1, batch_size=4, validation=0.3, device=where)
                 for i, where in enumerate(("cpu", device))]  # fmt: skip
    fastbp.train_many(nets[2:], csr_array(x), y, epochs=1, batch_size=4, device=device)
    assert histories[0].validation_loss == histories[1].validation_loss
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    net = nets[0]
    assert net.predict(csr_array(x)).tobytes() == net.predict(csr_array(x), device=device).tobytes()
    found = [net.gradient(csr_array(x), y, device=where)[1] for where in ("cpu", device)]
    assert found[0].parameters.tobytes() == found[1].parameters.tobytes()
    assert found[1].inputs is None
