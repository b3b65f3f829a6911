"""fastbp/cpu/team.py: seconds of a barrier, and of starting and ending a team."""

import numpy as np

from fastbp.cpu import cache, step, team
from fastbp.cpu.records import OPERATION, SECTION
from fastbp.division import available_cores

from .operations import running
from .timing import least, measured

THREADS = [threads for threads in (2, 4, 8) if threads <= available_cores()] or [2]
BARRIERS = 20_000  # some milliseconds: far beyond what starting a team takes, and varies by


@measured(threads=THREADS)
def time_barrier(threads):
    """All of a team wait for each other, and nothing else happens."""
    return seconds_per_barrier(threads)


@measured(threads=THREADS)
def time_start_and_end(threads):
    """What a call that takes a team pays for it."""
    return _seconds(threads, 0)


def seconds_per_barrier(threads):
    """How long they wait, which tells how far apart the cores are that they are given just now."""
    return (_seconds(threads, BARRIERS) - _seconds(threads, 0)) / BARRIERS


def _seconds(threads, barriers):
    """The least seconds of a team that lives for so many barriers."""
    with running([2, 2], 4, threads=threads) as plan:
        operations = np.zeros(max(1, barriers), OPERATION)
        operations["kernel"] = cache.address(team.barrier)
        plan.set(program=operations.ctypes.data)
        section = np.array([(0, barriers, 0, 0)], SECTION)
        run, addresses = team.function(cache.address(step.run_section)), plan.contexts["address"].tolist()
        at = section.ctypes.data
        return least(
            lambda: team.Team(lambda context, _: run(context, at), addresses).start().wait(),
            before=plan.reset,
        )
