"""Ctrl-C: while compiled code runs, stop it after the current step; and Ctrl-C while code is compiled."""

import _thread
import contextlib
import signal
import threading
import time
import weakref

from .cpu.records import AFTER_STEP
from .cpu.team import POLL_SECONDS

# After so long a Ctrl-C that nobody has heard of is raised again.
SECONDS_UNTIL_AGAIN = 0.5


class Interrupts:
    """While it is open, Ctrl-C asks the plan to stop after its step; a second one raises KeyboardInterrupt.

    The plan is a `Plan`, or anything else with ``team()``, ``stop()`` and ``steps_done``.
    Python could raise the first Ctrl-C too, but anywhere: between a call and the record of what it did.
    Handlers belong to the main thread, and one that is not Python's own is the caller's business.

    Parameters
    ----------
    plan : Plan
        Or what is like it.
    nests : bool
        Whether a callback of a training may have begun this: then Ctrl-C asks both to stop.
    """

    def __init__(self, plan, nests=True):
        self._plan, self._nests, self.asked, self._waits = plan, nests, False, False
        self._replaced, self._around = None, None  # the handler of before, and the `Interrupts` that it is of

    def __enter__(self):
        if _handler_is_pythons():
            self._replaced = signal.default_int_handler
        elif self._nests and _is_main_thread() and isinstance(around := _who_hears(), Interrupts):
            self._replaced, self._around = signal.getsignal(signal.SIGINT), around
            self.asked = around.asked
        if self._replaced:
            signal.signal(signal.SIGINT, _handler_of(self))
        return self

    def __exit__(self, *exception):
        if self._replaced:
            signal.signal(signal.SIGINT, self._replaced)

    def run(self, short, show, reasons=()):
        """One call of the plan: in this thread if it is short and needs but one, see `run_in_team`."""
        if short and self._plan.threads == 1:
            self._plan.run()
        else:
            run_in_team(self._plan, self, show, reasons)

    def _handle(self, number, frame):
        first = not self.asked
        self._ask()
        if self._waits or not first:
            raise KeyboardInterrupt

    def _ask(self):
        self.asked = True
        self._plan.stop()
        if self._around:
            self._around._ask()

    @contextlib.contextmanager
    def instead(self, plan):
        """While another plan runs, that is the one to stop."""
        before, self._plan = self._plan, plan
        try:
            yield
        finally:
            self._plan = before

    @contextlib.contextmanager
    def waiting(self):
        """While the caller's own Python code runs, the first one raises KeyboardInterrupt there."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False


class NotLost:
    """While it is open, Ctrl-C raises KeyboardInterrupt until it is open no more.

    For the compilation of kernels: LLVM calls Python now and then, and what is raised there goes nowhere.
    """

    def __init__(self):
        self._asked, self._open, self._installed, self._lock = False, True, False, threading.Lock()

    def __enter__(self):
        if _handler_is_pythons():
            self._installed = True
            signal.signal(signal.SIGINT, _handler_of(self))

    def __exit__(self, kind, *exception):
        if not self._installed:
            return
        with self._lock:
            self._open = False
        signal.signal(signal.SIGINT, signal.default_int_handler)  # after one that `_again` sent
        if self._asked and kind is None:
            raise KeyboardInterrupt

    def _handle(self, number, frame):
        first, self._asked = not self._asked, True
        if not self._open:  # one that `_again` sent at the last moment
            return
        if first:
            threading.Thread(target=_raise_again, args=[weakref.ref(self)], daemon=True).start()
        raise KeyboardInterrupt


def _raise_again(reference):
    """While a `NotLost` is open, and there."""
    while True:
        time.sleep(SECONDS_UNTIL_AGAIN)
        not_lost = reference()
        if not_lost is None or not not_lost._open:
            return
        with not_lost._lock:
            if not_lost._open:
                _thread.interrupt_main()
        del not_lost


def _handler_of(listener):
    """A handler of signals that hands them to an object's ``_handle``, as long as there is that object.

    It is left without one, and is Python's again, where another signal's handler raises something just before
    the object would have put the handler of before back.
    """
    reference = weakref.ref(listener)

    def handle(number, frame):
        listener = reference()
        if listener is None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.default_int_handler(number, frame)
        listener._handle(number, frame)

    handle.fastbp_listener = reference
    return handle


def _who_hears():
    """The object whose handler Ctrl-C has; None where it is somebody else's, or Python's."""
    return getattr(signal.getsignal(signal.SIGINT), "fastbp_listener", lambda: None)()


def _handler_is_pythons():
    """Whether Ctrl-C comes here, and is as Python has it: any other handler is the caller's business."""
    handler = signal.getsignal(signal.SIGINT)
    left = hasattr(handler, "fastbp_listener") and _who_hears() is None
    return _is_main_thread() and (left or handler is signal.default_int_handler)


def _is_main_thread():
    return threading.current_thread() is threading.main_thread()


class GivenUp(BaseException):
    """A call within a training, its validation, was given up, as somebody asked the training to end."""


_within = threading.local()  # .interrupts: those of a training whose long calls may be given up


@contextlib.contextmanager
def may_be_given_up(interrupts):
    """Let `run_whole` raise GivenUp where a training shall end; for long calls, as each is a team's.

    interrupts : `Interrupts`, or anything else with ``asked``.
    """
    _within.interrupts = interrupts
    try:
        yield
    finally:
        _within.interrupts = None


def run_whole(plan):
    """One call to its end; Ctrl-C gives up what a team does, and raises KeyboardInterrupt when it has."""
    of_training = getattr(_within, "interrupts", None)
    if of_training:
        if not of_training.asked:
            with (
                of_training.instead(plan) if isinstance(of_training, Interrupts) else contextlib.nullcontext()
            ):
                run_in_team(plan, of_training, lambda steps: None)
        if of_training.asked:
            raise GivenUp
        return
    if plan.threads == 1:
        plan.run()
        return
    with Interrupts(plan, nests=False) as interrupts:
        run_in_team(plan, interrupts, lambda steps: None)
    if interrupts.asked:
        raise KeyboardInterrupt


def run_in_team(plan, interrupts, show, reasons=()):
    """One call in threads of its own, while this one shows how many steps are done.

    reasons : functions without arguments; where one returns True, the call ends after its step.
    """
    team = plan.team()
    try:
        team.start()
        while not team.wait(POLL_SECONDS):
            if interrupts.asked:
                plan.stop()
            elif any(reason() for reason in reasons):
                plan.stop(AFTER_STEP)
            show(plan.steps_done)
    except BaseException:  # a second Ctrl-C, or what a signal's handler of the caller's raised
        while team.runs:
            with contextlib.suppress(BaseException):  # another one
                plan.stop()
                team.wait()
        raise
