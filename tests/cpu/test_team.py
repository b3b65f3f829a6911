"""The barrier, under more threads than cores too, and the team."""

import _thread
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from numba import int64

from fastbp.cpu import team
from fastbp.cpu.cache import address
from fastbp.cpu.native import array, atomic_load, atomic_store
from fastbp.cpu.records import CONTEXT, KERNEL, SHARED, context
from fastbp.cpu.team import Team, function, wait_for_all
from fastbp.interrupts import run_in_team
from tests.samples import pythons_own_handler

ROUNDS = 2000


def rounds_with_a_barrier():
    """Each thread writes its round, waits, and counts the threads whose round is another; to ctx.losses."""

    def run(ctx_address, n_rounds):
        ctx = context(ctx_address)
        written, wrong = array(ctx.outputs, ctx.threads, int64), array(ctx.losses, ctx.threads, int64)
        for n in range(1, n_rounds + 1):
            written[ctx.thread] = n
            wait_for_all(ctx)
            for other in range(ctx.threads):
                if written[other] != n:
                    wrong[ctx.thread] += 1
            wait_for_all(ctx)

    return KERNEL, run


def wait_for_a_flag():
    """Spin until ctx.shared is not zero."""

    def run(ctx_address, _):
        ctx = context(ctx_address)
        while atomic_load(ctx.shared) == 0:
            pass
        atomic_store(ctx.outputs, 1)

    return KERNEL, run


def contexts_of(threads, **arrays):
    contexts = np.zeros(threads, CONTEXT)
    contexts["address"] = contexts.ctypes.data + CONTEXT.itemsize * np.arange(threads)
    contexts["thread"], contexts["threads"] = np.arange(threads), threads
    for name, value in arrays.items():
        contexts[name] = value.ctypes.data
    return contexts


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_nobody_passes_a_barrier_before_all_have_come(threads):
    shared = np.zeros(SHARED.itemsize, np.uint8)
    written, wrong = np.zeros(threads, np.int64), np.zeros(threads, np.int64)
    contexts = contexts_of(threads, shared=shared, outputs=written, losses=wrong)
    run = function(address(rounds_with_a_barrier, own=rounds_with_a_barrier))
    rounds = ROUNDS if threads <= 2 else ROUNDS // 10  # more threads than cores yield at every barrier
    workers = Team(lambda ctx, _: run(ctx, rounds), contexts["address"].tolist()).start()
    assert workers.wait(60)
    assert (written == rounds).all()
    assert not wrong.any()
    assert (contexts["ticket"] == 2 * rounds * threads).all()
    assert shared.view(np.int64)[0] == 2 * rounds * threads


def test_kernels_run_without_the_interpreter_lock():
    flag, done = np.zeros(1, np.int64), np.zeros(1, np.int64)
    contexts = contexts_of(1, shared=flag, outputs=done)
    run = function(address(wait_for_a_flag, own=wait_for_a_flag))
    workers = Team(run, contexts["address"].tolist()).start()
    assert not workers.wait(0.01)
    assert done[0] == 0
    flag[0] = 1  # this line runs while the kernel spins
    assert workers.wait(60)
    assert done[0] == 1


def test_wait_is_bounded_in_all():
    gate = threading.Event()
    workers = Team(lambda ctx, _: gate.wait(), [0, 1, 2]).start()
    start = time.perf_counter()
    assert workers.wait(0.05) is False
    assert time.perf_counter() - start < 5
    gate.set()
    assert workers.wait() is True


def test_a_team_leaves_nothing_behind():
    before, calls = _thread._count(), []
    Team(lambda ctx, second: calls.append((ctx, second)), [5, 7]).start().wait()
    assert sorted(calls) == [(5, 0), (7, 0)]
    for _ in range(1000):  # they are done, and end
        if _thread._count() == before:
            break
        time.sleep(0.01)
    assert _thread._count() == before


def test_function_says_when_a_kernel_raised():
    def failing():
        def run(a, b):
            raise IndexError

        return KERNEL, run

    with pytest.raises(RuntimeError, match="a kernel raised"):
        function(address(failing, own=failing))(0, 0)


def test_barrier_is_an_operation():
    shared = np.zeros(SHARED.itemsize, np.uint8)
    contexts = contexts_of(1, shared=shared)
    function(address(team.barrier))(np.zeros(200, np.int64).ctypes.data, int(contexts["address"][0]))
    assert shared.view(np.int64)[0] == 1


def test_a_wait_without_limit_lasts_whatever_interrupts_it():
    shared, done = np.zeros(SHARED.itemsize, np.uint8), np.zeros(1, np.int64)
    contexts = contexts_of(1, shared=shared, outputs=done)
    run = function(address(wait_for_a_flag, own=wait_for_a_flag))
    workers, interrupts = Team(run, contexts["address"].tolist()).start(), []

    main = threading.get_ident()

    def interrupt_twice():
        for _ in range(2):
            time.sleep(0.02)
            interrupts.append(1)
            signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.02)
        shared.view(np.int64)[0] = 1

    interrupter = threading.Thread(target=interrupt_twice)
    with pythons_own_handler():
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            workers.wait()
    assert (len(interrupts), done[0]) == (2, 1)


class Raised(Exception):
    """By a signal's handler, or where there are no more threads."""


def test_no_thread_begins_where_not_all_can_be_started():
    """They would wait at a barrier for ever, for one that is missing."""
    started, calls = [], []

    def start_two(run, arguments):
        if len(started) == 2:
            raise Raised
        started.append(threading.Thread(target=run, args=arguments))
        started[-1].start()

    workers = Team(lambda *arguments: calls.append(arguments), [0, 1, 2], start_thread=start_two)
    with pytest.raises(Raised):
        workers.start()
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()
    assert not calls
    assert not workers.runs


def test_what_a_handler_raises_leaves_no_thread_behind(monkeypatch):
    """However often: while a call begins, while it is waited for, and while it is ended."""
    ended, wait, waits, stops = threading.Event(), Team.wait, [], []

    class Plan:
        steps_done = 0

        def team(self):
            return Team(lambda *arguments: ended.wait(60), [0, 1])

        def stop(self):
            if len(waits) == 1 and not stops:
                stops.append(1)
                raise Raised
            ended.set()

    def disturbed(workers, seconds=None, meanwhile=None):
        waits.append(workers)
        if len(waits) < 4:
            raise Raised
        return wait(workers, seconds, meanwhile)

    monkeypatch.setattr(Team, "wait", disturbed)
    before = _thread._count()
    with pytest.raises(Raised):
        run_in_team(Plan(), SimpleNamespace(asked=False), lambda steps: None)
    assert ended.is_set()
    assert not waits[0].runs
    for _ in range(1000):
        if _thread._count() == before:
            break
        time.sleep(0.01)
    assert _thread._count() == before
