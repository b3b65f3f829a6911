"""Small networks on a GPU: launches of many steps, a block of threads for each network (``cuda/small.py``).

A `SmallPlan` does for one small network what a `plan.Plan` does for any; `Blocks` are those that are launched
together.
"""

import time

import numpy as np

from .cuda import device, small
from .cuda.shaping import numbers_of
from .device_memory import Parts, Rows, enough, host_array
from .device_run import COUNTERS, DeviceRun
from .division import chunk_rows
from .formulas.activations import ACTIVATIONS
from .formulas.optimizers import OPTIMIZERS, ROOM

# A launch lasts about this long: rarely enough to cost nothing, often enough to show progress and to hear
# Ctrl-C. The first one tells how long a step takes.
SECONDS_PER_LAUNCH = 0.25
FIRST_STEPS = 64

# Numbers for the losses of the epochs of a launch, at most.
_MOST_LOSSES = 1 << 22


def why_not(architecture, batch_size):
    """Why a network cannot be trained by one block, as the end of a sentence; None where it can."""
    if not all(map(architecture.is_dense, range(architecture.n_layers))):
        return "it has other layers than Dense"
    n_bytes = shared_bytes(architecture, batch_size)
    if n_bytes > small.MOST_BYTES:
        return f"a block's memory has {small.MOST_BYTES} bytes, and a step takes {n_bytes}"
    return None


def shared_bytes(architecture, batch_size):
    """Bytes of a block's memory that a step works in."""
    return _places(architecture, batch_size)[0] * architecture.dtype.itemsize


def _places(architecture, batch_size):
    """`small.elements` of a network."""
    keeps_z = [ACTIVATIONS[name].keeps == "z" for name in architecture.activations]
    n_parameters = architecture.parameter_offsets()[-1]
    return small.elements(architecture.sizes, keeps_z, n_parameters, batch_size)


class Blocks:
    """Networks that are launched together, a block of threads for each.

    Those of one kind are one launch; launches of several kinds run side by side, each in a stream of its own.

    Attributes
    ----------
    rows : Rows
        Theirs, each array sent once for all.
    evaluating : dict
        What they validate with, see ``device_evaluate.py``.
    """

    def __init__(self):
        self.rows, self.evaluating, self._asked, self._steps = Rows(), {}, {}, FIRST_STEPS
        self._records, self._losses, self._streams = None, None, []

    def plan(self, architecture, batch_size, **options):
        """A `SmallPlan` for one more network; its kernel is compiled."""
        return SmallPlan(self, architecture, batch_size, **options)

    def ask(self, plan):
        """Let a plan be one of those that `launch` takes further."""
        self._asked[plan] = True

    def launch(self):
        """Take all whose calls have not ended some steps further, and see what has become of them."""
        self._asked, groups = {plan: True for plan in self._asked if plan.is_asked}, {}
        for plan in self._asked:
            groups.setdefault(plan.kind, []).append(plan)
        launched = [plan for plans in groups.values() for plan in plans]
        if not launched:
            return
        records, losses, first = np.zeros(len(launched), small.NETWORK), self._write_losses(launched), 0
        for record, plan, place in zip(records, launched, losses, strict=True):
            plan.describe(record, self._steps, place)
        self._records = enough(self._records, records.nbytes)
        self._records.write(0, records)
        start = time.perf_counter()
        for stream, (kind, plans) in zip(self._streams_for(len(groups)), groups.items(), strict=True):
            kernel = device.kernel(small.train_small, *kind)
            n_bytes = max(plan.shared_bytes for plan in plans)
            at = self._records.address + first * small.NETWORK.itemsize
            device.configured(kernel, len(plans), small.THREADS, n_bytes, stream)(at, 0)
            first += len(plans)
        device.wait()
        elapsed = max(time.perf_counter() - start, 1e-6)
        self._records.read(0, records)
        found = np.empty(self._losses.n_bytes // 8)
        self._losses.read(0, found)
        self._collect(launched, records, found, losses, elapsed)

    def _streams_for(self, n_groups):
        """Where each group is launched; one alone in the default stream."""
        if n_groups == 1:
            return [0]
        self._streams += [device.new_stream() for _ in range(n_groups - len(self._streams))]
        return self._streams[:n_groups]

    def _write_losses(self, plans):
        """Where the losses of each begin; fewer steps than wanted where they would be too many."""
        touched = [plan.epochs_touched(self._steps) for plan in plans]
        while sum(touched) > _MOST_LOSSES and self._steps > 1:
            self._steps //= 2
            touched = [plan.epochs_touched(self._steps) for plan in plans]
        begin = np.concatenate(([0], np.cumsum(touched)))
        sums = np.zeros(begin[-1])
        sums[begin[:-1]] = [plan.loss_begun for plan in plans]
        self._losses = enough(self._losses, sums.nbytes)
        self._losses.write(0, sums)
        return self._losses.address + 8 * begin[:-1]

    def _collect(self, plans, records, losses, places, elapsed):
        """Tell every plan, and choose the steps of the next launch."""
        steps = [int(record["step"]) - plan.step for plan, record in zip(plans, records, strict=True)]
        most = max(1, *steps)
        for plan, record, place, done in zip(plans, records, places, steps, strict=True):
            plan.collect(record, losses[(place - self._losses.address) // 8 :], elapsed * done / most)
        self._steps = max(1, int(most * SECONDS_PER_LAUNCH / elapsed))


class SmallPlan(DeviceRun):
    """Training of a network by one block of threads, in launches of many steps.

    Parameters
    ----------
    blocks : Blocks
        Those that it is launched with.
    architecture : Architecture
        For which `why_not` is None.
    optimizer, groups, schedule, targets, weighted, shaping, data
        As for `choices.Choices`.

    Attributes
    ----------
    seconds : float
        What the launches of its latest call took, its own share where others had more steps to do.
    """

    def __init__(
        self, blocks, architecture, batch_size, *, optimizer, targets="classes", groups=None, schedule=None,
        weighted=False, shaping=None, data="numbers",
    ):  # fmt: skip
        super().__init__(architecture, batch_size, optimizer=optimizer, groups=groups, schedule=schedule)
        self.evaluating = blocks.evaluating
        self.blocks, self.targets, self.weighted, self.shaping = blocks, targets, weighted, shaping
        self.data, self.seconds, self.is_asked = data, 0.0, False
        self.shared_bytes = shared_bytes(architecture, batch_size)
        *hidden, output = architecture.activations
        self._hidden = sorted(set(hidden)) or ["identity"]  # so networks that have the same share a kernel
        shaped = 0 if shaping is None else 2 if shaping.clip_norm > 0 else 1
        self.kind = small.Kind(
            " ".join(self._hidden), output, architecture.loss, targets, data, optimizer, schedule or "",
            int(bool(weighted)), shaped, architecture.real,
        )  # fmt: skip
        device.kernel(small.train_small, *self.kind)
        self._sent = None
        self._lay_out()

    def _lay_out(self):
        """Memory for parameters, optimizer states and all that a step reads beside rows."""
        architecture, dtype = self.architecture, self.architecture.dtype
        size, groups, n = dtype.itemsize, len(self.settings), architecture.parameter_offsets()[-1]
        parts = self.parts = Parts()
        self.state_bytes = -(-n * size // 16) * 16
        parts.take("parameters", self.state_bytes * (1 + OPTIMIZERS[self.optimizer].states))
        for name in ("settings", "scheduled"):
            parts.take(name, 8 * ROOM * groups)
        parts.take("hyper", size * ROOM * groups)
        parts.take("schedule", 8 * max(1, len(self.schedule_settings)))
        for name in ("row_scale", "shortening", "deviation"):
            parts.take(name, 8)
        parts.take("slots", n * size * (self.kind.shaped == 2))
        parts.take("squares", 8 * sum(architecture.sizes[1:]) * (self.kind.shaped == 2))
        parts.take("layers", small.LAYER.itemsize * architecture.n_layers)
        parts.keep("option", np.array([architecture.option], dtype))
        parts.keep("numbers", np.array([self.input_scale], dtype))
        if self.shaping is not None:
            for place in (None, *range(architecture.n_layers)):
                parts.keep(("shaping", place), self._shape(place))
        parts.allocate()
        parts.write("layers", self._layers())

    def _shape(self, layer):
        """The numbers at `shaping` of a layer, or of the whole network (None)."""
        shaping, dtype = self.shaping, self.architecture.dtype
        annealed = dict(first_deviation=shaping.gradient_noise, decay=shaping.gradient_noise_decay)
        if layer is None:
            return numbers_of(dtype, noise=shaping.input_noise, most=shaping.clip_norm, **annealed)
        own = dict(noise=shaping.gradient_noise, most=shaping.max_norms[layer])
        return numbers_of(dtype, *shaping.penalties[layer], shaping.clip_value, **own)

    def _layers(self):
        """A LAYER record for each layer."""
        architecture, parts = self.architecture, self.parts
        layers = np.zeros(architecture.n_layers, small.LAYER)
        layers["n_in"], layers["n_out"] = architecture.sizes[:-1], architecture.sizes[1:]
        layers["use_bias"], layers["w"] = architecture.biases, architecture.parameter_offsets()[:-1]
        _, self._row_losses, places = _places(architecture, self.batch_size)
        layers["x"], layers["z"], layers["y"], layers["dz"] = zip(*places, strict=True)
        layers["activation"][:-1] = [self._hidden.index(name) for name in architecture.activations[:-1]]
        row = ROOM * architecture.dtype.itemsize
        for name, groups in zip(("hyper", "bias_hyper"), zip(*self.groups, strict=True), strict=True):
            layers[name] = [parts.address("hyper") + row * group for group in groups]
        layers["collected"] = self.kind.shaped == 2
        layers["noise"] = [architecture.noise_before(place) for place in range(len(layers))]
        if self.shaping is not None:
            layers["shaping"] = [parts.address(("shaping", place)) for place in range(len(layers))]
        return layers

    # Running

    def set(self, **fields):
        """Set what the host tells the run; addresses are of the host's memory."""
        if "x" in fields:  # perhaps other numbers in the same place
            self.blocks.rows.forget()
        super().set(**fields)

    @property
    def step(self):
        """Steps done in all."""
        return int(self.contexts[0]["step"])

    @property
    def _place(self):
        return int(self.contexts[0]["epoch"]), int(self.contexts[0]["begin"])

    def ask(self):
        """Begin a call: from now on `Blocks.launch` takes it further, as long as `is_asked`."""
        given = self._given
        n, (epoch, begin) = given["n_rows"], self._place
        self.seconds, self._first, steps = 0.0, self.step, -(-n // self.batch_size)
        last = -(-(n - given.get("rest", 0)) // self.batch_size)  # step of the last epoch
        self._end = self._first + (given["last_epoch"] - epoch - 1) * steps + last - begin // self.batch_size
        self._sums = host_array(given["losses"], given["last_epoch"] - given["first_epoch"], np.float64)
        self._ordered = 0
        self.is_asked = epoch < given["last_epoch"] and self.step < self._end
        if self.is_asked:
            self.blocks.ask(self)

    def stop(self, wish=None):
        """End the call with the launch that runs, whatever the wish."""
        super().stop(wish)
        self.is_asked = False

    def _run(self):
        self.ask()
        while self.is_asked and not self._stopped:
            self.blocks.launch()

    @property
    def loss_begun(self):
        """Sum of the losses of the epoch begun, so far."""
        return self._sums[self._place[0] - self._given["first_epoch"]]

    def epochs_touched(self, steps):
        """How many epochs so many steps touch, at most."""
        left = self._given["last_epoch"] - self._place[0]
        return min(left, 2 + steps // -(-self._given["n_rows"] // self.batch_size))

    def describe(self, record, steps, losses):
        """Fill the NETWORK record of a launch of so many steps, whose losses begin at an address."""
        given, architecture, parts = self._given, self.architecture, self.parts
        n = given["n_rows"]
        self._send_settings()
        for name in ("settings", "scheduled", "hyper", "schedule", "option", "numbers", "row_scale",
                     "shortening", "deviation", "layers", "parameters", "slots", "squares"):  # fmt: skip
            record[name] = parts.address(name)
        for name, address in self.blocks.rows.places(architecture, given, self.data, self.targets).items():
            record[name] = address
        if given.get("shuffle"):
            for name, place in self._places_of_order(n).items():
                record[name] = place
        if self.shaping is not None:
            record["shaping"] = parts.address(("shaping", None))
        epoch, begin = self._place
        fields = dict(
            n_layers=architecture.n_layers, n_in=architecture.sizes[0], state_bytes=self.state_bytes,
            n_parameters=architecture.parameter_offsets()[-1], groups=len(self.settings),
            momentum=self.momentum, shuffle=given.get("shuffle", 0), classes=given.get("classes", 0),
            n_rows=n, batch_size=min(self.batch_size, n), seed=given["seed"], epoch=epoch, start=begin,
            chunk_rows=chunk_rows(architecture, self.batch_size),
            ordered=self._ordered, step=self.step, careful=given.get("careful", 0), losses=losses,
            last_epoch=epoch + self.epochs_touched(steps), last_step=min(self.step + steps, self._end),
            row_losses=self._row_losses,
        )  # fmt: skip
        for name, value in fields.items():
            record[name] = value

    def _send_settings(self):
        """Settings to the device, unless it has them."""
        settings = self.settings.tobytes() + self.schedule_settings.tobytes()
        if settings != self._sent:
            self.parts.write("settings", self.settings)
            self.parts.write("schedule", self.schedule_settings)
            self._sent = settings

    def collect(self, record, losses, seconds):
        """What a launch has left: its record, losses from those of its first epoch on, seconds."""
        first, last_epoch = self._place[0], self._given["last_epoch"]
        epoch = int(record["epoch"])
        for name, found in COUNTERS:
            self.contexts[name] = record[found]
        n = min(epoch + (record["start"] > 0), last_epoch) - first
        at = first - self._given["first_epoch"]
        self._sums[at : at + n] = losses[:n]
        self.seconds += seconds
        self.steps_done, self._ordered = self.step - self._first, 1
        if record["halt"] or self.step >= self._end or epoch >= last_epoch:
            self.is_asked = False
