"""OnlineTrainer: the same steps as train(), one call at a time; and the range test that is built on it."""

import _thread
import copy
import pickle
import signal
import sys
import threading

import numpy as np
import pytest

import fastbp
from fastbp import SGD, Adam, OnlineTrainer, learning_rate_range, online, schedules
from fastbp.interrupts import run_in_team
from tests.samples import draw_inputs, draw_targets, make_network


def start(loss="mean_squared_error", n_in=3, n_out=2, **how):
    n = 40
    net = make_network([n_in, 4, n_out], loss=loss, **dict(dtype="float64") | how)
    x, y = draw_inputs(n, n_in).astype(net.dtype), draw_targets(loss, n, n_out)
    return net, x, y if y.dtype == np.int64 else y.astype(net.dtype)


def by_train(net, x, y, batch_size, **how):
    history = fastbp.train(net, x, y, epochs=1, batch_size=batch_size, shuffle=False, **how)
    return net.parameters.tobytes(), history.loss[0]


LOSSES = [
    ("mean_squared_error", 2),
    ("mean_squared_error", 1),
    ("softmax_cross_entropy", 4),
    ("binary_cross_entropy", 1),
    ("hinge", 1),
]


def test_all_rows_at_once_are_not_to_be_had():
    with pytest.raises(ValueError, match="LBFGS needs all rows at once"):
        fastbp.OnlineTrainer(fastbp.Network([2, 1]), optimizer="lbfgs")


@pytest.mark.parametrize(("loss", "n_out"), LOSSES)
def test_row_by_row_equals_train(loss, n_out):
    net, x, y = start(loss, n_out=n_out)
    expected = by_train(start(loss, n_out=n_out)[0], x, y, 1, optimizer=Adam(0.01))
    trainer = OnlineTrainer(net, Adam(0.01))
    losses = [trainer.step(row, target) for row, target in zip(x, y)]
    assert net.parameters.tobytes() == expected[0]
    assert np.mean(losses) == pytest.approx(expected[1], rel=1e-12)
    assert trainer.steps == 40
    assert all(type(loss) is float for loss in losses)


@pytest.mark.parametrize("threads", [1, 2])
def test_in_pieces_of_any_size(threads):
    net, x, y = start()
    expected = by_train(start()[0], x, y, 8, optimizer=Adam(0.01))
    trainer = OnlineTrainer(net, Adam(0.01), batch_size=8, threads=threads)
    for first, last in ((0, 8), (8, 32), (32, 40)):
        trainer.step(x[first:last], y[first:last])
    assert net.parameters.tobytes() == expected[0]


def test_rows_and_pieces_may_alternate():
    net, x, y = start()
    trainer, one = OnlineTrainer(net, SGD(0.1)), OnlineTrainer(start()[0], SGD(0.1), batch_size=1)
    trainer.step(x[0], y[0])
    trainer.step(x[1:2], y[1:2])
    trainer.step(x[2], y[2])
    for row, target in zip(x[:3], y[:3]):
        one.step(row, target)
    assert net.parameters.tobytes() == one.network.parameters.tobytes()


@pytest.mark.parametrize(
    ("row", "target"),
    [
        ([1, 2, 3], 1), (np.array([1, 2, 3]), np.float32(1)), ([[1, 2, 3]], [1]), ([[1, 2, 3]], [[1]]),
        (np.array([1.0, 2, 3]), 1.0), (np.array([1.0, 2, 3]), np.array([1.0])), (np.array([1.0, 2, 3]), [1]),
        ([1, 2, 3], [[1]]),
    ],
)  # fmt: skip
def test_forms_of_a_row(row, target):
    net, *_ = start(n_out=1)
    expected = by_train(start(n_out=1)[0], [[1, 2, 3]], [[1]], 1)
    assert OnlineTrainer(net).step(row, target) == expected[1]
    assert net.parameters.tobytes() == expected[0]


def test_one_input():
    for x, y in (([0.5], [2.0]), (0.5, 2.0), ([[0.5]], [[2.0]]), (np.array([0.5]), 2.0)):
        net, *_ = start(n_in=1, n_out=1)
        expected = by_train(start(n_in=1, n_out=1)[0], [[0.5]], [[2.0]], 1)
        assert OnlineTrainer(net).step(x, y) == expected[1]
    net, x, y = start(n_in=1, n_out=1)
    expected = by_train(start(n_in=1, n_out=1)[0], x, y, 40)
    assert OnlineTrainer(net, batch_size=40).step(x[:, 0], y[:, 0]) == expected[1]


def test_classes_and_probabilities_may_alternate():
    net, x, y = start("softmax_cross_entropy", n_out=4)
    p = np.eye(4)[y]
    trainer = OnlineTrainer(net, Adam(0.01))
    plain = OnlineTrainer(start("softmax_cross_entropy", n_out=4)[0], Adam(0.01))
    for i in range(6):
        trainer.step(x[i], p[i] if i % 3 == 1 else y[i])
        plain.step(x[i], y[i])
    assert trainer.steps == 6
    np.testing.assert_allclose(net.parameters, plain.network.parameters, rtol=1e-12)


def test_float32():
    net, x, y = start(dtype="float32", n_out=1)
    expected = by_train(start(dtype="float32", n_out=1)[0], x, y, 1)
    trainer = OnlineTrainer(net)
    for row, target in zip(x, y):
        trainer.step(row, float(target[0]))
    assert net.parameters.tobytes() == expected[0]
    with pytest.raises(ValueError, match="y overflows float32"):
        trainer.step(x[0], 1e300)


def test_weights_are_copied_when_asked():
    net, x, y = start()
    before, (eager, *_) = net.parameters.copy(), start()
    lazy, other = OnlineTrainer(net, update_network=False), OnlineTrainer(eager)
    for row, target in zip(x, y):
        assert lazy.step(row, target) == other.step(row, target)
    assert np.array_equal(net.parameters, before)
    lazy.synchronize()
    assert np.array_equal(net.parameters, eager.parameters)
    net.parameters[:] = before
    lazy.take_parameters()
    assert lazy.step(x[0], y[0]) == OnlineTrainer(start()[0]).step(x[0], y[0])


def test_learning_rate():
    net, x, y = start()
    trainer = OnlineTrainer(net, SGD(0.5))
    assert trainer.learning_rate == 0.5
    trainer.learning_rate = 0.25
    trainer.step(x[0], y[0])
    other = OnlineTrainer(start()[0], SGD(0.25))
    other.step(x[0], y[0])
    assert np.array_equal(net.parameters, other.network.parameters)
    with pytest.raises(ValueError, match="learning_rate must be"):
        trainer.learning_rate = 0


def test_a_learning_rate_is_set_where_its_schedule_has_it():
    net, x, y = start()
    trainer = OnlineTrainer(net, SGD(0.1, schedule=schedules.Step(3, gamma=0.5, per="step")))
    for row, target in zip(x[:4], y[:4]):
        trainer.step(row, target)
    assert trainer.learning_rate == 0.05
    trainer.learning_rate = 0.01
    assert trainer.learning_rate == 0.01
    for row, target in zip(x[4:7], y[4:7]):
        trainer.step(row, target)
    assert trainer.learning_rate == 0.005


@pytest.mark.parametrize("copied", [lambda trainer: trainer, copy.deepcopy], ids=["itself", "a copy"])
def test_the_minimum_of_a_schedule_changes_with_the_rate(copied):
    net, x, y = start()
    trainer = OnlineTrainer(net, SGD(0.1, schedule=schedules.Cosine(4, minimum=0.05, per="step")))
    for _ in range(5):
        trainer.step(x[0], y[0])
    assert trainer.learning_rate == 0.05, "where it is lowest"
    trainer.learning_rate = 0.005
    trainer, rates = copied(trainer), []
    for _ in range(6):
        rates.append(trainer.learning_rate)
        trainer.step(x[0], y[0])
    expected = schedules.Cosine(4, minimum=0.005, per="step").rates(0.01, 1, 10)[4:]
    np.testing.assert_allclose(rates, expected, rtol=1e-14)


def test_schedules_count_steps():
    net, x, y = start()
    schedule = schedules.Step(3, gamma=0.5, per="step")
    trainer = OnlineTrainer(net, SGD(0.1, schedule=schedule))
    rates = []
    for row, target in zip(x[:7], y[:7]):
        trainer.step(row, target)
        rates.append(trainer.learning_rate)
    assert rates == schedule.rates(0.1, 1, 7)
    other = start()[0]
    fastbp.train(
        other, x[:7], y[:7], epochs=1, batch_size=1, shuffle=False, optimizer=SGD(0.1, schedule=schedule)
    )
    assert np.array_equal(net.parameters, other.parameters)
    for refused, message in [
        (schedules.Step(3), "there are no epochs in single steps, so a schedule needs per="),
        (schedules.Cosine(per="step"), "there are no epochs in single steps, so a schedule needs per="),
        (schedules.ReduceOnPlateau(), "ReduceOnPlateau acts between epochs"),
    ]:
        with pytest.raises(ValueError, match=message):
            OnlineTrainer(net, SGD(0.1, schedule=refused))


def test_a_weight_of_one_row_multiplies_its_step():
    (net, x, y), (other, *_) = start(), start()
    trainer, again = OnlineTrainer(net, SGD(0.1)), OnlineTrainer(other, SGD(0.1))
    weights = np.random.default_rng(0).uniform(0, 3, 40)
    for i, (row, target, weight) in enumerate(zip(x, y, weights)):
        again.learning_rate = 0.1 * weight
        form = (float(weight), np.float64(weight), [weight])[i % 3]
        assert trainer.step(row, target, form) == pytest.approx(weight * again.step(row, target), rel=1e-12)
    np.testing.assert_allclose(net.parameters, other.parameters, rtol=1e-12)
    assert trainer.steps == 40
    plain, before = other.loss(x[:1], y[:1]), net.parameters.copy()
    assert trainer.step(x[0], y[0], 0) == trainer.step(x[0], y[0], 0.0) == 0
    assert np.array_equal(net.parameters, before)
    assert trainer.step(x[0], y[0]) == pytest.approx(plain, rel=1e-12), "without a weight it is 1"


def test_weights_that_come_later_change_nothing_of_before():
    (net, x, y), (other, *_) = start(), start()
    trainer, again = OnlineTrainer(net, Adam(0.01)), OnlineTrainer(other, Adam(0.01))
    for i in range(10):
        trainer.step(x[i], y[i], *([1.0] if i == 5 else []))
        again.step(x[i], y[i])
    assert np.array_equal(net.parameters, other.parameters)
    assert trainer.steps == 10


def test_weights_of_rows():
    """Those whose mean is 1 in each batch, so that train divides by 1."""
    (net, x, y), (other, *_) = start(), start()
    weights = np.tile([0.5, 1.5, 0, 2], 10)
    history = fastbp.train(
        other, x, y, epochs=1, batch_size=8, shuffle=False, optimizer=Adam(0.01), sample_weight=weights
    )
    trainer = OnlineTrainer(net, Adam(0.01), batch_size=8)
    losses = [trainer.step(x[i : i + 20], y[i : i + 20], weights[i : i + 20]) for i in (0, 20)]
    again = start()[0]
    OnlineTrainer(again, Adam(0.01), batch_size=4).step(x, y, weights)
    assert not np.array_equal(again.parameters, other.parameters)
    again = start()[0]
    assert OnlineTrainer(again, Adam(0.01), batch_size=8).step(x, y, weights) == history.loss[0]
    assert np.array_equal(again.parameters, other.parameters)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    ("loss", "n_out", "by_class"),
    [
        ("softmax_cross_entropy", 3, {0: 2.0, 2: 0.0}),
        ("softmax_cross_entropy", 3, [2, 1, 0]),
        ("binary_cross_entropy", 1, {0: 2.0, 1: 0.5}),
        ("hinge", 1, {-1: 2.0}),
    ],
)
def test_class_weights(loss, n_out, by_class):
    (net, x, y), (other, *_) = start(loss, n_out=n_out), start(loss, n_out=n_out)
    trainer, again = OnlineTrainer(net, class_weight=by_class), OnlineTrainer(other)
    table = by_class if isinstance(by_class, dict) else dict(enumerate(by_class))
    for i, (row, target) in enumerate(zip(x, y)):
        weight, own = table.get(int(np.ravel(target)[0]), 1.0), 0.5 + i
        trainer.step(row, target)
        again.step(row, target, float(weight))
        trainer.step(row, target, own)
        again.step(row, target, own * weight)
    trainer.step(x, y)
    again.step(x, y, [table.get(int(label), 1.0) for label in y.ravel()])
    assert np.array_equal(net.parameters, other.parameters)
    assert not np.array_equal(net.parameters, by_train(start(loss, n_out=n_out)[0], x, y, 1)[0])


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (-1.0, ValueError, "sample_weight must be at least 0; row 0 is -1.0"),
        (np.nan, ValueError, "sample_weight must be finite"),
        (np.inf, ValueError, "sample_weight must be finite"),
        ("much", TypeError, "sample_weight must hold real numbers; got text"),
        ([1, 2], ValueError, r"sample_weight must have shape \(1,\); got \(2,\)"),
    ],
)
def test_refuses_weights(weight, error, message):
    net, x, y = start()
    before, trainer = net.parameters.copy(), OnlineTrainer(net)
    for _ in range(2):
        with pytest.raises(error, match=message):
            trainer.step(x[0], y[0], weight)
        assert np.array_equal(net.parameters, before)
        trainer.step(x[0], y[0], 0.0)


@pytest.mark.parametrize(
    ("loss", "by_class", "message"),
    [
        ("softmax_cross_entropy", "balanced", "a dict or a number for each class, .* got 'balanced'"),
        ("softmax_cross_entropy", {7: 1}, "class_weight has a weight for 7; classes are 0, 1"),
        ("softmax_cross_entropy", [1], r"class_weight must have shape \(2,\); got \(1,\)"),
        ("mean_squared_error", {0: 1}, "class_weight needs a loss whose targets are one class"),
        ("binary_cross_entropy", {0: 1}, "class_weight needs a loss whose targets are one class"),
    ],
)
def test_refuses_class_weights(loss, by_class, message):
    with pytest.raises(ValueError, match=message):
        OnlineTrainer(start(loss)[0], class_weight=by_class)


@pytest.mark.parametrize("threads", [2, 3])
def test_single_rows_by_several_threads(threads):
    """Each way of a row: the shortest one, one with weights, and one of rows before."""
    nets = [make_network([3, 40, 2], "tanh", dtype="float32") for _ in range(2)]
    x, y = draw_inputs(6, 3).astype("f4"), draw_targets("mean_squared_error", 6, 2).astype("f4")
    for net, n in zip(nets, (1, threads), strict=True):
        trainer = OnlineTrainer(net, "adam", threads=n)
        for i in range(3):
            trainer.step(x[i], y[i])
        trainer.step(x, y)
        trainer.step(x[3], y[3], 0.5)
        trainer.step(x[4], y[4], 0.5)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


def test_divergence():
    net, x, y = start()
    trainer = OnlineTrainer(net, SGD(1e200, momentum=0.9))
    trainer.step(x[0], y[0])
    after_one = net.parameters.copy()
    with pytest.raises(fastbp.DivergenceError, match="training diverged in step 2: the loss became"):
        trainer.step(x[1], y[1])
    assert np.array_equal(net.parameters, after_one)
    assert trainer.steps == 0
    assert not trainer._plan.states().any()
    going_on = OnlineTrainer(start()[0], SGD(1e200), on_divergence="continue")
    assert not np.isfinite([going_on.step(row, target) for row, target in zip(x[:3], y[:3])][-1])


def test_weights_that_overflow_without_a_loss_to_show_it():
    def overflow(**how):
        net = fastbp.Network([1, 1], seed=0)
        trainer = OnlineTrainer(net, SGD(1e30), **how)
        assert np.isfinite(trainer.step([1e6], 1e6)), "the loss is that from before the step"
        return net, trainer

    start = fastbp.Network([1, 1], seed=0).parameters
    net, trainer = overflow()
    with pytest.raises(fastbp.DivergenceError, match="in step 2: the loss became"):
        trainer.step([1.0], 1.0)
    assert np.array_equal(net.parameters, start)
    trainer.learning_rate = 0.01
    assert np.isfinite([trainer.step([1.0], 1.0) for _ in range(20)]).all()
    net, trainer = overflow(update_network=False)
    with pytest.raises(fastbp.DivergenceError, match="in step 1: a weight became"):
        trainer.synchronize()
    assert np.array_equal(net.parameters, start)


def test_weights_that_were_taken_are_those_to_go_back_to():
    net = fastbp.Network([1, 1], seed=0)
    trainer = OnlineTrainer(net, SGD(1e30))
    net.parameters[:] = 7
    trainer.take_parameters()
    trainer.step([1e6], 1e6)
    with pytest.raises(fastbp.DivergenceError):
        trainer.step([1.0], 1.0)
    assert (net.parameters == 7).all()


def test_finite_weights_are_remembered_now_and_then():
    net = fastbp.Network([1, 1], seed=0)
    trainer, kept = OnlineTrainer(net, SGD(0.01)), []
    for _ in range(300):
        trainer.step([0.5], 1.0)
        kept.append(net.parameters.copy())
    trainer.learning_rate = 1e30
    trainer.step([1e6], 1e6)
    assert not np.isfinite(net.parameters).all()
    with pytest.raises(fastbp.DivergenceError, match="step 302"):
        trainer.step([0.5], 1.0)
    assert np.array_equal(net.parameters, kept[255])


def test_each_row_of_a_chunk_counts_to_the_next_look():
    net = fastbp.Network([1, 1], seed=0)
    trainer = OnlineTrainer(net, SGD(0.01))
    trainer.step(np.full((300, 1), 0.5), np.ones(300))
    kept = net.parameters.copy()
    trainer.learning_rate = 1e30
    trainer.step([1e6], 1e6)
    with pytest.raises(fastbp.DivergenceError):
        trainer.step([0.5], 1.0)
    assert np.array_equal(net.parameters, kept)


BAD = [
    ([1, 2], 1.0, ValueError, r"x must have shape \(n, 3\)"),
    ([1, 2, np.nan], [1.0, 1.0], ValueError, "x must be finite"),
    (np.array([1, 2, np.nan]), np.ones(2), ValueError, "x must be finite; row 0, column 2 is nan"),
    (np.ones(3), np.array([1.0, np.inf]), ValueError, "y must be finite"),
    (np.ones(3), np.ones(3), ValueError, r"y must have shape \(1, 2\)|as many rows"),
    (np.ones(3), "a", TypeError, "y must"),
    (np.ma.array(np.ones(3), mask=[0, 0, 1]), np.ones(2), ValueError, "x must have no masked elements"),
    ([np.ma.array(np.ones(3), mask=[0, 0, 1])], np.ones(2), ValueError, "x must have no masked elements"),
    (np.ones(3), np.ma.array(np.ones(2), mask=[0, 1]), ValueError, "y must have no masked elements"),
    (np.ones((2, 3)), np.ones((3, 2)), ValueError, "as many rows as x, 2"),
]


@pytest.mark.parametrize(("x", "y", "error", "message"), BAD)
def test_refuses_rows_before_anything_changes(x, y, error, message):
    net, *_ = start()
    before, trainer = net.parameters.copy(), OnlineTrainer(net)
    with pytest.raises(error, match=message):
        trainer.step(x, y)
    assert trainer.steps == 0
    assert np.array_equal(net.parameters, before)


@pytest.mark.parametrize("y", [4, -1, 1.5, True])
def test_refuses_classes(y):
    net, x, _ = start("softmax_cross_entropy", n_out=4)
    with pytest.raises((ValueError, TypeError), match="y must hold classes from 0 to 3"):
        OnlineTrainer(net).step(x[0], y)


@pytest.mark.parametrize("y", [1.5, np.array([1.5]), np.array([1.0, -0.5])])
def test_refuses_what_is_no_probability(y):
    net, x, _ = start("binary_cross_entropy", n_out=np.size(y))
    before, trainer = net.parameters.copy(), OnlineTrainer(net)
    with pytest.raises(ValueError, match="between 0 and 1"):
        trainer.step(x[0], y)
    assert np.array_equal(net.parameters, before)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        (dict(network=3), TypeError),
        (dict(optimizer="sdg"), ValueError),
        (dict(optimizer="lbfgs"), ValueError),
        (dict(batch_size=0), ValueError),
        (dict(threads=0), ValueError),
        (dict(update_network=1), TypeError),
        (dict(on_divergence="stop"), ValueError),
    ],
)
def test_refuses_settings(how, error):
    with pytest.raises(error):
        OnlineTrainer(**dict(network=start()[0]) | how)


def test_interrupt_leaves_whole_weights(monkeypatch):
    net = make_network([3, 4, 2], dtype="float64")
    x, y = draw_inputs(3_000_000, 3), draw_targets("mean_squared_error", 3_000_000, 2)
    trainer = OnlineTrainer(net, SGD(1e-4), batch_size=1)
    trainer.step(x[:2], y[:2])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.05, _thread.interrupt_main)
    run = online.run_in_team

    def run_and_interrupt(*arguments):
        timer.start()
        run(*arguments)

    monkeypatch.setattr(online, "run_in_team", run_and_interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.step(x, y)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    done = trainer.steps - 2
    assert 0 < done < len(x)
    again = OnlineTrainer(make_network([3, 4, 2], dtype="float64"), SGD(1e-4), batch_size=1)
    again.step(x[:2], y[:2])
    again.step(x[:done], y[:done])
    assert np.array_equal(net.parameters, again.network.parameters)
    for each in (trainer, again):  # the rows of the call that was interrupted are forgotten
        each.step(x[:5], y[:5])
    assert np.array_equal(net.parameters, again.network.parameters)


# Kinds of rows


def test_sparse_rows_stay_sparse_to_the_same_bits(monkeypatch):
    sparse = pytest.importorskip("scipy.sparse")
    _, x, y = start(n_in=9)
    x[np.abs(x) < 0.8] = 0
    rows = sparse.csr_array(x)
    trainer, dense = (OnlineTrainer(start(n_in=9)[0], Adam(0.01), batch_size=8) for _ in range(2))
    monkeypatch.setattr("fastbp.sparse.SparseRows.toarray", None)
    for some in (slice(20), slice(20, 21)):
        assert trainer.step(rows[some], y[some]) == dense.step(x[some], y[some])
    assert trainer.step(x[21], y[21]) == dense.step(x[21], y[21]), "one dense row after sparse ones"
    assert trainer.step(rows[22:], y[22:]) == dense.step(x[22:], y[22:])
    assert trainer.network.parameters.tobytes() == dense.network.parameters.tobytes()


# Copies

KEPT = {
    "sgd": dict(optimizer=SGD(0.1)),
    "schedule": dict(optimizer=fastbp.NAdam(0.01, schedule=schedules.Cosine(total=60, per="step"))),
    "weights": dict(optimizer=Adam(0.01), update_network=False, batch_size=4),
}


@pytest.mark.parametrize("how", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
def test_a_copy_goes_on_to_the_same_bits(how, copied):
    x, y = draw_inputs(40, 5), draw_targets("softmax_cross_entropy", 40, 3)
    layers = [fastbp.Dense(6, "tanh"), fastbp.Dropout(0.3), fastbp.BatchNorm(), fastbp.Dense(3)]
    net = fastbp.Network(layers, inputs=5, loss="softmax_cross_entropy", dtype="float64", seed=1)
    if "batch_size" in how:
        how = how | {"class_weight": {0: 2.0, 2: 0.5}}
    trainer = OnlineTrainer(net, **how)
    trainer.step(x[:20], y[:20])
    trainer.learning_rate = 0.005
    other = copied(trainer)
    assert other.network is not net
    assert (other.steps, other.learning_rate) == (trainer.steps, trainer.learning_rate)
    assert other.network.parameters.tobytes() == net.parameters.tobytes(), "not even where steps are ahead"
    losses = [[each.step(x[20:], y[20:]), each.step(x[0], y[0])] for each in (trainer, other)]
    assert losses[0] == losses[1]
    for each in (trainer, other):
        each.synchronize()
    assert other.network.parameters.tobytes() == net.parameters.tobytes()


def test_a_copy_has_the_optimizers_state_for_each_of_two_threads():
    x, y = draw_inputs(600, 4), draw_targets("mean_squared_error", 600, 4)
    net = make_network([4, 32, 16, 4], dtype="float64")
    trainer = OnlineTrainer(net, Adam(0.01), batch_size=300, threads=2)
    assert trainer._plan.choices.replicas == 2
    trainer.step(x, y)
    other = copy.deepcopy(trainer)
    for each in (trainer, other):
        each.step(x, y)
    assert other.network.parameters.tobytes() == net.parameters.tobytes()


def test_a_copy_takes_the_rows_that_came_last():
    net, x, y = start("softmax_cross_entropy", n_out=4)
    trainer = OnlineTrainer(net, Adam(0.01))
    trainer.step(x[:4], np.eye(4)[y[:4]], sample_weight=[1, 2, 3, 0.5])
    other = copy.deepcopy(trainer)
    for each in (trainer, other):
        each.step(x[4], y[4])
    assert other.network.parameters.tobytes() == net.parameters.tobytes()


# Parameters that are not finite


def test_parameters_that_are_not_finite_are_told_before_any_work():
    net, x, y = start()
    trainer = OnlineTrainer(net)
    net.layers[1].b[1] = np.inf
    told = r"the network's parameters must be finite before training; b\[1\] of layer '\w+' is inf"
    for work in (trainer.take_parameters, lambda: OnlineTrainer(net)):
        with pytest.raises(ValueError, match=told):
            work()
    with pytest.raises(ValueError, match=told):
        fastbp.find_learning_rate(net, x, y)
    assert np.isfinite(trainer.step(x[0], y[0])), "it goes on from its own"


# The range test


def test_find_learning_rate(tmp_path):
    x, y = fastbp.datasets.digits()
    net = make_network([64, 16, 10], "relu", "softmax_cross_entropy")
    before = net.parameters.copy()
    found = fastbp.find_learning_rate(net, x, y, highest=1000.0)
    assert np.array_equal(net.parameters, before)
    assert 0.005 < found.suggestion < 1
    n = len(found.losses)
    assert 20 < n < 100, "it ends where the loss grows"
    assert len(found.learning_rates) == len(found.smoothed) == n
    np.testing.assert_allclose(found.learning_rates[1:] / found.learning_rates[:-1], 1e9 ** (1 / 99))
    again = fastbp.find_learning_rate(net, x, y, highest=1000.0)
    assert np.array_equal(again.losses, found.losses)
    assert not np.array_equal(fastbp.find_learning_rate(net, x, y, seed=5).losses[:20], found.losses[:20])
    pytest.importorskip("matplotlib")
    found.plot().savefig(tmp_path / "rates.png")


@pytest.mark.parametrize("seed", range(8))
def test_the_suggestion_is_no_noise_of_single_batches(seed):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(500, 5))
    y = 2 * np.sin(x[:, 0]) + x[:, 1] + 0.1 * draw.normal(size=500)
    found = fastbp.find_learning_rate(fastbp.Network([5, 32, 1], seed=seed), x, y)
    best = found.learning_rates[found.smoothed.argmin()]
    assert best / 100 < found.suggestion < best


@pytest.mark.parametrize("seed", range(4))
def test_the_range_of_a_loss_below_0(seed):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(200, 3)), draw.poisson(20, size=200)
    found = fastbp.find_learning_rate(fastbp.Network([3, 8, 1], loss="poisson", seed=seed), x, y)
    assert found.smoothed.min() < -20, "it is not ended where the loss crosses 0"
    assert 50 < len(found.losses) < 100
    assert 1e-4 < found.suggestion < 1


def test_ctrl_c_leaves_the_network_as_it_was(monkeypatch):
    net, x, y = start()
    before, teams = net.parameters.copy(), []

    def interrupted_run(plan, interrupts, show):
        interrupts.asked = len(teams) == 3
        teams.append(run_in_team(plan, interrupts, show))

    monkeypatch.setattr("fastbp.online.run_in_team", interrupted_run)
    monkeypatch.setattr("fastbp.online.SECONDS_INLINE", 0)  # every step is long
    with pytest.raises(KeyboardInterrupt):
        fastbp.find_learning_rate(net, x, y)
    assert len(teams) == 4
    assert np.array_equal(net.parameters, before)


def test_its_steps_are_those_of_training():
    net, x, y = start()
    found = fastbp.find_learning_rate(
        net, x, y, lowest=0.1, highest=0.1 + 1e-15, steps=10, batch_size=40, optimizer=SGD(9.0, momentum=0.5)
    )
    history = fastbp.train(net, x, y, epochs=10, batch_size=40, optimizer=SGD(0.1, momentum=0.5))
    np.testing.assert_allclose(found.losses, history.loss, rtol=1e-12)
    assert found.suggestion == pytest.approx(0.1)


def test_range_test_leaves_a_schedule_out():
    net, x, y = start()
    plain, scheduled = (
        fastbp.find_learning_rate(net, x, y, optimizer=SGD(0.1, schedule=schedule))
        for schedule in (None, schedules.Cosine())
    )
    assert np.array_equal(scheduled.losses, plain.losses)


def test_each_pass_over_the_rows_has_an_order_of_its_own():
    batches = learning_rate_range._batches(8, 4, 0)
    orders = [np.concatenate([next(batches), next(batches)]).tolist() for _ in range(3)]
    assert [sorted(order) for order in orders] == [list(range(8))] * 3
    assert len(set(map(tuple, orders))) == 3


@pytest.mark.parametrize("fall", [2, 3, 4])
def test_the_steepest_fall_is_looked_for_up_to_both_ends(fall):
    """Two losses before a place are compared with two from there on."""
    losses, smoothed = np.where(np.arange(6) < fall, 5.0, 1.0), np.arange(6.0, 0, -1)
    assert learning_rate_range._steepest(np.arange(6.0), losses, smoothed, steps=20) == fall


def test_a_loss_that_is_not_finite_is_left_out():
    net, x, y = start()
    found = fastbp.find_learning_rate(net, x, y, lowest=1e160, highest=1e300, steps=10, batch_size=8)
    assert np.isfinite(found.losses).all()
    assert np.isfinite(found.smoothed).all()
    assert 0 < len(found.learning_rates) == len(found.losses) == len(found.smoothed) < 10


def test_a_loss_that_never_falls_suggests_nothing():
    net, x, y = start()
    found = fastbp.find_learning_rate(net, 1e3 * x, 1e6 * y, lowest=1e6, highest=1e9, batch_size=40)
    assert found.suggestion is None
    assert np.isfinite(found.losses).all()


@pytest.mark.parametrize(
    ("how", "error"),
    [
        (dict(steps=9), ValueError),
        (dict(lowest=0), ValueError),
        (dict(lowest=2, highest=1), ValueError),
        (dict(lowest=1e-10, highest=np.inf), ValueError),
        (dict(batch_size=0), ValueError),
        (dict(batch_size=2.5), TypeError),
        (dict(optimizer="sdg"), ValueError),
        (dict(optimizer="lbfgs"), ValueError),
        (dict(seed=-1), ValueError),
    ],
)
def test_range_test_refuses(how, error):
    with pytest.raises(error):
        fastbp.find_learning_rate(*start(), **how)


def test_a_range_of_all_numbers():
    found = fastbp.find_learning_rate(*start(), lowest=1e-300, highest=1.7e308, steps=20)
    assert np.allclose(np.diff(np.log(found.learning_rates)), (np.log(1.7e308) - np.log(1e-300)) / 19)


def test_range_test_of_all_rows_and_of_sparse_ones(monkeypatch):
    sparse = pytest.importorskip("scipy.sparse")
    net, x, y = start(n_in=9)
    x[np.abs(x) < 0.8] = 0
    whole = fastbp.find_learning_rate(net, x, y, batch_size=None, lowest=1e-3, highest=0.1)
    assert whole.losses[0] == net.loss(x, y)
    assert (np.diff(whole.losses) < 0).all(), "no noise of batches"
    batches = fastbp.find_learning_rate(net, x, y, batch_size=7)
    monkeypatch.setattr("fastbp.sparse.SparseRows.toarray", None)
    for batch_size, dense in ((None, whole), (7, batches)):
        rates = dict(lowest=1e-3, highest=0.1) if batch_size is None else {}
        found = fastbp.find_learning_rate(net, sparse.csr_array(x), y, batch_size=batch_size, **rates)
        assert np.array_equal(found.losses, dense.losses)


def test_range_test_begins_from_the_weights_that_are_there():
    net, x, y = start()
    fastbp.train(net, x, y, epochs=50)
    assert fastbp.find_learning_rate(net, x, y, batch_size=None).losses[0] == net.loss(x, y)
    with pytest.raises(TypeError, match=r"network must be a fastbp\.Network"):
        fastbp.find_learning_rate("net", x, y)


def test_a_step_that_is_interrupted_while_it_is_prepared(monkeypatch):
    """The first one with weights needs another program: it is there as a whole, or not at all."""
    net = fastbp.Network([3, 8, 1], seed=0)
    trainer, x, y = OnlineTrainer(net), np.ones(3, np.float32), np.ones(1, np.float32)
    trainer.step(x, y)
    before = net.parameters.copy()
    for name in ("Plan", "Plan.pack"):
        with monkeypatch.context() as patch:
            patch.setattr(f"fastbp.online.{name}", interrupted)
            with pytest.raises(KeyboardInterrupt):
                trainer.step(x, y, sample_weight=0.0)
        assert trainer.step(x, y, sample_weight=0.0) == 0.0
        assert np.array_equal(net.parameters, before)
        trainer = OnlineTrainer(net)
    assert trainer.step(x[None], y[None], sample_weight=[0.0]) == 0.0


def interrupted(*arguments, **options):
    raise KeyboardInterrupt


def interrupted_at(line, function, code):
    """Raise KeyboardInterrupt before that line of a function that `code` calls, as Ctrl-C may."""

    def trace(frame, event, argument):
        if frame.f_code is not function.__code__:
            return None
        if event == "line" and frame.f_lineno - function.__code__.co_firstlineno == line:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        code()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("line", range(1, 25))
def test_an_interrupted_step_leaves_no_address_behind(line):
    net, x, y = start()
    trainer = OnlineTrainer(net, SGD(0.1))
    trainer.step(x[0], y[0])

    def step():
        trainer.step(np.full((4, 3), 1e3), np.full((4, 2), 1e3))  # rows that are gone then

    interrupted_at(line, OnlineTrainer._step_rows, step)
    twin = OnlineTrainer(copy.deepcopy(net), SGD(0.1))
    trainer.synchronize()
    twin.network.parameters[:] = net.parameters
    twin.take_parameters()
    assert trainer.step(x[1], y[1]) == twin.step(x[1], y[1])


@pytest.mark.parametrize("line", range(1, 9))
def test_an_interrupted_copy_leaves_the_network_where_it_was(line):
    net, x, y = start()
    trainer, twin = OnlineTrainer(net, SGD(0.1)), OnlineTrainer(start()[0], SGD(0.1))
    for each in (trainer, twin):
        each.step(x[0], y[0])
    interrupted_at(line, OnlineTrainer._kept, lambda: copy.deepcopy(trainer))
    for each in (trainer, twin):
        each.step(x[1], y[1])
    assert np.array_equal(net.parameters, twin.network.parameters)
