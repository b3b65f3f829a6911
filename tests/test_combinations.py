"""Networks and options of training drawn at random, all at once: no bit depends on how they are run.

On how many threads, with gradients in registers or in memory, cut off and resumed wherever that may be, on
dense rows or sparse ones. The drawn trainings are the same in every run: a failure is there for everyone.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, note, reject
from hypothesis import strategies as st
from scipy.sparse import csr_array

import fastbp
from fastbp import SGD, Adam, AnnealedNoise, Checkpoints, Dense, EarlyStopping, schedules
from tests.samples import draw_inputs, draw_targets
from tests.test_checkpoints import same
from tests.test_stacks import a_network, drawn

OPTIMIZERS = [
    SGD(0.003, momentum=0.9, schedule=schedules.Cosine(total=40, per="step", warmup=3)),
    SGD(0.003, momentum=0.9, weight_decay=0.1, decay_biases=False, layers={0: {"learning_rate": 0.001}}),
    SGD(0.003, momentum=0.9, schedule=schedules.ReduceOnPlateau(patience=0, threshold=0.1)),
    Adam(0.003, schedule=schedules.Step(1, gamma=0.8)),
    Adam(0.003, schedule=schedules.OneCycle(total=60)),
]
a_bound = st.floats(1e-3, 1)
OPTIONS = dict(
    clip_value=a_bound,
    clip_norm=a_bound,
    gradient_noise=st.floats(0, 0.01) | st.builds(AnnealedNoise, st.floats(0, 1e-4), st.floats(0, 2)),
    input_noise=st.floats(0, 1),
    sample_weight=st.integers(2, 5),
    class_weight=st.just("balanced"),
    sampling=st.just("balanced"),
    validation=st.just(0.25),
    shuffle=st.booleans(),
)
OF_CLASSES = {"class_weight", "sampling"}


@st.composite
def a_training(draw):
    """(layers, what else a network takes, data, options of `train`)"""
    layers, inputs = draw(a_network())
    loss = draw(st.sampled_from(["mean_squared_error", "softmax_cross_entropy"]))
    layers = [draw(with_bounds(layer)) if isinstance(layer, Dense) else layer for layer in layers]
    layers += [Dense(3)] if loss == "softmax_cross_entropy" else [Dense(2)]
    batch_size = draw(st.sampled_from([2, 3, 7, 16, 33, 70, 400, 400, 400]))
    rows = max(12, batch_size * draw(st.integers(1, 3)) + draw(st.integers(0, min(batch_size, 30))))
    x, y = np.maximum(draw_inputs(rows, inputs), 0), draw_targets(loss, rows, layers[-1].units)
    options = {name: draw(values) for name, values in OPTIONS.items() if draw(st.booleans())}
    if loss == "mean_squared_error":
        options = {name: value for name, value in options.items() if name not in OF_CLASSES}
    if options.get("sampling"):
        options["shuffle"] = True
    if "sample_weight" in options:
        weights = np.arange(rows) % options["sample_weight"]
        options["sample_weight"] = weights + ("validation" in options)  # which takes no rows of 0 alone
    if "validation" in options and draw(st.booleans()):
        options["early_stopping"] = EarlyStopping(1)
    options |= dict(epochs=3, batch_size=batch_size, optimizer=draw(st.sampled_from(OPTIMIZERS)))
    return layers, dict(inputs=inputs, loss=loss, seed=draw(st.integers(0, 2**64 - 1))), (x, y), options


@st.composite
def with_bounds(draw, layer):
    """A dense layer, perhaps with penalties and a largest norm."""
    bounds = dict(l1=st.floats(0, 0.1), l2=st.floats(0, 0.1), max_norm=st.floats(0.1, 2))
    return dataclasses.replace(layer, **{n: draw(v) for n, v in bounds.items() if draw(st.booleans())})


arguments = dict(
    training=a_training(),
    threads=st.lists(st.integers(2, 6), min_size=3, max_size=3),
    materialise=st.lists(st.booleans(), min_size=3, max_size=3),
    steps=st.integers(1, 12),
    which=st.integers(0, 99),
)


def check(training, threads, materialise, steps, which):
    layers, described, (x, y), options = training

    def run(threads=1, materialise=False, x=x, **how):
        net = fastbp.Network(layers, dtype="float64", **described)
        return net, fastbp.train(net, x, y, threads=threads, materialise=materialise, **options, **how)

    try:
        whole = run()
    except fastbp.DivergenceError:
        reject()
    assume(np.isfinite(whole[1].validation_loss).all())
    assert same(run(threads[0], materialise[0], csr_array(x) if which % 2 else x), whole)
    with tempfile.TemporaryDirectory() as folder:
        kept = Checkpoints(folder, steps=steps, keep=10**6)
        assert same(run(threads[1], materialise[1], checkpoints=kept), whole)
        files = sorted(Path(folder).glob("epoch-*"))
        resume = files[which % len(files)]
        note(resume.name)
        assert same(run(threads[2], materialise[2], resume=resume), whole)


@drawn(40)
@given(**arguments)
def test_no_combination_changes_a_bit(**how):
    check(**how)


@pytest.mark.slow
@drawn(400)
@given(**arguments)
def test_no_combination_of_many_changes_a_bit(**how):
    check(**how)
