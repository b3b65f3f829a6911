"""Memory, each in a process of its own: bytes beyond interpreter, library and data. Linux only."""

import json
import subprocess
import sys
from itertools import pairwise

# The peak counts from just before the call: Linux's high-water mark, reset by writing 5 to clear_refs.
PROGRAM = """
import json, sys
import numpy as np
import fastbp

sizes, batch, rows, real, doing = json.loads(sys.argv[1])
x = np.ones((rows, sizes[0]), real)
y = np.zeros(rows, np.int64)

def memory(which):
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith(which))

def train(net, x, y, epochs=2):
    optimizer = fastbp.SGD(1e-4, momentum=0.9)
    fastbp.train(net, x, y, epochs=epochs, batch_size=batch, optimizer=optimizer, progress=False)

def new(sizes):
    return fastbp.Network(sizes, activation="relu", loss="softmax_cross_entropy", dtype=real, seed=0)

small = new([sizes[0], 4, sizes[-1]])
train(small, x[:batch], y[:batch]), small.predict(x[:batch])     # loads the kernels
if doing == "growth":
    def calls(n):
        for _ in range(n):
            train(small, x, y, epochs=1), small.predict(x), small.gradient(x, y)
    calls(200)
    before = memory("VmRSS")
    calls(int(sys.argv[2]))
    print(max(0, memory("VmRSS") - before))
else:
    net = new(sizes)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = memory("VmRSS")
    train(net, x, y) if doing == "train" else net.predict(x)
    print(max(0, memory("VmHWM") - before))
"""
NETWORKS = {
    "64-32-10, batch 32": ([64, 32, 10], 32),
    "784-128-10, batch 128": ([784, 128, 10], 128),
    "784-1024-1024-10, batch 256": ([784, 1024, 1024, 10], 256),
}
ROWS = 4096


def _bytes(sizes, batch, rows, doing, *arguments, real="float32"):
    if not sys.platform.startswith("linux"):
        return float("nan")
    task = json.dumps([sizes, batch, rows, real, doing])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, task, *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return int(done.stdout)


def track_training(network):
    """Peak beyond data, network and library: optimizer's state, packed parameters, workspace."""
    sizes, batch = NETWORKS[network]
    return _bytes(sizes, batch, ROWS, "train")


def track_training_per_parameter_byte(network):
    """The same in multiples of the parameters' bytes, less four times the batch's activations."""
    sizes, batch = NETWORKS[network]
    parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))
    return (_bytes(sizes, batch, ROWS, "train") - 4 * 4 * batch * sum(sizes)) / (4 * parameters)


def track_predicting_100000_rows(network):
    sizes, batch = NETWORKS[network]
    return _bytes([min(sizes[0], 64), *sizes[1:]], batch, 100_000, "predict")


def track_growth_over_2000_calls():
    """Of train, predict and gradient in turn: what Python's own allocator keeps is some pages."""
    return _bytes([8, 8, 4], 16, 16, "growth", 2000)


for _benchmark in (track_training, track_training_per_parameter_byte, track_predicting_100000_rows):
    _benchmark.params, _benchmark.param_names = list(NETWORKS), ["network"]
for _benchmark in (track_training, track_predicting_100000_rows, track_growth_over_2000_calls):
    _benchmark.unit = "bytes"
track_training_per_parameter_byte.unit = "parameter bytes"
