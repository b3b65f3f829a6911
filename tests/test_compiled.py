"""Networks called from compiled code: the same numbers, nothing allocated, nothing unchecked."""

import copy
import gc
import pickle
import re

import numpy as np
import pytest
from numba import njit

import fastbp
from fastbp.formulas.losses import LOSSES
from tests.samples import draw_inputs, draw_targets, make_network

REALS = ("float32", "float64")


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("sizes", [(1, 1), (3, 5, 2), (64, 32, 10)])
def test_predict_into_gives_the_bits_of_predict(sizes, real):
    net = make_network(sizes, "gelu", "binary_cross_entropy", dtype=real)
    predict_into, x = net.compiled().predict_into, draw_inputs(5, sizes[0]).astype(real)

    @njit
    def all_rows(x, y):
        for i in range(len(x)):
            predict_into(x[i], y[i])

    for _ in range(2):
        y = np.full((5, sizes[-1]), np.nan, real)
        all_rows(x, y)
        assert np.array_equal(y, net.predict(x))
        net.parameters[:] *= 0.5  # seen at once


def test_other_types_and_strides_are_converted():
    net = make_network([3, 4, 2], dtype="float32")
    x, y = np.repeat([0.5, -1.0, 2.0], 2)[::2], np.zeros(4)[::2]
    net.compiled().predict_into(x, y)
    assert np.array_equal(y, net.predict(x))


def test_predict_into_refuses():
    net = make_network([3, 4, 2])
    predict_into, y = net.compiled().predict_into, np.zeros(2, np.float32)
    for x, out in ((np.zeros(2, np.float32), y), (np.zeros(3, np.float32), np.zeros(3, np.float32))):
        with pytest.raises(ValueError, match="predict_into takes x"):
            predict_into(x, out)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="x must be finite"):
            predict_into(np.array([0, bad, 0], np.float32), y)
    assert not y.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_steps_give_the_bits_of_training(loss):
    nets = [make_network([4, 6, 3], "tanh", loss, dtype="float64") for _ in range(2)]
    x, y = draw_inputs(20, 4), draw_targets(loss, 20, 3)
    step = nets[0].compiled(fastbp.Adam(0.01), batch_size=8).step

    @njit
    def epochs(x, y, n):
        total = 0.0
        for _ in range(n):
            for start in range(0, len(x), 8):
                total += step(x[start : start + 8], y[start : start + 8]) * len(x[start : start + 8])
        return total / len(x)

    total = epochs(x, y, 2)
    history = fastbp.train(nets[1], x, y, epochs=2, batch_size=8, shuffle=False, optimizer=fastbp.Adam(0.01))
    assert np.array_equal(nets[0].parameters, nets[1].parameters)
    assert total == pytest.approx(sum(history.loss), rel=1e-14)


@pytest.mark.parametrize(
    ("loss", "good", "bad"),
    [
        ("mean_squared_error", 0.5, [np.nan, np.inf, 1e39]),
        ("binary_cross_entropy", 1.0, [-0.1, 1.5, np.nan]),
        ("poisson", 3.0, [-1.0, np.inf, 1e39]),
        ("hinge", -1.0, [0.0, 2.0]),
        ("softmax_cross_entropy", 1, [-1, 2, 2**40]),
        ("softmax_cross_entropy", 1.0, [0.5, np.nan, -1.0]),
    ],
)
def test_a_wrong_target_reaches_no_kernel(loss, good, bad):
    net = fastbp.Network([2, 2], loss=loss, seed=0)
    step, before = net.compiled("sgd", batch_size=4).step, net.parameters.copy()
    shape = (3,) if loss == "softmax_cross_entropy" else (3, 2)
    x, y = np.ones((3, 2), np.float32), np.full(shape, good)
    for each in bad:
        wrong = y.astype(np.float64 if isinstance(each, float) else y.dtype)
        wrong[-1] = each
        with pytest.raises(ValueError, match="y must be"):
            step(x, wrong)
    for rows, targets in ((x[:0], y[:0]), (x, y[:2]), (x[:, :1], y), (np.ones((5, 2), np.float32), y)):
        with pytest.raises(ValueError, match="step takes x"):
            step(rows, targets)
    with pytest.raises(ValueError, match="x must be finite"):
        step(np.full((3, 2), np.nan, np.float32), y)
    assert np.array_equal(net.parameters, before)
    assert np.isfinite(step(x, y))
    assert not np.array_equal(net.parameters, before)


def test_inputs_that_overflow_are_refused():
    net = fastbp.Network([2, 2], seed=0)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="x must be finite"):
        net.compiled("sgd").step(np.array([[1.0, 1e39]]), np.ones((1, 2)))
    assert np.array_equal(net.parameters, before)


def test_arrays_of_other_dimensions_are_refused_in_a_sentence():
    functions = fastbp.Network([2, 2], seed=0).compiled("sgd", batch_size=4)
    row, rows = np.ones(2, np.float32), np.ones((3, 2), np.float32)
    for x, y in ((rows, row), (row, rows)):
        with pytest.raises(ValueError, match="predict_into takes x"):
            functions.predict_into(x, y)
    with pytest.raises(ValueError, match="step takes x"):
        functions.step(row, rows)
    with pytest.raises(ValueError, match="y must be targets"):
        functions.step(rows, np.ones(3, np.float32))


def test_a_weighted_step_multiplies():
    nets = [make_network([4, 6, 3], "tanh", dtype="float64") for _ in range(2)]
    x, y = draw_inputs(8, 4), draw_targets("mean_squared_error", 8, 3)
    weights = np.array([0, 0.5, 0.5, 1, 1, 1.5, 1.5, 2])  # whose mean is 1, so that train divides by 1
    step = nets[0].compiled("adam", batch_size=8, weighted=True).step
    loss = step(x, y, weights)
    history = fastbp.train(nets[1], x, y, epochs=1, batch_size=8, optimizer="adam", sample_weight=weights)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)
    assert loss == pytest.approx(history.loss[0], rel=1e-14)
    before = nets[0].parameters.copy()
    for n in (2, 7, 9):
        with pytest.raises(ValueError, match="as many weights as rows"):
            step(x, y, np.ones(n))
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="weights must be finite and at least 0"):
            step(x, y, np.array([1.0] * 7 + [wrong]))
    assert np.array_equal(nets[0].parameters, before)
    assert step(x, y, 2 * weights) == pytest.approx(2 * nets[1].loss(x, y, sample_weight=weights), rel=1e-12)


def test_steps_go_on_from_weights_of_somebody_else_when_they_are_told():
    x, y = np.ones((1, 2)), np.ones((1, 1))
    net = fastbp.Network([2, 1], seed=0)
    compiled = net.compiled(fastbp.SGD(1e-9))
    trained = compiled.step(x, y)
    net.parameters[:] = 0
    assert compiled.step(x, y) == pytest.approx(trained), "it has its own"
    net.parameters[:] = 0
    compiled.take_parameters()
    assert compiled.step(x, y) == 1
    assert np.abs(net.parameters).max() < 1e-8


def test_no_step_without_an_optimizer():
    net = fastbp.Network([2, 1])
    assert net.compiled().step is None
    assert net.compiled().take_parameters is None
    with pytest.raises(ValueError, match="LBFGS needs all rows"):
        net.compiled("lbfgs")
    with pytest.raises(ValueError, match="a schedule needs per="):
        net.compiled(fastbp.SGD(0.1, schedule=fastbp.schedules.Cosine()))
    with pytest.raises(ValueError, match="batch_size must be an integer at least 1"):
        net.compiled("sgd", batch_size=0)


@pytest.mark.parametrize("columns", [1, 3])
def test_targets_of_another_width_are_refused(columns):
    net = fastbp.Network([2, 2], seed=0)
    step, before = net.compiled("sgd", batch_size=4).step, net.parameters.copy()
    with pytest.raises(ValueError, match="y must be targets"):
        step(np.ones((3, 2), np.float32), np.ones((3, columns), np.float32))
    assert np.array_equal(net.parameters, before)


def test_weights_that_overflow_are_refused():
    net = fastbp.Network([2, 2], seed=0)
    step, before = net.compiled("sgd", weighted=True).step, net.parameters.copy()
    with pytest.raises(ValueError, match="weights must be finite"):
        step(np.ones((1, 2)), np.ones((1, 2)), np.array([1e39]))
    assert np.array_equal(net.parameters, before)


def test_functions_keep_what_they_need_alive():
    predict_into = make_network([3, 4, 2]).compiled().predict_into
    expected = make_network([3, 4, 2]).predict([1.0, 2.0, 3.0])
    gc.collect()
    y = np.zeros(2, np.float32)
    for _ in range(100):
        np.empty(1000)
        predict_into(np.array([1, 2, 3], np.float32), y)
    assert np.array_equal(y, expected)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_functions_are_not_copied(copied):
    with pytest.raises(TypeError, match=r"copy the network, and call compiled\(\) again"):
        copied(make_network([3, 4, 2]).compiled())


def test_nothing_is_allocated():
    functions = make_network([3, 4, 2]).compiled("adam")
    x, y = np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32)
    functions.predict_into(x[0], y[0]), functions.step(x, y)
    for function in functions:
        for text in function.inspect_llvm().values():
            assert not re.search(r"call [^\n]*@(NRT_MemInfo_alloc|NRT_Allocate|malloc)", text)


def test_without_numbas_compiler_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr("numba.config.DISABLE_JIT", True)
    with pytest.raises(RuntimeError, match=r"compiled\(\) needs Numba's compiler"):
        fastbp.Network([2, 1]).compiled()
