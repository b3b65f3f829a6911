"""Images as bytes: they stay in their file, a byte a pixel, and are numbers from 0 to 1 inside the network.

`input_scale` belongs to the network, so that whoever predicts scales as whoever trained did.
"""

import tempfile
from pathlib import Path

import numpy as np

import fastbp


def write_images(path):
    """Ink from 0 to 255 of handwritten digits (n, 64), in a file of bytes; returns (n, 64) and the labels."""
    x, y = fastbp.datasets.digits()
    order = np.random.default_rng(0).permutation(len(x))  # the last ones are of other writers
    x, y = x[order], y[order]
    (255 * x).round().astype(np.uint8).tofile(path)
    return x.shape, y


def learn(folder):
    """(accuracy on the last 400 images, whether the file's network predicts the same)."""
    shape, y = write_images(Path(folder) / "images")
    images = np.memmap(Path(folder) / "images", np.uint8, "r", shape=shape)  # as large as the disk allows
    network = fastbp.Network([64, 64, 10], loss="softmax_cross_entropy", input_scale=1 / 255, seed=0)
    fastbp.train(network, images[:-400], y[:-400], epochs=20, optimizer="adam")
    network.save(Path(folder) / "digits.safetensors")
    again = fastbp.load(Path(folder) / "digits.safetensors")
    same = np.array_equal(again.predict(images[-1]), network.predict(images[-1] / 1.0))  # 255 is 255
    return network.evaluate(images[-400:], y[-400:])["accuracy"], same, network


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        accuracy, same, network = learn(folder)
        print(network)
        print(f"accuracy on other images: {accuracy:.3f}")
        print(f"bytes and numbers are the same inputs, in memory and loaded: {same}")
