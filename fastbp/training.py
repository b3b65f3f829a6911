"""train(): epochs of compiled steps, and what happens between them."""

import math
import time
from typing import NamedTuple

import numpy as np

from . import validation as checks
from .balance import labels_of, row_weights, rows_by_class
from .callbacks import EarlyStopping, as_callbacks
from .checkpoints import Checkpoints, fingerprint, read_checkpoint
from .datasets import split
from .history import History
from .interrupts import Interrupts, run_in_team
from .lbfgs import minimizer, train_whole_batch
from .metrics import as_metrics
from .network import Network
from .optimizers import LBFGS, as_optimizer
from .plan import Plan, automatic_threads
from .progress import Bar, Table
from .rates import Rates
from .shaping import shaping_of

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


def train(
    network, x, y, *, epochs=10, batch_size=32, optimizer="sgd", shuffle=True, validation=None, metrics=(),
    early_stopping=None, callbacks=(), checkpoints=None, resume=None, on_divergence="raise", seed=None,
    threads=None, progress="auto", verbose=False, device="cpu", materialise=False, sample_weight=None,
    class_weight=None, sampling=None, clip_value=None, clip_norm=None, input_noise=0.0, gradient_noise=0.0,
):  # fmt: skip
    """Train a network.

    Parameters
    ----------
    network : Network
        Its parameters are changed in place.
    x : array-like (n, n_inputs)
    y : array-like
        Targets of the network's loss, see `Network.loss`.
    epochs : int
        Passes over the rows; where training is resumed, those of before included.
    batch_size : int or None
        Rows per step; None, or more than there are, means all of them. A shorter last batch is trained on,
        and averaged over its own size.
    optimizer : str or optimizer
        A name, such as "adam" for its defaults, or one of `SGD`, `Adam`, `AdamW`, `Adamax`, `NAdam`, `RAdam`,
        `RMSprop`, `Adagrad`, `Adadelta`, `Lion`, `LBFGS`. It may bring a schedule of its learning rate, see
        ``fastbp.schedules``, and settings of single layers.
    shuffle : bool
        Whether each epoch takes the rows in an order of its own, a function of `seed` and the epoch's number.
    validation : float, (x, y) or (x, y, sample_weight), optional
        Rows to measure the loss on after each epoch: a share of the rows, drawn by `seed` and not trained on,
        or rows and targets of their own. A share copies the rows; arrays larger than memory want the pair.
        Where rows have sample weights, the loss counts them by these here too.
    metrics : sequence of str or callable
        What else to measure on the validation rows, see `Network.evaluate`.
    early_stopping : EarlyStopping, optional
        Ends training that no longer gets better, and gives back the best weights.
    callbacks : sequence of Callback or callable
        Called between epochs, in their order. A function is called with the `Training` after each epoch.
    checkpoints : Checkpoints, optional
        Where and how often to write what `resume` needs.
    resume : str or path, optional
        A checkpoint, or a folder of checkpoints, whose newest is taken. Training goes on from there to the
        very bits that it would have reached without the interruption. The network takes its weights from
        it; data, batch size, optimizer and network must be those of before, threads need not.
    on_divergence : {"raise", "continue"}
        What to do when the loss or the weights become infinite or NaN.
    seed : int, optional
        Where orders come from; the network's own seed by default, or that of the checkpoint.
    threads : int, optional
        By default as many as the work of a step is worth. The trained bits do not depend on it.
    progress : bool or "auto"
        Whether to show a progress bar; "auto" does in a terminal or notebook if training takes seconds.
    verbose : bool or int
        Whether to write a table to standard output, for logs: a line for every epoch, or every so many.
    device : {"cpu"}
    materialise : bool
        Write each step's gradients to memory before the update. The same bits, slower; for comparison.
    sample_weight : array-like (n,), optional
        How much each row counts, at least 0. The loss of a batch is the weighted mean Σ wᵢ lᵢ / Σ wᵢ, as in
        PyTorch's weighted cross-entropy and in scikit-learn; a batch of weights 0 changes no weight by its
        gradient. An epoch's loss is the mean over its batches.
    class_weight : dict, array-like (classes,) or "balanced", optional
        How much rows count by their class: a dict, in which classes that are missing count 1, or one number
        for each class. "balanced" is n / (classes · rows of the class), as in scikit-learn, from the rows
        that are trained on. Multiplies `sample_weight`; the validation loss knows nothing of it. Classes
        are integer targets, or 0 and 1 (-1 and 1 for hinge) of one output.
    sampling : {"balanced"}, optional
        Each epoch draws as many rows as there are, with replacement, so that every class is equally likely;
        a function of `seed` and the epoch's number. None takes every row once.
    clip_value : float, optional
        Elements of the gradient of a batch beyond ± this are cut off, as by PyTorch's clip_grad_value_.
    clip_norm : float, optional
        Where the gradient of all parameters together is longer than this, it is shortened to it, as by
        PyTorch's clip_grad_norm_. With `clip_value` too, elements are cut off first, and the norm is that of
        what is left.
    input_noise : float
        Standard deviation of normal noise that is added to the inputs, others in each step.
    gradient_noise : float or AnnealedNoise
        The same for the gradient (Neelakantan et al., 2015), after penalties and clipping: a standard
        deviation that stays, or one that falls from step to step. Noise is a function of `seed`, the step and
        the place, so threads change no bit of it. No draw is beyond 5.42 standard deviations.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of bounds, data do not fit the network, or a checkpoint
        is of another training; nothing is changed then.
    DivergenceError
        If the loss or the weights became infinite or NaN. The network has the weights from before the
        epoch, or before the compiled call where short epochs are run several in a call; from a few epochs
        before where a call is too short for a look at the weights; from the last checkpoint within the epoch.
    OSError
        If a checkpoint cannot be read or written.

    Notes
    -----
    Ctrl-C ends training after the current step and returns the history so far. With `checkpoints` that step
    is written down, and `resume` goes on from it to the very bits of a training that was not interrupted.

    Training a network again goes on from its weights, but is a training of its own: the optimizer's state
    starts anew, and so do the orders of the rows. `OnlineTrainer` keeps them from call to call.

    Examples
    --------
    >>> import fastbp
    >>> x, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    >>> net = fastbp.Network([2, 8, 1], activation="tanh", loss="binary_cross_entropy", seed=1)
    >>> history = fastbp.train(net, x, y, epochs=500, batch_size=4, optimizer=fastbp.SGD(0.5, momentum=0.9))
    >>> net.predict(x).round().ravel().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be a fastbp.Network; got a {type(network).__name__}")
    epochs = checks.positive_integer("epochs", epochs)
    optimizer = as_optimizer(optimizer)
    whole_batch = isinstance(optimizer, LBFGS)
    shuffle = checks.boolean("shuffle", shuffle)
    materialise = checks.boolean("materialise", materialise)
    metrics = as_metrics(metrics, network.loss_function.formula)
    callbacks = _all_callbacks(early_stopping, callbacks, checkpoints, verbose)
    shaping = shaping_of(network, clip_value, clip_norm, input_noise, gradient_noise)
    if whole_batch:
        _check_whole_batch(callbacks or metrics or resume is not None, shaping or sampling is not None)
    checks.known_name("on_divergence", on_divergence, ("raise", "continue"))
    if progress != "auto":
        progress = checks.boolean("progress", progress)
    if checks.known_name("device", device, ("cpu", "cuda")) == "cuda":
        raise ValueError('device "cuda" is not there yet; "cpu" is')
    checkpoint = None if resume is None else read_checkpoint(resume, network)
    seed = checks.seed(seed) if seed is not None else checkpoint.seed if checkpoint else network.seed
    x, y = network.check_data(x, y)
    x, y, sample_weight, held_out = _hold_out(network, x, y, sample_weight, validation, seed)
    rows = _Rows(network, y, sample_weight, class_weight, sampling, shuffle)
    if metrics and not held_out:
        raise ValueError("metrics are measured on validation rows; give validation=")
    n = len(x)
    batch_size = n if batch_size is None or whole_batch else checks.positive_integer("batch_size", batch_size)
    batch_size = min(n, batch_size)
    work = network.architecture.multiply_adds(batch_size)
    threads = automatic_threads(work) if threads is None else checks.positive_integer("threads", threads)

    if whole_batch:
        history, bar = History(threads=threads), Bar(progress, epochs, n)
        return train_whole_batch(network, optimizer, x, y, rows.weights, held_out, epochs, history, bar)
    rates = Rates(optimizer, network, epochs, -(-n // batch_size))
    plan = Plan(
        network.architecture, "train", batch_size, threads, optimizer=optimizer.formula,
        materialise=materialise, targets="classes" if y.ndim == 1 else "probabilities", **rates.options,
        shaping=shaping, **rows.options,
    )  # fmt: skip
    order, row_losses = np.arange(n), np.empty(batch_size, network.dtype)
    rates.set(plan)
    plan.set(
        x=x.ctypes.data, targets=y.ctypes.data, n_rows=n, order=order.ctypes.data if shuffle else 0,
        row_losses=row_losses.ctypes.data, shuffle=shuffle, seed=np.uint64(seed).astype(np.int64),
        epoch=0, step=0, careful=on_divergence == "raise",
    )  # fmt: skip
    rows.set(plan)
    training = Training(
        network, plan, rates, x, y, epochs=epochs, held_out=held_out, metrics=metrics, callbacks=callbacks,
        identity=dict(seed=seed, shuffle=shuffle, batch_size=batch_size, optimizer=optimizer)
        | dict(regularisation=repr(shaping), **rows.identity),
        looks=on_divergence == "raise",
    )  # fmt: skip
    training._run(checkpoint, progress)
    return training.history


def _check_whole_batch(watched, shaped):
    """Raise where SciPy is missing, or what it does not do is asked for."""
    minimizer()  # says so where it is missing
    if watched:
        raise ValueError(
            "LBFGS is run by SciPy: it takes no callbacks, metrics, early stopping, table or checkpoints"
        )
    if shaped:
        raise ValueError("LBFGS takes no penalties, largest norms, clipping, noise or sampling")


def _all_callbacks(early_stopping, callbacks, checkpoints, verbose):
    """Callbacks in the order in which they are called: checkpoints last, as they keep the state of others."""
    if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
        raise TypeError(f"early_stopping must be a fastbp.EarlyStopping; got {early_stopping!r}")
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        raise TypeError(f"checkpoints must be a fastbp.Checkpoints; got {checkpoints!r}")
    every = int(verbose) if isinstance(verbose, (bool, np.bool_)) else verbose
    every = every and checks.integer("verbose", every, at_least=1)
    table = [Table(every)] if every else []
    first = [] if early_stopping is None else [early_stopping]
    return [*first, *as_callbacks(callbacks), *table, *([] if checkpoints is None else [checkpoints])]


class _Rows:
    """How much each row counts, and how often it comes."""

    def __init__(self, network, y, sample_weight, class_weight, sampling, shuffle):
        loss, n_outputs = network.loss_function.formula, network.architecture.sizes[-1]
        self.weights = row_weights(sample_weight, class_weight, y, loss, n_outputs, network.dtype)
        self._by_class = None
        if sampling is not None:
            checks.known_name("sampling", sampling, ("balanced",))
            if not shuffle:
                raise ValueError("sampling draws the rows of an epoch, so shuffle must be True; got False")
            self._by_class = rows_by_class(labels_of(y, loss, "sampling"))
        self.options = {} if self.weights is None else {"weighted": True}
        self.identity = {
            "sampling": sampling, "weights": None if self.weights is None else fingerprint(self.weights)
        }  # fmt: skip

    def set(self, plan):
        """Tell the plan's program where the weights and the classes are."""
        if self.weights is not None:
            plan.set(weights=self.weights.ctypes.data)
        if self._by_class is not None:
            by_class, starts = self._by_class
            plan.set(
                shuffle=2, by_class=by_class.ctypes.data, class_starts=starts.ctypes.data,
                classes=len(starts) - 1,
            )  # fmt: skip


class Begun(NamedTuple):
    """What is known of an epoch that was begun: the sum of its losses so far, and how long it has taken."""

    loss: float = 0.0
    seconds: float = 0.0


class Training:
    """A training while it runs: what callbacks are given.

    Attributes
    ----------
    network : Network
        As it is after the epoch, for callbacks that need it, see `Callback.next_epoch`. To be read only.
    history : History
        With the epoch's own numbers.
    epochs : int
        How many there are to be.
    validates : bool
        Whether there are validation rows.
    metric_names : list of str
    failed : bool
        Whether training ended by an error.
    resumed : bool
        Whether it goes on from a checkpoint.
    """

    def __init__(self, network, plan, rates, x, y, *, epochs, held_out, metrics, callbacks, identity, looks):
        self.network, self.epochs, self.failed = network, epochs, False
        self.history = History(threads=plan.threads)
        self.validates, self.metric_names = held_out is not None, [metric.name for metric in metrics]
        self.history.metrics.update({name: [] for name in self.metric_names})
        self._plan, self._rates, self._x, self._y = plan, rates, x, y
        self._held_out, self._metrics = held_out, metrics
        self._callbacks, self._identity, self._looks = callbacks, identity, looks
        self._collected, self._seconds_since_look, self._seconds_of_look = True, 0.0, 0.0
        self._started, self.resumed, self._begun = [], False, Begun()
        self._checkpoints = [callback for callback in callbacks if isinstance(callback, Checkpoints)]

    # For callbacks

    @property
    def epoch(self):
        """Whole epochs done, those of before a resume included."""
        return len(self.history.loss)

    @property
    def learning_rate(self):
        """The optimizer's, as its schedule has it at the end of the latest epoch.

        May be set for the epochs to come: that of each layer changes by the same factor, and a compiled
        schedule begins from it.
        """
        return self._rates.at_end_of(self._plan, self.epoch)

    @learning_rate.setter
    def learning_rate(self, value):
        self._rates.change(self._plan, checks.real_number("learning_rate", value, above=0))

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

    def identity(self):
        """What must be the same where a training is resumed, by name: a dict of JSON values."""
        held_out = [array for array in self._held_out or () if array is not None]
        held_out = fingerprint(*held_out) if held_out else None
        return self._identity | {
            "optimizer": repr(self._identity["optimizer"]), "number of rows": len(self._x),
            "data": fingerprint(self._x, self._y), "validation rows": held_out, "metrics": self.metric_names,
            "schedule": list(self._rates.schedule_settings),
        }  # fmt: skip

    def may_be_kept(self):
        """Whether, at the end, what there is can be gone on from."""
        finite = not self._looks or checks.all_finite(self.network.parameters)
        return not self.failed and self.position[0] == self.epoch and finite

    def set_parameters(self, values):
        """Go on from other weights, (n_parameters,); writing to the network would not reach the training."""
        self.network.parameters[:] = values
        self._plan.pack(self.network.parameters)

    def collect(self):
        """Bring the weights to the network now, for a callback that did not ask for them beforehand."""
        self._collect(always=True)

    def stop(self, reason="a callback asked for it"):
        """End training after this epoch."""
        self.history.stopped = reason

    # The run

    def _run(self, checkpoint, progress):
        """All epochs; whatever happens, the network has whole weights then and callbacks know the end."""
        plan, network, self.resumed = self._plan, self.network, checkpoint is not None
        if self.resumed:
            checkpoint.check(self)
            checkpoint.restore_history(self)
        bar = Bar(progress, self.epochs, len(self._x), self.epoch)
        self._guess_seconds()
        try:
            with Interrupts(plan) as interrupts:
                for callback in self._callbacks:
                    self._started.append(callback)
                    callback.start(self)
                if self.resumed:
                    checkpoint.restore(self)
                plan.pack(network.parameters)
                while self.epoch < self.epochs and not interrupts.asked and not self.history.stopped:
                    self._call(interrupts, bar)
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
        """Seconds of an epoch, before there was one: 2e9 multiply-adds a second and 1 µs a step, slowly."""
        n = len(self._x)
        steps = -(-n // self._plan.batch_size)
        self._epoch_seconds = self.network.architecture.multiply_adds(n) / 2e9 + steps * 1e-6
        self._guessed = True

    def _epochs_at_once(self):
        """(how many epochs to run in the next call, rows of the last one to leave, whether the network is
        needed after it).
        """
        done = self.epoch
        at_once = max(1, min(self.epochs - done, int(SECONDS_PER_CALL / self._epoch_seconds)))
        if self._guessed:
            at_once = min(at_once, max(1, int(SECONDS_INLINE / self._epoch_seconds)))
        due = [callback.next_epoch(done) for callback in self._callbacks]
        due = min((epoch for epoch in due if epoch is not None), default=None)
        if self.validates or self._rates.plateau:
            due = done + 1
        if due is not None:
            at_once = min(at_once, due - done)
        at_once, rest = self._until_step(at_once)
        return at_once, rest, due == done + at_once and rest == 0

    def _until_step(self, at_once):
        """(how many of these epochs, rows of the last one to leave) until a checkpoint is due by steps."""
        n, size = len(self._x), self._plan.batch_size
        due = [callback.next_step(self.step) for callback in self._checkpoints]
        due = min((step for step in due if step is not None), default=None)
        if due is None:
            return at_once, 0
        epochs, steps = divmod(due, -(-n // size))
        return (1, n - steps * size) if epochs == self.epoch else (min(at_once, epochs - self.epoch), 0)

    def _call(self, interrupts, bar):
        """One compiled call, and what follows it."""
        plan, n, (done, before) = self._plan, len(self._x), self.position
        at_once, rest, needed = self._epochs_at_once()
        sums = np.zeros(at_once)
        sums[0] = self._begun.loss
        plan.set(first_epoch=done, last_epoch=done + at_once, rest=rest, losses=sums.ctypes.data)
        self._first_step, self._collected = self.step + 1, False
        elapsed = self._run_plan(at_once, interrupts, bar)
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

    def _run_plan(self, at_once, interrupts, bar):
        """The compiled call itself; how many seconds it took."""
        plan, start = self._plan, time.perf_counter()
        done, before = self.position
        if plan.threads == 1 and at_once * self._epoch_seconds < SECONDS_INLINE:
            plan.run()
        else:
            before += done * len(self._x)
            # Epochs so short that several are run in a call are checkpointed at their ends.
            late = [callback.is_late for callback in self._checkpoints] if at_once == 1 else []
            run_in_team(plan, interrupts, lambda steps: bar.show(before + steps * plan.batch_size), late)
        return time.perf_counter() - start

    def _spread(self, elapsed, sums, completed, before):
        """Seconds of each epoch that a call completed; what is known of the one begun is kept."""
        n, rows, begun = len(self._x), self.position[1], self._begun
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
        history = self.history
        history.loss.append(loss)
        history.seconds.append(seconds)
        history.samples_per_second.append(len(self._x) / seconds)
        history.learning_rate.append(self.learning_rate)
        if self.validates:
            history.validation_loss.append(self.network._loss(*self._held_out))
            for name, value in self.network._measure(self._metrics, *self._held_out[:2]).items():
                history.metrics[name].append(value)
        if self._rates.plateau:
            self._rates.adapt(self._plan, history)
        for callback in self._callbacks:
            callback.epoch(self)

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
        per_epoch = -(-len(self._x) // self._plan.batch_size)
        last = int(self._plan.contexts[0]["step"])
        first = last if exactly else max(self._first_step, (epoch - 1) * per_epoch + 1)
        return DivergenceError(what, epoch, (first, min(last, epoch * per_epoch)), self.history)


def _hold_out(network, x, y, weights, validation, seed):
    """(x, y, weights) to train on and the same three to validate on, or None; weights may be None."""
    if weights is not None:
        weights = checks.weights("sample_weight", weights, len(x), network.dtype)
    if validation is None:
        return x, y, weights, None
    if isinstance(validation, (tuple, list)):
        if len(validation) not in (2, 3):
            raise ValueError(
                "validation must be a fraction, a pair (x, y) or (x, y, sample_weight); "
                f"got {len(validation)} things"
            )
        try:
            held_out = network.check_data(*validation[:2])
            return x, y, weights, (*held_out, network._check_weights(*validation[2:] or [None], held_out[1]))
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation: {error}") from None
    fraction = checks.real_number("validation", validation, above=0, below=1)
    first_x, first_y, *second = split(x, y, fraction, seed)
    if weights is None:
        return first_x, first_y, None, (*second, None)
    first_weights, _, second_weights, _ = split(weights, weights, fraction, seed)
    for part, name in ((first_weights, "trained on"), (second_weights, "validated on")):
        if not part.any():
            raise ValueError(f"sample_weight must not be 0 in all rows that are {name}")
    return first_x, first_y, first_weights, (*second, second_weights)
