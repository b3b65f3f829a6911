"""Warming up: every kernel that a plan may ask for is compiled; a clear sentence where none can be kept."""

import ast
import inspect
import itertools
import pkgutil
import sys
from importlib import import_module

import numpy as np
import pytest
from numba import int64

import fastbp
import fastbp.program
from fastbp import cli, cpu, warmup
from fastbp.architecture import Architecture
from fastbp.cpu import cache, notice
from fastbp.cpu.native import array
from fastbp.cpu.records import kernel
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.formulas.schedules import SCHEDULES
from fastbp.layers import Dense
from fastbp.optimizers import SGD, Adam
from fastbp.plan import Plan
from tests.samples import make_architecture


@pytest.fixture
def asked_for(monkeypatch):
    """(name of the factory, arguments) of every kernel that a plan asks for while nothing is compiled."""
    asked = set()

    def address(factory, *arguments, own=None):
        asked.add((factory.__name__, *arguments))
        return 1

    monkeypatch.setattr(fastbp.plan, "address", address)
    monkeypatch.setattr(fastbp.program, "address", address)
    return asked


def factories():
    """Names of all functions in fastbp/cpu that describe a kernel."""
    for _, name, _ in pkgutil.iter_modules(cpu.__path__):
        module = import_module(f"fastbp.cpu.{name}")
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.FunctionDef) and name != "records":
                for each in node.body:
                    text = ast.unparse(each)
                    if text.startswith(("return kernel(", "return (KERNEL,")):
                        yield node.name


def warm(asked_for):
    for real in warmup.REALS:
        for _, arguments, options in warmup.requests(real):
            Plan(*arguments, **options)
    return asked_for


def test_every_kernel_and_every_row_is_asked_for(asked_for):
    asked = warm(asked_for)
    described = set(factories())
    assert len(described) > 15
    assert described == {name for name, *_ in asked}
    rows = {
        "activation_forward": set(ACTIVATIONS) - {"identity"},
        "activation_backward": set(ACTIVATIONS) - {"identity"},
        "elementwise_loss": {name for name, row in LOSSES.items() if not row.rowwise},
        "elementwise_link": {name for name, row in LOSSES.items() if not row.rowwise},
        "softmax_loss": {"classes", "probabilities"},
        "optimizer_prepare": set(OPTIMIZERS),
        "dense_update": set(OPTIMIZERS),
        "dense_apply": set(OPTIMIZERS),
        "tiny_update": set(OPTIMIZERS),
        "scale_shift_update": set(OPTIMIZERS),
        "scale_shift_apply": set(OPTIMIZERS),
    }
    schedules = {each[1] for each in asked if each[0] == "scheduled_settings"}
    assert schedules == set(SCHEDULES)  # in float64, whatever the type
    for factory, expected in rows.items():
        for real in warmup.REALS:
            assert {each[1] for each in asked if each[0] == factory and each[-1] == real} == expected
    for factory, *arguments in asked:
        for real in warmup.REALS:  # what there is for one type, there is for the other
            other = [real if each in warmup.REALS else each for each in arguments]
            assert (factory, *other) in asked


def test_shapes_are_those_that_plans_treat_differently(asked_for):
    ways = set()
    for _, arguments, options in warmup.requests("float32"):
        plan = Plan(*arguments, **options)
        ways.add(
            "by columns"
            if plan.choices.split
            else "in chunks"
            if plan.choices.chunked
            else any(plan.choices.packed)
        )
    assert ways == {"by columns", "in chunks", True, False}


def test_a_plan_asks_for_the_products_that_it_runs(asked_for):
    """Each takes a good part of a second to compile."""

    def products(sizes, batch_size):
        asked_for.clear()
        Plan(make_architecture(sizes), "train", batch_size, optimizer="momentum")
        return {each[1:3] for each in asked_for if each[0] == "matrix_product"}

    assert products((2, 1, 1), 4) == set(), "that has no tiles"
    large, small = "asks", "does not ask"
    assert products((64, 32, 10), 32) == {("rows", small), ("steps", small), ("no", small)}
    assert products((784, 128, 10), 32) == {("rows", large), ("steps", large), ("no", small)}


def test_no_other_plan_asks_for_more(asked_for):
    """Networks of many shapes, and all that may be asked of them."""
    known = frozenset(warm(asked_for))
    asked_for.clear()
    shapes = [(1, 1), (2, 1, 1), (64, 32, 10), (784, 128, 10), (784, 1024, 10), (4, 32, 16, 4), (2000, 16)]
    for sizes, batch, threads, real in itertools.product(shapes, (1, 7, 256, 10_000), (1, 3), warmup.REALS):
        n = len(sizes) - 1
        for loss in ("softmax_cross_entropy", "huber"):
            activations = ("tanh",) * (n - 1) + ("identity",)
            one = Architecture(sizes, activations, (True, False, True)[:n], loss, 0.0, real)
            for materialise in (False, True):
                options = dict(optimizer="adam", materialise=materialise)
                Plan(one, "train", batch, threads, **options)
            for task in ("gradient", "loss", "predict", "logits"):
                Plan(one, task, batch, threads)
        Plan(one, "gradient", batch, threads, inputs=True)
        Plan(one, "logits", min(batch, 8), unpacked=True)
    assert asked_for
    assert asked_for <= known


def times(factor):
    """ctx.outputs[0] = factor · op.n_in: as little as a kernel can be."""

    def times(op, ctx):
        array(ctx.outputs, 1, int64)[0] = factor * op.n_in

    return kernel(times)


@pytest.fixture
def two_small_ones(tmp_path, monkeypatch):
    """A warm-up of two kernels, into a folder of its own; a function that begins a new process, so to say."""
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(notice, "_told", False)
    monkeypatch.setattr(warmup, "requests", lambda real: [(f"one {real}", (len(real),), {})] * 2)
    monkeypatch.setattr(warmup, "Plan", lambda n: [cache.address(times, n + i) for i in (0, 1)])

    def restart():
        monkeypatch.setattr(cache, "_loaded", {})

    restart()
    return restart


def run(capsys, *arguments):
    """(exit code, stdout, stderr)"""
    try:
        code = cli.main(["warmup", *arguments])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_compiled_once_and_found_again(two_small_ones, capsys):
    code, out, err = run(capsys, "--dtype", "float32")
    assert (code, err) == (0, "")
    assert out.startswith(f"2 kernels in {cache.directory()}: 2 compiled, 0 found there; ")
    assert len(list(cache.directory().iterdir())) == 2
    two_small_ones()
    code, out, err = run(capsys, "--dtype", "float32")
    assert (code, err) == (0, "")
    assert out.startswith(f"2 kernels in {cache.directory()}: 0 compiled, 2 found there; ")


def test_switched_off(two_small_ones, monkeypatch, capsys):
    monkeypatch.setenv("FASTBP_CACHE_DIR", "")
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert err.startswith("fastbp: the kernel cache is switched off, so there is nothing to warm up: ")
    assert err.count("\n") == 1


def test_a_place_that_cannot_be_written(two_small_ones, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path / "file"))
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    folder = str(tmp_path / "file" / cache.directory().name)
    assert err.startswith(f"fastbp: the kernel cache {folder!r} cannot be written (")
    assert err.count("\n") == 1


def test_a_disk_that_fills_up(two_small_ones, monkeypatch, capsys):
    monkeypatch.setattr(cache, "_write", lambda *kernel: False)
    code, out, err = run(capsys, "--dtype", "float64")
    assert code == 1
    assert out.startswith("0 kernels in ")
    assert err == "fastbp: 2 kernels could not be kept; is the disk full?\n"


def test_interrupted(two_small_ones, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(warmup, "Plan", interrupt)
    assert run(capsys) == (130, "", "fastbp: interrupted; what was compiled is kept\n")


def test_a_terminal_sees_progress_and_no_notice(two_small_ones, monkeypatch, capsys):
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda stderr: True, raising=False)
    assert "compiling" in run(capsys, "--dtype", "float32")[2]
    two_small_ones()
    assert run(capsys, "--quiet")[2] == ""


@pytest.mark.slow
def test_nothing_is_left_to_compile(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_loaded", {})
    warmed = warmup.warm_up(progress=False)
    assert warmed.found == 0
    assert warmed.kept == warmed.compiled == len(list(cache.directory().iterdir())) > 100
    monkeypatch.setattr(cache, "_loaded", {})
    monkeypatch.setattr(cache, "_compile", lambda *kernel: pytest.fail("this was not warmed up"))
    assert warmup.warm_up(progress=False)[:3] == (warmed.compiled, 0, 0)

    x = np.random.default_rng(0).normal(0, 0.1, (300, 4))  # little, for the exponential of an exponential
    targets = {"real": (300, 3), "binary": (300, 3), "count": (300, 3), "sign": (300, 3), "classes": (300,)}
    optimizers = SGD(1e-6, 0.9), SGD(1e-6), SGD(1e-6, 0.9, nesterov=True), Adam(1e-6)
    for real, activation in itertools.product(warmup.REALS, ACTIVATIONS):
        for loss, row in LOSSES.items():
            network = fastbp.Network(
                [Dense(5, activation), Dense(3)], inputs=4, loss=loss, dtype=real, seed=0
            )
            y = np.ones(targets[row.targets], np.int64 if row.targets == "classes" else real)
            for optimizer in optimizers if activation == "tanh" else optimizers[:1]:
                options = dict(epochs=1, optimizer=optimizer, threads=2, progress=False)
                fastbp.train(network, x, y, batch_size=32, **options)
            network.predict(x), network.predict(x[:1]), network.logits(x), network.gradient(x, y)
            network.evaluate(x, y), fastbp.check_gradients(network, x[:2], y[:2])
