"""Event files that TensorBoard reads, written without it.

A file is a sequence of records (TensorFlow's TFRecord):

    length of the data (uint64) | checksum of those 8 bytes (uint32) | data | checksum of the data (uint32)

little-endian, each checksum a masked CRC-32C. The data of a record is a message `Event` of protocol buffers
(tensorflow/core/util/event.proto): 1 wall_time (double), 2 step (int64), 3 file_version (string), 5 summary;
a summary has values (1), a value a tag (1, string) and a simple_value (2, float).
"""

import os
import socket
import struct
import time

from . import validation
from .callbacks import Callback


class TensorBoardLogger(Callback):
    """Writes losses, metrics, learning rate and rows a second for TensorBoard, after every epoch.

    Parameters
    ----------
    folder : str or path
        Made if it is not there; each training writes a file of its own in it.

    Raises
    ------
    OSError
        If the file cannot be written, when training starts.

    Notes
    -----
    ``tensorboard --logdir FOLDER`` shows it. Nothing beside fastbp is needed to write it.
    """

    def __init__(self, folder):
        self.folder = validation.path("folder", folder)
        self._file = None

    def next_epoch(self, done):
        """None: only the history is read."""
        return

    def start(self, training):
        """Open a file of this training's own."""
        os.makedirs(self.folder, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.{id(self):x}"
        self._file = open(os.path.join(self.folder, name), "xb")  # noqa: SIM115, `end` closes it
        self._file.write(record(_double(1, time.time()) + _bytes(3, b"brain.Event:2")))
        self._file.flush()

    def epoch(self, training):
        """Write the epoch's numbers."""
        history = training.history
        values = {"loss/training": history.loss[-1]}
        if training.validates:
            values["loss/validation"] = history.validation_loss[-1]
        values |= {f"validation/{name}": history.metrics[name][-1] for name in training.metric_names}
        if history.learning_rate:
            values["learning_rate"] = history.learning_rate[-1]
        values["samples_per_second"] = history.samples_per_second[-1]
        self._file.write(record(event(time.time(), training.epoch, values)))
        self._file.flush()

    def end(self, training):
        """Close the file."""
        if self._file is not None:
            self._file.close()


def event(wall_time, step, values):
    """The bytes of an `Event` with the values of tags."""
    summary = b"".join(
        _bytes(1, _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", _single(value)))
        for tag, value in values.items()
    )
    return _double(1, wall_time) + b"\x10" + _varint(step) + _bytes(5, summary)


def record(data):
    """The bytes of a record."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


def masked(data):
    """The checksum of TFRecord: CRC-32C, rotated and shifted, as it may stand among data it is taken of."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data):
    """CRC-32C (Castagnoli, RFC 3720) of bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _table_entry(crc):
    for _ in range(8):
        crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc


_TABLE = [_table_entry(byte) for byte in range(256)]


# Protocol buffers: (field number << 3 | kind of value), then the value.


def _double(field, value):
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


def _bytes(field, value):
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def _varint(n):
    """Seven bits a byte, the lowest first; the high bit says that more follow."""
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def _single(value):
    """A number in the range of float32."""
    largest = 3.4028234663852886e38
    return value if value != value or abs(value) == float("inf") else max(-largest, min(largest, value))
