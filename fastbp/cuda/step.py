"""What stands around the operations of a step: the order of an epoch, its batch, its settings, its loss.

The host enqueues the same launches for every step; what differs from step to step is counted on the device,
in the context. After a loss that is not finite the context says so, and what was enqueued beyond does
nothing.

Launches follow each other, and what one wrote the next one sees: no kernel here needs a barrier, nor waits
for another block. Where a number is for one thread to find, the kernel is launched with one.
"""

import numpy as np

from fastbp.cuda.device import cuda
from fastbp.cuda.elementwise import write_hyper
from fastbp.cuda.records import REAL, context
from fastbp.cuda.simt import array, column, part
from fastbp.formulas.optimizers import ROOM
from fastbp.formulas.random import SAMPLE, SHUFFLE, philox, row_of_class
from fastbp.formulas.schedules import SCHEDULES, warm_up

_1, _2, _4, _32 = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(32)


def begin_step():
    """The batch that begins at ctx.start; one thread."""

    def begin_step(op_address, ctx_address):
        ctx = context(ctx_address)
        if ctx.halt != 0:
            return
        ctx.batch_rows = min(ctx.batch_size, ctx.n_rows - ctx.start)
        ctx.step += 1

    return begin_step


def prepare(optimizer, schedule, real):
    """What the optimizer's formula uses in this step, for each group of settings; a thread for a group."""
    prepare_group = group_of_settings(optimizer, schedule, real)

    def prepare(op_address, ctx_address):
        ctx, group = context(ctx_address), cuda.grid(1)
        if ctx.halt != 0 or group >= ctx.groups:
            return
        prepare_group(ctx, ctx.step, ctx.epoch, group)

    return prepare


def group_of_settings(optimizer, schedule, real):
    """A function ``prepare(ctx, step, epoch, group)``: what the formula uses, at ctx.hyper, for one group.

    ctx.schedule: whether to count steps, counts of warm-up, where that starts, then the formula's settings.
    """
    size, hyper = REAL[real](0).itemsize, write_hyper(optimizer, real)
    adapt, scheduled = (_adapt(schedule), 1) if schedule else (None, 0)

    @part
    def prepare_group(ctx, step, epoch, group):
        settings = ctx.settings + 8 * ROOM * group
        if scheduled:
            given, settings = settings, ctx.scheduled + 8 * ROOM * group
            adapt(ctx, step, epoch, given, settings)
        hyper(settings, step, ctx.hyper + size * ROOM * group)

    return prepare_group


def _adapt(name):
    """A function that copies a group's settings, with the learning rate, and the momentum, of this step."""
    schedule = SCHEDULES[name]
    rate_of, momentum_of, n = schedule.rate, schedule.momentum, len(schedule.settings)
    (load, _), sets_momentum = column(n), momentum_of is not None

    @part
    def warm(ctx, step, epoch, given, made):
        for i in range(ROOM):
            made[i] = given[i]
        first = array(ctx.schedule, 3, np.float64)
        count = step - 1 if first[0] != 0.0 else epoch
        if count < first[1]:
            made[0] = warm_up(given[0], first[1], first[2], count)
        return count, int(first[1])

    @part
    def adapt(ctx, step, epoch, given, made):
        given, made = array(given, ROOM, np.float64), array(made, ROOM, np.float64)
        count, warmup = warm(ctx, step, epoch, given, made)
        settings = load(ctx.schedule + 24, 8, np.float64)
        if count >= warmup:
            made[0] = rate_of(given[0], settings, count - warmup)
        if sets_momentum:
            made[ctx.momentum] = momentum_of(settings, count)

    @part
    def without_settings(ctx, step, epoch, given, made):
        warm(ctx, step, epoch, array(given, ROOM, np.float64), array(made, ROOM, np.float64))

    return adapt if n else without_settings


def end_of_step(real):
    """Add up the losses of the batch, in its order, and count on; one thread.

    x − x is 0 where x is finite, else NaN.
    """
    dtype = REAL[real]

    def end_of_step(op_address, ctx_address):
        ctx = context(ctx_address)
        if ctx.halt != 0:
            return
        rows = array(ctx.row_losses, ctx.batch_rows, dtype)
        losses = array(ctx.losses + 8 * (ctx.epoch - ctx.first_epoch), 1, np.float64)
        total = losses[0] if ctx.continues != 0 else 0.0
        for i in range(ctx.batch_rows):
            total += np.float64(rows[i])
        losses[0] = total if ctx.continues != 0 else losses[0] + total
        if total - total != 0.0:
            ctx.halt = ctx.careful
        count_on(ctx)

    return end_of_step


def end_of_batch():
    """The same where there are no losses."""

    def end_of_batch(op_address, ctx_address):
        count_on(context(ctx_address))

    return end_of_batch


@part
def count_on(ctx):
    """The next batch, the next epoch."""
    ctx.start += ctx.batch_rows
    if ctx.start == ctx.n_rows:
        ctx.start = 0
        ctx.epoch += 1


# The order of an epoch is that of `formulas.random.shuffle`: step i writes row i to place jᵢ ≤ i, and who
# stood there moves to place i. So a row that stands at place p moves to the first i to come with jᵢ = p, and
# on from there: each row's last place can be found alone. All i with jᵢ = p are kept in a list that begins at
# ctx.heads[p]; its order depends on chance, what is found in it does not. Lists are emptied, filled (by
# atomic exchanges, each of which gives the list before) and read in three launches, or between barriers.


@part
def place_of(seed, epoch, i):
    """The place jᵢ that row i goes to in its step."""
    w0, w1, w2, w3 = philox(seed, SHUFFLE, epoch, 0, i // 4)
    which = i % 4
    word = w0 if which == 0 else (w1 if which == 1 else (w2 if which == 2 else w3))
    return np.int64((word * np.uint64(i + 1)) >> _32)


@part
def next_at(heads, following, place, time):
    """The first step after `time` that moves who stands at a place; −1 if none does."""
    found, i = -1, heads[place]
    while i >= 0:
        if i > time and (found < 0 or i < found):
            found = i
        i = following[i]
    return found


@part
def last_place(heads, following, place, i):
    """Where row i ends, which went to a place in step i."""
    time = next_at(heads, following, place, i)
    while time >= 0:
        place = time
        time = next_at(heads, following, place, time)
    return place


def shuffle_empty():
    """Lists of steps, all empty."""

    def shuffle_empty(op_address, ctx_address):
        ctx = context(ctx_address)
        heads = array(ctx.heads, ctx.n_rows, np.int64)
        for i in range(cuda.grid(1), ctx.n_rows, cuda.gridsize(1)):
            heads[i] = -1

    return shuffle_empty


def shuffle_draw():
    """Every step into the list of its place."""

    def shuffle_draw(op_address, ctx_address):
        ctx = context(ctx_address)
        heads = array(ctx.heads, ctx.n_rows, np.int64)
        following = array(ctx.following, ctx.n_rows, np.int64)
        for i in range(cuda.grid(1), ctx.n_rows, cuda.gridsize(1)):
            following[i] = cuda.atomic.exch(heads, place_of(ctx.seed, ctx.epoch, i), i)

    return shuffle_draw


def shuffle_write():
    """Every row to its last place: the order of the epoch."""

    def shuffle_write(op_address, ctx_address):
        ctx = context(ctx_address)
        if ctx.halt != 0:
            return
        heads = array(ctx.heads, ctx.n_rows, np.int64)
        following = array(ctx.following, ctx.n_rows, np.int64)
        order = array(ctx.order, ctx.n_rows, np.int64)
        for i in range(cuda.grid(1), ctx.n_rows, cuda.gridsize(1)):
            order[last_place(heads, following, place_of(ctx.seed, ctx.epoch, i), i)] = i

    return shuffle_write


@part
def draw_two(ctx, epoch, block):
    """Places 2 · block and the next of an order drawn with replacement so that classes are equally likely."""
    n, classes = ctx.n_rows, np.uint64(ctx.classes)
    order, by_class = array(ctx.order, n, np.int64), array(ctx.by_class, n, np.int64)
    starts = array(ctx.class_starts, ctx.classes + 1, np.int64)
    w0, w1, w2, w3 = philox(ctx.seed, SAMPLE, epoch, 0, block)
    order[2 * block] = row_of_class(w0, w1, classes, by_class, starts)
    if 2 * block + 1 < n:
        order[2 * block + 1] = row_of_class(w2, w3, classes, by_class, starts)


def sample_balanced():
    """The order of an epoch drawn with replacement so that classes are equally likely, as `random` has it."""

    def sample_balanced(op_address, ctx_address):
        ctx = context(ctx_address)
        if ctx.halt != 0:
            return
        for block in range(cuda.grid(1), (ctx.n_rows + 1) // 2, cuda.gridsize(1)):
            draw_two(ctx, ctx.epoch, block)

    return sample_balanced
