"""What a plan is asked for, and the choices for each layer that follow, before memory is laid out."""

from .cpu import tiny
from .cpu.machine import this_machine
from .division import (
    CHUNK_ROWS,
    chunk_rows,
    gradients_first,
    may_be_given_up,
    rows_of_a_block,
    splits_columns,
)

# Numbers of a batch's inputs from which on it costs less to find each row than to copy it.
INPUTS_WORTH_FINDING = 128

# Bytes of W, and of rows that come in their order, from which on products ask the memory for what comes next.
# Measured; with its states W then takes most of a second-level cache, and many rows are beyond it.
WEIGHTS_WORTH_ASKING, ROWS_WORTH_ASKING = 320 << 10, 1 << 20


class Choices:
    """What a plan is asked for, and what follows from it.

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
        For "predict" and "logits" of one row: the caller writes it where `Plan.stage` says.
    weighted : {False, True, "as they are"}
        For "train", "gradient" and "loss": rows count by the weights at ``weights`` of the context, divided
        by their mean over the batch or as they are.
    data : {"numbers", "bytes", "sparse numbers", "sparse bytes"}
        What lies at ``x`` of the context: numbers of the network's type, or uint8; or where `SparseRows` of
        them lie.
    shaping : Shaping, optional
        For "train": what is done to gradients and weights beside the optimizer's step.

    Attributes
    ----------
    real, size : str, int
        The type of the numbers, and the bytes of one.
    lanes, panel : int
        Elements of a vector of this machine, and columns of a panel.
    backward : bool
        Whether gradients are asked for.
    chunk_rows : int
        Rows over which gradients are summed row by row (`division.chunk_rows`).
    chunked : bool
        Whether each short chunk is one block of phase 1, which leaves its gradient in a slot. Otherwise, if
        there are several chunks, phase 2 sums each of them: chunks that are long, or too few for the threads.
    replicas : int
        How many copies of the parameters there are: one, or one for each thread, which updates it as a whole.
    whole : bool
        Whether phase 2 reads the activations of all rows.
    split : bool
        Whether threads share the first layer's columns (`division.splits_columns`).
    materialise : bool
        Whether gradients go to memory before the update, because that is asked for or needed.
    clips_norm : bool
        Whether the length of the whole gradient is bounded, which needs it in memory first.
    n_slots : int
        Gradients in memory: one for each chunk; else one where it is wanted there, or none.
    wants_dx : list of bool
        Whether the gradient of each layer's input is needed: of those behind something that learns.
    packed : list of bool
        Whether each layer's x and dz are packed in phase 2.
    in_order : int or None
        Without gradients: the layer whose product reads the rows of the data, which come in their order,
        where they lie; None: they are copied block by block.
    scattered : bool
        With gradients: whether the first layer's products read those rows where they lie, wherever that is.
    block_rows : int
        Rows that a thread takes through the network at a time.
    gives_up : bool
        Whether a step may be left midway.
    """

    def __init__(
        self, architecture, task, batch_size, threads=1, *, optimizer=None, targets="classes",
        materialise=False, inputs=False, unpacked=False, staged=False, groups=None, schedule=None,
        weighted=False, shaping=None, batch_statistics=False, data="numbers",
    ):  # fmt: skip
        self.architecture, self.task, self.batch_size, self.threads = architecture, task, batch_size, threads
        self.optimizer, self.targets, self.unpacked, self.staged = optimizer, targets, unpacked, staged
        self.groups, self.schedule = groups or ((0, 0),) * architecture.n_layers, schedule
        self.weighted, self.shaping, self.data, self.inputs = weighted, shaping, data, inputs
        self.batch_statistics = task == "train" or batch_statistics
        self.clips_norm = shaping is not None and shaping.clip_norm > 0
        self.real, self.size = architecture.real, architecture.dtype.itemsize
        self._narrow = all(w == b for w, b in self.groups) and all(architecture.biases)
        self.lanes, self.panel = this_machine().lanes(self.real), this_machine().panel(self.real)

        self.backward = task in ("train", "gradient")
        self.chunk_rows = chunk_rows(architecture, batch_size) if self.backward else batch_size
        n_chunks = -(-batch_size // self.chunk_rows)
        short = self.chunk_rows <= CHUNK_ROWS and not architecture.needs_all_rows
        self.chunked = n_chunks > 1 and short and (n_chunks % threads == 0 or n_chunks > 2 * threads)
        needed = self.clips_norm or n_chunks > 1 or gradients_first(architecture, batch_size, threads)
        self.materialise = self.backward and (materialise or needed)
        apart = task == "train" and self.chunked and threads == 2 and n_chunks <= 4 and not self.clips_norm
        self.replicas = threads if apart else 1
        self.whole = self.backward and not self.chunked
        self.split = task == "train" and self.whole and splits_columns(architecture, batch_size, threads)
        self.gives_up = may_be_given_up(architecture, batch_size)
        self.n_slots = n_chunks if self._needs_slots() else 0
        self.wants_dx = architecture.wants_dx(inputs) if self.backward else [False] * architecture.n_layers
        self.packed = [self._is_packed(layer) for layer in range(architecture.n_layers)]
        self.in_order, self.scattered = self._first_product(), self._reads_scattered_rows()
        if self.chunked:
            self.block_rows = self.chunk_rows
        else:
            self.block_rows = rows_of_a_block(architecture, batch_size, threads, self.whole)

    # What follows for each layer

    def _needs_slots(self):
        wanted = self.materialise or self.task == "gradient" or self.architecture.needs_all_rows
        return self.backward and wanted

    def _is_packed(self, layer):
        n_in, n_out = self.architecture.sizes[layer : layer + 2]
        large = min(self.batch_size, n_in, n_out) >= 192
        return self.whole and large and self.architecture.is_dense(layer)

    def _as_they_are(self):
        """Whether a product may read the rows of the data. Rows a multiple of 4096 bytes apart share a cache
        set: they are copied first.
        """
        architecture, in_one_set = self.architecture, self.architecture.sizes[0] * self.size % 4096 == 0
        return self.data == "numbers" and architecture.input_scale == 1 and not in_one_set

    def _first_product(self):
        """The layer that reads the data, if that is a dense one, and nothing else reads them."""
        if self.backward or self.unpacked or not self._as_they_are():
            return None
        for layer, operation in enumerate(self.architecture.operations):
            if not operation.passes(self):
                return layer if self.architecture.is_dense(layer) and not self._is_read_again(layer) else None
        return None

    def _reads_scattered_rows(self):
        """Whether the first layer has tiles to read the data with, and nothing else reads or changes them."""
        others = self.inputs or (self.shaping and self.shaping.input_noise) or self._is_read_again(0)
        few = self.batch_size * self.architecture.sizes[0] < INPUTS_WORTH_FINDING
        if not self.backward or others or few or not self._as_they_are():
            return False
        return self.architecture.is_dense(0) and not self.packed[0] and not self.is_tiny(0)

    def _is_read_again(self, layer):
        """Whether the input of one of the first layers is kept for a residual one."""
        firsts = [o.first for o in self.architecture.operations if o.first is not None]
        return any(0 <= each <= layer for each in firsts)

    def is_transposed(self, layer):
        """Whether there is a transpose of a layer's W, for the gradient of its input."""
        return self.wants_dx[layer] and self.architecture.is_dense(layer)

    def is_tiny(self, layer):
        """Whether a dense layer is one of those of ``cpu/tiny.py``."""
        n_in, n_out = self.architecture.sizes[layer : layer + 2]
        columns = self.columns(n_in), self.columns(n_out)
        return tiny.is_tiny(n_in, *columns, self.batch_size, self.real)

    def asks_ahead(self, layer):
        """Whether a layer's products ask the memory for what they will need."""
        n_in, n_out = self.architecture.sizes[layer : layer + 2]
        many_rows = layer == self.in_order and self.batch_size * n_in * self.size >= ROWS_WORTH_ASKING
        return many_rows or n_in * n_out * self.size >= WEIGHTS_WORTH_ASKING

    def parts(self, layer):
        """The parts of a layer's columns: one for each thread where it is split, else the whole."""
        return range(self.threads) if self.split and layer == 0 else (None,)

    # How wide a row is

    def columns(self, n):
        """Columns that n values of a row take.

        Whole vectors even for a narrow layer where the row behind W is not updated as W is, because there is
        no b or b has settings of its own: the update of W, which runs to whole vectors, must not reach it.
        """
        return this_machine().columns(n, self.real) if self._narrow else self.whole_vectors(n)

    def whole_vectors(self, n):
        """Elements that n take in whole machine vectors."""
        return -(-n // self.lanes) * self.lanes
