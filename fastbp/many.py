"""train_many(): several networks side by side, one to a thread.

Every network is a `Job`, checked before the first one begins; ``turns.py`` runs them. A job runs as it would
alone, so its bits are those of `train`. What the networks have in common is done once: data are checked and
copied once, and small networks of one architecture share a plan, one after the other.
"""

import copy
import inspect
from collections import Counter

import numpy as np

from . import validation as checks
from .callbacks import Callback, EarlyStopping
from .checkpoints import Checkpoints, check_places
from .data import Data
from .division import available_cores
from .jobs import Job, progress_wanted, train
from .network import Network
from .turns import SECONDS_OF_PYTHON, Crew, OnDevice


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
        errors = OnDevice(jobs, progress).run()
    else:
        errors = Crew(jobs, _useful_threads(jobs, threads), progress).run()
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
