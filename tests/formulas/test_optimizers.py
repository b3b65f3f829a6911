import functools

import numpy as np
import pytest
from numba import njit
from numba.np.unsafe.ndarray import to_fixed_tuple

from fastbp.formulas.optimizers import OPTIMIZERS
from tests import reference

# Settings that take every branch; weights, then ten gradients of each.
SETTINGS = {
    "sgd": [
        {"learning_rate": 0.1, "weight_decay": 0.0},
        {"learning_rate": 0.03, "weight_decay": 0.2},
    ],
    "momentum": [
        {"learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.9, "dampening": 0.0},
        {"learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.9, "dampening": 0.4},
        {"learning_rate": 0.03, "weight_decay": 0.2, "momentum": 0.5, "dampening": 1.0},
    ],
    "nesterov": [
        {"learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.9},
        {"learning_rate": 0.03, "weight_decay": 0.2, "momentum": 0.5},
    ],
    "adam": [
        {"learning_rate": 0.1, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
        {"learning_rate": 0.03, "weight_decay": 0.2, "beta1": 0.5, "beta2": 0.75, "epsilon": 1e-3},
    ],
}
CASES = [(name, settings) for name in OPTIMIZERS for settings in SETTINGS[name]]
every_case = pytest.mark.parametrize(("name", "settings"), CASES)
REFERENCES = {name: reference.OPTIMIZERS[name] for name in OPTIMIZERS}

W = np.random.default_rng(0).normal(size=7)
DW = np.random.default_rng(1).normal(size=(10, 7))


@functools.cache
def compiled(name, dtype):
    update, hypers = OPTIMIZERS[name].update, OPTIMIZERS[name].hypers

    def without_state(w, dw, states, hyper):
        for i in range(w.size):
            w[i] = update(w[i], dw[i], to_fixed_tuple(hyper, hypers))

    def with_one_state(w, dw, states, hyper):
        for i in range(w.size):
            w[i], states[0, i] = update(w[i], dw[i], states[0, i], to_fixed_tuple(hyper, hypers))

    def with_two_states(w, dw, states, hyper):
        for i in range(w.size):
            w[i], states[0, i], states[1, i] = update(
                w[i], dw[i], states[0, i], states[1, i], to_fixed_tuple(hyper, hypers)
            )

    run = (without_state, with_one_state, with_two_states)[OPTIMIZERS[name].states]
    signature = f"void({dtype}[::1], {dtype}[::1], {dtype}[:, ::1], {dtype}[::1])"
    return njit(signature, error_model="numpy")(run)


def ten_steps(name, settings, dtype="float64"):
    row = OPTIMIZERS[name]
    w = W.astype(dtype)
    states = np.zeros((row.states, w.size), dtype)
    for step, dw in enumerate(DW.astype(dtype), start=1):
        hyper = row.prepare(tuple(settings[key] for key in row.settings), step)
        compiled(name, dtype)(w, dw, states, np.array(hyper, dtype))
    return w


def reference_steps(name, settings):
    update, n_states = reference.OPTIMIZERS[name]
    w, states = W, [np.zeros_like(W)] * n_states
    for step, dw in enumerate(DW, start=1):
        w, states = update(w, dw, states, step, **settings)
    return w


def torch_optimizer(parameters, name, settings):
    from torch import optim

    options = dict(settings)
    lr = options.pop("learning_rate")
    if name == "adam":
        betas, eps = (options.pop("beta1"), options.pop("beta2")), options.pop("epsilon")
        return optim.Adam(parameters, lr=lr, betas=betas, eps=eps, **options)
    return optim.SGD(parameters, lr=lr, nesterov=name == "nesterov", **options)


def test_tables_agree():
    assert set(OPTIMIZERS) == set(reference.OPTIMIZERS) == set(SETTINGS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_row(name):
    row = OPTIMIZERS[name]
    assert row.states == reference.OPTIMIZERS[name][1]
    for settings in SETTINGS[name]:
        assert tuple(settings) == row.settings
        for step in (1, 2, 10**9):
            assert len(row.prepare(tuple(settings.values()), step)) == row.hypers


@every_case
def test_ten_steps(name, settings):
    np.testing.assert_allclose(ten_steps(name, settings), reference_steps(name, settings), rtol=1e-13)


@every_case
def test_ten_steps_in_float32(name, settings):
    w = ten_steps(name, settings, "float32")
    assert w.dtype == np.float32
    np.testing.assert_allclose(w, reference_steps(name, settings), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_loop_has_no_double_in_it(name):
    kernel = compiled(name, "float32")
    assert "double" not in kernel.inspect_llvm(kernel.signatures[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_prepare_compiles_and_gives_the_bits_of_plain_python(name):
    prepare = OPTIMIZERS[name].prepare
    run = njit(lambda settings, step: prepare(settings, step))
    for settings in SETTINGS[name][-2:]:
        for step in (1, 2):
            assert run(tuple(settings.values()), step) == prepare(tuple(settings.values()), step)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_plain_python_gives_the_bits_of_compiled_code(name):
    row = OPTIMIZERS[name]
    hyper = row.prepare(tuple(SETTINGS[name][-1].values()), 2)
    w, dw, states = np.array([0.7]), np.array([-1.3]), np.full((row.states, 1), 0.4)
    expected = row.update(w[0], dw[0], *states[:, 0], tuple(np.float64(h) for h in hyper))
    compiled(name, "float64")(w, dw, states, np.array(hyper))
    assert (w[0], *states[:, 0]) == (expected if row.states else (expected,))


def test_a_step_by_hand():
    w, v = 2.0, 0.5
    hyper = OPTIMIZERS["momentum"].prepare((0.1, 0.25, 0.5, 0.75), 2)
    w, v = OPTIMIZERS["momentum"].update(w, 1.0, v, hyper)
    assert v == 0.5 * 0.5 + 0.25 * (1.0 + 0.25 * 2.0)
    assert w == pytest.approx(2.0 - 0.1 * v, rel=1e-15)


@every_case
def test_against_pytorch(name, settings):
    torch = pytest.importorskip("torch")
    w = torch.nn.Parameter(torch.tensor(W))
    optimizer = torch_optimizer([w], name, settings)
    for dw in DW:
        w.grad = torch.tensor(dw)
        optimizer.step()
    np.testing.assert_allclose(ten_steps(name, settings), w.detach().numpy(), rtol=1e-13)


# The reference network, which everything else is compared with: central differences, and PyTorch.


def example(loss="mean_squared_error"):
    rng = np.random.default_rng(3)
    sizes = [3, 5, 4, 2]
    layers = [
        (rng.normal(size=(n_in, n_out)), rng.normal(size=n_out), activation)
        for n_in, n_out, activation in zip(sizes, sizes[1:], ["tanh", "gelu", "identity"])
    ]
    t = rng.random((6, 2))
    return layers, rng.normal(size=(6, 3)), t / t.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("loss", ["mean_squared_error", "softmax_cross_entropy"])
def test_reference_gradient(loss):
    layers, x, t = example()
    _, gradients, dx = reference.gradient(layers, x, t, loss)
    arrays = [x, *(p for W, b, _ in layers for p in (W, b))]
    for array, got in zip(arrays, [dx, *(dp for pair in gradients for dp in pair)]):
        for i in np.ndindex(array.shape):
            before = array[i]
            array[i] = before + 1e-5
            above = reference.gradient(layers, x, t, loss)[0]
            array[i] = before - 1e-5
            below = reference.gradient(layers, x, t, loss)[0]
            array[i] = before
            assert got[i] == pytest.approx((above - below) / 2e-5, rel=1e-7, abs=1e-10)


@every_case
def test_reference_training_against_pytorch(name, settings):
    torch = pytest.importorskip("torch")
    layers, x, t = example()
    trained, losses = reference.train(layers, [(x, t)] * 10, "softmax_cross_entropy", name, 0.1, **settings)
    parameters = [torch.nn.Parameter(torch.tensor(p)) for W, b, _ in layers for p in (W, b)]
    optimizer = torch_optimizer(parameters, name, settings)
    for expected in losses:
        W1, b1, W2, b2, W3, b3 = parameters
        hidden = torch.nn.functional.gelu(torch.tanh(torch.tensor(x) @ W1 + b1) @ W2 + b2)
        loss = torch.nn.functional.cross_entropy(hidden @ W3 + b3, torch.tensor(t), label_smoothing=0.1)
        assert loss.item() == pytest.approx(expected, rel=1e-12)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for p, expected in zip(parameters, (p for W, b, _ in trained for p in (W, b))):
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-11, atol=1e-13)
