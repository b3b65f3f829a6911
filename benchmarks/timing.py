"""How these benchmarks measure.

asv would time a benchmark's whole call, preparation included, and a kernel needs less than the call. So a
benchmark here measures for itself and returns seconds per unit (per element, per step, per row); `measured`
hands them to asv as the time that passed. asv still repeats, takes rounds in turn and compares samples; what
it prints reads as seconds per unit: smaller is better everywhere.
"""

import functools
import math
import time

REALS = ["float32", "float64"]


class Clock:
    """What asv reads as the time (its `timer`): the sum of all that a benchmark has measured."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def measured(**parameters):
    """Make an asv benchmark of a function that returns seconds per unit; ``parameters``: name=values."""

    def decorate(function):
        clock = Clock()

        @functools.wraps(function)
        def benchmark(*values):
            clock.seconds += function(*values)

        benchmark.timer = clock
        benchmark.timeout = 600  # a cold cache compiles
        if parameters:
            benchmark.params = [list(values) for values in parameters.values()]
            benchmark.param_names = list(parameters)
        return benchmark

    return decorate


def least(run, *, before=None, seconds=0.02, times=5):
    """The least time of many runs, in seconds: what the work takes when nothing disturbs it.

    ``before`` is called ahead of each run and is not counted.
    """
    best, runs, end = math.inf, 0, math.inf
    while runs < times + 1 or time.perf_counter() < end:
        if before is not None:
            before()
        start = time.perf_counter()
        run()
        elapsed = time.perf_counter() - start
        if runs:
            best = min(best, elapsed)
        else:
            end = start + elapsed + seconds  # the first run is warm-up
        runs += 1
    return best
