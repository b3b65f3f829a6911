"""How these benchmarks measure.

asv would time a benchmark's whole call, preparation included, and a kernel needs less than the call. So a benchmark
here measures for itself and returns seconds per unit (per element, per step, per row); `measured` hands them to
asv as the time that passed. asv still repeats, takes rounds in turn and compares samples, and what it prints reads
as seconds per unit: smaller is better everywhere.
"""

import functools
import math
import time

import numpy as np

from fastbp.cpu import step, team
from fastbp.cpu.cache import address
from fastbp.cpu.program import CONTEXT, OPERATION, SECTION
from fastbp.plan import aligned_zeros

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


def array(shape, real, fill=0):
    """An array as a plan would lay it out: 64-byte aligned, with a margin behind it that kernels may read."""
    shape = (shape,) if isinstance(shape, int) else shape
    n = math.prod(shape)
    values = aligned_zeros((n + 64) * np.dtype(real).itemsize).view(real)[:n].reshape(shape)
    values[...] = fill
    return values


class Program:
    """Operations that run one after the other in one compiled call, through the same table as a step's.

    Parameters
    ----------
    operations : list of dict
        Fields of each operation's record; an array stands for its address.
    **context
        Fields of the context's record, likewise.
    """

    def __init__(self, operations, **context):
        self._kept = [*context.values(), *(value for operation in operations for value in operation.values())]
        self.operations, self.context = np.zeros(max(1, len(operations)), OPERATION), np.zeros(1, CONTEXT)
        for record, fields in zip(self.operations, operations):
            _fill(record, fields)
        self.operations["address"] = _addresses(self.operations)
        _fill(self.context[0], context)
        _fill(self.context[0], dict(address=self.context, program=self.operations, threads=1))
        self._section = np.array([(0, len(operations), 0)], SECTION)
        self._run = team.function(address(step.run_section))
        self._arguments = self.context.ctypes.data, self._section.ctypes.data

    def __call__(self):
        self._run(*self._arguments)

    def seconds(self, *, before=None):
        """The least time of one run, without what the call itself takes."""
        return max(least(self, before=before) - empty_call(), 1e-12)


@functools.cache
def empty_call():
    """Seconds of a call of compiled code that does nothing."""
    return least(Program([]))


def _addresses(records):
    return records.ctypes.data + records.itemsize * np.arange(len(records))


def _fill(record, fields):
    for field, value in fields.items():
        record[field] = value.ctypes.data if isinstance(value, np.ndarray) else value
