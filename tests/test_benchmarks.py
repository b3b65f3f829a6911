"""The benchmarks can be found, each row of each table has one, and a measurement is a number."""

import inspect
import json
import math
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.metrics import METRICS

FOLDER = Path(__file__).parents[1] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("benchmarks are not part of this distribution", allow_module_level=True)
MODULES = sorted(path.stem for path in FOLDER.glob("bench_*.py"))


def found(module):
    """The functions that asv takes for benchmarks."""
    members = vars(import_module(f"benchmarks.{module}"))
    return {name: each for name, each in members.items() if name.startswith(("time_", "track_", "peakmem_"))}


@pytest.mark.parametrize("module", MODULES)
def test_benchmarks_are_found_with_their_parameters(module):
    benchmarks = found(module)
    assert benchmarks
    for name, benchmark in benchmarks.items():
        parameters = getattr(benchmark, "params", [])
        n_parameters = 1 if parameters and isinstance(parameters[0], str) else len(parameters)
        assert n_parameters == len(inspect.signature(benchmark).parameters), name
        assert name.startswith("track_") or benchmark.timer() == 0.0, "nothing is measured at import"


@pytest.mark.parametrize(
    ("module", "benchmark", "rows"),
    [
        ("bench_elementwise", "time_forward", set(ACTIVATIONS) - {"identity"}),
        ("bench_elementwise", "time_backward", set(ACTIVATIONS) - {"identity"}),
        ("bench_loss", "time_link", set(LOSSES)),
        ("bench_update", "time_update", set(OPTIMIZERS)),
    ],
)
def test_every_row_has_a_benchmark(module, benchmark, rows):
    chosen, reals = found(module)[benchmark].params[0], found(module)[benchmark].params[-1]
    assert rows <= set(chosen)
    assert reals == ["float32", "float64"]


def test_every_metric_has_a_benchmark():
    assert set(found("bench_trainer")["time_metric"].params[0]) == set(METRICS)


def test_every_loss_has_a_benchmark():
    from benchmarks.bench_loss import CASES

    assert {name for name, _ in CASES.values()} == set(LOSSES)


def test_a_measurement_advances_the_clock():
    from benchmarks.bench_update import time_update

    before = time_update.timer()
    time_update("momentum", "float32")
    per_parameter = time_update.timer() - before
    assert 1e-13 < per_parameter < 1e-5


def test_operations_of_a_step_have_names_and_times():
    from benchmarks.operations import operation_seconds, running

    with running([3, 5, 2], 4, activation="relu") as plan:
        rows = operation_seconds(plan, seconds=0.0, steps=2)
    names = [name.split("(")[0] for name, *_ in rows]
    assert {"gather.gather", "dense.dense_forward", "dense.dense_update", "step.end_of_step"} <= set(names)
    assert all(math.isfinite(seconds) and seconds >= 0 for *_, seconds in rows)


# Beside other libraries


def peers(module):
    return import_module(f"benchmarks.peers.{module}")


def test_fastbp_and_numpy_train_alike():
    case = peers("cases").Case((3, 5, 2), "tanh", None, 8, learning_rate=0.1)
    outputs = []
    for library in ("train_fastbp", "train_numpy"):
        training = peers(library).Training(case, *case.data(), threads=1)
        training.run(10)
        outputs.append(training.logits(case.data()[0]))
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)


def test_workers_take_turns_and_answer():
    main, report, worker = peers("__main__"), peers("report"), peers("worker")
    case = peers("cases").Case((2, 3, 1), "tanh", 4, 64)
    fields = {"sizes": case.sizes, "activation": "tanh", "batch": 4, "rows": 64}
    workers = [("fastbp", worker.Worker("train_fastbp")), ("NumPy", worker.Worker("train_numpy"))]
    try:
        entries = main.measure(case, workers, rounds=2, seconds=0.01, peaks={})
    finally:
        for _, each in workers:
            each.close()
    assert [entry["error"] for entry in entries] == [None, None]
    assert all(len(entry["rounds"]) == 2 and entry["median"] > 0 for entry in entries)
    text = report.table(fields, json.loads(json.dumps(entries)), {1: 100.0})
    assert text.count("\n| ") == 3
    assert "2-3-1 tanh, batch 4" in text


def test_the_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    entry = {"label": "fastbp", "threads": 1, "rounds": [1e-6, 2e-6, 9e-6], "error": None}
    entries = [peers("report").summary(entry)]
    case = {"sizes": (2, 3, 1), "activation": "tanh", "batch": 4, "rows": 64}
    results = {"machine": {"processor": "one of ours"}, "cases": [{"case": case, "entries": entries}]}
    peers("report").plot(results, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 5000


def test_idx_files_are_read(tmp_path):
    images = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for part in ("train", "t10k"):
        head = bytes([0, 0, 8, 3]) + np.array(images.shape, ">i4").tobytes()
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = bytes([0, 0, 8, 1]) + np.array([2], ">i4").tobytes()
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(head + bytes([7, 3]))
    arrays = peers("time_to_accuracy").read(tmp_path)
    np.testing.assert_array_equal(arrays["x"] * np.float32(255), images.reshape(2, 9))
    assert arrays["y_test"].tolist() == [7, 3]


def test_seconds_to_an_accuracy_count_median_epochs():
    seconds_to = peers("time_to_accuracy").seconds_to
    assert seconds_to(0.9, [5.0, 1.0, 1.0], [0.5, 0.8, 0.95]) == 3.0
    assert seconds_to(0.99, [5.0, 1.0, 1.0], [0.5, 0.8, 0.95]) is None


def test_operations_are_counted_by_hand():
    # 4 rows: forward 2·3 + 3·1, weight gradients the same, input gradient of the second layer 3·1; times 2
    assert peers("cases").Case((2, 3, 1), "tanh", 4, 64).operations_per_step == 4 * 2 * (9 + 9 + 3)


def test_the_median_of_rounds_is_told():
    entry = peers("report").summary({"rounds": [1.0, 1.1, 1.2, 1.3, 50.0]})
    assert entry["median"] == 1.2
    assert entry["spread"] == pytest.approx(0.1)
