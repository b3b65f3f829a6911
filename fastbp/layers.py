"""What layers there are: names, shapes and options. No mathematics: the formulas have it, and kernels run it.

A layer says how many outputs it gives for so many inputs, and which parameter arrays it has; the network lays
those out one after the other in its flat vector. A new kind of layer is a class with these two methods.
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
        The layer's attribute, "W" or "b".
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
    l1, l2 : float
        Training makes the loss plus l1 · Σ |W| + l2 · Σ W² small, as Keras's L1L2; at least 0. b has no
        penalty. What losses are reported, in the history too, is without it: `Network.penalty` tells how much
        it is.
    max_norm : float or None
        After each step of training, a column of W (the weights into one unit) that is longer than this is
        shortened to it, as torch.renorm does.

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
    l1: float = 0.0
    l2: float = 0.0
    max_norm: float | None = None

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
        for name in ("l1", "l2"):
            set_once(self, name, validation.real_number(name, getattr(self, name), at_least=0))
        if self.max_norm is not None:
            set_once(self, "max_norm", validation.real_number("max_norm", self.max_norm, above=0))

    def n_outputs(self, n_inputs):
        """Tell how many outputs the layer has for `n_inputs` inputs."""
        return self.units

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
