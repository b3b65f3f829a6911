"""Inputs of uint8, and the scale of inputs: the bits of the float array that NumPy makes of them."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import fastbp
from fastbp.division import sums_in_chunks
from tests.samples import draw_targets

SOFTMAX = "softmax_cross_entropy"


def draw_bytes(n, n_in, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, n_in), np.uint8)


def scaled_by_numpy(x, scale, real):
    return x.astype(real) * np.dtype(real).type(scale)


def make(sizes, real, scale, **options):
    return fastbp.Network(sizes, loss=SOFTMAX, seed=3, dtype=real, input_scale=scale, **options)


def asked(net, x, y):
    """Bytes of all that a network can be asked for; gradients of inputs with respect to x."""
    loss, gradient = net.gradient(x, y)
    answers = gradient.parameters, net.predict(x), net.logits(x), net.predict(x[:3]), net.predict(x[0])
    return loss, net.loss(x, y), net.evaluate(x, y), *(answer.tobytes() for answer in answers)


@pytest.mark.parametrize("real", ["float32", "float64"])
def test_scaled_inputs_have_the_bits_of_an_array_scaled_by_numpy(real):
    x, y, scale = draw_bytes(50, 13), draw_targets(SOFTMAX, 50, 3), 1 / 255
    floats = scaled_by_numpy(x, scale, real)
    expected = make([13, 9, 3], real, 1.0)
    history = fastbp.train(expected, floats, y, epochs=3, batch_size=16, validation=(floats, y))
    answers, inputs = asked(expected, floats, y), expected.gradient(floats, y)[1].inputs
    for given in (x, x.astype(real), x.tolist(), x[:, ::-1].copy()[:, ::-1]):
        net = make([13, 9, 3], real, scale)
        again = fastbp.train(net, given, y, epochs=3, batch_size=16, validation=(given, y))
        assert again.loss == history.loss
        assert again.validation_loss == history.validation_loss
        assert np.array_equal(net.parameters, expected.parameters)
        assert asked(net, np.asarray(given), y) == answers
        got = net.gradient(given, y)[1].inputs
        assert got.dtype == real
        assert np.array_equal(got, inputs * np.dtype(real).type(scale))


def test_bytes_without_a_scale_are_their_numbers():
    x, y = draw_bytes(30, 5) % 4, draw_targets(SOFTMAX, 30, 3)
    nets = [make([5, 4, 3], "float32", 1.0) for _ in range(2)]
    for net, given in zip(nets, (x, x.astype("float32"))):
        fastbp.train(net, given, y, epochs=2, batch_size=7)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)
    assert asked(nets[0], x, y) == asked(nets[1], x.astype("float32"), y)


@pytest.mark.parametrize(
    ("sizes", "rows", "batch_size"),
    [([4, 16, 7, 3], 700, 600), ([400, 50, 3], 70, 32), ([1024, 3], 40, 20)],
    ids=["in chunks", "by columns", "rows in one cache set"],
)
def test_bits_do_not_depend_on_threads(sizes, rows, batch_size):
    x, y, scale = draw_bytes(rows, sizes[0]), draw_targets(SOFTMAX, rows, 3), 2 / 255
    assert sums_in_chunks(make(sizes, "float32", 1.0).architecture, batch_size) == (batch_size == 600)
    expected, options = make(sizes, "float32", 1.0), dict(epochs=2, batch_size=batch_size, input_noise=0.1)
    floats = scaled_by_numpy(x, scale, "float32")
    fastbp.train(expected, floats, y, **options)
    for threads, materialise in ((1, False), (2, False), (3, True)):
        net = make(sizes, "float32", scale)
        fastbp.train(net, x, y, threads=threads, materialise=materialise, **options)
        assert np.array_equal(net.parameters, expected.parameters)
    assert asked(net, x, y) == asked(expected, floats, y)


@pytest.mark.parametrize(
    "first", [fastbp.BatchNorm(), fastbp.LayerNorm(), fastbp.Dropout(0.3), fastbp.Residual([fastbp.Dense(6)])]
)
def test_whatever_layer_is_first(first):
    x, y = draw_bytes(30, 6), draw_targets(SOFTMAX, 30, 3)
    floats, answers = scaled_by_numpy(x, 0.01, "float64"), []
    for scale, given in ((0.01, x), (1.0, floats)):
        net = make([first, fastbp.Dense(3)], "float64", scale, inputs=6)
        fastbp.train(net, given, y, epochs=2, batch_size=8)
        answers.append(asked(net, given, y))
    assert answers[0] == answers[1]


def test_gradients_against_differences():
    net = make([6, 5, 3], "float32", 0.02, activation="tanh")
    assert fastbp.check_gradients(net, draw_bytes(5, 6), draw_targets(SOFTMAX, 5, 3))


def test_whoever_trains():
    pytest.importorskip("scipy")
    x, y = draw_bytes(30, 6), draw_targets(SOFTMAX, 30, 3)
    floats, found = scaled_by_numpy(x, 1 / 255, "float64"), []
    for scale, given in ((1 / 255, x), (1.0, floats)):
        net, second, third = (make([6, 4, 3], "float64", scale) for _ in range(3))
        fastbp.train(net, given, y, epochs=3, optimizer="lbfgs")
        trainer = fastbp.OnlineTrainer(second, "adam", batch_size=4)
        losses = [trainer.step(row, int(target)) for row, target in zip(given, y)]
        losses.append(trainer.step(given.astype(float)[0], int(y[0])))
        losses.append(trainer.step(given, y))
        compiled = third.compiled("adam", batch_size=30)
        losses.append(compiled.step(given.astype(float), y))
        out = np.empty(3)
        compiled.predict_into(given[3].astype(float), out)
        assert np.array_equal(out, third.predict(given[3]))
        rates = fastbp.find_learning_rate(third, given, y)
        parameters = [each.parameters.tobytes() for each in (net, second, third)]
        found.append((losses, parameters, rates.losses.tolist()))
    assert found[0] == found[1]


def test_the_scale_goes_where_the_network_goes(tmp_path):
    net, x = make([6, 4, 3], "float32", 1 / 255), draw_bytes(5, 6)
    net.save(tmp_path / "net.safetensors")
    for other in (fastbp.load(tmp_path / "net.safetensors"), pickle.loads(pickle.dumps(net)), copy.copy(net)):
        assert other.input_scale == 1 / 255
        assert np.array_equal(other.predict(x), net.predict(x))
    assert "6 × 0.003922" in repr(net)
    assert "inputs are multiplied by 0.00392157" in net.summary()
    fastbp.train(net, x, [0, 1, 2, 0, 1], epochs=2, checkpoints=fastbp.Checkpoints(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"its input_scale is 0\.00392"):
        fastbp.train(make([6, 4, 3], "float32", 1.0), x, [0, 1, 2, 0, 1], resume=tmp_path / "run")


def test_bytes_are_not_copied(tmp_path):
    draw_bytes(20, 6).tofile(tmp_path / "x")
    x, net = np.memmap(tmp_path / "x", np.uint8, "r", shape=(20, 6)), make([6, 3], "float32", 1 / 255)
    taken, _ = net.check_data(x, np.zeros(20, int), keep_bytes=True)
    assert np.shares_memory(taken, x)
    assert net.check_data(x, np.zeros(20, int))[0].dtype == np.float32
    assert np.array_equal(net.predict(x), net.predict(draw_bytes(20, 6)))


@pytest.mark.parametrize(
    ("scale", "error"), [(0, ValueError), (-1, ValueError), (1.5, ValueError), ("1/255", TypeError)]
)
def test_refuses(scale, error):
    with pytest.raises(error, match="input_scale must be a finite number"):
        make([6, 3], "float32", scale)


def test_refuses_a_scale_that_would_be_nothing():
    with pytest.raises(ValueError, match="input_scale must be a number above 0 in float32; got 1e-60"):
        make([6, 3], "float32", 1e-60)
    assert make([6, 3], "float64", 1e-60).input_scale == 1e-60


LARGER_THAN_MEMORY = """
import resource, sys
import numpy as np
import fastbp

rows, width, type = 400_000, 784, sys.argv[2]
x = np.memmap(sys.argv[1], type, "r+", shape=(rows, width))
x[:10] = np.arange(width) % 2
x = np.memmap(sys.argv[1], type, "r", shape=(rows, width))
y = np.arange(rows) % 2
net = fastbp.Network([width, 2], loss="softmax_cross_entropy", input_scale=1 / 255, seed=0)

def work(n):
    fastbp.train(net, x[:n], y[:n], epochs=1, batch_size=1000, threads=1, progress=False)
    return net.predict(x[:n]), net.evaluate(x[:n], y[:n])["loss"]

work(2000)
status = open("/proc/self/status").read()
used = int(status.split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + x.nbytes // 4, resource.RLIM_INFINITY))
try:
    x.copy()
except MemoryError:
    predicted, loss = work(rows)
    assert predicted.shape == (rows, 2) and 0 < loss < 1, loss
    print("a copy would not fit")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("kind", ["uint8", pytest.param("float32", marks=pytest.mark.slow)])
def test_rows_on_disk_that_are_larger_than_memory(kind, tmp_path):
    """The file is sparse; the process may have a quarter of its size as memory of its own."""
    command = [sys.executable, "-c", LARGER_THAN_MEMORY, str(tmp_path / "x"), kind]
    (tmp_path / "x").touch()
    with open(tmp_path / "x", "r+b") as file:
        file.truncate(400_000 * 784 * np.dtype(kind).itemsize)
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "a copy would not fit\n"), done.stderr
