"""Streams: a network is trained on chunks of rows as they come; only one chunk is in memory at a time.

The rows are made here; a database, a socket or a folder of files would be read in the same way.
"""

import numpy as np

import fastbp

WEIGHTS = np.random.default_rng(0).normal(size=(20, 1))


def measured(seed, rows=1000):
    """x (rows, 20), y (rows, 1): what one file might hold."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, 20))
    return x, np.tanh(x @ WEIGHTS) + 0.1 * draw.normal(size=(rows, 1))


class Files:
    """A stream that can be run through again, so it may have several epochs."""

    def __init__(self, seeds):
        self.seeds = seeds

    def __iter__(self):
        for seed in self.seeds:
            yield measured(seed)


def arriving(seeds):
    """A stream that comes once, as its rows are measured; those of a poorer instrument count half."""
    for seed in seeds:
        x, y = measured(seed)
        yield x, y, np.where(np.arange(len(x)) % 2, 0.5, 1.0)


def learn():
    """Histories of a training in several epochs, and of another on more data."""
    network = fastbp.Network([20, 32, 1], activation="tanh", seed=0)
    options = dict(optimizer="adam", validation=measured(1000))
    many = fastbp.train(network, Files(range(50)), epochs=4, **options)
    more = fastbp.train(network, arriving(range(50, 100)), **options)
    return many, more


if __name__ == "__main__":
    many, more = learn()
    for epoch, (loss, validation_loss) in enumerate(zip(many.loss, many.validation_loss), 1):
        print(f"epoch {epoch}: loss {loss:.4f}, on other rows {validation_loss:.4f}; the noise alone is 0.01")
    print(f"on more data: {more.validation_loss[-1]:.4f}, {more.samples_per_second[-1]:.2g} rows a second")
