"""Event files: what TensorBoard would read, byte by byte."""

import struct

import numpy as np
import pytest

import fastbp
from fastbp.tensorboard import TensorBoardLogger, crc32c, event, masked, record
from tests.samples import draw_inputs, draw_targets, make_network


def test_crc32c_of_rfc_3720():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_bytes_of_an_event():
    assert event(1.0, 300, {"a": 0.5}) == (
        b"\x09\x00\x00\x00\x00\x00\x00\xf0\x3f"  # 1: wall_time, a double
        b"\x10\xac\x02"  # 2: step, 300 in sevens of bits
        b"\x2a\x0a"  # 5: the summary, 10 bytes
        b"\x0a\x08"  # its value, 8 bytes
        b"\x0a\x01a"  # the tag
        b"\x15\x00\x00\x00\x3f"  # 0.5 as a float
    )
    for value in (float("nan"), float("inf"), 1e300, -1e300):
        event(1.0, 0, {"a": value})


def records(content):
    """The data of each record, checksums checked."""
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12])[0] == masked(content[:8])
        data, content = content[12 : 12 + length], content[12 + length :]
        assert struct.unpack("<I", content[:4])[0] == masked(data)
        content = content[4:]
        yield data


def test_a_record_is_whole():
    assert list(records(record(b"abc") + record(b""))) == [b"abc", b""]


def log(folder):
    x, y = draw_inputs(30, 3), draw_targets("mean_squared_error", 30, 2)
    net = make_network([3, 4, 2], dtype="float64")
    return fastbp.train(
        net, x, y, epochs=3, validation=0.2, metrics=["r2"], callbacks=[TensorBoardLogger(folder / "new")]
    )


def test_a_training(tmp_path):
    history = log(tmp_path)
    (file,) = (tmp_path / "new").iterdir()
    assert file.name.startswith("events.out.tfevents.")
    first, *events = records(file.read_bytes())
    assert b"brain.Event:2" in first
    assert len(events) == 3
    for epoch, data in enumerate(events):
        assert data[9:11] == bytes([0x10, epoch + 1])
        for tag, values in {
            "loss/training": history.loss, "loss/validation": history.validation_loss,
            "validation/r2": history.metrics["r2"], "learning_rate": history.learning_rate,
        }.items():  # fmt: skip
            value = data[data.index(tag.encode()) + len(tag) :][1:5]
            assert struct.unpack("<f", value)[0] == np.float32(values[epoch])
    log(tmp_path)
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_tensorboard_reads_it(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = log(tmp_path)
    read = accumulator.EventAccumulator(str(tmp_path / "new"))
    read.Reload()
    assert [e.step for e in read.Scalars("loss/training")] == [1, 2, 3]
    np.testing.assert_allclose(
        [e.value for e in read.Scalars("validation/r2")], history.metrics["r2"], rtol=1e-6
    )
