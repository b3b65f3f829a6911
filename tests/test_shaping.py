"""Penalties, clipping, the largest norm and noise: against the reference, PyTorch and central differences."""

import numpy as np
import pytest

import fastbp
from fastbp.cpu import shaping
from fastbp.division import sums_in_chunks
from fastbp.formulas import shaping as formulas
from tests import reference
from tests.cpu.kernels import Guarded, run
from tests.samples import (
    LAYERED,
    batches,
    difference,
    draw_inputs,
    draw_targets,
    flat,
    make_layered,
    reference_layers,
    train_by_reference,
)
from tests.test_gradients import slopes

SIZES = (5, 9, 3)
PENALTIES = ((0.01, 0.02), (0.03, 0.0))


def make(*, sizes=SIZES, penalties=((0.0, 0.0),) * 9, max_norm=None, real="float64", use_bias=True):
    """A network whose weights and biases are neither zero nor equal."""
    layers = [
        fastbp.Dense(n, "tanh", l1=l1, l2=l2, max_norm=max_norm, use_bias=use_bias)
        for n, (l1, l2) in zip(sizes[1:], penalties)
    ]
    net = fastbp.Network(layers, inputs=sizes[0], dtype=real, seed=1)
    net.parameters[:] = np.random.default_rng(0).normal(size=net.parameters.size) / 2
    return net


def data(rows=20, n_in=SIZES[0], n_out=SIZES[-1]):
    return draw_inputs(rows, n_in), draw_targets("mean_squared_error", rows, n_out)


# Against the reference and PyTorch

CASES = {
    "penalties": (dict(penalties=PENALTIES), {}),
    "clip_value": ({}, dict(clip_value=0.02)),
    "clip_norm": ({}, dict(clip_norm=0.1)),
    "a norm that is never reached": ({}, dict(clip_norm=1e3)),
    "max_norm": (dict(max_norm=0.9), {}),
    "clip_value, then clip_norm": ({}, dict(clip_value=0.02, clip_norm=0.05)),
    "penalties and clip_norm": (dict(penalties=PENALTIES), dict(clip_norm=0.1)),
    "all but clip_norm": (dict(penalties=PENALTIES, max_norm=0.9), dict(clip_value=0.02)),
    "all of it": (dict(penalties=PENALTIES, max_norm=0.9), dict(clip_value=0.05, clip_norm=0.1)),
    "without biases": (dict(penalties=PENALTIES, max_norm=0.9, use_bias=False), dict(clip_norm=0.1)),
}


def as_reference(options, trained):
    """What `reference.train` takes to do the same."""

    def shape(gradients, layers, step):
        if "penalties" in options:
            gradients = reference.with_penalties(gradients, layers, options["penalties"])
        if not options.get("use_bias", True):
            gradients = [(dW, 0 * db) for dW, db in gradients]
        if "clip_value" in trained:
            gradients = reference.clipped_by_value(gradients, trained["clip_value"])
        if "clip_norm" in trained:
            gradients = reference.clipped_by_norm(gradients, trained["clip_norm"])
        return gradients

    return dict(shape=shape, max_norm=options.get("max_norm"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("real", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
def test_training_against_reference(case, real, tolerance):
    options, trained = CASES[case]
    net, (x, y) = make(real=real, **options), data()
    expected, losses = reference.train(
        reference_layers(net), batches(x, y, 10, 10), net.loss_function.name, "momentum", learning_rate=0.1,
        momentum=0.9, **as_reference(options, trained),
    )  # fmt: skip
    optimizer = fastbp.SGD(0.1, momentum=0.9)
    history = fastbp.train(net, x, y, epochs=10, batch_size=10, shuffle=False, optimizer=optimizer, **trained)
    for layer, (W, b, _) in zip(net.layers, expected):
        assert difference(layer.W, W) < tolerance
        assert layer.b is None or difference(layer.b, b) < tolerance
    np.testing.assert_allclose(history.loss, np.reshape(losses, (10, 2)).mean(axis=1), rtol=tolerance)


@pytest.mark.parametrize("case", [case for case in CASES if case != "without biases"])
def test_training_against_pytorch(case):
    torch = pytest.importorskip("torch")
    options, trained = CASES[case]
    net, (x, y) = make(**options), data()
    pairs = [[torch.tensor(p.copy(), requires_grad=True) for p in layer[-2:]] for layer in net.layers]
    parameters = [p for pair in pairs for p in pair]
    optimizer = torch.optim.Adam(parameters, lr=0.01, foreach=False)
    inputs, targets = torch.tensor(x), torch.tensor(y)
    for _ in range(100):
        optimizer.zero_grad()
        z = inputs
        for W, b in pairs:
            z = torch.tanh(z @ W + b)
        value = torch.nn.functional.mse_loss(z, targets)
        for (W, _), (l1, l2) in zip(pairs, options.get("penalties", ())):
            value = value + l1 * W.abs().sum() + l2 * (W**2).sum()
        value.backward()
        if "clip_value" in trained:
            torch.nn.utils.clip_grad_value_(parameters, trained["clip_value"])
        if "clip_norm" in trained:
            torch.nn.utils.clip_grad_norm_(parameters, trained["clip_norm"])
        optimizer.step()
        with torch.no_grad():
            for W, _ in pairs:
                if "max_norm" in options:
                    W.copy_(torch.renorm(W, 2, 1, options["max_norm"]))
    fastbp.train(
        net, x, y, epochs=100, batch_size=None, shuffle=False, optimizer=fastbp.Adam(0.01), **trained
    )
    assert difference(net.parameters, np.concatenate([p.detach().numpy().ravel() for p in parameters])) < 1e-9


def test_penalties_by_central_differences():
    """A step of learning rate 1 is the gradient of the loss with its penalty."""
    net, (x, y) = make(penalties=PENALTIES), data()
    expected = slopes(lambda: net.loss(x, y) + net.penalty(), net.parameters)
    plain = net.gradient(x, y)[1].parameters
    before = net.parameters.copy()
    assert net.penalty() == pytest.approx(reference.penalty(reference_layers(net), PENALTIES), rel=1e-14)
    history = fastbp.train(net, x, y, epochs=1, batch_size=None, optimizer=fastbp.SGD(1.0))
    np.testing.assert_allclose(before - net.parameters, expected, rtol=1e-7, atol=1e-9)
    assert np.abs(plain - expected).max() > 1e-2
    net.parameters[:] = before
    assert history.loss == [net.loss(x, y)], "the penalty is no part of the loss that is reported"


def test_a_weight_of_0_has_no_slope_of_l1():
    net = make(sizes=(1, 1), penalties=[(0.5, 0.0)])
    net.parameters[:] = 0
    fastbp.train(net, [[0.0]], [[0.0]], epochs=3)
    assert (net.parameters == 0).all()


# Bits

SHAPES = {
    "by rows": ((5, 9, 3), 50, 16),
    "in chunks": ((4, 16, 7, 3), 700, 600),
    "by columns": ((400, 50, 3), 70, 32),
    "packed": ((400, 210, 4), 230, 220),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("clip", ["clip_norm", "clip_value"])
def test_same_bits(shape, clip):
    sizes, rows, batch_size = SHAPES[shape]

    def trained(threads, materialise=False):
        net = make(sizes=sizes, penalties=((1e-3, 1e-2),) * 3, max_norm=0.7)
        options = {clip: 1e-2 if clip == "clip_norm" else 1e-4}
        history = fastbp.train(
            net, *data(rows, sizes[0], sizes[-1]), epochs=2, batch_size=batch_size, threads=threads,
            materialise=materialise, gradient_noise=1e-3, input_noise=0.1, **options,
        )  # fmt: skip
        return net.parameters.tobytes(), history.loss

    assert sums_in_chunks(make(sizes=sizes).architecture, batch_size) == (shape == "in chunks")
    expected = trained(1)
    assert (
        trained(1, materialise=True) == trained(2) == trained(3, materialise=True) == trained(8) == expected
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_against_reference(shape):
    sizes, rows, batch_size = SHAPES[shape]
    options, trained = dict(penalties=((1e-3, 1e-2),) * 3, max_norm=3.0), dict(clip_norm=0.05)
    net, (x, y) = make(sizes=sizes, **options), data(rows, sizes[0], sizes[-1])
    expected, _ = reference.train(
        reference_layers(net), batches(x, y, batch_size, 2), net.loss_function.name, learning_rate=1.0,
        **as_reference(options, trained),
    )  # fmt: skip
    optimizer = fastbp.SGD(1.0)
    fastbp.train(
        net, x, y, epochs=2, batch_size=batch_size, shuffle=False, optimizer=optimizer, threads=2, **trained
    )
    assert difference(net.parameters, flat(expected)) < 1e-11


# Noise


def test_normal_size():
    p = (np.array([0, 1, 2, 1000, *np.linspace(1e5, 2**23 - 1, 300).astype(int)]) + 0.5) / 2**24
    for real, tolerance in ((np.float32, 3e-6), (np.float64, 1e-6)):
        found = [formulas.normal_size(real(each)) for each in p]
        assert all(type(each) is real for each in found)
        np.testing.assert_allclose(found, -reference.special.ndtri(p), rtol=5e-7, atol=tolerance)


@pytest.mark.parametrize("clips", [dict(clip_value=0.05), dict(clip_value=0.05, clip_norm=0.1)], ids=str)
@pytest.mark.parametrize(("sizes", "gamma"), [((6, 9, 3), 0.0), ((6, 9, 3), 0.55), ((8, 4, 3), 0.0)])
def test_gradient_noise_against_reference(sizes, gamma, clips):
    """The noise comes after clipping; its variance is 0.09 / (1 + t)^γ."""
    net, again, (x, y) = make(sizes=sizes), make(sizes=sizes), data(n_in=sizes[0])
    options = dict(epochs=2, batch_size=10, shuffle=False, optimizer=fastbp.SGD(0.1), seed=7)
    noise = fastbp.AnnealedNoise(0.09, gamma) if gamma else 0.3
    fastbp.train(net, x, y, gradient_noise=noise, **clips, **options)

    def shape(gradients, layers, step):
        noise = reference.draw_gradient_noise(7, step, [W.shape for W, *_ in layers])
        gradients = reference.clipped_by_value(gradients, 0.05)
        if "clip_norm" in clips:
            gradients = reference.clipped_by_norm(gradients, 0.1)
        deviation = reference.noise_deviation(0.09, gamma, step)
        return [tuple(d + deviation * n for d, n in zip(*each)) for each in zip(gradients, noise)]

    expected, _ = reference.train(
        reference_layers(again), batches(x, y, 10, 2), "mean_squared_error", learning_rate=0.1, shape=shape
    )
    assert difference(net.parameters, flat(expected)) < 1e-6  # the formula of the noise is that exact


@pytest.mark.parametrize("n_in", [1, 4, 7])
def test_input_noise_against_reference(n_in):
    net, (x, y) = make(sizes=(n_in, 3)), data(n_in=n_in)
    again = make(sizes=(n_in, 3))
    options = dict(batch_size=10, shuffle=False, optimizer=fastbp.SGD(0.1), seed=7)
    fastbp.train(net, x, y, epochs=2, input_noise=0.3, **options)
    noisy = [
        (each + 0.3 * reference.draw_input_noise(7, step, 10, n_in), t)
        for step, (each, t) in enumerate(batches(x, y, 10, 2), start=1)
    ]
    expected, _ = reference.train(reference_layers(again), noisy, "mean_squared_error", learning_rate=0.1)
    assert difference(net.parameters, flat(expected)) < 1e-6


@pytest.mark.parametrize("real", ["float32", "float64"])
def test_noise_is_normal(real):
    """20000 draws: mean, variance, skewness and excess within four standard errors; rows differ."""
    rows, n_in = 100, 200
    x, scratch = Guarded((rows, n_in), real, 0), Guarded(n_in, real)
    shape = np.array([0, 0, 0, 0.5, 0, 0])
    operation = dict(n_in=n_in, x=x.array, x_row=n_in * x.array.itemsize, shape=shape)
    context = dict(rows=rows, seed=3, step=5, scratch=scratch.array)
    run(shaping.input_noise, real, op=operation, ctx=context)
    x.assert_intact()
    scratch.assert_intact()
    drawn = x.array.astype(np.float64) / 0.5
    moments = [(drawn**k).mean() for k in (1, 2, 3, 4)]
    errors = np.sqrt(np.array([1, 2, 15, 96]) / drawn.size)
    assert (np.abs(np.array(moments) - (0, 1, 0, 3)) < 4 * errors).all()
    assert np.abs(np.corrcoef(drawn[:50], drawn[50:])[~np.eye(100, dtype=bool)]).max() < 0.4
    assert len(np.unique(drawn)) > 0.99 * drawn.size


# What is asked for


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(clip_value=0), ValueError, "clip_value must be a finite number above 0; got 0"),
        (dict(clip_norm="1"), TypeError, "clip_norm must be a finite number above 0; got '1'"),
        (dict(input_noise=-1), ValueError, "input_noise must be a finite number at least 0; got -1"),
        (dict(gradient_noise=np.inf), ValueError, "gradient_noise must be a finite .* got inf"),
        (dict(gradient_noise=(0.1, 0.5)), TypeError, "gradient_noise must be a finite number"),
    ],
)  # fmt: skip
def test_what_cannot_be(options, error, message):
    net = make()
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        fastbp.train(net, *data(), **options)
    assert (net.parameters == before).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(l1=-1), "l1 must be a finite number at least 0; got -1"),
        (dict(l2=np.nan), "l2 must be a finite number at least 0; got nan"),
        (dict(max_norm=0), "max_norm must be a finite number above 0; got 0"),
    ],
)
def test_layers_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        fastbp.Dense(3, **options)


def test_what_lbfgs_does_not_take():
    pytest.importorskip("scipy")
    for net, options in (
        (make(max_norm=1.0), {}),
        (make(), dict(clip_norm=1.0)),
        (make(), dict(input_noise=1.0)),
        (make(), dict(sampling="balanced")),
    ):
        with pytest.raises(ValueError, match="LBFGS takes no penalties, largest norms, clipping, noise or"):
            fastbp.train(net, *data(), optimizer=fastbp.LBFGS(), **options)


def test_online_and_compiled_steps_keep_to_the_layers():
    nets = [make(penalties=PENALTIES, max_norm=0.9) for _ in range(3)]
    x, y = data()
    fastbp.train(nets[0], x, y, epochs=1, batch_size=1, shuffle=False)
    online, step = fastbp.OnlineTrainer(nets[1]), nets[2].compiled("sgd").step
    for each in zip(x, y):
        online.step(*each)
        step(*(array[None] for array in each))
    assert (nets[0].parameters == nets[1].parameters).all()
    assert (nets[0].parameters == nets[2].parameters).all()


def test_a_file_keeps_what_shapes_training(tmp_path):
    net = make(penalties=PENALTIES, max_norm=2)
    net.save(tmp_path / "model.safetensors")
    loaded = fastbp.load(tmp_path / "model.safetensors")
    assert loaded._described == net._described
    assert loaded.penalty() == net.penalty() > 0
    assert repr(net._described[0]) == "Dense(9, 'tanh', l1=0.01, l2=0.02, max_norm=2.0)"


# Scales and shifts of normalisations

NORMALISED = [name for name in LAYERED if "norm" in name or name.startswith("residual")]


@pytest.mark.parametrize(
    "clips", [dict(clip_value=0.02), dict(clip_norm=0.1), dict(clip_value=0.02, clip_norm=0.05)], ids=str
)
@pytest.mark.parametrize("name", NORMALISED)
def test_normalisations_against_reference(name, clips):
    net, x, y, batch_size = make_layered(name)
    assert any(layer.kind in ("LayerNorm", "BatchNorm") for layer in net.layers) or "columns" in name
    shaped = []

    def shape(gradient, step):
        clipped = reference.clipped_by_value([(gradient,)], clips.get("clip_value", np.inf))
        clipped = reference.clipped_by_norm(clipped, clips.get("clip_norm", np.inf))
        shaped.append(not np.array_equal(clipped[0][0], gradient))
        return clipped[0][0]

    how = dict(epochs=3, batch_size=batch_size, seed=5)
    expected = train_by_reference(net, x, y, rate=0.1, shape=shape, **how)
    fastbp.train(net, x, y, shuffle=False, optimizer=fastbp.SGD(0.1), threads=2, **clips, **how)
    assert difference(net.parameters, expected) < 1e-11
    assert any(shaped)


def test_noise_of_scales_and_shifts():
    """γ and β of a column are moved by the first two words of a block of their own."""
    for scale, shift in ((True, True), (True, False), (False, True)):
        layers = [fastbp.Dense(5), fastbp.LayerNorm(scale=scale, shift=shift), fastbp.Dense(2)]
        nets = [fastbp.Network(layers, inputs=3, dtype="float64", seed=1) for _ in range(2)]
        x, y = draw_inputs(8, 3), draw_targets("mean_squared_error", 8, 2)
        how = dict(epochs=1, batch_size=8, optimizer=fastbp.SGD(1.0), seed=7)
        for net, noise in zip(nets, (0.3, 0.0)):
            fastbp.train(net, x, y, gradient_noise=noise, **how)
        # As if γ and β were rows 0 and 1 of a W, in the blocks behind those of the layer before.
        drawn, _ = reference.draw_gradient_noise(7, 1, [(3, 5), (5, 5), (5, 2)])[1]
        noisy, plain = (net.layers[1] for net in nets)
        for row, name in enumerate(("gamma", "beta")):
            if getattr(plain, name) is not None:
                moved = getattr(plain, name) - getattr(noisy, name)
                assert difference(moved, 0.3 * drawn[row]) < 1e-6


@pytest.mark.parametrize("name", NORMALISED)
@pytest.mark.parametrize("clips", [dict(clip_value=0.02), dict(clip_value=0.02, clip_norm=0.05)], ids=str)
def test_normalisations_have_the_same_bits(name, clips):
    made = []
    for threads, materialise in ((1, False), (1, True), (2, False), (3, True), (8, False)):
        net, x, y, batch_size = make_layered(name)
        history = fastbp.train(
            net, x, y, epochs=2, batch_size=batch_size, threads=threads, materialise=materialise,
            optimizer=fastbp.SGD(0.05, momentum=0.9), gradient_noise=fastbp.AnnealedNoise(0.01), **clips,
        )  # fmt: skip
        made.append((net.parameters.tobytes(), history.loss))
    assert all(each == made[0] for each in made)


def test_annealed_noise():
    assert fastbp.AnnealedNoise(1, gamma=1) == fastbp.AnnealedNoise(1.0, 1.0)
    for options, error in (
        (dict(eta=-1), ValueError), (dict(eta="1"), TypeError), (dict(eta=1, gamma=np.nan), ValueError)
    ):  # fmt: skip
        with pytest.raises(error, match="must be a finite number at least 0"):
            fastbp.AnnealedNoise(**options)
    for t in (0, 1, 7, 10**9):
        found = formulas.noise_deviation(0.1, 0.55, t)
        assert found == pytest.approx(reference.noise_deviation(0.01, 0.55, t + 1), rel=1e-14)
    assert formulas.noise_deviation(0.1, 0.0, 10**9) == 0.1


def test_annealed_noise_without_any_is_none():
    made = []
    for noise in (0.0, fastbp.AnnealedNoise(0.0)):
        net = make()
        fastbp.train(net, *data(), gradient_noise=noise)
        made.append(net.parameters.tobytes())
    assert made[0] == made[1]


def test_penalties_reach_dense_layers_among_others():
    """The same as without the layers that do nothing here."""
    x, y = draw_inputs(12, 3), draw_targets("mean_squared_error", 12, 2)
    dense = [fastbp.Dense(4, "tanh", l2=0.1, max_norm=1.0), fastbp.Dense(2, l1=0.01)]
    nets = [
        fastbp.Network(layers, inputs=3, dtype="float64", seed=1)
        for layers in (dense, [dense[0], fastbp.Dropout(0.0), dense[1]])
    ]
    nets[1].parameters[:] = nets[0].parameters
    for net in nets:
        fastbp.train(net, x, y, epochs=3, shuffle=False, clip_norm=0.5)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)
    assert nets[0].penalty() == nets[1].penalty() > 0
