"""Several networks at once: an ensemble whose predictions are averaged, and a sweep over learning rates."""

import numpy as np

import fastbp


def make(n):
    """Networks that differ in where they start, and so in the order in which they see the rows."""
    return [fastbp.Network([64, 32, 10], loss="softmax_cross_entropy", seed=seed) for seed in range(n)]


def accuracy(probabilities, y):
    """The share of rows whose likeliest class is theirs."""
    return float(np.mean(probabilities.argmax(axis=1) == y))


def ensemble(n=8, progress="auto"):
    """(accuracy of each network, accuracy of their mean) on digits that none was trained on."""
    x, y, x_test, y_test = fastbp.datasets.split(*fastbp.datasets.digits(), 0.4, seed=0)
    networks = make(n)
    adam = fastbp.Adam(0.003)
    fastbp.train_many(networks, x, y, epochs=15, optimizer=adam, progress=progress)
    probabilities = [network.predict(x_test) for network in networks]
    together = accuracy(np.mean(probabilities, axis=0), y_test)
    return [accuracy(each, y_test) for each in probabilities], together


def sweep(rates=(0.003, 0.03, 0.3, 1e30), progress="auto"):
    """The validation loss after training with each learning rate; None where training diverged."""
    x, y = fastbp.datasets.digits()
    optimizers = [fastbp.SGD(rate, momentum=0.9) for rate in rates]
    # One start and one seed for all: the same rows are held out, and come in the same order.
    networks = [make(1)[0] for _ in rates]
    how = dict(epochs=15, optimizer=optimizers, validation=0.2, seed=0, progress=progress)
    try:
        histories, errors = fastbp.train_many(networks, x, y, **how), {}
    except fastbp.DivergenceError as error:  # the others are trained all the same
        histories, errors = error.histories, error.errors
    losses = [history.validation_loss[-1] if i not in errors else None for i, history in enumerate(histories)]
    return dict(zip(rates, losses, strict=True))


def main():
    each, together = ensemble()
    print("accuracy of each network:", " ".join(f"{value:.3f}" for value in each))
    print(f"accuracy of their mean:   {together:.3f}\n")
    print("learning rate  validation loss")
    for rate, loss in sweep().items():
        print(f"{rate:13g}  {'diverged' if loss is None else f'{loss:.4f}'}")


if __name__ == "__main__":
    main()
