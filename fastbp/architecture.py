"""What a plan needs to know of a network: sizes, and what each layer does, in values that can be compared."""

import itertools
from dataclasses import dataclass

import numpy as np

from .operations import Dense, Operation, operation_of


@dataclass(frozen=True)
class Architecture:
    """What a plan needs to know of a network.

    sizes : number of inputs, then of the outputs of each layer; activations, biases : name, flag of each
    layer. loss, option : name of the loss and its one number; real : "float32" or "float64". operations :
    what each layer does (`fastbp.operations`); none given: all are dense. Dense layers have activations, and
    layers that are nothing else. input_scale : what inputs are multiplied by, in front of all layers.
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

    def noise_before(self, layer):
        """Blocks of random words of the layers before one: one for four rows of a column, b included."""
        sizes = self.sizes[: layer + 1]
        return sum((n_in + 4) // 4 * n_out for n_in, n_out in itertools.pairwise(sizes))

    def wants_dx(self, inputs):
        """Whether the gradient of each layer's input is needed: of those behind something that learns, or
        where the gradient of the inputs is asked for; a list of bool.
        """
        learns = [inputs, *(operation.learns for operation in self.operations)]
        return [any(learns[: layer + 1]) for layer in range(self.n_layers)]

    @property
    def needs_all_rows(self):
        """Whether training needs all rows of a batch at once, for some layer."""
        return any(operation.needs_all_rows for operation in self.operations)

    def is_dense(self, layer):
        """Whether a layer is a dense one."""
        return isinstance(self.operations[layer], Dense)

    def multiply_adds(self, rows):
        """Multiply-adds of a training step on so many rows (no gradient of the inputs)."""
        products = [
            n_in * n_out for i, (n_in, n_out) in enumerate(itertools.pairwise(self.sizes)) if self.is_dense(i)
        ]
        return rows * (3 * sum(products) - sum(products[:1]))


def architecture_of(placed, n_inputs, loss, dtype, input_scale):
    """The architecture of layers at their places.

    Parameters
    ----------
    placed : list of layers.Placed
    n_inputs : int
    loss : losses.Loss
    dtype : numpy.dtype
    input_scale : float

    Returns
    -------
    Architecture
    """
    return Architecture(
        sizes=(n_inputs, *(each.n_out for each in placed)),
        activations=tuple(getattr(each.layer, "activation", "identity") for each in placed),
        biases=tuple(getattr(each.layer, "use_bias", True) for each in placed),
        loss=loss.name,
        option=loss.option,
        real=dtype.name,
        operations=tuple(map(operation_of, placed)),
        input_scale=input_scale,
    )
