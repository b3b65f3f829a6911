"""Where the numbers of a plan for a CPU lie: parameters, activations, and what each operation keeps."""

import itertools

import numpy as np

from .cpu import gemm
from .formulas.activations import ACTIVATIONS
from .formulas.losses import LOSSES
from .formulas.optimizers import OPTIMIZERS, ROOM
from .formulas.schedules import SCHEDULES


class Layout:
    """The memory of a plan, and the addresses in it.

    Parameters
    ----------
    choices : Choices

    Attributes
    ----------
    arena : uint8 array
        Parameters | the optimizer's states | transposes of W, all this for each replica; then gradient slots.
        Parameters, states and slots are laid out alike.
    arena_bytes : int
        From one of those that are laid out alike to the next.
    replica_bytes : int
        From one replica to the next.
    states : int
        How many states the optimizer has.
    slots_at : int
        Where the gradient slots begin.
    w, wt : lists of int
        Where each layer's packed parameters lie in the first replica, and the transpose of its W; 0 where
        there is none.
    host : list of int
        Bytes from the beginning of the host's flat vector to each layer's parameters.
    workspaces : list of lists
        For each thread and each size of the network the buffers of `_workspace`.
    packed_rows : list of (int, int)
        Each thread's memory for x and for dz, where some layer's are packed in phase 2.
    settings : float64 array (groups, ROOM)
        Of the optimizer; whoever has the plan writes them.
    schedule_settings : float64 array
        Of the schedule, the same.
    numbers : list of int
        Where each operation's own numbers lie.
    squares : int
        Where the squares of the gradient's columns lie.
    """

    def __init__(self, choices):
        self.choices, self._kept = choices, []
        self._lay_out_parameters()
        self.workspaces = list(self._make_workspaces())
        self.packed_rows = list(self._make_packed_rows())
        architecture, schedule = choices.architecture, choices.schedule
        self.settings = np.zeros((1 + max(map(max, choices.groups)), ROOM))
        self.schedule_settings = np.zeros(3 + len(SCHEDULES[schedule].settings) if schedule else 0)
        self.squares = self.address_of(np.zeros(sum(architecture.sizes[1:])))
        self._kept_columns = list(self._keep_columns())
        self.numbers = [self.address_of(np.array((*o.numbers(), 0.0))) for o in architecture.operations]

    def keep(self, array):
        """The array, which lives as long as the plan does."""
        self._kept.append(array)
        return array

    @property
    def bytes_beside(self):
        """How much memory there is beside the arena."""
        return sum(array.nbytes for array in self._kept)

    def address_of(self, array):
        """The address of an array that is kept."""
        return self.keep(array).ctypes.data

    def clean_memory(self, n_bytes):
        """The address of a clean workspace that is kept."""
        return self.address_of(clean_workspace(n_bytes))

    # Parameters

    def _lay_out_parameters(self):
        choices, operations = self.choices, self.choices.architecture.operations
        self.host = [choices.size * at for at in choices.architecture.parameter_offsets()]
        offset, places = 0, []
        for layer, operation in enumerate(operations):
            places.append(offset)
            offset = aligned(offset + operation.arena_elements(choices, layer) * choices.size)
        self.arena_bytes = offset
        self.states = OPTIMIZERS[choices.optimizer].states if choices.optimizer else 0
        offset *= 1 + self.states
        transposes = []
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(choices.architecture.sizes)):
            transposes.append(offset if choices.is_transposed(layer) else None)
            if choices.is_transposed(layer):
                offset = aligned(offset + choices.columns(n_in) * choices.columns(n_out) * choices.size)
        self.replica_bytes, replicas_bytes = offset, choices.replicas * offset
        self.arena = aligned_zeros(replicas_bytes + choices.n_slots * self.arena_bytes)
        base = self.arena.ctypes.data
        self.slots_at = base + replicas_bytes
        self.w = [base + at for at in places]
        self.wt = [0 if at is None else base + at for at in transposes]

    def slot(self, parameter):
        """The address in the first gradient slot of what lies at an address of the packed parameters."""
        return self.slots_at + parameter - self.w[0]

    def replicate(self):
        """Make all replicas what the first one is."""
        first = self.arena[: self.replica_bytes]
        for replica in range(1, self.choices.replicas):
            self.arena[replica * self.replica_bytes :][: self.replica_bytes] = first

    # Activations

    def row_bytes(self, layer):
        """Bytes from row to row of a layer's inputs (of the outputs, for the number of layers).

        Whole vectors, sixteens for logits whose rows are summed; no multiple of 4096, which would put all
        rows in one cache set. An address for each row of data that lie where they lie.
        """
        choices, architecture = self.choices, self.choices.architecture
        if layer == 0 and choices.scattered:
            return 8
        n, operations = architecture.sizes[layer], architecture.operations[layer:]
        if all(operation.passes(choices) for operation in operations) and LOSSES[architecture.loss].rowwise:
            n = -(-n // 16) * 16
        row = choices.columns(n) * choices.size
        return row + 64 if row % 4096 == 0 else row

    def _make_workspaces(self):
        """Each thread's: the same for all where phase 2 reads all rows; an own copy of the inputs where the
        first layer is split.
        """
        choices = self.choices
        rows = choices.batch_size if choices.whole else min(choices.batch_size, choices.block_rows)
        shared = self._workspace(rows)
        for thread in range(choices.threads):
            workspace = shared if choices.whole or thread == 0 else self._workspace(rows)
            yield [self._own_inputs(rows), *workspace[1:]] if choices.split else workspace

    def _workspace(self, rows):
        """Addresses of the activations: for each size a buffer for z, y, the gradient, a number of each row.

        A layer that passes its input on has the buffers of its input.
        """
        need = [self._buffers_needed(rows, layer) for layer in range(self.choices.architecture.n_layers + 1)]
        self._activations = memory = self.keep(clean_workspace(sum(map(sum, need))))
        buffers, at = [], memory.ctypes.data
        for y_bytes, z_bytes, *others in need:
            y, z, dz, kept, at = itertools.accumulate((at, y_bytes, z_bytes, *others))
            if y_bytes:
                buffers.append((z if z_bytes else y, y, dz, kept))
            else:
                buffers.append((buffers[-1][1], *buffers[-1][1:]))
        return buffers

    def _buffers_needed(self, rows, layer):
        """Bytes for y, z, the gradient and a number of each row of a layer's inputs (of the outputs, for the
        number of layers).
        """
        choices, keeps_z, keeps_rows = self.choices, False, False
        if layer > 0:
            operation = choices.architecture.operations[layer - 1]
            if operation.passes(choices):
                return 0, 0, 0, 0
            activation = ACTIVATIONS[choices.architecture.activations[layer - 1]]
            keeps_z, keeps_rows = operation.keeps or activation.keeps == "z", operation.keeps_rows
        each = aligned(rows * self.row_bytes(layer))
        return each, each * keeps_z, each, aligned(rows * choices.size) * keeps_rows

    def _own_inputs(self, rows):
        """Addresses like those of `_workspace`, for a thread's own copy of the inputs."""
        x = self.clean_memory(rows * self.row_bytes(0))
        return x, x, 0, 0

    def staged_row(self):
        """The row that a staged plan works on, an array (n_inputs,): the beginning of its one workspace."""
        n_bytes = self.choices.architecture.sizes[0] * self.choices.size
        return self._activations[:n_bytes].view(self.choices.architecture.dtype)

    # What operations keep

    def _make_packed_rows(self):
        """Each thread's memory for x and dz, as wide as the widest layer whose are packed needs them."""
        choices = self.choices
        rows, n_outputs = choices.batch_size, choices.architecture.sizes[1:]
        widest = max((n for n, packed in zip(n_outputs, choices.packed, strict=True) if packed), default=0)
        columns = min(choices.columns(widest), widest // choices.threads + 2 * choices.panel)
        x_bytes = aligned(rows * gemm.ROW_BLOCK * choices.size)
        for _ in range(choices.threads if widest else 0):
            x = self.clean_memory(x_bytes + rows * columns * choices.size)
            yield x, x + x_bytes

    def _keep_columns(self):
        """Memory for what operations keep of each column, the same for all threads."""
        architecture = self.choices.architecture
        for operation, n in zip(architecture.operations, architecture.sizes[1:], strict=True):
            n_bytes = operation.keeps_columns * self.choices.whole_vectors(n) * self.choices.size
            yield self.clean_memory(n_bytes) if n_bytes else 0

    def kept_columns(self, layer):
        """Where a layer keeps its numbers of each column."""
        return self._kept_columns[layer]


def aligned(n_bytes):
    """So many bytes, in whole cache lines."""
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
