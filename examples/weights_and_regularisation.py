"""Rows that count differently, and gradients and weights that are kept in bounds.

A table with few of one class: what weights of classes and balanced sampling do about it. Then noisy data and
a network that is too large for them: what penalties, the largest norm, clipping and noise do.
"""

import numpy as np

import fastbp


def few_of_one_class(rows, seed):
    """x (rows, 2), y (rows,): one row in ten is of class 1, and the classes overlap."""
    draw = np.random.default_rng(seed)
    y = (np.arange(rows) % 10 == 0).astype(int)
    return draw.normal(size=(rows, 2)) + 1.2 * y[:, None], y


def found_of_each_class(**options):
    """How many of either class a network finds that was trained with these options, in percent."""
    x, y = few_of_one_class(2000, seed=0)
    network = fastbp.Network([2, 16, 2], activation="tanh", loss="softmax_cross_entropy", seed=0)
    fastbp.train(network, x, y, epochs=20, optimizer="adam", **options)
    x, y = few_of_one_class(2000, seed=1)
    right = network.predict(x).argmax(axis=1) == y
    return [100 * right[y == label].mean() for label in (0, 1)]


def curve(rows, seed):
    """x (rows, 1), y (rows, 1): a sine under noise."""
    draw = np.random.default_rng(seed)
    x = draw.uniform(-3, 3, (rows, 1))
    return x, np.sin(x) + 0.5 * draw.normal(size=x.shape)


def error_on_new_rows(l2=0.0, max_norm=None, **options):
    """(mean squared error, length of all weights) of a network that saw forty noisy rows."""
    layers = [fastbp.Dense(units, "tanh", l2=l2, max_norm=max_norm) for units in (50, 50)]
    network = fastbp.Network([*layers, fastbp.Dense(1, l2=l2)], inputs=1, seed=0)
    x, y = curve(40, seed=0)
    fastbp.train(network, x, y, epochs=3000, batch_size=20, optimizer=fastbp.Adam(0.01), **options)
    return network.loss(*curve(1000, seed=1)), float(np.linalg.norm(network.parameters))


ROWS = {
    "as they are": dict(),
    "class_weight={1: 5}": dict(class_weight={1: 5}),
    'class_weight="balanced"': dict(class_weight="balanced"),
    'sampling="balanced"': dict(sampling="balanced"),
}
BOUNDS = {
    "none": dict(),
    "l2=0.003": dict(l2=0.003),
    "max_norm=1": dict(max_norm=1.0),
    "clip_norm=0.1": dict(clip_norm=0.1),
    "clip_value=0.01": dict(clip_value=0.01),
    "input_noise=0.3": dict(input_noise=0.3),
    "gradient_noise=0.01": dict(gradient_noise=0.01),
}

if __name__ == "__main__":
    print(f"{'rows':24s} {'class 0':>9s} {'class 1':>9s}   found")
    for name, options in ROWS.items():
        common, rare = found_of_each_class(**options)
        print(f"{name:24s} {common:8.0f}% {rare:8.0f}%")
    print(f"\n{'in bounds by':24s} {'error':>9s} {'weights':>9s}   on new rows; the noise alone is 0.25")
    for name, options in BOUNDS.items():
        error, length = error_on_new_rows(**options)
        print(f"{name:24s} {error:9.3f} {length:9.2f}")
