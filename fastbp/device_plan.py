"""From a network, a task and a batch size to what a GPU executes: the counterpart of ``plan.py``.

A `DevicePlan` answers to what a `plan.Plan` does for `fastbp.train`: the same settings, the same counters,
the same parameters, bit for bit. It owns one piece of device memory, with parameters and the optimizer's
state laid out as on the host, and a list of launches, the same for every step; or, where one block of threads
can train the network (``cuda/small.py``), one launch of many steps. Data are sent once.
"""

import ctypes
import threading
import time

import numpy as np

from fastbp import device_many, operations
from fastbp.cuda import device, kernels, small
from fastbp.cuda.elementwise import ROOM
from fastbp.cuda.gemm import tile_for, tile_named
from fastbp.cuda.program import CONTEXT, OPERATION
from fastbp.cuda.rows import LANES, ROWS
from fastbp.division import chunk_rows
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.formulas.schedules import SCHEDULES

# Steps that the host is ahead of the device at most, twice: soon enough for progress and Ctrl-C.
STEPS_AHEAD = 128

_THREADS = 8 if device.SIMULATED else 256  # of a block whose threads take elements


class DevicePlan:
    """Launches for one task, and the device's memory that they work in.

    Parameters
    ----------
    architecture : plan.Architecture
    task : {"train", "gradient", "loss", "evaluate", "predict", "logits"}
        "evaluate" gives losses and predictions in one pass.
    batch_size : int
        Rows of a full batch; the most rows that one pass may have.
    optimizer, groups, schedule, targets, materialise, inputs, weighted, shaping, batch_statistics, data
        As for `plan.Plan`.
    """

    threads = 1

    def __init__(
        self, architecture, task, batch_size, *, optimizer=None, targets="classes", materialise=False,
        inputs=False, groups=None, schedule=None, weighted=False, shaping=None, batch_statistics=False,
        data="numbers",
    ):  # fmt: skip
        self.architecture, self.task, self.batch_size = architecture, task, batch_size
        self.optimizer, self.targets, self.schedule, self.weighted = optimizer, targets, schedule, weighted
        self.groups = groups or ((0, 0),) * architecture.n_layers
        self.shaping, self.data, self.backward = shaping, data, task in ("train", "gradient")
        self.input_scale = getattr(architecture, "input_scale", 1.0)
        self.batch_statistics = task == "train" or batch_statistics
        self.clips_norm = shaping is not None and shaping.clip_norm > 0
        self.materialise = materialise or self.clips_norm or task == "gradient"
        self.chunk_rows = chunk_rows(architecture, batch_size) if self.backward else batch_size
        self.chunked = self.chunk_rows < batch_size
        self.real, self.size = architecture.real, architecture.dtype.itemsize
        self._plan_gradients(inputs)
        self.settings = np.zeros((1 + max(map(max, self.groups)), ROOM))
        self.schedule_settings = np.zeros(3 + len(SCHEDULES[schedule].settings) if schedule else 0)
        self.contexts = np.zeros(1, [(name, np.int64) for name in ("epoch", "begin", "step")])
        self._given, self._loaded, self._stopped, self.halted = {}, None, False, False
        self.steps_done, self._losses = 0, None
        self._lay_out()
        self._fits_block = self._trains_in_block(materialise)
        self._steps_at_once, self._block = device_many.FIRST_STEPS, None
        self._program = DeviceProgram(self)
        for offset, array in self._constants:
            self._memory.write(offset, array)

    def _trains_in_block(self, materialise):
        """Whether one block of threads can do it all, in launches of many steps."""
        more = self.weighted or self.shaping is not None or self.schedule or self.data != "numbers"
        if self.task != "train" or materialise or more or len(self.settings) > 1:
            return False
        return device_many.why_not(self.architecture, self.batch_size) is None

    def _plan_gradients(self, inputs):
        """Which layers' inputs need a gradient: those before which there is something to learn."""
        self._wants_dx, wanted = [], self.backward and inputs
        for operation in self.architecture.operations:
            self._wants_dx.append(wanted)
            wanted = wanted or (self.backward and operation.learns)

    def wants_dx(self, layer):
        """Whether the gradient of a layer's input is needed."""
        return self._wants_dx[layer]

    # Memory

    def _lay_out(self):
        """One piece: context | parameters | optimizer states | gradient slots | settings | workspace."""
        architecture, rows = self.architecture, self.batch_size
        self._used, self._at, self._constants = 0, {}, []
        self.offsets, n_layers = architecture.parameter_offsets(), architecture.n_layers
        self.state_bytes = _aligned(self.offsets[-1] * self.size)
        states = OPTIMIZERS[self.optimizer].states if self.optimizer else 0
        self.n_slots = -(-rows // self.chunk_rows)
        needs_slots = self.backward and (
            self.chunked or self.materialise or any(not architecture.is_dense(i) for i in range(n_layers))
        )
        groups, room = len(self.settings), ROOM
        self._take("context", CONTEXT.itemsize)
        self._take("parameters", self.state_bytes * (1 + states))
        self._take("slots", self.state_bytes * self.n_slots * needs_slots)
        self._take("settings", 8 * groups * room)
        self._take("scheduled", 8 * groups * room)
        self._take("hyper", self.size * groups * room)
        self._take("schedule", 8 * max(1, len(self.schedule_settings)))
        self._take("option", 8)
        self._take("row_scale", 8)
        self._take("shortening", 8)
        self._take("deviation", 8)
        self._take("row_losses", rows * self.size)
        self._take("squares", 8 * sum(architecture.sizes[1:]))
        self._take("network", small.NETWORK.itemsize)
        self._take("layers", small.LAYER.itemsize * n_layers)
        self._take("operations", OPERATION.itemsize * DeviceProgram.MOST * (n_layers + 1))
        self._workspace = [self._buffers(layer) for layer in range(n_layers + 1)]
        self.keep(np.array([architecture.option], architecture.dtype), self._at["option"])
        self.keep(np.ones(1), self._at["row_scale"])

    def _take(self, name, n_bytes):
        self._at[name] = at = self._used
        self._used = _aligned(at + n_bytes)
        return at

    def keep(self, array, at=None):
        """The offset of a constant array: among the constants, or where it is told to lie."""
        at = self._take(None, array.nbytes) if at is None else at
        self._constants.append((at, array))
        return at

    def row_bytes(self, layer):
        """Bytes from row to row of a layer's inputs (of the outputs, for the number of layers)."""
        return -(-self.architecture.sizes[layer] // 4) * 4 * self.size

    def _buffers(self, layer):
        """Offsets of z, y, the gradient, and a number of each row, of a layer's inputs (of the outputs …)."""
        each, keeps_z, keeps_rows = self.batch_size * self.row_bytes(layer), False, False
        if layer > 0:
            operation = self.architecture.operations[layer - 1]
            if operation.passes(self):
                return None
            keeps_z = operation.keeps or ACTIVATIONS[self.architecture.activations[layer - 1]].keeps == "z"
            keeps_rows = operation.keeps_rows
        y = self._take(None, each)
        z = self._take(None, each) if keeps_z else y
        dz = self._take(None, each) if self.task not in ("predict", "logits") else 0
        return z, y, dz, self._take(None, self.batch_size * self.size * keeps_rows)

    def buffers(self, layer):
        """Addresses of z, y, the gradient, and a number of each row, of a layer's inputs (of the outputs …).

        A layer that passes its input on has the buffers of its input.
        """
        while self._workspace[layer] is None:
            layer -= 1
        return tuple(self.base + at for at in self._workspace[layer])

    def allocate(self):
        """Memory on the device, once all that shall lie in it is known."""
        self._memory = device.Memory(self._used)
        self.base = self._memory.address

    def address(self, name):
        """The address of a named part of the memory."""
        return self.base + self._at[name]

    # Running, as `plan.Plan` does

    def set(self, **fields):
        """Set what the host tells the run; addresses are of the host's memory."""
        self._given.update(fields)
        if "x" in fields:  # perhaps other numbers in the same place
            self._loaded = None
        for name in self.contexts.dtype.names:
            if name in fields:
                self.contexts[name] = fields[name]

    def pack(self, parameters):
        """Send the host's flat parameter vector."""
        self._memory.write(self._at["parameters"], parameters)

    def unpack(self, vector):
        """Bring back the parameters, or for the task "gradient" their gradient, to a flat vector."""
        self._memory.read(self._at["slots" if self.task == "gradient" else "parameters"], vector)

    def states(self):
        """The optimizer's states: as many rows as it has, each laid out like the flat vector."""
        states = np.empty((OPTIMIZERS[self.optimizer].states, self.offsets[-1]), self.architecture.dtype)
        for i, state in enumerate(states):
            self._memory.read(self._at["parameters"] + (i + 1) * self.state_bytes, state)
        return states

    def set_states(self, states):
        """Give the optimizer the states that `states` returned."""
        for i, state in enumerate(states):
            self._memory.write(self._at["parameters"] + (i + 1) * self.state_bytes, state)

    def run(self):
        """Run epochs [epoch, last_epoch) to their end."""
        self._stopped, self.halted, self.steps_done = False, False, 0
        self._run()

    def start(self):
        """The same in a thread of its own; returns what `team.Team` is for a `plan.Plan`."""
        self._stopped, self.halted, self.steps_done = False, False, 0
        return _Runner(self._run)

    def stop(self, wish=None):
        """Ask a running program to end after the steps that were enqueued, whatever the wish."""
        self._stopped = True

    def _run(self):
        given, n = self._given, self._given["n_rows"]
        batch_size = min(self.batch_size, n)
        epochs = given["last_epoch"] - given["first_epoch"]
        self._load(n, given)
        losses = np.zeros(max(1, epochs))
        if given.get("losses"):
            losses[:epochs] = _host(given["losses"], epochs, np.float64)
        if self._losses is None or self._losses.n_bytes < losses.nbytes:
            self._losses = device.Memory(losses.nbytes)
        self._losses.write(0, losses)
        record = self._context(n, batch_size)
        self._memory.write(self._at["settings"], self.settings)
        if len(self.schedule_settings):
            self._memory.write(self._at["schedule"], self.schedule_settings)
        epochs = given["last_epoch"] - int(self.contexts[0]["epoch"])
        if self._fits_block and given.get("shuffle") != 2:
            record = self._run_in_block(record, n, epochs)
        else:
            self._memory.write(self._at["context"], record)
            self._enqueue(n, batch_size, epochs)
            self._memory.read(self._at["context"], record)
        self._losses.read(0, losses)
        for name, found in (("epoch", "epoch"), ("begin", "start"), ("step", "step")):
            self.contexts[name] = record[found]
        self.halted = self._stopped or bool(record["halt"][0])
        if given.get("losses"):
            _host(given["losses"], epochs, np.float64)[:] = losses[:epochs]
        if given.get("outputs"):
            n_outputs = self.architecture.sizes[0 if self.task == "gradient" else -1]
            outputs = _host(given["outputs"], n * n_outputs, self.architecture.dtype)
            self._data.read(self._places["outputs"], outputs)

    def _run_in_block(self, context, n, epochs):
        """Launches of many steps, one after the other; returns the record that they leave."""
        net, batch_size = self._network(context), int(context["batch_size"][0])
        first, steps = int(net["step"][0]), -(-n // batch_size)
        last = -(-(n - self._given.get("rest", 0)) // batch_size)  # step of the last epoch
        end = first + (epochs - 1) * steps + last - int(net["start"][0]) // batch_size
        while not (self._stopped or net["halt"] or net["step"] >= end or net["epoch"] >= net["last_epoch"]):
            start, before = time.perf_counter(), int(net["step"][0])
            net["last_step"] = min(before + self._steps_at_once, end)
            net["losses"] = self._losses.address + 8 * (net["epoch"] - context["first_epoch"])
            self._memory.write(self._at["network"], net)
            self._block(self.address("network"), 0)
            device.wait()
            self._memory.read(self._at["network"], net)
            net["ordered"], done = 1, int(net["step"][0])
            elapsed = max(time.perf_counter() - start, 1e-6)
            self._steps_at_once = max(1, int((done - before) * device_many.SECONDS_PER_LAUNCH / elapsed))
            self.steps_done = done - first
        return net

    def _network(self, context):
        """The NETWORK record that a run begins with; compiles the kernel, if need be."""
        layers, fields = device_many.describe(self.architecture, self.batch_size)
        if self._block is None:
            kernel = device_many.kernel_of(self.architecture, self.targets, self.optimizer)
            self._block = device.configured(
                device.kernel(kernels.train_small, *kernel), 1, small.THREADS,
                device_many.shared_bytes(self.architecture, self.batch_size),
            )  # fmt: skip
            self._memory.write(self._at["layers"], layers)
        net = np.zeros(1, small.NETWORK)
        for name in {*net.dtype.names} & {*context.dtype.names}:
            net[name] = context[name]
        fields |= dict(layers=self.address("layers"), parameters=self.address("parameters"))
        fields |= dict(state_bytes=self.state_bytes, shuffle=self._given.get("shuffle", 0))
        for name, value in fields.items():
            net[name] = value
        net["last_epoch"] = self._given["last_epoch"]
        return net

    def _enqueue(self, n, batch_size, epochs):
        program, context, marks, done = self._program.written(), self.address("context"), [], 0
        begin, rest = int(self.contexts[0]["begin"]), self._given.get("rest", 0)
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

    def _context(self, n, batch_size):
        """The context that a run begins with."""
        given, places, base = self._given, self._places, self._data.address
        record = np.zeros(1, CONTEXT)
        for name in ("x", "targets", "weights", "heads", "following", "by_class", "class_starts"):
            record[name] = base + places[name] if name in places else 0
        for name in (
            "settings",
            "hyper",
            "schedule",
            "scheduled",
            "option",
            "row_scale",
            "shortening",
            "deviation",
        ):
            record[name] = self.address(name)
        record["order"] = base + places["order"] if given.get("order") else 0
        record["row_losses"], record["losses"] = self.address("row_losses"), self._losses.address
        record["outputs"] = base + places["outputs"]
        record["n_rows"], record["batch_size"], record["groups"] = n, batch_size, len(self.settings)
        record["chunk_rows"] = self.chunk_rows
        record["careful"], record["continues"] = given.get("careful", 0), self.task in ("loss", "evaluate")
        for name, place in (("epoch", "epoch"), ("begin", "start"), ("step", "step")):
            record[place] = self.contexts[0][name]
        record["first_epoch"], record["seed"] = given["first_epoch"], given.get("seed", 0)
        record["classes"] = given.get("classes", 0)
        record["momentum"] = self._momentum()
        return record

    def _momentum(self):
        names = OPTIMIZERS[self.optimizer].settings if self.optimizer else ()
        return next((i for i, name in enumerate(names) if name in ("momentum", "beta1")), 0)

    def _load(self, n, given):
        """Send the data, unless the device has them: since `set` was told where they are."""
        key = tuple(given.get(name) for name in ("x", "targets", "weights", "by_class", "n_rows"))
        if self._loaded == key:
            return
        dtype, sizes = self.architecture.dtype, self.architecture.sizes
        is_class = LOSSES[self.architecture.loss].rowwise and self.targets == "classes"
        kind = np.uint8 if self.data == "bytes" else dtype
        parts = {"x": (n * sizes[0], kind)}
        outputs = {"gradient": sizes[0], "train": 0, "loss": 0}.get(self.task, sizes[-1])
        parts["outputs"] = n * outputs, dtype
        if given.get("targets"):
            parts["targets"] = (n, np.int64) if is_class else (n * sizes[-1], dtype)
        if given.get("weights"):
            parts["weights"] = n, dtype
        if given.get("shuffle"):
            parts |= dict.fromkeys(("order", "heads", "following"), (n, np.int64))
        if given.get("by_class"):
            parts |= {"by_class": (n, np.int64), "class_starts": (int(given["classes"]) + 1, np.int64)}
        self._places, used = {}, 0
        for name, (count, kind) in parts.items():
            self._places[name], used = used, _aligned(used + count * np.dtype(kind).itemsize)
        self._data = device.Memory(max(used, 256))
        for name in ("x", "targets", "weights", "by_class", "class_starts"):
            if name in parts and given.get(name):
                self._data.write(self._places[name], _host(given[name], *parts[name]))
        self._loaded = key


class _Runner:
    """A thread that enqueues a run and waits for it; what `interrupts.run_in_team` asks of a team."""

    def __init__(self, run):
        self._run, self._failure = run, None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self):
        try:
            self._run()
        except Exception as error:
            self._failure = error

    def wait(self, seconds=None):
        """Wait for the end, at most so many seconds; True when it has come."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        if self._failure:
            raise self._failure
        return True


class DeviceProgram:
    """The launches of a plan while they are written.

    Attributes
    ----------
    launches : list of callable
        Of a step, each called with the address of the context and the number of rows of the data.
    order : dict
        Launches that write the order of an epoch: of a shuffle (1), of balanced samples (2).
    """

    MOST = 12  # operations of a layer, at most

    def __init__(self, plan):
        self.plan, self.operations, self.launches = plan, [], []
        for layer in range(plan.architecture.n_layers):
            if plan.architecture.operations[layer].keeps_columns:
                n = plan.architecture.sizes[layer + 1]
                plan._take(("kept", layer), 2 * n * plan.size)
                plan._take(("sums", layer), 2 * n * plan.size)
        self._shapes = {}
        self._numbers = [self._keep_numbers(o) for o in plan.architecture.operations]
        self._prepare_shapes()
        self._scale = plan.keep(np.array([plan.input_scale], plan.architecture.dtype))
        plan.allocate()

    # Constants

    def _keep_numbers(self, operation):
        """Where an operation's settings lie; a dropout's threshold is an int64."""
        numbers, dtype = operation.numbers(), self.plan.architecture.dtype
        if isinstance(operation, operations.Dropout):
            bits = np.zeros(16, np.uint8)
            bits[:8] = np.array([numbers[0]], np.int64).view(np.uint8)
            bits[8 : 8 + dtype.itemsize] = np.array([numbers[1]], dtype).view(np.uint8)
            return self.plan.keep(bits)
        return self.plan.keep(np.array((*numbers, 0.0), dtype))

    def _shape(self, key, l1=0.0, l2=0.0, limit=0.0, noise=0.0, most=0.0, decay=0.0):
        """Keep the numbers at `op.shaping` of one operation."""
        numbers = np.array([l1, l2, limit, noise], self.plan.architecture.dtype).view(np.uint8)
        wide = np.array([most, noise, decay]).view(np.uint8)
        self._shapes[key] = self.plan.keep(np.concatenate([numbers, wide]))

    def _prepare_shapes(self):
        shaped = self.plan.shaping
        if shaped is None:
            return
        self._shape("inputs", noise=shaped.input_noise)
        noise = dict(noise=shaped.gradient_noise, decay=shaped.gradient_noise_decay)
        self._shape("noise", **noise)
        self._shape("clip", most=shaped.clip_norm)
        for layer in range(self.plan.architecture.n_layers):
            penalties = shaped.penalties[layer]
            self._shape(("collect", layer), *penalties, shaped.clip_value)
            self._shape(("max", layer), most=shaped.max_norms[layer])
            self._shape(("update", layer), *penalties, shaped.clip_value, **noise)

    # Grids: (of blocks, of threads)

    def _elements(self, rows, columns):
        """A thread for an element of (rows, columns), columns along x; rows None: those of the data."""
        if rows is None:
            return (None,), (_THREADS,)
        wide = min(_THREADS, 1 << max(0, (columns - 1).bit_length()), 4 if device.SIMULATED else 64)
        tall = _THREADS // wide
        return (-(-columns // wide), min(-(-rows // tall), 4096)), (wide, tall)

    def _columns(self, n, chunks=1):
        threads = min(_THREADS, 64)
        return (-(-n // threads), chunks), (threads, 1)

    def _rows(self, rows):
        return (min(-(-rows // ROWS), 4096), 1), (LANES, ROWS)

    def _tiles(self, m, n, chunks=1):
        """(name of the tile, grid) of a product of m rows and n columns."""
        name = tile_for(m, n, self.plan.real)
        edge, threads = tile_named(name, self.plan.real).edge, tile_named(name, self.plan.real).threads
        return name, ((-(-n // edge), -(-m // edge), chunks), (threads, 1))

    _ONE = (1, 1), (1, 1)

    # Rows of the program

    def emit(self, factory, *arguments, layer=0, grid=None, **fields):
        """Add the launch of kernel ``factory(*arguments, real)``; `fields` differ from the layer's."""
        record = np.zeros(1, OPERATION)
        for name, value in (self._fields(layer) | fields).items():
            record[name] = value
        place = len(self.operations) * OPERATION.itemsize
        self.operations.append(record)
        arguments = arguments if factory in kernels.WITHOUT_TYPE else (*arguments, self.plan.real)
        self.launches.append(
            self._launch(factory, arguments, grid or self._ONE, self.plan.address("operations") + place)
        )

    def _launch(self, factory, arguments, grid, operation):
        """A function ``launch(context, n)``; a grid of None blocks covers the n rows of the data."""
        kernel, (blocks, threads) = device.kernel(factory, *arguments), grid
        if blocks[0] is not None:
            launch = device.configured(kernel, blocks, threads)
            return lambda context, n: launch(operation, context)
        launches = {}

        def cover(context, n):
            if n not in launches:
                launches[n] = device.configured(kernel, min(-(-n // threads[0]), 4096), threads)
            launches[n](operation, context)

        return cover

    def _fields(self, layer):
        plan, architecture = self.plan, self.plan.architecture
        n_in, n_out = architecture.sizes[layer : layer + 2]
        _, x, dx, _ = plan.buffers(layer)
        z, y, dz, kept = plan.buffers(layer + 1)
        operation = architecture.operations[layer]
        first = plan.offsets[layer] * plan.size
        row, bias_row = (ROOM * plan.size * group for group in plan.groups[layer])
        known = dict(
            n_in=n_in, n_out=n_out, use_bias=architecture.biases[layer], x=x, dx=dx,
            x_row=plan.row_bytes(layer), z=z, y=y, dz=dz, z_row=plan.row_bytes(layer + 1),
            w=plan.address("parameters") + first, state_bytes=plan.state_bytes,
            slots=plan.address("slots") + first, slot_bytes=plan.state_bytes,
            hyper=plan.address("hyper") + row, bias_hyper=plan.address("hyper") + bias_row,
            squares=plan.address("squares") + 8 * sum(architecture.sizes[1 : layer + 1]),
            numbers=plan.base + self._numbers[layer], kept=kept, noise=self._noise_of(layer),
        )  # fmt: skip
        if layer > 0:
            keeps = ACTIVATIONS[architecture.activations[layer - 1]].keeps
            known["kept_before"] = plan.buffers(layer)[keeps == "y"]
        return known | _KINDS[type(operation)].fields(self, layer, operation)

    def _noise_of(self, layer):
        sizes = self.plan.architecture.sizes
        return sum((sizes[i] + 4) // 4 * sizes[i + 1] for i in range(layer))

    def shape_field(self, key):
        """The field `shaping` of an operation."""
        return dict(shaping=self.plan.base + self._shapes[key])

    def update_fields(self, layer):
        """(1 where the gradient of a layer is shaped before its update, else 0; fields of the update)."""
        shaped, fields = self.plan.shaping, dict(collected=self.plan.clips_norm, layer=layer)
        if shaped is None or not shaped.changes_gradient(layer):
            return 0, fields
        return 1, fields | self.shape_field(("update", layer))

    # The step

    def written(self):
        """The program itself, its kernels compiled and its operations in the device's memory."""
        if not self.launches:
            everywhere = self._elements
            self.order = {
                1: [self._launch(k, (), everywhere(None, 1), 0)
                    for k in (kernels.shuffle_empty, kernels.shuffle_draw, kernels.shuffle_write)],
                2: [self._launch(kernels.sample_balanced, (), everywhere(None, 1), 0)],
            }  # fmt: skip
            self._write()
            plan = self.plan
            plan._memory.write(plan._at["operations"], np.concatenate(self.operations))
        return self

    def _write(self):
        """All launches of a step."""
        plan, n = self.plan, self.plan.architecture.n_layers
        rows, n_inputs = plan.batch_size, plan.architecture.sizes[0]
        self.emit(kernels.begin_step)
        if plan.task == "train":
            groups = (-(-len(plan.settings) // 4), 1), (4, 1)
            self.emit(kernels.prepare, plan.optimizer, plan.schedule or "", grid=groups)
        if plan.weighted is True:
            self.emit(kernels.total_weight)
        scale = dict(numbers=plan.base + self._scale, grid=self._elements(rows, n_inputs))
        if plan.data == "bytes" or plan.input_scale != 1:
            self.emit(kernels.gather_scaled, plan.data, **scale)
        else:
            self.emit(kernels.gather, grid=scale["grid"])
        if plan.shaping and plan.shaping.input_noise:
            self.emit(kernels.input_noise, grid=self._elements(rows, n_inputs), **self.shape_field("inputs"))
        for layer in range(n):
            self._kind(layer, "forward")
        self._end_forward(n - 1)
        if plan.backward:
            for layer in reversed(range(n)):
                self._backward(layer)
            if plan.wants_dx(0):
                grid, (_, _, dx, _) = self._elements(rows, n_inputs), plan.buffers(0)
                if plan.input_scale != 1:
                    self.emit(kernels.scale_rows, **scale, x=dx)
                self.emit(kernels.copy_outputs, grid=grid, y=dx, z_row=plan.row_bytes(0), n_out=n_inputs)
            self._phase_two()
        self.emit(kernels.end_of_batch if plan.task in ("predict", "logits") else kernels.end_of_step)

    def _kind(self, layer, what):
        """Let a layer emit its part, unless its output is its input."""
        operation = self.plan.architecture.operations[layer]
        if not operation.passes(self.plan):
            getattr(_KINDS[type(operation)], what)(self, layer, operation)

    def _end_forward(self, layer):
        plan, architecture = self.plan, self.plan.architecture
        rows, n_out, rowwise = plan.batch_size, architecture.sizes[-1], LOSSES[architecture.loss].rowwise
        elements = dict(layer=layer, grid=self._elements(rows, n_out))
        by_rows = dict(layer=layer, grid=self._rows(rows))
        if plan.task == "logits":
            self.emit(kernels.copy_outputs, **elements)
        if plan.task in ("predict", "evaluate") and rowwise:
            self.emit(kernels.softmax_link, **by_rows)
        elif plan.task in ("predict", "evaluate"):
            self.emit(kernels.elementwise_link, architecture.loss, **elements)
        if plan.task not in ("predict", "logits") and rowwise:
            self.emit(kernels.softmax_loss, plan.targets, **by_rows)
        elif plan.task not in ("predict", "logits"):
            self.emit(kernels.elementwise_loss, architecture.loss, **by_rows)
        if plan.weighted:
            self.emit(kernels.weigh_rows, **elements)

    def activation_of_dx(self, layer):
        """The activation before a layer whose backward the product for dx applies; "identity": none."""
        architecture = self.plan.architecture
        joined = any(other.first == layer for other in architecture.operations)
        return "identity" if layer == 0 or joined else architecture.activations[layer - 1]

    def _backward(self, layer):
        plan, architecture = self.plan, self.plan.architecture
        name, behind = architecture.activations[layer], layer + 1
        fused = (
            behind < architecture.n_layers
            and architecture.is_dense(behind)
            and plan.wants_dx(behind)
            and self.activation_of_dx(behind) == name
        )
        if name != "identity" and not fused:
            grid = self._elements(plan.batch_size, architecture.sizes[layer + 1])
            self.emit(kernels.activation_backward, name, layer=layer, grid=grid)
        self._kind(layer, "backward")
        for place, other in enumerate(architecture.operations):
            if other.first == layer and plan.wants_dx(layer):
                grid = self._elements(plan.batch_size, architecture.sizes[place + 1])
                self.emit(kernels.residual_skip_backward, layer=place, grid=grid)

    def _phase_two(self):
        plan, architecture = self.plan, self.plan.architecture
        learning = [i for i, operation in enumerate(architecture.operations) if operation.learns]
        if plan.task == "train" and plan.shaping and plan.shaping.gradient_noise:
            self.emit(kernels.noise_of_step, **self.shape_field("noise"))
        if plan.clips_norm:
            for layer in learning:
                self._kind(layer, "gradient")
                collect = (
                    kernels.dense_collect if architecture.is_dense(layer) else kernels.scale_shift_collect
                )
                fields = dict(grid=self._columns(architecture.sizes[layer + 1]), layer=layer)
                self.emit(collect, **fields, **self.shape_field(("collect", layer)))
            columns = sum(architecture.sizes[1:])
            fields = dict(squares=plan.address("squares"), n_out=columns)
            self.emit(kernels.clip_factor, **fields, **self.shape_field("clip"))
        for layer in learning:
            if plan.task == "gradient":
                self._kind(layer, "gradient")
                if plan.chunked:
                    n = architecture.parameter_offsets()[layer + 1] - plan.offsets[layer]
                    self.emit(kernels.slots_total, layer=layer, grid=self._columns(n), n_in=n)
            else:
                self._kind(layer, "update")


class _Kind:
    """What a kind of layer emits; see `operations.Operation`. Dense layers apply activations themselves."""

    @staticmethod
    def fields(program, layer, operation):
        return {}

    @staticmethod
    def forward(program, layer, operation):
        raise NotImplementedError

    @staticmethod
    def backward(program, layer, operation):
        pass

    @staticmethod
    def gradient(program, layer, operation):
        pass

    @staticmethod
    def update(program, layer, operation):
        pass


class _Dense(_Kind):
    @staticmethod
    def forward(program, layer, operation):
        plan = program.plan
        tile, grid = program._tiles(plan.batch_size, plan.architecture.sizes[layer + 1])
        name = plan.architecture.activations[layer]
        program.emit(kernels.dense_forward, name, tile, layer=layer, grid=grid)

    @staticmethod
    def backward(program, layer, operation):
        plan = program.plan
        if plan.wants_dx(layer):
            tile, grid = program._tiles(plan.batch_size, plan.architecture.sizes[layer])
            name = program.activation_of_dx(layer)
            program.emit(kernels.dense_backward, name, tile, layer=layer, grid=grid)

    @staticmethod
    def gradient(program, layer, operation):
        n_in, n_out = program.plan.architecture.sizes[layer : layer + 2]
        tile, grid = program._tiles(n_in + 1, n_out, program.plan.n_slots)
        program.emit(kernels.dense_gradient, tile, layer=layer, grid=grid)

    @staticmethod
    def update(program, layer, operation):
        plan, (n_in, n_out) = program.plan, program.plan.architecture.sizes[layer : layer + 2]
        changes, fields = program.update_fields(layer)
        if plan.chunked or plan.materialise:
            if not plan.clips_norm:
                _Dense.gradient(program, layer, operation)
            grid = program._elements(n_in + 1, n_out)
            program.emit(kernels.dense_apply, plan.optimizer, changes, grid=grid, **fields)
        else:
            tile, grid = program._tiles(n_in + 1, n_out)
            program.emit(kernels.dense_update, plan.optimizer, changes, tile, grid=grid, **fields)
        if plan.shaping and plan.shaping.max_norms[layer]:
            fields = dict(layer=layer, grid=program._columns(n_out))
            program.emit(kernels.dense_max_norm, **fields, **program.shape_field(("max", layer)))


class _Dropout(_Kind):
    @staticmethod
    def fields(program, layer, operation):
        return operation.fields(None, layer, None)

    @staticmethod
    def forward(program, layer, operation):
        quarter = (program.plan.architecture.sizes[layer] + 3) // 4
        grid = program._elements(program.plan.batch_size, quarter)
        program.emit(kernels.dropout_forward, layer=layer, grid=grid)

    @staticmethod
    def backward(program, layer, operation):
        if program.plan.wants_dx(layer):
            grid = program._elements(program.plan.batch_size, program.plan.architecture.sizes[layer])
            program.emit(kernels.dropout_backward, layer=layer, grid=grid)


class _Normalization(_Kind):
    @staticmethod
    def fields(program, layer, operation):
        return dict(use_scale=operation.scale, use_bias=operation.shift)

    @staticmethod
    def gradient(program, layer, operation):
        n_out = program.plan.architecture.sizes[layer + 1]
        grid = program._columns(n_out, program.plan.n_slots)
        program.emit(kernels.scale_shift_gradient, layer=layer, grid=grid)

    @staticmethod
    def update(program, layer, operation):
        plan, (changes, fields) = program.plan, program.update_fields(layer)
        if not plan.clips_norm:
            _KINDS[type(operation)].gradient(program, layer, operation)
        grid = program._columns(operation.n_parameters(0, plan.architecture.sizes[layer + 1], True))
        program.emit(kernels.scale_shift_apply, plan.optimizer, changes, grid=grid, **fields)


class _LayerNorm(_Normalization):
    @staticmethod
    def forward(program, layer, operation):
        grid = program._rows(program.plan.batch_size)
        program.emit(kernels.layer_norm_forward, layer=layer, grid=grid)

    @staticmethod
    def backward(program, layer, operation):
        if program.plan.wants_dx(layer):
            grid = program._rows(program.plan.batch_size)
            program.emit(kernels.layer_norm_backward, layer=layer, grid=grid)


class _BatchNorm(_Normalization):
    @staticmethod
    def fields(program, layer, operation):
        known = _Normalization.fields(program, layer, operation)
        return known | dict(
            kept=program.plan.address(("kept", layer)), dskip=program.plan.address(("sums", layer))
        )

    @staticmethod
    def forward(program, layer, operation):
        plan, n = program.plan, program.plan.architecture.sizes[layer]
        statistics = kernels.batch_norm_running
        if plan.batch_statistics:
            statistics = kernels.batch_norm_statistics
        program.emit(statistics, layer=layer, grid=program._columns(n))
        program.emit(kernels.batch_norm_forward, layer=layer, grid=program._elements(plan.batch_size, n))

    @staticmethod
    def backward(program, layer, operation):
        plan, n = program.plan, program.plan.architecture.sizes[layer]
        wants_dx, grid = plan.wants_dx(layer), program._elements(plan.batch_size, n)
        if plan.batch_statistics and (operation.learns or wants_dx):
            _Normalization.gradient(program, layer, operation)
        if wants_dx and plan.batch_statistics:
            program.emit(kernels.batch_norm_backward, layer=layer, grid=grid)
        elif wants_dx:
            program.emit(kernels.batch_norm_backward_running, layer=layer, grid=grid)

    @staticmethod
    def gradient(program, layer, operation):
        if not program.plan.batch_statistics:  # else the backward has left it there
            _Normalization.gradient(program, layer, operation)


class _Residual(_Kind):
    @staticmethod
    def fields(program, layer, operation):
        _, skip, dskip, _ = program.plan.buffers(operation.first)
        return dict(skip=skip, dskip=dskip, skip_row=program.plan.row_bytes(operation.first))

    @staticmethod
    def forward(program, layer, operation):
        grid = program._elements(program.plan.batch_size, program.plan.architecture.sizes[layer + 1])
        program.emit(kernels.residual_forward, layer=layer, grid=grid)

    @staticmethod
    def backward(program, layer, operation):
        if program.plan.wants_dx(layer):
            grid = program._elements(program.plan.batch_size, program.plan.architecture.sizes[layer + 1])
            program.emit(kernels.residual_backward, layer=layer, grid=grid)


_KINDS = {
    operations.Dense: _Dense,
    operations.Dropout: _Dropout,
    operations.LayerNorm: _LayerNorm,
    operations.BatchNorm: _BatchNorm,
    operations.Residual: _Residual,
}


def _aligned(n_bytes):
    return -(-n_bytes // 256) * 256


def _host(address, count, dtype):
    """The host's array of so many numbers at an address."""
    n_bytes = int(count) * np.dtype(dtype).itemsize
    if not n_bytes:
        return np.empty(0, dtype)
    return np.frombuffer((ctypes.c_char * n_bytes).from_address(int(address)), dtype)
