"""Plans that a network keeps for its next call: each is lent to one caller at a time."""

import threading

from .plan import Plan

# So many wait at most, with so many bytes in all; the oldest goes first, but never the last.
PLANS_KEPT, BYTES_KEPT = 8, 256 << 20


class KeptPlans:
    """The plans of an architecture that wait for their next use, by what they were asked for."""

    def __init__(self, architecture):
        self.architecture, self._waiting, self._lock = architecture, {}, threading.Lock()

    def __len__(self):
        return len(self._waiting)

    def take(self, key):
        """The plan that waits under a key, or None."""
        with self._lock:
            return self._waiting.pop(key, None)

    def put_back(self, key, plan):
        """Let a plan wait that nobody uses."""
        with self._lock:
            self._waiting[key] = plan
            while len(self._waiting) > 1 and (len(self._waiting) > PLANS_KEPT or self._bytes() > BYTES_KEPT):
                del self._waiting[next(iter(self._waiting))]

    def _bytes(self):
        return sum(plan.bytes_in_all for plan in self._waiting.values())


class BorrowedPlan:
    """A context manager that lends a plan, one that was kept or a new one.

    kept : KeptPlans; it gets the plan where its use came to an end. task, rows : see `Choices`. where : a
    number of threads, or "cuda". options : dict of the plan's further arguments.
    """

    def __init__(self, kept, task, rows, where, options):
        self._kept, self._asked = kept, (task, rows, where, options)
        self._key = (task, rows, where, *sorted(options.items()))

    def __enter__(self):
        self._plan = self._kept.take(self._key)
        if self._plan is None:
            self._plan = _make_plan(self._kept.architecture, *self._asked)
        return self._plan

    def __exit__(self, kind, *exception):
        if kind is None:  # else it may have stopped in the middle of the rows
            self._kept.put_back(self._key, self._plan)


def _make_plan(architecture, task, rows, where, options):
    if where != "cuda":
        return Plan(architecture, task, rows, where, **options)
    from .device_plan import DevicePlan  # needs numba-cuda

    return DevicePlan(architecture, task, rows, **options)
