"""FANN, the C library (Debian: libfann-dev), called from a compiled loop: no Python between steps.

It has neither relu nor softmax nor momentum in batches, and visits ready-made batches in a shuffled order
where all others gather rows: its step is less work than theirs.
"""

import ctypes
import ctypes.util
import time

import numba
import numpy as np

NAME = "FANN"

_path = ctypes.util.find_library("fann")  # floats; doublefann and fixedfann are others
if _path is None:
    raise ImportError("libfann is not installed")
_fann = ctypes.CDLL(_path)
VERSION = _path.split(".so.")[-1]

ACTIVATIONS = {"identity": 0, "sigmoid": 3, "tanh": 5}
TRAIN_BATCH, ERROR_LINEAR = 1, 0


class _Data(ctypes.Structure):
    """The head of FANN's ``struct fann_train_data``."""

    _fields_ = [
        ("errno_f", ctypes.c_int), ("error_log", ctypes.c_void_p), ("errstr", ctypes.c_void_p),
        ("num_data", ctypes.c_uint), ("num_input", ctypes.c_uint), ("num_output", ctypes.c_uint),
        ("input", ctypes.POINTER(ctypes.POINTER(ctypes.c_float))),
        ("output", ctypes.POINTER(ctypes.POINTER(ctypes.c_float))),
    ]  # fmt: skip


def _declare(name, result, *arguments):
    function = getattr(_fann, name)
    function.restype, function.argtypes = result, arguments
    return function


_create = _declare(
    "fann_create_standard_array", ctypes.c_void_p, ctypes.c_uint, ctypes.POINTER(ctypes.c_uint)
)
_create_data = _declare("fann_create_train", ctypes.POINTER(_Data), *[ctypes.c_uint] * 3)
_set_hidden = _declare("fann_set_activation_function_hidden", None, ctypes.c_void_p, ctypes.c_int)
_set_output = _declare("fann_set_activation_function_output", None, ctypes.c_void_p, ctypes.c_int)
_set_steepness = _declare("fann_set_activation_steepness_hidden", None, ctypes.c_void_p, ctypes.c_float)
_set_algorithm = _declare("fann_set_training_algorithm", None, ctypes.c_void_p, ctypes.c_int)
_set_error = _declare("fann_set_train_error_function", None, ctypes.c_void_p, ctypes.c_int)
_set_rate = _declare("fann_set_learning_rate", None, ctypes.c_void_p, ctypes.c_float)
_train_epoch = _declare("fann_train_epoch", ctypes.c_float, ctypes.c_void_p, ctypes.c_void_p)


@numba.njit(nogil=True)
def _epoch(network, batches):
    for batch in batches:
        _train_epoch(network, batch)


class Training:
    """A batch is a training set of FANN's own; `fann_train_epoch` on it is one step."""

    threads = 1

    def __init__(self, case, x, y, threads, seed=0):
        if case.activation not in ACTIVATIONS or case.classes or case.optimizer != "momentum":
            raise NotImplementedError(f"no {case.name}: neither relu nor softmax nor Adam here")
        self._random = np.random.default_rng(seed)
        sizes = (ctypes.c_uint * len(case.sizes))(*case.sizes)
        self._network = _create(len(case.sizes), sizes)
        _set_hidden(self._network, ACTIVATIONS[case.activation])
        _set_output(self._network, ACTIVATIONS["identity"])
        _set_steepness(self._network, 0.5 if case.activation == "sigmoid" else 1.0)  # σ(2·0.5·z), tanh(1·z)
        _set_algorithm(self._network, TRAIN_BATCH)
        _set_error(self._network, ERROR_LINEAR)
        _set_rate(self._network, case.learning_rate)
        self._batches = np.array([self._batch(x[i : i + case.batch_rows], y[i : i + case.batch_rows])
                                  for i in range(0, len(x), case.batch_rows)], np.int64)  # fmt: skip

    def _batch(self, x, y):
        data = _create_data(len(x), x.shape[1], y.shape[1])
        for i in range(len(x)):
            ctypes.memmove(data.contents.input[i], x[i].ctypes.data, x[i].nbytes)
            ctypes.memmove(data.contents.output[i], y[i].ctypes.data, y[i].nbytes)
        return ctypes.cast(data, ctypes.c_void_p).value

    def run(self, epochs):
        """Seconds of so many epochs."""
        start = time.perf_counter()
        for _ in range(epochs):
            _epoch(self._network, self._random.permutation(self._batches))
        return time.perf_counter() - start
