"""Checkpoints: all that a training needs to go on to the very bits that it would have reached.

A checkpoint is a file that `fastbp.load` reads, with more in it:

    training.state.0, …         the optimizer's states, each laid out as the network's flat vector
    training.history.…          the history, float64
    training.callback.0.…       arrays that callbacks keep
    metadata "fastbp.training"  JSON: epochs and steps done, what the training was started with, what else
                                callbacks keep; of an epoch begun, the rows it has taken and their loss

The order of rows is a function of the seed and the epoch's number, so no generator is kept.
"""

import json
import math
import os
import re
import time

import numpy as np
from safetensors.numpy import save as to_bytes

from . import storage, validation
from .callbacks import Best, Callback, CSVLogger, is_ours

# Goes up when a file changes so that older versions of fastbp would misread it.
FORMAT_VERSION = 1

_NAME = re.compile(r"epoch-(\d{8,})(?:\.step-(\d{8,}))?\.safetensors")
_BEST = "best.safetensors"
# What writing leaves of either when the process is killed.
_UNFINISHED = re.compile(rf"({_NAME.pattern}|{re.escape(_BEST)}){storage.UNFINISHED}")


class Checkpoints(Callback):
    """When and where a training is written down, for ``train(resume=)``.

    Parameters
    ----------
    folder : str or path
        Made if it is not there. Files in it are called ``epoch-00000012.safetensors``, by the epochs done,
        ``epoch-00000012.step-00000345.safetensors`` with steps of the epoch begun, and ``best.safetensors``;
        `fastbp.load` reads the network from any of them.
    every : int, optional
        A checkpoint after every so many epochs.
    seconds : float, optional
        A checkpoint when so many seconds have passed since the last one: within an epoch too, but for epochs
        so short that several are run in a compiled call, and for streams. Without `every` and `steps` too,
        60. One more is written when training ends, be it by Ctrl-C in the middle of an epoch.
    steps : int, optional
        A checkpoint after every so many steps, counted over all epochs. Not of a stream.
    keep : int
        How many of the newest are kept.
    monitor, mode : str, optional
        What says which checkpoint is best, as for `EarlyStopping`.
    overwrite : bool
        Whether checkpoints that are there already may be removed, when the first new one is written: all that
        are not of the training that is resumed, or, where it is resumed from an older one, all later ones.
        Otherwise it refuses to start.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of bounds; when training starts, if there are checkpoints
        of another training, or later ones than the one that is resumed.
    OSError
        If a file cannot be written; older ones stay whole.

    Examples
    --------
    >>> import tempfile, fastbp
    >>> x, y = fastbp.datasets.digits()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     net = fastbp.Network([64, 10], loss="softmax_cross_entropy", seed=0)
    ...     history = fastbp.train(net, x, y, epochs=2, checkpoints=fastbp.Checkpoints(folder, every=1))
    ...     len(fastbp.train(net, x, y, epochs=5, resume=folder))
    5
    """

    def __init__(
        self, folder, every=None, seconds=None, *, steps=None, keep=3, monitor=None, mode="auto",
        overwrite=False,
    ):  # fmt: skip
        self.folder = validation.path("folder", folder)
        self.every = None if every is None else validation.positive_integer("every", every)
        self.steps = None if steps is None else validation.positive_integer("steps", steps)
        if seconds is None:
            self.seconds = 60.0 if every is None and steps is None else None
        else:
            self.seconds = validation.real_number("seconds", seconds, above=0)
        self.keep = validation.positive_integer("keep", keep)
        self.overwrite = validation.boolean("overwrite", overwrite)
        self._best = Best(monitor, mode)

    def next_epoch(self, done):
        """The next multiple of `every`."""
        return None if self.every is None else (done // self.every + 1) * self.every

    def next_step(self, done):
        """The next step after which one is due.

        Parameters
        ----------
        done : int
            Steps done, over all epochs.

        Returns
        -------
        int or None
            None without `steps`.
        """
        return None if self.steps is None else (done // self.steps + 1) * self.steps

    def is_late(self):
        """Whether one is due because of the time.

        Returns
        -------
        bool
        """
        return self.seconds is not None and time.monotonic() - self._clock >= self.seconds

    def _is_due(self, training):
        """Whether one is due where training is now."""
        return (self.steps is not None and training.step % self.steps == 0) or self.is_late()

    def start(self, training):
        """Make the folder ready.

        Raises
        ------
        ValueError
            If it has checkpoints of another training, or what is to be watched is not measured.
        OSError
            If it cannot be made.
        """
        self._best.start(training)
        self._identity, self._files, self._at = None, [], (training.epoch, 0)
        self._clock = time.monotonic()
        os.makedirs(self.folder, exist_ok=True)
        there = [name for name in os.listdir(self.folder) if _NAME.fullmatch(name) or name == _BEST]
        before = training.checkpoint
        self._goes_on_here = before is not None and before.is_in(self.folder)
        if self._goes_on_here:
            position = before.position(training._plan.batch_size)
            self._best_is_later = _BEST in there and self._epoch_of_best() > training.epoch
            there = [name for name in there if name != _BEST and _position_in(name) > position]
            there += [_BEST] if self._best_is_later else []
        if there and not self.overwrite:
            if self._goes_on_here:
                raise ValueError(
                    f"{self.folder} has later checkpoints than the one that is resumed, {max(there)} too: "
                    "choose another folder, or give overwrite=True to remove them"
                )
            raise ValueError(
                f"{self.folder} has checkpoints of another training: resume it by "
                f"resume={self.folder!r}, choose another folder, or give overwrite=True"
            )
        self._replaced = there
        for name in os.listdir(self.folder):
            if _UNFINISHED.fullmatch(name):
                os.unlink(os.path.join(self.folder, name))

    def _epoch_of_best(self):
        """How many epochs the best checkpoint in the folder has; infinity where it cannot be read."""
        try:
            with storage.opened(os.path.join(self.folder, _BEST)) as file:
                return json.loads((file.metadata() or {})[storage.TRAINING_KEY])["epoch"]
        except (OSError, ValueError, KeyError):
            return math.inf

    def epoch(self, training):
        """Write a checkpoint, if it is time."""
        due = self.every is not None and training.epoch % self.every == 0
        if due or (training.at_an_end and self._is_due(training)):
            self._write(training)

    def within_epoch(self, training):
        """The same in the middle of one, where the program has stopped.

        Parameters
        ----------
        training : Training
        """
        if self._is_due(training):
            self._write(training)

    def end(self, training):
        """Write the last one, unless training failed."""
        if training.position > self._at and training.may_be_kept():
            self._write(training)

    def _write(self, training):
        """Write a checkpoint, and remove those that are too many."""
        training.collect()  # which raises where they are not finite
        if self._identity is None:
            self._identity = training.identity()
        self._at, self._clock = training.position, time.monotonic()
        best = training.at_an_end and self._best.improves(training.history)
        name = _name_of(training.epoch, training.step_of_epoch)
        self._files = [*(file for file in self._files if file != name), name]
        old, self._files = self._files[: -self.keep], self._files[-self.keep :]
        content = _content(training, self._identity)
        storage.write_whole(os.path.join(self.folder, name), content)
        if best:
            storage.same_file(os.path.join(self.folder, name), os.path.join(self.folder, _BEST), content)
        written = {*self._files, *([_BEST] if best else [])}
        for file in {*old, *self._replaced} - written:
            if os.path.exists(os.path.join(self.folder, file)):
                os.unlink(os.path.join(self.folder, file))
        self._replaced = []

    def state(self):
        """Which files there are, and the best value."""
        best = self._best.state()
        return {"folder": self._name, "files": self._files, "best": best.pop("value"), **best}

    def _fits(self, state):
        return state.get("folder") == self._name

    @property
    def _name(self):
        """Of the folder, which may be in another place when a training is resumed."""
        return os.path.basename(os.path.realpath(self.folder))

    def restore(self, state):
        """Go on from there; in another folder none of the files is this one's, nor the best of them."""
        if self._goes_on_here:
            self._files = [name for name in state["files"] if _NAME.fullmatch(name)]
            if not self._best_is_later:
                self._best.restore({**state, "value": state["best"]})


def _name_of(epoch, step):
    """The file of a checkpoint after so many epochs and steps."""
    within = f".step-{step:08d}" if step else ""
    return f"epoch-{epoch:08d}{within}.safetensors"


def _position_in(name):
    """(epochs, steps) that the name of a checkpoint tells."""
    match = _NAME.fullmatch(name)
    return int(match[1]), int(match[2] or 0)


def _content(training, identity):
    """The bytes of a checkpoint."""
    network, plan = training.network, training._plan
    parameters = np.empty_like(network.parameters)
    plan.unpack(parameters)
    tensors = storage.tensors_of(network._views(parameters))
    states = plan.states()
    for index, state in enumerate(states):
        tensors[f"training.state.{index}"] = np.ascontiguousarray(state)
    for name, values in training.history.columns().items():
        tensors[f"training.history.{name}"] = np.array(values, np.float64)
    callbacks = []
    for index, callback in enumerate(training._callbacks):
        state = callback.state()
        arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
        for key, value in arrays.items():
            tensors[f"training.callback.{index}.{key}"] = np.asarray(value, order="C")
        plain = {key: _as_json(callback, key, value) for key, value in state.items() if key not in arrays}
        callbacks.append({"type": _kind_of(callback), "arrays": list(arrays), "state": plain})
    described = {
        "format_version": FORMAT_VERSION,
        "epoch": training.epoch,
        "step": training.step,
        "begun": {"rows": training.position[1], **training._begun._asdict()},
        "settings": plan.settings.tolist(),
        "rates": training._rates.state(training._plan),
        "states": len(states),
        "identity": identity,
        "callbacks": callbacks,
    }
    metadata = {storage.NETWORK_KEY: storage.describe(network), storage.TRAINING_KEY: json.dumps(described)}
    return to_bytes(tensors, metadata)


def _as_json(callback, key, value):
    """A value of a callback's state, NumPy's numbers as Python's; TypeError where JSON does not know it."""
    value = value.item() if isinstance(value, np.generic) else value
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{type(callback).__name__}.state() must return JSON values or arrays; {key!r} is {value!r}"
        ) from None
    return value


def check_places(callbacks):
    """Raise ValueError where two of these callbacks would write to one folder of checkpoints or CSV file."""
    places = [
        os.path.realpath(callback.folder if isinstance(callback, Checkpoints) else callback.path)
        for callback in {id(each): each for each in callbacks}.values()
        if isinstance(callback, (Checkpoints, CSVLogger))
    ]
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"two callbacks would write to {place!r}; each needs a place of its own")


def _kind_of(callback):
    """The name of a callback's class, by which its state is found; a user's is never taken for ours."""
    name = type(callback).__qualname__
    return f"{__package__}.{name}" if is_ours(callback) else name


def _columns_of(identity):
    """The columns that the history of such a training has."""
    validation = ["validation_loss", *identity["metrics"]] if identity["validation rows"] else []
    return {"loss", "learning_rate", "seconds", "samples_per_second", *validation}


def read_checkpoint(path, network):
    """The checkpoint in a file, or the newest in a folder, for a network like the one that was trained.

    Raises
    ------
    TypeError
        If `path` is no path.
    OSError
        If there is nothing, or it cannot be read.
    ValueError
        If it is no checkpoint, or one of another network.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"resume must be the path of a checkpoint or of a folder; got {path!r}")
    path = os.fsdecode(path)
    if os.path.isdir(path):
        found = [name for name in os.listdir(path) if _NAME.fullmatch(name)]
        if not found:
            raise FileNotFoundError(f"there is no checkpoint in {path}")
        path = os.path.join(path, max(found, key=_position_in))
    with storage.opened(path) as file:
        text = (file.metadata() or {}).get(storage.TRAINING_KEY)
        if text is None:
            raise storage.Unfit("is not a checkpoint: it holds a network and nothing of its training")
        kept = storage.network_of(file)
        theirs, ours = (_comparable(each) for each in (kept, network))
        for what in theirs:
            if theirs[what] != ours[what]:
                raise storage.Unfit(
                    f"is a checkpoint of another network: its {what} {'are' if what in _MANY else 'is'} "
                    f"{theirs[what]}; got {ours[what]}"
                )
        try:
            described = json.loads(text)
            version = validation.integer("format_version", described["format_version"], at_least=1)
            if version > FORMAT_VERSION:
                raise storage.Unfit("was written by a newer fastbp")
            own = storage.tensors_of(kept.layers)
            tensors = {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118, it is no dict
                if name.startswith(storage.TRAINING_PREFIX) and name not in own
            }
            return Checkpoint(path, kept.parameters, described, tensors)
        except _SIGNS_OF_DAMAGE:
            raise storage.Unfit("is a damaged checkpoint") from None


def _comparable(network):
    """What must be the same of two networks."""
    return {
        "inputs": network.architecture.sizes[0],
        "layers": ", ".join(map(repr, network._described)),
        "loss": repr(network.loss_function),
        "dtype": network.dtype.name,
        "input_scale": network.input_scale,
    }


# What may come of a description that is JSON, but not of ours.
_SIGNS_OF_DAMAGE = KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError


# Of what there are several.
_MANY = "inputs", "layers", "metrics"

# Of what is a digest, or says little to a reader, only that it is another.
_NOT_TOLD = {
    "data": "data are others",
    "validation rows": "validation rows are others",
    "weights": "weights of rows or classes are others",
    "regularisation": "penalties, largest norms, clipping or noise are others",
}


class Checkpoint:
    """A checkpoint that was read."""

    def __init__(self, path, parameters, described, tensors):
        self.path, self._parameters, self._identity = path, parameters, dict(described["identity"])
        self.seed = validation.seed(self._identity["seed"])
        n_states = validation.integer("states", described["states"], at_least=0, at_most=len(tensors))
        names = [f"training.state.{index}" for index in range(n_states)]
        self._states = [tensors[name] for name in names]
        for state in self._states:
            if state.shape != parameters.shape or state.dtype != parameters.dtype:
                raise ValueError(f"a state has shape {state.shape}")
        self._settings = np.array(described["settings"], np.float64)
        self.epoch = validation.integer("epoch", described["epoch"], at_least=0)
        self._step = validation.integer("step", described["step"], at_least=1, at_most=2**62)
        begun = described["begun"]
        self._rows = validation.integer("rows", begun["rows"], at_least=0)
        self._begun = {name: float(begun[name]) for name in ("loss", "seconds")}
        prefix = "training.history."
        columns = {
            name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)
        }
        if any(values.shape != (self.epoch,) for values in columns.values()):
            raise ValueError("the history has not as many values as there were epochs")
        if self._begun["loss"] and not self._rows:
            raise ValueError("no rows were begun, and they have a loss")
        columns = {name: values.tolist() for name, values in columns.items()}
        self._columns, self._rates = columns, described["rates"]
        self._callbacks = [
            (
                entry["type"],
                dict(entry["state"])
                | {key: tensors[f"training.callback.{index}.{key}"] for key in entry["arrays"]},
            )
            for index, entry in enumerate(described["callbacks"])
        ]

    def is_finite(self):
        """Whether weights and states are."""
        return np.isfinite(self._begun["loss"]) and all(
            map(validation.all_finite, (self._parameters, *self._states))
        )

    def is_in(self, folder):
        """Whether that is the folder of its file."""
        return os.path.samefile(os.path.dirname(self.path) or ".", folder)

    def position(self, batch_size):
        """(epochs, steps of the epoch begun), where it was written."""
        return self.epoch, -(-self._rows // batch_size)

    def check(self, ours, n_rows, rates, n_states):
        """Raise ValueError where a training of this identity, so many rows (None: nobody knows), these rates
        and so many states of the optimizer is not the one that was written down.
        """
        for what, theirs in self._identity.items():
            if ours.get(what) == theirs:
                continue
            if what == "schedule":
                raise ValueError(
                    f"{self.path} cannot be resumed: the schedule was laid out for another number of "
                    "epochs; begin with total= in the schedule to be free to change it"
                )
            was = "were" if what in _MANY else "was"
            told = _NOT_TOLD.get(what, f"{what.replace('_', ' ')} {was} {theirs}; got {ours.get(what)}")
            raise ValueError(f"{self.path} cannot be resumed: the {told}")
        if (
            self._rows >= (n_rows or 1)  # of a stream nobody knows how many, and none are left over
            or len(self._states) != n_states
            or not rates.fits(self._rates, self._settings)
            or (self.epoch and set(self._columns) != _columns_of(ours))
            or not self._counts_fit(n_rows, ours["batch_size"])
        ):
            raise ValueError(f"{self.path} is a damaged checkpoint")

    def _counts_fit(self, n_rows, batch_size):
        """Whether epochs, steps and rows are those of a training of so many rows (None: nobody knows)."""
        if n_rows is None:
            return True
        of_epoch, rest = -(-self._rows // batch_size), self._rows % batch_size
        return rest == 0 and self._step == self.epoch * -(-n_rows // batch_size) + of_epoch

    def restore_history(self, training):
        """What happened before."""
        history, columns = training.history, dict(self._columns)
        for name in ("loss", "validation_loss", "learning_rate", "seconds", "samples_per_second"):
            getattr(history, name)[:] = columns.pop(name, [])
        for name in history.metrics:
            history.metrics[name][:] = columns.get(name, [])

    def restore(self, training):
        """Weights, states, counts, and what callbacks kept, by their types."""
        self._restore_callbacks(training._callbacks)
        plan = training._plan
        training.network.parameters[:] = self._parameters
        plan.set_states(self._states)
        plan.settings[:] = self._settings
        training._rates.restore(plan, self._rates)
        plan.set(epoch=self.epoch, step=self._step, begin=self._rows)
        training._begun = training._begun._replace(**self._begun)

    def _restore_callbacks(self, callbacks):
        """Give each what one of its kind kept. It comes first, as it may find that something is not right."""
        for callback, state in self._matched(callbacks):
            try:
                callback.restore(state)
            except _SIGNS_OF_DAMAGE:
                if not is_ours(callback):
                    raise
                raise ValueError(f"{self.path} is a damaged checkpoint") from None

    def _matched(self, callbacks):
        """Each callback with what one of its kind kept: one that fits it, else the first of those left."""
        left, found = dict(enumerate(self._callbacks)), {}
        for fits in (lambda callback, state: callback._fits(state), lambda callback, state: True):
            for callback in callbacks:
                kind = _kind_of(callback)
                places = [at for at, (name, state) in left.items() if name == kind and fits(callback, state)]
                if id(callback) not in found and places:
                    found[id(callback)] = left.pop(places[0])[1]
        return [(callback, found[id(callback)]) for callback in callbacks if id(callback) in found]
