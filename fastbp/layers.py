"""What layers there are: names, shapes and options. No mathematics: the formulas have it, and kernels run it.

A layer says how many outputs it gives for so many inputs, and which parameter arrays it has; the network lays
those out one after the other in its flat vector. A new kind of layer is a class with these two methods, and
an operation in ``operations.py``.
"""

from dataclasses import KW_ONLY, dataclass, fields
from typing import NamedTuple

from . import validation
from .formulas.activations import ACTIVATIONS
from .initializers import INITIALIZERS


class Parameter(NamedTuple):
    """One parameter array of a layer.

    Attributes
    ----------
    name : str
        The layer's attribute: "W", "b", "gamma", "beta", "mean" or "variance".
    shape : tuple of int
    initializer : str
        A name in ``INITIALIZERS``.
    """

    name: str
    shape: tuple[int, ...]
    initializer: str


@dataclass(frozen=True, repr=False)
class Dense:
    """A layer in which every output sees every input: y = f(x·W + b).

    Parameters
    ----------
    units : int
        Number of outputs.
    activation : str
        The name of f, in ``fastbp.formulas.activations.ACTIVATIONS``.
    use_bias : bool
        Whether there is a b.
    kernel_initializer : str or None
        How W (n_in, units) starts, a name in ``fastbp.initializers.INITIALIZERS``. None is the activation's
        own: He for the ReLU family, Glorot for tanh, sigmoid and identity, LeCun for selu.
    bias_initializer : str
        How b (units,) starts.
    name : str or None
        What summaries and saved files call the layer; None numbers it.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, or a name or number that is not known or allowed.

    Examples
    --------
    >>> Dense(32, "relu")
    Dense(32, 'relu')
    >>> Dense(32, "relu").parameters(64)[0]
    Parameter(name='W', shape=(64, 32), initializer='he_uniform')
    """

    units: int
    activation: str = "identity"
    _: KW_ONLY
    use_bias: bool = True
    kernel_initializer: str | None = None
    bias_initializer: str = "zeros"
    name: str | None = None

    def __post_init__(self):
        set_once = object.__setattr__  # the dataclass is frozen from here on
        set_once(self, "units", validation.positive_integer("units", self.units))
        validation.known_name("activation", self.activation, ACTIVATIONS)
        set_once(self, "use_bias", validation.boolean("use_bias", self.use_bias))
        if self.kernel_initializer is None:
            set_once(self, "kernel_initializer", ACTIVATIONS[self.activation].initializer)
        validation.known_name("kernel_initializer", self.kernel_initializer, INITIALIZERS)
        validation.known_name("bias_initializer", self.bias_initializer, INITIALIZERS)
        if self.name is not None:
            validation.layer_name(self.name)

    def n_outputs(self, n_inputs):
        """Tell how many outputs the layer has for `n_inputs` inputs."""
        return self.units

    @property
    def label(self):
        """What it is called in one line."""
        return f"{self.units}" + ("" if self.activation == "identity" else f" {self.activation}")

    def parameters(self, n_inputs):
        """Tell the layer's parameter arrays for `n_inputs` inputs, in their order in the flat vector.

        Returns
        -------
        tuple of Parameter
        """
        W = Parameter("W", (n_inputs, self.units), self.kernel_initializer)
        b = Parameter("b", (self.units,), self.bias_initializer)
        return (W, b) if self.use_bias else (W,)

    def __repr__(self):
        default = Dense(self.units, self.activation)
        options = [
            f", {field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(default, field.name)
        ]
        activation = "" if self.activation == "identity" else f", {self.activation!r}"
        return f"Dense({self.units}{activation}{''.join(options)})"


class _SameSize:
    """What layers have in common that give an output for each input."""

    activation = "identity"
    use_bias = False

    def n_outputs(self, n_inputs):
        """Tell how many outputs the layer has for `n_inputs` inputs: as many."""
        return n_inputs

    def parameters(self, n_inputs):
        """Tell the layer's parameter arrays for `n_inputs` inputs, in their order in the flat vector.

        Returns
        -------
        tuple of Parameter
        """
        return ()

    def _check_name(self):
        if self.name is not None:
            validation.layer_name(self.name)


@dataclass(frozen=True, repr=False)
class Dropout(_SameSize):
    """A layer that zeroes a random share of its inputs in training: y = x · m.

    Each m is 0 with probability `rate` and 1 / (1 − rate) otherwise, drawn anew for every row of every step
    ("inverted" dropout, as PyTorch's and Keras'). Outside training (`Network.predict`, `loss`, `gradient`,
    `evaluate`, and validation) the outputs are the inputs.

    Parameters
    ----------
    rate : float
        From 0 to below 1.
    name : str or None
        What summaries call the layer; None numbers it.

    Raises
    ------
    TypeError, ValueError
        If `rate` is no number, or out of bounds.

    Notes
    -----
    What is dropped is a function of the training's seed, the layer's place, the epoch, the step, the row's
    place in the batch, and the column: the trained bits depend on neither the number of threads nor the
    processor. [1]_

    References
    ----------
    .. [1] Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple way to prevent
       neural networks from overfitting", JMLR 15 (2014).

    Examples
    --------
    >>> Dropout(0.25)
    Dropout(0.25)
    """

    rate: float = 0.5
    _: KW_ONLY
    name: str | None = None

    def __post_init__(self):
        rate = validation.real_number("rate", self.rate, at_least=0, below=1)
        object.__setattr__(self, "rate", rate)
        self._check_name()

    @property
    def label(self):
        """What it is called in one line."""
        return f"dropout {self.rate:g}"

    def __repr__(self):
        return f"Dropout({self.rate:g}{_named(self)})"


def _named(layer):
    return "" if layer.name is None else f", name={layer.name!r}"


LAYERS = {kind.__name__: kind for kind in (Dense, Dropout)}


class Placed(NamedTuple):
    """A layer at its place in a network.

    Attributes
    ----------
    name : str
    layer : Dense, Dropout, ...
        Its description.
    n_in, n_out : int
    """

    name: str
    layer: object
    n_in: int
    n_out: int


def place(layers, n_inputs):
    """The layers of a network one by one, in the order in which data pass them.

    Parameters
    ----------
    layers : sequence of descriptions
    n_inputs : int

    Returns
    -------
    list of Placed
    """
    placed = []
    for i, layer in enumerate(layers):
        n_outputs = layer.n_outputs(n_inputs)
        placed.append(Placed(layer.name or f"layer{i}", layer, n_inputs, n_outputs))
        n_inputs = n_outputs
    return placed
