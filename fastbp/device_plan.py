"""From a network, a task and a batch size to what a GPU executes: the counterpart of ``plan.py``.

A `DevicePlan` answers to what a `plan.Plan` does: the same settings, the same counters, the same parameters,
bit for bit. It owns one piece of device memory, with parameters and the optimizer's state laid out as on the
host, and a list of launches, the same for every step (``device_program.py``). Where one block of threads can
train the network, `make_plan` makes a `device_small.SmallPlan` instead: one launch of many steps.
"""

import numpy as np

from . import device_small
from .cuda import device
from .cuda.records import CONTEXT
from .device_memory import Parts, Rows, aligned, enough, host_array
from .device_program import DeviceProgram
from .device_run import COUNTERS, DeviceRun
from .division import chunk_rows
from .formulas.activations import ACTIVATIONS
from .formulas.optimizers import OPTIMIZERS, ROOM

# Steps that the host is ahead of the device at most, twice: soon enough for progress and Ctrl-C.
STEPS_AHEAD = 128


def fits_block(architecture, batch_size, materialise=False):
    """Whether one block of threads can train a network."""
    return not materialise and device_small.why_not(architecture, batch_size) is None


def make_plan(architecture, task, batch_size, *, materialise=False, blocks=None, **options):
    """The plan of a training: a `SmallPlan` where one block of threads can train the network.

    Parameters
    ----------
    blocks : device_small.Blocks, optional
        Those that a `SmallPlan` shall be launched with; by default it is launched alone.
    others : see `DevicePlan`
    """
    if task == "train" and fits_block(architecture, batch_size, materialise):
        return (blocks or device_small.Blocks()).plan(architecture, batch_size, **options)
    return DevicePlan(architecture, task, batch_size, materialise=materialise, **options)


class DevicePlan(DeviceRun):
    """Launches for one task, and the device's memory that they work in.

    Parameters
    ----------
    architecture : Architecture
    task : {"train", "gradient", "loss", "evaluate", "predict", "logits"}
        "evaluate" gives losses and predictions in one pass.
    batch_size : int
        Rows of a full batch; the most rows that one pass may have.
    optimizer, groups, schedule, targets, materialise, inputs, weighted, shaping, batch_statistics, data
        As for `choices.Choices`.
    """

    def __init__(
        self, architecture, task, batch_size, *, optimizer=None, targets="classes", materialise=False,
        inputs=False, groups=None, schedule=None, weighted=False, shaping=None, batch_statistics=False,
        data="numbers",
    ):  # fmt: skip
        super().__init__(architecture, batch_size, optimizer=optimizer, groups=groups, schedule=schedule)
        self.task, self.targets, self.data = task, targets, data
        self.weighted, self.shaping = weighted, shaping
        self.backward = task in ("train", "gradient")
        self.batch_statistics = task == "train" or batch_statistics
        self.clips_norm = shaping is not None and shaping.clip_norm > 0
        self.materialise = materialise or self.clips_norm or task == "gradient"
        self.chunk_rows = chunk_rows(architecture, batch_size) if self.backward else batch_size
        self.chunked = self.chunk_rows < batch_size
        self.n_slots = -(-batch_size // self.chunk_rows)
        self.real, self.size = architecture.real, architecture.dtype.itemsize
        self.offsets = architecture.parameter_offsets()
        self.wants_dx = architecture.wants_dx(inputs) if self.backward else [False] * architecture.n_layers
        self._rows, self._outputs, self._losses = Rows(), None, None
        self._lay_out()
        self._program = DeviceProgram(self)
        self.parts.allocate()
        self._program.write()

    # Memory

    def _lay_out(self):
        """Context | parameters, optimizer states | gradient slots | settings | workspace."""
        architecture, n_layers, groups = self.architecture, self.architecture.n_layers, len(self.settings)
        parts = self.parts = Parts()
        self.state_bytes = aligned(self.offsets[-1] * self.size)
        states = OPTIMIZERS[self.optimizer].states if self.optimizer else 0
        needs_slots = self.backward and (
            self.chunked or self.materialise or any(not architecture.is_dense(i) for i in range(n_layers))
        )
        parts.take("context", CONTEXT.itemsize)
        parts.take("parameters", self.state_bytes * (1 + states))
        parts.take("slots", self.state_bytes * self.n_slots * needs_slots)
        parts.take("settings", 8 * groups * ROOM)
        parts.take("scheduled", 8 * groups * ROOM)
        parts.take("hyper", self.size * groups * ROOM)
        parts.take("schedule", 8 * max(1, len(self.schedule_settings)))
        parts.take("shortening", 8)
        parts.take("deviation", 8)
        parts.take("row_losses", self.batch_size * self.size)
        parts.take("squares", 8 * sum(architecture.sizes[1:]))
        parts.keep("option", np.array([architecture.option], architecture.dtype))
        parts.keep("row_scale", np.ones(1))
        for layer in range(n_layers + 1):
            self._take_buffers(layer)

    def row_bytes(self, layer):
        """Bytes from row to row of a layer's inputs (of the outputs, for the number of layers)."""
        return -(-self.architecture.sizes[layer] // 4) * 4 * self.size

    def _take_buffers(self, layer):
        """y, z, the gradient, and a number of each row, of a layer's inputs (of the outputs …)."""
        each, keeps_z, keeps_rows = self.batch_size * self.row_bytes(layer), False, False
        if layer > 0:
            operation = self.architecture.operations[layer - 1]
            if operation.passes(self):
                return
            keeps_z = operation.keeps or ACTIVATIONS[self.architecture.activations[layer - 1]].keeps == "z"
            keeps_rows = operation.keeps_rows
        self.parts.take(("y", layer), each)
        if keeps_z:
            self.parts.take(("z", layer), each)
        if self.task not in ("predict", "logits"):
            self.parts.take(("dz", layer), each)
        if keeps_rows:
            self.parts.take(("rows", layer), self.batch_size * self.size)

    def buffers(self, layer):
        """Addresses of z, y, the gradient, and a number of each row, of a layer's inputs (of the outputs …).

        z is y where only y is kept; 0 stands for what there is not. A layer that passes its input on has the
        buffers of its input.
        """
        while ("y", layer) not in self.parts:
            layer -= 1
        y, *others = (
            self.parts.address((name, layer)) if (name, layer) in self.parts else 0
            for name in ("y", "z", "dz", "rows")
        )
        return others[0] or y, y, *others[1:]

    # Running

    def set(self, **fields):
        """Set what the host tells the run; addresses are of the host's memory."""
        if "x" in fields:  # perhaps other numbers in the same place
            self._rows.forget()
        super().set(**fields)

    @property
    def bytes_in_all(self):
        """How much of the device's memory the plan takes, with the rows that it was given last."""
        pieces = [self.parts, self._rows, self._order, self._outputs, self._losses]
        return sum(piece.n_bytes for piece in pieces if piece is not None)

    def unpack(self, vector):
        """Bring back the parameters, or for the task "gradient" their gradient, to a flat vector."""
        self.parts.read("slots" if self.task == "gradient" else "parameters", vector)

    def _run(self):
        given, n = self._given, self._given["n_rows"]
        epochs = given["last_epoch"] - given["first_epoch"]
        losses = np.zeros(max(1, epochs))
        if given.get("losses"):
            losses[:epochs] = host_array(given["losses"], epochs, np.float64)
        self._losses = enough(self._losses, losses.nbytes)
        self._losses.write(0, losses)
        record = self._context(n)
        for name, values in (
            ("context", record),
            ("settings", self.settings),
            ("schedule", self.schedule_settings),
        ):
            self.parts.write(name, values)
        self._enqueue(n, given["last_epoch"] - int(self.contexts[0]["epoch"]))
        self.parts.read("context", record)  # when all that was enqueued is done
        self._losses.read(0, losses)
        for name, found in COUNTERS:
            self.contexts[name] = record[found]
        if given.get("losses"):
            host_array(given["losses"], epochs, np.float64)[:] = losses[:epochs]
        if given.get("outputs"):
            outputs = host_array(given["outputs"], n * self._n_outputs, self.architecture.dtype)
            self._outputs.read(0, outputs)

    def _enqueue(self, n, epochs):
        program, context, marks, done = self._program, self.parts.address("context"), [], 0
        batch_size, rest = min(self.batch_size, n), self._given.get("rest", 0)
        begin = int(self.contexts[0]["begin"])
        for epoch in range(epochs):
            if self._given.get("shuffle"):
                for launch in program.order[int(self._given["shuffle"])]:
                    launch(context, n)
            end = n - (rest if epoch + 1 == epochs else 0)
            for _start in range(begin, end, batch_size):
                if self._stopped:
                    return
                for launch in program.launches:
                    launch(context, n)
                done += 1
                if done % STEPS_AHEAD == 0:
                    marks.append((device.mark(), done))
                    if len(marks) > 1:
                        passed, self.steps_done = marks.pop(0)
                        passed()
            begin = 0
        device.wait()
        self.steps_done = done

    @property
    def _n_outputs(self):
        """How many numbers a run gives for each row."""
        sizes = self.architecture.sizes
        return {"gradient": sizes[0], "train": 0, "loss": 0}.get(self.task, sizes[-1])

    def _context(self, n):
        """The context that a run begins with; sends the rows, unless the device has them."""
        given, address = self._given, self.parts.address
        record = np.zeros(1, CONTEXT)
        for name, place in self._rows.places(self.architecture, given, self.data, self.targets).items():
            record[name] = place
        for name in ("settings", "hyper", "schedule", "scheduled", "option", "row_scale", "shortening",
                     "deviation", "row_losses"):  # fmt: skip
            record[name] = address(name)
        if given.get("shuffle"):
            for name, place in self._places_of_order(n).items():
                record[name] = place
        if self._n_outputs:
            self._outputs = enough(self._outputs, n * self._n_outputs * self.size)
            record["outputs"] = self._outputs.address
        record["losses"] = self._losses.address
        record["n_rows"], record["groups"] = n, len(self.settings)
        record["batch_size"], record["chunk_rows"] = min(self.batch_size, n), self.chunk_rows
        record["careful"], record["continues"] = given.get("careful", 0), self.task in ("loss", "evaluate")
        for name, place in COUNTERS:
            record[place] = self.contexts[0][name]
        record["first_epoch"], record["seed"] = given["first_epoch"], given.get("seed", 0)
        record["classes"], record["momentum"] = given.get("classes", 0), self.momentum
        return record
