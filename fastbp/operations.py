"""What each kind of layer contributes to a plan: its parameters, its memory, and its rows of the program.

A plan asks the operation of every layer in turn; nothing else in it knows which kinds there are. ``choices``
is what was asked for (`choices.Choices`), ``layout`` where everything lies (`layout.Layout`), ``program`` the
program of one thread while it is written (`program.Program`); ``layer`` is the operation's place in the
network.

To add a kind of layer: its description in ``layers.py``, with a row in ``LAYERS``; a file of kernels in
``cpu/`` and one in ``cuda/``, with a line in ``cuda/kernels.py``; a class here, with a row in ``_MAKERS``; a
class in ``device_program.py``, with a row in ``_KINDS``; and a row of ``OPERATIONS`` in ``warmup.py``.
"""

from dataclasses import dataclass

from . import layers
from .cpu import (
    activation,
    batch_norm,
    dense,
    dropout,
    elementwise,
    layer_norm,
    residual,
    scale_shift,
    shaping,
    tiny,
)
from .formulas.dropout import dropout_threshold
from .formulas.random import DROPOUT, purpose_of


@dataclass(frozen=True)
class Operation:
    """What is true of an operation unless its class says otherwise. Values, so plans can be told apart.

    learns : whether it has parameters in the flat vector.
    keeps : whether its backward needs a second buffer as large as its output (``op.z``).
    keeps_rows : whether it needs a number of each row too (``op.kept``).
    keeps_columns : how many numbers of each column it needs.
    needs_all_rows : whether training needs all rows of the batch at once, not chunk by chunk.
    first : where the block of layers begins whose input it reads too; None: it reads the layer before alone.
    """

    learns = False
    keeps = False
    keeps_rows = False
    keeps_columns = 0
    needs_all_rows = False
    first = None

    def passes(self, choices):
        """Whether, in this plan, the output is the input: then the two share their memory."""
        return False

    def n_parameters(self, n_in, n_out, bias):
        """Elements in the host's flat vector."""
        return 0

    def arena_elements(self, choices, layer):
        """Elements that the packed parameters take."""
        return 0

    def numbers(self):
        """Float64 settings that its kernels read."""
        return ()

    def fields(self, layout, layer, workspace):
        """Fields of its records, beside those that all layers have."""
        return {}

    def pack(self, program, layer):
        """Emit the copy of the host's parameters into the arena."""

    def unpack(self, program, layer, **fields):
        """Emit the copy back; `fields` say where the values lie if not in the arena."""

    def forward(self, program, layer):
        """Emit phase 1, by rows: the output from the input."""

    def backward(self, program, layer):
        """Emit phase 1, by rows: the gradient of the input, and of the parameters where chunks are summed."""

    def gradient(self, program, layer):
        """Emit phase 2: the gradient of the parameters over all rows, into the first slot."""

    def rejoin(self, program, layer):
        """Emit phase 1, by rows: what is added to the gradient of the input of layer `first`."""

    def total(self, program, layer):
        """Emit phase 2: the sum of the slots of all chunks, into the first; the first thread's task."""

    def collect(self, program, layer, **shape):
        """Emit phase 2: a thread's share of the gradient that the norm is taken of, and its squares."""

    def update(self, program, layer, from_slots, bias_settings, **shape):
        """Emit phase 2: the optimizer's step, from slots or from the activations themselves.

        `shape` are fields that say what is done to the gradient first, but for the kernel that does it.
        """


@dataclass(frozen=True)
class Dense(Operation):
    """z = x · W + b: see ``cpu/dense.py``."""

    learns = True

    def n_parameters(self, n_in, n_out, bias):
        """Elements of W and b."""
        return n_in * n_out + (n_out if bias else 0)

    def arena_elements(self, choices, layer):
        """W and b in panels; nothing where W is read from the host."""
        n_in, n_out = choices.architecture.sizes[layer : layer + 2]
        return 0 if choices.unpacked else (n_in + 1) * choices.columns(n_out)

    def pack(self, program, layer):
        """W, b and the transpose of W."""
        for part in program.choices.parts(layer):
            if not program.choices.unpacked:
                program.emit(dense.dense_pack, layer=layer, part=part)

    def unpack(self, program, layer, **fields):
        """W and b."""
        for part in program.choices.parts(layer) if not fields else (None,):
            program.emit(dense.dense_unpack, layer=layer, part=part, **fields)

    def forward(self, program, layer):
        """The product, from the rows where they lie if that can be."""
        if program.choices.unpacked:
            kernel = dense.dense_forward_unpacked
        elif layer == program.choices.in_order:
            kernel = dense.dense_forward_in_order
        else:
            kernel = tiny.tiny_forward if program.choices.is_tiny(layer) else dense.dense_forward
        product = {} if kernel is tiny.tiny_forward else program.product_of_inputs(layer, "rows")
        program.emit(kernel, layer=layer, **product)

    def backward(self, program, layer):
        """The products for dW of a chunk and for dx."""
        if program.choices.chunked:
            columns, product = program.all_columns(layer), program.product_of_inputs(layer, "steps")
            program.emit(dense.dense_gradient, layer=layer, **columns, **product)
        if program.choices.wants_dx[layer]:
            if program.choices.is_tiny(layer):
                program.emit(tiny.tiny_backward, layer=layer)
            else:
                product = program.product_while_sums_come(layer)
                program.emit(dense.dense_backward, layer=layer, **product)

    def gradient(self, program, layer):
        """A thread's tiles of dW and db."""
        product = program.product_of_inputs(layer, "steps")
        program.emit(dense.dense_gradient, layer=layer, part=program.own_part(layer), **product)

    def total(self, program, layer):
        """All of dW and db."""
        program.emit(dense.dense_total, layer=layer)

    def collect(self, program, layer, **shape):
        """A thread's columns of dW and db."""
        program.emit(dense.dense_collect, layer=layer, part=program.own_part(layer), **shape)

    def update(self, program, layer, from_slots, bias_settings, **shape):
        """A thread's tiles of W and b."""
        choices, fields = program.choices, dict(shape)
        if from_slots:
            update = dense.dense_apply
        elif choices.is_tiny(layer) and choices.threads == 1 and not (bias_settings or shape):
            update = tiny.tiny_update
        else:
            update, fields = dense.dense_update, fields | program.product_of_inputs(layer, "steps")
        if shape:
            fields["shaping"] = program.address(shaping.shape_gradient)
        part = program.own_part(layer)
        program.emit(update, choices.optimizer, layer=layer, part=part, bias_settings=bias_settings, **fields)


@dataclass(frozen=True)
class Activation(Operation):
    """y = f(x), an activation behind a layer that has none: see ``cpu/activation.py``.

    As that of a dense layer, f is the architecture's to know, and the program applies it.
    """

    def forward(self, program, layer):
        """Take the input to where f is applied."""
        program.emit(activation.activation_take, layer=layer)

    def backward(self, program, layer):
        """Hand the gradient back."""
        if program.choices.wants_dx[layer]:
            program.emit(elementwise.hand_back, layer=layer)


@dataclass(frozen=True)
class Dropout(Operation):
    """y = x · m with random m while training: see ``cpu/dropout.py``."""

    rate: float = 0.5

    keeps = True

    def passes(self, choices):
        """Nothing is dropped but in training."""
        return choices.task != "train" or self.rate == 0

    def numbers(self):
        """The threshold of a random word, and the scale of what is kept."""
        return dropout_threshold(self.rate), 1 / (1 - self.rate)

    def fields(self, layout, layer, workspace):
        """Draws of its own for every layer."""
        return dict(purpose=purpose_of(DROPOUT, layer))

    def forward(self, program, layer):
        """Draw and multiply."""
        program.emit(dropout.dropout_forward, layer=layer)

    def backward(self, program, layer):
        """Multiply."""
        if program.choices.wants_dx[layer]:
            program.emit(dropout.dropout_backward, layer=layer)


@dataclass(frozen=True)
class _Normalization(Operation):
    """y = γ · x̂ + β with learnt γ and β: see ``cpu/scale_shift.py``."""

    epsilon: float = 1e-5
    scale: bool = True
    shift: bool = True

    keeps = True
    vectors = 2  # that lie in the arena

    @property
    def learns(self):
        """Whether there is a γ or a β."""
        return self.scale or self.shift

    def n_parameters(self, n_in, n_out, bias):
        """Elements of what is learnt."""
        return (self.scale + self.shift) * n_out

    def arena_elements(self, choices, layer):
        """Whole vectors, for what is not learnt too."""
        return self.vectors * choices.whole_vectors(choices.architecture.sizes[layer + 1])

    def numbers(self):
        """What is added to the variance."""
        return (self.epsilon,)

    def fields(self, layout, layer, workspace):
        """What is there of γ and β."""
        return dict(use_scale=self.scale, use_bias=self.shift)

    def pack(self, program, layer):
        """γ and β; where the dense layers read the host, in front of every use."""
        if not program.choices.unpacked:
            program.emit(scale_shift.scale_shift_pack, layer=layer)

    def unpack(self, program, layer, **fields):
        """γ and β."""
        program.emit(scale_shift.scale_shift_unpack, layer=layer, **fields)

    def gradient(self, program, layer):
        """A thread's columns of dγ and dβ."""
        program.emit(scale_shift.scale_shift_gradient, layer=layer)

    def total(self, program, layer):
        """All of dγ and dβ."""
        program.emit(scale_shift.scale_shift_total, layer=layer)

    def collect(self, program, layer, **shape):
        """A thread's columns of dγ and dβ."""
        program.emit(scale_shift.scale_shift_collect, layer=layer, **shape)

    def update(self, program, layer, from_slots, bias_settings, **shape):
        """A thread's columns of γ and β."""
        update = scale_shift.scale_shift_apply if from_slots else scale_shift.scale_shift_update
        if shape:
            shape["shaping"] = program.address(scale_shift.scale_shift_shape)
        program.emit(update, program.choices.optimizer, layer=layer, bias_settings=bias_settings, **shape)


@dataclass(frozen=True)
class LayerNorm(_Normalization):
    """Every row by its own mean and deviation: see ``cpu/layer_norm.py``."""

    keeps_rows = True

    def fields(self, layout, layer, workspace):
        """Where 1 / deviation of every row is kept."""
        return super().fields(layout, layer, workspace) | dict(kept=workspace[layer + 1][3])

    def forward(self, program, layer):
        """Normalise, scale and shift."""
        if program.choices.unpacked:
            program.emit(scale_shift.scale_shift_pack, layer=layer)
        program.emit(layer_norm.layer_norm_forward, layer=layer)

    def backward(self, program, layer):
        """The sums of a chunk, and dx."""
        if program.choices.chunked and self.learns:
            program.emit(scale_shift.scale_shift_gradient, layer=layer, **program.all_columns(layer))
        if program.choices.wants_dx[layer]:
            program.emit(layer_norm.layer_norm_backward, layer=layer)


@dataclass(frozen=True)
class BatchNorm(_Normalization):
    """Every column by its mean and deviation over the rows: see ``cpu/batch_norm.py``."""

    momentum: float = 0.1

    vectors = 4
    keeps_columns = 3
    needs_all_rows = True

    def n_parameters(self, n_in, n_out, bias):
        """Elements of what is learnt, and of the running mean and variance."""
        return super().n_parameters(n_in, n_out, bias) + 2 * n_out

    def numbers(self):
        """What is added to the variance; how fast the running statistics follow."""
        return self.epsilon, self.momentum

    def fields(self, layout, layer, workspace):
        """Where mean, 1 / deviation and what rounding left of the mean are kept, of every column."""
        kept = layout.kept_columns(layer)
        return super().fields(layout, layer, workspace) | dict(statistics=True, kept=kept)

    def pack(self, program, layer):
        """γ, β and the running statistics; where these are used, what follows from them."""
        super().pack(program, layer)
        if not (program.choices.unpacked or program.choices.batch_statistics):
            program.emit(batch_norm.batch_norm_running, layer=layer)

    def forward(self, program, layer):
        """The batch's statistics, between barriers; then normalise, scale and shift."""
        if program.choices.batch_statistics:
            program.emit_for_all_rows(batch_norm.batch_norm_statistics, layer=layer)
        elif program.choices.unpacked:
            program.emit(scale_shift.scale_shift_pack, layer=layer)
            program.emit(batch_norm.batch_norm_running, layer=layer)
        program.emit(batch_norm.batch_norm_forward, layer=layer)

    def backward(self, program, layer):
        """The sums over all rows, between barriers; then dx."""
        wants_dx = program.choices.wants_dx[layer]
        if program.choices.batch_statistics and (self.learns or wants_dx):
            program.emit_for_all_rows(scale_shift.scale_shift_gradient, layer=layer)
        if wants_dx and program.choices.batch_statistics:
            program.emit(batch_norm.batch_norm_backward, layer=layer)
        elif wants_dx:
            program.emit(batch_norm.batch_norm_backward_running, layer=layer)

    def gradient(self, program, layer):
        """A thread's columns of dγ and dβ, if the backward has not left them there."""
        if not program.choices.batch_statistics:
            super().gradient(program, layer)

    def update(self, program, layer, from_slots, bias_settings, **shape):
        """A thread's columns of γ and β; the backward left their gradients in the slot."""
        super().update(program, layer, True, bias_settings, **shape)


@dataclass(frozen=True)
class Residual(Operation):
    """y = x + f(x), the sum behind a block that begins with layer `first`: see ``cpu/residual.py``."""

    first: int = 0

    def fields(self, layout, layer, workspace):
        """Where the block's input lies, and its gradient."""
        _, skip, dskip, _ = workspace[self.first]
        return dict(skip=skip, dskip=dskip, skip_row=layout.row_bytes(self.first))

    def forward(self, program, layer):
        """Add."""
        program.emit(residual.residual_forward, layer=layer)

    def backward(self, program, layer):
        """Hand dy to the block."""
        if program.choices.wants_dx[layer]:
            program.emit(elementwise.hand_back, layer=layer)

    def rejoin(self, program, layer):
        """Add dy to what came back through the block."""
        program.emit(residual.residual_skip_backward, layer=layer)


def operation_of(placed):
    """The operation that a layer at its place (`layers.Placed`) stands for."""
    return _MAKERS[type(placed.layer)](placed)


def _settings(layer):
    return layer.epsilon, layer.scale, layer.shift


_MAKERS = {
    layers.Dense: lambda placed: Dense(),
    layers.Activation: lambda placed: Activation(),
    layers.Dropout: lambda placed: Dropout(placed.layer.rate),
    layers.LayerNorm: lambda placed: LayerNorm(*_settings(placed.layer)),
    layers.BatchNorm: lambda placed: BatchNorm(*_settings(placed.layer), placed.layer.momentum),
    layers.Residual: lambda placed: Residual(placed.first),
}
