"""Gradient slots: sums over some rows each, laid out as the packed parameters are, added in their order."""

from functools import cache

from fastbp.cpu.elementwise import copy_elements
from fastbp.cpu.native import array, part
from fastbp.cpu.records import REAL


@part
def slots_in_use(ctx):
    """How many slots this step's rows fill."""
    return (ctx.batch_rows + ctx.chunk_rows - 1) // ctx.chunk_rows


@cache
def sum_of_slots(real):
    """A function ``total(n, first, slot_bytes, slots, target)``: gradient slots added to other memory."""
    copy, add = copy_elements(real), _add_elements(real)

    @part
    def total(n, first, slot_bytes, slots, target):
        copy(n, first, target)
        for slot in range(1, slots):
            add(n, first + slot * slot_bytes, target)

    return total


@cache
def sum_slots_in_place(real):
    """A function ``total(n, first, slot_bytes, slots)``: all gradient slots added to the first."""
    add = _add_elements(real)

    @part
    def total(n, first, slot_bytes, slots):
        for slot in range(1, slots):
            add(n, first + slot * slot_bytes, first)

    return total


@cache
def _add_elements(real):
    dtype = REAL[real]

    @part
    def add(n, source, target):
        source, target = array(source, n, dtype), array(target, n, dtype)
        for i in range(n):
            target[i] += source[i]

    return add
