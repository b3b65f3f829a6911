"""A training while it runs: epochs of compiled steps, and what happens between them."""

import contextlib
import copyreg
import math
import time
from typing import NamedTuple

import numpy as np

from . import validation as checks
from .callbacks import is_users
from .checkpoints import Checkpoints
from .interrupts import GivenUp, may_be_given_up
from .one_pass import ROWS_ON_DEVICE, options_of, places_of

# Short epochs are run several in a call, so that a call lasts about this long: rarely enough to cost nothing,
# often enough to show progress.
SECONDS_PER_CALL = 0.05

# A call expected to be shorter runs in the calling thread; starting a thread costs 0.1 ms.
SECONDS_INLINE = 0.005

# Weights are looked at after a call, whether they are finite; if a look takes long, only so much of the time
# as this goes into looks.
SHARE_OF_LOOKS = 0.02


class DivergenceError(ArithmeticError):
    """The loss or the weights became infinite or NaN.

    Attributes
    ----------
    epoch : int or None
        Counted from 1; the first one that was seen to be bad. None for `OnlineTrainer`.
    steps : (int, int)
        The first and the last step in question, counted from 1.
    history : History or None
        Of the epochs before; the network has the weights from before too.
    """

    def __init__(self, what, epoch, steps, history):
        self.epoch, self.steps, self.history = epoch, steps, history
        first, last = steps
        place = f"step {first}" if first == last else f"steps {first} to {last}"
        if epoch is not None:
            place = f"epoch {epoch} ({place})"
        super().__init__(
            f"training diverged in {place}: {what}; the network keeps the weights from "
            "before. Usual causes: a learning rate that is too high, inputs or targets far from the size of "
            '1, a loss that does not fit the targets; on_divergence="continue" goes on all the same'
        )

    def __reduce__(self):
        """What pickle needs, by which pools of processes hand errors on."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)


def guess_seconds(architecture, n_rows, batch_size):
    """Seconds of an epoch, before there was one: 2e9 multiply-adds a second and 1 µs a step, slowly."""
    return architecture.multiply_adds(n_rows) / 2e9 + -(-n_rows // batch_size) * 1e-6


class Begun(NamedTuple):
    """What is known of an epoch that was begun: the sum of its losses so far, and how long it has taken."""

    loss: float = 0.0
    seconds: float = 0.0


class Call:
    """A compiled call of a training, to be run by whoever drives it.

    Or its plan is run in some other way, and `seconds` is told how long that took.
    """

    def __init__(self, run):
        self._run, self.seconds = run, 0.0

    def __call__(self):
        """Run it, here and now."""
        start = time.perf_counter()
        self._run()
        self.seconds = time.perf_counter() - start


class Training:
    """A training while it runs: what callbacks are given.

    Attributes
    ----------
    network : Network
        As it is after the epoch, for callbacks that need it, see `Callback.next_epoch`. What they write to
        its parameters, training goes on with, as after `set_parameters`.
    history : History
        With the epoch's own numbers.
    epochs : int
        How many there are to be.
    validates : bool
        Whether there are validation rows.
    metric_names : list of str
    failed : bool
        Whether training ended by an error.
    checkpoint : Checkpoint or None
        The one that it goes on from.
    """

    _least_seconds_per_call = 0.0  # where others wait while Python turns to this one

    def __init__(self, network, plan, rates, data, history, *, metrics, callbacks, identity, looks, device):
        self.network, self.history, self.epochs, self.failed = network, history, data.epochs, False
        self.validates, self.metric_names = data.held_out is not None, [metric.name for metric in metrics]
        self.history.metrics.update({name: [] for name in self.metric_names})
        self._plan, self._rates, self._data, self._n = plan, rates, data, data.n
        self._on_device, self._validates_long = device == "cuda", False
        if self.validates and self._on_device:
            self._validate = _evaluator_on_device(network, plan, metrics, *data.held_out)
        elif self.validates:
            self._validate = network._evaluator(metrics, *data.held_out, device)
            rows = len(data.held_out[0])
            self._validates_long = guess_seconds(network.architecture, rows, rows) / 3 > SECONDS_INLINE
        self._callbacks, self._identity, self._looks = callbacks, identity, looks
        self._collected, self._seconds_since_look, self._seconds_of_look = True, 0.0, 0.0
        self._started, self.checkpoint, self._begun = [], None, Begun()
        self._checkpoints = [callback for callback in callbacks if isinstance(callback, Checkpoints)]

    # For callbacks

    @property
    def epoch(self):
        """Whole epochs done, those of before a resume included."""
        return len(self.history.loss)

    @property
    def resumed(self):
        """Whether it goes on from a checkpoint."""
        return self.checkpoint is not None

    @property
    def learning_rate(self):
        """The optimizer's, as its schedule has it at the end of the latest epoch; None of LBFGS.

        May be set for the epochs to come: that of each layer changes by the same factor, and so does all that
        a compiled schedule has still in store; where it has come to 0, it goes on as if it had begun from
        the value.
        """
        return self._rates.at_end_of(self._plan, self.epoch, self._steps())

    @learning_rate.setter
    def learning_rate(self, value):
        value = checks.real_number("learning_rate", value, above=0)
        self._rates.change(self._plan, value, self.epoch, self._steps())

    @property
    def position(self):
        """(epochs, rows of the one begun) that the optimizer has done: it may be ahead of the history."""
        context = self._plan.contexts[0]
        return int(context["epoch"]), int(context["begin"])

    @property
    def at_an_end(self):
        """Whether the optimizer is where the history is, rather than some epochs or steps ahead."""
        return self.position == (self.epoch, 0)

    @property
    def step(self):
        """Steps done, those of before a resume included."""
        return int(self._plan.contexts[0]["step"])

    @property
    def step_of_epoch(self):
        """Steps done of the epoch begun."""
        return -(-self.position[1] // self._plan.batch_size)

    def _steps(self):
        """Steps of the epochs in the history."""
        return self.epoch * self._data.steps

    def identity(self):
        """What must be the same where a training is resumed.

        Returns
        -------
        dict of str to JSON values
        """
        return self._identity()

    def may_be_kept(self):
        """Whether a checkpoint of the end could be resumed.

        Returns
        -------
        bool
        """
        finite = not self._looks or checks.all_finite(self.network.parameters)
        return not self.failed and self.position[0] == self.epoch and finite

    def set_parameters(self, values):
        """Go on from other weights, which the network gets too.

        Parameters
        ----------
        values : array (n_parameters,)

        Raises
        ------
        ValueError
            If there are more or fewer, or one is not finite and divergence is an error; nothing changes then.
        """
        parameters = self.network.parameters
        found = np.array(values, parameters.dtype)
        if found.shape != parameters.shape:
            raise ValueError(f"set_parameters takes an array of shape {parameters.shape}; got {found.shape}")
        if self._looks and not checks.all_finite(found):
            raise ValueError("set_parameters was given a weight that is infinite or NaN")
        parameters[:] = found
        self._plan.pack(self.network.parameters)

    def _take_what_was_written(self):
        """Go on from what a callback wrote to the network, which had what was trained."""
        trained, found = np.empty_like(self.network.parameters), self.network.parameters
        self._plan.unpack(trained)
        if np.array_equal(trained.view(np.uint8), found.view(np.uint8)):
            return
        written, found[:] = found.copy(), trained  # as they are, should the others be refused
        if self._looks and not checks.all_finite(written):
            raise ValueError("a callback gave the network a weight that is infinite or NaN")
        found[:] = written
        self._plan.pack(found)

    def collect(self):
        """Bring the weights to the network now, for a callback that did not ask for them beforehand."""
        self._collect(always=True)

    def stop(self, reason="a callback asked for it"):
        """End training after this epoch.

        Parameters
        ----------
        reason : str
            What ``history.stopped`` says then.

        Raises
        ------
        TypeError
            If it is no text.
        """
        if not isinstance(reason, str):
            raise TypeError(f"stop takes a reason, as text; got {reason!r}")
        self.history.stopped = reason

    # The run

    def _run(self, checkpoint, bar, conductor):
        """All epochs, one call after the other."""
        with contextlib.closing(self._calls(checkpoint, bar, conductor)) as calls:
            for call in calls:
                call()

    def _calls(self, checkpoint, bar, conductor):
        """Yield each `Call` of the training, to be run before the next one is asked for.

        Whatever happens, the network has whole weights at the end, also where it is closed before, and
        callbacks know of it.
        """
        plan, network = self._plan, self.network
        self.checkpoint = checkpoint
        self._row_losses = np.empty(plan.batch_size, network.dtype)  # the program's, as long as this lives
        plan.set(row_losses=self._row_losses.ctypes.data)
        if self.resumed:
            checkpoint.restore_history(self)
        self._guess_seconds()
        try:
            with conductor as self._interrupts:
                interrupts = self._interrupts
                for callback in self._callbacks:
                    self._started.append(callback)
                    callback.start(self)
                if self.resumed:
                    checkpoint.restore(self)
                plan.pack(network.parameters)
                while self.epoch < self.epochs and not interrupts.asked and self.history.stopped is None:
                    yield from self._call(interrupts, bar)
                self._collect(always=True, interrupted=interrupts.asked)
                self.history.interrupted = interrupts.asked
        except BaseException as error:
            self.failed = True
            if not isinstance(error, DivergenceError) and not self._collected:
                plan.unpack(network.parameters)
            raise
        finally:
            bar.close()
            self._end()

    def _end(self):
        """Tell every callback, whatever the others do."""
        errors = []
        for callback in self._started:
            try:
                callback.end(self)
            except Exception as error:
                errors.append(error)
        if errors and not self.failed:
            raise errors[0]

    def _guess_seconds(self):
        """How long an epoch takes, before there was one."""
        self._epoch_seconds = guess_seconds(self.network.architecture, self._n, self._plan.batch_size)
        self._guessed = True

    def _epochs_at_once(self):
        """(how many epochs to run in the next call, rows of the last one to leave, whether the network is
        needed after it).
        """
        done = self.epoch
        seconds = max(SECONDS_PER_CALL, self._least_seconds_per_call)
        at_once = max(1, min(self.epochs - done, int(seconds / self._epoch_seconds)))
        if self._guessed:
            at_once = min(at_once, max(1, int(SECONDS_INLINE / self._epoch_seconds)))
        due = min(filter(None, map(self._next_epoch, self._callbacks)), default=self.epochs + 1)
        if self._rates.plateau or (self.validates and not self._on_device):
            due = done + 1
        at_once = min(at_once, 1 if self.validates else due - done)
        at_once, rest = self._until_step(at_once)
        return at_once, rest, due == done + at_once and rest == 0

    def _next_epoch(self, callback):
        due = callback.next_epoch(self.epoch)
        if due is not None and not (isinstance(due, (int, np.integer)) and due > self.epoch):
            name = f"{type(callback).__name__}.next_epoch"
            raise ValueError(f"{name} must return None or an integer above {self.epoch}; got {due!r}")
        return due

    def _until_step(self, at_once):
        """(how many of these epochs, rows of the last one to leave) until a checkpoint is due by steps."""
        due = [callback.next_step(self.step) for callback in self._checkpoints]
        due = min((step for step in due if step is not None), default=None)
        if due is None:
            return at_once, 0
        epochs, steps = divmod(due, self._data.steps)
        if epochs > self.epoch:
            return min(at_once, epochs - self.epoch), 0
        return 1, self._n - steps * self._plan.batch_size

    def _call(self, interrupts, bar):
        """One compiled call, and what follows it."""
        plan, n, (done, before) = self._plan, self._n, self.position
        at_once, rest, needed = self._epochs_at_once()
        sums = np.zeros(at_once)
        sums[0] = self._begun.loss
        plan.set(first_epoch=done, last_epoch=done + at_once, rest=rest, losses=sums.ctypes.data)
        self._first_step, self._collected = self.step + 1, False
        yield (call := self._call_of_plan(at_once, interrupts, bar))
        elapsed = call.seconds
        completed, rows = self.position[0] - done, self.position[1]
        losses = (sums / n).tolist()
        self._seconds_since_look += elapsed
        if self._looks and not all(map(math.isfinite, losses)):  # the epoch that it ended in included
            first = int(np.isfinite(losses).argmin())
            raise self._divergence(f"the loss became {losses[first]}", done + first + 1, exactly=True)
        self._collect(always=needed and completed > 0, interrupted=interrupts.asked)
        seconds = self._spread(elapsed, sums, completed, before)
        for loss, of_epoch in zip(losses[:completed], seconds):
            self._record(loss, of_epoch)
        bar.show((done + completed) * n + rows, self.history)
        if rows and not interrupts.asked:
            for callback in self._checkpoints:
                callback.within_epoch(self)

    def _call_of_plan(self, at_once, interrupts, bar):
        """The compiled call itself."""
        done, before = self.position
        before, batch_size = done * self._n + before, self._plan.batch_size
        # Epochs so short that several are run in a call are checkpointed at their ends.
        late = [callback.is_late for callback in self._checkpoints] if at_once == 1 else []
        short = at_once * self._epoch_seconds < SECONDS_INLINE
        return Call(lambda: interrupts.run(short, lambda steps: bar.show(before + steps * batch_size), late))

    def _spread(self, elapsed, sums, completed, before):
        """Seconds of each epoch that a call completed; what is known of the one begun is kept."""
        n, rows, begun = self._n, self.position[1], self._begun
        of_row = elapsed / max(completed * n + rows - before, 1)
        self._epoch_seconds, self._guessed = max(of_row * n, 1e-9), False
        if rows:
            self._begun = Begun(
                float(sums[completed]), of_row * rows if completed else begun.seconds + elapsed
            )
        else:
            self._begun = Begun()
        return [begun.seconds + of_row * (n - before), *[self._epoch_seconds] * (completed - 1)][:completed]

    def _record(self, loss, seconds):
        """An epoch's row of the history, and its callbacks."""
        history, found = self.history, self._validated() if self.validates else {}
        if self.validates and not math.isfinite(found["loss"]):  # on a GPU nobody may have looked yet
            self._collect(always=self._looks)
        history.loss.append(loss)
        history.seconds.append(seconds)
        history.samples_per_second.append(self._n / seconds)
        rate = self.learning_rate
        if rate is not None:
            history.learning_rate.append(rate)
        if self.validates:
            history.validation_loss.append(found["loss"])
            for name in self.metric_names:
                history.metrics[name].append(found[name])
        if self._rates and self._rates.plateau:
            self._rates.adapt(self._plan, history)
        for callback in self._callbacks:
            callback.epoch(self)
            if self._collected and is_users(callback):
                self._take_what_was_written()

    def _validated(self):
        """Loss and metrics on the validation rows, by name; NaN where Ctrl-C ended a long look at them.

        With checkpoints it comes to its end: they hold what a training that goes on would have measured.
        """
        if self._checkpoints or not self._validates_long:
            return self._validate()
        try:
            with may_be_given_up(self._interrupts):
                return self._validate()
        except GivenUp:
            return dict.fromkeys(["loss", *self.metric_names], math.nan)

    def _collect(self, always, interrupted=False):
        """Bring the weights from the panels to the network, if they are finite, and if it is time to look."""
        if self._collected or not (
            always or (self._looks and self._seconds_since_look * SHARE_OF_LOOKS >= self._seconds_of_look)
        ):
            return
        if not self._looks:
            self._plan.unpack(self.network.parameters)
        else:
            start = time.perf_counter()
            found = np.empty_like(self.network.parameters)
            self._plan.unpack(found)
            if not checks.all_finite(found) and not interrupted:
                epochs, rows = self.position
                raise self._divergence("a weight became infinite or NaN", epochs + (rows > 0))
            self.network.parameters[:] = found
            self._seconds_since_look, self._seconds_of_look = 0.0, time.perf_counter() - start
        self._collected = True

    def _divergence(self, what, epoch, exactly=False):
        """The error that says so: a loss ends the run after its step, weights are seen after the call."""
        last = self.step
        first, last = (last, last) if exactly else self._steps_in_question(epoch, last)
        return DivergenceError(what, epoch, (first, last), self.history)

    def _steps_in_question(self, epoch, last):
        """Those of an epoch since the last look at the weights."""
        steps = self._data.steps
        return max(self._first_step, (epoch - 1) * steps + 1), min(last, epoch * steps)


def _evaluator_on_device(network, plan, metrics, x, y, weights):
    """A function without arguments: loss and metrics, a dict, of the network as a plan on a GPU has it."""
    from .device_evaluate import evaluator  # needs numba-cuda

    task, rows = "evaluate" if metrics else "loss", (x, y, weights)
    run = evaluator(plan, task, ROWS_ON_DEVICE, places_of(*rows), **options_of(*rows))
    return network._by_name(run, metrics, y, weights)
