"""PyTorch as second opinion: the weights after ten steps, for every activation, loss and optimizer."""

from dataclasses import replace

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


def train_with_torch(net, x, y, make_optimizer, *, steps=STEPS, make_scheduler=None, per="step"):
    """The flat vector of the parameters after some steps of PyTorch from the same start.

    make_optimizer takes the list of W and b of all layers.
    """
    parameters = [
        (torch.tensor(layer.W, requires_grad=True), torch.tensor(layer.b, requires_grad=True))
        for layer in net.layers
    ]
    functions, loss = torch_functions(torch), torch_losses(torch)[net.loss_function.name]
    flat = [p for pair in parameters for p in pair]
    optimizer = make_optimizer(flat)
    scheduler = make_scheduler(optimizer) if make_scheduler else None
    x, y = torch.tensor(x), torch.tensor(y)
    for step in range(steps):
        start = BATCH * step % ROWS
        z = x[start : start + BATCH]
        for (W, b), layer in zip(parameters, net.layers):
            z = functions[layer.activation](z @ W + b)
        value = loss(z, y[start : start + BATCH], net.loss_function.option)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if scheduler and (per == "step" or (step + 1) % (ROWS // BATCH) == 0):
            scheduler.step()
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
    expected = train_with_torch(net, x, y, lambda flat: theirs(flat, lr=RATE, foreach=False, **options))
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


# A hundred steps: fastbp's optimizer, PyTorch's, and the options of both, where they have different names
EVERY_OPTIMIZER = [
    (fastbp.SGD, dict(momentum=0.9, weight_decay=0.05), None),
    (fastbp.Adam, dict(weight_decay=0.05), None),
    (fastbp.Adam, dict(amsgrad=True, weight_decay=0.05), None),
    (fastbp.AdamW, dict(weight_decay=0.3), None),
    (fastbp.AdamW, dict(amsgrad=True), None),
    (fastbp.Adamax, dict(weight_decay=0.05), None),
    (fastbp.NAdam, dict(weight_decay=0.05, momentum_decay=0.1), None),
    (
        fastbp.NAdam,
        dict(weight_decay=0.3, decoupled=True),
        dict(weight_decay=0.3, decoupled_weight_decay=True),
    ),
    (fastbp.RAdam, dict(weight_decay=0.05, betas=(0.8, 0.95)), None),
    (
        fastbp.RAdam,
        dict(weight_decay=0.3, decoupled=True),
        dict(weight_decay=0.3, decoupled_weight_decay=True),
    ),
    (fastbp.RMSprop, dict(weight_decay=0.05), None),
    (fastbp.RMSprop, dict(momentum=0.5, alpha=0.9), None),
    (fastbp.RMSprop, dict(momentum=0.5, centered=True), None),
    (fastbp.RMSprop, dict(centered=True, weight_decay=0.05), None),
    (
        fastbp.Adagrad,
        dict(learning_rate_decay=0.1, initial_accumulator_value=0.1),
        dict(lr_decay=0.1, initial_accumulator_value=0.1),
    ),
    (fastbp.Adadelta, dict(weight_decay=0.05), None),
]


@pytest.fixture
def float64_by_default():
    """NAdam of PyTorch keeps a product in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def a_training(activation="tanh", loss="softmax_cross_entropy"):
    net = make_network(SIZES, activation, loss, dtype="float64")
    return net, draw_inputs(ROWS, SIZES[0]), draw_targets(loss, ROWS, SIZES[-1])


def train_hundred(net, x, y, optimizer, **options):
    how = dict(epochs=100 * BATCH // ROWS, batch_size=BATCH, shuffle=False, **options)
    fastbp.train(net, x, y, optimizer=optimizer, **how)


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize(
    ("ours", "options", "theirs"),
    EVERY_OPTIMIZER,
    ids=[f"{o.__name__}-{i}" for i, (o, *_) in enumerate(EVERY_OPTIMIZER)],
)
def test_weights_after_a_hundred_steps(ours, options, theirs):
    make = getattr(torch.optim, ours.__name__)
    for loss in ("softmax_cross_entropy", "mean_squared_error"):
        net, x, y = a_training(loss=loss)
        expected = train_with_torch(
            net, x, y, lambda flat: make(flat, lr=RATE, foreach=False, **(theirs or options)), steps=100
        )
        train_hundred(net, x, y, ours(RATE, **options))
        assert difference(net.parameters, expected) < 1e-9


lr = torch.optim.lr_scheduler
SCHEDULES = {
    "step": (fastbp.schedules.Step(3, 0.7), lambda o: lr.StepLR(o, 3, 0.7)),
    "cosine": (fastbp.schedules.Cosine(per="step"), lambda o: lr.CosineAnnealingLR(o, 100)),
    "warm-up": (
        fastbp.schedules.Exponential(0.99, per="step", warmup=30),
        lambda o: lr.SequentialLR(o, [lr.LinearLR(o, total_iters=30), lr.ExponentialLR(o, 0.99)], [30]),
    ),
    "one cycle": (fastbp.schedules.OneCycle(), lambda o: lr.OneCycleLR(o, RATE, total_steps=100)),
}


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            fastbp.SGD(RATE, momentum=0.9, weight_decay=0.05),
            (torch.optim.SGD, dict(momentum=0.9, weight_decay=0.05)),
        ),
        (fastbp.AdamW(RATE, weight_decay=0.05), (torch.optim.AdamW, dict(weight_decay=0.05))),
    ],
    ids=["SGD", "AdamW"],
)
def test_weights_after_a_hundred_steps_of_a_schedule(name, ours, theirs):
    net, x, y = a_training()
    (make, options), (schedule, make_scheduler) = theirs, SCHEDULES[name]
    expected = train_with_torch(
        net, x, y, lambda flat: make(flat, lr=RATE, **options), steps=100, make_scheduler=make_scheduler,
        per=schedule.per,
    )  # fmt: skip
    train_hundred(net, x, y, replace(ours, schedule=schedule))
    assert difference(net.parameters, expected) < 1e-9


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_layers_and_biases_with_settings_of_their_own_are_groups_of_pytorch():
    net, x, y = a_training()

    def make(flat):
        W0, b0, W1, b1, W2, b2 = flat
        groups = [
            dict(params=[W0]),
            dict(params=[b0], weight_decay=0.0),
            dict(params=[W1], lr=RATE / 10, weight_decay=0.5),
            dict(params=[b1], lr=RATE / 10, weight_decay=0.0),
            dict(params=[W2, b2], lr=0.0),
        ]
        return torch.optim.AdamW(groups, lr=RATE, weight_decay=0.3)

    expected = train_with_torch(
        net, x, y, make, steps=100, make_scheduler=lambda o: lr.ExponentialLR(o, 0.99)
    )
    last = net.layers[2].W.copy()
    optimizer = fastbp.AdamW(
        RATE, weight_decay=0.3, decay_biases=False,
        layers={"layer1": dict(learning_rate=RATE / 10, weight_decay=0.5), 2: dict(learning_rate=0)},
        schedule=fastbp.schedules.Exponential(0.99, per="step"),
    )  # fmt: skip
    train_hundred(net, x, y, optimizer)
    assert difference(net.parameters, expected) < 1e-9
    assert np.array_equal(net.layers[2].W, last)


def torch_module(net):
    """The same network as a torch.nn.Module, in float64."""
    nn, layers = torch.nn, iter(zip(net.layers, net._placed))

    class Sum(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return x + self.inner(x)

    def copy(target, values):
        with torch.no_grad():
            target.copy_(torch.tensor(values))

    def made(described):
        if isinstance(described, fastbp.Residual):
            module = Sum(nn.Sequential(*map(made, described.layers)))
            next(layers)
            return module
        layer, _ = next(layers)
        if layer.kind == "Dense":
            module = nn.Linear(layer.n_in, layer.n_out, dtype=torch.float64)
            copy(module.weight, layer.W.T.copy())
            copy(module.bias, layer.b)
            return nn.Sequential(module, nn.Tanh()) if layer.activation == "tanh" else module
        if layer.kind == "Activation":
            return {"tanh": nn.Tanh, "gelu": nn.GELU}[layer.activation]()
        if layer.kind == "LayerNorm":
            module = nn.LayerNorm(layer.n_in, eps=described.epsilon, dtype=torch.float64)
        else:
            module = nn.BatchNorm1d(layer.n_in, described.epsilon, described.momentum, dtype=torch.float64)
            copy(module.running_mean, layer.mean)
            copy(module.running_var, layer.variance)
        copy(module.weight, layer.gamma)
        copy(module.bias, layer.beta)
        return module

    return nn.Sequential(*map(made, net._described))


def flat_of(module):
    """Its arrays in the order of fastbp's flat vector."""
    found = []
    for each in module.modules():
        if isinstance(each, torch.nn.Linear):
            found += [each.weight.T, each.bias]
        elif isinstance(each, torch.nn.LayerNorm):
            found += [each.weight, each.bias]
        elif isinstance(each, torch.nn.BatchNorm1d):
            found += [each.weight, each.bias, each.running_mean, each.running_var]
    return np.concatenate([array.detach().numpy().ravel() for array in found])


@pytest.mark.parametrize(
    ("ours", "options"),
    [(fastbp.SGD, dict(momentum=0.9, weight_decay=0.05)), (fastbp.AdamW, dict(weight_decay=0.3))],
)
@pytest.mark.parametrize(
    "clips",
    # At 0.02 in place of 0.05 this training magnifies a rounding error of its start ten million times.
    [{}, dict(clip_norm=0.1), dict(clip_value=0.05), dict(clip_value=0.05, clip_norm=0.1)],
    ids=str,
)
def test_normalisations_and_residuals_after_a_hundred_steps(ours, options, clips):
    D, x = fastbp.Dense, draw_inputs(ROWS, 4)
    y = draw_targets("softmax_cross_entropy", ROWS, 3)
    # No BatchNorm right behind a sum or product: the gradient of the bias there is nothing but rounding
    # errors, which AdamW would magnify.
    inner = fastbp.Residual([D(8, "tanh"), fastbp.LayerNorm(0.1)])
    block = fastbp.Residual([D(8, "tanh"), fastbp.BatchNorm(), fastbp.Activation("gelu"), inner, D(6)])
    layers = [fastbp.BatchNorm(1e-3, 0.2), D(6, "tanh"), fastbp.LayerNorm(), block]
    layers += [fastbp.Activation("tanh"), D(6, "tanh"), fastbp.BatchNorm(), D(3)]
    net = fastbp.Network(layers, inputs=4, loss="softmax_cross_entropy", dtype="float64", seed=0)
    net.parameters[:] += 0.1 * np.random.default_rng(2).uniform(-1, 1, net.parameters.size)
    module = torch_module(net)
    assert np.array_equal(flat_of(module), net.parameters)
    inputs, labels = torch.tensor(x), torch.tensor(y)
    optimizer = getattr(torch.optim, ours.__name__)(module.parameters(), lr=RATE, **options)
    for step in range(100):
        rows = slice(BATCH * step % ROWS, BATCH * step % ROWS + BATCH)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs[rows]), labels[rows]).backward()
        if "clip_value" in clips:
            torch.nn.utils.clip_grad_value_(module.parameters(), clips["clip_value"])
        if "clip_norm" in clips:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clips["clip_norm"])
        optimizer.step()
    train_hundred(net, x, y, ours(RATE, **options), **clips)
    assert difference(net.parameters, flat_of(module)) < 1e-9
    module.eval()
    assert difference(net.logits(x), module(inputs).detach().numpy()) < 1e-9
