"""Ctrl-C while compiled code runs: it asks the code to stop after its step."""

import contextlib
import signal
import threading

from .cpu.program import AFTER_STEP
from .cpu.team import POLL_SECONDS


class Interrupts:
    """While it is open, Ctrl-C asks the plan to stop after its step; a second one raises KeyboardInterrupt.

    The plan is a `Plan`, or anything else with ``start()``, ``stop()`` and ``steps_done``.
    Python could raise the first Ctrl-C too, but anywhere: between a call and the record of what it did.
    Handlers belong to the main thread, and one that is not Python's own is the caller's business.
    """

    def __init__(self, plan):
        self._plan, self._installed, self.asked, self._waits = plan, False, False, False

    def __enter__(self):
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *exception):
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(self, short, show, reasons=()):
        """One call of the plan: in this thread if it is short and needs but one, see `run_in_team`."""
        if short and self._plan.threads == 1:
            self._plan.run()
        else:
            run_in_team(self._plan, self, show, reasons)

    def _handle(self, number, frame):
        first, self.asked = not self.asked, True
        self._plan.stop()
        if self._waits or not first:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def waiting(self):
        """While the caller's own Python code runs, the first one raises KeyboardInterrupt there."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False


def run_whole(plan):
    """One call to its end; Ctrl-C gives up what a team does, and raises KeyboardInterrupt when it has."""
    if plan.threads == 1:
        plan.run()
        return
    with Interrupts(plan) as interrupts:
        run_in_team(plan, interrupts, lambda steps: None)
    if interrupts.asked:
        raise KeyboardInterrupt


def run_in_team(plan, interrupts, show, reasons=()):
    """One call in threads of its own, while this one shows how many steps are done.

    reasons : functions without arguments; where one returns True, the call ends after its step.
    """
    team = plan.start()
    try:
        while not team.wait(POLL_SECONDS):
            if interrupts.asked:
                plan.stop()
            elif any(reason() for reason in reasons):
                plan.stop(AFTER_STEP)
            show(plan.steps_done)
    except BaseException:  # a second Ctrl-C, or what a signal's handler of the caller's raised
        plan.stop()
        team.wait()
        raise
