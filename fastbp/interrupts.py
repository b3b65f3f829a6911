"""Ctrl-C while compiled code runs: it asks the code to stop after its step."""

import signal
import threading

_POLL_SECONDS = 0.05


class Interrupts:
    """While it is open, Ctrl-C asks the plan to stop after its step; a second one raises KeyboardInterrupt.

    Python could raise the first one too, but anywhere: between a call and the record of what it did.
    Handlers belong to the main thread, and one that is not Python's own is the caller's business.
    """

    def __init__(self, plan):
        self._plan, self._installed, self.asked = plan, False, False

    def __enter__(self):
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *exception):
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number, frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._plan.stop()


def run_in_team(plan, interrupts, show, reasons=()):
    """One call in threads of its own, while this one shows how many steps are done.

    reasons : functions without arguments; where one returns True, the call ends after its step.
    """
    team = plan.start()
    try:
        while not team.wait(_POLL_SECONDS):
            if interrupts.asked or any(reason() for reason in reasons):
                plan.stop()
            show(plan.steps_done)
    except KeyboardInterrupt:
        plan.stop()
        team.wait()
        raise
