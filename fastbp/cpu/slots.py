"""Gradient slots: sums over some rows each, laid out as the packed parameters are, added in their order."""

from fastbp.cpu.elementwise import copy_elements
from fastbp.cpu.program import REAL
from fastbp.cpu.simd import array, part


@part
def slots_in_use(ctx):
    """How many slots this step's rows fill."""
    return (ctx.batch_rows + ctx.chunk_rows - 1) // ctx.chunk_rows


def sum_of_slots(real):
    """Functions that add gradient slots in their order: into other memory, or into the first slot."""
    dtype, copy = REAL[real], copy_elements(real)

    @part
    def total(n, first, slot_bytes, slots, target):
        copy(n, first, target)
        for slot in range(1, slots):
            add(n, first + slot * slot_bytes, target)

    @part
    def total_in_place(n, first, slot_bytes, slots):
        for slot in range(1, slots):
            add(n, first + slot * slot_bytes, first)

    @part
    def add(n, source, target):
        source, target = array(source, n, dtype), array(target, n, dtype)
        for i in range(n):
            target[i] += source[i]

    return total, total_in_place
