"""How the work of a step is divided: into chunks and blocks of rows, into columns, among threads.

What changes the order of a sum depends on the network and the batch alone; what changes only who does what,
and when, on threads and machine too.
"""

import contextlib
import os
import threading

from .cpu.machine import this_machine

# Of chunks, on which results depend (`chunk_rows`).
CHUNK_ROWS = 128  # the most rows of a short one
PARAMETERS_PER_ACTIVATION = 1.25  # short ones pay up to here, of the activations that two of them have
WORK_IN_CHUNKS = 300_000  # multiply-adds of a step, from which two threads gain by sharing a small batch too
LONGEST_SUM = 4096  # the most rows of any: a longer sum of float32, one row after the other, loses digits

# Bytes of activations that a block of rows may fill: half of a small second-level cache.
BLOCK_BYTES = 192 * 1024

# Multiply-adds per step that make a further thread worth its barriers and the weights that cross between
# cores.
WORK_PER_THREAD = 500_000

# And multiply-adds in all: to start threads takes as long as a core takes for half of these.
WORK_WORTH_A_START = 25_000_000

# Multiply-adds of a step, about half a millisecond, that is given up midway when somebody wishes to stop; and
# of a thread's part in phase 2, about 30 ms, that is too long to be waited for.
WORK_TO_GIVE_UP = 25_000_000
WORK_OF_PHASE_TWO = 2_000_000_000


# Rows and columns


def chunk_rows(architecture, batch_size):
    """Rows over which gradients are summed row by row; the sums over such chunks are added up then.

    All rows of a batch that is not very large, except where it has enough activations for the parameters and
    no layer needs all rows at once: there short chunks let a large batch stay in cache, and two threads share
    a step with nothing but sums between them. The answer changes the order of the sums, so it depends on the
    network and the batch alone, never on threads or machine.
    """
    short = batch_size < 2 * CHUNK_ROWS and architecture.multiply_adds(batch_size) < WORK_IN_CHUNKS
    activations = min(batch_size, 2 * CHUNK_ROWS) * sum(architecture.sizes[1:])
    many_parameters = architecture.parameter_offsets()[-1] > PARAMETERS_PER_ACTIVATION * activations
    if short or many_parameters or architecture.needs_all_rows:
        chunks = -(-batch_size // LONGEST_SUM)
    else:
        chunks = 2 * -(-batch_size // (2 * CHUNK_ROWS))  # an even number, for two threads
    return min(batch_size, -(-batch_size // (4 * chunks)) * 4)  # whole vectors of even the narrowest layer


def sums_in_chunks(architecture, batch_size):
    """Whether gradients of a batch are summed chunk by chunk of rows, then over chunks."""
    return chunk_rows(architecture, batch_size) < batch_size


def rows_of_a_block(architecture, batch_size, threads, keeps_all):
    """Rows that a thread takes through the network at a time, where they are not summed in chunks.

    keeps_all : whether the activations of all rows are kept, for the products of phase 2.
    """
    row_bytes = architecture.dtype.itemsize * sum(architecture.sizes) * (2 if keeps_all else 1)
    most = BLOCK_BYTES // row_bytes // 24 * 24  # 24: whole tiles of 3, 4, 6 and 8 rows
    # A block of wide layers outgrows the cache anyway; fewer rows than 144 would fetch W more often.
    most = max(144, min(480, most))
    share = -(-batch_size // threads)
    rows = -(-share // -(-share // most))  # equal blocks, none above `most`
    return -(-rows // 4) * 4  # whole vectors of even the narrowest layer: loops run to their end


def splits_columns(architecture, batch_size, threads):
    """Whether threads share the first layer's columns, rather than the rows of the batch.

    Rows move the updated weights between cores in every step, columns the activations and their gradients:
    columns where the layer has more inputs or outputs than the batch has rows, by far, and a vector for every
    thread. The bits are the same.
    """
    n_in, n_out = architecture.sizes[:2]
    if not architecture.is_dense(0):
        return False
    vectors = n_out // this_machine().lanes(architecture.real)
    return 1 < threads <= vectors and max(n_in, n_out) > 2 * batch_size and n_in * n_out > 8_000


def may_be_given_up(architecture, batch_size):
    """Whether a step is long enough to be left midway, and nothing has followed its rows by then, as running
    statistics do.
    """
    return architecture.multiply_adds(batch_size) > WORK_TO_GIVE_UP and not architecture.needs_all_rows


def gradients_first(architecture, batch_size, threads):
    """Whether gradients go to memory before any update: a step can be given up until the first update, and
    the phase 2 of this step is too long to wait for.
    """
    work = architecture.multiply_adds(batch_size) // (3 * threads)
    return work > WORK_OF_PHASE_TWO and may_be_given_up(architecture, batch_size)


# Threads

_calling = threading.local()  # .alone: whether other threads do the like of what this one does


def threads_for_training(architecture, batch_size, steps=None):
    """Threads for so many steps (None: many) of such a network: as `automatic_threads`, and two already where
    each may sum a chunk of the batch.
    """
    work = architecture.multiply_adds(batch_size)
    in_chunks = work >= WORK_IN_CHUNKS and sums_in_chunks(architecture, batch_size)
    return automatic_threads(work, steps, at_least=2 if in_chunks else 1)


def automatic_threads(multiply_adds, steps=None, at_least=1):
    """Threads for steps of so many multiply-adds: one for each portion of work, at most our cores.

    steps : how many there are, if they are few: a thread must be worth its start, too.
    """
    if getattr(_calling, "alone", False):
        return 1
    threads = max(at_least, multiply_adds // WORK_PER_THREAD)
    if steps is not None:
        threads = min(threads, steps * multiply_adds // WORK_WORTH_A_START)
    return max(1, min(available_cores(), threads))


@contextlib.contextmanager
def one_thread():
    """Within it, whatever the calling thread asks for takes this one thread, where nobody says otherwise."""
    _calling.alone = True
    try:
        yield
    finally:
        _calling.alone = False


def available_cores():
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
