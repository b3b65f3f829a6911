"""What layers there are: names, shapes and options. No mathematics: the formulas have it, and kernels run it.

A layer says how many outputs it gives for so many inputs, and which parameter arrays it has; the network lays
those out one after the other in its flat vector. What else a new kind of layer takes says ``operations.py``.
"""

from dataclasses import KW_ONLY, dataclass, fields
from numbers import Integral
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

    Notes
    -----
    Derivatives by back-propagation: Rumelhart, Hinton and Williams, "Learning representations by
    back-propagating errors", Nature 323 (1986). `max_norm` is section 5.1 of Srivastava et al., "Dropout: a
    simple way to prevent neural networks from overfitting", JMLR 15 (2014).

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
            initializer = ACTIVATIONS[self.activation].initializer
            validation.known_name(f"initializer of {self.activation!r}", initializer, INITIALIZERS)
            set_once(self, "kernel_initializer", initializer)
        validation.known_name("kernel_initializer", self.kernel_initializer, INITIALIZERS)
        validation.known_name("bias_initializer", self.bias_initializer, INITIALIZERS)
        _check_name(self)
        for name in ("l1", "l2"):
            set_once(self, name, validation.real_number(name, getattr(self, name), at_least=0))
        if self.max_norm is not None:
            set_once(self, "max_norm", validation.real_number("max_norm", self.max_norm, above=0))

    def n_outputs(self, n_inputs):
        """Tell how many outputs the layer has for `n_inputs` inputs.

        Parameters
        ----------
        n_inputs : int

        Returns
        -------
        int
        """
        return self.units

    @property
    def label(self):
        """What it is called in one line."""
        return f"{self.units}" + ("" if self.activation == "identity" else f" {self.activation}")

    def parameters(self, n_inputs):
        """Tell the layer's parameter arrays for `n_inputs` inputs, in their order in the flat vector.

        Parameters
        ----------
        n_inputs : int

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

    def n_outputs(self, n_inputs):
        """Tell how many outputs the layer has for `n_inputs` inputs: as many.

        Parameters
        ----------
        n_inputs : int

        Returns
        -------
        int
        """
        return n_inputs

    def parameters(self, n_inputs):
        """Tell the layer's parameter arrays for `n_inputs` inputs, in their order in the flat vector.

        Parameters
        ----------
        n_inputs : int

        Returns
        -------
        tuple of Parameter
        """
        return ()


@dataclass(frozen=True, repr=False)
class Activation(_SameSize):
    """A layer that applies an activation to each of its inputs, y = f(x), as Keras's Activation.

    For activations behind layers that have none, as in ``Dense(32), BatchNorm(), Activation("relu")``, or
    behind a residual sum. `Dense` has its own, which costs less.

    Parameters
    ----------
    activation : str
        The name of f, in ``fastbp.formulas.activations.ACTIVATIONS``.
    name : str or None
        What summaries call the layer; None numbers it.

    Raises
    ------
    TypeError, ValueError
        If `activation` is no name, or not known.

    Notes
    -----
    A `Dense` layer before it starts as one without activation does; ``kernel_initializer="he_uniform"`` is
    what it would have for relu.

    Examples
    --------
    >>> Activation("relu")
    Activation('relu')
    """

    activation: str
    _: KW_ONLY
    name: str | None = None

    def __post_init__(self):
        validation.known_name("activation", self.activation, ACTIVATIONS)
        _check_name(self)

    @property
    def label(self):
        """What it is called in one line."""
        return self.activation

    def __repr__(self):
        return f"Activation({self.activation!r}{_named(self)})"


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
        _check_name(self)

    @property
    def label(self):
        """What it is called in one line."""
        return f"dropout {self.rate:g}"

    def __repr__(self):
        return f"Dropout({self.rate!r}{_named(self)})"


class _Normalization(_SameSize):
    """What normalising layers have in common."""

    def __post_init__(self):
        set_once = object.__setattr__
        set_once(self, "epsilon", validation.real_number("epsilon", self.epsilon, above=0))
        set_once(self, "scale", validation.boolean("scale", self.scale))
        set_once(self, "shift", validation.boolean("shift", self.shift))
        _check_name(self)

    def parameters(self, n_inputs):
        """Tell the layer's parameter arrays for `n_inputs` inputs, in their order in the flat vector.

        Parameters
        ----------
        n_inputs : int

        Returns
        -------
        tuple of Parameter
        """
        gamma = Parameter("gamma", (n_inputs,), "ones")
        beta = Parameter("beta", (n_inputs,), "zeros")
        return (*[gamma] * self.scale, *[beta] * self.shift)

    def __repr__(self):
        kind = type(self)
        options = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(kind(), field.name)
        ]
        return f"{kind.__name__}({', '.join(options)})"


@dataclass(frozen=True, repr=False)
class LayerNorm(_Normalization):
    """A layer that normalises every row over its features: y = gamma · (x − m) / sqrt(v + epsilon) + beta.

    m and v are mean and (biased) variance of the row's n_in values, as in PyTorch's LayerNorm.

    Parameters
    ----------
    epsilon : float
        Added to the variance; above 0.
    scale, shift : bool
        Whether there is a learnt gamma (n_in,), which starts as ones; a learnt beta (n_in,), zeros.
        Optimizers treat both as biases: `decay_biases` is about them too.
    name : str or None
        What summaries and saved files call the layer; None numbers it.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of bounds.

    References
    ----------
    .. [1] Ba, Kiros and Hinton, "Layer normalization", arXiv:1607.06450 (2016).

    Examples
    --------
    >>> LayerNorm(shift=False)
    LayerNorm(shift=False)
    >>> LayerNorm().parameters(8)[0]
    Parameter(name='gamma', shape=(8,), initializer='ones')
    """

    epsilon: float = 1e-5
    _: KW_ONLY
    scale: bool = True
    shift: bool = True
    name: str | None = None

    label = "layer norm"


@dataclass(frozen=True, repr=False)
class BatchNorm(_Normalization):
    """A layer that normalises every feature over the rows: y = gamma · (x − m) / sqrt(v + epsilon) + beta.

    In training m and v are mean and (biased) variance of the batch's rows, and running statistics follow:
    ``mean ← (1 − momentum) · mean + momentum · m``, and ``variance`` alike, with the unbiased variance.
    Outside training these are used. That is PyTorch's BatchNorm1d.

    Parameters
    ----------
    epsilon : float
        Added to the variance; above 0.
    momentum : float
        How far the running statistics go towards those of each batch, above 0, at most 1.
    scale, shift : bool
        Whether there is a learnt gamma (n_in,), which starts as ones; a learnt beta (n_in,), zeros.
        Optimizers treat both as biases: `decay_biases` is about them too.
    name : str or None
        What summaries and saved files call the layer; None numbers it.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of bounds.

    Notes
    -----
    The running statistics, ``layer.mean`` and ``layer.variance`` (n_in,), lie in the network's flat vector
    behind gamma and beta, so that they are saved, copied and restored with it. No optimizer changes them;
    their gradient is 0.

    A batch of one row, the last one say, has no variance: its outputs are beta, and the running statistics
    stay as they are.

    References
    ----------
    .. [1] Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing internal
       covariate shift", ICML (2015).

    Examples
    --------
    >>> BatchNorm(momentum=0.01)
    BatchNorm(momentum=0.01)
    >>> [parameter.name for parameter in BatchNorm().parameters(8)]
    ['gamma', 'beta', 'mean', 'variance']
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    _: KW_ONLY
    scale: bool = True
    shift: bool = True
    name: str | None = None

    label = "batch norm"

    def __post_init__(self):
        super().__post_init__()
        momentum = validation.real_number("momentum", self.momentum, above=0, at_most=1)
        object.__setattr__(self, "momentum", momentum)

    def parameters(self, n_inputs):
        """Tell the layer's arrays for `n_inputs` inputs, learnt ones first, as they lie in the flat vector.

        Parameters
        ----------
        n_inputs : int

        Returns
        -------
        tuple of Parameter
        """
        mean = Parameter("mean", (n_inputs,), "zeros")
        variance = Parameter("variance", (n_inputs,), "ones")
        return (*super().parameters(n_inputs), mean, variance)


@dataclass(frozen=True, repr=False)
class Residual(_SameSize):
    """A connection around some layers: y = x + f(x), f being those layers one after the other.

    Parameters
    ----------
    layers : sequence of layers
        Of any kind, at least one; together they must have as many outputs as inputs. In `Network.layers`
        they come one by one, called "name.layer0" and so on, and then the sum, called "name".
    name : str or None
        What summaries and saved files call the layer; None numbers it.

    Raises
    ------
    TypeError, ValueError
        If `layers` are no layers. A network refuses the layer if its inputs and outputs differ in number.

    References
    ----------
    .. [1] He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR (2016).

    Examples
    --------
    >>> Residual([Dense(8, "relu"), Dense(8)])
    Residual([Dense(8, 'relu'), Dense(8)])
    """

    layers: tuple
    _: KW_ONLY
    name: str | None = None

    def __post_init__(self):
        try:
            layers = tuple(self.layers)
        except TypeError:
            raise TypeError(f"Residual takes a sequence of layers; got {self.layers!r}") from None
        if not layers:
            raise ValueError("Residual takes at least one layer; got none")
        for layer in layers:
            if not isinstance(layer, tuple(LAYERS.values())):
                raise TypeError(f"Residual takes layers; got {layer!r}")
        object.__setattr__(self, "layers", layers)
        _check_name(self)

    @property
    def label(self):
        """What it is called in one line."""
        return f"x + ({' → '.join(layer.label for layer in self.layers)})"

    def __repr__(self):
        return f"Residual([{', '.join(map(repr, self.layers))}]{_named(self)})"


def _check_name(layer):
    if layer.name is not None:
        validation.layer_name(layer.name)


def _named(layer):
    return "" if layer.name is None else f", name={layer.name!r}"


LAYERS = {kind.__name__: kind for kind in (Dense, Activation, Dropout, LayerNorm, BatchNorm, Residual)}


class Placed(NamedTuple):
    """A layer at its place in a network.

    Attributes
    ----------
    name : str
    layer : Dense, Dropout, ...
        Its description.
    n_in, n_out : int
    first : int or None
        Of a residual connection: the place of the first layer that it goes around.
    """

    name: str
    layer: object
    n_in: int
    n_out: int
    first: int | None = None


def place(layers, n_inputs, *, within="", at=0):
    """Give the layers of a network one by one, in the order in which data pass them.

    Parameters
    ----------
    layers : sequence of descriptions
    n_inputs : int
    within : str
        What stands in front of their names.
    at : int
        The place of the first of them.

    Returns
    -------
    list of Placed

    Raises
    ------
    ValueError
        If a residual connection joins what differs in size.
    """
    placed = []
    for i, layer in enumerate(layers):
        name, first, n_outputs = f"{within}{layer.name or f'layer{i}'}", None, layer.n_outputs(n_inputs)
        if isinstance(layer, Residual):
            first = at + len(placed)
            placed += place(layer.layers, n_inputs, within=f"{name}.", at=first)
            if placed[-1].n_out != n_inputs:
                raise ValueError(
                    f"{name}: a Residual adds its inputs to the outputs of its layers, so there "
                    f"must be as many of both; there are {n_inputs} inputs and {placed[-1].n_out} outputs"
                )
        placed.append(Placed(name, layer, n_inputs, n_outputs, first))
        n_inputs = n_outputs
    return placed


def as_layers(layers, inputs, activation, output_activation):
    """The layers that `Network` is given in one of its two forms, and the number of inputs.

    Parameters
    ----------
    layers, inputs, activation, output_activation : see `Network`

    Returns
    -------
    layers : list of descriptions
    inputs : int

    Raises
    ------
    TypeError, ValueError
        If they are neither sizes nor layers, or of both forms.
    """
    try:
        layers = list(layers)
    except TypeError:
        raise TypeError(f"layers must be sizes such as [64, 32, 10] or layers; got {layers!r}") from None
    kinds = tuple(LAYERS.values())
    if any(isinstance(layer, kinds) for layer in layers):
        for i, layer in enumerate(layers):
            if not isinstance(layer, kinds):
                raise TypeError(f"layers must all be sizes or all be layers; layer {i} is {layer!r}")
        if inputs is None:
            raise ValueError("a network of layers needs inputs=, the number of its inputs")
        if (activation, output_activation) != ("relu", "identity"):
            raise ValueError(
                "activation= and output_activation= go with sizes; a layer has its own, as in "
                f'fastbp.Dense(32, "tanh"); got {activation!r} and {output_activation!r}'
            )
        inputs = validation.positive_integer("inputs", inputs)
        names = [placed.name for placed in place(layers, inputs)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"names of layers must differ; {name!r} is used {names.count(name)} times")
        return layers, inputs
    if inputs is not None and not all(isinstance(layer, Integral) for layer in layers):
        raise TypeError(f"layers must be such as fastbp.Dense(32) where inputs= is given; got {layers!r}")
    if inputs is not None and not layers:
        raise ValueError("a network needs at least one layer; got none")
    if inputs is not None:
        raise ValueError("inputs= goes with layers; among sizes the number of inputs is the first")
    if len(layers) < 2:
        raise ValueError(f"layers must name at least the number of inputs and of outputs; got {layers}")
    sizes = [validation.positive_integer(f"size {i}", size) for i, size in enumerate(layers)]
    validation.known_name("activation", activation, ACTIVATIONS)
    hidden = [Dense(units, activation) for units in sizes[1:-1]]
    return [*hidden, Dense(sizes[-1], output_activation)], sizes[0]
