"""Callbacks: what a person wants done between epochs. Nothing here runs within one."""

import csv
import os
import stat

from . import metrics, validation


class Callback:
    """What is called when training starts, after epochs, and when it ends.

    Derive from it and override what is needed; a plain function is a callback too, called after each epoch.
    Each method is given the `Training`: it may read the ``network`` and the ``history``, set the
    ``learning_rate``, write to ``network.parameters`` and end it by ``stop(reason)``.

    Examples
    --------
    >>> class Halve(Callback):
    ...     def epoch(self, training):
    ...         if training.epoch % 10 == 0:
    ...             training.learning_rate /= 2
    """

    def next_epoch(self, done):
        """The next epoch after which `epoch` needs the network as it is then, or None.

        Short epochs are run several in a compiled call. By default each epoch is a call of its own; a
        callback that needs the network less often says so here, and one that only reads the history returns
        None.

        Parameters
        ----------
        done : int
            Epochs done.

        Returns
        -------
        int or None
            More than `done`.
        """
        return done + 1

    def start(self, training):
        """Before the first epoch; an error raised here ends training before anything has changed.

        Parameters
        ----------
        training : Training
        """

    def epoch(self, training):
        """After each epoch, validation included.

        Parameters
        ----------
        training : Training
        """

    def end(self, training):
        """After the last epoch, however it ended; ``training.failed`` says whether by an error.

        Parameters
        ----------
        training : Training
        """

    def state(self):
        """What a checkpoint keeps of the callback.

        Returns
        -------
        dict of str to JSON values or NumPy arrays
        """
        return {}

    def restore(self, state):
        """Take back what `state` returned, after `start`, where training is resumed.

        Of several callbacks of one class each is given what the one at its place had kept.

        Parameters
        ----------
        state : dict
        """

    def _fits(self, state):
        """Whether it is this callback, after `start`, rather than another of its class that kept this."""
        return False


class Function(Callback):
    """A function that is called after each epoch."""

    def __init__(self, function):
        self._function = function

    def epoch(self, training):
        """Call it."""
        self._function(training)


def is_ours(callback):
    """Whether a callback's class is one of fastbp's."""
    return type(callback).__module__.partition(".")[0] == __package__


def is_users(callback):
    """Whether a callback runs code of the user's, which may do anything."""
    return isinstance(callback, Function) or not is_ours(callback)


def as_callbacks(callbacks):
    """Check callbacks, and wrap functions.

    Raises
    ------
    TypeError
        If they are no list, or one is neither a `Callback` nor callable.
    """
    if isinstance(callbacks, Callback) or not isinstance(callbacks, (list, tuple)):
        raise TypeError(f"callbacks must be a list; got {callbacks!r}")
    found = []
    for callback in callbacks:
        if isinstance(callback, type) or not (isinstance(callback, Callback) or callable(callback)):
            raise TypeError(f"callbacks must be functions or of fastbp.Callback; got {callback!r}")
        found.append(callback if isinstance(callback, Callback) else Function(callback))
    return found


class Best:
    """Which of the values seen is best.

    Parameters
    ----------
    monitor : str or None
        "loss", "validation_loss" or a metric; None is the loss on validation rows where there are any.
    mode : {"auto", "min", "max"}
    min_delta : float
        A value must be better than the best by more than this.
    """

    def __init__(self, monitor, mode="auto", min_delta=0.0):
        validation.what_to_watch(monitor, mode)
        self.min_delta = validation.real_number("min_delta", min_delta, at_least=0)
        self._wanted, self._mode = monitor, mode

    def start(self, training):
        """Settle what is watched; ValueError if it is not measured, or nobody knows which way is better."""
        self.monitor, higher = metrics.watched(
            self._wanted, self._mode, training.validates, training.metric_names
        )
        self._sign, self.value = -1 if higher else 1, None

    def improves(self, history):
        """Whether the latest value is the best so far, which it then is; NaN never is."""
        value = history.column(self.monitor)[-1]
        if value != value or (
            self.value is not None and not self._sign * (self.value - value) > self.min_delta
        ):
            return False
        self.value = value
        return True

    def state(self):
        """The best value, and of what it is one."""
        return {"value": self.value, "monitor": self.monitor, "sign": self._sign}

    def restore(self, state):
        """Go on from there, if it is the same that is watched; returns whether it is."""
        same = self.watches(state)
        if same:
            value = state["value"]
            if not (value is None or (type(value) in (int, float) and value == value)):
                raise ValueError(f"the best value must be a number; got {value!r}")
            self.value = value
        return same

    def watches(self, state):
        """Whether it watches what the one did that returned this state."""
        found = state.get("monitor", self.monitor), state.get("sign", self._sign)
        return found == (self.monitor, self._sign)


class EarlyStopping(Callback):
    """Ends training that no longer gets better, and gives back the best weights.

    Parameters
    ----------
    patience : int
        So many epochs in a row without a better value end training.
    monitor : str, optional
        What is watched: "validation_loss" (the default where there is validation), "loss", or the name of a
        metric.
    min_delta : float
        A value counts as better if it is by more than this.
    mode : {"auto", "min", "max"}
        Which way is better; "auto" knows it of losses and of the metrics in ``METRICS``.
    restore_best : bool
        Whether the network gets the weights of the best epoch when training ends. Not after Ctrl-C or an
        error, which leave those of the last whole step and those from before it.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of bounds; when training starts, also if what is watched
        is not measured.

    Notes
    -----
    ``history.best_epoch`` says which epoch was best, and ``history.stopped`` whether training was ended.
    """

    def __init__(self, patience=10, *, monitor=None, min_delta=0.0, mode="auto", restore_best=True):
        self.patience = validation.positive_integer("patience", patience)
        self.restore_best = validation.boolean("restore_best", restore_best)
        self._best = Best(monitor, mode, min_delta)

    def start(self, training):
        """Forget what was before."""
        self._best.start(training)
        self._best_epoch, self._weights, self._from = None, None, training.epoch
        self._training = training

    def epoch(self, training):
        """Keep the weights if they are the best so far; stop if they have not been for long."""
        if self._best.improves(training.history):
            self._best_epoch = training.epoch
            if self.restore_best:
                self._weights = training.network.parameters.copy()
        self._judge(training)

    def _judge(self, training):
        """Say which epoch is best, and stop if that was long ago."""
        training.history.best_epoch = self._best_epoch
        waited = training.epoch - (self._best_epoch or self._from)
        if waited >= self.patience:
            epochs = "1 epoch" if waited == 1 else f"{waited} epochs"
            training.stop(f"{self._best.monitor} was not better in {epochs}")

    def end(self, training):
        """Give the best weights back."""
        self._training = None
        if self._weights is not None and not (training.failed or training.history.interrupted):
            training.network.parameters[:] = self._weights

    def _fits(self, state):
        return self._best.watches(state)

    def state(self):
        """What was best, and its weights."""
        weights = {} if self._weights is None else {"weights": self._weights}
        return {"epoch": self._best_epoch, **self._best.state(), **weights}

    def restore(self, state):
        """Go on from there, if the same was watched, and its weights are there where they are wanted; where
        patience was over then, it still is, unless there is more of it now.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing, or is not what `state` may have returned for this network.
        """
        if (self.restore_best and state["epoch"] and "weights" not in state) or not self._best.restore(state):
            return
        weights, training = state.get("weights"), self._training
        if weights is not None:
            ours = training.network.parameters
            fit = (weights.shape, weights.dtype) == (ours.shape, ours.dtype)
            if not (fit and (validation.all_finite(weights) or not training._looks)):
                raise ValueError("the best weights are none of this network's")
        if state["epoch"] is not None:
            validation.integer("epoch", state["epoch"], at_least=1, at_most=training.epoch)
        self._best_epoch, self._weights, self._from = state["epoch"], weights, 0
        self._judge(training)


class CSVLogger(Callback):
    """Writes the history to a CSV file while training runs, a line per epoch.

    Parameters
    ----------
    path : str or path
        A file that is there is written anew; a training that is resumed writes its earlier epochs again.

    Raises
    ------
    OSError
        If the file cannot be written, when training starts.
    """

    def __init__(self, path):
        self.path = validation.path("path", path)
        self._file = None

    def next_epoch(self, done):
        """None: only the history is read."""
        return

    def start(self, training):
        """Open the file. What is in it stays until there is something to write."""
        self._names = ["loss", *(["validation_loss"] if training.validates else []), *training.metric_names]
        self._names += ["seconds"] if training.learning_rate is None else ["learning_rate", "seconds"]
        self._is_new, self._written = not os.path.exists(self.path), None
        self._file = open(self.path, "a", newline="", encoding="utf-8")  # noqa: SIM115, `end` closes it
        self._writer = csv.writer(self._file, lineterminator="\n")

    def epoch(self, training):
        """Write the line of the latest epoch; first of all the head, and the epochs of before."""
        if self._written is None:
            if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):  # no pipe and no device
                self._file.truncate(0)
            self._writer.writerow(["epoch", *self._names])
            self._written = 0
        for epoch in range(self._written, training.epoch):
            values = (training.history.column(name)[epoch] for name in self._names)
            self._writer.writerow([epoch + 1, *values])
        self._written = training.epoch
        self._file.flush()

    def end(self, training):
        """Close the file; where training failed before there was anything to write, leave none."""
        if self._file is not None:
            if self._written is None and not training.failed:
                self.epoch(training)
            self._file.close()
            if self._written is None and self._is_new:
                os.unlink(self.path)
