import functools
import math

import numpy as np
import pytest
from numba import njit

from fastbp.formulas import elementary
from fastbp.formulas.losses import LOSSES, smoothed_target
from tests import reference

CASES = {name: (row, *reference.LOSSES[name]) for name, row in LOSSES.items()}
every_loss = pytest.mark.parametrize("name", CASES)
every_elementwise_loss = pytest.mark.parametrize("name", [n for n in CASES if not LOSSES[n].rowwise])

# (name, option), with two values besides the default where a loss has an option
OTHER_OPTIONS = {"delta": [0.3, 4.0], "label_smoothing": [0.1, 0.9]}
WITH_OPTIONS = [
    (name, option)
    for name, row in LOSSES.items()
    for option in [row.option_default, *(OTHER_OPTIONS[row.option] if row.option else [])]
]
every_option = pytest.mark.parametrize(("name", "option"), WITH_OPTIONS)


def targets(kind, shape):
    rng = np.random.default_rng(7)
    if kind == "classes":
        t = rng.uniform(0, 1, shape)
        t[:, 0] = 0.0
        return t / t.sum(axis=1, keepdims=True)
    return {
        "real": rng.normal(0, 2, shape),
        "binary": np.where(rng.random(shape) < 0.5, rng.random(shape), rng.integers(0, 2, shape)),
        "count": rng.poisson(2, shape).astype(np.float64),
        "sign": rng.choice([-1.0, 1.0], shape),
    }[kind]


@functools.cache
def compiled(name, dtype):
    row = LOSSES[name]
    forward, backward, link = row.forward, row.backward, row.link
    if row.rowwise:

        def run(s, total, t, loss, dz, p):
            for i in range(s.size):
                loss[i] = forward(s[i], elementary.log(total[i]), t[i])
                p[i] = link(elementary.exp(s[i]), total[i])
                dz[i] = backward(p[i], t[i])

    else:

        def run(z, t, option, loss, dz, p):
            for i in range(z.size):
                loss[i] = forward(z[i], t[i], option[i])
                dz[i] = backward(z[i], t[i], option[i])
                p[i] = link(z[i])

    return njit(f"void({', '.join(6 * [dtype + '[::1]'])})", error_model="numpy")(run)


def terms(name, z, t, option=None, dtype="float64"):
    """What each output adds to the loss, the gradient of each logit, the predictions; before any mean."""
    row = LOSSES[name]
    option = row.option_default if option is None else option
    z, t = np.broadcast_arrays(np.asarray(z, dtype), np.asarray(t, dtype))
    if row.rowwise:
        s = z - z.max(axis=1, keepdims=True)
        total = np.exp(s).sum(axis=1, keepdims=True)
        t = np.array([[smoothed_target(t_j, t_j.dtype.type(option), len(row)) for t_j in row] for row in t])
        inputs = s, np.broadcast_to(total, s.shape), t
    else:
        inputs = z, t, np.full(z.shape, option)
    outputs = [np.full(z.size, 7.0, dtype) for _ in range(3)]
    compiled(name, dtype)(*(np.array(a, dtype).ravel() for a in inputs), *outputs)
    return [a.reshape(z.shape) for a in outputs]


def mean(name, z, t, option=None, dtype="float64"):
    """The mean loss and its gradient."""
    loss, dz, _ = terms(name, z, t, option, dtype)
    n = len(loss) if LOSSES[name].rowwise else loss.size
    return loss.sum(dtype=np.float64) / n, dz / n


def example(name, shape=(40, 5)):
    return np.random.default_rng(1).normal(0, 3, shape), targets(LOSSES[name].targets, shape)


def test_every_reference_has_a_row():
    assert set(CASES) == set(reference.LOSSES)


@every_option
def test_value(name, option):
    z, t = example(name)
    assert mean(name, z, t, option)[0] == pytest.approx(CASES[name][1](z, t, option), rel=1e-13)


@every_option
def test_gradient(name, option):
    z, t = example(name)
    np.testing.assert_allclose(
        mean(name, z, t, option)[1], CASES[name][2](z, t, option), rtol=1e-12, atol=1e-16
    )


@every_option
def test_gradient_is_the_central_difference_of_the_value(name, option):
    z, t = example(name, (3, 4))
    h = 1e-5
    slope = np.empty_like(z)
    for i in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[i] = h
        slope[i] = (mean(name, z + step, t, option)[0] - mean(name, z - step, t, option)[0]) / (2 * h)
    np.testing.assert_allclose(mean(name, z, t, option)[1], slope, rtol=1e-8, atol=1e-9)


@every_loss
def test_link(name):
    z, t = example(name)
    row, _, _, link = CASES[name]
    np.testing.assert_allclose(terms(name, z, t)[2], link(z), rtol=1e-13)
    assert row.link_name == {np.exp: "exponential"}.get(link, link.__name__)


@pytest.mark.parametrize(
    ("name", "z", "t", "option", "slope"),
    [
        ("mean_absolute_error", 1.5, 1.5, None, 0.0),
        ("huber", 2.0, 1.0, 1.0, 1.0),
        ("huber", 0.0, 1.0, 1.0, -1.0),
        ("huber", 0.5, 1.0, 0.25, -0.25),
        ("hinge", 1.0, 1.0, None, 0.0),
        ("hinge", -1.0, -1.0, None, 0.0),
        ("hinge", 0.0, -1.0, None, 1.0),
    ],
)
def test_slope_at_kinks(name, z, t, option, slope):
    assert terms(name, [[z]], [[t]], option)[1] == slope


@every_elementwise_loss
@pytest.mark.parametrize("z", [0.0, -0.0, 300.0, -300.0, 5e-324])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_extremes(name, z, t):
    z, t = np.array([[z]]), np.array([[t]])
    loss, dz, _ = terms(name, z, t)
    np.testing.assert_allclose(loss[0, 0], CASES[name][1](z, t, 1.0), rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(dz, CASES[name][2](z, t, 1.0), rtol=1e-14, atol=1e-16)


@every_elementwise_loss
def test_nan_logit_gives_nan(name):
    assert np.isnan(terms(name, [[math.nan]], [[1.0]])[0])


@every_elementwise_loss
@pytest.mark.parametrize("z", [0.0, 300.0, -300.0])
def test_float32_at_extremes(name, z):
    loss, dz, _ = terms(name, [[z]], [[1.0]], dtype="float32")
    with np.errstate(over="ignore"):
        expected = CASES[name][1](np.array([[z]]), 1.0, 1.0).astype(np.float32)
        slope = CASES[name][2](np.array([[z]]), 1.0, 1.0).astype(np.float32)
    np.testing.assert_allclose(loss[0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(dz, slope, rtol=1e-6)


def test_log_cosh_keeps_its_digits_where_the_error_is_small():
    d = np.array([[1e-3, -1e-6, 1e-9, 0.0]])
    np.testing.assert_allclose(terms("log_cosh", d, 0.0)[0], d**2 / 2 - d**4 / 12, rtol=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_binary_cross_entropy_keeps_its_digits_where_it_is_small(sign):
    z = np.array([[30.0, 100.0, 700.0]])
    loss = terms("binary_cross_entropy", sign * z, float(sign > 0))[0]
    np.testing.assert_allclose(loss, np.exp(-z), rtol=1e-13)


class TestSoftmax:
    @pytest.mark.parametrize("shift", [0.0, 1000.0, -1e8])
    def test_a_shift_of_all_logits_changes_nothing(self, shift):
        z, t = np.array([[1.0, 2.0, 4.0]]), np.array([[0.0, 1.0, 0.0]])
        shifted = terms("softmax_cross_entropy", z + shift, t)
        np.testing.assert_array_equal(shifted, terms("softmax_cross_entropy", z, t))

    def test_impossible_class_that_did_not_come(self):
        loss, dz, p = terms("softmax_cross_entropy", [[0.0, -math.inf, 0.0]], [[1.0, 0.0, 0.0]])
        np.testing.assert_allclose(loss, [[math.log(2), 0, 0]], rtol=1e-15)
        np.testing.assert_allclose(dz, [[-0.5, 0, 0.5]], rtol=1e-15)
        np.testing.assert_allclose(p, [[0.5, 0, 0.5]], rtol=1e-15)

    def test_impossible_class_that_came(self):
        loss, dz, _ = terms("softmax_cross_entropy", [[0.0, -math.inf]], [[0.0, 1.0]])
        np.testing.assert_array_equal(loss, [[0, math.inf]])
        np.testing.assert_array_equal(dz, [[1, -1]])

    def test_far_apart(self):
        loss, dz, p = terms("softmax_cross_entropy", [[300.0, -300.0]], [[0.0, 1.0]])
        np.testing.assert_array_equal(loss, [[0, 600]])
        np.testing.assert_allclose(p, [[1, math.exp(-600)]], rtol=1e-13)
        np.testing.assert_allclose(dz, [[1, -1]], rtol=1e-15)

    def test_one_class(self):
        assert [float(a[0, 0]) for a in terms("softmax_cross_entropy", [[3.0]], [[1.0]])] == [0, 0, 1]

    def test_nan_logit_gives_nan(self):
        assert np.isnan(terms("softmax_cross_entropy", [[0.0, math.nan]], [[1.0, 0.0]])[0][0, 0])

    def test_integer_classes_are_one_hot_rows(self):
        z, _ = example("softmax_cross_entropy", (4, 3))
        labels = np.array([2, 0, 1, 1])
        value, dz = mean("softmax_cross_entropy", z, np.eye(3)[labels], 0.2)
        assert value == pytest.approx(reference.softmax_cross_entropy(z, labels, 0.2), rel=1e-13)
        np.testing.assert_allclose(
            dz, reference.softmax_cross_entropy_gradient(z, labels, 0.2), rtol=1e-12, atol=1e-16
        )

    def test_smoothed_target(self):
        assert [smoothed_target(t, 0.2, 4) for t in (0.0, 1.0)] == pytest.approx([0.05, 0.85], rel=1e-15)
        assert smoothed_target(np.float32(0.3), np.float32(0.0), 7) == np.float32(0.3)


@every_loss
def test_float32(name):
    z, t = example(name)
    loss, dz = mean(name, z, t, dtype="float32")
    option = LOSSES[name].option_default
    assert loss == pytest.approx(CASES[name][1](z, t, option), rel=1e-6)
    np.testing.assert_allclose(dz, CASES[name][2](z, t, option), rtol=1e-5, atol=1e-7)


@every_loss
def test_float32_loop_has_no_double_in_it(name):
    kernel = compiled(name, "float32")
    assert "double" not in kernel.inspect_llvm(kernel.signatures[0])


def test_smoothing_has_no_double_in_it():
    smooth = njit("void(float32[::1])", error_model="numpy")(_smooth_in_place)
    assert "double" not in smooth.inspect_llvm(smooth.signatures[0])


def _smooth_in_place(a):
    a[0] = smoothed_target(a[0], a[1], a[2])


@every_loss
def test_option(name):
    row = LOSSES[name]
    if row.option is None:
        assert row.option_rule == ""
        return
    assert row.option_is_valid(row.option_default)
    assert row.option_rule
    assert not row.option_is_valid(math.nan)
    assert not row.option_is_valid(-0.1)
    assert not row.option_is_valid(math.inf)


def test_option_limits():
    assert not LOSSES["huber"].option_is_valid(0.0)
    assert LOSSES["softmax_cross_entropy"].option_is_valid(0.0)
    assert not LOSSES["softmax_cross_entropy"].option_is_valid(1.0)


def torch_losses(torch):
    f = torch.nn.functional
    return {
        "mean_squared_error": lambda z, t, _: f.mse_loss(z, t),
        "mean_absolute_error": lambda z, t, _: f.l1_loss(z, t),
        "huber": lambda z, t, delta: f.huber_loss(z, t, delta=delta),
        "log_cosh": lambda z, t, _: torch.log(torch.cosh(z - t)).mean(),  # Keras's
        "softmax_cross_entropy": lambda z, t, eps: f.cross_entropy(z, t, label_smoothing=eps),
        "binary_cross_entropy": lambda z, t, _: f.binary_cross_entropy_with_logits(z, t),
        "poisson": lambda z, t, _: f.poisson_nll_loss(z, t),
        "hinge": lambda z, t, _: torch.clamp(1 - t * z, min=0).mean(),  # Keras's
    }


@every_option
def test_against_pytorch(name, option):
    torch = pytest.importorskip("torch")
    z, t = example(name)
    z_torch = torch.tensor(z, requires_grad=True)
    value = torch_losses(torch)[name](z_torch, torch.tensor(t), option)
    value.backward()
    loss, dz = mean(name, z, t, option)
    assert loss == pytest.approx(value.item(), rel=1e-12)
    np.testing.assert_allclose(dz, z_torch.grad.numpy(), rtol=1e-11, atol=1e-15)


def test_integer_classes_against_pytorch():
    torch = pytest.importorskip("torch")
    z, _ = example("softmax_cross_entropy", (4, 3))
    labels = np.array([2, 0, 1, 1])
    value = torch.nn.functional.cross_entropy(torch.tensor(z), torch.tensor(labels), label_smoothing=0.2)
    loss, _ = mean("softmax_cross_entropy", z, np.eye(3)[labels], 0.2)
    assert loss == pytest.approx(value.item(), rel=1e-12)
