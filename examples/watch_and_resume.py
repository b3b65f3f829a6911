"""Watching a training, ending it in time, and going on from a checkpoint to the very same bits."""

import tempfile

import numpy as np

import fastbp

x, y, x_test, y_test = fastbp.datasets.split(*fastbp.datasets.digits(), 0.2, seed=0)


def make():
    """A network of the same start each time."""
    return fastbp.Network([64, 64, 10], loss="softmax_cross_entropy", seed=0)


def train(network, **how):
    """Train with metrics on rows that were held out; the best weights are given back."""
    return fastbp.train(
        network, x, y, epochs=60, optimizer=fastbp.Adam(0.003), validation=0.2,
        metrics=["accuracy", "f1", "top_3_accuracy", mean_confidence],
        early_stopping=fastbp.EarlyStopping(patience=8, monitor="validation_loss"), **how,
    )  # fmt: skip


def mean_confidence(targets, predictions):
    """A metric of one's own: how likely the network finds what it takes for the likeliest."""
    return predictions.max(axis=1).mean()


def cut_off(training):
    """A callback: what a power failure after ten epochs would do."""
    if training.epoch == 10:
        raise InterruptedError


if __name__ == "__main__":
    whole = make()
    history = train(whole, verbose=5)
    print(f"best was epoch {history.best_epoch}; on the test rows {whole.evaluate(x_test, y_test)}\n")

    with tempfile.TemporaryDirectory() as folder:
        try:
            train(make(), callbacks=[cut_off], checkpoints=fastbp.Checkpoints(folder, every=3))
        except InterruptedError:
            print("cut off in epoch 10; the newest checkpoint is of epoch 9")
        resumed = make()
        train(resumed, resume=folder)
    print("the resumed network has the same bits:", np.array_equal(resumed.parameters, whole.parameters))

    try:
        fastbp.train(fastbp.Network([64, 1], seed=0), x, y, optimizer=fastbp.SGD(1.0))
    except fastbp.DivergenceError as error:
        print(f"\n{error}")
