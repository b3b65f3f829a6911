"""Threads: a barrier for kernels, and Python threads that run the compiled step.

No threading layer and no pool: a team lives for one call, so nothing survives to trouble a fork or another
training.
"""

import _thread
import ctypes
import functools
import threading

from fastbp.cpu.native import atomic_add, atomic_load, atomic_store, part, relax, yield_to_others
from fastbp.cpu.records import ARRIVED, AT_ONCE, GIVEN_UP, STOP, kernel

# Looks at the counter before a waiting thread lets others run: about 20 µs, far beyond any barrier of a
# step in which every thread has a core, and soon enough where threads outnumber cores.
SPINS = 1000

# Seconds after which somebody who waits for a team looks around.
POLL_SECONDS = 0.05


@part
def wait_for_all(ctx):
    """Return when every thread of the team has arrived."""
    ctx.ticket += ctx.threads
    arrived = ctx.shared + ARRIVED
    atomic_add(arrived, 1)
    looks = 0
    while atomic_load(arrived) < ctx.ticket:
        looks += 1
        if looks < SPINS:
            relax()
        else:
            yield_to_others()


@part
def gives_up(ctx):
    """Whether somebody wishes the run to stop at once; the step is given up then, for all threads.

    They find it marked behind the next barrier. The mark is beyond the tickets of those before: a thread that
    is still behind one of them leaves it to that barrier, too, where the others will wait for it.
    """
    if atomic_load(ctx.shared + STOP) != AT_ONCE:
        return False
    atomic_store(ctx.shared + GIVEN_UP, ctx.ticket + 1)
    return True


@part
def is_given_up(ctx):
    """Whether that was marked before the barrier that this thread has just passed; of one thread, at all."""
    mark = atomic_load(ctx.shared + GIVEN_UP)
    return mark != 0 and (ctx.threads == 1 or mark <= ctx.ticket)


def barrier():
    """An operation like any other: what follows it sees all that every thread did before it."""

    def barrier(op, ctx):
        wait_for_all(ctx)

    return kernel(barrier)


RAISED = "a kernel raised an exception: it was compiled with checks, and one of them failed"

# Numba's native calling convention: a place for the result, a place for an exception, the arguments. Calls
# through ctypes release the interpreter lock.
_prototype = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
)


def function(address):
    """The compiled ``function(int64, int64)`` at an address, for Python; without the interpreter lock."""
    native, nowhere = _prototype(address), (ctypes.c_void_p * 1)()

    def call(first, second):
        if native(nowhere, nowhere, first, second):
            raise RuntimeError(RAISED)

    return call


def bound(address, first, second):
    """The same with its arguments fixed, for the least overhead; returns 0, or not where it raised."""
    nowhere = ctypes.pointer(ctypes.c_void_p())
    place = ctypes.cast(nowhere, ctypes.c_void_p)
    return functools.partial(_prototype(address), place, place, ctypes.c_int64(first), ctypes.c_int64(second))


def start_python_thread(run, arguments):
    """Start a thread that `threading` knows of; it takes longer."""
    threading.Thread(target=run, args=arguments, daemon=True).start()


class Team:
    """Threads that each call a compiled function once, with the address of their own context.

    ``Team(run, contexts).start()`` returns at once; ``wait(seconds)`` says whether all are done. They write
    to memory of the caller's: a wait without limit raises what interrupts it (Ctrl-C) when all have ended.

    keeps : whatever that memory belongs to, which then lives as long as the threads do. start_thread : what
    starts one, which for those that run Python shall be `start_python_thread`.
    """

    def __init__(self, run, contexts, keeps=None, start_thread=_thread.start_new_thread):
        self._run, self._left, self._lock = run, len(contexts), threading.Lock()
        self._keeps, self._begun = keeps, False
        # A bare lock that the last thread opens: what a signal's handler raises leaves an Event, or
        # Thread.join, confused about who has ended.
        self._ended = threading.Lock()
        self._ended.acquire()
        self._failure = None
        self._contexts, self._start_thread = contexts, start_thread

    def _work(self, context):
        with self._lock:  # that `start` has until all are there
            if not self._begun:
                return
        try:
            self._run(context, 0)
        except Exception as error:
            self._failure = error
        finally:
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._ended.release()

    def start(self):
        """Start every thread; returns the team.

        None begins before all are there, as they would wait for one that is missing. Where they cannot all be
        started, or a signal's handler raises meanwhile, none ever does.
        """
        with self._lock:
            for context in self._contexts:
                self._start_thread(self._work, (context,))
            self._begun = True
        return self

    @property
    def runs(self):
        """Whether the threads have begun and not all of them have ended."""
        with self._lock:
            return self._begun and self._left > 0

    def wait(self, seconds=None, meanwhile=None):
        """Wait for the threads, at most so many seconds (None: no limit); True when all have ended.

        meanwhile : function without arguments, called now and then in a wait without limit.
        """
        interrupt = None
        while self._left:
            limit = POLL_SECONDS if seconds is None and meanwhile else seconds
            try:
                if not self._ended.acquire(timeout=-1 if limit is None else limit):
                    if seconds is not None:
                        return False
                    meanwhile()
            except BaseException as error:
                if seconds is not None:
                    raise
                interrupt = error
        if interrupt is not None:
            raise interrupt
        if self._failure:
            raise self._failure
        return True
