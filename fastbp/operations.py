"""What each kind of layer contributes to a plan: its parameters, its memory, and its rows of the program.

A plan asks the operation of every layer in turn; nothing else in it knows which kinds there are. ``program``
is the program of one thread while it is written (`plan.Program`), ``program.plan`` the plan; ``layer`` is the
operation's place in the network. To add a kind: a file of kernels in ``cpu/``, a class here, a description
in ``layers.py``.
"""

from dataclasses import dataclass

from . import layers, random
from .cpu import dense, dropout
from .formulas.dropout import dropout_threshold


@dataclass(frozen=True)
class Operation:
    """What is true of an operation unless its class says otherwise. Values, so plans can be told apart.

    learns : whether it has parameters in the flat vector.
    keeps : whether its backward needs a second buffer as large as its output (``op.z``).
    """

    learns = False
    keeps = False

    def passes(self, plan):
        """Whether, in this plan, the output is the input: then the two share their memory."""
        return False

    def n_parameters(self, n_in, n_out, bias):
        """Elements in the host's flat vector."""
        return 0

    def arena_elements(self, plan, layer):
        """Elements that the packed parameters take."""
        return 0

    def numbers(self):
        """Float64 settings that its kernels read."""
        return ()

    def fields(self, plan, layer, workspace):
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

    def total(self, program, layer):
        """Emit phase 2: the sum of the slots of all chunks, into the first; the first thread's task."""

    def update(self, program, layer, from_slots, bias_settings):
        """Emit phase 2: the optimizer's step, from slots or from the activations themselves."""


@dataclass(frozen=True)
class Dense(Operation):
    """z = x · W + b: see ``cpu/dense.py``."""

    learns = True

    def n_parameters(self, n_in, n_out, bias):
        """Elements of W and b."""
        return n_in * n_out + (n_out if bias else 0)

    def arena_elements(self, plan, layer):
        """W and b in panels; nothing where W is read from the host."""
        n_in, n_out = plan.architecture.sizes[layer : layer + 2]
        return 0 if plan.unpacked else (n_in + 1) * plan.columns(n_out)

    def pack(self, program, layer):
        """W, b and the transpose of W."""
        for part in program.plan.parts(layer):
            if not program.plan.unpacked:
                program.emit(dense.dense_pack, layer=layer, part=part)

    def unpack(self, program, layer, **fields):
        """W and b."""
        for part in program.plan.parts(layer) if not fields else (None,):
            program.emit(dense.dense_unpack, layer=layer, part=part, **fields)

    def forward(self, program, layer):
        """The product, from the rows where they lie if that can be."""
        if program.plan.unpacked:
            kernel = dense.dense_forward_unpacked
        elif layer == program.plan.in_order:
            kernel = dense.dense_forward_in_order
        else:
            kernel = dense.dense_forward
        program.emit(kernel, layer=layer)

    def backward(self, program, layer):
        """The products for dW of a chunk and for dx."""
        if program.plan.chunked:
            program.emit(dense.dense_gradient, layer=layer, **program.plan.all_columns(layer))
        if program.plan.wants_dx(layer):
            program.emit(dense.dense_backward, layer=layer)

    def gradient(self, program, layer):
        """A thread's tiles of dW and db."""
        program.emit(dense.dense_gradient, layer=layer, part=program.own_part(layer))

    def total(self, program, layer):
        """All of dW and db."""
        program.emit(dense.dense_total, layer=layer)

    def update(self, program, layer, from_slots, bias_settings):
        """A thread's tiles of W and b."""
        update, optimizer = dense.dense_apply if from_slots else dense.dense_update, program.plan.optimizer
        part = program.own_part(layer)
        program.emit(update, optimizer, layer=layer, part=part, bias_settings=bias_settings)


@dataclass(frozen=True)
class Dropout(Operation):
    """y = x · m with random m while training: see ``cpu/dropout.py``."""

    rate: float = 0.5

    keeps = True

    def passes(self, plan):
        """Nothing is dropped but in training."""
        return plan.task != "train" or self.rate == 0

    def numbers(self):
        """The threshold of a random word, and the scale of what is kept."""
        return dropout_threshold(self.rate), 1 / (1 - self.rate)

    def fields(self, plan, layer, workspace):
        """Draws of its own for every layer."""
        return dict(purpose=random.purpose_of(random.DROPOUT, layer))

    def forward(self, program, layer):
        """Draw and multiply."""
        program.emit(dropout.dropout_forward, layer=layer)

    def backward(self, program, layer):
        """Multiply."""
        if program.plan.wants_dx(layer):
            program.emit(dropout.dropout_backward, layer=layer)


def operation_of(placed):
    """The operation that a layer at its place (`layers.Placed`) stands for."""
    return _MAKERS[type(placed.layer)](placed.layer)


_MAKERS = {
    layers.Dense: lambda layer: Dense(),
    layers.Dropout: lambda layer: Dropout(layer.rate),
}
