"""What a user waits for before training starts, each in a process of its own."""

import os
import subprocess
import sys
import tempfile
import time

from .timing import measured

DIGITS = """
import fastbp
x, y = fastbp.datasets.digits()
net = fastbp.Network([64, 32, 10], activation="relu", loss="softmax_cross_entropy", seed=0)
fastbp.train(net, x, y, epochs=30, batch_size=32, optimizer=fastbp.SGD(0.1, momentum=0.9), progress=False)
"""
FIRST_EPOCH = """
import time
import fastbp
x, y = fastbp.datasets.digits()
start = time.perf_counter()
net = fastbp.Network([64, 32, 10], activation="relu", loss="softmax_cross_entropy", seed=0)
fastbp.train(net, x, y, epochs=1, progress=False)
first = time.perf_counter()
net = fastbp.Network([64, 50, 20, 10], activation="relu", loss="softmax_cross_entropy", seed=0)
fastbp.train(net, x[:32], y[:32], epochs=1, progress=False)
second = time.perf_counter()
print(first - start, second - first)
"""


def process(program, cache=None):
    """(seconds of the whole process, the numbers it printed); ``cache``: where kernels are kept instead."""
    environment = dict(os.environ) | ({} if cache is None else {"FASTBP_CACHE_DIR": cache})
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return time.perf_counter() - start, [float(word) for word in done.stdout.split()]


@measured()
def time_import():
    """Without the interpreter's own start."""
    return process("import time; t = time.perf_counter(); import fastbp; print(time.perf_counter() - t)")[1][
        0
    ]


@measured()
def time_first_epoch_cold():
    """The first `train` where nothing is compiled yet."""
    with tempfile.TemporaryDirectory() as cache:
        return process(FIRST_EPOCH, cache)[1][0]


@measured()
def time_first_epoch_warm():
    """The same in a process that finds all kernels on disk."""
    process(FIRST_EPOCH)
    return process(FIRST_EPOCH)[1][0]


@measured()
def time_second_architecture():
    """A whole training of one step of another network, after the first: nothing is left to compile."""
    process(FIRST_EPOCH)
    return process(FIRST_EPOCH)[1][1]


@measured()
def time_digits_in_all():
    """A whole process with a warm cache: start, import, 30 epochs of digits, end."""
    process(DIGITS)
    return process(DIGITS)[0]


# A cold start compiles, and does so at no other speed the second time.
time_first_epoch_cold.repeat = 1
time_first_epoch_cold.warmup_time = 0
time_first_epoch_cold.number = 1
