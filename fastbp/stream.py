"""Streams: `train` on chunks of rows as they come. A chunk is released before the next is requested."""

import contextlib
import math
import time

import numpy as np

from . import validation as checks
from .balance import row_weights
from .data import fingerprint_of, given_rows
from .one_pass import options_of, places_of
from .training import SECONDS_INLINE, Call, Training, guess_seconds

# What is added to the seed from chunk to chunk, so that chunks of an epoch have orders of their own: 2**64
# over the golden ratio. The first one has the order that the epoch of an array has.
_SEED_STEP = 0x9E3779B97F4A7C15

_END = object()


class Stream:
    """The chunks of a training: where they come from, and each in the form that kernels take.

    Parameters
    ----------
    network : Network
    chunks : iterable, iterator or callable
        See `fastbp.train`.
    batch_size : int
    epochs : int or None
        None: one more of an iterator, which can be run through once, else ten.
    epochs_before : int
        Those of a checkpoint.
    sample_weight, class_weight, sampling, shuffle, validation, seed
        As for `fastbp.train`.

    Attributes
    ----------
    n, steps : None
        Rows and steps of an epoch, which nobody knows beforehand.
    batch_size, epochs : int
    held_out : (x, y, weights) or None
    options, identity : dict
        What the plan must know of the first chunk, and a checkpoint of the stream.

    Raises
    ------
    TypeError, ValueError
        If they are no chunks, the first one does not fit the network, or what is asked for needs all rows.
    """

    n = steps = None

    def __init__(
        self, network, chunks, batch_size, epochs, *, sample_weight, class_weight, sampling, shuffle,
        validation, seed, epochs_before,
    ):  # fmt: skip
        self._chunks, self._open, once = _opener(chunks)
        if once and epochs is not None and epochs > epochs_before + 1:
            those_before = f"{epochs_before} from before and " if epochs_before else ""
            raise ValueError(
                f"an iterator can be run through once, so epochs must be {those_before}1; got {epochs}: for "
                "more give a function that returns a fresh iterator, or a list or other object to be "
                "iterated over again"
            )
        _refuse_what_needs_all_rows(batch_size, sample_weight, class_weight, sampling, validation)
        self.epochs = epochs or (epochs_before + 1 if once else 10)
        self.batch_size = checks.positive_integer("batch_size", batch_size)
        self.held_out = None if validation is None else given_rows(network, validation)
        self._network, self._class_weight, self._shuffle, self._seed = network, class_weight, shuffle, seed
        self._order, self._losses, self.options, self._first = np.empty(0, np.int64), np.zeros(1), {}, None
        self._epoch, self._number, self._with_rows = 0, 0, 0
        first = self.next_chunk()
        if first is None:
            raise ValueError("a stream must have chunks (x, y); this one has none")
        self._first, self.options = first, options_of(*first)
        self.identity = {
            "number of rows": None,
            "data": "a stream",
            "sampling": None,
            "weights": repr(class_weight),
            "validation rows": fingerprint_of(self.held_out),
        }

    def begin(self, epoch, interrupts):
        """Go to the first chunk of an epoch, counted from 0; Ctrl-C ends the wait for it, with no chunk."""
        self._epoch = epoch
        if self._first is None:  # else it is here already
            self._number, self._with_rows, self._chunks = 0, 0, iter(())
            try:
                with interrupts.waiting():
                    self._chunks = self._open()
            except KeyboardInterrupt:
                if not interrupts.asked:
                    raise

    @property
    def place(self):
        """Which chunk came last, in words."""
        return f"chunk {self._number}" + (f" of epoch {self._epoch + 1}" if self._epoch else "")

    def next_chunk(self, interrupts=None):
        """(x, y, weights) of the next chunk, weights or None; None where there is none, or after Ctrl-C."""
        if self._first is not None:
            chunk, self._first = self._first, None
            return chunk
        while True:
            chunk = _ask(self._chunks, interrupts)
            if chunk is _END:
                return None
            self._number += 1
            if not _is_empty(chunk):
                self._with_rows += 1
                break
        try:
            if not isinstance(chunk, (tuple, list)) or len(chunk) not in (2, 3):
                raise TypeError(f"it must be (x, y) or (x, y, sample_weight); got {_described(chunk)}")
            return self._checked(*chunk)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self.place}: {error}") from None

    def _checked(self, x, y, weights=None):
        """A chunk in the form that kernels take, and of the kind that the first one was."""
        network, first = self._network, self.options
        kind = first.get("data", "numbers") if first else "sparse bytes"
        keep = dict(keep_bytes="bytes" in kind, keep_sparse="sparse" in kind)
        x, y = network.check_data(x, y, **keep)
        loss, n_outputs = network.loss_function.formula, network.architecture.sizes[-1]
        weights = row_weights(
            weights, self._class_weight, y, loss, n_outputs, network.dtype, all_may_be_0=True
        )
        if weights is None and "weighted" in first:
            weights = np.ones(len(x), network.dtype)
        if first and options_of(x, y, weights) != first:
            raise ValueError(
                f"it must be like the first chunk, which had {_in_words(first)}; "
                f"got {_in_words(options_of(x, y, weights))}"
            )
        return x, y, weights

    def set(self, plan):
        """Tell the plan's program what is the same for all chunks."""
        plan.set(losses=self._losses.ctypes.data, shuffle=self._shuffle)

    def point_to(self, plan, x, y, weights):
        """Tell the plan's program where a chunk lies."""
        n = len(x)
        if self._shuffle and len(self._order) < n:
            self._order = np.arange(n)
        self._losses[0] = 0.0
        plan.set(
            **places_of(x, y, weights), epoch=self._epoch, first_epoch=self._epoch,
            last_epoch=self._epoch + 1, order=self._order.ctypes.data if self._shuffle else 0,
            seed=np.uint64((self._seed + (self._with_rows - 1) * _SEED_STEP) % 2**64).astype(np.int64),
        )  # fmt: skip

    @property
    def loss(self):
        """Sum of the losses of the latest chunk's rows."""
        return self._losses.item()


class StreamTraining(Training):
    """A training whose rows come in chunks: an epoch is one run through the stream."""

    _within = False  # whether an epoch has begun and not ended
    _rows_before = 0  # in the epochs before

    @property
    def position(self):
        """(epochs, 0): one that was begun counts, as nobody can go on in the middle of it."""
        return self.epoch + self._within, 0

    def _guess_seconds(self):
        """Nothing: an epoch is a call, or several."""

    def _steps(self):
        return self.step

    def _call(self, interrupts, bar):
        """One run through the stream; where Ctrl-C ends it, it is no epoch of the history."""
        start = time.perf_counter()
        self._n, self._total, self._within = 0, 0.0, True
        self._data.begin(self.epoch, interrupts)
        while (yield from self._one_chunk(interrupts, bar)):
            pass
        if interrupts.asked:
            return
        if self._n == 0:
            raise ValueError(
                "a stream must have chunks (x, y) in each epoch; this one has none in epoch "
                f"{self.epoch + 1}: a function must return a fresh iterator each time"
            )
        self._collect(always=True)
        self._within = False
        self._record(self._total / self._n, time.perf_counter() - start)
        self._rows_before += self._n
        bar.show(self._rows_before, self.history)

    def _one_chunk(self, interrupts, bar):
        """Train on the next chunk, if there is one; nothing of it is held afterwards."""
        plan, data = self._plan, self._data
        chunk = data.next_chunk(interrupts)
        if chunk is None or interrupts.asked:
            return False
        data.point_to(plan, *chunk)
        n, here = len(chunk[0]), self._rows_before + self._n
        if self._collected:
            self._first_step, self._collected = self.step + 1, False
        short = guess_seconds(self.network.architecture, n, plan.batch_size) < SECONDS_INLINE
        show = lambda steps: bar.show(here + steps * plan.batch_size, self.history)
        yield (call := Call(lambda: interrupts.run(short, show)))
        self._seconds_since_look += call.seconds
        if self._looks and not math.isfinite(data.loss):
            raise self._divergence(
                f"the loss became {data.loss} in {data.place}", self.epoch + 1, exactly=True
            )
        if interrupts.asked:
            return False
        self._n, self._total = self._n + n, self._total + data.loss
        self._collect(always=True)  # whoever makes the next chunk may read the network
        bar.show(here + n, self.history)
        return True

    def _steps_in_question(self, epoch, last):
        return self._first_step, last


def _opener(chunks):
    """(an iterator of chunks, a function that returns a fresh one, whether there is none but the first)."""
    if hasattr(chunks, "__array__") or hasattr(chunks, "tocsr") or isinstance(chunks, (str, bytes, dict)):
        raise TypeError(
            "train needs y, the targets of x, or in place of both a stream of chunks (x, y); "
            f"got a {type(chunks).__name__} without y"
        )
    if hasattr(chunks, "__iter__"):
        first = iter(chunks)
        return first, lambda: iter(chunks), first is chunks
    if not callable(chunks):
        raise TypeError(
            "without y, x must be a stream: chunks (x, y) from an iterator, from an object to be iterated "
            f"over, or from a function that returns an iterator; got a {type(chunks).__name__}"
        )

    def fresh():
        made = chunks()
        if not hasattr(made, "__iter__"):
            raise TypeError(f"the function must return an iterator of chunks; got a {type(made).__name__}")
        return iter(made)

    return fresh(), fresh, False


def _refuse_what_needs_all_rows(batch_size, sample_weight, class_weight, sampling, validation):
    if batch_size is None:
        raise ValueError("a stream needs a batch_size: nobody knows beforehand how many rows there are")
    if sample_weight is not None:
        raise ValueError(
            "weights of a stream come with its chunks, (x, y, sample_weight), not by an argument"
        )
    if isinstance(class_weight, str) or sampling is not None:
        raise ValueError(
            "a stream cannot be balanced, as that needs the classes of all rows; class_weight may be a dict "
            "or a number for each class"
        )
    if validation is not None and not isinstance(validation, (tuple, list)):
        raise ValueError(
            "validation of a stream must be (x, y) or (x, y, sample_weight), as there is nothing to take a "
            f"share of; got {validation!r}"
        )


def _ask(chunks, interrupts):
    """The next chunk, or _END where there is none; Ctrl-C ends the wait for it."""
    try:
        with interrupts.waiting() if interrupts else contextlib.nullcontext():
            return next(chunks, _END)
    except KeyboardInterrupt:
        if interrupts and interrupts.asked:
            return _END
        raise


def _is_empty(chunk):
    """Whether a chunk has no rows, x and y alike; what is no chunk is not empty."""
    if not isinstance(chunk, (tuple, list)) or len(chunk) not in (2, 3):
        return False
    weights = [each for each in chunk[2:] if each is not None]
    return all(_has_no_rows(each) for each in [*chunk[:2], *weights])


def _has_no_rows(values):
    shape = getattr(values, "shape", None)  # sparse rows have no len
    if shape is not None:
        return len(shape) > 0 and shape[0] == 0
    return hasattr(values, "__len__") and len(values) == 0


def _described(chunk):
    kind = f"a {type(chunk).__name__}"
    return f"{kind} of {len(chunk)} things" if isinstance(chunk, (tuple, list)) else kind


_IN_WORDS = {
    "numbers": "numbers",
    "bytes": "uint8",
    "sparse numbers": "sparse rows",
    "sparse bytes": "sparse rows of uint8",
}


def _in_words(options):
    """What a chunk has, as `options_of` tells it."""
    x = _IN_WORDS[options.get("data", "numbers")]
    y = "classes" if options["targets"] == "classes" else "a table"
    return f"{x} for x, {y} for y and {'weights' if 'weighted' in options else 'no weights'}"
