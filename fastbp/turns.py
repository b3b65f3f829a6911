"""How the trainings of `train_many` take turns: one to a thread, or side by side on a GPU.

Threads take jobs from a queue, the longest first. To what runs and stops a training, all of them together
look like one plan.
"""

import functools
from collections import deque

from . import own_activations
from .cpu.records import AFTER_STEP
from .cpu.team import Team, start_python_thread
from .division import one_thread
from .interrupts import Interrupts, run_in_team
from .plan import Plan
from .progress import Rows

# A plan that has no more than this to forget is used again. One of a larger network takes less time to build
# than its first epoch takes.
BYTES_TO_FORGET = 1 << 20

# What Python does for a network, roughly. Threads take turns at that, and while they wait for theirs they are
# slower than one thread alone: 0.2 instead of 0.1 ms for a network that trains for a microsecond.
SECONDS_OF_PYTHON = 1e-4

# On a GPU, where all wait while Python turns to one after the other, calls are so long that this share of the
# time goes into it.
SHARE_OF_PYTHON = 0.1

# Plans that a thread keeps for its next networks; the oldest goes first.
PLANS_KEPT = 8


class Turns:
    """The turns of all jobs, however they are run. To `Interrupts` it is what a plan is."""

    def __init__(self, jobs, progress, turns):
        self._jobs, self._turns, self._errors, self.stopped = jobs, turns, {}, False
        rows = [(job.epochs * job.n_rows, job.epochs_before * job.n_rows) for job in jobs]
        total, before = map(sum, zip(*rows, strict=True))
        self._bar = Rows(progress, total, before)

    def run(self):
        """All jobs; returns the errors by the number of their job."""
        try:
            with Interrupts(self) as interrupts:
                self._run(interrupts)
                self.look()
        finally:
            self._bar.close()
        heard = interrupts.asked and all(turn.ended for turn in self._turns)  # too late for any of them
        for job, turn in zip(self._jobs, self._turns, strict=True):
            job.history.interrupted |= heard or not turn.ended
        return self._errors

    def stop(self):
        """Ask every job to end after its step, and begin no other."""
        self.stopped = True
        for turn in self._turns:
            plan = turn.plan
            if plan is not None:
                plan.stop()

    def look(self, steps=0):
        """From time to time: whether a call shall end, and how far all are."""
        for turn in self._turns:
            turn.look()
        ended = sum(turn.ended for turn in self._turns)
        self._bar.show(
            sum(turn.rows_done() for turn in self._turns), {"networks": f"{ended}/{len(self._turns)}"}
        )


class Crew(Turns):
    """Threads that take one job after another. To `run_in_team` it is what a plan is."""

    def __init__(self, jobs, threads, progress):
        super().__init__(jobs, progress, [Turn(self, job) for job in jobs])
        self._threads = threads
        self._queue = deque(sorted(range(len(jobs)), key=lambda index: -jobs[index].guess_seconds()))

    def _run(self, interrupts):
        run_in_team(self, interrupts, self.look)

    def team(self):
        """Its threads, to be started; they are part of it."""
        self._team = Team(self._work, range(self._threads), start_thread=start_python_thread)
        return self

    def start(self):
        """Let the threads begin."""
        self._team.start()

    @property
    def runs(self):
        """As `Team.runs`."""
        return self._team.runs

    def wait(self, seconds=None):
        """As `Team.wait`. A call that was beginning has not heard that it shall stop: it is told again."""
        ended = self._team.wait(seconds, self._tell_again)
        if not ended:
            self._tell_again()
        return ended

    def _tell_again(self):
        if self.stopped:
            self.stop()

    @property
    def steps_done(self):
        """Nobody counts; `look` counts rows."""
        return 0

    def _work(self, thread, _):
        """What one thread does."""
        make_plan = Plans()
        with one_thread():
            while not self.stopped:
                try:
                    index = self._queue.popleft()
                except IndexError:
                    return
                job, turn = self._jobs[index], self._turns[index]
                try:
                    # Who has seen the training may write to its plan later on: that one is used by no other.
                    job.run(turn, turn.begin, Plan if job.callbacks else make_plan)
                except BaseException as error:
                    self._errors[index] = error
                turn.end()


class OnDevice(Turns):
    """All jobs on a GPU: side by side those that a block of threads can do, then each other one alone."""

    def __init__(self, jobs, progress):
        from .device_plan import fits_block  # needs numba-cuda
        from .device_small import Blocks

        turns = [
            (TurnInBlocks if fits_block(job.network.architecture, job.batch_size, job.materialise)
             else TurnAlone)(self, job) for job in jobs
        ]  # fmt: skip
        super().__init__(jobs, progress, turns)
        self._blocks = Blocks()

    def _run(self, interrupts):
        together = [turn for turn in self._turns if isinstance(turn, TurnInBlocks)]
        try:
            for turn in together:
                turn.prepare(self._blocks, len(together) * SECONDS_OF_PYTHON / SHARE_OF_PYTHON)
            for turn in together:
                self._go_on(turn)
            while any(not turn.ended for turn in together):
                self._blocks.launch()
                self.look()
                if self.stopped:  # a call that was beginning has not heard of it
                    self.stop()
                for turn in together:
                    if turn.waits:
                        self._go_on(turn)
        finally:
            for turn in together:
                turn.close_calls()
        for index, (job, turn) in enumerate(zip(self._jobs, self._turns, strict=True)):
            if isinstance(turn, TurnAlone) and not self.stopped:
                try:
                    job.run(turn, turn.begin)
                except Exception as error:
                    self._errors[index] = error
                turn.end()

    def _go_on(self, turn):
        """From one call to the next; what happens between them is that of a training alone."""
        try:
            turn.go_on()
        except StopIteration:
            turn.end()
        except Exception as error:
            self._errors[self._turns.index(turn)] = error
            turn.end()


class Turn:
    """A job's turn: what `Interrupts` and `Bar` are to a training alone."""

    def __init__(self, crew, job):
        self._crew, self._job, self.plan, self.ended, self._rows = crew, job, None, False, 0

    @property
    def asked(self):
        """Whether to end after the current step."""
        return self._crew.stopped

    def begin(self, plan):
        """The conductor of a training by this plan."""
        self._plan = plan
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def run(self, short, show, reasons=()):
        """A call, in this thread; another one looks for reasons to end it."""
        self._reasons, self.plan = reasons, self._plan
        try:
            self._plan.run()
        finally:
            self.plan = None

    def look(self):
        """End the call where there is a reason."""
        plan = self.plan
        if plan is not None and not self.asked and any(reason() for reason in self._reasons):
            plan.stop(AFTER_STEP)

    def show(self, rows, history=None):
        """Remember how many rows are done after a call."""
        self._rows = rows

    def close(self):
        """No bar of its own."""

    def rows_done(self):
        """Rows that are done; of a job that has ended, all that it was to do."""
        if self.ended:
            return self._job.epochs * self._job.n_rows
        plan = self.plan
        return self._rows + (0 if plan is None else plan.steps_done * plan.batch_size)

    def end(self):
        """Over: let go of what only this training needed."""
        self._plan, self._job.data = None, None
        self.ended = True


class TurnAlone(Turn):
    """The turn of a job that has the GPU for itself."""

    def run(self, short, show, reasons=()):
        """A call, in a thread of its own; this one looks how far it is."""
        self._reasons, self.plan = (), self._plan
        try:
            run_in_team(self.plan, self, self._crew.look, reasons)
        finally:
            self.plan = None


class TurnInBlocks(Turn):
    """The turn of a job whose calls are run together with those of others.

    Attributes
    ----------
    waits : bool
        Whether its call has ended, so that it can go on.
    """

    _calls = _call = None

    def prepare(self, blocks, seconds_per_call):
        """Make its plan, one of `blocks`; its calls shall last so long at least, if nothing is due."""
        training, plan = self._job.training(functools.partial(self._job.make_plan, blocks=blocks))
        training._least_seconds_per_call = seconds_per_call
        self._calls = training._calls(self._job.checkpoint, self, self.begin(plan))

    def go_on(self):
        """Begin the next call; raises StopIteration where there is none, or what ended the training."""
        if self._call is not None:
            self._call.seconds, self.plan = self._plan.seconds, None
        self._call = next(self._calls)
        self._call()

    def run(self, short, show, reasons=()):
        """Ask for a call: `Blocks.launch` runs it."""
        self._reasons, self.plan = reasons, self._plan
        self.plan.begin()
        self.plan.ask()

    @property
    def waits(self):
        """See above."""
        return not (self.ended or self._plan.is_asked)

    def close_calls(self):
        """Whatever happened: the network has whole weights."""
        if self._calls is not None:
            self._calls.close()


class Plans:
    """Called like `Plan`: the plans of one thread, small ones used again."""

    def __init__(self):
        self._kept = {}

    def __call__(self, *arguments, **options):
        """A `Plan`, which may be one that was used before."""
        key = (*arguments, *sorted(options.items()), own_activations.replacements)
        plan = self._kept.get(key)
        if plan is not None:
            plan.renew()
            return plan
        plan = Plan(*arguments, **options)
        if plan.n_bytes <= BYTES_TO_FORGET:
            self._kept[key] = plan
            if len(self._kept) > PLANS_KEPT:
                del self._kept[next(iter(self._kept))]
        return plan
