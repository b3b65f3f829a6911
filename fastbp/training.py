"""train(): epochs of compiled steps, and what happens between them."""

import signal
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from . import validation as checks
from .datasets import split
from .lbfgs import minimizer, train_whole_batch
from .network import Network
from .optimizers import LBFGS, Rates, as_optimizer
from .plan import Plan, automatic_threads

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
    threads=None, progress="auto", device="cpu", materialise=False,
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
    optimizer : str or optimizer
        A name, such as "adam" for its defaults, or one of `SGD`, `Adam`, `AdamW`, `Adamax`, `NAdam`, `RAdam`,
        `RMSprop`, `Adagrad`, `Adadelta`, `Lion`, `LBFGS`. It may bring a schedule of its learning rate, see
        ``fastbp.schedules``, and settings of single layers.
    shuffle : bool
        Whether each epoch takes the rows in an order of its own, a function of `seed` and the epoch's number.
    validation : float or (x, y), optional
        Rows to measure the loss on after each epoch: a share of the rows, drawn by `seed` and not trained on,
        or rows and targets of their own.
    seed : int, optional
        Where orders come from; the network's own seed by default.
    threads : int, optional
        By default as many as the work of a step is worth. The trained bits do not depend on it.
    progress : bool or "auto"
        Whether to show a progress bar; "auto" does in a terminal or notebook if training takes seconds.
    device : {"cpu"}
    materialise : bool
        Write each step's gradients to memory before the update. The same bits, slower; for comparison.

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
    whole_batch = isinstance(optimizer, LBFGS)
    if whole_batch:
        minimizer()  # says so where it is missing
    shuffle = checks.boolean("shuffle", shuffle)
    materialise = checks.boolean("materialise", materialise)
    seed = network.seed if seed is None else checks.seed(seed)
    if progress != "auto":
        progress = checks.boolean("progress", progress)
    if checks.known_name("device", device, ("cpu", "cuda")) == "cuda":
        raise ValueError('device "cuda" is not there yet; "cpu" is')
    x, y = network.check_data(x, y)
    x, y, held_out = _hold_out(network, x, y, validation, seed)
    n = len(x)
    batch_size = (
        n if batch_size is None or whole_batch else min(n, checks.positive_integer("batch_size", batch_size))
    )
    work = network.architecture.multiply_adds(batch_size)
    threads = automatic_threads(work) if threads is None else checks.positive_integer("threads", threads)

    if whole_batch:
        history, bar = History(threads=threads), _Progress(progress, epochs, n)
        return train_whole_batch(network, optimizer, x, y, held_out, epochs, history, bar)
    rates = Rates(optimizer, [layer.name for layer in network.layers], epochs, -(-n // batch_size))
    plan = Plan(
        network.architecture, "train", batch_size, threads, optimizer=optimizer.formula,
        materialise=materialise, targets="classes" if y.ndim == 1 else "probabilities", **rates.options,
    )  # fmt: skip
    order, row_losses = np.arange(n), np.empty(batch_size, network.dtype)
    rates.set(plan)
    plan.set(
        x=x.ctypes.data, targets=y.ctypes.data, n_rows=n, order=order.ctypes.data if shuffle else 0,
        row_losses=row_losses.ctypes.data, shuffle=shuffle, seed=np.uint64(seed).astype(np.int64),
        epoch=0, step=0,
    )  # fmt: skip
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
                rates.adapt(plan, (history.validation_loss or history.loss)[-1])
            bar.show(done * n, history)
            seconds = max(elapsed / at_once, 1e-9)
        history.interrupted = interrupts.asked


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


def _hold_out(network, x, y, validation, seed):
    """(x, y) to train on and the pair to validate on, or None."""
    if validation is None:
        return x, y, None
    if isinstance(validation, (tuple, list)):
        if len(validation) != 2:
            raise ValueError(f"validation must be a fraction or a pair (x, y); got {len(validation)} things")
        try:
            return x, y, network.check_data(*validation)
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation: {error}") from None
    first_x, first_y, *second = split(
        x, y, checks.real_number("validation", validation, above=0, below=1), seed
    )
    return first_x, first_y, second


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
