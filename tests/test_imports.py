"""The house is built upwards: no module imports what stands above it, and importing costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastbp

PACKAGE = Path(fastbp.__file__).parent

# From the ground up. A module may import what stands in a lower line, and its own neighbours. `formulas` and
# `sparse` stand on nothing, `random` on the former, `validation` on the latter; `layers`, `losses`,
# `optimizers` and `schedules` describe, and know the formulas' tables.
FLOORS = [
    {"formulas", "random", "validation", "sparse"},
    {
        "cpu", "cuda", "initializers", "layers", "losses", "optimizers", "own_activations", "schedules",
        "datasets", "metrics", "balance",
    },
    {"operations"},
    {"architecture", "division"},
    {"choices"},
    {"layout"},
    {"program"},
    {
        "plan", "device_memory", "device_run", "device_small", "device_program", "device_plan",
        "device_evaluate", "interrupts",
    },
    {"views", "one_pass", "kept_plans"},
    {"network"},
    {
        "storage", "gradient_check", "history", "plots", "callbacks", "progress", "tensorboard",
        "checkpoints", "compiled", "lbfgs", "rates", "shaping", "data", "training", "stream", "jobs", "turns",
        "many", "online", "learning_rate_range", "warmup",
    },
    {"table", "cli", "estimators", "distributed"},
    {"__init__"},
    {"__main__"},
]  # fmt: skip
# Edges that the floors allow and we do not want, or the other way round.
FORBIDDEN = {
    ("validation", "formulas"), ("validation", "random"), ("formulas", "random"), ("cpu", "random"),
    ("cuda", "random"), ("formulas", "validation"), ("random", "validation"), ("cpu", "validation"),
    ("cuda", "validation"),
    ("cpu", "cuda"), ("cuda", "cpu"), ("cpu", "initializers"), ("cpu", "layers"), ("cpu", "losses"),
    ("cpu", "optimizers"), ("cpu", "schedules"), ("cpu", "datasets"), ("cuda", "layers"),
    ("cuda", "initializers"),
}  # fmt: skip
# Written where they are used, not at the top, so that the lower module loads without the upper one.
LATE = {("network", "storage"), ("network", "compiled"), ("validation", "cuda")}

FILES = sorted(PACKAGE.rglob("*.py"))
every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())


def room(parts):
    """The room of the house that a path in the package belongs to: its folder, or the module itself."""
    return parts[0].removesuffix(".py")


def imports(file, tree):
    """(room, whether inside a function) of every import of fastbp in a file."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    folder = ["fastbp", *file.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else []
            names = [*base, *(node.module.split(".") if node.module else [])]
            if names == ["fastbp"]:
                targets = [["fastbp", alias.name] for alias in node.names]
            else:
                targets = [names]
        elif isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "fastbp":
                yield room(target[1:] or ["__init__"]), id(node) in inside


def floor(name):
    return next(i for i, names in enumerate(FLOORS) if name in names)


@every_file
def test_imports_go_down(file):
    here = room(file.relative_to(PACKAGE).parts)
    for there, late in imports(file, ast.parse(file.read_text())):
        if there in (here, "__init__", "__version__") or (late and (here, there) in LATE):
            continue
        assert floor(there) <= floor(here), f"{here} must not import {there}"
        assert (here, there) not in FORBIDDEN, f"{here} must not import {there}"


@every_file
def test_has_a_docstring(file):
    assert ast.get_docstring(ast.parse(file.read_text())), "say what this file is"


@every_file
def test_no_function_is_longer_than_a_screen(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = len((ast.get_docstring(node, clean=False) or "").splitlines())
            nested = [
                child for child in ast.walk(node) if child is not node and isinstance(child, ast.FunctionDef)
            ]
            lines = node.end_lineno - node.lineno - docstring
            most = 80 if nested or file.name == "cli.py" else 60  # a list of options is as long as it is
            assert lines <= most, f"{node.name} has {lines} lines"


@every_file
def test_library_prints_nothing_and_swallows_nothing(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            assert file.name in ("cli.py", "__main__.py"), f"line {node.lineno} prints"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), (
            f"line {node.lineno}: bare except"
        )


def test_formulas_know_no_arrays_threads_or_devices():
    for file in (PACKAGE / "formulas").glob("*.py"):
        modules = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(node.module.split(".")[0])
        assert not modules & {"threading", "ctypes", "multiprocessing", "os", "torch", "scipy"}, file.name


IMPORT = """
import sys
compiled = []
from numba.core import compiler
compile_extra = compiler.compile_extra
compiler.compile_extra = lambda *a, **k: compiled.append(a) or compile_extra(*a, **k)
import fastbp
assert not compiled, "importing compiles"
bad = {"torch", "jax", "sklearn", "pandas", "matplotlib", "numba.cuda", "IPython"} & set(sys.modules)
assert not bad, f"importing imports {sorted(bad)}"
fastbp.Network([2, 3, 1])
assert not compiled, "building a network compiles"
"""


def test_importing_compiles_nothing_and_needs_nothing_big():
    subprocess.run([sys.executable, "-c", IMPORT], check=True, timeout=60, cwd=PACKAGE.parent)


def test_all_is_what_there_is():
    assert sorted(fastbp.__all__) == sorted(set(fastbp.__all__))
    for name in fastbp.__all__:
        assert getattr(fastbp, name) is not None
    public = {
        name for name, value in vars(fastbp).items() if not name.startswith("_") and not is_module(value)
    }
    assert public <= set(fastbp.__all__)


def is_module(value):
    return type(value) is type(sys)
