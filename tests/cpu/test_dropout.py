"""Dropout: masks, whole trainings against the reference, and what does not drop."""

import numpy as np
import pytest

import fastbp
from fastbp.formulas import dropout as formulas
from fastbp.formulas import random as draws
from tests import reference
from tests.samples import difference, draw_inputs, make_layered, stack_of, train_by_reference


def test_words_are_those_of_the_generator():
    for counter in [(0, 3, 0, 0, 0), (2**64 - 1, 3 + (7 << 8), 5, 2**32 - 1, 123456789)]:
        assert [int(word) for word in draws.philox(*counter)] == reference.philox_words(*counter)
    assert draws.purpose_of(draws.DROPOUT, 7) == 3 + 7 * 256


@pytest.mark.parametrize(
    ("rate", "threshold"), [(0.0, 0), (0.5, 2**31), (2**-32, 1), (1 - 2**-53, 2**32 - 1), (0.3, 1288490189)]
)
def test_threshold(rate, threshold):
    assert formulas.dropout_threshold(rate) == threshold


def test_formulas():
    assert formulas.dropout_multiplier(5, 5, 2.0) == 2.0
    assert formulas.dropout_multiplier(4, 5, 2.0) == 0.0
    assert formulas.dropout(3.0, 2.0) == formulas.dropout_backward(3.0, 2.0) == 6.0


def test_float32_drops_the_same():
    net, x, y, batch_size = make_layered("dropout", "float32")
    expected = train_by_reference(net, x, y, epochs=2, batch_size=batch_size, rate=0.1, seed=5)
    fastbp.train(net, x, y, epochs=2, batch_size=batch_size, shuffle=False, optimizer=fastbp.SGD(0.1), seed=5)
    assert difference(net.parameters, expected) < 1e-5


def test_a_share_is_dropped_and_differs_by_row_column_step_epoch_and_layer():
    words = [
        reference.dropout_words(1, layer, epoch, step, 40, 50)
        for layer, epoch, step in [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2)]
    ]
    assert len(np.unique(words)) == 4 * 40 * 50
    for rate in (0.1, 0.5, 0.9):
        dropped = (reference.dropout_multipliers(rate, words[0]) == 0).mean()
        assert abs(dropped - rate) < 4 * np.sqrt(rate * (1 - rate) / 2000)


def test_nothing_is_dropped_outside_training():
    net, x, y, _ = make_layered("dropout")
    logits = reference.stack_forward(stack_of(net), x)
    for n in (1, 3, 50):
        np.testing.assert_allclose(net.logits(x[:n]), logits[:n], rtol=1e-12)
    np.testing.assert_allclose(net.predict(x[0]), reference.LOSSES[net.loss_function.name][2](logits[:1])[0])
    value, flat, dx = reference.stack_gradient(stack_of(net), x, y, net.loss_function.name)
    loss, gradient = net.gradient(x, y)
    assert loss == net.loss(x, y) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(gradient.parameters, flat, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(gradient.inputs, dx, rtol=1e-10, atol=1e-15)
    assert fastbp.check_gradients(net, x[:4], y[:4])


def test_rate_zero_is_no_dropout():
    layers = [fastbp.Dense(5, "tanh"), fastbp.Dropout(0.0), fastbp.Dense(2), fastbp.Dropout(0)]
    nets = [
        fastbp.Network(kept, inputs=3, seed=0)
        for kept in (layers, [fastbp.Dense(5, "tanh"), fastbp.Dense(2)])
    ]
    x = draw_inputs(20, 3)
    for net in nets:
        fastbp.train(net, x, x[:, :2], epochs=2)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


def test_dropout_may_stand_last_and_alone():
    net = fastbp.Network([fastbp.Dropout(0.5)], inputs=3, loss="softmax_cross_entropy", seed=0)
    x = draw_inputs(20, 3).astype("float32")
    assert np.array_equal(net.logits(x), x)
    assert net.parameters.size == 0
    history = fastbp.train(net, x, np.zeros(20, int), epochs=2)
    assert np.isfinite(history.loss).all()
    net = fastbp.Network(
        [fastbp.Dense(3), fastbp.Dropout(0.5)], inputs=3, loss="softmax_cross_entropy", seed=0
    )
    expected = train_by_reference(net, x, np.zeros(20, int), epochs=2, batch_size=32, rate=0.1, seed=0)
    fastbp.train(net, x, np.zeros(20, int), epochs=2, shuffle=False, optimizer=fastbp.SGD(0.1))
    assert difference(net.parameters, expected) < 1e-5
