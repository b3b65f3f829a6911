"""train() on streams: chunks of rows as they come, and the bits that their rows would have made together."""

import _thread
import signal
import threading
import time
import weakref

import numpy as np
import pytest

import fastbp
from fastbp import SGD, Adam, schedules, stream
from fastbp.formulas import random as draws
from fastbp.interrupts import run_in_team
from tests.samples import draw_inputs, draw_targets, make_network

SOFTMAX = "softmax_cross_entropy"


def start(loss="mean_squared_error", n=48, n_out=2, **how):
    net = make_network([3, 4, n_out], loss=loss, **dict(dtype="float64") | how)
    return net, draw_inputs(n, 3), draw_targets(loss, n, n_out)


def cut(x, y, *lengths):
    """Chunks of these numbers of rows."""
    ends = np.cumsum(lengths)
    return [(x[end - n : end], y[end - n : end]) for n, end in zip(lengths, ends)]


def counted(history):
    """All of a history that is no time."""
    return history.loss, history.validation_loss, history.metrics, history.learning_rate


def test_one_chunk_has_the_bits_of_its_arrays():
    layers = [fastbp.Dropout(0.2), fastbp.Dense(7, "tanh"), fastbp.Dense(2)]
    _, x, y = start()
    options = dict(
        epochs=4, batch_size=16, optimizer=Adam(0.01), seed=5, gradient_noise=0.01, validation=(x, y),
        metrics=["r2"],
    )  # fmt: skip
    nets = [fastbp.Network(layers, inputs=3, seed=2) for _ in range(3)]
    expected = counted(fastbp.train(nets[0], x, y, **options))
    assert counted(fastbp.train(nets[1], [(x, y)], **options)) == expected
    assert counted(fastbp.train(nets[2], lambda: iter([[x, y]]), threads=2, **options)) == expected
    assert len({net.parameters.tobytes() for net in nets}) == 1


def test_chunks_have_the_bits_of_their_rows_together():
    """Batches that end where chunks do; the optimizer's state and a schedule of steps go on."""
    optimizer = Adam(0.01, schedule=schedules.Cosine(total=7, per="step"))
    options = dict(epochs=2, batch_size=8, shuffle=False, optimizer=optimizer)
    (net, x, y), (other, *_) = start(), start()
    expected = fastbp.train(net, x, y, **options)
    history = fastbp.train(other, cut(x, y, 16, 24, 8), **options)
    assert np.array_equal(net.parameters, other.parameters)
    assert history.loss == pytest.approx(expected.loss, rel=1e-14)
    assert history.learning_rate == expected.learning_rate
    assert min(history.samples_per_second) > 0


def test_chunks_of_any_size_are_those_of_an_online_trainer():
    (net, x, y), (other, *_) = start(SOFTMAX, n_out=3), start(SOFTMAX, n_out=3)
    chunks = cut(x, y, 1, 30, 7, 10)
    history = fastbp.train(net, iter(chunks), batch_size=8, shuffle=False, optimizer=Adam(0.01))
    trainer = fastbp.OnlineTrainer(other, Adam(0.01), batch_size=8)
    losses = [len(part_x) * trainer.step(part_x, part_y) for part_x, part_y in chunks]
    assert np.array_equal(net.parameters, other.parameters)
    assert history.loss == [pytest.approx(sum(losses) / 48, rel=1e-14)]


def test_rows_of_a_chunk_are_shuffled_in_an_order_of_their_own():
    (net, x, y), (other, *_) = start(n=32), start()
    fastbp.train(net, cut(x, y, 16, 16), epochs=2, batch_size=8, seed=7)
    orders, order, chunks = [], np.empty(16, np.int64), []
    for epoch in range(2):
        for number, (part_x, part_y) in enumerate(cut(x, y, 16, 16)):
            draws.shuffle(order, np.uint64((7 + number * stream._SEED_STEP) % 2**64), epoch)
            orders.append(tuple(order))
            chunks.append((part_x[order], part_y[order]))
    fastbp.train(other, chunks, epochs=1, batch_size=8, shuffle=False)
    assert np.array_equal(net.parameters, other.parameters)
    assert len(set(orders)) == 4


class Dataset:
    def __init__(self, chunks):
        self.chunks, self.opened = chunks, 0

    def __iter__(self):
        self.opened += 1
        return iter(self.chunks)


def test_whatever_can_be_run_through_again():
    _, x, y = start()
    chunks, made = cut(x, y, 24, 24), []
    dataset = Dataset(chunks)

    def generate():
        yield from chunks

    for again in (chunks, tuple(chunks), dataset, generate, lambda: chunks):
        net = start()[0]
        made.append((fastbp.train(net, again, epochs=3).loss, net.parameters.tobytes()))
    assert all(each == made[0] for each in made)
    assert dataset.opened == 3
    assert len(fastbp.train(start()[0], chunks)) == 10
    assert len(fastbp.train(start()[0], generate())) == 1
    assert len(fastbp.train(start()[0], generate(), epochs=1)) == 1
    with pytest.raises(ValueError, match="an iterator can be run through once, so epochs must be 1; got 2"):
        fastbp.train(net, generate(), epochs=2)


def test_no_chunk_is_held_longer_than_needed():
    _, x, y = start()
    seen = []

    def generate():
        for _ in range(5):
            assert all(reference() is None for reference in seen), "the one before is still held"
            arrays = x.copy(), y.copy()
            seen[:] = map(weakref.ref, arrays)
            yield arrays
            del arrays

    fastbp.train(start()[0], generate, epochs=2, batch_size=16)
    assert all(reference() is None for reference in seen)


def test_chunks_without_rows_or_weights_change_nothing():
    """Of a filter, say, or of rows of a class that counts nothing."""
    nets = [start()[0] for _ in range(3)]
    _, x, y = start()
    one, other = cut(x, y, 16, 32)
    options = dict(epochs=1, batch_size=16, shuffle=False, optimizer=SGD(0.1))
    history = fastbp.train(nets[0], [one, other], **options)
    empty = x[:0], y[:0], None
    assert fastbp.train(nets[1], [empty, one, ([], []), other, empty], **options).loss == history.loss
    ones, nothing = np.ones(16), np.zeros(32)
    weighted = [(*other, nothing), (*one, ones), (*other, nothing), (*other, 1 - nothing)]
    fastbp.train(nets[2], weighted, **options)
    assert len({net.parameters.tobytes() for net in nets}) == 1
    with pytest.raises(ValueError, match="a stream must have chunks"):
        fastbp.train(nets[0], [empty, empty], **options)


def test_classes_that_weigh_nothing_may_fill_a_chunk():
    net, x, y = start(SOFTMAX, n_out=3)
    chunks = [(x[y == label], y[y == label]) for label in range(3)]
    before = net.parameters.copy()
    fastbp.train(net, chunks, epochs=1, batch_size=16, class_weight={1: 0.0, 2: 0.0})
    assert not np.array_equal(net.parameters, before)


BAD = [
    (lambda x, y: (x, y[:-1]), ValueError, "chunk 3: y must have as many rows as x, 16; got shape"),
    (lambda x, y: (x[:, :2], y), ValueError, r"chunk 3: x must have shape \(n, 3\)"),
    (
        lambda x, y: (np.where(x == x[1, 1], np.nan, x), y),
        ValueError,
        "chunk 3: x must be finite; row 1, col",
    ),
    (lambda x, y: (x[:0], y), ValueError, "chunk 3: x must have at least one row"),
    (lambda x, y: x, TypeError, r"chunk 3: it must be \(x, y\) or \(x, y, sample_weight\); got a ndarray"),
    (lambda x, y: (x, y, 1, 2), TypeError, "chunk 3: .* got a tuple of 4 things"),
    (lambda x, y: (x, "a"), TypeError, "chunk 3: y must hold real numbers; got text"),
    (
        lambda x, y: (x, y, np.ones(16)),
        ValueError,
        "chunk 3: it must be like the first chunk, which had numb",
    ),
]


@pytest.mark.parametrize(("spoil", "error", "message"), BAD)
def test_a_bad_chunk_leaves_the_weights_of_before(spoil, error, message):
    (net, x, y), (other, *_) = start(), start()
    chunks = cut(x, y, 16, 16, 16)
    fastbp.train(other, chunks[:2], epochs=1, optimizer="adam")
    with pytest.raises(error, match=message):
        fastbp.train(net, [*chunks[:2], spoil(*chunks[2]), chunks[0]], optimizer="adam")
    assert np.array_equal(net.parameters, other.parameters)


def test_a_bad_chunk_of_a_later_epoch_and_a_bad_first_one():
    net, x, y = start()
    passes = iter([cut(x, y, 16, 16), [(x, y), (x, y[:3])]])
    with pytest.raises(ValueError, match="chunk 2 of epoch 2: y must have as many rows"):
        fastbp.train(net, lambda: next(passes), epochs=2)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="chunk 1: y must have as many rows"):
        fastbp.train(net, [(x, y[:3])], checkpoints=fastbp.Checkpoints("/nowhere"))
    assert np.array_equal(net.parameters, before)


def test_an_error_of_the_stream_s_own():
    (net, x, y), (other, *_) = start(), start()

    def generate():
        yield x, y
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        fastbp.train(net, generate())
    fastbp.train(other, [(x, y)], epochs=1)
    assert np.array_equal(net.parameters, other.parameters)


def test_chunks_bring_weights():
    (net, x, y), (other, *_) = start(SOFTMAX, n_out=3), start(SOFTMAX, n_out=3)
    weights = np.random.default_rng(0).uniform(0, 2, 48)
    weights[16:32] = 1
    options = dict(epochs=2, batch_size=8, shuffle=False, class_weight={0: 3.0})
    fastbp.train(net, x, y, sample_weight=weights, **options)
    chunks = [(x[:16], y[:16], weights[:16]), (x[16:32], y[16:32]), (x[32:], y[32:], weights[32:])]
    fastbp.train(other, chunks, **options)
    assert np.array_equal(net.parameters, other.parameters)
    plain = start(SOFTMAX, n_out=3)[0]
    fastbp.train(plain, cut(x, y, 16, 16, 16), **options | dict(class_weight=None))
    assert not np.array_equal(net.parameters, plain.parameters)


def test_chunks_of_bytes():
    x, y = np.random.default_rng(0).integers(0, 256, (40, 5), np.uint8), draw_targets(SOFTMAX, 40, 3)
    nets = [fastbp.Network([5, 3], loss=SOFTMAX, input_scale=1 / 255, seed=0) for _ in range(3)]
    fastbp.train(nets[0], x, y, epochs=2, batch_size=8, shuffle=False)
    fastbp.train(nets[1], cut(x, y, 16, 24), epochs=2, batch_size=8, shuffle=False)
    floats_first = [(x[:16].astype(float), y[:16]), (x[16:], y[16:])]
    fastbp.train(nets[2], floats_first, epochs=2, batch_size=8, shuffle=False)
    assert len({net.parameters.tobytes() for net in nets}) == 1
    for bad, words in ((x.astype(float), "numbers for x"), (np.eye(3)[y], "a table for y")):
        pair = (bad, y) if len(bad[0]) == 5 else (x, bad)
        with pytest.raises(
            ValueError, match=f"which had uint8 for x, classes for y and no .*; got .*{words}"
        ):
            fastbp.train(nets[0], [(x, y), pair])


def test_what_happens_between_epochs(capsys):
    net, x, y = start()
    chunks, seen = cut(x, y, 20, 28), []
    history = fastbp.train(
        net, chunks, epochs=200, validation=(x, y), metrics=["r2"], optimizer=SGD(1e-9, momentum=0.5),
        early_stopping=fastbp.EarlyStopping(3, min_delta=1.0), verbose=1, progress=True,
        callbacks=[lambda training: seen.append(training.epoch)],
    )  # fmt: skip
    assert len(history) == len(history.metrics["r2"]) == len(history.validation_loss) == 4
    assert history.stopped == "validation_loss was not better in 3 epochs"
    assert seen == [1, 2, 3, 4]
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 6
    assert "192 rows" in printed.err.replace("192.0", "192")
    plateau = SGD(1e-3, schedule=schedules.ReduceOnPlateau(patience=0, threshold=0.5))
    assert len(set(fastbp.train(net, chunks, epochs=4, optimizer=plateau).learning_rate)) == 3


def test_a_stream_may_ask_the_network_that_it_trains():
    """Each chunk comes when the network has learned from the one before."""
    net, x, y = start()
    trainer, seen = fastbp.OnlineTrainer(start()[0], SGD(0.1), batch_size=16), []

    def generate():
        for _ in range(5):
            seen.append(net.parameters.copy())
            yield x, net.predict(x) + y

    for how in ({}, dict(on_divergence="continue")):
        net.parameters[:] = start()[0].parameters
        fastbp.train(net, generate(), batch_size=16, shuffle=False, optimizer=SGD(0.1), **how)
    for at in range(5):
        assert seen[at].tobytes() == seen[5 + at].tobytes() == trainer.network.parameters.tobytes()
        trainer.step(x, trainer.network.predict(x) + y)


def test_resume_from_an_iterator(tmp_path):
    net, x, y = start()
    chunks, by_hand = cut(x, y, 20, 28), start()[0]
    options = dict(checkpoints=fastbp.Checkpoints(tmp_path), optimizer=Adam(0.01))
    for resume, epochs in ((None, None), (tmp_path, None), (tmp_path, 3)):
        history = fastbp.train(net, iter(chunks), epochs=epochs, resume=resume, **options)
    assert len(history) == 3
    fastbp.train(by_hand, chunks, epochs=3, optimizer=Adam(0.01))
    assert by_hand.parameters.tobytes() == net.parameters.tobytes()
    with pytest.raises(ValueError, match="so epochs must be 3 from before and 1; got 5"):
        fastbp.train(net, iter(chunks), epochs=5, resume=tmp_path, **options)


@pytest.mark.parametrize("wrong", [dict(metrics=["r2"]), dict(threads=-1), dict(clip_norm=-1)])
def test_what_is_wrong_with_arguments_costs_no_chunk(wrong):
    net, x, y = start()
    chunks = iter([(x, y), (x, y)])
    with pytest.raises(ValueError, match=r"metrics|threads|clip_norm"):
        fastbp.train(net, chunks, **wrong)
    assert len(list(chunks)) == 2


def test_divergence_leaves_the_weights_of_before_the_chunk():
    for at in range(1, 4):
        net, x, y = start()
        chunks, other = cut(x, y, 12, 12, 12, 12), start()[0]
        fastbp.train(other, chunks[:at], epochs=1)
        chunks[at] = 1e200 * chunks[at][0], 1e200 * chunks[at][1]
        with pytest.raises(fastbp.DivergenceError):
            fastbp.train(net, chunks)
        assert net.parameters.tobytes() == other.parameters.tobytes()


def test_divergence():
    net, x, y = start()
    chunks = cut(x, y, 16, 16, 16)
    chunks[2] = 1e200 * chunks[2][0], 1e200 * chunks[2][1]
    with pytest.raises(fastbp.DivergenceError, match=r"epoch 1 \(step 5\): the loss became inf in chunk 3"):
        fastbp.train(net, chunks, batch_size=8, shuffle=False)
    assert np.isfinite(net.parameters).all()
    assert np.isfinite(fastbp.train(net, chunks[:2]).loss).all()
    history = fastbp.train(net, chunks, batch_size=8, epochs=2, on_divergence="continue")
    assert not np.isfinite(history.loss).any()


def test_resume_reaches_the_same_bits(tmp_path):
    _, x, y = start()
    chunks, made = cut(x, y, 20, 28), []
    for run in ((6,), (3, 6)):
        net = start()[0]
        for epochs in run:
            resume = dict(resume=tmp_path) if epochs != run[0] else {}
            checkpoints = fastbp.Checkpoints(tmp_path) if len(run) > 1 else None
            optimizer = Adam(0.01, schedule=schedules.Cosine(total=20, per="step"))
            history = fastbp.train(
                net, chunks, epochs=epochs, checkpoints=checkpoints, optimizer=optimizer, **resume
            )
        made.append((counted(history), net.parameters.tobytes()))
    assert made[0] == made[1]
    with pytest.raises(ValueError, match="cannot be resumed"):
        fastbp.train(net, x, y, epochs=9, optimizer=optimizer, resume=tmp_path)


def held_out(seed):
    return draw_inputs(9, 3, seed=seed), draw_targets(SOFTMAX, 9, 2)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dict(class_weight={0: 3.0}), "weights of rows or classes are others"),
        (dict(validation=held_out(1)), "validation rows are others"),
    ],
)
def test_resume_of_another_stream_is_refused(other, message, tmp_path):
    net, x, y = start(SOFTMAX)
    how = dict(class_weight={0: 2.0}, validation=held_out(0))
    fastbp.train(net, [(x, y)], epochs=2, checkpoints=fastbp.Checkpoints(tmp_path), **how)
    with pytest.raises(ValueError, match=f"cannot be resumed: the {message}"):
        fastbp.train(net, [(x, y)], epochs=3, resume=tmp_path, **how | other)


@pytest.fixture
def python_s_own_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_s_own_handler")
def test_ctrl_c_while_the_stream_is_waited_for():
    (net, x, y), (other, *_) = start(), start()

    def generate():
        yield x, y
        timer = threading.Timer(0.05, _thread.interrupt_main)
        timer.start()
        for _ in range(2000):
            time.sleep(0.01)

    clock = time.perf_counter()
    history = fastbp.train(net, generate())
    assert time.perf_counter() - clock < 10
    assert history.interrupted
    assert len(history) == 0
    fastbp.train(other, [(x, y)], epochs=1)
    assert np.array_equal(net.parameters, other.parameters)


@pytest.mark.usefixtures("python_s_own_handler")
def test_ctrl_c_while_a_chunk_is_trained_on(tmp_path, monkeypatch):
    net, x, y = start()
    x, y, asked, steps = np.tile(x, (40_000, 1)), np.tile(y, (40_000, 1)), [], []

    def generate():
        while True:
            asked.append(1)
            yield x, y

    def interrupt_the_second(plan, *rest):
        if len(asked) == 2:
            _thread.interrupt_main()  # heard of before the call has taken all rows
        run_in_team(plan, *rest)
        steps.append(plan.steps_done)

    monkeypatch.setattr("fastbp.interrupts.run_in_team", interrupt_the_second)
    history = fastbp.train(net, generate(), batch_size=1, checkpoints=fastbp.Checkpoints(tmp_path))
    assert history.interrupted
    assert len(asked) == 2
    assert steps[0] == len(x)
    assert steps[1] < len(x)
    assert np.isfinite(net.parameters).all()
    assert not list(tmp_path.iterdir()), "nobody could go on from there"


REFUSED = [
    (dict(batch_size=None), ValueError, "a stream needs a batch_size"),
    (dict(batch_size=0), ValueError, "batch_size must be an integer at least 1"),
    (dict(epochs=0), ValueError, "epochs must be an integer at least 1"),
    (dict(validation=0.1), ValueError, r"validation of a stream must be \(x, y\) or .* share of; got 0.1"),
    (dict(validation=(1, 2, 3, 4)), ValueError, "got 4 things"),
    (dict(metrics=["r2"]), ValueError, "metrics are measured on validation rows"),
    (dict(sample_weight=[1.0]), ValueError, "weights of a stream come with its chunks"),
    (dict(class_weight="balanced"), ValueError, "a stream cannot be balanced"),
    (dict(sampling="balanced"), ValueError, "a stream cannot be balanced"),
    (dict(optimizer="lbfgs"), ValueError, "LBFGS needs all rows at once"),
    (dict(optimizer=SGD(schedule=schedules.Cosine(per="step"))), ValueError, "of steps needs total="),
    (dict(checkpoints=fastbp.Checkpoints("/nowhere", steps=5)), ValueError, "give every= or .* got steps=5"),
    (dict(x=[]), ValueError, r"a stream must have chunks \(x, y\); this one has none"),
    (dict(x=np.ones((4, 3))), TypeError, r"train needs y, .* got a ndarray without y"),
    (dict(x={"a": 1}), TypeError, "train needs y, .* got a dict without y"),
    (dict(x=3), TypeError, r"without y, x must be a stream: .* got a int"),
    (dict(x=lambda: 3), TypeError, "the function must return an iterator of chunks; got a int"),
    (dict(x=[[1, 2, 3], [4, 5, 6]]), ValueError, "chunk 1: x must have shape"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
def test_refuses_before_anything_changes(options, error, message):
    net, x, y = start()
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        fastbp.train(net, **dict(x=[(x, y)]) | options)
    assert np.array_equal(net.parameters, before)


def test_a_function_that_returns_the_same_iterator_again():
    net, x, y = start()
    one = iter([(x, y)])
    with pytest.raises(ValueError, match="has none in epoch 2: a function must return a fresh iterator"):
        fastbp.train(net, lambda: one, epochs=2)


@pytest.mark.usefixtures("python_s_own_handler")
def test_ctrl_c_while_a_stream_is_opened():
    (net, x, y), opened = start(), []

    def chunks():
        opened.append(1)
        if len(opened) == 2:
            _thread.interrupt_main()
            time.sleep(20)
        return iter([(x, y)])

    clock = time.perf_counter()
    history = fastbp.train(net, chunks, epochs=3)
    assert time.perf_counter() - clock < 10
    assert (history.interrupted, len(history)) == (True, 1)


def test_chunks_without_rows_change_no_bit():
    _, x, y = start()
    nothing = (x[:0], y[:0])

    def run(chunks):
        net = start()[0]
        fastbp.train(net, chunks, batch_size=5)
        return net.parameters.tobytes()

    plain = cut(x, y, 20, 28)
    assert run([nothing, *plain]) == run([plain[0], nothing, nothing, plain[1], nothing]) == run(plain)
