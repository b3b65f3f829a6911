"""The device's memory as plans use it: parts of one piece that have names, and the rows of a training."""

import ctypes

import numpy as np

from .cuda import device
from .formulas.losses import LOSSES


class Parts:
    """One piece of the device's memory, whose parts are named before it is asked for.

    Constants are written when it is there; all else begins as zeros.
    """

    def __init__(self):
        self._used, self._at, self._constants = 0, {}, []

    def take(self, name, n_bytes):
        """Add a part of so many bytes."""
        self._at[name] = self._used
        self._used = aligned(self._used + n_bytes)

    def keep(self, name, array):
        """Add a constant array, or say what is in a part that was taken."""
        if name not in self._at:
            self.take(name, array.nbytes)
        self._constants.append((name, array))

    def __contains__(self, name):
        return name in self._at

    def allocate(self):
        """Get the memory; no part can be added any more."""
        self._memory = device.Memory(max(self._used, 256))
        for name, array in self._constants:
            self.write(name, array)
        self._constants = []

    @property
    def n_bytes(self):
        """How much memory all parts take."""
        return self._memory.n_bytes

    def address(self, name):
        """Where a part begins."""
        return self._memory.address + self._at[name]

    def write(self, name, array, offset=0):
        """Copy a host array to a part, or to so many bytes behind where it begins."""
        self._memory.write(self._at[name] + offset, array)

    def read(self, name, array, offset=0):
        """Fill a host array from there."""
        self._memory.read(self._at[name] + offset, array)

    def copy(self, name, other, n_bytes):
        """Copy the beginning of a part from the part of that name of other `Parts`; nothing is waited for."""
        self._memory.copy(self._at[name], other._memory, other._at[name], n_bytes)


class Rows:
    """What the host told plans of rows, in the device's memory: each array once, whoever asks for it."""

    def __init__(self):
        self._sent = {}

    @property
    def n_bytes(self):
        """How much memory they take."""
        return sum(memory.n_bytes for memory in self._sent.values())

    def forget(self):
        """Send all anew when it is asked for: there may be other numbers in the same places."""
        self._sent = {}

    def places(self, architecture, given, data, targets):
        """Addresses of what `Plan.set` was given the host's of: a dict of those that there are.

        data, targets : as for a plan.
        """
        n, (n_in, *_, n_out), dtype = given["n_rows"], architecture.sizes, architecture.dtype
        is_class = LOSSES[architecture.loss].rowwise and targets == "classes"
        source, found = np.dtype(np.uint8 if "bytes" in data else dtype), {}
        if "sparse" in data:
            found["x"] = self._sparse(given["x"], n, source)
        else:
            found["x"] = self._place(given["x"], n * n_in, source)
        kinds = {
            "targets": (n, np.int64) if is_class else (n * n_out, dtype),
            "weights": (n, dtype),
            "by_class": (n, np.int64),
            "class_starts": (int(given.get("classes", 0)) + 1, np.int64),
        }
        for name, kind in kinds.items():
            if given.get(name):
                found[name] = self._place(given[name], *kind)
        return found

    def _place(self, address, count, dtype):
        """Where the device has what the host has at an address."""
        key = int(address), int(count) * np.dtype(dtype).itemsize
        if key not in self._sent:
            self._sent[key] = device.Memory.of(host_array(address, count, dtype))
        return self._sent[key].address

    def _sparse(self, address, n, dtype):
        """The same of rows that are sparse: three addresses, as `fastbp.sparse.SparseRows` has them."""
        key = int(address), "sparse"
        if key not in self._sent:
            data, columns, starts = (int(each) for each in host_array(address, 3, np.int64))
            n_stored = host_array(starts, n + 1, np.int64)[-1]
            places = [
                self._place(data, n_stored, dtype),
                self._place(columns, n_stored, np.int32),
                self._place(starts, n + 1, np.int64),
            ]
            self._sent[key] = device.Memory.of(np.array(places, np.int64))
        return self._sent[key].address


def enough(memory, n_bytes):
    """The same piece of memory, or a larger one where it is None or too little."""
    if memory is None or memory.n_bytes < n_bytes:
        return device.Memory(max(n_bytes, 256))
    return memory


def aligned(n_bytes):
    """So many bytes or more, as a part of memory takes."""
    return -(-int(n_bytes) // 256) * 256


def host_array(address, count, dtype):
    """The host's array of so many numbers at an address."""
    n_bytes = int(count) * np.dtype(dtype).itemsize
    if not n_bytes:
        return np.empty(0, dtype)
    return np.frombuffer((ctypes.c_char * n_bytes).from_address(int(address)), dtype)
