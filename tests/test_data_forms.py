"""Every form that data may have trains to the same bits, or to what it means."""

import numpy as np
import pytest
import scipy.sparse

import fastbp
from tests.samples import Frame, draw_inputs, draw_targets, make_network, read_only

SOFTMAX, BINARY = "softmax_cross_entropy", "binary_cross_entropy"
N, N_IN, N_OUT = 60, 6, 3


def mapped(x, folder, dtype):
    x.astype(dtype).tofile(folder / "x")
    return np.memmap(folder / "x", dtype, "r", shape=x.shape)


INPUTS = {
    "float32": lambda x, folder: x.astype(np.float32),
    "uint8": lambda x, folder: x.astype(np.uint8),
    "int64": lambda x, folder: x.astype(np.int64),
    "big-endian": lambda x, folder: x.astype(">f4"),
    "lists": lambda x, folder: x.tolist(),
    "columns": lambda x, folder: np.asfortranarray(x),
    "read-only": lambda x, folder: read_only(x),
    "frame": lambda x, folder: Frame(x),
    "mapped float64": lambda x, folder: mapped(x, folder, np.float64),
    "mapped uint8": lambda x, folder: mapped(x, folder, np.uint8),
    "sparse rows": lambda x, folder: scipy.sparse.csr_array(x),
    "sparse rows of bytes": lambda x, folder: scipy.sparse.csr_matrix(x.astype(np.uint8)),
    "sparse columns": lambda x, folder: scipy.sparse.csc_matrix(x),
}


def table():
    """x (N, N_IN) of whole numbers from 0 to 255, many of them 0, in float64; y (N,) classes."""
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (N, N_IN)) * (draw.random((N, N_IN)) < 0.6)
    return x.astype(np.float64), draw_targets(SOFTMAX, N, N_OUT)


def trained(x, y, loss=SOFTMAX, option=False, **how):
    net = make_network([N_IN, 5, N_OUT], loss=loss, dtype="float64", option=option, input_scale=1 / 255)
    history = fastbp.train(net, x, y, epochs=3, batch_size=16, validation=0.2, **how)
    found = net.evaluate(x, y), net.predict(x).tobytes(), net.gradient(x, y)[1].parameters.tobytes()
    return net.parameters.tobytes(), history.loss, history.validation_loss, *found


@pytest.mark.parametrize("form", INPUTS)
def test_inputs(form, tmp_path):
    x, y = table()
    assert trained(INPUTS[form](x, tmp_path), y) == trained(x, y)


CLASSES = {
    "a column": lambda y: y[:, None],
    "uint8": lambda y: y.astype(np.uint8),
    "floats": lambda y: y.astype(np.float32),
    "a list": lambda y: y.tolist(),
}
ONE_HOT = {
    "float32": lambda y: np.eye(N_OUT, dtype=np.float32)[y],
    "integers": lambda y: np.eye(N_OUT, dtype=int)[y],
    "booleans": lambda y: np.eye(N_OUT, dtype=bool)[y],
    "sparse": lambda y: scipy.sparse.csr_array(np.eye(N_OUT)[y]),
}


@pytest.mark.parametrize("form", CLASSES)
def test_classes(form):
    x, y = table()
    assert trained(x, CLASSES[form](y)) == trained(x, y)


@pytest.mark.parametrize("form", ONE_HOT)
def test_one_hot_targets_are_classes(form):
    x, y = table()
    parameters, loss, *_, evaluated, _, _ = trained(x, y)
    again, again_loss, *_, again_evaluated, _, _ = trained(x, ONE_HOT[form](y))
    np.testing.assert_allclose(np.frombuffer(again), np.frombuffer(parameters), rtol=1e-10, atol=1e-13)
    assert again_loss == pytest.approx(loss, rel=1e-12)
    assert again_evaluated == pytest.approx(evaluated, rel=1e-12)


def test_probabilities_are_classes_that_come_so_often():
    x, p = draw_inputs(20, N_IN), draw_targets(SOFTMAX, 20, N_OUT, probabilities=True)
    net = make_network([N_IN, 5, N_OUT], loss=SOFTMAX, dtype="float64")
    loss, gradient = net.gradient(x, p)
    rows, classes = np.divmod(np.arange(20 * N_OUT), N_OUT)
    expected, expected_gradient = net.gradient(x[rows], classes, sample_weight=p.ravel())
    assert loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient.parameters, expected_gradient.parameters, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("loss", [BINARY, "mean_squared_error"])
def test_several_labels_or_values_are_each_an_output_of_its_own(loss):
    x, y = draw_inputs(40, N_IN), draw_targets(loss, 40, N_OUT)
    net = make_network([N_IN, N_OUT], loss=loss, dtype="float64")
    together = net.gradient(x, y)
    for column in range(N_OUT):
        one = make_network([N_IN, 1], loss=loss, dtype="float64")
        one.layers[0].W[:], one.layers[0].b[:] = net.layers[0].W[:, [column]], net.layers[0].b[[column]]
        gradient = one.gradient(x, y[:, column])[1]
        for name in ("W", "b"):
            expected = getattr(gradient.layers[0], name)[..., 0] / N_OUT
            found = getattr(together[1].layers[0], name)[..., column]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-16)
    history = fastbp.train(net, x, y, epochs=200, batch_size=8, optimizer="adam")
    assert history.loss[-1] < 0.95 * history.loss[0]
    metric = "f1" if loss == BINARY else "r2"
    assert net.evaluate(x, y, metrics=[metric])[metric] > 0.05
