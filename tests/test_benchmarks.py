"""The benchmarks can be found, each row of each table has one, and a measurement is a number."""

import inspect
import itertools
import json
import math
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.formulas.schedules import SCHEDULES
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


def test_every_schedule_has_a_benchmark():
    assert set(found("bench_update")["time_schedule"].params[0]) == set(SCHEDULES)


def test_benchmarks_of_a_gpu_are_skipped_without_one(monkeypatch):
    module = import_module("benchmarks.bench_cuda")
    monkeypatch.setattr(module.device, "cuda", None)
    for name, benchmark in found("bench_cuda").items():
        for values in itertools.product(*getattr(benchmark, "params", [])):
            with pytest.raises(NotImplementedError, match="needs numba-cuda"):  # asv's word for a skip
                benchmark.setup(*values)
        assert name.endswith("on_a_gpu")


def test_every_metric_has_a_benchmark():
    assert set(found("bench_trainer")["time_metric"].params[0]) == set(METRICS)


def test_every_loss_has_a_benchmark():
    from benchmarks.bench_loss import CASES

    assert {name for name, _ in CASES.values()} == set(LOSSES)


def test_a_kernel_without_a_benchmark_stops_the_import(monkeypatch):
    from benchmarks import operations

    kernels = operations.kernels()
    assert len(kernels) > 15

    def dense_fake(real):
        """Nobody measures this one."""

    monkeypatch.setattr(operations, "kernels", lambda: [*kernels, dense_fake])
    monkeypatch.delitem(sys.modules, "benchmarks.bench_dense", raising=False)
    with pytest.raises(NotImplementedError, match="dense_fake has no benchmark"):
        import_module("benchmarks.bench_dense")


def test_an_optimizer_whose_step_nobody_measures_stops_the_import(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "fake", OPTIMIZERS["sgd"])
    monkeypatch.delitem(sys.modules, "benchmarks.bench_step", raising=False)
    with pytest.raises(NotImplementedError, match="no step with fake is measured"):
        import_module("benchmarks.bench_step")


def test_networks_of_steps_are_those_of_the_peers():
    from benchmarks.bench_step import time_epoch, time_epoch_automatic_threads, time_step

    names = [case.name for case in peers("cases").CASES]
    assert len(set(names)) == 10
    for benchmark in (time_step, time_epoch, time_epoch_automatic_threads):
        assert benchmark.params[0] == names
    assert time_step.params[1][0] == time_epoch.params[1][0] == 1


def test_an_epoch_of_steps_is_timed():
    from benchmarks.bench_step import epoch_seconds

    case = peers("cases").Case((2, 3, 1), "tanh", 4, 8)
    assert 1e-8 < epoch_seconds(case, threads=1) < 1


def test_a_measurement_advances_the_clock():
    from benchmarks.bench_team import time_start_and_end
    from benchmarks.bench_update import time_update

    before = time_start_and_end.timer()
    time_start_and_end(1)
    assert time_start_and_end.timer() > before
    before = time_update.timer()
    time_update("momentum", "float32")
    per_parameter = time_update.timer() - before
    assert 1e-13 < per_parameter < 1e-5


def test_operations_of_a_step_have_names_and_times():
    from benchmarks.operations import operation_seconds, running

    with running([3, 5, 2], 4, activation="relu") as plan:  # of so few numbers a copy
        rows = operation_seconds(plan, seconds=0.0, steps=2)
    names = [name.split("(")[0] for name, *_ in rows]
    assert {"gather.gather", "dense.dense_forward", "dense.dense_update", "step.end_of_step"} <= set(names)
    assert all(math.isfinite(seconds) and seconds >= 0 for *_, seconds in rows)


# How time grows with size


def growth():
    return import_module("benchmarks.growth")


def curve(rates, first=10):
    """Points (size, multiply-adds, seconds) of a step that needs 100 multiply-adds for each unit of size."""
    return [(first + i, 100 * (first + i), 100 * (first + i) * rate) for i, rate in enumerate(rates)]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([1.0] * 30, []),
        ([10 / (i + 1) + 1 for i in range(30)], []),  # what a step takes anyway, over more and more work
        ([1.0 + 0.05 * (i % 2) for i in range(30)], []),
        ([1.0] * 10 + [1.3] + [1.0] * 19, [(20, "peak")]),
        ([1.0] * 10 + [1.3] * 20, [(20, "edge")]),
        ([1.3] * 10 + [1.0] * 20, []),
        ([1.0] * 29 + [1.3], []),  # the last point alone has one side only
    ],
)
def test_cliffs_are_found_and_slopes_are_not(rates, expected):
    found = growth().cliffs(curve(rates), percent=15)
    assert [(size, kind) for size, _, kind in found] == expected
    assert all(above == pytest.approx(30) for _, above, _ in found)


def test_the_slope_leaves_out_what_every_step_takes():
    points = [(size, work, 5e-6 + 2e-12 * work) for size, work, _ in curve([1.0] * 30)]
    points[-1] = (*points[-1][:2], 1.0)  # and no single point bends it
    assert growth().marginal_rate(points) == pytest.approx(2e-12)
    assert math.isnan(growth().marginal_rate(points[:1]))


def test_the_power_by_which_time_grows():
    points = [(size, size, 3e-9 * size**0.9) for size in (1, 10, 20, 50, 80, 100)]
    assert growth().exponent(points) == pytest.approx(0.9)
    assert growth().exponent([(0, 1, 1.0), *points]) == pytest.approx(0.9), "before the last decade"
    assert math.isnan(growth().exponent(points[-2:])), "hardly any growth"


def test_sizes_of_a_scan():
    sizes = growth().sizes
    assert sizes(3, 6) == sizes(3, 6, 10) == [3, 4, 5, 6]
    assert sizes(1, 1000, 4) == [1, 10, 100, 1000]
    assert sizes(1, 1100, 40)[-1] == 1100
    assert sizes(1, 9, 1) == [9]


def test_multiply_adds_of_a_short_last_batch():
    case = peers("cases").Case((2, 3, 1), "tanh", 4, 6)  # a step of 4 rows, 21 multiply-adds each, one of 2
    assert growth().multiply_adds(case) == 3 * 21


def test_points_are_measured_in_random_order_and_their_median_counts(monkeypatch):
    module, visited = growth(), []

    def measure(case, threads, seconds, epoch):
        visited.append((case.sizes[0], threads))
        used = threads or (2 if case.sizes[0] > 3 else 1)
        return [1.0, 50.0, 2.0][sum(v == visited[-1] for v in visited) - 1], used, 1.0

    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(module, "cores", lambda: 2)
    monkeypatch.setattr(module.peak, "seconds_per_product", lambda threads, seconds: 0.5 / threads)
    entries, peaks = module.run(module.SCANS["width"], range(1, 8), rounds=3, seconds=0.0)
    assert peaks == {1: 2.0, 2: 4.0}
    assert {(e["size"], e["asked"]) for e in entries} == {
        *((size, 1) for size in range(1, 8)),
        *((size, None) for size in range(4, 8)),  # below, the automatic choice is one thread: nothing new
    }
    assert all(entry["median"] == 2.0 and len(entry["rounds"]) == 3 for entry in entries)
    first, second = visited[:14], visited[14:25]
    assert len(set(first)) == 14
    assert first != sorted(first, key=str)
    assert [each for each in first if each in second] != second


def test_growth_measures_prints_and_draws(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    scan = ["width", "--last", "3", "--rounds", "1", "--seconds", "0", "--one-thread"]
    assert growth().main([*scan, "--output", str(tmp_path)]) == 0
    told = json.loads((tmp_path / "growth.json").read_text())["scans"][0]
    assert [entry["size"] for entry in told["entries"]] == [1, 2, 3]
    assert all(1e-8 < entry["median"] < 1 for entry in told["entries"])
    assert (tmp_path / "growth.png").stat().st_size > 5000
    out = capsys.readouterr().out
    assert "| units of every layer, 1 thread | µs per step | % of peak |" in out
    assert "Cliffs of more than 15 %" in out


def test_a_scan_that_is_not_there(capsys):
    for arguments, sentence in (["breadth"], "unknown scan"), (["--first", "3"], "go with one scan"):
        with pytest.raises(SystemExit):
            growth().main(arguments)
        assert sentence in capsys.readouterr().err


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


def test_workers_take_turns_and_answer(monkeypatch):
    main, report, worker = peers("__main__"), peers("report"), peers("worker")
    case = peers("cases").Case((2, 3, 1), "tanh", 4, 64)
    fields = {"sizes": case.sizes, "activation": "tanh", "batch": 4, "rows": 64}
    workers = [("fastbp", worker.Worker("train_fastbp")), ("NumPy", worker.Worker("train_numpy"))]
    monkeypatch.setattr(main, "cores", lambda: 2)
    barriers = []
    try:
        entries = main.measure(case, workers, rounds=2, seconds=0.01, peaks={}, barriers=barriers)
    finally:
        for _, each in workers:
            each.close()
    assert [entry["error"] for entry in entries] == [None, None]
    assert all(len(entry["rounds"]) == 2 and entry["median"] > 0 for entry in entries)
    assert len(barriers) == 2
    assert all(0 < seconds < 1 for seconds in barriers)
    text = report.table(fields, json.loads(json.dumps(entries)), {1: 100.0})
    assert text.count("\n| ") == 3
    assert "2-3-1 tanh, batch 4" in text


def measured(**seconds):
    """A case's results, each library at one median."""
    entry = dict(threads=2, error=None)
    entries = [entry | {"label": label, "rounds": [s]} for label, s in seconds.items()]
    return [peers("report").summary(each) for each in entries]


def results_of(cases):
    import dataclasses

    told = [
        dict(case=dataclasses.asdict(case), name=case.name, peak_gflops={"1": 1.0, "2": 2.0}, entries=entries)
        for case, entries in cases.items()
    ]
    return json.loads(json.dumps(dict(cases=told)))


def test_the_overview_has_each_library_at_its_best():
    case = peers("cases").Case((2, 3, 1), "tanh", 4, 64)  # 168 operations
    seconds = {
        "fastbp": 1e-6,
        "fastbp, 1 thread": 5e-7,
        "PyTorch": 4e-4,
        "PyTorch compiled": 3e-4,
        "JAX": 2e-5,
    }
    table = peers("report").overview(results_of({case: measured(**seconds)})).splitlines()
    assert table[0] == "| network | fastbp, µs per step | % of peak | × JAX | × PyTorch |"
    assert table[2:] == ["| 2-3-1 tanh, batch 4 | 1 | 8 | 20 | 300 |"]


def test_what_odd_shapes_hold():
    Case = peers("cases").Case
    odd, row = Case((3, 3, 1), "tanh", 7, 64), Case((2, 3, 1), "tanh", 4, 64)
    results = results_of(
        {odd: measured(fastbp=1.0, JAX=10.0), row: measured(fastbp=1.0, JAX=40.0, NumPy=2.0)}
    )
    assert list(peers("report").held(results, {odd: row})) == [
        "3-3-1 tanh, batch 7 holds of the advantage of 2-3-1 tanh, batch 4: 0.25 JAX"
    ]


def test_odd_cases_are_near_to_a_case():
    cases = peers("cases")
    assert set(cases.ODD.values()) <= set(cases.CASES)
    assert not set(cases.ODD) & set(cases.CASES)


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
