"""train_many(): several networks side by side, one to a thread.

Every network is a `Job`, checked before the first one begins; threads take the jobs from a queue, the longest
first. A job runs as it would alone, so its bits are those of `train`. What the networks have in common is
done once: data are checked and copied once, and small networks of one architecture share a plan, one after
the other.
"""

import copy
import functools
import inspect
from collections import Counter, deque

import numpy as np

from . import own_activations
from . import validation as checks
from .callbacks import Callback, EarlyStopping
from .checkpoints import Checkpoints, check_places
from .cpu.records import AFTER_STEP
from .cpu.team import Team, start_python_thread
from .data import Data
from .division import available_cores, one_thread
from .interrupts import Interrupts, run_in_team
from .jobs import Job, progress_wanted, train
from .network import Network
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


def train_many(networks, x, y, *, threads=None, progress="auto", device="cpu", **options):
    """Train several networks side by side: ensembles, seeds, sweeps.

    Parameters
    ----------
    networks : sequence of Network
        Of any architectures, each another object. Their parameters are changed in place.
    x, y : array-like, or list of arrays
        As for `train`, but no stream; a list of arrays has one for each network, anything else, nested lists
        of numbers included, is shared. Shared data are checked, and converted where need be, once.
    threads : int, optional
        How many networks are trained at a time, each by one thread; by default as many as there are cores.
        Fewer where networks are so small that Python would be most of the work.
    progress : bool or "auto"
        Whether to show a progress bar over the rows of all networks; "auto" does in a terminal or notebook
        if it takes seconds.
    device : {"cpu", "cuda"}
        "cuda" trains on an NVIDIA GPU: small networks all at once, a block of its threads for each; see
        Notes. It needs the extra ``fastbp[cuda]``.
    **options
        Every other option of `train` but `verbose`: one value for all networks, or a list with one value for
        each. Where no value is itself a sequence, a tuple, a range or an array (n_networks,) will do as well
        as a list. Where it is, these are one for each network, and anything else is one for all: a list of
        lists for `metrics` and `callbacks`; a list of arrays (or None) for `sample_weight`; a list in which
        not all are numbers for `class_weight`; any list, not tuple, for `validation`.

    Returns
    -------
    list of History
        In the order of the networks.

    Raises
    ------
    TypeError, ValueError, OSError, RuntimeError
        As `train`, before any network has changed. The message names the network, counted from 0.
    Exception
        What ended the training of a network: `DivergenceError`, what a callback raised, a checkpoint that
        cannot be written. All other networks are trained to their end first; the one in question is as
        `train` leaves it. The message names the network, and the error has ``network``, its number;
        ``errors``, a dict of the errors of all networks that failed, by their numbers, whose first this is;
        and ``histories``, what would have been returned, up to the errors.

    Notes
    -----
    Each network has the same bits as after ``train(network, x, y, …)`` alone, for any number of threads.

    Orders of rows, and rows drawn by ``validation=0.2``, are functions of the seed, by default each network's
    own; ``seed=0`` gives all the same.

    Ctrl-C ends all within moments: networks in training keep the weights of their last whole step, and their
    histories say so; of those that had not begun, histories are empty, and say so too. These have no
    checkpoint either: `resume` may be a list with None for them.

    Callbacks are called in the thread that trains the network. A function may be given for all networks; it
    is called by several threads then, at the same time. A `Callback` or `Checkpoints` keeps what it knows of
    one training, so each network needs its own; of `early_stopping` each gets a copy.

    With ``device="cuda"`` each network has the bits of ``device="cpu"`` too. The notes of `train` say which
    networks are small: these are trained side by side, whatever their activations, losses and optimizers. All
    others are trained one after the other, when the small ones are done. All that `train` does between calls
    is done between launches, of a quarter of a second at most: validation, metrics, callbacks, checkpoints.
    Where these look after each epoch, networks wait for each other there. Callbacks are called in the calling
    thread. Ctrl-C ends all after the steps that were launched. `threads` has no effect.

    Examples
    --------
    >>> import fastbp
    >>> x, y = fastbp.datasets.digits()
    >>> networks = [fastbp.Network([64, 16, 10], loss="softmax_cross_entropy", seed=i) for i in range(3)]
    >>> rates = [fastbp.SGD(rate) for rate in (0.1, 0.2, 0.4)]
    >>> histories = fastbp.train_many(networks, x, y, epochs=2, optimizer=rates)
    >>> [len(history) for history in histories]
    [2, 2, 2]
    """
    networks = _as_networks(networks)
    options = _for_each(x, y, options, len(networks))
    progress = progress_wanted(progress)
    threads = available_cores() if threads is None else checks.threads(threads)
    device = checks.device(device)
    jobs = _jobs(networks, options, device)
    if device == "cuda":
        errors = _OnDevice(jobs, progress).run()
    else:
        errors = _Crew(jobs, _useful_threads(jobs, threads), progress).run()
    if errors:
        _raise_first(errors, [job.history for job in jobs])
    return [job.history for job in jobs]


# What is asked for


def _as_networks(networks):
    """A list of networks, at least one, none of them twice."""
    try:
        networks = list(networks)
    except TypeError:
        raise TypeError(f"networks must be a list of networks; got {networks!r}") from None
    if not networks:
        raise ValueError("networks must have at least one network; got none")
    for index, network in enumerate(networks):
        if not isinstance(network, Network):
            raise TypeError(f"networks must be of fastbp.Network; number {index} is {network!r}")
    index, times = Counter(map(id, networks)).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"networks must be different objects; number {list(map(id, networks)).index(index)} is there "
            f"{times} times"
        )
    return networks


# Options of `train` that several trainings do not have each for itself.
_OF_ALL = ("network", "threads", "progress", "device", "verbose")

_TAKEN_ONCE = {
    name: parameter.default
    for name, parameter in inspect.signature(train).parameters.items()
    if name not in _OF_ALL
}


def _is_array(value):
    return len(getattr(value, "shape", ())) > 0


def _is_list_of_arrays(values):
    return any(map(_is_array, values)) and all(value is None or _is_array(value) for value in values)


def _is_list_of_lists(values):
    return any(isinstance(value, (list, tuple)) for value in values)


# Options of which a list can be one value: when it has one value for each network instead.
_IS_FOR_EACH = {
    "x": _is_list_of_arrays,
    "y": _is_list_of_arrays,
    "sample_weight": lambda values: _is_list_of_arrays(values) or all(value is None for value in values),
    "metrics": _is_list_of_lists,
    "callbacks": _is_list_of_lists,
    "class_weight": lambda values: not all(isinstance(value, (int, float, np.number)) for value in values),
    "validation": lambda values: True,
}


def _for_each(x, y, options, n):
    """The options of each network, a list of n dicts that have every one."""
    for name in options:
        if name == "verbose":
            raise TypeError("verbose= is for one network; of several, progress=True shows how far they are")
        try:
            checks.known_name("option", name, _TAKEN_ONCE)
        except ValueError as error:
            raise TypeError(f"train_many: {error}") from None
    columns = {
        name: _column(name, value, n) for name, value in {**_TAKEN_ONCE, **options, "x": x, "y": y}.items()
    }
    if any(each is None for each in columns["y"]):
        raise TypeError(
            "train_many needs y, the targets of x: networks would have to wait for each other at every chunk "
            "of a stream, so each of those is for train"
        )
    _check_apart(columns)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _column(name, value, n):
    """The n values of an option."""
    if name in _IS_FOR_EACH:
        for_each = isinstance(value, list) and _IS_FOR_EACH[name](value)
    else:
        for_each = isinstance(value, (list, tuple, range)) or (isinstance(value, np.ndarray) and value.ndim)
    if not for_each:
        return [value] * n
    if len(value) != n:
        what = "arrays" if name in ("x", "y") else "values"
        raise ValueError(f"{name} has a list of {len(value)} {what}, but there are {n} networks")
    return list(value)


def _check_apart(columns):
    """Refuse what can serve but one network; give each its own copy of what can be copied."""
    columns["early_stopping"] = [
        copy.deepcopy(each) if isinstance(each, EarlyStopping) else each for each in columns["early_stopping"]
    ]
    owned = [each for each in columns["checkpoints"] if isinstance(each, Checkpoints)]
    lists = [each for each in columns["callbacks"] if isinstance(each, (list, tuple))]
    owned += [each for callbacks in lists for each in callbacks if isinstance(each, Callback)]
    check_places(owned)
    times = Counter(map(id, owned))
    for callback in owned:
        if times[id(callback)] > 1:
            raise ValueError(
                f"a {type(callback).__name__} keeps what it knows of one training, so each network needs its "
                f"own, in a list with one for each; one is given {times[id(callback)]} times"
            )


def _jobs(networks, options, device="cpu"):
    """A job for each network; raises what `train` would, and says for which."""
    jobs, shared = [], _SharedData()
    for index, (network, chosen) in enumerate(zip(networks, options, strict=True)):
        try:
            job = Job(network, **chosen, threads=1, verbose=False, device=device, data_of=shared)
        except (TypeError, ValueError, OSError) as error:
            raise _named(error, index) from None
        if shared.draws_rows(chosen["validation"]):
            job.data = None  # rows of its own: made again when it is its turn, lest all be there at once
        jobs.append(job)
    return jobs


def _useful_threads(jobs, threads):
    """At most so many threads, and no more than have something to do beside Python."""
    compiled = sum(job.guess_seconds() for job in jobs)
    return min(threads, len(jobs), 1 + int(compiled / (len(jobs) * SECONDS_OF_PYTHON)))


class _SharedData:
    """Called like `Data`; makes one for all networks that take the same objects in the same form."""

    def __init__(self):
        self._checked, self._made = {}, {}

    @staticmethod
    def draws_rows(validation):
        """Whether rows to validate on are drawn by the seed, rather than given."""
        return not (validation is None or isinstance(validation, (tuple, list)))

    def __call__(self, network, x, y, batch_size, epochs, **rows):
        loss, sizes = network.loss_function.formula, network.architecture.sizes
        form = (sizes[0], sizes[-1], id(loss), network.dtype.name, id(x), id(y))
        if form not in self._checked:
            self._checked[form] = network.check_data(x, y, keep_bytes=True, keep_sparse=True)
        given = (network, *self._checked[form], batch_size, epochs)
        if self.draws_rows(rows["validation"]):
            return Data(*given, **rows)
        weights = id(rows["sample_weight"]), id(rows["class_weight"])
        held_out = tuple(map(id, rows["validation"] or ()))
        key = (form, weights, rows["sampling"], rows["shuffle"], held_out)
        if key not in self._made:
            self._made[key] = Data(*given, **rows)
        return self._made[key].again(batch_size, epochs)


# How it is done


class _Turns:
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


class _Crew(_Turns):
    """Threads that take one job after another. To `run_in_team` it is what a plan is."""

    def __init__(self, jobs, threads, progress):
        super().__init__(jobs, progress, [_Turn(self, job) for job in jobs])
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
        make_plan = _Plans()
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


class _OnDevice(_Turns):
    """All jobs on a GPU: side by side those that a block of threads can do, then each other one alone."""

    def __init__(self, jobs, progress):
        from .device_plan import fits_block  # needs numba-cuda
        from .device_small import Blocks

        turns = [
            (_TurnInBlocks if fits_block(job.network.architecture, job.batch_size, job.materialise)
             else _TurnAlone)(self, job) for job in jobs
        ]  # fmt: skip
        super().__init__(jobs, progress, turns)
        self._blocks = Blocks()

    def _run(self, interrupts):
        together = [turn for turn in self._turns if isinstance(turn, _TurnInBlocks)]
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
            if isinstance(turn, _TurnAlone) and not self.stopped:
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


class _Turn:
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


class _TurnAlone(_Turn):
    """The turn of a job that has the GPU for itself."""

    def run(self, short, show, reasons=()):
        """A call, in a thread of its own; this one looks how far it is."""
        self._reasons, self.plan = (), self._plan
        try:
            run_in_team(self.plan, self, self._crew.look, reasons)
        finally:
            self.plan = None


class _TurnInBlocks(_Turn):
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


class _Plans:
    """Called like `Plan`: the plans of one thread, small ones used again."""

    def __init__(self):
        self._kept = {}

    def __call__(self, *arguments, **options):
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


# What went wrong


def _named(error, index):
    """The error, its message beginning with the network's number."""
    if isinstance(error, OSError) and error.strerror:
        error.strerror = f"network {index}: {error.strerror}"
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"network {index}: {error.args[0]}", *error.args[1:])
    else:  # shown by Python 3.11 and later
        error.__notes__ = [*getattr(error, "__notes__", []), f"network {index}"]
    return error


def _raise_first(errors, histories):
    """Raise the error of the network that comes first."""
    first = min(errors)
    error = _named(errors[first], first)
    error.network, error.errors, error.histories = first, dict(sorted(errors.items())), histories
    raise error
