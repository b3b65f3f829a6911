"""The training step: the compiled program that calls the operations.

Compiled once for every architecture there will ever be: it walks a table of records and calls the address
in each.
"""

import numpy as np
from numba import int64

from fastbp.cpu.native import array, atomic_load, atomic_store, call, part
from fastbp.cpu.records import (
    BLOCKS,
    CHUNKS,
    HALT,
    KERNEL,
    OPERATION,
    REAL,
    SECTION,
    STEPS,
    STOP,
    context,
    kernel,
    operation,
    section,
)
from fastbp.cpu.slots import slots_in_use
from fastbp.cpu.team import gives_up, is_given_up, wait_for_all
from fastbp.formulas.random import sample_balanced, shuffle

_OPERATION, _SECTION = OPERATION.itemsize, SECTION.itemsize


@part
def run_operations(ctx, first, last):
    """Call operations [first, last) of this thread's program."""
    failed = 0
    for i in range(first, last):
        op = ctx.program + i * _OPERATION
        failed |= call(operation(op).kernel, op, ctx.address)
    if failed != 0:
        raise IndexError  # whoever called looks whether there is one, not which


@part
def run_until_given_up(ctx, first, last):
    """The same, but to the first of them that finds the step given up; returns whether there is none."""
    for i in range(first, last):
        if gives_up(ctx):
            return False
        run_operations(ctx, i, i + 1)
    return not gives_up(ctx)


@part
def share_of_blocks(ctx):
    """The blocks of this batch that are the thread's: the first, and the one behind the last."""
    if ctx.batch_rows <= ctx.block_rows:  # no division, which a tiny step would feel
        return 0, 1 if ctx.thread + 1 == ctx.threads else 0
    blocks = (ctx.batch_rows + ctx.block_rows - 1) // ctx.block_rows
    return blocks * ctx.thread // ctx.threads, blocks * (ctx.thread + 1) // ctx.threads


@part
def run_batch(ctx):
    """One pass of the program over the batch that begins at ctx.start; returns whether it came to its end.

    It does not where somebody wishes to stop at once, before the update of a step that is long enough for
    people to notice: then no weight has changed. One thread may see the wish and another not, so what counts
    is a mark that is made before a barrier and looked at behind it.
    """
    n, size = ctx.batch_rows, ctx.block_rows
    first_block, last_block = share_of_blocks(ctx)
    for s in range(ctx.n_sections):
        here = section(ctx.sections + s * _SECTION)
        if here.over == BLOCKS:
            for block in range(first_block, last_block):
                ctx.block = block
                ctx.row = block * size
                ctx.rows = min(size, n - ctx.row)
                ctx.place = ctx.row * ctx.whole
                if here.gives_up == 0:
                    run_operations(ctx, here.first, here.last)
                elif not run_until_given_up(ctx, here.first, here.last):
                    break
        elif here.over == CHUNKS:
            for chunk in range(slots_in_use(ctx)):
                ctx.block, ctx.row = chunk, chunk * ctx.chunk_rows
                ctx.rows, ctx.place = min(ctx.chunk_rows, n - ctx.row), ctx.row
                if here.gives_up == 0:
                    run_operations(ctx, here.first, here.last)
                elif not run_until_given_up(ctx, here.first, here.last):
                    break
        else:
            ctx.block = ctx.row = ctx.place = 0
            ctx.rows = n
            run_operations(ctx, here.first, here.last)
            if here.gives_up != 0 and is_given_up(ctx):
                return False
    return True


def write_order():
    """The rows of this epoch. A kernel of its own: inlined, its constants would take the step's registers."""

    def write_order(_, ctx):
        order = array(ctx.order, ctx.n_rows, int64)
        if ctx.shuffle == 1:
            shuffle(order, ctx.seed, ctx.epoch)
        else:
            starts = array(ctx.class_starts, ctx.classes + 1, int64)
            sample_balanced(order, array(ctx.by_class, ctx.n_rows, int64), starts, ctx.seed, ctx.epoch)

    return kernel(write_order)


def run_epochs():
    """Epochs [ctx.epoch, ctx.last_epoch) over the data; ends after a whole step when asked to stop.

    ctx.epoch counts on as epochs end, and ctx.begin says how far the one has come in which the run ended: so
    the next run goes on there. The order of an epoch is written again then, and its losses are added to those
    that are there.
    """

    def run_epochs(ctx_address, _):
        ctx = context(ctx_address)
        while ctx.epoch < ctx.last_epoch:
            if ctx.shuffle != 0:
                if ctx.thread == 0:
                    call(ctx.write_order, 0, ctx.address)
                if ctx.threads > 1:
                    wait_for_all(ctx)
            end = ctx.n_rows - (ctx.rest if ctx.epoch + 1 == ctx.last_epoch else 0)
            for start in range(ctx.begin, end, ctx.batch_size):
                if atomic_load(ctx.shared + HALT) != 0:
                    ctx.begin = start
                    return
                ctx.start = start
                ctx.batch_rows = min(ctx.batch_size, ctx.n_rows - start)
                ctx.step += 1
                if not run_batch(ctx):
                    ctx.step, ctx.begin = ctx.step - 1, start
                    return
            if end < ctx.n_rows:
                ctx.begin = end
                return
            ctx.begin = 0
            ctx.epoch += 1

    return KERNEL, run_epochs


def run_section():
    """One section once, outside any step: packing before training, unpacking after it."""

    def run_section(ctx_address, section_address):
        here = section(section_address)
        run_operations(context(ctx_address), here.first, here.last)

    return KERNEL, run_section


def end_of_step(real):
    """The first thread's duty after a step: add up the losses, count the step, decide whether to go on.

    x − x is 0 where x is finite, else NaN.
    """
    dtype = REAL[real]

    def end_of_step(op, ctx):
        rows = array(ctx.row_losses, ctx.batch_rows, dtype)
        losses = array(ctx.losses + 8 * (ctx.epoch - ctx.first_epoch), 1, np.float64)
        total = 0.0
        for i in range(ctx.batch_rows):
            total += rows[i]
        losses[0] += total
        atomic_store(ctx.shared + STEPS, atomic_load(ctx.shared + STEPS) + 1)
        diverged = ctx.careful if total - total != 0 else 0
        atomic_store(ctx.shared + HALT, atomic_load(ctx.shared + STOP) | diverged)

    return kernel(end_of_step)
