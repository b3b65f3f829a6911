"""PyTorch as second opinion: the weights after ten steps, for every activation, loss and optimizer."""

import numpy as np
import pytest

import fastbp
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from tests.formulas.test_activations import torch_functions
from tests.formulas.test_losses import torch_losses
from tests.samples import difference, draw_inputs, draw_targets, make_network

torch = pytest.importorskip("torch")

SIZES, ROWS, BATCH = (4, 6, 5, 3), 20, 10
STEPS = 10
RATE = 0.02
# fastbp's optimizer, PyTorch's, and the settings of both
OPTIMIZERS = [
    (fastbp.SGD, torch.optim.SGD, dict()),
    (fastbp.SGD, torch.optim.SGD, dict(weight_decay=0.1)),
    (fastbp.SGD, torch.optim.SGD, dict(momentum=0.9)),
    (fastbp.SGD, torch.optim.SGD, dict(momentum=0.8, dampening=0.3, weight_decay=0.05)),
    (fastbp.SGD, torch.optim.SGD, dict(momentum=0.9, nesterov=True)),
    (fastbp.SGD, torch.optim.SGD, dict(momentum=0.5, nesterov=True, weight_decay=0.1)),
    (fastbp.Adam, torch.optim.Adam, dict()),
    (fastbp.Adam, torch.optim.Adam, dict(betas=(0.8, 0.95), weight_decay=0.05)),
]


def train_with_torch(net, x, y, optimizer, options):
    """The flat vector of the parameters after STEPS steps of PyTorch from the same start."""
    parameters = [
        (torch.tensor(layer.W, requires_grad=True), torch.tensor(layer.b, requires_grad=True))
        for layer in net.layers
    ]
    functions, loss = torch_functions(torch), torch_losses(torch)[net.loss_function.name]
    flat = [p for pair in parameters for p in pair]
    optimizer = optimizer(flat, lr=RATE, foreach=False, **options)
    x, y = torch.tensor(x), torch.tensor(y)
    for step in range(STEPS):
        start = BATCH * step % ROWS
        z = x[start : start + BATCH]
        for (W, b), layer in zip(parameters, net.layers):
            z = functions[layer.activation](z @ W + b)
        value = loss(z, y[start : start + BATCH], net.loss_function.option)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return np.concatenate([p.detach().numpy().ravel() for p in flat])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads only cost time at this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_same_weights(activation, loss, optimizer, dtype="float64", tolerance=1e-11):
    net = make_network(SIZES, activation, loss, dtype=dtype)
    x, y = draw_inputs(ROWS, SIZES[0]).astype(dtype), draw_targets(loss, ROWS, SIZES[-1])
    y = y if y.ndim == 1 else y.astype(dtype)
    ours, theirs, options = optimizer
    expected = train_with_torch(net, x, y, theirs, options)
    if ours is fastbp.Adam:  # divides by the root of a gradient's square: noise where the gradient vanishes
        tolerance = max(100 * tolerance, 1e-8)
    before = net.parameters.copy()
    fastbp.train(
        net, x, y, epochs=STEPS * BATCH // ROWS, batch_size=BATCH, shuffle=False,
        optimizer=ours(RATE, **options),
    )  # fmt: skip
    assert difference(net.parameters, expected) < tolerance, (loss, optimizer)
    assert difference(before, expected) > 1e-3, "nothing was learned"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_weights_after_ten_steps(activation):
    for loss in LOSSES:
        for optimizer in OPTIMIZERS:
            assert_same_weights(activation, loss, optimizer)


@pytest.mark.parametrize("loss", ["mean_squared_error", "softmax_cross_entropy"])
def test_weights_after_ten_steps_in_float32(loss):
    for optimizer in OPTIMIZERS:
        assert_same_weights("tanh", loss, optimizer, "float32", 2e-6)
