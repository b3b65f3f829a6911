import functools
import math
import re

import numpy as np
import pytest
from numba import config, njit

from fastbp.cpu.elementwise import update_loop
from fastbp.formulas.optimizers import OPTIMIZERS, ROOM
from tests import reference

# Settings that take every branch; weights, then ten gradients of each.
ADAM = [
    dict(learning_rate=0.1, weight_decay=0.0, decoupled_decay=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8),
    dict(learning_rate=0.03, weight_decay=0.0, decoupled_decay=0.3, beta1=0.9, beta2=0.99, epsilon=1e-6),
    dict(learning_rate=0.03, weight_decay=0.2, decoupled_decay=0.0, beta1=0.5, beta2=0.75, epsilon=1e-3),
]
RMSPROP = [
    dict(learning_rate=0.1, weight_decay=0.0, alpha=0.99, epsilon=1e-8),
    dict(learning_rate=0.03, weight_decay=0.2, alpha=0.5, epsilon=1e-3),
]
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
    "adam": ADAM,
    "amsgrad": ADAM,
    "adamax": [
        dict(learning_rate=0.1, weight_decay=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8),
        dict(learning_rate=0.03, weight_decay=0.2, beta1=0.5, beta2=0.75, epsilon=1e-3),
    ],
    "nadam": [
        settings | dict(momentum_decay=decay) for settings, decay in zip(ADAM, (0.004, 0.0, 3.0), strict=True)
    ],
    "radam": ADAM,
    "rmsprop": RMSPROP,
    "rmsprop_momentum": [settings | dict(momentum=0.9) for settings in RMSPROP],
    "rmsprop_centered": [RMSPROP[0] | dict(momentum=0.0), RMSPROP[1] | dict(momentum=0.5)],
    "adagrad": [
        dict(learning_rate=0.1, weight_decay=0.0, learning_rate_decay=0.0, initial_accumulator_value=0.0,
             epsilon=1e-10),
        dict(learning_rate=0.3, weight_decay=0.2, learning_rate_decay=0.1, initial_accumulator_value=0.2,
             epsilon=1e-3),
    ],
    "adadelta": [
        dict(learning_rate=1.0, weight_decay=0.0, rho=0.9, epsilon=1e-6),
        dict(learning_rate=0.3, weight_decay=0.2, rho=0.5, epsilon=1e-3),
    ],
    "lion": [
        dict(learning_rate=0.1, decoupled_decay=0.0, beta1=0.9, beta2=0.99),
        dict(learning_rate=0.03, decoupled_decay=0.2, beta1=0.5, beta2=0.75),
    ],
}  # fmt: skip
CASES = [(name, settings) for name in OPTIMIZERS for settings in SETTINGS[name]]
every_case = pytest.mark.parametrize(("name", "settings"), CASES)
REFERENCES = {name: reference.OPTIMIZERS[name] for name in OPTIMIZERS}

W = np.random.default_rng(0).normal(size=7)
DW = np.random.default_rng(1).normal(size=(100, 7))


@functools.cache
def compiled(name, dtype):
    """The loop ``(n, dw, w, state_bytes, hyper)`` that the kernels inline, by itself."""
    update = update_loop(name, dtype)
    loop = njit("void(int64, int64, int64, int64, int64)", error_model="numpy")
    return loop(lambda n, dw, w, state_bytes, hyper: update(n, dw, w, state_bytes, hyper))


def step_compiled(name, dtype, numbers, dw, hyper):
    """One step of ``numbers`` (1 + states, n), in place; on copies with the room that whole vectors need."""
    n, hyper = dw.size, np.array(hyper, dtype)
    memory = np.zeros((len(numbers) + 1, -(-n // 16) * 16), dtype)
    memory[:-1, :n], memory[-1, :n] = numbers, dw
    compiled(name, dtype)(n, memory[-1].ctypes.data, memory.ctypes.data, memory.strides[0], hyper.ctypes.data)
    numbers[:] = memory[:-1, :n]


def many_steps(name, settings, steps=10, dtype="float64"):
    row = OPTIMIZERS[name]
    numbers = np.zeros((1 + row.states, W.size), dtype)
    numbers[0] = W
    for step, dw in enumerate(DW[:steps].astype(dtype), start=1):
        step_compiled(
            name, dtype, numbers, dw, row.prepare(tuple(settings[key] for key in row.settings), step)
        )
    return numbers[0]


def reference_steps(name, settings):
    update, n_states = reference.OPTIMIZERS[name]
    w, states = W, [np.zeros_like(W)] * n_states
    for step, dw in enumerate(DW[:10], start=1):
        w, states = update(w, dw, states, step, **settings)
    return w


# What PyTorch calls them
IN_TORCH = {
    "sgd": "SGD", "momentum": "SGD", "nesterov": "SGD", "adam": "Adam", "amsgrad": "Adam", "adamax": "Adamax",
    "nadam": "NAdam", "radam": "RAdam", "rmsprop": "RMSprop", "rmsprop_momentum": "RMSprop",
    "rmsprop_centered": "RMSprop", "adagrad": "Adagrad", "adadelta": "Adadelta",
}  # fmt: skip
NAMES_IN_TORCH = {"learning_rate": "lr", "epsilon": "eps", "learning_rate_decay": "lr_decay"}
ONLY_OURS = {"lion"}


def torch_optimizer(parameters, name, settings):
    from torch import optim

    options = {NAMES_IN_TORCH.get(key, key): value for key, value in settings.items()}
    if "beta1" in options:
        options["betas"] = options.pop("beta1"), options.pop("beta2")
    if "decoupled_decay" in options:
        decay = options.pop("decoupled_decay")
        if decay:
            options |= dict(decoupled_weight_decay=True, weight_decay=decay)
    flags = {"nesterov": "nesterov", "amsgrad": "amsgrad", "rmsprop_centered": "centered"}
    if name in flags:
        options[flags[name]] = True
    return getattr(optim, IN_TORCH[name])(parameters, foreach=False, **options)


@pytest.fixture
def torch():
    """PyTorch; its NAdam keeps a product in the default type, float32, unless told otherwise."""
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(before)


def test_tables_agree():
    assert set(OPTIMIZERS) == set(reference.OPTIMIZERS) == set(SETTINGS) == set(IN_TORCH) | ONLY_OURS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_row(name):
    row = OPTIMIZERS[name]
    assert row.states == reference.OPTIMIZERS[name][1]
    assert row.settings[0] == "learning_rate"
    assert max(len(row.settings), row.hypers) <= ROOM
    for settings in SETTINGS[name]:
        assert tuple(settings) == row.settings
        for step in (1, 2, 10**9):
            assert len(row.prepare(tuple(settings.values()), step)) == row.hypers


@every_case
def test_ten_steps(name, settings):
    np.testing.assert_allclose(
        many_steps(name, settings), reference_steps(name, settings), rtol=1e-13, atol=1e-12
    )


@every_case
def test_ten_steps_in_float32(name, settings):
    w = many_steps(name, settings, dtype="float32")
    assert w.dtype == np.float32
    np.testing.assert_allclose(w, reference_steps(name, settings), rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_loop_has_no_double_in_it(name):
    kernel = compiled(name, "float32")
    assert "double" not in kernel.inspect_llvm(kernel.signatures[0])


@pytest.mark.skipif(config.BOUNDSCHECK == 1, reason="a loop that checks bounds is never vector code")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loop_becomes_vector_code(name):
    kernel = compiled(name, "float64")
    assert re.search(r"<\d+ x double> @llvm\.fma\.v", kernel.inspect_llvm(kernel.signatures[0]))


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
    numbers, dw = np.full((1 + row.states, 1), 0.4), np.array([-1.3])
    expected = row.update(*numbers[:1, 0], dw[0], *numbers[1:, 0], tuple(np.float64(h) for h in hyper))
    step_compiled(name, "float64", numbers, dw, hyper)
    assert tuple(numbers[:, 0]) == expected


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_that_is_no_number_shows(name):
    row = OPTIMIZERS[name]
    numbers, dw = np.full((1 + row.states, 9), 0.4), np.full(9, np.nan)
    step_compiled(name, "float64", numbers, dw, row.prepare(tuple(SETTINGS[name][0].values()), 2))
    assert np.isnan(numbers[0]).all()


def test_a_step_by_hand():
    w, v = 2.0, 0.5
    hyper = OPTIMIZERS["momentum"].prepare((0.1, 0.25, 0.5, 0.75), 2)
    w, v = OPTIMIZERS["momentum"].update(w, 1.0, v, hyper)
    assert v == 0.5 * 0.5 + 0.25 * (1.0 + 0.25 * 2.0)
    assert w == pytest.approx(2.0 - 0.1 * v, rel=1e-15)


@every_case
def test_against_pytorch(name, settings, torch):
    if name in ONLY_OURS:
        return
    w = torch.nn.Parameter(torch.tensor(W))
    optimizer = torch_optimizer([w], name, settings)
    for dw in DW:
        w.grad = torch.tensor(dw)
        optimizer.step()
    np.testing.assert_allclose(many_steps(name, settings, 100), w.detach().numpy(), rtol=1e-12, atol=1e-13)


def test_lion_by_hand():
    hyper = OPTIMIZERS["lion"].prepare((0.25, 0.5, 0.5, 0.75), 1)
    w, m = OPTIMIZERS["lion"].update(2.0, -4.0, 1.0, hyper)
    assert w == 2.0 - 0.25 * (-1 + 0.5 * 2.0)
    assert m == 0.75 * 1.0 + 0.25 * -4.0
    assert OPTIMIZERS["lion"].update(2.0, 0.0, 0.0, hyper)[0] == 2.0 - 0.25 * 0.5 * 2.0


@pytest.mark.parametrize("decay", [0.0, 0.004, 1.0, 20.0])
@pytest.mark.parametrize("step", [1, 2, 3, 50, 500, 3000])
def test_momentum_of_nadam_is_a_function_of_the_step(step, decay):
    mu = [0.99 * (1 - 0.5 * 0.96 ** (t * decay)) for t in range(1, step + 2)]
    m_size, d_size, *_ = OPTIMIZERS["nadam"].prepare((1.0, 0.0, 0.0, 0.99, 0.5, 1e-8, decay), step)
    assert m_size == pytest.approx(mu[-1] / (1 - math.prod(mu)), rel=1e-13)
    assert d_size == pytest.approx((1 - mu[-2]) / (1 - math.prod(mu[:-1])), rel=1e-13)


def test_centered_rmsprop_survives_a_gradient_that_never_changes():
    numbers, dw = np.zeros((4, 64)), np.geomspace(1e-3, 1e3, 64)
    row = OPTIMIZERS["rmsprop_centered"]
    for step in range(1, 200):
        step_compiled(
            "rmsprop_centered", "float64", numbers, dw, row.prepare((1e-9, 0.0, 0.5, 1e-8, 0.0), step)
        )
    assert np.isfinite(numbers).all()


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
def test_reference_training_against_pytorch(name, settings, torch):
    if name in ONLY_OURS:
        return
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
