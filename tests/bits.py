"""Hashes of trained weights: ``python -m tests.bits float32 1 fused`` (type, threads, mode).

Prints the bytes of this machine's vectors and the hash of each case, as JSON.

A program of its own, so that a test can run it in a process that compiles for another machine.
"""

import hashlib
import json
import sys

import fastbp
from fastbp.cpu.machine import this_machine
from fastbp.division import sums_in_chunks
from tests.samples import LAYERED, draw_inputs, draw_targets, make_layered, make_network

# name: sizes, activation, loss, rows, batch size, whether gradients are summed in chunks
CASES = {
    "few rows": ([5, 9, 3], "tanh", "mean_squared_error", 23, 8, False),
    "classes": ([20, 33, 17, 10], "gelu", "softmax_cross_entropy", 150, 64, False),
    "chunks": ([4, 16, 7, 3], "tanh", "softmax_cross_entropy", 1000, 600, True),
    "two chunks": ([40, 48, 37, 10], "gelu", "softmax_cross_entropy", 150, 64, True),
    "wide": ([70, 130, 1], "gelu", "mean_squared_error", 40, 40, False),
    "many inputs, by columns": ([400, 50, 3], "relu", "softmax_cross_entropy", 70, 32, False),
    "packed": ([400, 210, 4], "tanh", "huber", 450, 220, False),
    "long sums": ([300, 8, 2], "tanh", "softmax_cross_entropy", 300, 290, True),
    "every setting": ([9, 20, 12, 3], "tanh", "softmax_cross_entropy", 100, 12, False),
    "shaped": ([9, 50, 18, 3], "tanh", "softmax_cross_entropy", 100, 12, False),
    "shaped in chunks": ([4, 16, 7, 3], "tanh", "softmax_cross_entropy", 1000, 600, True),
}
_SHAPED = dict(
    clip_norm=0.1, gradient_noise=0.01, input_noise=0.2, class_weight=[0.5, 1, 3], sampling="balanced"
)
# Options of networks of `LAYERED`
SHAPED_LAYERS = {
    "batch norm": dict(clip_value=0.01, clip_norm=0.05, gradient_noise=fastbp.AnnealedNoise(1e-4)),
    "layer norm in chunks": dict(clip_norm=0.05, gradient_noise=fastbp.AnnealedNoise(1e-4)),
}
SHAPED = {"shaped": _SHAPED, "shaped in chunks": _SHAPED | dict(clip_norm=None, clip_value=0.01)}
OPTIMIZERS = {
    "every setting": fastbp.NAdam(
        0.05, weight_decay=0.3, decoupled=True, decay_biases=False,
        layers={1: {"learning_rate": 0.01, "betas": (0.8, 0.99)}},
        schedule=fastbp.schedules.Cosine(per="step", warmup=5),
    ),
}  # fmt: skip
MODES = {"fused": False, "materialised": True}


def hashes(real, threads, mode):
    """The SHA-256 of each case's parameters and losses after two epochs."""
    found = {}
    for name in LAYERED:
        net, x, y, batch_size = make_layered(name, real)
        optimizer, options = fastbp.SGD(0.05, momentum=0.9), SHAPED_LAYERS.get(name)
        found[name] = _hash(net, x, y, batch_size, threads, mode, optimizer)
        if options:
            net, *_ = make_layered(name, real)
            found[f"{name}, shaped"] = _hash(net, x, y, batch_size, threads, mode, optimizer, **options)
    for name, (sizes, activation, loss, rows, batch_size, chunked) in CASES.items():
        net = make_network(sizes, activation, loss, dtype=real)
        if name in SHAPED:
            layers = [fastbp.Dense(n, activation, l1=1e-3, l2=1e-2, max_norm=1.2) for n in sizes[1:]]
            net = fastbp.Network(layers, inputs=sizes[0], loss=loss, dtype=real, seed=1)
        assert sums_in_chunks(net.architecture, batch_size) == chunked, name
        x, y = draw_inputs(rows, sizes[0]), draw_targets(loss, rows, sizes[-1])
        optimizer = OPTIMIZERS.get(name, fastbp.SGD(0.05, momentum=0.9))
        found[name] = _hash(net, x, y, batch_size, threads, mode, optimizer, **SHAPED.get(name, {}))
    return found


def _hash(net, x, y, batch_size, threads, mode, optimizer, **options):
    history = fastbp.train(
        net, x, y, epochs=2, batch_size=batch_size, threads=threads, materialise=MODES[mode], seed=3,
        optimizer=optimizer, **options,
    )  # fmt: skip
    loss, gradient = net.gradient(x[:99], y[:99])
    digest = hashlib.sha256(net.parameters.tobytes())
    digest.update(repr((history.loss, loss, net.loss(x, y))).encode())
    for array in (gradient.parameters, gradient.inputs, net.predict(x), net.predict(x[:3])):
        digest.update(array.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    real, threads, mode = sys.argv[1:]
    print(json.dumps([this_machine().vector_bytes, hashes(real, int(threads), mode)]))
