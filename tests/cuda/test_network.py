"""Networks on a device: the bits of the CPU, which is tested against the reference and against PyTorch."""

import signal

import numpy as np
import pytest

import fastbp
from fastbp import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Residual,
    device_plan,
    device_small,
    division,
)
from fastbp.cuda import device as the_device
from fastbp.cuda import gemm, small
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS
from tests.samples import draw_inputs, draw_targets, make_network

# name: layers, inputs, loss
STACKS = {
    "edges of tiles": ([Dense(19, "tanh"), Dense(17, "gelu"), Dense(3)], 18, "softmax_cross_entropy"),
    "no biases": ([Dense(6, "elu", use_bias=False), Dense(1)], 4, "binary_cross_entropy"),
    "dropout": ([Dense(18, "relu"), Dropout(0.3), Dropout(0), Dense(3)], 5, "softmax_cross_entropy"),
    "layer norm": ([LayerNorm(scale=False), Dense(18, "silu"), LayerNorm(), Dense(2)], 5, "huber"),
    "batch norm": ([Dense(7), BatchNorm(), Dense(3, "tanh"), BatchNorm(shift=False)], 5, "log_cosh"),
    "activations": ([Activation("tanh"), Dense(7), BatchNorm(), Activation("gelu"), Dense(5), LayerNorm(),
                     Activation("relu"), Residual([Dense(5)]), Activation("silu")], 5, "mean_squared_error"),
    "residual": ([Residual([LayerNorm(), Dense(9, "gelu"), Dense(5, "tanh"), Dropout(0.2)]),
                  Residual([Dense(5, "relu")]), Dense(3)], 5, "mean_squared_error"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def way(request, device, monkeypatch):
    """How a network is trained that one block could train: in steps of many launches, unless a test asks."""
    wanted = getattr(request, "param", "steps")
    if wanted == "steps":
        monkeypatch.setattr(small, "MOST_BYTES", 0)
    else:
        monkeypatch.setattr(device_small, "FIRST_STEPS", 2)
    taken, run = [], device_small.Blocks.launch
    monkeypatch.setattr(device_small.Blocks, "launch", lambda *given: taken.append(1) or run(*given))
    yield
    assert bool(taken) == (wanted == "a block")


both_ways = pytest.mark.parametrize("way", ["steps", "a block"], indirect=True)
by_a_block = pytest.mark.parametrize("way", ["a block"], indirect=True)


def mostly_slow(names, *quick):
    """All names for a test; but for some they are slow ones: the simulator takes its time."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def stack(name, real="float32"):
    layers, inputs, loss = STACKS[name]
    return fastbp.Network(layers, inputs=inputs, loss=loss, seed=1, dtype=real)


def data(net, n):
    sizes = net.architecture.sizes
    return draw_inputs(n, sizes[0]), draw_targets(net.loss_function.name, n, sizes[-1])


def assert_same_training(device, make, rows=9, batch_size=4, optimizer=None, epochs=2, **options):
    """Both devices train to the same bits, and tell the same losses."""
    first, second = make(), make()
    x, y = data(first, rows)
    options |= dict(
        epochs=epochs, batch_size=batch_size, seed=3, optimizer=optimizer or fastbp.SGD(0.05, momentum=0.9)
    )
    on_cpu = fastbp.train(first, x, y, **options)
    on_device = fastbp.train(second, x, y, device=device, **options)
    assert on_cpu.loss == on_device.loss
    assert first.parameters.tobytes() == second.parameters.tobytes()
    assert on_cpu.validation_loss == on_device.validation_loss
    assert on_cpu.metrics == on_device.metrics
    return second


def assert_same_answers(device, net, rows=5, **options):
    """Predictions and gradients of both devices are the same bits."""
    x, y = data(net, rows)
    assert net.predict(x).tobytes() == net.predict(x, device=device).tobytes()
    assert net.logits(x[0]).tobytes() == net.logits(x[0], device=device).tobytes()
    (loss, gradient), (device_loss, device_gradient) = (
        net.gradient(x, y, device=where, **options) for where in ("cpu", device)
    )
    assert loss == device_loss
    assert gradient.parameters.tobytes() == device_gradient.parameters.tobytes()
    assert gradient.inputs.tobytes() == device_gradient.inputs.tobytes()


@pytest.mark.parametrize("name", mostly_slow(STACKS, "no biases", "residual", "batch norm"))
def test_stacks(name, device):
    net = assert_same_training(device, lambda: stack(name), rows=5, batch_size=3, epochs=1)
    assert_same_answers(device, net)


def test_float64(device):
    net = assert_same_training(device, lambda: make_network([4, 5, 2], "gelu", dtype="float64"), epochs=1)
    assert_same_answers(device, net, rows=3)


@pytest.mark.parametrize("tile", [(32, 8, 8), (16, 4, 8)], ids=lambda tile: "{1} x {2}".format(*tile))
def test_tiles_of_several_squares(tile, device, monkeypatch, request):
    """As a GPU has them; elsewhere the simulator takes the smallest."""
    monkeypatch.setattr(gemm, "TINY", gemm.Tile(*tile))
    the_device._kernel.cache_clear()
    request.addfinalizer(the_device._kernel.cache_clear)
    layers = [Dense(35, "tanh"), Dense(3)]
    assert_same_answers(device, fastbp.Network(layers, inputs=18, seed=1), rows=17)
    assert_same_training(device, lambda: fastbp.Network(layers, inputs=5, seed=1), rows=6, epochs=1)


@pytest.mark.parametrize("statistics", [False, True])
def test_gradient_of_batch_normalisation(statistics, device):
    assert_same_answers(device, stack("batch norm"), batch_statistics=statistics)


def test_batch_normalisation_of_long_batches(device, monkeypatch):
    """Gradients are summed chunk by chunk, those of γ and β over the whole batch."""
    monkeypatch.setattr("fastbp.division.LONGEST_SUM", 4)
    layers = [Dense(3, "tanh"), BatchNorm(), Dense(2)]
    net = assert_same_training(device, lambda: fastbp.Network(layers, inputs=3, seed=1), 10, 10, epochs=1)
    assert_same_answers(device, net, rows=9, batch_statistics=True)


@pytest.mark.parametrize("name", mostly_slow(ACTIVATIONS, "tanh", "mish"))
def test_activations(name, device):
    net = make_network([2, 4, 2], name)
    net.parameters[:] *= 3
    x, y = data(net, 3)
    (_, expected), (_, found) = (net.gradient(x, y, device=where) for where in ("cpu", device))
    assert expected.parameters.tobytes() == found.parameters.tobytes()


@pytest.mark.parametrize("name", mostly_slow(LOSSES, "softmax_cross_entropy", "huber"))
def test_losses(name, device):
    net = make_network([2, 3], loss=name, option=name != "softmax_cross_entropy")
    assert_same_answers(device, net, rows=3)
    if LOSSES[name].rowwise:
        smoothed = make_network([2, 3], loss=name)
        x, t = draw_inputs(3, 2), draw_targets(name, 3, 3, probabilities=True)
        (loss, expected), (device_loss, found) = (
            smoothed.gradient(x, t, sample_weight=[1, 0, 3], device=where) for where in ("cpu", device)
        )
        assert loss == device_loss
        assert expected.parameters.tobytes() == found.parameters.tobytes()


@pytest.mark.parametrize("name", mostly_slow(OPTIMIZERS, "adamax", "momentum"))
def test_optimizers(name, device):
    optimizer = next(each for each in EXAMPLES if each.formula == name)
    assert_same_training(device, lambda: make_network([2, 3, 1]), 4, 2, optimizer, epochs=1)


EXAMPLES = [
    fastbp.SGD(0.1, weight_decay=0.1), fastbp.SGD(0.1, momentum=0.9, dampening=0.1),
    fastbp.SGD(0.1, momentum=0.9, nesterov=True), fastbp.Adam(), fastbp.Adam(amsgrad=True), fastbp.Adamax(),
    fastbp.NAdam(), fastbp.RAdam(), fastbp.RMSprop(), fastbp.RMSprop(momentum=0.5),
    fastbp.RMSprop(momentum=0.5, centered=True), fastbp.Adagrad(), fastbp.Adadelta(), fastbp.Lion(),
]  # fmt: skip

EVERY_SETTING = fastbp.NAdam(
    0.05, weight_decay=0.3, decoupled=True, decay_biases=False,
    layers={1: {"learning_rate": 0.01, "betas": (0.8, 0.99)}},
    schedule=fastbp.schedules.Cosine(per="step", warmup=2),
)  # fmt: skip
TRAININGS = {
    "settings of layers and a schedule": dict(optimizer=EVERY_SETTING),
    "a scheduled momentum": dict(
        optimizer=fastbp.SGD(0.05, momentum=0.9, schedule=fastbp.schedules.OneCycle())
    ),
    "a plateau": dict(optimizer=fastbp.SGD(0.1, schedule=fastbp.schedules.ReduceOnPlateau(patience=0))),
    "materialised": dict(materialise=True),
    "no shuffle": dict(shuffle=False),
    "validation": dict(validation=0.3, metrics=["r2"], early_stopping=fastbp.EarlyStopping(patience=1)),
    "weights, balanced": dict(sample_weight=np.arange(9), sampling="balanced"),
}


@pytest.mark.parametrize("name", mostly_slow(TRAININGS, *list(TRAININGS)[:1], "weights, balanced"))
def test_trainings(name, device):
    loss = "softmax_cross_entropy" if "balanced" in name else "mean_squared_error"
    assert_same_training(device, lambda: make_network([3, 4, 2], loss=loss), **TRAININGS[name])


BY_A_BLOCK = [name for name in TRAININGS if name != "materialised"]


@by_a_block
@pytest.mark.parametrize("name", mostly_slow(BY_A_BLOCK, *BY_A_BLOCK[:1], "validation", "weights, balanced"))
def test_trainings_by_a_block(name, device):
    loss = "softmax_cross_entropy" if "balanced" in name else "mean_squared_error"
    assert_same_training(device, lambda: make_network([3, 4, 2], loss=loss), **TRAININGS[name])


@by_a_block
@pytest.mark.parametrize(
    ("sizes", "activation", "loss", "optimizer"),
    [
        ([3, 5, 2], "tanh", "softmax_cross_entropy", fastbp.Adam(0.1)),
        ([4, 1], "relu", "binary_cross_entropy", fastbp.SGD(0.1)),
        ([2, 4, 3, 1], "gelu", "huber", fastbp.RMSprop(momentum=0.5, centered=True)),
    ],
)
def test_networks_that_a_block_trains(sizes, activation, loss, optimizer, device):
    assert_same_training(
        device, lambda: make_network(sizes, activation, loss), batch_size=5, optimizer=optimizer
    )


@by_a_block
def test_streams_by_a_block(device):
    nets = [make_network([3, 4, 2]) for _ in range(2)]
    x, y = data(nets[0], 9)
    for net, where in zip(nets, ("cpu", device)):
        fastbp.train(net, [(x[:2], y[:2]), (x[2:], y[2:])], epochs=2, batch_size=3, device=where)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


@by_a_block
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_several_activations_in_a_block(real, device):
    layers = [Dense(4, "tanh"), Dense(3), Dense(5, "gelu"), Dense(2, "sigmoid")]
    make = lambda: fastbp.Network(layers, inputs=3, seed=1, dtype=real)
    assert_same_training(device, make, rows=6, epochs=1)


@by_a_block
def test_an_activation_of_ones_own_among_several(device):
    make = lambda: fastbp.Network([Dense(3, "tanh"), Dense(2, "scaled"), Dense(2)], inputs=2, seed=0)
    for factor in (2.0, 3.0):  # registered anew: no kernel of the old one may be left
        fastbp.register_activation(
            "scaled", lambda z, f=factor: f * z, lambda dy, y, f=factor: f * dy, overwrite=True
        )
        assert_same_training(device, make, rows=4, epochs=1)
    del ACTIVATIONS["scaled"]


@pytest.mark.parametrize("what", ["materialise", "other layers"])
def test_what_no_block_does_is_done_in_steps(what, device, monkeypatch):
    monkeypatch.setattr(small, "MOST_BYTES", 1 << 20)
    others = [LayerNorm()] if what == "other layers" else []
    make = lambda: fastbp.Network([Dense(2, "tanh"), *others, Dense(1)], inputs=2, seed=1)
    assert_same_training(device, make, rows=3, epochs=1, materialise=what == "materialise")


SHAPED = {
    "clipped by norm": dict(clip_norm=0.1, gradient_noise=0.01, input_noise=0.2),
    "clipped by value": dict(clip_value=0.01, gradient_noise=0.01),
    "clipped by both": dict(
        clip_value=0.01, clip_norm=0.02, gradient_noise=fastbp.AnnealedNoise(1e-3, gamma=0.8)
    ),
    "penalties alone": {},
}


def assert_same_shaping(device, name):
    layers = [Dense(6, "tanh", l1=1e-3, l2=1e-2, max_norm=0.9), Dense(3, l2=0.1)]
    make = lambda: fastbp.Network(layers, inputs=5, loss="softmax_cross_entropy", seed=1)
    assert_same_training(device, make, epochs=1, **SHAPED[name])


@pytest.mark.parametrize("name", mostly_slow(SHAPED, "clipped by norm"))
def test_shaping(name, device):
    assert_same_shaping(device, name)


@by_a_block
@pytest.mark.parametrize("name", mostly_slow(SHAPED, "clipped by norm"))
def test_shaping_by_a_block(name, device):
    assert_same_shaping(device, name)


@pytest.mark.parametrize("name", mostly_slow(SHAPED, "clipped by both"))
def test_shaping_of_what_normalisations_learn(name, device):
    layers = [Dense(5, "tanh"), LayerNorm(), Dense(4), BatchNorm(scale=False), Dense(2)]
    make = lambda: fastbp.Network(layers, inputs=3, seed=1)
    assert_same_training(device, make, epochs=1, **SHAPED[name])


@both_ways
def test_a_checkpoint_within_an_epoch(device, tmp_path):
    make = lambda: make_network([3, 4, 2])
    x, y = data(make(), 11)
    how = dict(batch_size=2, epochs=2, optimizer=fastbp.SGD(0.1, momentum=0.9))
    whole, net = make(), make()
    history = fastbp.train(whole, x, y, **how)
    fastbp.train(
        make(), x, y, **how, device=device, checkpoints=fastbp.Checkpoints(tmp_path, steps=2, keep=9)
    )
    within = tmp_path / "epoch-00000000.step-00000004.safetensors"
    again = fastbp.train(net, x, y, **how, device=device, resume=within)
    assert net.parameters.tobytes() == whole.parameters.tobytes()
    assert again.loss == history.loss


@pytest.mark.parametrize("clip_norm", [None, pytest.param(0.1, marks=pytest.mark.slow)])
def test_chunks(clip_norm, device, monkeypatch):
    monkeypatch.setattr(division, "CHUNK_ROWS", 4)
    layers = [Dense(6, "tanh"), LayerNorm(), Dense(2)]
    make = lambda: fastbp.Network(layers, inputs=3, seed=1)
    net = assert_same_training(device, make, 14, 13, epochs=1, clip_norm=clip_norm)
    assert division.sums_in_chunks(net.architecture, 13)
    if not clip_norm:
        assert_same_answers(device, net, rows=13)


def test_several_passes_where_rows_are_many(device, monkeypatch):
    monkeypatch.setattr("fastbp.one_pass.ROWS_ON_DEVICE", 4)
    net, x = make_network([3, 4, 2]), draw_inputs(9, 3)
    assert net.predict(x).tobytes() == net.predict(x, device=device).tobytes()


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "huber"])
def test_loss_and_evaluate(loss, device, monkeypatch):
    monkeypatch.setattr("fastbp.one_pass.ROWS_ON_DEVICE", 4)  # several passes
    net = make_network([3, 4, 2], loss=loss)
    x, y = data(net, 9)
    for weights in (None, np.arange(9) % 4):
        found = [
            (net.loss(x, y, sample_weight=weights, device=where),
             net.evaluate(x, y, sample_weight=weights, device=where)) for where in ("cpu", device)
        ]  # fmt: skip
        assert found[0] == found[1]
    metrics = ["log_loss", "roc_auc"] if loss == "softmax_cross_entropy" else ["r2", lambda t, p: p.sum()]
    assert net.evaluate(x, y, metrics) == net.evaluate(x, y, metrics, device=device)


def test_evaluate_bytes_and_running_statistics(device):
    layers = [BatchNorm(), Dense(3, "tanh"), Dropout(0.5), Dense(1)]
    net = fastbp.Network(layers, inputs=2, input_scale=1 / 255, seed=1)
    x, y = np.arange(14, dtype=np.uint8).reshape(7, 2), np.arange(7.0)
    fastbp.train(net, x, y, epochs=1)
    assert net.evaluate(x, y, ["r2"]) == net.evaluate(x, y, ["r2"], device=device)


@pytest.mark.parametrize("streams", [False, True])
def test_rows_are_sent_once(streams, device, monkeypatch):
    places, begin = [], device_plan.device.Memory._begin
    monkeypatch.setattr(
        device_plan.device.Memory, "_begin",
        lambda memory, content: places.append(content.ctypes.data) or begin(memory, content),
    )  # fmt: skip
    net = make_network([3, 4, 2])
    x, y = (array.astype(np.float32) for array in data(net, 9))
    held_out = x[5:].copy(), y[5:].copy()
    rows = ([(x, y)],) if streams else (x, y)
    fastbp.train(net, *rows, epochs=3, validation=held_out, metrics=["r2"], device=device)
    each = [places.count(array.ctypes.data) for array in (x, y, *held_out)]
    assert each == ([3, 3, 1, 1] if streams else [1, 1, 1, 1])


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # plain Python in the simulator
@both_ways
def test_divergence_is_told_as_on_the_cpu(device):
    told = []
    for where in ("cpu", device):
        net = make_network([3, 4, 2])
        x, y = data(net, 9)
        before = net.parameters.copy()
        with pytest.raises(fastbp.DivergenceError) as error:
            fastbp.train(net, x, y * 1e30, batch_size=4, optimizer=fastbp.SGD(1e10), device=where)
        assert np.array_equal(net.parameters, before)
        told.append((str(error.value), error.value.epoch, error.value.steps))
    assert told[0] == told[1]


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@both_ways
def test_weights_that_are_not_finite_are_told_as_on_the_cpu(device, monkeypatch):
    monkeypatch.setattr("fastbp.training.SHARE_OF_LOOKS", -1.0)  # the validation loss says so
    told = []
    for where in ("cpu", device):
        net = make_network([3, 4, 2])
        x, y = data(net, 6)
        options = dict(batch_size=None, optimizer=fastbp.SGD(1e38), validation=(x[:2], y[:2]), epochs=3)
        with pytest.raises(fastbp.DivergenceError, match="a weight became infinite or NaN") as error:
            fastbp.train(net, x, y * 1e3, device=where, **options)
        told.append((str(error.value), error.value.epoch, error.value.steps, len(error.value.history)))
    assert told[0] == told[1]


@both_ways
def test_resumed_to_the_same_bits(device, tmp_path):
    x, y = draw_inputs(9, 3), draw_targets("mean_squared_error", 9, 2)
    options = dict(batch_size=4, optimizer="adam", seed=3)
    whole, first, second = (make_network([3, 4, 2]) for _ in range(3))
    fastbp.train(whole, x, y, epochs=3, **options)
    fastbp.train(first, x, y, epochs=2, device=device, checkpoints=fastbp.Checkpoints(tmp_path), **options)
    fastbp.train(second, x, y, epochs=3, device=device, resume=tmp_path, **options)
    assert whole.parameters.tobytes() == second.parameters.tobytes()


@both_ways
def test_stopped_by_a_callback_and_by_the_user(device):
    net = make_network([3, 4, 2])
    x, y = data(net, 9)
    history = fastbp.train(net, x, y, epochs=5, device=device, callbacks=[lambda training: training.stop()])
    assert len(history.loss) < 5


def test_the_host_is_not_far_ahead_of_the_device(device, monkeypatch):
    monkeypatch.setattr(device_plan, "STEPS_AHEAD", 1)
    ahead, most = [], []

    def mark():
        ahead.append(1)
        most.append(len(ahead))
        return ahead.pop

    monkeypatch.setattr(device_plan.device, "mark", mark)
    net = make_network([2, 3, 1])
    fastbp.train(net, *data(net, 5), batch_size=1, epochs=1, device=device)
    assert len(most) == 5
    assert max(most) == 2


@both_ways
def test_ctrl_c_and_resumed_to_the_same_bits(way, device, tmp_path, monkeypatch):
    monkeypatch.setattr(device_plan, "STEPS_AHEAD", 1)
    monkeypatch.setattr(device_small, "SECONDS_PER_LAUNCH", 0)
    marks = []

    def pressed(function):
        def press():
            marks.append(1)
            if len(marks) == 4:
                signal.raise_signal(signal.SIGINT)
            return function()

        return press

    for name in ("mark", "wait"):  # after a step, or a launch of a step
        monkeypatch.setattr(device_plan.device, name, pressed(getattr(device_plan.device, name)))
    whole, first, second = (make_network([3, 4, 2]) for _ in range(3))
    x, y = data(whole, 9)
    options = dict(epochs=4, batch_size=3, optimizer="adam")
    fastbp.train(whole, x, y, **options)
    history = fastbp.train(first, x, y, device=device, checkpoints=fastbp.Checkpoints(tmp_path), **options)
    assert history.interrupted
    assert len(history) < 4
    assert first.parameters.tobytes() != whole.parameters.tobytes()
    history = fastbp.train(second, x, y, device=device, resume=tmp_path, **options)
    assert len(history) == 4
    assert second.parameters.tobytes() == whole.parameters.tobytes()


def test_an_activation_of_ones_own(device):
    for factor in (2.0, 3.0):  # registered anew: no kernel of the old one may be left
        fastbp.register_activation(
            "scaled", lambda z, f=factor: f * z, lambda dy, y, f=factor: f * dy, overwrite=True
        )
        net = fastbp.Network([2, 2], output_activation="scaled", seed=0)
        assert net.predict([[1, 2]]).tobytes() == net.predict([[1, 2]], device=device).tobytes()
    del ACTIVATIONS["scaled"]


def test_scaled_bytes_and_streams(device):
    x = np.random.default_rng(0).integers(0, 256, (9, 3), np.uint8)
    y = draw_targets("mean_squared_error", 9, 2)
    nets = [fastbp.Network([3, 4, 2], input_scale=1 / 255, seed=1) for _ in range(4)]
    options = dict(epochs=2, batch_size=4)
    for net, where in zip(nets, ("cpu", device)):
        fastbp.train(net, x, y, device=where, **options)
    for net, where in zip(nets[2:], ("cpu", device)):
        fastbp.train(net, [(x[:5], y[:5]), (x[5:], y[5:])], device=where, **options)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    assert nets[2].parameters.tobytes() == nets[3].parameters.tobytes()
    (_, expected), (_, found) = (nets[0].gradient(x, y, device=where) for where in ("cpu", device))
    assert expected.parameters.tobytes() == found.parameters.tobytes()
    assert expected.inputs.tobytes() == found.inputs.tobytes()
    assert nets[0].predict(x).tobytes() == nets[0].predict(x, device=device).tobytes()
