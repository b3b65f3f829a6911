"""What the processor offers, and the shape of the register tile that follows from it.

Nothing here changes a result: every output element is one chain of fused multiply-adds in a fixed order,
so the width of a vector and the shape of a tile decide only how fast the same bits appear.
"""

import os
from dataclasses import dataclass
from functools import cache

import numpy as np
from llvmlite import binding as llvm


@dataclass(frozen=True)
class Machine:
    """The processor that code is compiled for.

    triple, name, features : LLVM's words for it; together they name the code in the kernel cache.
    vector_bytes : bytes of the widest vector register worth using.
    tile_rows : rows of the register tile, by the number of vectors across it: ``tile_rows[vectors - 1]``.
    """

    triple: str
    name: str
    features: str
    vector_bytes: int
    tile_rows: tuple[int, ...]

    def lanes(self, real):
        """Elements of type ``real`` in one vector register."""
        return self.vector_bytes // np.dtype(real).itemsize

    def panel(self, real):
        """Columns of a full panel: the width of the widest register tile."""
        return self.lanes(real) * len(self.tile_rows)

    def columns(self, n, real):
        """How many columns n values of a row take: whole vectors; one narrower vector where it holds them."""
        lanes = self.lanes(real)
        while n <= lanes // 2 and lanes > self.least_lanes(real):
            lanes //= 2
        return -(-n // lanes) * lanes

    def least_lanes(self, real):
        """Elements of the narrowest vector in use, of 16 bytes on every machine."""
        return 16 // np.dtype(real).itemsize

    def tiles(self, real):
        """(columns, lanes of a vector, rows) of every register tile: whole vectors, then narrower ones."""
        lanes, shapes = self.lanes(real), []
        for vectors, rows in enumerate(self.tile_rows, start=1):
            shapes.append((vectors * lanes, lanes, rows))
        while lanes > self.least_lanes(real):
            lanes //= 2
            shapes.append((lanes, lanes, self.tile_rows[0]))
        return tuple(shapes)


# The tile keeps rows x vectors accumulators, the vectors of one row of B and one broadcast element of A in
# registers: 16 registers hold 4x3 or 6x2, 32 hold 8x3. A narrow last panel takes a taller tile, because eight
# accumulators are what it takes to hide the latency of two multiply-add pipes. Nine where registers abound: W
# often has a multiple of eight rows and b behind them, and a tile of five rows takes as long as one of eight.
_TILE_ROWS = {16: (8, 6, 4), 32: (9, 8, 8)}


@cache
def this_machine():
    """The :class:`Machine` of this process; NUMBA_CPU_NAME and NUMBA_CPU_FEATURES override what LLVM sees."""
    triple = llvm.get_process_triple()
    name = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if name == "generic" else llvm.get_host_cpu_features().flatten()
    vector_bytes, registers = _vector_registers(triple, features.split(","))
    return Machine(triple, name, features, vector_bytes, _TILE_ROWS[registers])


def _vector_registers(triple, features):
    """(bytes of a vector register, number of them) for an instruction set."""
    if triple.startswith(("aarch64", "arm64")):
        return 16, 32
    if "+avx512f" in features and "+avx512vl" in features:
        return 64, 32
    if "+avx" in features:
        return 32, 16
    return 16, 16
