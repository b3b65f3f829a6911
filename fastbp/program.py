"""What one thread of a plan for a CPU does: its operations, in their order, and its share of each.

A program is two tables (``cpu/records.py``): a row for each operation, and sections of them, which run block
by block of the batch, chunk by chunk or once a step. The first section packs the parameters, before a run;
the last one unpacks them, after it; those between are a step. What each kind of layer adds is in
``operations.py``.
"""

import numpy as np

from .cpu import dense, elementwise, gather, gemm, loss, shaping, step, team
from .cpu.cache import address
from .cpu.records import BLOCKS, CHUNKS, ONCE, OPERATION, SECTION
from .formulas import activations
from .formulas.losses import LOSSES
from .formulas.optimizers import OPTIMIZERS, ROOM

# A row of the program of which nothing is known.
_NOTHING_KNOWN = dict.fromkeys(OPERATION.names, 0)

# Kernels that are the same for float32 and float64.
_WITHOUT_TYPE = (team.barrier, elementwise.scheduled_settings, shaping.clip_factor)


class Program:
    """One thread's program while it is written.

    Parameters
    ----------
    choices : Choices
    layout : Layout
    thread : int

    Attributes
    ----------
    workspace : list
        The thread's own, of the layout's.
    """

    def __init__(self, choices, layout, thread):
        self.choices, self.layout, self.thread = choices, layout, thread
        self.workspace = layout.workspaces[thread]
        self._rows, self._sections = [], []

    def write(self):
        """All of it.

        Returns
        -------
        operations : records of OPERATION
        sections : records of SECTION
        """
        choices = self.choices
        self._emit_packing()
        if choices.weighted is True:
            self.emit(loss.total_weight)
            self.end_section(ONCE)
        self._emit_forward()
        if choices.backward:
            self._emit_backward()
        self.end_section(BLOCKS, gives_up=choices.gives_up)
        self.wait()
        if choices.gives_up:
            self.end_section(ONCE, gives_up=True)
        self._emit_phase_two()
        self._emit_unpacking()
        return np.array(self._rows, OPERATION).reshape(-1), np.array(self._sections, SECTION)

    # Packing

    def _emit_packing(self):
        for layer, operation in enumerate(self.choices.architecture.operations):
            operation.pack(self, layer)
        self.end_section(ONCE)

    def _emit_unpacking(self):
        for layer, operation in enumerate(self.choices.architecture.operations):
            if self.choices.task == "train":
                operation.unpack(self, layer)
            elif self.choices.task == "gradient":
                operation.unpack(self, layer, w=self.layout.slot(self.layout.w[layer]))
        self.end_section(ONCE)

    # Phase 1, by rows

    def _emit_forward(self):
        """From the data to the loss or the outputs; before it a layer split by columns."""
        choices, architecture, first = self.choices, self.choices.architecture, 0
        if choices.staged:
            self.emit(gather.require_finite)
            self._emit_scaling()
        else:
            self._emit_gather()
        if choices.split:
            self.emit(dense.dense_forward, part=self.thread, **self.product_of_inputs(0, "rows"))
            self.emit_activation(elementwise.activation_forward, 0, part=self.thread)
            self.wait()
            self.end_section(ONCE)
            first = 1
        for layer in range(first, architecture.n_layers):
            operation = architecture.operations[layer]
            if not operation.passes(choices):
                operation.forward(self, layer)
            self.emit_activation(elementwise.activation_forward, layer)
        self._emit_end_of_forward()

    def _emit_gather(self):
        """The rows of a block: whether they are finite, and a copy, unless the first product reads them where
        they lie.
        """
        choices = self.choices
        if choices.task in ("predict", "logits") and choices.data == "numbers":
            self.emit(gather.check_rows)
        if choices.data.startswith("sparse "):
            kind = choices.data.removeprefix("sparse ")
            self.emit(gather.gather_sparse, kind, numbers=self._input_scale())
        elif choices.data == "bytes" or choices.architecture.input_scale != 1:
            self.emit(gather.gather_scaled, choices.data, numbers=self._input_scale())
        elif choices.scattered:
            self.emit(gather.find_rows)
        elif choices.in_order is None:
            self.emit(gather.gather)
        if choices.shaping and choices.shaping.input_noise:
            self.emit(shaping.input_noise, **self._shape(noise=choices.shaping.input_noise))

    def _emit_scaling(self, **fields):
        """Rows of the workspace times the scale of the inputs, where there is one."""
        if self.choices.architecture.input_scale != 1:
            self.emit(gather.scale_rows, numbers=self._input_scale(), **fields)

    def _input_scale(self):
        return self.layout.address_of(np.array([self.choices.architecture.input_scale], np.float64))

    def _emit_end_of_forward(self):
        """What becomes of the logits."""
        task, architecture = self.choices.task, self.choices.architecture
        name, last = architecture.loss, architecture.n_layers - 1
        rowwise = LOSSES[name].rowwise
        if task == "logits":
            self.emit(loss.copy_outputs, layer=last)
        elif task == "predict" and rowwise:
            self.emit(loss.softmax_link, layer=last)
        elif task == "predict":
            self.emit(loss.elementwise_link, name, layer=last)
        elif rowwise:
            self.emit(loss.softmax_loss, self.choices.targets, layer=last)
        else:
            self.emit(loss.elementwise_loss, name, layer=last)
        if self.choices.weighted:
            self.emit(loss.weigh_rows, layer=last)

    def _emit_backward(self):
        """The deltas, from the loss back to the first layer."""
        choices, operations = self.choices, self.choices.architecture.operations
        for layer in reversed(range(len(operations))):
            self.emit_activation(elementwise.activation_backward, layer)
            if not operations[layer].passes(choices):
                operations[layer].backward(self, layer)
            for behind, other in enumerate(operations):
                if other.first == layer and choices.wants_dx[layer]:
                    other.rejoin(self, behind)
        if choices.inputs:
            dx, row = self.workspace[0][2], self.layout.row_bytes(0)
            self._emit_scaling(x=dx, x_row=row)
            self.emit(loss.copy_outputs, y=dx, z_row=row, n_out=choices.architecture.sizes[0])

    # Phase 2, by tiles of the weights

    def _emit_phase_two(self):
        """Gradients over the whole batch, and the update."""
        choices, prepared = self.choices, None
        learning = [(n, each) for n, each in enumerate(choices.architecture.operations) if each.learns]
        if not choices.chunked and (choices.task == "gradient" or choices.materialise):
            self._emit_gradients(learning)
        if choices.clips_norm:
            self._emit_clipping(learning)
        for layer, operation in learning:
            if choices.task == "train" and prepared != choices.groups[layer]:
                prepared = choices.groups[layer]
                self._emit_prepare(prepared)
            if choices.task == "gradient" and choices.n_slots > 1 and self.thread == 0:
                operation.total(self, layer)
            if choices.task == "train":
                self._emit_update(operation, layer)
        if self.thread == 0 and choices.task in ("train", "gradient", "loss"):
            self.emit(step.end_of_step)
        self.wait()
        self.end_section(ONCE)

    def _emit_gradients(self, learning):
        """The thread's share of the gradient of each chunk, or of all rows, in memory."""
        if len(self._rows) > self._section_start():
            self.end_section(ONCE)
        for layer, operation in learning:
            operation.gradient(self, layer)
        self.end_section(CHUNKS, gives_up=self.choices.gives_up)
        if self.choices.gives_up:
            self.wait()
            self.end_section(ONCE, gives_up=True)
        elif self.choices.task == "gradient":
            self.wait()  # the first thread adds up what all of them have written

    def _emit_clipping(self, learning):
        """The whole gradient summed up, and what it must be multiplied by to be no longer than asked."""
        choices = self.choices
        for layer, operation in learning:
            operation.collect(self, layer, **self._shape_of(layer))
        self.wait()
        columns, most = sum(choices.architecture.sizes[1:]), self._shape(most=choices.shaping.clip_norm)
        self.emit(shaping.clip_factor, squares=self.layout.squares, n_out=columns, **most)

    def _emit_prepare(self, groups):
        """What the updates of layers with these groups of settings need to know of this step."""
        choices, layout = self.choices, self.layout
        places = [layout.settings[row:].ctypes.data for row in dict.fromkeys(groups)]
        if choices.schedule is not None:
            momentum_at, given = OPTIMIZERS[choices.optimizer].momentum_at, places
            copies = layout.keep(np.zeros((len(given), ROOM)))
            places = [copy.ctypes.data for copy in copies]
            for settings, copy in zip(given, places, strict=True):
                self.emit(
                    elementwise.scheduled_settings, choices.schedule, settings=settings, scheduled=copy,
                    schedule=layout.schedule_settings.ctypes.data,
                    momentum=copy + 8 * momentum_at if momentum_at else 0,
                )  # fmt: skip
        settings, bias_settings = places if len(places) == 2 else (places[0], 0)
        self.emit(
            elementwise.optimizer_prepare, choices.optimizer, settings=settings, bias_settings=bias_settings
        )

    def _emit_update(self, operation, layer):
        choices = self.choices
        settings_of_w, settings_of_b = choices.groups[layer]
        apart = settings_of_w != settings_of_b
        operation.update(self, layer, choices.materialise, apart, **self._shape_of(layer))
        if choices.shaping and choices.shaping.max_norms[layer]:
            most = self._shape(most=choices.shaping.max_norms[layer])
            self.emit(dense.dense_max_norm, layer=layer, part=self.own_part(layer), **most)

    def _shape_of(self, layer):
        """Fields of a layer's update: what is done to its gradient first."""
        shaped = self.choices.shaping
        if shaped is None or not shaped.changes_gradient(layer):
            return {}
        limit, noise, decay = shaped.clip_value, shaped.gradient_noise, shaped.gradient_noise_decay
        shape = self._shape(*shaped.penalties[layer], limit, noise, decay=decay)
        return dict(collected=self.choices.clips_norm, **shape)

    def _shape(self, l1=0.0, l2=0.0, limit=0.0, noise=0.0, most=0.0, decay=0.0):
        """The field `shape`: where these numbers lie."""
        return dict(shape=self.layout.address_of(np.array([l1, l2, limit, noise, most, decay])))

    # Rows and sections, which operations add to as well

    def emit(self, factory, *arguments, layer=0, part=None, own=None, **fields):
        """Add the operation of kernel ``factory(*arguments, real)``; `fields` differ from the layer's."""
        operation = self._known_of(layer, part)
        real = () if factory in _WITHOUT_TYPE else (self.choices.real,)
        operation["kernel"] = address(factory, *arguments, *real, own=own)
        self._rows.append(tuple((operation | fields).values()))

    def emit_activation(self, factory, layer, part=None):
        """Add a pass of a layer's activation; the identity has none."""
        name = self.choices.architecture.activations[layer]
        if name != "identity":
            self.emit(factory, name, layer=layer, part=part, own=_users_own(name))

    def emit_for_all_rows(self, factory, layer):
        """Add an operation by columns that needs what all threads did, and they what it does."""
        if len(self._rows) > self._section_start():
            self.end_section(BLOCKS)
        self.wait()
        self.emit(factory, layer=layer)
        self.wait()
        self.end_section(ONCE)

    def wait(self):
        """Add a barrier, where there is somebody to wait for."""
        if self.choices.threads > 1:
            self.emit(team.barrier)

    def end_section(self, over, gives_up=False):
        """Let all since the last section be one, which runs `ONCE`, or over `BLOCKS` or `CHUNKS`."""
        self._sections.append((self._section_start(), len(self._rows), over, gives_up))

    def _section_start(self):
        return self._sections[-1][1] if self._sections else 0

    def address(self, factory, *arguments):
        """The address of a kernel that is no row of the program, but is called by one."""
        return address(factory, *arguments, self.choices.real)

    def product(self, layer, scattered="no"):
        """The field `product` of a row that multiplies, see `gemm.matrix_product`."""
        asks = "asks" if self.choices.asks_ahead(layer) else "does not ask"
        return dict(product=self.address(gemm.matrix_product, scattered, asks))

    def product_while_sums_come(self, layer):
        """The same, which asks meanwhile for what the other thread has just summed of this layer's gradient,
        where each of two sums one chunk: the update reads it.
        """
        choices, layout = self.choices, self.layout
        if not choices.replicas == choices.n_slots == 2:
            return self.product(layer)
        n_bytes = choices.architecture.operations[layer].arena_elements(choices, layer) * choices.size
        return dict(
            product=self.address(gemm.matrix_product, "no", "asks"), ahead_parts=1, ahead_bytes=n_bytes,
            ahead=layout.slot(layout.w[layer]) + (1 - self.thread) * layout.arena_bytes,
        )  # fmt: skip

    def product_of_inputs(self, layer, scattered):
        """The same with a layer's inputs, rows or steps of it, which may be the data where they lie."""
        return self.product(layer, scattered if layer == 0 and self.choices.scattered else "no")

    # What is known of a layer

    def _known_of(self, layer, part=None):
        """The fields of a row: all that is known of a layer, or of one part of its columns."""
        choices, layout, architecture = self.choices, self.layout, self.choices.architecture
        n_in, n_out = architecture.sizes[layer : layer + 2]
        (_, x, dx, _), (z, y, dz, _) = self.workspace[layer : layer + 2]
        own = layout.replica_bytes * self.thread if choices.replicas > 1 else 0
        known = _NOTHING_KNOWN | dict(
            n_in=n_in, n_out=n_out, x_columns=choices.columns(n_in), columns=choices.columns(n_out),
            use_bias=architecture.biases[layer],
            x=x, dx=dx, x_row=layout.row_bytes(layer), z=z, y=y, dz=dz, z_row=layout.row_bytes(layer + 1),
            w=layout.w[layer] + own, wt=layout.wt[layer] and layout.wt[layer] + own,
            arena_bytes=layout.arena_bytes,
            slots=layout.slot(layout.w[layer]), slot_bytes=layout.arena_bytes, gives_up=choices.gives_up,
            host=layout.host[layer], host_row=choices.size * n_out,
            numbers=layout.numbers[layer], noise=architecture.noise_before(layer),
            squares=layout.squares + 8 * sum(architecture.sizes[1 : layer + 1]),
        )  # fmt: skip
        known |= self._share(layer)
        known |= architecture.operations[layer].fields(layout, layer, self.workspace)
        return known if part is None else known | self._part(known, part)

    # A thread's share

    def own_part(self, layer):
        """A thread's part of a layer that threads share by columns; None of any other."""
        return self.thread if len(self.choices.parts(layer)) > 1 else None

    def _part(self, known, part):
        """What differs for one part of a layer's columns, as if they were a layer of their own."""
        choices, size = self.choices, self.choices.size
        lanes = min(choices.lanes, known["columns"])
        vectors = known["columns"] // lanes
        first, last = (vectors * t // choices.threads * lanes for t in (part, part + 1))
        at, packed = first * size, (known["n_in"] + 1) * first * size
        packed_x, packed_dz = self.layout.packed_rows[self.thread] if choices.packed[0] else (0, 0)
        return dict(
            n_out=max(0, min(known["n_out"], last) - first), columns=last - first,
            z=known["z"] + at, y=known["y"] + at, dz=known["dz"] + at, host=known["host"] + at,
            squares=known["squares"] + 8 * first, noise=known["noise"] + first,
            w=known["w"] + packed, slots=known["slots"] + packed, packed_x=packed_x, packed_dz=packed_dz,
            first_row=0, last_row=known["n_in"], first_column=0, last_column=last - first,
        )  # fmt: skip

    def all_columns(self, layer):
        """All of a layer's W, as a share."""
        n_in, n_out = self.choices.architecture.sizes[layer : layer + 2]
        return dict(first_row=0, last_row=n_in, first_column=0, last_column=self.choices.columns(n_out))

    def _share(self, layer):
        """A thread's share of a layer's W in phase 2: some rows of all columns, or all rows of some panels;
        all of its own replica.

        Where rows are copied into packed memory first, panels are shared out, so that none is packed twice;
        and where sums over columns are needed, so that their order is one.
        """
        choices, packed, shaped = self.choices, self.choices.packed[layer], self.choices.shaping
        whole, n_in = self.all_columns(layer), self.choices.architecture.sizes[layer]
        if choices.replicas > 1:
            return whole
        if not choices.architecture.is_dense(layer):
            return whole | self._columns_share(layer)
        if not packed and not (shaped and shaped.whole_columns(layer)):
            rows = max(8, choices.lanes)  # whole tiles, and whole squares of the transpose
            first, last = (min(n_in, rows * at) for at in self._of_all(-(-n_in // rows)))
            return whole | dict(first_row=first, last_row=last)
        panels = self._panel_starts(layer)
        first, last = (panels[at] for at in self._of_all(len(panels) - 1))
        packed_x, packed_dz = self.layout.packed_rows[self.thread] if packed else (0, 0)
        return whole | dict(first_column=first, last_column=last, packed_x=packed_x, packed_dz=packed_dz)

    def _columns_share(self, layer):
        """A thread's share of the columns of a layer that has but vectors of parameters."""
        columns, lanes = self.choices.columns(self.choices.architecture.sizes[layer + 1]), self.choices.lanes
        first, last = (min(columns, at * lanes) for at in self._of_all(-(-columns // lanes)))
        return dict(first_column=first, last_column=last)

    def _of_all(self, n):
        """Where the thread's share of n equal things begins and ends."""
        return (n * t // self.choices.threads for t in (self.thread, self.thread + 1))

    def _panel_starts(self, layer):
        """Where the panels of a layer's W begin, and where the last one ends."""
        columns, starts = self.choices.columns(self.choices.architecture.sizes[layer + 1]), [0]
        while starts[-1] < columns:
            starts.append(starts[-1] + gemm.width_of_panel(self.choices.real)(columns - starts[-1]))
        return starts


def _users_own(name):
    """The user's activation of this name, or None where it is one of ours."""
    activation = activations.ACTIVATIONS[name]
    return None if activations.OURS.get(name) is activation else activation
