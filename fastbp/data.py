"""The rows of a training, where all of them are there; those of a stream are in stream.py."""

import copy
import hashlib
import numbers

import numpy as np

from . import validation as checks
from .balance import labels_of, row_weights, rows_by_class
from .datasets import split
from .one_pass import options_of, places_of
from .sparse import arrays_of


class Data:
    """The rows of a training that are all there: what to train on, how much each counts, how often it comes.

    Attributes
    ----------
    x, y, weights : arrays
        Weights may be None.
    held_out : (x, y, weights) or None
        Rows to validate on.
    n, steps : int
        Rows and steps of an epoch.
    batch_size, epochs : int
    options : dict
        What the plan must know.
    """

    def __init__(
        self, network, x, y, batch_size, epochs, *, sample_weight, class_weight, sampling, shuffle,
        validation, seed,
    ):  # fmt: skip
        x, y = network.check_data(x, y, keep_bytes=True, keep_sparse=True)
        x, y, weights, self.held_out = _hold_out(network, x, y, sample_weight, validation, seed)
        loss, n_outputs = network.loss_function.formula, network.architecture.sizes[-1]
        self.weights = weights = row_weights(weights, class_weight, y, loss, n_outputs, network.dtype)
        self._by_class = None
        if sampling is not None:
            checks.known_name("sampling", sampling, ("balanced",))
            if not shuffle:
                raise ValueError("sampling draws the rows of an epoch, so shuffle must be True; got False")
            self._by_class = rows_by_class(labels_of(y, loss, "sampling"))
        self.x, self.y, self.n, self._sampling, self._shuffle = x, y, len(x), sampling, shuffle
        self.options, self._identity = options_of(x, y, weights), {}
        self._cut(batch_size, epochs)

    def _cut(self, batch_size, epochs):
        wanted = self.n if batch_size is None else checks.positive_integer("batch_size", batch_size)
        self.batch_size, self.epochs = min(self.n, wanted), epochs or 10
        self.steps = -(-self.n // self.batch_size)

    def again(self, batch_size, epochs):
        """The same rows for another training, which may run at the same time: nothing is copied."""
        other = copy.copy(self)
        other._cut(batch_size, epochs)
        return other

    @property
    def identity(self):
        """What must be the same where a training is resumed, by name: a dict of JSON values."""
        if not self._identity:  # shared with those that `again` made
            self._identity |= {
                "number of rows": self.n,
                "data": fingerprint_of((self.x, self.y)),
                "sampling": self._sampling,
                "weights": fingerprint_of((self.weights,)),
                "validation rows": fingerprint_of(self.held_out),
            }
        return self._identity

    def set(self, plan):
        """Tell the plan's program where the rows are, their weights and classes."""
        self._order = np.arange(self.n) if self._shuffle else None  # the program shuffles it in place
        plan.set(
            **places_of(self.x, self.y, self.weights), shuffle=self._shuffle,
            order=self._order.ctypes.data if self._shuffle else 0,
        )  # fmt: skip
        if self._by_class is not None:
            by_class, starts = self._by_class
            plan.set(
                shuffle=2, by_class=by_class.ctypes.data, class_starts=starts.ctypes.data,
                classes=len(starts) - 1,
            )  # fmt: skip


def fingerprint_of(rows):
    """A digest of (x, y, weights) or some of them, of their shapes, types and bytes.

    Any of them may be None; None where there is nothing.
    """
    arrays = [array for each in rows or () if each is not None for array in arrays_of(each)]
    if not arrays:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype.str};".encode())
        if array.size:
            digest.update(memoryview(array).cast("B"))
    return digest.hexdigest()


def given_rows(network, validation):
    """(x, y, weights) to validate on out of what a user gave, checked; weights may be None."""
    if len(validation) not in (2, 3):
        raise ValueError(
            "validation must be a fraction, a pair (x, y) or (x, y, sample_weight); "
            f"got {len(validation)} things"
        )
    try:
        x, y = network.check_data(*validation[:2], keep_bytes=True, keep_sparse=True)
        return x, y, network._check_weights(*validation[2:] or [None], y)
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation: {error}") from None


def _hold_out(network, x, y, weights, validation, seed):
    """(x, y, weights) to train on and the same three to validate on, or None; weights may be None."""
    if weights is not None:
        weights = checks.weights("sample_weight", weights, len(x), network.dtype)
    if validation is None:
        return x, y, weights, None
    if isinstance(validation, (tuple, list)):
        return x, y, weights, given_rows(network, validation)
    if not isinstance(validation, numbers.Real):
        raise TypeError(
            "validation must be a share of the rows, such as 0.1, or (x, y) or (x, y, sample_weight); "
            f"got a {type(validation).__name__}"
        )
    fraction = checks.real_number("validation", validation, above=0, below=1)
    first_x, first_y, *second = split(x, y, fraction, seed)
    if weights is None:
        return first_x, first_y, None, (*second, None)
    first_weights, _, second_weights, _ = split(weights, weights, fraction, seed)
    for part, name in ((first_weights, "trained on"), (second_weights, "validated on")):
        if not part.any():
            raise ValueError(f"sample_weight must not be 0 in all rows that are {name}")
    return first_x, first_y, first_weights, (*second, second_weights)
