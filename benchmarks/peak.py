"""The fused multiply-adds that a core can do with nothing in their way: what products are measured by."""

import threading
import time
from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastbp.cpu.cache import address
from fastbp.cpu.machine import this_machine
from fastbp.cpu.records import KERNEL
from fastbp.cpu.team import function

# Steps of a chain in one call: some tenths of a millisecond, long against the call, short against all else.
STEPS = 50_000


def chains(real):
    """How many products are under way at once: (chains of vectors, elements of a vector)."""
    machine = this_machine()
    return (24 if machine.tile_rows[-1] == 8 else 12), machine.lanes(real)


def fma_chains(real):
    """``fma_chains(place, steps)``: independent chains x = fma(x, a, b), all in registers.

    a and b are read from ``place``, so that the compiler knows nothing of them, and the last x go there.
    """
    n_chains, lanes = chains(real)
    element, suffix = (ir.FloatType(), "f32") if real == "float32" else (ir.DoubleType(), "f64")
    vector, int64 = ir.VectorType(element, lanes), ir.IntType(64)

    @intrinsic
    def run(typingctx, place, steps):
        def codegen(context, builder, signature, arguments):
            fma = ir.Function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}{suffix}"
            )
            pointer = builder.inttoptr(arguments[0], vector.as_pointer())
            a, b = (builder.load(builder.gep(pointer, [int64(i)])) for i in (0, 1))
            before = builder.block
            loop, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            left, sums = builder.phi(int64), [builder.phi(vector) for _ in range(n_chains)]
            new = [builder.call(fma, [x, a, b]) for x in sums]
            left_next = builder.sub(left, int64(1))
            left.add_incoming(arguments[1], before)
            left.add_incoming(left_next, loop)
            for i, (x, following) in enumerate(zip(sums, new)):
                # Each starts elsewhere: equal chains would become one.
                x.add_incoming(ir.Constant(vector, [float(i)] * lanes), before)
                x.add_incoming(following, loop)
            builder.cbranch(builder.icmp_signed(">", left_next, int64(0)), loop, done)
            builder.position_at_end(done)
            for i, x in enumerate(new):
                builder.store(x, builder.gep(pointer, [int64(2 + i)]))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    def fma_chains(place, steps):
        run(place, steps)

    return KERNEL, fma_chains


@cache
def _compiled(real):
    # `own`: not kept on disk, where the code would outlive an edit of this file.
    return function(address(fma_chains, real, own=fma_chains))


def seconds_per_product(real="float32", threads=1, seconds=0.1):
    """Seconds per multiply-add of all threads together, at their best."""
    n_chains, lanes = chains(real)
    run, best = _compiled(real), [np.inf] * threads

    def work(thread):
        memory = np.full((n_chains + 3) * lanes + 64, 0.5, real)
        place = memory.ctypes.data + -memory.ctypes.data % 64
        end = time.perf_counter() + seconds
        start = time.perf_counter()
        while start < end:
            run(place, STEPS)
            now = time.perf_counter()
            best[thread] = min(best[thread], now - start)
            start = now

    team = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    rate = sum(STEPS * n_chains * lanes / each for each in best)
    return 1 / rate
