"""Register tiles by what a processor offers."""

import platform

import pytest
from llvmlite import binding as llvm

from fastbp.cpu import machine
from fastbp.cpu.machine import Machine, this_machine

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
SKYLAKE = "+sse2,+sse4.2,+avx,+avx2,+fma,+avx512f,+avx512vl"


@pytest.mark.parametrize(
    ("triple", "features", "expected"),
    [
        (X86, SKYLAKE, (64, 32)),
        (X86, "+avx2,+fma,+avx", (32, 16)),
        (X86, "+avx", (32, 16)),
        (X86, "+avx2,+avx,+avx512f", (32, 16)),  # Xeon Phi: no 512-bit code for every vector length
        (X86, "-avx512f,-avx512vl,+avx,-avx2", (32, 16)),
        (X86, "+sse4.2", (16, 16)),
        (X86, "-avx,-avx2", (16, 16)),
        (X86, "", (16, 16)),
        (ARM, "+neon", (16, 32)),
        (ARM, "", (16, 32)),
        ("arm64-apple-darwin24", "+neon", (16, 32)),
        ("x86_64-pc-windows-msvc", SKYLAKE, (64, 32)),
        ("riscv64-unknown-linux-gnu", "+v", (16, 16)),
    ],
)
def test_vector_registers(triple, features, expected):
    assert machine._vector_registers(triple, features.split(",")) == expected


@pytest.mark.parametrize(("registers", "rows"), machine._TILE_ROWS.items())
def test_tile_fits_the_registers(registers, rows):
    for vectors, most_rows in enumerate(rows, start=1):
        accumulators = most_rows * vectors
        assert accumulators + vectors + 1 <= registers  # and one row of B, one element of A
        assert accumulators >= 8  # to hide the latency of two multiply-add pipes
    assert list(rows) == sorted(rows, reverse=True)


def test_lanes_and_panel():
    wide, narrow = Machine(X86, "a", "b", 64, (8, 8, 8)), Machine(X86, "a", "b", 16, (8, 6, 4))
    assert (wide.lanes("float32"), wide.lanes("float64")) == (16, 8)
    assert (wide.panel("float32"), narrow.panel("float64")) == (48, 6)


@pytest.mark.parametrize(
    ("n", "wide", "narrow"),
    [(1, 4, 4), (4, 4, 4), (5, 8, 8), (8, 8, 8), (9, 16, 12), (16, 16, 16), (17, 32, 20)],
)
def test_columns(n, wide, narrow):
    """Whole vectors, or one narrower vector where it holds the row."""
    assert Machine(X86, "a", "b", 64, (8, 8, 8)).columns(n, "float32") == wide
    assert Machine(X86, "a", "b", 16, (8, 6, 4)).columns(n, "float32") == narrow


def test_tiles():
    avx2 = Machine(X86, "a", "b", 32, (8, 6, 4))
    assert avx2.tiles("float32") == ((8, 8, 8), (16, 8, 6), (24, 8, 4), (4, 4, 8))
    assert avx2.tiles("float64") == ((4, 4, 8), (8, 4, 6), (12, 4, 4), (2, 2, 8))


@pytest.fixture
def fresh():
    this_machine.cache_clear()
    yield
    this_machine.cache_clear()


def test_this_machine_is_the_hosts(fresh, monkeypatch):
    monkeypatch.delenv("NUMBA_CPU_NAME", raising=False)
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    here = this_machine()
    assert here.name == llvm.get_host_cpu_name()
    assert here.features == llvm.get_host_cpu_features().flatten()
    assert this_machine() is here


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86 processors")
@pytest.mark.parametrize(
    ("name", "features", "vector_bytes"),
    [("haswell", "+avx2,+fma,+avx", 32), ("x86-64-v2", "+sse4.2", 16), ("skylake-avx512", SKYLAKE, 64)],
)
def test_environment_overrides(fresh, monkeypatch, name, features, vector_bytes):
    monkeypatch.setenv("NUMBA_CPU_NAME", name)
    monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
    assert (this_machine().name, this_machine().vector_bytes) == (name, vector_bytes)


def test_generic_has_no_features(fresh, monkeypatch):
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    assert this_machine().features == ""
    assert this_machine().vector_bytes == 16
