"""Ctrl-C while compiled code runs: it asks the code to stop after its step. And while it is compiled."""

import _thread
import contextlib
import signal
import threading
import time

from .cpu.program import AFTER_STEP
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
        elif self._nests and (around := _interrupts_that_are_open()):
            self._replaced, self._around, self.asked = around._handle, around, around.asked
        if self._replaced:
            signal.signal(signal.SIGINT, self._handle)
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
            signal.signal(signal.SIGINT, self._handle)

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
            threading.Thread(target=self._again, daemon=True).start()
        raise KeyboardInterrupt

    def _again(self):
        while self._open:
            time.sleep(SECONDS_UNTIL_AGAIN)
            with self._lock:
                if self._open:
                    _thread.interrupt_main()


def _handler_is_pythons():
    """Whether Ctrl-C comes here, and is as Python has it: any other handler is the caller's business."""
    return _is_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _interrupts_that_are_open():
    """Those that hear of Ctrl-C, if any do."""
    heard_by = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return heard_by if _is_main_thread() and isinstance(heard_by, Interrupts) else None


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
