"""From a network, a task and a batch size to the flat tables that a device executes.

A plan owns everything that a run needs beside the data: the program of every thread (one row per operation,
with the address of its kernel), the packed parameters, the optimizer's state and the workspace. Building
one compiles only the kernels that its network uses and that are not in the cache; running one allocates
nothing.
"""

import contextlib
import itertools
import os
import threading
from dataclasses import dataclass

import numpy as np

from fastbp.cpu import dense, elementwise, gather, gemm, loss, shaping, step, team, tiny
from fastbp.cpu.cache import address
from fastbp.cpu.machine import this_machine
from fastbp.cpu.program import AT_ONCE, CONTEXT, HALT, OPERATION, SECTION, SHARED, STEPS, STOP
from fastbp.formulas import activations
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.formulas.schedules import SCHEDULES
from fastbp.operations import Dense, Operation

# A batch of more rows than two of these, in a network with fewer parameters than a chunk has activations,
# is summed in chunks: see `sums_in_chunks`. Results depend on this number.
CHUNK_ROWS = 128

# Bytes of activations that a block of rows may fill: half of a small second-level cache.
BLOCK_BYTES = 192 * 1024

# A row of the program of which nothing is known.
_NOTHING_KNOWN = dict.fromkeys(OPERATION.names, 0)

# Kernels that are the same for float32 and float64.
_WITHOUT_TYPE = (team.barrier, elementwise.scheduled_settings, shaping.clip_factor)

# Multiply-adds per step that make a further thread worth its barriers and the weights that cross between
# cores.
WORK_PER_THREAD = 500_000

# And multiply-adds in all: to start threads takes as long as a core takes for half of these.
WORK_WORTH_A_START = 25_000_000

# Multiply-adds of a step, about half a millisecond, that is given up midway when somebody wishes to stop.
WORK_TO_GIVE_UP = 25_000_000


@dataclass(frozen=True)
class Architecture:
    """What a plan needs to know of a network.

    sizes : number of inputs, then of the outputs of each layer; activations, biases : name, flag of each
    layer. loss, option : name of the loss and its one number; real : "float32" or "float64". operations :
    what each layer does (`fastbp.operations`); none given: all are dense. Only dense layers have activations.
    input_scale : what inputs are multiplied by, in front of all layers.
    """

    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    biases: tuple[bool, ...]
    loss: str
    option: float
    real: str
    operations: tuple[Operation, ...] = ()
    input_scale: float = 1.0

    def __post_init__(self):
        if not self.operations:
            object.__setattr__(self, "operations", (Dense(),) * self.n_layers)

    @property
    def dtype(self):
        """NumPy's type of the parameters."""
        return np.dtype(self.real)

    @property
    def n_layers(self):
        """Number of layers."""
        return len(self.sizes) - 1

    def parameter_offsets(self):
        """Where each layer's parameters begin in the flat vector, and at last the vector's length."""
        offsets = [0]
        for operation, n_in, n_out, bias in zip(
            self.operations, self.sizes, self.sizes[1:], self.biases, strict=False
        ):
            offsets.append(offsets[-1] + operation.n_parameters(n_in, n_out, bias))
        return offsets

    def is_dense(self, layer):
        """Whether a layer is a dense one."""
        return isinstance(self.operations[layer], Dense)

    def multiply_adds(self, rows):
        """Multiply-adds of a training step on so many rows (no gradient of the inputs)."""
        products = [
            n_in * n_out for i, (n_in, n_out) in enumerate(itertools.pairwise(self.sizes)) if self.is_dense(i)
        ]
        return rows * (3 * sum(products) - sum(products[:1]))


@dataclass(frozen=True)
class Shaping:
    """What is done to gradients and weights beside the optimizer's step; nothing by default.

    penalties : (l1, l2) of each layer. max_norms : how long a column of each layer's W may be, or 0.
    clip_value : how large an element of the gradient may be, or 0. clip_norm : how long the whole gradient
    may be then, or 0. gradient_noise, input_noise : standard deviations. gradient_noise_decay : the γ by
    which the first of them falls from step to step (`formulas.shaping.noise_deviation`), or 0.
    """

    penalties: tuple[tuple[float, float], ...]
    max_norms: tuple[float, ...]
    clip_value: float = 0.0
    clip_norm: float = 0.0
    gradient_noise: float = 0.0
    input_noise: float = 0.0
    gradient_noise_decay: float = 0.0

    def is_needed(self):
        """Whether there is anything to do."""
        return self != Shaping(((0.0, 0.0),) * len(self.penalties), (0.0,) * len(self.max_norms))

    def changes_gradient(self, layer):
        """Whether there is anything to do between a layer's gradient and its update."""
        always = self.clip_value or self.clip_norm or self.gradient_noise
        return bool(always or any(self.penalties[layer]))

    def whole_columns(self, layer):
        """Whether columns of a layer's W must not be shared by threads."""
        return bool(self.clip_norm or self.max_norms[layer])


def sums_in_chunks(architecture, batch_size):
    """Whether gradients of a batch are summed chunk by chunk of rows, then over chunks, rather than row by
    row.

    Chunks let a small network's large batch stay in cache and be shared between threads. The answer changes
    the order of the sums, so it depends on the network and the batch alone, never on threads or machine.
    """
    if any(operation.needs_all_rows for operation in architecture.operations):
        return False
    return batch_size >= 2 * CHUNK_ROWS and architecture.parameter_offsets()[-1] <= CHUNK_ROWS * sum(
        architecture.sizes
    )


def splits_columns(architecture, batch_size, threads):
    """Whether threads share the first layer's columns, rather than the rows of the batch.

    Rows move the updated weights between cores in every step, columns the activations and their gradients:
    columns where the layer has more inputs or outputs than the batch has rows, by far, and a vector for every
    thread. The bits are the same.
    """
    n_in, n_out = architecture.sizes[:2]
    if not architecture.is_dense(0):
        return False
    vectors = n_out // this_machine().lanes(architecture.real)
    return 1 < threads <= vectors and max(n_in, n_out) > 2 * batch_size and n_in * n_out > 8_000


_calling = threading.local()  # .alone: whether other threads do the like of what this one does


def automatic_threads(multiply_adds, steps=None):
    """Threads for steps of so many multiply-adds: one for each portion of work, at most our cores.

    steps : how many there are, if they are few: a thread must be worth its start, too.
    """
    if getattr(_calling, "alone", False):
        return 1
    threads = multiply_adds // WORK_PER_THREAD
    if steps is not None:
        threads = min(threads, steps * multiply_adds // WORK_WORTH_A_START)
    return max(1, min(available_cores(), threads))


@contextlib.contextmanager
def one_thread():
    """Within it, whatever the calling thread asks for takes this one thread, where nobody says otherwise."""
    _calling.alone = True
    try:
        yield
    finally:
        _calling.alone = False


def available_cores():
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


class Plan:
    """A program for every thread, and the memory it works in.

    Parameters
    ----------
    architecture : Architecture
    task : {"train", "gradient", "loss", "predict", "logits"}
    batch_size : int
        Rows of a full batch; the most rows that one pass may have.
    threads : int
    optimizer : str, optional
        Row of ``OPTIMIZERS`` to train with.
    groups : tuple of (int, int), optional
        For each layer the rows of `settings` that its W and its b are trained with; row 0 by default.
    schedule : str, optional
        Row of ``SCHEDULES`` that the learning rate follows.
    targets : {"classes", "probabilities"}
        What softmax_cross_entropy is given.
    materialise : bool
        Write gradients to memory before the update, rather than use them in registers. The same bits either
        way.
    inputs : bool
        For "gradient": compute the gradient of the inputs too.
    unpacked : bool
        For "predict" and "logits": read the host's parameters where they are, without packing.
    batch_statistics : bool
        For "gradient": let batch normalisation use the statistics of these rows, as training does.
    staged : bool
        For "predict" and "logits" of one row: the caller writes it where `stage` says.
    weighted : {False, True, "as they are"}
        For "train", "gradient" and "loss": rows count by the weights at ``weights`` of the context, divided
        by their mean over the batch or as they are.
    data : {"numbers", "bytes", "sparse numbers", "sparse bytes"}
        What lies at ``x`` of the context: numbers of the network's type, or uint8; or where `SparseRows` of
        them lie.
    shaping : Shaping, optional
        For "train": what is done to gradients and weights beside the optimizer's step.
    """

    def __init__(
        self, architecture, task, batch_size, threads=1, *, optimizer=None, targets="classes",
        materialise=False, inputs=False, unpacked=False, staged=False, groups=None, schedule=None,
        weighted=False, shaping=None, batch_statistics=False, data="numbers",
    ):  # fmt: skip
        self.architecture, self.task, self.threads, self.batch_size = architecture, task, threads, batch_size
        self.optimizer, self.targets, self.unpacked, self.staged = optimizer, targets, unpacked, staged
        self._groups, self._schedule = groups or ((0, 0),) * architecture.n_layers, schedule
        self._weighted, self._shaping, self._data, self._kept = weighted, shaping, data, []
        self.batch_statistics = task == "train" or batch_statistics
        materialise = materialise or (shaping is not None and shaping.clip_norm > 0)
        real, self._size = architecture.real, architecture.dtype.itemsize
        self._lanes, self._panel = this_machine().lanes(real), this_machine().panel(real)
        backward = task in ("train", "gradient")
        self.chunked = backward and sums_in_chunks(architecture, batch_size)
        whole = backward and not self.chunked  # phase 2 reads the activations of all rows
        self._slots = self._count_slots(backward, materialise)
        self._plan_gradients(backward, inputs)
        self._split = task == "train" and whole and splits_columns(architecture, batch_size, threads)
        # Rows that lie a multiple of 4096 bytes apart share a cache set: those are copied first.
        row_bytes = architecture.sizes[0] * self._size
        reads_data = not backward and not unpacked and row_bytes % 4096 != 0
        as_they_are = data == "numbers" and architecture.input_scale == 1
        self.in_order = self._first_product() if reads_data and as_they_are else None
        self.block_rows = self._choose_block_rows(whole)

        self._offsets = architecture.parameter_offsets()
        self._lay_out_parameters()
        self._plan_packing(backward and not self.chunked)
        workspace_rows = batch_size if whole else min(batch_size, self.block_rows)
        shared_workspace = self._workspace(workspace_rows)
        self._build_contexts(whole)
        self._squares = self._keep(np.zeros(sum(architecture.sizes[1:]))).ctypes.data
        self._kept_columns = list(self._keep_columns())
        self._numbers = [
            self._keep(np.array((*o.numbers(), 0.0))).ctypes.data for o in architecture.operations
        ]
        self._programs = []
        for thread in range(threads):
            workspace = shared_workspace if whole or thread == 0 else self._workspace(workspace_rows)
            if self._split:
                workspace = [self._own_inputs(workspace_rows), *workspace[1:]]
            self._programs.append(self._build_program(thread, workspace, materialise, inputs))
        self._connect()
        self.run_epochs = team.function(address(step.run_epochs))
        self._run_section = team.function(address(step.run_section))

    # Which layers need what

    def _plan_gradients(self, backward, inputs):
        """Which layers' inputs need a gradient: those before which there is something to learn."""
        self._wants_dx, wanted = [], backward and inputs
        for operation in self.architecture.operations:
            self._wants_dx.append(wanted)
            wanted = wanted or (backward and operation.learns)
        self._transposed = [
            wants_dx and self.architecture.is_dense(layer) for layer, wants_dx in enumerate(self._wants_dx)
        ]

    def wants_dx(self, layer):
        """Whether the gradient of a layer's input is needed."""
        return self._wants_dx[layer]

    def _first_product(self):
        """The layer that reads the data, if that is a dense one and nothing else reads them; else None."""
        firsts = [o.first for o in self.architecture.operations if o.first is not None]
        for layer, operation in enumerate(self.architecture.operations):
            if not operation.passes(self):
                others = any(0 <= each <= layer for each in firsts)
                return layer if self.architecture.is_dense(layer) and not others else None
        return None

    # Memory

    def _count_slots(self, backward, materialise):
        """Gradient slots: one per chunk, or one where a gradient is wanted in memory, else none."""
        if self.chunked:
            return -(-self.batch_size // CHUNK_ROWS)
        all_rows = any(operation.needs_all_rows for operation in self.architecture.operations)
        return 1 if backward and (materialise or self.task == "gradient" or all_rows) else 0

    def _choose_block_rows(self, whole):
        if self.chunked:
            return CHUNK_ROWS
        row_bytes = self._size * sum(self.architecture.sizes) * (2 if whole else 1)
        most = BLOCK_BYTES // row_bytes // 24 * 24  # 24: whole tiles of 3, 4, 6 and 8 rows
        # A block of wide layers outgrows the cache anyway; fewer rows than 144 would fetch W more often.
        most = max(144, min(480, most))
        share = -(-self.batch_size // self.threads)
        rows = -(-share // -(-share // most))  # equal blocks, none above `most`
        return -(-rows // 4) * 4  # whole vectors of even the narrowest layer: loops run to their end

    def _lay_out_parameters(self):
        """One arena: parameters | optimizer states | gradient slots, all laid out alike; then transposes."""
        offset, self._w = 0, []
        for layer, operation in enumerate(self.architecture.operations):
            self._w.append(offset)
            offset = _aligned(offset + operation.arena_elements(self, layer) * self._size)
        self._arena_bytes = offset
        self._states = OPTIMIZERS[self.optimizer].states if self.optimizer else 0
        offset *= 1 + self._states + self._slots
        self._slots_at = self._arena_bytes * (1 + self._states)
        self._wt = []
        for n_in, n_out, wanted in zip(
            self.architecture.sizes, self.architecture.sizes[1:], self._transposed, strict=False
        ):
            self._wt.append(offset if wanted else None)
            offset = _aligned(offset + self.columns(n_in) * self.columns(n_out) * self._size * wanted)
        self._arena = aligned_zeros(offset)
        base = self._arena.ctypes.data
        self._w = [base + at for at in self._w]
        self._wt = [0 if at is None else base + at for at in self._wt]
        self._slots_at += base

    def row_bytes(self, layer):
        """Bytes from row to row of a layer's inputs (of the outputs, for the number of layers).

        Whole vectors, sixteens for logits whose rows are summed; no multiple of 4096, which would put all
        rows in one cache set.
        """
        n, architecture = self.architecture.sizes[layer], self.architecture
        operations = architecture.operations[layer:]
        if all(operation.passes(self) for operation in operations) and LOSSES[architecture.loss].rowwise:
            n = -(-n // 16) * 16
        row = self.columns(n) * self._size
        return row + 64 if row % 4096 == 0 else row

    def _workspace(self, rows):
        """Addresses of the activations: for each size a buffer for z, y, the gradient, a number of each row.

        A layer that passes its input on has the buffers of its input.
        """
        need = [self._buffers_needed(rows, layer) for layer in range(self.architecture.n_layers + 1)]
        self._activations = memory = self._keep(clean_workspace(sum(map(sum, need))))
        buffers, at = [], memory.ctypes.data
        for sizes in need:
            y, z, dz, kept, at = itertools.accumulate((at, *sizes))
            if y < z:
                buffers.append((z if z < dz else y, y, dz, kept))
            else:
                buffers.append((buffers[-1][1], *buffers[-1][1:]))
        return buffers

    def _buffers_needed(self, rows, layer):
        """Bytes for y, z, the gradient and a number of each row of a layer's inputs (of the outputs, for the
        number of layers).
        """
        keeps_z = keeps_rows = False
        if layer > 0:
            operation = self.architecture.operations[layer - 1]
            if operation.passes(self):
                return 0, 0, 0, 0
            activation = activations.ACTIVATIONS[self.architecture.activations[layer - 1]]
            keeps_z, keeps_rows = operation.keeps or activation.keeps == "z", operation.keeps_rows
        each = _aligned(rows * self.row_bytes(layer))
        return each, each * keeps_z, each, _aligned(rows * self._size) * keeps_rows

    def _keep_columns(self):
        """Memory for what operations keep of each column, the same for all threads."""
        for operation, n in zip(self.architecture.operations, self.architecture.sizes[1:], strict=True):
            n_bytes = operation.keeps_columns * self.whole_vectors(n) * self._size
            yield self._keep(clean_workspace(n_bytes)).ctypes.data if n_bytes else 0

    def kept_columns(self, layer):
        """Where a layer keeps its numbers of each column."""
        return self._kept_columns[layer]

    def _own_inputs(self, rows):
        """Addresses like those of `_workspace`, for a thread's own copy of the inputs."""
        x = self._keep(clean_workspace(rows * self.row_bytes(0))).ctypes.data
        return x, x, 0, 0

    def _keep(self, array):
        self._kept.append(array)
        return array

    # Tables

    def _build_contexts(self, whole):
        architecture, threads = self.architecture, self.threads
        widest = max(map(self.columns, architecture.sizes))
        sixteens = -(-max(architecture.sizes) // 16) * 16
        loss_scratch = max((self.block_rows + 1) * (sixteens + 3), 2 * max(loss.AT_ONCE, sixteens))
        panels, words = (gemm.ROW_BLOCK + 1 + 4) * self._panel, architecture.sizes[0] + 4
        vectors = 6 * self.whole_vectors(
            widest
        )  # gradients of a scale and a shift, and four numbers of noise
        scratch = _aligned(self._size * max(panels, vectors, loss_scratch, words))
        memory = aligned_zeros(threads * _aligned(CONTEXT.itemsize)).reshape(threads, -1)
        self.contexts = ctx = memory[:, : CONTEXT.itemsize].view(CONTEXT)[:, 0]
        self.shared = aligned_zeros(SHARED.itemsize)
        self.settings = np.zeros((1 + max(map(max, self._groups)), elementwise.ROOM))
        self.schedule_settings = np.zeros(
            3 + len(SCHEDULES[self._schedule].settings) if self._schedule else 0
        )
        self.option = np.array([architecture.option], np.float64)
        zeros = self._keep(aligned_zeros(max(widest * self._size, 64)))
        ctx["address"] = [ctx[t : t + 1].ctypes.data for t in range(threads)]
        ctx["thread"], ctx["threads"], ctx["shared"] = np.arange(threads), threads, self.shared.ctypes.data
        one = self._keep(np.ones(1, architecture.dtype))
        ctx["product"], ctx["zeros"] = address(gemm.matrix_product, architecture.real), zeros.ctypes.data
        ctx["one"] = one.ctypes.data
        ctx["write_order"] = address(step.write_order) if self.task == "train" else 0
        factors = [self._keep(aligned_zeros(64)) for _ in range(threads)]
        ctx["row_scale"] = [each.ctypes.data for each in factors]
        for each in factors:
            each.view(np.float64)[0] = 1.0
        ctx["clip"] = ctx["row_scale"] + 8
        ctx["scratch"] = [self._keep(clean_workspace(scratch)).ctypes.data for _ in range(threads)]
        hyper = elementwise.ROOM * self._size
        ctx["hyper"] = [self._keep(aligned_zeros(2 * hyper)).ctypes.data for _ in range(threads)]
        ctx["bias_hyper"], ctx["option"] = ctx["hyper"] + hyper, self.option.ctypes.data
        ctx["batch_size"], ctx["block_rows"], ctx["whole"] = self.batch_size, self.block_rows, whole
        ctx["chunk_rows"] = CHUNK_ROWS if self.chunked else self.batch_size

    def _build_program(self, thread, workspace, materialise, inputs):
        """(operations, sections) of one thread; packing is the first section, unpacking the last."""
        program = Program(self, thread, workspace)
        self._emit_packing(program)
        if self._weighted is True:
            program.emit(loss.total_weight)
            program.end_section(by_rows=False)
        self._emit_forward(program)
        if self.task in ("train", "gradient"):
            self._emit_backward(program, inputs)
        # Long work may be given up in phase 1, unless statistics have already followed its rows.
        architecture = self.architecture
        long = architecture.multiply_adds(self.batch_size) > WORK_TO_GIVE_UP
        apart = not any(operation.needs_all_rows for operation in architecture.operations)
        gives_up = long and apart
        program.end_section(by_rows=True, gives_up=gives_up)
        program.wait()
        if gives_up:
            program.end_section(by_rows=False, gives_up=True)
        self._emit_phase_two(program, materialise)
        self._emit_unpacking(program)
        return np.array(program.operations, OPERATION).reshape(-1), np.array(program.sections, SECTION)

    def parts(self, layer):
        """The parts of a layer's columns: one for each thread where it is split, else the whole."""
        return range(self.threads) if self._split and layer == 0 else (None,)

    def _emit_packing(self, program):
        for layer, operation in enumerate(self.architecture.operations):
            operation.pack(program, layer)
        program.end_section(by_rows=False)

    def _emit_forward(self, program):
        """Phase 1, by rows, from the data to the loss or the outputs; before it a layer split by columns."""
        architecture, first, last = self.architecture, 0, self.architecture.n_layers - 1
        rowwise = LOSSES[architecture.loss].rowwise
        if self.staged:
            program.emit(gather.require_finite)
            self._emit_scaling(program)
        else:
            self._emit_gather(program)
        if self._split:
            program.emit(dense.dense_forward, part=program.thread)
            program.emit_activation(elementwise.activation_forward, 0, part=program.thread)
            program.wait()
            program.end_section(by_rows=False)
            first = 1
        for layer in range(first, architecture.n_layers):
            operation = architecture.operations[layer]
            if not operation.passes(self):
                operation.forward(program, layer)
            program.emit_activation(elementwise.activation_forward, layer)
        if self.task == "logits":
            program.emit(loss.copy_outputs, layer=last)
        elif self.task == "predict" and rowwise:
            program.emit(loss.softmax_link, layer=last)
        elif self.task == "predict":
            program.emit(loss.elementwise_link, architecture.loss, layer=last)
        elif rowwise:
            program.emit(loss.softmax_loss, self.targets, layer=last)
        else:
            program.emit(loss.elementwise_loss, architecture.loss, layer=last)
        if self._weighted:
            program.emit(loss.weigh_rows, layer=last)

    def _emit_gather(self, program):
        """The rows of a block: whether they are finite, and a copy, unless the first product reads them."""
        if self.task in ("predict", "logits") and self._data == "numbers":
            program.emit(gather.check_rows)
        if self._data.startswith("sparse "):
            kind = self._data.removeprefix("sparse ")
            program.emit(gather.gather_sparse, kind, numbers=self._input_scale())
        elif self._data == "bytes" or self.architecture.input_scale != 1:
            program.emit(gather.gather_scaled, self._data, numbers=self._input_scale())
        elif self.in_order is None:
            program.emit(gather.gather)
        if self._shaping and self._shaping.input_noise:
            program.emit(shaping.input_noise, **self._shape(noise=self._shaping.input_noise))

    def _emit_scaling(self, program, **fields):
        """Rows of the workspace times the scale of the inputs, where there is one."""
        if self.architecture.input_scale != 1:
            program.emit(gather.scale_rows, numbers=self._input_scale(), **fields)

    def _input_scale(self):
        return self._keep(np.array([self.architecture.input_scale], np.float64)).ctypes.data

    def _emit_backward(self, program, inputs):
        """Phase 1, by rows: the deltas, from the loss back to the first layer."""
        for layer in reversed(range(self.architecture.n_layers)):
            program.emit_activation(elementwise.activation_backward, layer)
            operation = self.architecture.operations[layer]
            if not operation.passes(self):
                operation.backward(program, layer)
            for behind, other in enumerate(self.architecture.operations):
                if other.first == layer and self.wants_dx(layer):
                    other.rejoin(program, behind)
        if inputs:
            dx, row = program.workspace[0][2], self.row_bytes(0)
            self._emit_scaling(program, x=dx, x_row=row)
            program.emit(loss.copy_outputs, y=dx, z_row=row, n_out=self.architecture.sizes[0])

    def _emit_phase_two(self, program, materialise):
        """Phase 2, by tiles of the weights: gradients over the whole batch, and the update."""
        clips_norm = self._shaping is not None and self._shaping.clip_norm > 0
        if clips_norm:
            self._emit_clipping(program)
        prepared = None
        for layer, operation in enumerate(self.architecture.operations):
            if not operation.learns:
                continue
            if self.task == "train" and prepared != self._groups[layer]:
                prepared = self._groups[layer]
                self._emit_prepare(program, prepared)
            if clips_norm:
                pass  # the gradient is there
            elif self.chunked:
                if self.task == "gradient" and program.thread == 0:
                    operation.total(program, layer)
            elif self.task == "gradient" or materialise:
                operation.gradient(program, layer)
            if self.task == "train":
                settings_of_w, settings_of_b = self._groups[layer]
                apart = settings_of_w != settings_of_b
                shape = self._shape_of(layer)
                operation.update(program, layer, self.chunked or materialise, apart, **shape)
                if self._shaping and self._shaping.max_norms[layer]:
                    most = self._shape(most=self._shaping.max_norms[layer])
                    program.emit(dense.dense_max_norm, layer=layer, part=program.own_part(layer), **most)
        if program.thread == 0 and self.task in ("train", "gradient", "loss"):
            program.emit(step.end_of_step)
        program.wait()
        program.end_section(by_rows=False)

    def _emit_clipping(self, program):
        """The whole gradient in memory, and what it must be multiplied by to be no longer than asked."""
        for layer, operation in enumerate(self.architecture.operations):
            if operation.learns:
                if not self.chunked:
                    operation.gradient(program, layer)
                operation.collect(program, layer, **self._shape_of(layer))
        program.wait()
        columns, most = sum(self.architecture.sizes[1:]), self._shape(most=self._shaping.clip_norm)
        program.emit(shaping.clip_factor, squares=self._squares, n_out=columns, **most)

    def _shape_of(self, layer):
        """Fields of a layer's update: what is done to its gradient first."""
        shaped = self._shaping
        if shaped is None or not shaped.changes_gradient(layer):
            return {}
        limit, noise, decay = shaped.clip_value, shaped.gradient_noise, shaped.gradient_noise_decay
        shape = self._shape(*shaped.penalties[layer], limit, noise, decay=decay)
        return dict(collected=shaped.clip_norm > 0, **shape)

    def _shape(self, l1=0.0, l2=0.0, limit=0.0, noise=0.0, most=0.0, decay=0.0):
        """The field `shape`: where these numbers lie."""
        return dict(shape=self._keep(np.array([l1, l2, limit, noise, most, decay])).ctypes.data)

    def address(self, factory):
        """The address of a kernel that is no row of the program, but is called by one."""
        return address(factory, self.architecture.real)

    def _emit_prepare(self, program, groups):
        """What the updates of layers with these groups of settings need to know of this step."""
        places = [self.settings[row:].ctypes.data for row in dict.fromkeys(groups)]
        if self._schedule is not None:
            names, given = OPTIMIZERS[self.optimizer].settings, places
            copies = self._keep(np.zeros((len(given), elementwise.ROOM)))
            places = [copy.ctypes.data for copy in copies]
            at = [i for i, name in enumerate(names) if name in ("momentum", "beta1")]
            for settings, copy in zip(given, places, strict=True):
                program.emit(
                    elementwise.scheduled_settings, self._schedule, settings=settings, scheduled=copy,
                    schedule=self.schedule_settings.ctypes.data, momentum=copy + 8 * at[0] if at else 0,
                )  # fmt: skip
        settings, bias_settings = places if len(places) == 2 else (places[0], 0)
        program.emit(
            elementwise.optimizer_prepare, self.optimizer, settings=settings, bias_settings=bias_settings
        )

    def _emit_unpacking(self, program):
        for layer, operation in enumerate(self.architecture.operations):
            if self.task == "train":
                operation.unpack(program, layer)
            elif self.task == "gradient":
                operation.unpack(program, layer, w=self._slot(self._w[layer]))
        program.end_section(by_rows=False)

    def operation(self, layer, thread, workspace, part=None):
        """The fields of a row of the program: all that is known of a layer, or of one part of its columns."""
        architecture = self.architecture
        n_in, n_out = architecture.sizes[layer : layer + 2]
        known = _NOTHING_KNOWN | dict(
            n_in=n_in, n_out=n_out, x_columns=self.columns(n_in), columns=self.columns(n_out),
            use_bias=architecture.biases[layer],
            x=workspace[layer][1], dx=workspace[layer][2], x_row=self.row_bytes(layer),
            z=workspace[layer + 1][0], y=workspace[layer + 1][1], dz=workspace[layer + 1][2],
            z_row=self.row_bytes(layer + 1),
            w=self._w[layer], wt=self._wt[layer], arena_bytes=self._arena_bytes,
            slots=self._slot(self._w[layer]), slot_bytes=self._arena_bytes,
            host=self._size * self._offsets[layer], host_row=self._size * n_out,
            numbers=self._numbers[layer], noise=self._noise_of(layer),
            squares=self._squares + 8 * sum(architecture.sizes[1 : layer + 1]),
        )  # fmt: skip
        known |= self._share(layer, thread)
        known |= architecture.operations[layer].fields(self, layer, workspace)
        if part is not None:
            known |= self._part(known, part, thread)
        return known

    def _part(self, known, part, thread):
        """What differs for one part of a layer's columns, as if they were a layer of their own."""
        lanes = min(self._lanes, known["columns"])
        vectors = known["columns"] // lanes
        first, last = (vectors * t // self.threads * lanes for t in (part, part + 1))
        at, packed = first * self._size, (known["n_in"] + 1) * first * self._size
        packed_x, packed_dz = self._packing[thread] if self._packed[0] else (0, 0)
        return dict(
            n_out=max(0, min(known["n_out"], last) - first), columns=last - first,
            z=known["z"] + at, y=known["y"] + at, dz=known["dz"] + at, host=known["host"] + at,
            squares=known["squares"] + 8 * first, noise=known["noise"] + first,
            w=known["w"] + packed, slots=known["slots"] + packed, packed_x=packed_x, packed_dz=packed_dz,
            first_row=0, last_row=known["n_in"], first_column=0, last_column=last - first,
        )  # fmt: skip

    def _noise_of(self, layer):
        """Blocks of random words that the layers before take: one for four rows of a column, b included."""
        return sum(
            (n_in + 4) // 4 * n_out
            for n_in, n_out in itertools.pairwise(self.architecture.sizes[: layer + 1])
        )

    def _slot(self, parameter):
        """The address in the first gradient slot of what lies at an address of the packed parameters."""
        return self._slots_at + parameter - self._w[0]

    def _share(self, layer, thread):
        """A thread's share of a layer's W in phase 2: some rows of all columns, or all rows of some panels.

        Where rows are copied into packed memory first, panels are shared out, so that none is packed twice;
        and where sums over columns are needed, so that their order is one.
        """
        n_in = self.architecture.sizes[layer]
        whole = self.all_columns(layer)
        if not self.architecture.is_dense(layer):
            return whole | self._columns_share(layer, thread)
        if not self._packed[layer] and not (self._shaping and self._shaping.whole_columns(layer)):
            rows = max(8, self._lanes)  # whole tiles, and whole squares of the transpose
            blocks = -(-n_in // rows)
            first, last = (min(n_in, rows * (blocks * t // self.threads)) for t in (thread, thread + 1))
            return whole | dict(first_row=first, last_row=last)
        panels = self._panel_starts(layer)
        first, last = (panels[(len(panels) - 1) * t // self.threads] for t in (thread, thread + 1))
        packed_x, packed_dz = self._packing[thread] if self._packed[layer] else (0, 0)
        return whole | dict(first_column=first, last_column=last, packed_x=packed_x, packed_dz=packed_dz)

    def _columns_share(self, layer, thread):
        """A thread's share of the columns of a layer that has but vectors of parameters."""
        columns = self.columns(self.architecture.sizes[layer + 1])
        vectors = -(-columns // self._lanes)
        first, last = (min(columns, vectors * t // self.threads * self._lanes) for t in (thread, thread + 1))
        return dict(first_column=first, last_column=last)

    def _panel_starts(self, layer):
        """Where the panels of a layer's W begin, and where the last one ends."""
        columns, starts = self.columns(self.architecture.sizes[layer + 1]), [0]
        while starts[-1] < columns:
            starts.append(starts[-1] + gemm.width_of_panel(self.architecture.real)(columns - starts[-1]))
        return starts

    def _plan_packing(self, wanted):
        """Which layers' x and dz are packed in phase 2, and each thread's memory for it."""
        sizes, rows = self.architecture.sizes, self.batch_size
        layers = list(itertools.pairwise(sizes))
        self._packed = [
            wanted and rows >= 192 and min(sizes) >= 192 and self.architecture.is_dense(layer)
            for layer, sizes in enumerate(layers)
        ]
        widest = max(
            (n_out for (_, n_out), packed in zip(layers, self._packed, strict=True) if packed), default=0
        )
        columns = min(self.columns(widest), widest // self.threads + 2 * self._panel) if widest else 0
        x_bytes = _aligned(rows * gemm.ROW_BLOCK * self._size)
        self._packing = []
        for _ in range(self.threads if widest else 0):
            memory = self._keep(clean_workspace(x_bytes + rows * columns * self._size)).ctypes.data
            self._packing.append((memory, memory + x_bytes))

    def all_columns(self, layer):
        """All of a layer's W, as a share."""
        n_in, n_out = self.architecture.sizes[layer : layer + 2]
        return dict(first_row=0, last_row=n_in, first_column=0, last_column=self.columns(n_out))

    def columns(self, n):
        """Columns that n values of a row take.

        Whole vectors even for a narrow layer where the row behind W is not updated as W is, because there is
        no b or b has settings of its own: the update of W, which runs to whole vectors, must not reach it.
        """
        if any(w != b for w, b in self._groups) or not all(self.architecture.biases):
            return self.whole_vectors(n)
        return this_machine().columns(n, self.architecture.real)

    def is_tiny(self, layer):
        """Whether a dense layer is one of those of ``cpu/tiny.py``."""
        n_in, n_out = self.architecture.sizes[layer : layer + 2]
        columns = self.columns(n_in), self.columns(n_out)
        return tiny.is_tiny(n_in, *columns, self.batch_size, self.architecture.real)

    def whole_vectors(self, n):
        """Elements that n take in whole machine vectors."""
        return -(-n // self._lanes) * self._lanes

    def _connect(self):
        """Tell each operation and each context where it lies."""
        self._sections = self._programs[0][1]
        self._pack, self._unpack = (self._sections[i:].ctypes.data for i in (0, len(self._sections) - 1))
        for thread, (program, sections) in enumerate(self._programs):
            program["address"] = program.ctypes.data + OPERATION.itemsize * np.arange(len(program))
            self.contexts[thread]["program"] = program.ctypes.data
            self.contexts[thread]["sections"] = sections[1:-1].ctypes.data
            self.contexts[thread]["n_sections"] = len(sections) - 2

    # Running

    @property
    def n_bytes(self):
        """How much memory parameters, states and gradients take."""
        return self._arena.nbytes

    def renew(self):
        """Forget what was trained. What else there is, every run writes before it reads."""
        self._arena[:] = 0

    def set(self, **fields):
        """Set fields of every thread's context."""
        for field, value in fields.items():
            self.contexts[field] = value

    @property
    def by_rows(self):
        """The address of the section that runs by rows, for `step.run_section`."""
        return self._sections[1:2].ctypes.data

    @property
    def unpacking(self):
        """The address of the section that unpacks the parameters to the host's vector."""
        return self._unpack

    def stage(self):
        """Where a staged plan's row of x (n_inputs,) goes, and a function that runs the program on it.

        The function returns 0, or something else where the row holds NaN or an infinity.
        """
        row = self._activations[: self.architecture.sizes[0] * self._size].view(self.architecture.dtype)
        self.set(rows=1, batch_rows=1)
        return row, team.bound(address(step.run_section), int(self.contexts[0]["address"]), self.by_rows)

    def bound(self):
        """(run, unpack): the two without arguments, for the least overhead, where there is one thread.

        They return 0, or something else where a kernel raised. What `set` would set is in the arrays that
        ``contexts`` has; `unpack` writes where the latest of its calls, or of `pack`, did.
        """
        context = int(self.contexts[0]["address"])
        run = team.bound(address(step.run_epochs), context, 0)
        return run, team.bound(address(step.run_section), context, self._unpack)

    def pack(self, parameters):
        """Copy the host's flat parameter vector into the panels."""
        self.set(host=parameters.ctypes.data)
        if not self.unpacked:
            self._run_section(int(self.contexts[0]["address"]), self._pack)

    def unpack(self, vector):
        """Copy what is left in the panels into a flat vector of the host: parameters, or their gradient."""
        self.set(host=vector.ctypes.data)
        self._run_section(int(self.contexts[0]["address"]), self._unpack)

    def states(self):
        """The optimizer's states: as many rows as it has, each laid out like the host's flat vector."""
        states = np.empty((self._states, self.architecture.parameter_offsets()[-1]), self.architecture.dtype)
        for index, vector in enumerate(states):
            self._copy_state(index, vector, self._sections[-1])
        return states

    def set_states(self, states):
        """Give the optimizer the states that `states` returned."""
        for index, vector in enumerate(states):
            self._copy_state(index, vector, self._sections[0])

    def _copy_state(self, index, vector, section):
        """Pack or unpack, as the section of the first thread does the weights, one of the states."""
        operations = self._programs[0][0][section["first"] : section["last"]].copy()
        operations["w"] += (1 + index) * self._arena_bytes
        operations["wt"] = 0
        context = self.contexts[:1].copy()
        context["address"], context["program"] = context.ctypes.data, operations.ctypes.data
        context["host"] = vector.ctypes.data
        whole = np.array((0, len(operations), 0, 0), SECTION)
        self._run_section(int(context["address"][0]), whole.ctypes.data)

    def start(self):
        """Run epochs [epoch, last_epoch) in threads of their own; returns their `team.Team`."""
        self.reset()
        return team.Team(self.run_epochs, self.contexts["address"].tolist()).start()

    def run(self):
        """Run epochs [epoch, last_epoch) to their end, in the calling thread where one is enough."""
        if self.threads == 1:
            self.reset()
            self.run_epochs(int(self.contexts[0]["address"]), 0)
        else:
            self.start().wait()

    def reset(self):
        """Forget that a run was asked to stop: what runs without `start` or `run` would not begin."""
        self.shared[:] = 0
        self.contexts["ticket"] = 0

    def stop(self, wish=AT_ONCE):
        """Ask a running program to end after its step; `AT_ONCE` a long one is given up."""
        self.shared[STOP : STOP + 8].view(np.int64)[0] = wish

    @property
    def halted(self):
        """Whether the last run ended because it was asked to."""
        return bool(self.shared[HALT : HALT + 8].view(np.int64)[0])

    @property
    def steps_done(self):
        """Steps of the current run so far; may be read while it runs."""
        return int(self.shared[STEPS : STEPS + 8].view(np.int64)[0])


class Program:
    """One thread's program while it is written: rows for operations, and the sections that they make."""

    def __init__(self, plan, thread, workspace):
        self.plan, self.thread, self.workspace = plan, thread, workspace
        self.operations, self.sections = [], []

    def emit(self, factory, *arguments, layer=0, part=None, own=None, **fields):
        """Add the operation of kernel ``factory(*arguments, real)``; `fields` differ from the layer's."""
        operation = self.plan.operation(layer, self.thread, self.workspace, part)
        real = () if factory in _WITHOUT_TYPE else (self.plan.architecture.real,)
        operation["kernel"] = address(factory, *arguments, *real, own=own)
        self.operations.append(tuple((operation | fields).values()))

    def emit_activation(self, factory, layer, part=None):
        """Add a pass of a layer's activation; the identity has none."""
        name = self.plan.architecture.activations[layer]
        if name != "identity":
            self.emit(factory, name, layer=layer, part=part, own=_users_own(name))

    def own_part(self, layer):
        """A thread's part of a layer that threads share by columns; None of any other."""
        return self.thread if len(self.plan.parts(layer)) > 1 else None

    def emit_for_all_rows(self, factory, layer):
        """Add an operation by columns that needs what all threads did, and they what it does."""
        if len(self.operations) > self._section_start():
            self.end_section(by_rows=True)
        self.wait()
        self.emit(factory, layer=layer)
        self.wait()
        self.end_section(by_rows=False)

    def wait(self):
        """Add a barrier, where there is somebody to wait for."""
        if self.plan.threads > 1:
            self.emit(team.barrier)

    def end_section(self, by_rows, gives_up=False):
        """Let all since the last section be one."""
        self.sections.append((self._section_start(), len(self.operations), by_rows, gives_up))

    def _section_start(self):
        return self.sections[-1][1] if self.sections else 0


def _users_own(name):
    """The user's activation of this name, or None where it is one of ours."""
    activation = activations.ACTIVATIONS[name]
    return None if activation.forward.__module__ == activations.__name__ else activation


def _aligned(n_bytes):
    return -(-n_bytes // 64) * 64


def aligned_zeros(n_bytes):
    """Zeros that begin at a multiple of 64."""
    memory = np.zeros(n_bytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + n_bytes]


def clean_workspace(n_bytes):
    """Memory to work in. What it holds changes no result, but must not slow the arithmetic down, as
    subnormals would.

    Kernels read whole vectors, past the end of a row, and use only what lies within.
    """
    return aligned_zeros(n_bytes + 256)
