"""Where compiled code is kept.

A kernel is compiled once and stored as plain machine code under the user's cache directory, in a folder
named by a hash of every kernel source and of the versions of Python, Numba, llvmlite and NumPy: an edit to
any kernel file opens a new folder, so code never goes stale. A stored kernel carries a checksum and is
written atomically under a name of its own, so a truncated file, a full disk, a read-only folder or two
processes at once cost a compilation at worst, never a wrong result.

Machine code is loaded straight into LLVM, whether it was just compiled or comes from the disk.

``FASTBP_CACHE_DIR`` moves the folder; an empty value keeps nothing on disk.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import tempfile
import threading
import zlib
from collections import Counter
from functools import cache
from pathlib import Path

from llvmlite import binding as llvm

from fastbp.cpu import notice
from fastbp.cpu.machine import this_machine

_MAGIC = b"fastbp kernel 1\n"
_SOURCES = ("formulas", "cpu")
_CODEGEN_OPTIONS = (
    "NUMBA_BOUNDSCHECK",
    "NUMBA_OPT",
    "NUMBA_LOOP_VECTORIZE",
    "NUMBA_SLP_VECTORIZE",
    "NUMBA_DEBUGINFO",
)

# The stack of the thread that compiles: what a main thread has, or more.
_STACK_BYTES = 16 << 20

# The smallest page and the common line: where machines have others, places differ all the same.
_LINE_BYTES = 64
_LINES_OF_A_PAGE = 4096 // _LINE_BYTES

_lock = threading.RLock()
_loaded = {}  # (kernel name, id of own) -> (address, engine that owns the code, own)

# Kernels of this process that came from the disk, that were compiled, and those of them that are on disk now.
# A user's own do not count.
counts = {"found": 0, "compiled": 0, "kept": 0}


_forking = threading.local()  # .locks: those that the thread has taken for its fork


def _wait_for_compilers():
    """Before a fork: until nothing is compiled. A child would wait for ever for what Numba had locked."""
    _forking.locks, locks = [], [_lock]
    if "numba.core.compiler_lock" in sys.modules:
        locks.append(sys.modules["numba.core.compiler_lock"].global_compiler_lock)
    for lock in locks:  # Ctrl-C may end the wait for one
        lock.acquire()
        _forking.locks.append(lock)


def _let_compilers_go_on():
    """After it, in both processes: the thread that forked has the locks in the child too."""
    while _forking.locks:
        _forking.locks.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_wait_for_compilers, after_in_parent=_let_compilers_go_on, after_in_child=_let_compilers_go_on
    )


def address(factory, *arguments, own=None):
    """The address of the kernel that ``factory(*arguments)`` describes; compiled or loaded at first use.

    Parameters
    ----------
    factory : callable
        Module-level function that returns ``(signature, function)``: a Numba signature and the plain Python
        function to compile. Called only when the kernel is not stored.
    *arguments : str or int
        What the factory is called with. Together with the factory's name they name the kernel.
    own : object, optional
        Something of the user's that the kernel is made from, an activation, say. Such code stays in this
        process: what it refers to cannot be seen, so on disk it could go stale.
    """
    name = f"{factory.__module__}.{factory.__qualname__}({', '.join(map(str, arguments))})"
    key = name, id(own)
    found = _loaded.get(key)
    if found is None:
        with _lock:
            found = _loaded.get(key)
            if found is None:
                found = _loaded[key] = (*_load_or_compile(name, factory, arguments, own is None), own)
    return found[0]


def _load_or_compile(name, factory, arguments, keep):
    path = _path(name) if keep else None
    stored = _read(path) if path else None
    if stored is not None:
        loaded = _load(*stored)
        if loaded is not None:
            counts["found"] += 1
            return loaded
    if keep:
        notice.before_compiling(counts["compiled"], counts["kept"], path and path.parent)
    symbol, externals, code = _undisturbed(lambda: _compile(name, *factory(*arguments), keep))
    if keep:
        counts["compiled"] += 1
        counts["kept"] += bool(path) and _write(path, symbol, externals, code)
    return _load(symbol, externals, code)


def _undisturbed(function):
    """What a function returns, from a thread of its own where this is the main one.

    There Ctrl-C, and whatever else a signal's handler raises, comes anywhere, and would leave Numba or LLVM
    in the middle of something, for good. The caller hears of it at once, and the thread goes on to its end.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    returned, raised, done = [], [], threading.Lock()
    done.acquire()

    def work():
        try:
            returned.append(function())
        except BaseException as error:
            raised.append(error)
        done.release()

    size = threading.stack_size(_STACK_BYTES)
    try:
        threading.Thread(target=work).start()
    except RuntimeError:  # there may be no more threads
        return function()
    finally:
        threading.stack_size(size)
    while not done.acquire(timeout=0.02):  # not every signal ends a wait
        pass
    if raised:
        raise raised[0]
    return returned[0]


def _compile(name, signature, function, ours=True):
    """(symbol, external symbols, machine code) of ``function``, with Numba's native calling convention.

    The one place that reaches behind Numba's public door: there is no other way to have just the code,
    without wrappers for Python around it.

    name : what the kernel is called; where its code begins follows from it.
    ours : whether nothing of a user's is compiled on the way, which may be called from elsewhere too.
    """
    from numba import config
    from numba.core import compiler, registry
    from numba.core.compiler_lock import global_compiler_lock

    if config.DISABLE_JIT:
        raise RuntimeError("fastbp needs Numba's compiler, which NUMBA_DISABLE_JIT switches off")
    flags = compiler.Flags()
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.no_compile = True
    flags.error_model = "numpy"
    flags.nrt = False
    # Before the lock: who makes these first takes it meanwhile, and would be waited for by whoever has it.
    typing, target = registry.cpu_target.typing_context, registry.cpu_target.target_context
    with global_compiler_lock:
        typing.refresh()
        target.refresh()
        with _callees_as_text() if ours else contextlib.nullcontext():
            result = compiler.compile_extra(
                typing, target, function, signature.args, signature.return_type, flags, {}
            )
        library = result.library
        _inline_what_is_called_once(library)
        with _left_as_text():
            library.finalize()
        module = library._final_module
        code = library.codegen._tm.emit_object(_away_from_the_others(module, name))
    externals = sorted(
        f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")
    )
    return result.fndesc.llvm_func_name, externals, code


def _left_as_text():
    """Let Numba not hand what it compiles to its engine, which would make machine code of it once more."""
    from numba.core.codegen import CPUCodeLibrary

    return _replaced((CPUCodeLibrary, "_finalize_final_module", _mark_finished))


def _callees_as_text():
    """Let Numba keep what a kernel inlines as LLVM's text, not optimised and without an address.

    Left alone, it optimises each callee as if it stood alone and makes machine code of it that nobody calls:
    a third of the time of a cold start. The kernel that links them is optimised as a whole either way.
    """
    from numba.core.codegen import CPUCodeLibrary, JITCodeLibrary, JITCPUCodegen

    return _replaced(
        (CPUCodeLibrary, "_finalize_final_module", _mark_finished),
        (CPUCodeLibrary, "_optimize_final_module", lambda library: None),
        (JITCodeLibrary, "get_pointer_to_function", lambda library, name: 0),
        (JITCPUCodegen, "set_env", lambda codegen, name, environment: None),
    )


def _mark_finished(library):
    library._finalized = True


@contextlib.contextmanager
def _replaced(*methods):
    """Meanwhile classes have other methods: (class, name, method) for each."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in methods]
    for owner, name, method in methods:
        setattr(owner, name, method)
    try:
        yield
    finally:
        for owner, name, method in before:
            setattr(owner, name, method)


def _inline_what_is_called_once(library):
    """Let LLVM inline what a kernel calls in one place only, however long it is.

    It would call long ones, each with its arguments on the stack and its registers saved: a fifth of all
    instructions of a small network's step.
    """
    optimise = library._optimize_final_module

    def inline_and_optimise():
        module = library._final_module
        named = Counter(re.findall(r'@"?([\w.$]+)', str(module)))
        for function in module.functions:
            if not function.is_declaration and named[function.name] == 2:  # its definition, and one call
                function.add_function_attribute("alwaysinline")
        optimise()

    library._optimize_final_module = inline_and_optimise


def _away_from_the_others(module, name):
    """The module with its code some cache lines behind the start of a page; how many follows from the name.

    Each kernel is loaded into pages of its own, and an instruction cache looks a line up by its place within
    the page. Were all at the start, the kernels of a step would drive each other out of the few ways that
    those lines have: 7 % of the time of a step of 2-8-1.
    """
    lines = zlib.crc32(name.encode()) % _LINES_OF_A_PAGE
    if not lines:
        return module
    room = f"[{lines * _LINE_BYTES - 1} x i8] zeroinitializer"  # and the byte of "ret"
    apart = llvm.parse_assembly(
        f'''
        target triple = "{module.triple}"
        target datalayout = "{module.data_layout}"
        define void @fastbp_room() nounwind prefix {room} {{ ret void }}
        '''
    )
    apart.link_in(module, preserve=True)
    return apart


def _load(symbol, externals, code):
    """Hand machine code to LLVM: (address, engine), or None where it asks for a symbol that nobody has."""
    if any(llvm.address_of_symbol(name) is None for name in externals):
        from numba.core.registry import cpu_target  # registers Numba's run-time symbols with LLVM

        cpu_target.target_context.refresh()
        if any(llvm.address_of_symbol(name) is None for name in externals):
            return None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target.create_target_machine(jit=True))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine.get_function_address(symbol), engine


def _read(path):
    """What `_write` stored under this name, or None where there is nothing, or nothing whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + 32
    if (
        content[: len(_MAGIC)] != _MAGIC
        or hashlib.sha256(content[start:]).digest() != content[len(_MAGIC) : start]
    ):
        return None
    header, code = content[start:].split(b"\n", 1)
    name, symbol, externals = json.loads(header)
    return (symbol, externals, code) if name == path.name else None


def _write(path, symbol, externals, code):
    """Store a kernel atomically; whether it is there now: a place that cannot be written is no error."""
    body = json.dumps([path.name, symbol, externals]).encode() + b"\n" + code
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(body).digest() + body)
        os.replace(temporary, path)
        return True
    except OSError:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return False


def _path(name):
    """The file of a kernel, or None where nothing is to be kept."""
    folder = directory()
    if folder is None:
        return None
    machine = this_machine()
    options = [os.environ.get(option, "") for option in _CODEGEN_OPTIONS]
    key = "\n".join([name, machine.triple, machine.name, machine.features, *options])
    readable = "".join(c if c.isalnum() or c in "._-" else "-" for c in name.removeprefix("fastbp.cpu."))
    return folder / f"{readable[:80].strip('-')}-{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def directory():
    """The folder of this version's kernels (`pathlib.Path`), or None where the cache is switched off."""
    base = os.environ.get("FASTBP_CACHE_DIR")
    if base == "":
        return None
    try:
        return (Path(base) if base else _user_cache()) / _sources_hash()
    except (RuntimeError, OSError):  # a user without a home; sources that are not there, as in a zip file
        return None


def _user_cache():
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "fastbp" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fastbp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastbp"


@cache
def _sources_hash():
    """Names everything that machine code depends on beside the kernel and the processor."""
    digest = hashlib.sha256()
    for version in (
        platform.python_version(),
        *map(importlib.metadata.version, ("numba", "llvmlite", "numpy")),
    ):
        digest.update(version.encode() + b"\n")
    package = Path(__file__).parent.parent
    files = sorted(file for folder in _SOURCES for file in (package / folder).glob("*.py"))
    if not files:
        raise FileNotFoundError(package)
    for file in files:
        digest.update(file.name.encode() + b"\n" + file.read_bytes())
    return digest.hexdigest()[:16]
