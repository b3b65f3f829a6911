"""Where compiled code is kept: found again, never stale, and no trouble where it cannot be kept."""

import _thread
import ast
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from numba import int64
from numba.core.compiler_lock import global_compiler_lock

import fastbp
from fastbp.cpu import cache, elementwise
from fastbp.cpu.native import array
from fastbp.cpu.records import kernel
from tests.cpu.kernels import run
from tests.samples import pythons_own_handler

PACKAGE = Path(fastbp.__file__).parent


def times(factor):
    """ctx.outputs[0] = factor · op.n_in: as little as a kernel can be."""

    def times(op, ctx):
        array(ctx.outputs, 1, int64)[0] = factor * op.n_in

    return kernel(times)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache in a process that has loaded nothing yet; counts compilations."""
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path / "cache"))
    restart(monkeypatch)
    return tmp_path / "cache"


@pytest.fixture
def compilations(monkeypatch):
    made, compile_ = [], cache._compile

    def counted(name, signature, function, ours):
        made.append(function)
        return compile_(name, signature, function, ours)

    monkeypatch.setattr(cache, "_compile", counted)
    return made


def restart(monkeypatch):
    monkeypatch.setattr(cache, "_loaded", {})


def six_by(factor):
    out = np.zeros(1, np.int64)
    run(times, factor, op=dict(n_in=6), ctx=dict(outputs=out))
    return out[0]


def stored(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_compiled_once(folder, compilations):
    assert (six_by(7), six_by(7)) == (42, 42)
    assert len(compilations) == 1


def test_found_again(folder, compilations, monkeypatch):
    assert six_by(7) == 42
    restart(monkeypatch)
    assert six_by(7) == 42
    assert len(compilations) == 1
    assert six_by(8) == 48
    assert len(compilations) == 2


def test_kernels_do_not_all_begin_where_a_page_does(folder, monkeypatch):
    """They would compete for the same lines of the instruction cache."""
    places = [cache.address(times, factor) % 4096 for factor in range(8)]
    assert len(set(places)) > 4
    restart(monkeypatch)
    assert [cache.address(times, factor) % 4096 for factor in reversed(range(8))] == places[::-1]


def test_stored_whole_and_alone(folder):
    six_by(7)
    (file,) = stored(folder)
    assert file.parent == cache.directory()
    assert "times-7" in file.name
    _, externals, code = cache._read(file)
    assert externals == []
    assert len(code) > 100


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:10],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"something else entirely",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
        lambda content: content[:60] + bytes([content[60] ^ 128]) + content[61:],
    ],
)
def test_a_damaged_file_is_compiled_anew(folder, compilations, monkeypatch, damage):
    six_by(7)
    (file,) = stored(folder)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    restart(monkeypatch)
    assert six_by(7) == 42
    assert len(compilations) == 2
    assert cache._read(file) is not None, "and stored anew"


def test_code_that_wants_a_symbol_nobody_has_is_compiled_anew(folder, compilations, monkeypatch):
    six_by(7)
    (file,) = stored(folder)
    symbol, _, code = cache._read(file)
    cache._write(file, symbol, ["a_symbol_that_nobody_has"], code)
    restart(monkeypatch)
    assert six_by(7) == 42
    assert len(compilations) == 2


def test_a_file_of_another_kernel_is_none_of_this_one(folder, monkeypatch):
    six_by(7), six_by(8)
    first, second = stored(folder)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    restart(monkeypatch)
    assert (six_by(7), six_by(8)) == (42, 48)


def test_without_sources_nothing_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "a.zip" / "fastbp" / "cpu" / "cache.py"))
    (tmp_path / "a.zip").write_text("")
    cache._sources_hash.cache_clear()
    assert cache.directory() is None


def test_a_file_where_the_folder_should_be(folder, compilations, monkeypatch):
    folder.write_text("not a folder")
    assert six_by(7) == 42
    restart(monkeypatch)
    assert six_by(7) == 42
    assert len(compilations) == 2
    assert folder.read_text() == "not a folder"


def test_a_folder_where_the_file_should_be(folder, compilations, monkeypatch):
    six_by(7)
    (file,) = stored(folder)
    file.unlink()
    file.mkdir()
    restart(monkeypatch)
    assert six_by(7) == 42
    assert stored(folder) == [], "no temporary file stays"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder(folder, monkeypatch):
    folder.mkdir()
    folder.chmod(0o500)
    assert six_by(7) == 42
    assert stored(folder) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    ("where", "name"), [(Path, "mkdir"), (tempfile, "mkstemp"), (os, "fdopen"), (os, "replace")]
)
def test_a_place_that_cannot_be_written(folder, monkeypatch, where, name, code):
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail)
        assert six_by(7) == 42
    assert not folder.exists() or stored(folder) == []


def test_a_disk_that_fills_up_while_writing(folder, monkeypatch):
    fdopen = os.fdopen

    class Full:
        def __init__(self, handle, mode):
            self.file = fdopen(handle, mode)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def write(self, content):
            self.file.write(content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", Full)
        assert six_by(7) == 42
    assert stored(folder) == []


def test_a_file_that_cannot_be_read(folder, compilations, monkeypatch):
    six_by(7)
    restart(monkeypatch)

    def fail(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        cache._sources_hash()
        assert six_by(7) == 42
    assert len(compilations) == 2


def test_switched_off(tmp_path, monkeypatch, compilations):
    monkeypatch.setenv("FASTBP_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for n in (1, 2):
        restart(monkeypatch)
        assert six_by(7) == 42
        assert len(compilations) == n
    assert cache.directory() is None
    assert stored(tmp_path) == []


def test_a_users_own_code_is_not_kept(folder, compilations, monkeypatch):
    for own in ("one", "another"):
        cache.address(times, 7, own=own)
    assert len(compilations) == 2, "the same name, of another owner, is another kernel"
    assert not folder.exists()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="other places there")
def test_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("FASTBP_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory().parent == tmp_path / "fastbp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory().parent == tmp_path / ".cache" / "fastbp"


def test_nobodys_home(monkeypatch, compilations):
    """In a container whose user has no home, nothing is kept."""

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("FASTBP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    restart(monkeypatch)
    assert six_by(7) == 42


@pytest.mark.parametrize("name", ["NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_BOUNDSCHECK", "NUMBA_OPT"])
def test_other_machines_and_options_have_files_of_their_own(folder, monkeypatch, name):
    from fastbp.cpu.machine import this_machine

    here = cache._path("a kernel")
    monkeypatch.setenv(name, "another")
    this_machine.cache_clear()
    assert cache._path("a kernel") != here
    monkeypatch.undo()
    this_machine.cache_clear()


# A copy of the package, in a process of its own


@pytest.fixture(scope="module")
def copy_of_package(tmp_path_factory):
    """A folder with a copy of fastbp to edit, to be put first on the path."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, root / "fastbp", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def python(root, code, cache_folder):
    """Start Python on some code with the fastbp of a folder."""
    environment = os.environ | {"PYTHONPATH": str(root), "FASTBP_CACHE_DIR": str(cache_folder)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.split()


# Prints f(3) of an activation by way of its kernel, and how many kernels were compiled.
RUN_KERNEL = """
import numpy as np
from fastbp.cpu import cache, elementwise
from fastbp.cpu.records import CONTEXT, OPERATION
from fastbp.cpu.team import function
made, compile_ = [], cache._compile
cache._compile = lambda *a: made.append(a) or compile_(*a)
y = np.full(64, 3.0)
op, ctx = np.zeros(1, OPERATION), np.zeros(1, CONTEXT)
op["y"], op["columns"], op["z_row"], ctx["rows"] = y.ctypes.data, 64, 512, 1
zeros = np.zeros(64)
ctx["zeros"] = zeros.ctypes.data
softsign = function(cache.address(elementwise.activation_forward, "softsign", "float64"))
softsign(op.ctypes.data, ctx.ctypes.data)
print(y[0], len(made))
"""


def test_survives_the_process_and_is_never_stale(copy_of_package, tmp_path):
    run_once = lambda: output_of(python(copy_of_package, RUN_KERNEL, tmp_path))
    assert run_once() == ["0.75", "1"]
    assert run_once() == ["0.75", "0"]
    file = copy_of_package / "fastbp" / "formulas" / "activations.py"
    original = file.read_text()
    file.write_text(original.replace("def softsign(z):\n", "def softsign(z):\n    return z + z\n"))
    assert file.read_text() != original
    assert run_once() == ["6.0", "1"]
    file.write_text(original)
    assert run_once() == ["0.75", "0"]


# Prints what a user's compiled function gives to Python after a kernel has been made of it.
USERS_OWN = """
import numba
from fastbp.cpu import cache
from fastbp.cpu.records import KERNEL
half = numba.njit(lambda n: n / 2)
def factory():
    def run(op, ctx):
        half(op)
    return KERNEL, run
cache.address(factory, own=half)
print(half(7))
"""


def test_a_users_own_function_can_be_called_afterwards(copy_of_package, tmp_path):
    assert output_of(python(copy_of_package, USERS_OWN, tmp_path)) == ["3.5"]


# Compiles a kernel while another thread makes the process's first use of Numba; prints what that gives.
BESIDE_NUMBA = """
import faulthandler, threading
faulthandler.dump_traceback_later(60, exit=True)
import numba
from fastbp.cpu import cache, elementwise
ready, found = threading.Barrier(2), []
def others():
    ready.wait()
    found.append(numba.njit(lambda a, b: min(a, b) + 1)(3, 4))
thread = threading.Thread(target=others)
thread.start()
ready.wait()
cache.address(elementwise.activation_forward, "softsign", "float64")
thread.join()
print(*found)
"""


def test_numba_may_be_in_use_at_the_same_time(copy_of_package, tmp_path):
    for _ in range(3):
        assert output_of(python(copy_of_package, BESIDE_NUMBA, "")) == ["4"]


def test_two_processes_fill_it_at_once(copy_of_package, tmp_path):
    processes = [python(copy_of_package, RUN_KERNEL, tmp_path) for _ in range(2)]
    for process in processes:
        assert output_of(process)[0] == "0.75"
    assert len(stored(tmp_path)) == 1
    assert output_of(python(copy_of_package, RUN_KERNEL, tmp_path)) == ["0.75", "0"]


FOLDERS = """
import sys
from pathlib import Path
from fastbp.cpu import cache
for file in [None, *sys.argv[1:]]:
    if file:
        with open(file, "a") as f:
            f.write("# an edit\\n")
    cache._sources_hash.cache_clear()
    print(cache.directory().name)
"""


def test_every_kernel_file_names_the_folder(copy_of_package, tmp_path):
    root = tmp_path / "again"
    shutil.copytree(copy_of_package, root)
    code = FOLDERS.replace("sys.argv[1:]", repr([str(root / path) for path in kernel_files()]))
    names = output_of(python(root, code, tmp_path))
    assert len(names) == len(set(names)) == 1 + len(kernel_files())


def kernel_files():
    """Files of fastbp that compiled code is made from: cpu and formulas, and all that they import."""
    files = {
        path.relative_to(PACKAGE.parent)
        for folder in ("cpu", "formulas")
        for path in (PACKAGE / folder).rglob("*.py")
    }
    waiting = list(files)
    while waiting:
        for node in ast.walk(ast.parse((PACKAGE.parent / waiting.pop()).read_text())):
            if (
                isinstance(node, ast.ImportFrom)
                and node.level == 0
                and (node.module or "").startswith("fastbp.")
            ):
                for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                    file = Path(*name.split(".")).with_suffix(".py")
                    if (PACKAGE.parent / file).exists() and file not in files:
                        files.add(file)
                        waiting.append(file)
    return sorted(files)


def test_kernel_files_are_found_through_imports():
    names = {path.as_posix() for path in kernel_files()}
    assert {"fastbp/cpu/gemm.py", "fastbp/formulas/losses.py", "fastbp/formulas/random.py"} <= names
    assert not names & {"fastbp/division.py", "fastbp/layout.py", "fastbp/plan.py"}


def test_readable_names(folder):
    path = cache._path("fastbp.cpu.elementwise.activation_forward(tanh, float32)")
    assert path.name.startswith("elementwise.activation_forward-tanh--float32-")
    assert all(c.isalnum() or c in "._-" for c in path.name)
    assert elementwise.activation_forward.__module__ == "fastbp.cpu.elementwise"


def test_ctrl_c_does_not_disturb_a_compilation():
    """It is heard at once, and what was begun comes to its end."""
    begun, done = threading.Event(), threading.Event()

    def compile_slowly():
        begun.set()
        time.sleep(0.2)
        done.set()

    with pythons_own_handler():
        threading.Thread(target=lambda: (begun.wait(), _thread.interrupt_main())).start()
        with pytest.raises(KeyboardInterrupt):
            cache._undisturbed(compile_slowly)
    assert not done.is_set()
    assert done.wait(10)
    assert cache._undisturbed(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        cache._undisturbed(lambda: 1 / 0)


def test_compiling_where_no_thread_can_be_started(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert cache._undisturbed(lambda: 7) == 7


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.02, 0.1, 0.2, 0.3])
def test_ctrl_c_in_a_cold_start_leaves_a_process_that_works(delay):
    program = """
import os, signal, sys, threading, time, fastbp
net = fastbp.Network([2, 3, 1], seed=0)
threading.Thread(target=lambda: (time.sleep(float(sys.argv[1])), os.kill(os.getpid(), signal.SIGINT))).start()
try:
    fastbp.train(net, [[0, 1]], [1])
    time.sleep(1)
except KeyboardInterrupt:
    print("interrupted")
fastbp.train(net, [[0, 1]], [1])
print("works")
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, str(delay)],
        env=os.environ | {"FASTBP_CACHE_DIR": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.stdout.split() == ["interrupted", "works"], ran.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("lock", [cache._lock, global_compiler_lock], ids=["ours", "Numba's"])
def test_a_fork_waits_for_a_compilation(lock):
    held, done = threading.Event(), []

    def hold():
        with lock:
            held.set()
            time.sleep(0.2)
            done.append("compiled")

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        with cache._lock, global_compiler_lock:
            os._exit(0)
    done.append("forked")
    holder.join()
    assert os.waitpid(child, 0)[1] == 0
    assert done == ["compiled", "forked"]


def test_without_numbas_compiler_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    with pytest.raises(RuntimeError, match="which NUMBA_DISABLE_JIT switches off"):
        cache._compile("mine", *kernel(lambda op, ctx: None))


def test_a_fork_whose_wait_is_ended_leaves_no_lock_taken(monkeypatch):
    class Interrupted:
        def acquire(self):
            raise KeyboardInterrupt

    monkeypatch.setitem(
        sys.modules, "numba.core.compiler_lock", types.SimpleNamespace(global_compiler_lock=Interrupted())
    )
    with pytest.raises(KeyboardInterrupt):
        cache._wait_for_compilers()
    cache._let_compilers_go_on()
    taken = []
    other = threading.Thread(
        target=lambda: taken.append(cache._lock.acquire(timeout=5)) or cache._lock.release()
    )
    other.start()
    other.join()
    assert taken == [True]
