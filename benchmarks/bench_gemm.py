"""fastbp/cpu/gemm.py: seconds per multiply-add, to be read beside those of the processor's peak.

Products are measured as a layer asks for them: batch x inputs x outputs.
"""

from fastbp.cpu.machine import this_machine

from . import peak
from .operations import Alone, running
from .timing import REALS, measured

LAYERS = ["4x2x8", "32x64x32", "32x784x128", "128x784x128", "128x256x256", "256x1024x1024", "33x65x17"]


@measured(real=REALS)
def time_peak(real):
    """What one core can do at all: chains of fused multiply-adds in registers."""
    return peak.seconds_per_product(real, seconds=0.03)


@measured(real=REALS)
def time_tile(real):
    """The register tile alone: one full panel, as many rows as fit, everything in the first-level cache."""
    machine = this_machine()
    return _seconds("dense_forward", machine.tile_rows[-1], 256, machine.panel(real), real)


@measured(layer=LAYERS, real=REALS)
def time_x_W(layer, real):
    """x · W, both in rows."""
    return _seconds("dense_forward", *map(int, layer.split("x")), real)


@measured(layer=LAYERS, real=REALS)
def time_dz_Wt(layer, real):
    """dz · Wᵀ."""
    return _seconds("dense_backward", *map(int, layer.split("x")), real)


@measured(layer=LAYERS, real=REALS)
def time_xt_dz(layer, real):
    """xᵀ · dz, into memory."""
    return _seconds("dense_gradient", *map(int, layer.split("x")), real, inputs=(), materialise=True)


@measured(real=REALS)
def time_x_W_from_memory(real):
    """x · W of 128 x 1024 x 1024 with weights that no cache holds: each time others."""
    batch, n = 128, 1024
    with running([8, n, n], batch, real=real) as plan:
        operation = Alone(plan, "dense_forward", times=24)
        operation.vary("w", (n + 1) * n * int(real[-2:]) // 8)
        return operation.seconds() / (operation.rows * n * n)


def _seconds(kernel, batch, n_in, n_out, real, inputs=(8,), **options):
    """Of the product in a layer behind `inputs`; behind none, the batch is not summed in chunks."""
    times = max(1, 1_000_000 // (batch * n_in * n_out))
    with running([*inputs, n_in, n_out], batch, real=real, **options) as plan:
        operation = Alone(plan, kernel, times)
        return operation.seconds() / (operation.rows * n_in * n_out)
