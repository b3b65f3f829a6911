"""What a person sees while training runs: a bar, or a table."""

import sys
import time

from tqdm.auto import tqdm

from .callbacks import Callback
from .cpu import notice

# Training shorter than this shows no progress bar unless asked to.
SECONDS_WITHOUT_PROGRESS = 2.0


class Bar:
    """A tqdm bar over rows that appears when it is worth it: rows a second, time left, the latest values."""

    def __init__(self, wanted, epochs, n_rows, done=0):
        self._epochs = epochs
        total = None if n_rows is None else epochs * n_rows  # of a stream they are not known
        self._drawn = Rows(wanted, total, done * (n_rows or 0))

    def show(self, rows, history=None):
        """Draw so many rows done, and what the history says last."""
        self._drawn.show(rows, self._latest(history) if history is not None and len(history) else None)

    def close(self):
        """Leave the bar as it is."""
        self._drawn.close()

    def _latest(self, history):
        shown = {"epoch": f"{len(history)}/{self._epochs}", "loss": f"{history.loss[-1]:.4g}"}
        if history.validation_loss:
            shown["validation"] = f"{history.validation_loss[-1]:.4g}"
        return shown | {name: f"{values[-1]:.4g}" for name, values in history.metrics.items() if values}


class Rows:
    """The bar itself, drawn or not: `done` of the rows in `total` were there before. None: nobody knows."""

    def __init__(self, wanted, total, done=0):
        self._wanted = notice.somebody_waits() if wanted == "auto" else wanted and sys.stderr is not None
        self._delay = SECONDS_WITHOUT_PROGRESS if wanted == "auto" else 0.0
        self._start, self._total, self._done, self._bar = time.perf_counter(), total, done, None

    def show(self, rows, values=None):
        """Draw so many rows done, and values (a dict) behind them; without any, those of before stay."""
        if not self._wanted:
            return
        if self._bar is None:
            if time.perf_counter() - self._start < self._delay:
                return
            self._bar = tqdm(
                total=self._total, initial=self._done, unit=" rows", unit_scale=True, desc="training",
                mininterval=0.1,
            )  # fmt: skip
        if values is not None:
            self._bar.set_postfix(values, refresh=False)
        self._bar.update((rows if self._total is None else min(rows, self._total)) - self._bar.n)

    def close(self):
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


class Table(Callback):
    """A line for every so many epochs on standard output, for logs; what ``train(verbose=)`` shows."""

    def __init__(self, every):
        self._every = every

    def next_epoch(self, done):
        """None: lines may come a little after their epochs."""
        return

    def start(self, training):
        """Write the head of the table."""
        names = ["epoch", "loss", *(["validation"] if training.validates else []), *training.metric_names]
        self._names = [*names, *([] if training.learning_rate is None else ["learning rate"]), "seconds"]
        self._widths = [max(11, len(name)) for name in self._names]
        self._widths[0] = max(11, 2 * len(str(training.epochs)) + 1)
        self._shown = 0
        self._write(self._names)

    def epoch(self, training):
        """Write a line, if it is this epoch's turn."""
        if training.epoch % self._every == 0 or training.epoch == training.epochs:
            self._line(training)

    def end(self, training):
        """Write a line for the last epoch, and why it was the last."""
        if training.epoch > self._shown:
            self._line(training)
        if training.history.stopped:
            tqdm.write(f"stopped: {training.history.stopped}", file=sys.stdout)

    def _line(self, training):
        self._shown = training.epoch
        history = training.history
        values = [history.loss[-1], *history.validation_loss[-1:]]
        values += [history.metrics[name][-1] for name in training.metric_names]
        values += [*history.learning_rate[-1:], history.seconds[-1]]
        numbers = [f"{value:.5g}" for value in values]
        self._write([f"{training.epoch}/{training.epochs}", *numbers])

    def _write(self, cells):
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells, self._widths))
        tqdm.write(line, file=sys.stdout)
