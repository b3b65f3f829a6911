"""Whoever waits for a compiler is told why, once; nobody else is told anything."""

import io
import sys

import pytest

from fastbp.cpu import cache, notice


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def compile_some(tmp_path, monkeypatch):
    """A function that compiles so many kernels, in appearance, and returns what stderr held before each."""
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("FASTBP_QUIET", raising=False)
    monkeypatch.setattr(cache, "counts", dict.fromkeys(cache.counts, 0))
    monkeypatch.setattr(cache, "_load", lambda *code: (1, None))
    monkeypatch.setattr(notice, "_told", False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)

    def compile_some(n, stderr, own=None):
        held = []
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setattr(
            cache, "_compile", lambda *kernel: held.append(stderr.getvalue()) or ("symbol", [], b"code")
        )
        for i in range(n):
            cache._load_or_compile(f"kernel {i}", lambda: (None, None), (), keep=own is None)
        return held

    return compile_some


def test_told_once_before_the_second_compilation(compile_some):
    stderr = Terminal()
    none, first, *others = compile_some(4, stderr)
    assert none == ""
    assert first == (
        "fastbp: compiling kernels for this processor takes some seconds, once; "
        "`python -m fastbp warmup` compiles all of them\n"
    )
    assert [*others, stderr.getvalue()] == [first] * 3


def test_what_lies_on_disk_is_not_waited_for(compile_some):
    compile_some(4, io.StringIO())
    stderr = Terminal()
    assert compile_some(4, stderr) == []
    assert cache.counts == {"found": 4, "compiled": 4, "kept": 4}
    assert stderr.getvalue() == ""


def test_pipes_and_files_are_not_told(compile_some):
    stderr = io.StringIO()
    compile_some(4, stderr)
    assert stderr.getvalue() == ""


def test_a_notebook_is_told(compile_some, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    stderr = io.StringIO()
    compile_some(2, stderr)
    assert stderr.getvalue().startswith("fastbp: compiling")


def test_can_be_silenced(compile_some, monkeypatch):
    stderr = Terminal()
    monkeypatch.setenv("FASTBP_QUIET", "1")
    compile_some(3, stderr)
    monkeypatch.delenv("FASTBP_QUIET")
    notice.silence()
    compile_some(3, stderr)
    assert stderr.getvalue() == ""


def test_users_own_kernels_do_not_count(compile_some):
    """They are compiled in every process, and two of them are soon there."""
    stderr = Terminal()
    compile_some(4, stderr, own="mine")
    assert stderr.getvalue() == ""
    assert not any(cache.counts.values())


def test_every_process_where_nothing_is_kept(compile_some, monkeypatch, tmp_path):
    stderr = Terminal()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path / "file"))
    compile_some(2, stderr)
    assert "in every process, because " in stderr.getvalue()
    assert f"{tmp_path / 'file'}" in stderr.getvalue()
    assert cache.counts["kept"] == 0


def test_every_process_where_the_cache_is_off(compile_some, monkeypatch):
    stderr = Terminal()
    monkeypatch.setenv("FASTBP_CACHE_DIR", "")
    compile_some(2, stderr)
    assert "in every process, because the kernel cache is switched off" in stderr.getvalue()


@pytest.mark.parametrize("stderr", [None, "closed"])
def test_no_stderr_is_no_trouble(compile_some, monkeypatch, stderr):
    if stderr == "closed":
        stderr = Terminal()
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    notice.before_compiling(1, 1, "folder")
