"""train(): epochs of compiled steps, and what happens between them."""

import signal
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from . import validation as checks
from .balance import labels_of, row_weights, rows_by_class
from .datasets import split
from .network import Network
from .optimizers import as_optimizer
from .plan import Plan, Shaping, automatic_threads
from .schedules import ReduceOnPlateau

# Short epochs are run several in a call, so that a call lasts about this long: rarely enough to cost nothing,
# often enough to show progress.
SECONDS_PER_CALL = 0.05

# A call expected to be shorter runs in the calling thread; starting a thread costs 0.1 ms.
SECONDS_INLINE = 0.005

# Training shorter than this shows no progress bar unless asked to.
SECONDS_WITHOUT_PROGRESS = 2.0

_POLL_SECONDS = 0.05


@dataclass
class History:
    """What happened in training: one value per whole epoch.

    Attributes
    ----------
    loss : list of float
        Mean loss over the epoch's rows, each as it was when the row's batch came.
    validation_loss : list of float
        Mean loss on the validation rows after the epoch; empty without validation.
    seconds : list of float
        Time of the epoch, without validation. Epochs so short that several ran in one compiled call share
        its time equally.
    samples_per_second : list of float
    interrupted : bool
        Whether Ctrl-C ended training; the parameters are those of the last whole step.
    threads : int
        How many threads trained.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    samples_per_second: list[float] = field(default_factory=list)
    interrupted: bool = False
    threads: int = 1

    def __len__(self):
        """Whole epochs."""
        return len(self.loss)


def train(
    network, x, y, *, epochs=10, batch_size=32, optimizer="sgd", shuffle=True, validation=None, seed=None,
    threads=None, progress="auto", device="cpu", materialise=False, sample_weight=None, class_weight=None,
    sampling=None, clip_value=None, clip_norm=None, input_noise=0.0, gradient_noise=0.0,
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
        Passes over the rows.
    batch_size : int or None
        Rows per step; None, or more than there are, means all of them. A shorter last batch is trained on,
        and averaged over its own size.
    optimizer : str, SGD or Adam
    shuffle : bool
        Whether each epoch takes the rows in an order of its own, a function of `seed` and the epoch's number.
    validation : float, (x, y) or (x, y, sample_weight), optional
        Rows to measure the loss on after each epoch: a share of the rows, drawn by `seed` and not trained on,
        or rows and targets of their own. Rows that have sample weights count by them here too.
    seed : int, optional
        Where orders come from; the network's own seed by default.
    threads : int, optional
        By default as many as the work of a step is worth. The trained bits do not depend on it.
    progress : bool or "auto"
        Whether to show a progress bar; "auto" does in a terminal or notebook if training takes seconds.
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
        PyTorch's clip_grad_norm_. Not together with `clip_value`.
    input_noise : float
        Standard deviation of normal noise that is added to the inputs, others in each step.
    gradient_noise : float
        The same for the gradient (Neelakantan et al., 2015), after penalties and clipping. Noise is a
        function of `seed`, the step and the place, so threads change no bit of it. No draw is beyond 5.42
        standard deviations.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of bounds, or data do not fit the network; nothing is
        changed then.

    Notes
    -----
    Ctrl-C ends training after the current step and returns the history so far.

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
    shuffle = checks.boolean("shuffle", shuffle)
    materialise = checks.boolean("materialise", materialise)
    shaping = _shaping(network, clip_value, clip_norm, input_noise, gradient_noise)
    seed = network.seed if seed is None else checks.seed(seed)
    if progress != "auto":
        progress = checks.boolean("progress", progress)
    if checks.known_name("device", device, ("cpu", "cuda")) == "cuda":
        raise ValueError('device "cuda" is not there yet; "cpu" is')
    x, y = network.check_data(x, y)
    if sample_weight is not None:
        sample_weight = checks.weights("sample_weight", sample_weight, len(x), network.dtype)
    x, y, sample_weight, held_out = _hold_out(network, x, y, sample_weight, validation, seed)
    rows = _Rows(network, y, sample_weight, class_weight, sampling, shuffle)
    n = len(x)
    batch_size = n if batch_size is None else min(n, checks.positive_integer("batch_size", batch_size))
    work = network.architecture.multiply_adds(batch_size)
    threads = automatic_threads(work) if threads is None else checks.positive_integer("threads", threads)

    rates = _Rates(optimizer, network, epochs, -(-n // batch_size))
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
        epoch=0, step=0,
    )  # fmt: skip
    rows.set(plan)
    plan.pack(network.parameters)
    history = History(threads=threads)
    bar = _Progress(progress, epochs, n)
    try:
        _run(network, plan, history, epochs, n, held_out, bar, rates)
    finally:
        plan.unpack(network.parameters)
        bar.close()
    return history


def _run(network, plan, history, epochs, n, held_out, bar, rates):
    """Epochs in calls of about SECONDS_PER_CALL; fills the history."""
    steps_per_epoch = -(-n // plan.batch_size)
    # A guess for the first call, on the slow side: 2e9 multiply-adds a second and 1 µs a step.
    seconds = network.architecture.multiply_adds(n) / 2e9 + steps_per_epoch * 1e-6
    done = 0
    with _Interrupts(plan) as interrupts:
        while done < epochs and not interrupts.asked:
            at_once = (
                1
                if held_out or rates.plateau
                else max(1, min(epochs - done, int(SECONDS_PER_CALL / seconds)))
            )
            if not done:
                at_once = min(at_once, max(1, int(SECONDS_INLINE / seconds)))
            losses = np.zeros(at_once)
            plan.set(first_epoch=done, last_epoch=done + at_once, losses=losses.ctypes.data)
            start = time.perf_counter()
            if plan.threads == 1 and at_once * seconds < SECONDS_INLINE:
                plan.run()
            else:
                _run_in_team(plan, interrupts, bar, done * n)
            elapsed = time.perf_counter() - start
            completed = int(plan.contexts[0]["epoch"]) - done
            for loss in losses[:completed]:
                history.loss.append(float(loss / n))
                history.seconds.append(elapsed / completed)
                history.samples_per_second.append(n * completed / elapsed)
            done += completed
            if held_out and completed:
                plan.unpack(network.parameters)
                history.validation_loss.append(network._loss(*held_out))
            if rates.plateau and completed:
                rates.adapt(plan, history)
            bar.show(done * n, history)
            seconds = max(elapsed / at_once, 1e-9)
        history.interrupted = interrupts.asked


class _Rows:
    """How much each row counts, and how often it comes."""

    def __init__(self, network, y, sample_weight, class_weight, sampling, shuffle):
        loss, n_outputs = network.loss_function.formula, network.architecture.sizes[-1]
        self._weights = row_weights(sample_weight, class_weight, y, loss, n_outputs, network.dtype)
        self._by_class = None
        if sampling is not None:
            checks.known_name("sampling", sampling, ("balanced",))
            if not shuffle:
                raise ValueError("sampling draws the rows of an epoch, so shuffle must be True; got False")
            self._by_class = rows_by_class(labels_of(y, loss, "sampling"))
        self.options = {} if self._weights is None else {"weighted": True}

    def set(self, plan):
        """Tell the plan's program where the weights and the classes are."""
        if self._weights is not None:
            plan.set(weights=self._weights.ctypes.data)
        if self._by_class is not None:
            by_class, starts = self._by_class
            plan.set(
                shuffle=2, by_class=by_class.ctypes.data, class_starts=starts.ctypes.data,
                classes=len(starts) - 1,
            )  # fmt: skip


def _shaping(network, clip_value, clip_norm, input_noise, gradient_noise):
    """What layers and options ask to be done to gradients and weights; None where it is nothing."""
    clips = {"clip_value": clip_value, "clip_norm": clip_norm}
    clips = {n: checks.real_number(n, most, above=0) for n, most in clips.items() if most is not None}
    if len(clips) == 2:
        raise ValueError("clip_value and clip_norm must not be given together")
    shaping = Shaping(
        tuple((layer.l1, layer.l2) for layer in network._described),
        tuple(layer.max_norm or 0.0 for layer in network._described),
        input_noise=checks.real_number("input_noise", input_noise, at_least=0),
        gradient_noise=checks.real_number("gradient_noise", gradient_noise, at_least=0),
        **clips,
    )
    return shaping if shaping.is_needed() else None


class _Rates:
    """What an optimizer asks of a plan: settings of each layer, and how the learning rate changes."""

    def __init__(self, optimizer, network, epochs, steps_per_epoch):
        self._rows, groups = optimizer.settings_of([layer.name for layer in network.layers])
        self.options, self._schedule, self.plateau = dict(groups=groups), (), None
        if isinstance(optimizer.schedule, ReduceOnPlateau):
            self.plateau = optimizer.schedule.follow([row[0] for row in self._rows])
        elif optimizer.schedule is not None:
            self.options["schedule"] = optimizer.schedule.formula
            self._schedule = optimizer.schedule.settings(epochs, steps_per_epoch)

    def set(self, plan):
        """Write the settings where the plan's program reads them."""
        plan.settings[:, : len(self._rows[0])] = self._rows
        plan.schedule_settings[: len(self._schedule)] = self._schedule

    def adapt(self, plan, history):
        """After an epoch: let the learning rates fall if it was on a plateau."""
        losses = history.validation_loss or history.loss
        plan.settings[:, 0] = self.plateau.next_rates(losses[-1])


def _run_in_team(plan, interrupts, bar, rows_before):
    """One call in threads of its own, while this one draws progress."""
    team = plan.start()
    try:
        while not team.wait(_POLL_SECONDS):
            if interrupts.asked:
                plan.stop()
            bar.show(rows_before + plan.steps_done * plan.batch_size)
    except KeyboardInterrupt:
        plan.stop()
        team.wait()
        raise


class _Interrupts:
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


def _hold_out(network, x, y, weights, validation, seed):
    """(x, y, weights) to train on and the same three to validate on, or None; weights may be None."""
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


class _Progress:
    """A tqdm bar over rows that appears when it is worth it."""

    def __init__(self, wanted, epochs, n):
        self._wanted = sys.stderr.isatty() if wanted == "auto" else wanted
        self._delay = SECONDS_WITHOUT_PROGRESS if wanted == "auto" else 0.0
        self._start, self._total, self._epochs, self._n = time.perf_counter(), epochs * n, epochs, n
        self._bar = None

    def show(self, rows, history=None):
        if not self._wanted:
            return
        if self._bar is None:
            if time.perf_counter() - self._start < self._delay:
                return
            self._bar = tqdm(
                total=self._total, unit=" rows", unit_scale=True, desc="training", mininterval=0.1
            )
        if history is not None and len(history):
            shown = {"epoch": f"{len(history)}/{self._epochs}", "loss": f"{history.loss[-1]:.4g}"}
            if history.validation_loss:
                shown["validation"] = f"{history.validation_loss[-1]:.4g}"
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update(min(rows, self._total) - self._bar.n)

    def close(self):
        if self._bar is not None:
            self._bar.close()
