"""SciPy's sparse rows: the bits of the dense ones, without ever being dense."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse

import fastbp
from fastbp import one_pass, sparse, validation
from fastbp.data import Data
from fastbp.division import splits_columns, sums_in_chunks
from fastbp.plan import Plan
from tests.samples import draw_targets

SOFTMAX, F4, F8 = "softmax_cross_entropy", np.dtype("float32"), np.dtype("float64")


def draw(n, n_in, share=0.2, seed=0, dtype=float):
    """A CSR array (n, n_in) whose rows 0 and n - 1 are empty."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, n_in)) if np.dtype(dtype).kind == "f" else random.integers(1, 256, (n, n_in))
    x = np.where(random.random((n, n_in)) < share, x, 0)
    x[[0, -1]] = 0
    return scipy.sparse.csr_array(x.astype(dtype))


def make(sizes, real="float64", **options):
    return fastbp.Network(sizes, loss=SOFTMAX, dtype=real, seed=3, **options)


def asked(net, x, y, **how):
    """Bytes of all that a network can be asked for."""
    loss, gradient = net.gradient(x, y, inputs=True, **how)
    answers = gradient.parameters, gradient.inputs, net.predict(x), net.logits(x), net.predict(x[:3])
    return loss, net.loss(x, y, **how), net.evaluate(x, y, **how), *(answer.tobytes() for answer in answers)


def assert_same_bits(net, x, y, *, asks=True, **how):
    """Training on sparse rows and on dense ones, and all that a network can be asked for then."""
    both = []
    for rows in (x.toarray(), x):
        trained = make(net.architecture.sizes, net.dtype, input_scale=net.input_scale)
        history = fastbp.train(trained, rows, y, epochs=2, **how)
        found = asked(trained, rows, y) if asks else ()
        both.append((trained.parameters.tobytes(), history.loss, history.validation_loss, found))
    assert both[0] == both[1]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("sizes", "rows", "batch_size"),
    [([12, 9, 3], 50, 16), ([4, 16, 7, 3], 300, 260), ([400, 50, 3], 70, 32)],
    ids=["by rows", "in chunks", "by columns"],
)
def test_training_has_the_bits_of_dense_rows(sizes, rows, batch_size, threads):
    net = make(sizes)
    assert sums_in_chunks(net.architecture, batch_size) == (batch_size == 260)
    assert splits_columns(net.architecture, batch_size, 2) == (sizes[0] == 400)
    x, y = draw(rows, sizes[0]), draw_targets(SOFTMAX, rows, 3)
    assert_same_bits(net, x, y, batch_size=batch_size, threads=threads, asks=threads == 1)


@pytest.mark.parametrize("kept", ["float64", "int16", "bool", "uint8"])
@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_numbers_of_any_type_scaled_or_not(kept, scale):
    x, y = draw(40, 30, dtype=kept), draw_targets(SOFTMAX, 40, 3)
    assert_same_bits(make([30, 3], "float32", input_scale=scale), x, y, batch_size=16, input_noise=0.1)


HOW = {
    "as they come": dict(shuffle=False),
    "a share to validate on": dict(validation=0.2, metrics=["accuracy"]),
    "weights": dict(sample_weight=np.arange(50.0), class_weight="balanced", validation=0.3),
    "balanced draws": dict(sampling="balanced", threads=2),
    "materialised": dict(materialise=True, clip_norm=0.5),
    "all rows": dict(batch_size=None),
    "L-BFGS": dict(optimizer="lbfgs"),
}


@pytest.mark.parametrize("how", HOW)
def test_whatever_is_asked_for(how):
    x, y = draw(50, 12), draw_targets(SOFTMAX, 50, 3)
    assert_same_bits(make([12, 9, 3]), x, y, asks=False, **{"batch_size": 16, **HOW[how]})
    weights = np.arange(50.0)
    answers = [asked(make([12, 9, 3]), each, y, sample_weight=weights) for each in (x, x.toarray())]
    assert answers[0] == answers[1]


def test_given_rows_to_validate_on():
    x, y = draw(50, 12), draw_targets(SOFTMAX, 50, 3)
    found = [
        fastbp.train(make([12, 3]), rows, y, epochs=2, validation=(rows[:20], y[:20], np.arange(20.0)))
        for rows in (x, x.toarray())
    ]
    assert found[0].validation_loss == found[1].validation_loss


# Three numbers in one place, whose sum depends on their order; -0.0 that is stored; columns in no order.
TWICE = (
    np.array([1.0, 1e17, -1e17, 3.0, -0.0, 5.0, 0.0]), np.array([4, 1, 1, 1, 0, 2, 3]),
    np.array([0, 0, 5, 5, 7, 7]),
)  # fmt: skip


@pytest.mark.parametrize("form", ["csr", "coo", "csc", "bsr", "lil"])
def test_what_is_stored_twice_or_in_no_order(form):
    csr = scipy.sparse.csr_array(TWICE, shape=(5, 5))
    coo = scipy.sparse.coo_array((TWICE[0], (np.repeat([1, 3], [5, 2]), TWICE[1])), shape=(5, 5))
    x = {"csr": csr, "coo": coo, "csc": csr.tocsc()}.get(form, csr if form == "lil" else coo).asformat(form)
    dense = x.toarray()
    if form in ("csr", "coo"):
        assert dense[1].tolist() == [0, 3, 0, 0, 1]
    before = [part.copy() for part in (csr.data, csr.indices, csr.indptr)]
    rows = validation.inputs(x, 5, F8, keep_sparse=True)
    assert rows.toarray().tobytes() == (dense + 0.0).tobytes()
    nets = [make([5, 4, 3]), make([5, 4, 3])]
    for net, given in zip(nets, (x, dense), strict=True):
        fastbp.train(net, given, [0, 1, 2, 0, 1], epochs=3, batch_size=2)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)
    assert all(map(np.array_equal, before, (csr.data, csr.indices, csr.indptr)))


def test_random_tables_with_places_that_are_stored_often():
    random = np.random.default_rng(0)
    for n_stored in (0, 1, 40, 400):
        row, column, data = (
            random.integers(0, 6, n_stored), random.integers(0, 7, n_stored), random.normal(size=n_stored)
        )  # fmt: skip
        coo = scipy.sparse.coo_array((data, (row, column)), shape=(6, 7))
        order = np.argsort(row, kind="stable")
        starts = np.searchsorted(row[order], np.arange(7))
        csr = scipy.sparse.csr_array((data[order], column[order], starts), shape=(6, 7))
        for x in (coo, csr, csr.tocsc()):
            rows = sparse.sparse_rows("x", x)
            assert rows.toarray().tobytes() == (x.toarray() + 0.0).tobytes()
            assert rows[np.array([5, 0, 0, -1])].toarray().tobytes() == rows.toarray()[[5, 0, 0, 5]].tobytes()
            assert np.array_equal(rows[1:4].toarray(), rows.toarray()[1:4])


def test_nothing_is_copied():
    x = draw(50, 12, dtype="float32")
    rows = validation.inputs(x, 12, F4, keep_sparse=True)
    assert np.shares_memory(rows.data, x.data)
    assert np.shares_memory(rows.columns, x.indices)
    x = draw(50, 12, dtype="uint8")
    assert np.shares_memory(validation.inputs(x, 12, F4, keep_sparse=True, keep_bytes=True).data, x.data)
    data = Data(
        make([12, 3], "float32"), x, np.zeros(50, int), 16, 1, sample_weight=None, class_weight=None,
        sampling=None, shuffle=True, validation=None, seed=0,
    )  # fmt: skip
    assert np.shares_memory(data.x.data, x.data)
    assert data.options["data"] == "sparse bytes"


def test_parts_of_a_split():
    x, y = draw(50, 12), np.arange(50)
    for given in (x, x.tocoo()):
        found = fastbp.datasets.split(given, y, 0.2, seed=1)
        expected = fastbp.datasets.split(x.toarray(), y, 0.2, seed=1)
        assert all(np.array_equal(found[i].toarray(), expected[i]) for i in (0, 2))
        assert all(np.array_equal(found[i], expected[i]) for i in (1, 3))
    with pytest.raises(ValueError, match=r"same number of rows, at least 2; got shapes \(50, 12\)"):
        fastbp.datasets.split(x, y[:9], 0.2, seed=1)


def test_what_is_refused():
    net, y = make([12, 3]), np.zeros(50, int)
    start = net.parameters.copy()

    def changed(**parts):
        x = draw(50, 12)
        for name, (place, value) in parts.items():
            getattr(x, name)[place] = value
        return x

    stored = draw(50, 12)
    place = int(stored.indptr[7])
    where = f"row 7, column {stored.indices[place]} is"
    for error, message, bad in [
        (ValueError, rf"x must be finite; {where} nan", changed(data=(place, np.nan))),
        (ValueError, rf"x must be finite; {where} inf", changed(data=(place, np.inf))),
        (ValueError, r"columns are from 0 to 11; got 0 to 12", changed(indices=(3, 12))),
        (ValueError, r"columns are from 0 to 11; got -1 to 11", changed(indices=(3, -1))),
        (ValueError, r"indptr has 51 numbers that rise from 0", changed(indptr=(7, 10**6))),
        (ValueError, r"indptr has 51 numbers that rise from 0", changed(indptr=(0, -2))),
        (ValueError, r"indptr has 51 numbers that rise from 0", changed(indptr=(-1, 10**6))),
        (ValueError, r"x must have shape \(n, 12\); got \(50, 11\)", draw(50, 11)),
        (ValueError, r"one row and one column; got shape \(0, 12\)", scipy.sparse.csr_array((0, 12))),
        (TypeError, "a table of real numbers; got a sparse one of complex128", draw(50, 12) * 1j),
        (ValueError, "y must have as many rows as x, 40", draw(40, 12)),
        (TypeError, "real numbers; got a sparse one of shape", scipy.sparse.coo_array(np.ones(12))),
    ]:
        for do in (lambda x: fastbp.train(net, x, y), lambda x: net.gradient(x, y)):
            with pytest.raises(error, match=message):
                do(bad)
    with pytest.raises(ValueError, match=rf"x overflows float32; {where} 1e\+300"):
        fastbp.train(make([12, 3], "float32"), changed(data=(place, 1e300)), y)
    with pytest.raises(ValueError, match="2³¹ columns; got 2147483648"):
        make([2, 3]).predict(scipy.sparse.csr_array((1, 2**31)))
    assert np.array_equal(net.parameters, start)


@pytest.mark.parametrize("weights", [None, np.r_[np.arange(30.0), np.zeros(20)]], ids=["", "weights"])
def test_a_gradient_in_parts(weights, monkeypatch):
    x, y, net = draw(50, 30), draw_targets(SOFTMAX, 50, 3), make([30, 9, 3])
    expected_loss, expected = net.gradient(x.toarray(), y, sample_weight=weights)
    assert net.gradient(x, y)[1].inputs is None
    monkeypatch.setattr(one_pass, "INPUTS_AT_ONCE", 30 * 8)
    loss, gradient = net.gradient(x, y, sample_weight=weights)
    assert loss == pytest.approx(expected_loss, rel=1e-13)
    np.testing.assert_allclose(gradient.parameters, expected.parameters, rtol=1e-10, atol=1e-15)
    assert gradient.parameters.tobytes() != expected.parameters.tobytes(), "it was not in parts"
    whole = net.gradient(x, y, sample_weight=weights, inputs=True)[1]
    assert np.array_equal(whole.inputs, expected.inputs)
    assert np.array_equal(whole.parameters, expected.parameters)
    dense = net.gradient(x.toarray(), y, sample_weight=weights, inputs=False)[1]
    assert dense.inputs is None
    assert np.array_equal(dense.parameters, expected.parameters)


def test_statistics_of_the_batch_are_those_of_all_rows(monkeypatch):
    monkeypatch.setattr(one_pass, "INPUTS_AT_ONCE", 30 * 8)
    x, y = draw(50, 30), draw_targets(SOFTMAX, 50, 3)
    net = fastbp.Network([fastbp.BatchNorm(), fastbp.Dense(3)], inputs=30, loss=SOFTMAX, dtype="float64")
    found = [net.gradient(rows, y, batch_statistics=True)[1].parameters for rows in (x, x.toarray())]
    assert np.array_equal(*found)


@pytest.mark.parametrize(
    "first", [fastbp.LayerNorm(), fastbp.Dropout(0.3), fastbp.Residual([fastbp.Dense(12)])]
)
def test_whatever_layer_is_first(first):
    x, y, answers = draw(30, 12), draw_targets(SOFTMAX, 30, 3), []
    for rows in (x, x.toarray()):
        net = make([first, fastbp.Dense(3)], inputs=12)
        fastbp.train(net, rows, y, epochs=2, batch_size=8)
        answers.append((net.parameters.tobytes(), asked(net, rows, y)))
    assert answers[0] == answers[1]


def test_whoever_trains(tmp_path):
    x, y, found = draw(60, 12), draw_targets(SOFTMAX, 60, 3), []
    for rows in (x, x.toarray()):
        nets = [make([12, 9, 3]) for _ in range(5)]
        fastbp.train_many(nets[:2], rows, y, epochs=2, validation=[None, 0.2], threads=2)
        chunks = [(rows[i : i + 25], y[i : i + 25]) for i in range(0, 60, 25)]
        history = fastbp.train(nets[2], chunks, epochs=2, batch_size=16)
        trainer = fastbp.OnlineTrainer(nets[3], "adam")
        losses = [trainer.step(rows, y), trainer.step(rows[:1], y[:1])]
        rates = fastbp.find_learning_rate(nets[4], rows, y)
        assert fastbp.check_gradients(nets[4], rows[3:6], y[3:6])
        folder = tmp_path / type(rows).__name__
        how = dict(batch_size=16, validation=0.2)
        fastbp.train(nets[4], rows, y, epochs=1, checkpoints=fastbp.Checkpoints(folder, every=1), **how)
        fastbp.train(nets[4], rows, y, epochs=3, resume=folder, **how)
        straight = make([12, 9, 3])
        fastbp.train(straight, rows, y, epochs=3, **how)
        assert np.array_equal(straight.parameters, nets[4].parameters)
        parameters = [each.parameters.tobytes() for each in nets]
        found.append((parameters, history.loss, losses, rates.losses.tolist()))
    assert found[0] == found[1]


def test_a_checkpoint_knows_its_sparse_rows(tmp_path):
    x, y = draw(30, 12), draw_targets(SOFTMAX, 30, 3)
    fastbp.train(make([12, 3]), x, y, epochs=1, checkpoints=fastbp.Checkpoints(tmp_path, every=1))
    other = x.copy()
    other.indices[:1] = min(set(range(12)) - set(x[1:2].indices))
    with pytest.raises(ValueError, match="the data are others"):
        fastbp.train(make([12, 3]), other, y, epochs=2, resume=tmp_path)
    empty = scipy.sparse.csr_array((30, 12))
    with pytest.raises(ValueError, match="the data are others"):
        fastbp.train(make([12, 3]), empty, y, epochs=2, resume=tmp_path)


def test_chunks_of_a_stream_are_alike():
    x, y, net = draw(30, 12), draw_targets(SOFTMAX, 30, 3), make([12, 3])
    with pytest.raises(ValueError, match=r"which had sparse rows for x, .*; got numbers for x"):
        fastbp.train(net, [(x, y), (x.toarray(), y)], epochs=1)
    nets = [make([12, 3]), make([12, 3])]
    fastbp.train(nets[0], [(x.toarray(), y), (x, y)], epochs=1)
    fastbp.train(nets[1], [(x, y), (x, y)], epochs=1)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


def test_one_column():
    x, y, net = draw(30, 1, share=0.5), draw_targets(SOFTMAX, 30, 3), make([1, 3])
    assert_same_bits(net, x, y, batch_size=8)
    trainer = fastbp.OnlineTrainer(net)
    assert trainer.step(x[4:5], y[4:5]) == fastbp.OnlineTrainer(make([1, 3])).step(x[4:5].toarray(), y[4:5])


def test_places_beyond_two_to_the_31(tmp_path):
    """Rows that begin there, in files that are mostly holes."""
    first, stored = 2**31, 2**31 + 5
    data, columns = tmp_path / "data", tmp_path / "columns"
    for path, size in ((data, 1), (columns, 4)):
        path.touch()
        with open(path, "r+b") as file:
            file.truncate(stored * size)
    numbers = np.memmap(data, np.uint8, "r+", shape=(stored,))
    places = np.memmap(columns, np.int32, "r+", shape=(stored,))
    numbers[first:], places[first:] = [1, 2, 3, 4, 5], [0, 2, 1, 0, 2]
    rows = sparse.SparseRows(numbers, places, np.array([first, first + 2, stored]), 3)
    dense = np.array([[1, 0, 2], [4, 3, 5]])
    net, out, losses = make([3, 2]), np.empty((2, 2)), np.zeros(1)
    plan = Plan(net.architecture, "predict", 8, unpacked=True, data="sparse bytes")
    plan.set(
        x=rows.address, n_rows=2, batch_size=2, last_epoch=1, host=net.parameters.ctypes.data,
        outputs=out.ctypes.data, losses=losses.ctypes.data,
    )  # fmt: skip
    plan.run()
    assert np.array_equal(out, net.predict(dense))


IN_LITTLE_MEMORY = """
import resource, sys
import numpy as np
import scipy.sparse
import fastbp

rows, width = int(sys.argv[1]), 20_000
random = np.random.default_rng(0)
columns = np.sort(random.integers(0, width - 20, (rows, 20)), axis=1) + np.arange(20)
x = scipy.sparse.csr_array(
    (np.ones(20 * rows, np.float32), columns.ravel(), 20 * np.arange(rows + 1)), shape=(rows, width))
y = (columns[:, 0] > 500).astype(int)
net = fastbp.Network([width, 4, 2], loss="softmax_cross_entropy", seed=0)

def work(n):
    fastbp.train(net, x[:n], y[:n], epochs=1, batch_size=100, validation=0.1, threads=2, progress=False)
    return net.predict(x[:n]), net.evaluate(x[:n], y[:n])["loss"], net.gradient(x[:n], y[:n])[0]

work(1000)
status = open("/proc/self/status").read()
used = int(status.split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + (500 << 20), resource.RLIM_INFINITY))
try:
    x.toarray()
except MemoryError:
    predicted, loss, again = work(rows)
    assert predicted.shape == (rows, 2) and 0 < loss < 1 and abs(loss - again) < 1e-5, (loss, again)
    print("dense rows would not fit")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("rows", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_wide_rows_in_little_memory(rows):
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, str(rows)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "dense rows would not fit\n"), done.stderr


def test_dense_rows_need_no_scipy():
    program = "import sys; sys.modules['scipy'] = sys.modules['scipy.sparse'] = None; import fastbp"
    program += "; fastbp.train(fastbp.Network([2, 1]), [[0, 1]], [1], epochs=1)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.csr_matrix])
def test_single_rows(kind):
    x, y = draw(20, 6), np.arange(20) % 3
    dense, net = x.toarray(), make([6, 3])
    rows = kind(x)
    assert np.array_equal(net.predict(rows[3]).ravel(), net.predict(dense[3]))
    trainer, other = fastbp.OnlineTrainer(net), fastbp.OnlineTrainer(make([6, 3]))
    assert [trainer.step(rows[i], y[i]) for i in range(5)] == [other.step(dense[i], y[i]) for i in range(5)]


@pytest.mark.parametrize("bad", [-1, 6, 10**8])
def test_columns_that_a_callback_spoils_reach_no_memory(bad):
    x, y, net = draw(20, 6), np.arange(20) % 3, make([6, 3])

    def spoil(training):
        x.indices[3] = bad

    with pytest.raises(fastbp.DivergenceError, match=r"epoch 2 .* the loss became nan"):
        fastbp.train(net, x, y, epochs=3, callbacks=[spoil])
    assert np.isfinite(net.parameters).all()
