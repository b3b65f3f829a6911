"""fastbp/cpu/gemm.py: seconds per multiply-add, to be read beside those of the processor's peak."""

import numpy as np

from fastbp.cpu.cache import address
from fastbp.cpu.gemm import K_BLOCK, matrix_product
from fastbp.cpu.machine import this_machine

from . import peak
from .timing import REALS, Program, array, measured

# c (m, n) = a (m, k) · b (k, n). b packed: what a layer's forward and its backward to dx are; b as it lies and
# a read down its columns: the gradient of the weights.
PACKED = ["4x2x8", "32x64x32", "32x784x128", "128x784x128", "480x256x128", "256x1024x1024", "33x65x17"]
TRANSPOSED = ["64x32x32", "784x32x128", "784x128x128", "1024x256x1024", "65x33x17"]


@measured(real=REALS)
def time_peak(real):
    """What one core can do at all: chains of fused multiply-adds in registers."""
    return peak.seconds_per_product(real, seconds=0.03)


@measured(real=REALS)
def time_tile(real):
    """The register tile alone: one full panel, as many rows as fit, everything in the first-level cache."""
    machine = this_machine()
    return _product(machine.tile_rows[-1], K_BLOCK, machine.panel(real), real)


@measured(m_k_n=PACKED, real=REALS)
def time_packed(m_k_n, real):
    """x · W and dz · Wᵀ."""
    return _product(*map(int, m_k_n.split("x")), real)


@measured(m_k_n=TRANSPOSED, real=REALS)
def time_transposed(m_k_n, real):
    """xᵀ · dz."""
    return _product(*map(int, m_k_n.split("x")), real, transposed=True)


def _product(m, k, n, real, transposed=False):
    size, lanes = np.dtype(real).itemsize, this_machine().lanes(real)
    columns = -(-n // lanes) * lanes
    a, a_bytes = _rows(*((k, m) if transposed else (m, k)), real)
    b, b_bytes = _rows(k, columns, real)
    c, c_row = _rows(m, columns, real)
    a_row, a_step = (size, a_bytes) if transposed else (a_bytes, size)
    b_panel, b_step = (size, b_bytes) if transposed else (k * size, 0)
    operation = dict(
        kernel=address(matrix_product, real), m=m, n=columns, k=k, a=a, a_row=a_row, a_step=a_step,
        b=b, b_panel=b_panel, b_step=b_step, c0=array(columns, real), c0_row=0, c=c, c_row=c_row,
    )  # fmt: skip
    times = max(1, 2_000_000 // (m * columns * k))
    return Program([operation] * times).seconds() / (times * m * k * n)


def _rows(rows, columns, real):
    """Random numbers, and the bytes from row to row: no multiple of 4096, as in a plan."""
    row = columns * np.dtype(real).itemsize
    row += 64 if row % 4096 == 0 else 0
    n = rows * row // np.dtype(real).itemsize
    return array(n, real, np.random.default_rng(0).standard_normal(n)), row
