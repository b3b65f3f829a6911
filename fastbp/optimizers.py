"""How a network is trained: an optimizer and its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from . import validation
from .formulas.optimizers import OPTIMIZERS
from .schedules import ReduceOnPlateau, Schedule, as_schedule


@dataclass(frozen=True, kw_only=True, repr=False)
class Optimizer:
    """What all optimizers share; the classes below are meant for use.

    Parameters
    ----------
    decay_biases : bool
        Whether weight decay is for biases too, and for scale and shift of a normalisation.
    layers : dict, optional
        Settings that differ for a layer, by the layer's name or place:
        ``{"output": {"learning_rate": 0.01}, 0: {"weight_decay": 0.0}}``. Any number that the optimizer takes
        may be among them; a learning rate of 0 leaves what the layer learns as it is, but for its
        largest norm; the running statistics of a BatchNorm follow the rows all the same.
    schedule : Schedule or ReduceOnPlateau, optional
        How the learning rate changes while training goes on.

    Attributes
    ----------
    formula : str
        The row of ``fastbp.formulas.optimizers.OPTIMIZERS`` that the settings need.
    settings : tuple of float
        Values of the formula's settings, in its order.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds, `layers` change what is not a setting or ask for
        another formula, or the schedule is none or not for this optimizer.
    """

    decay_biases: bool = True
    layers: Mapping | None = field(default=None, hash=False)
    schedule: Schedule | ReduceOnPlateau | None = None

    decoupled = False  # whether weight decay is beside the gradient's step, not in the gradient

    def __post_init__(self):
        validation.as_plain(self)
        validation.real_number("learning_rate", self.learning_rate, above=0)
        validation.real_number("weight_decay", self.weight_decay, at_least=0)
        validation.boolean("decay_biases", self.decay_biases)
        self._check()
        if self.schedule is not None:
            as_schedule(self.schedule).check_optimizer(type(self).__name__, self.formula)
        if self.layers is not None:
            self._check_layers()

    def _check(self):
        """Check what is this class's own."""

    def _check_layers(self):
        if not isinstance(self.layers, Mapping):
            raise TypeError(
                'layers must be settings by layer, such as {"output": {"learning_rate": 0.01}}; '
                f"got {self.layers!r}"
            )
        for layer in self.layers:
            self._of_layer(layer)
        own = {layer: dict(changes) for layer, changes in self.layers.items()}
        object.__setattr__(self, "layers", own)  # what the caller does to theirs is nothing to us

    @property
    def settings(self):
        """Values of the formula's settings, in its order."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        if "betas" in values:
            values["beta1"], values["beta2"] = self.betas
        if self.decoupled:
            values["decoupled_decay"], values["weight_decay"] = self.weight_decay, 0.0
        values.setdefault("decoupled_decay", 0.0)
        return tuple(float(values[name]) for name in OPTIMIZERS[self.formula].settings)

    def _of_layer(self, layer):
        """The settings of W that `layers` asks for in one layer, and those of b."""
        changes = self.layers.get(layer, {}) if self.layers else {}
        if not isinstance(changes, Mapping):
            raise TypeError(f"layers[{layer!r}] must be settings by name; got {changes!r}")
        known = [each.name for each in fields(self) if each.name not in ("layers", "schedule")]
        for name in changes:
            validation.known_name(f"setting of layers[{layer!r}],", name, known)
        frozen = changes.get("learning_rate") == 0
        changes = {name: value for name, value in changes.items() if not (frozen and name == "learning_rate")}
        try:
            own = replace(self, layers=None, schedule=None, **changes)
        except (TypeError, ValueError) as error:
            raise type(error)(f"layers[{layer!r}]: {error}") from None
        if own.formula != self.formula:
            raise ValueError(
                f"layers[{layer!r}]: all layers are trained by one formula, {self.formula!r}; "
                f"with {dict(changes)} it would be {own.formula!r}"
            )
        W = own.settings
        b = W if own.decay_biases else replace(own, weight_decay=0.0).settings
        return ((0.0, *W[1:]), (0.0, *b[1:])) if frozen else (W, b)

    def settings_of(self, names):
        """Tell the settings that the layers of a network are trained with.

        Parameters
        ----------
        names : sequence of str
            Of the layers, in their order.

        Returns
        -------
        rows : list of tuple of float
            The different settings.
        groups : tuple of (int, int)
            For each layer, which of the rows are those of W and of b.

        Raises
        ------
        ValueError
            If `layers` names a layer that is not there, or one of them twice.
        """
        places = {}
        for layer in self.layers or ():
            if isinstance(layer, str):
                place = list(names).index(validation.known_name("layer", layer, names))
            else:
                place = validation.integer("a key of layers", layer, at_least=0, at_most=len(names) - 1)
            if place in places:
                raise ValueError(f"layers[{layer!r}] and layers[{places[place]!r}] are the same layer")
            places[place] = layer
        pairs = [self._of_layer(places.get(place)) for place in range(len(names))]
        rows = list(dict.fromkeys(row for pair in pairs for row in pair))
        return rows, tuple((rows.index(W), rows.index(b)) for W, b in pairs)

    def __repr__(self):
        own = [each for each in fields(self) if not hasattr(Optimizer, each.name)]
        shared = [each for each in fields(self) if hasattr(Optimizer, each.name)]
        changed = [
            f"{each.name}={getattr(self, each.name)!r}"
            for each in own + shared
            if each.name == "learning_rate" or getattr(self, each.name) != each.default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


def _check_betas(betas):
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(f"betas must be two numbers, such as (0.9, 0.999); got {betas!r}")
    for name, beta in zip(("beta1", "beta2"), betas):
        validation.real_number(name, beta, at_least=0, below=1)


@dataclass(frozen=True, repr=False)
class SGD(Optimizer):
    """Stochastic gradient descent, as ``torch.optim.SGD``.

    Parameters
    ----------
    learning_rate : float
        Above 0.
    momentum : float
        At least 0; 0 keeps no state.
    dampening : float
        How much less than the whole gradient enters the momentum; 0 where Nesterov's is used.
    nesterov : bool
        Nesterov's momentum.
    weight_decay : float
        At least 0: the gradient of weight_decay/2 · |w|² is added.
    decay_biases, layers, schedule
        Of every optimizer, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of bounds, or Nesterov's momentum has no momentum or has dampening.

    Notes
    -----
    The formulas and their derivation stand in ``fastbp/formulas/optimizers.py``. The learning rate's
    default is Keras's; PyTorch's (0.001) leaves a small network untrained.

    Robbins and Monro, "A stochastic approximation method" (1951). Momentum: Polyak, "Some methods of speeding
    up the convergence of iteration methods" (1964). Nesterov's: Sutskever, Martens, Dahl and Hinton, "On the
    importance of initialization and momentum in deep learning", ICML (2013), in PyTorch's form.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def _check(self):
        validation.real_number("momentum", self.momentum, at_least=0)
        validation.real_number("dampening", self.dampening)
        validation.boolean("nesterov", self.nesterov)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                f"nesterov needs a momentum above 0 and no dampening; "
                f"got momentum={self.momentum}, dampening={self.dampening}"
            )

    @property
    def formula(self):
        """The row of ``OPTIMIZERS`` that these settings need."""
        if self.nesterov:
            return "nesterov"
        return "momentum" if self.momentum else "sgd"


@dataclass(frozen=True, repr=False)
class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), as ``torch.optim.Adam``.

    Parameters
    ----------
    learning_rate : float
        Above 0.
    betas : (float, float)
        Decay of the running means of the gradient and of its square, each at least 0 and below 1.
    epsilon : float
        Added to the root of the mean square, after its bias is corrected; above 0.
    weight_decay : float
        At least 0: the gradient of weight_decay/2 · |w|² is added.
    amsgrad : bool
        Whether the mean square never falls (Reddi, Kale and Kumar, 2018); keeps one more state.
    decay_biases, layers, schedule
        Of every optimizer, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of bounds.

    Notes
    -----
    The formulas and their derivation stand in ``fastbp/formulas/optimizers.py``.

    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR (2015), Algorithm 1. `amsgrad`: Reddi,
    Kale and Kumar, "On the convergence of Adam and beyond", ICLR (2018), with the bias corrected, as PyTorch
    does.
    """

    learning_rate: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False

    def _check(self):
        _check_betas(self.betas)
        validation.real_number("epsilon", self.epsilon, above=0)
        validation.boolean("amsgrad", self.amsgrad)

    @property
    def formula(self):
        """The row of ``OPTIMIZERS`` that these settings need."""
        return "amsgrad" if self.amsgrad else "adam"


@dataclass(frozen=True, repr=False)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), as ``torch.optim.AdamW``.

    Parameters
    ----------
    learning_rate, betas, epsilon, amsgrad
        As for `Adam`.
    weight_decay : float
        At least 0: besides Adam's step every parameter shrinks by learning_rate · weight_decay of itself.
    decay_biases, layers, schedule
        Of every optimizer, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        As `Adam`.

    Notes
    -----
    "Decoupled weight decay regularization", ICLR (2019), Algorithm 2.
    """

    weight_decay: float = 0.01

    decoupled = True


@dataclass(frozen=True, repr=False)
class Adamax(Optimizer):
    """Adam with the largest recent gradient instead of the mean square, as ``torch.optim.Adamax``.

    Parameters
    ----------
    learning_rate, betas, weight_decay
        As for `Adam`.
    epsilon : float
        Added to the size of the gradient; above 0.
    decay_biases, layers, schedule
        Of every optimizer, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of bounds.

    Notes
    -----
    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR (2015), section 7.1, Algorithm 2.
    """

    learning_rate: float = 0.002
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    formula = "adamax"

    def _check(self):
        _check_betas(self.betas)
        validation.real_number("epsilon", self.epsilon, above=0)


@dataclass(frozen=True, repr=False)
class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat, 2016), as ``torch.optim.NAdam``.

    Parameters
    ----------
    learning_rate, betas, epsilon, weight_decay
        As for `Adam`.
    momentum_decay : float
        At least 0: how fast the momentum grows, from half of the first of `betas` to the whole.
    decoupled : bool
        Whether weight decay is that of `AdamW`.
    decay_biases, layers, schedule
        Of every optimizer, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of bounds.

    Notes
    -----
    "Incorporating Nesterov momentum into Adam", ICLR workshop (2016).
    """

    learning_rate: float = 0.002
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 0.004
    decoupled: bool = False

    formula = "nadam"

    def _check(self):
        _check_betas(self.betas)
        validation.real_number("epsilon", self.epsilon, above=0)
        validation.real_number("momentum_decay", self.momentum_decay, at_least=0)
        validation.boolean("decoupled", self.decoupled)


@dataclass(frozen=True, repr=False)
class RAdam(Optimizer):
    """Rectified Adam (Liu et al., 2020), as ``torch.optim.RAdam``.

    Its first steps have the gradient's own size, until the mean square is known well enough.

    Parameters
    ----------
    learning_rate, betas, epsilon, weight_decay
        As for `Adam`; epsilon is added before the bias is corrected.
    decoupled : bool
        Whether weight decay is that of `AdamW`.
    decay_biases, layers, schedule
        Of every optimizer, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of bounds.

    Notes
    -----
    "On the variance of the adaptive learning rate and beyond", ICLR (2020), Algorithm 2.
    """

    learning_rate: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    formula = "radam"

    def _check(self):
        _check_betas(self.betas)
        validation.real_number("epsilon", self.epsilon, above=0)
        validation.boolean("decoupled", self.decoupled)


@dataclass(frozen=True, repr=False)
class RMSprop(Optimizer):
    """Gradients over the root of their mean square (Hinton, 2012), as ``torch.optim.RMSprop``.

    Parameters
    ----------
    learning_rate : float
        Above 0.
    alpha : float
        Decay of the running means, at least 0 and below 1.
    epsilon : float
        Added to the root; above 0.
    momentum : float
        At least 0.
    centered : bool
        Whether to divide by the root of the variance instead of the mean square (Graves, 2013).
    weight_decay : float
        At least 0: the gradient of weight_decay/2 · |w|² is added.
    decay_biases, layers, schedule
        Of every optimizer, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of bounds.

    Notes
    -----
    It keeps one state; with momentum two, centered three.

    Hinton, "Neural networks for machine learning", lecture 6e (2012). `centered`: Graves, "Generating
    sequences with recurrent neural networks", arXiv:1308.0850 (2013).
    """

    learning_rate: float = 0.01
    alpha: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    weight_decay: float = 0.0

    def _check(self):
        validation.real_number("alpha", self.alpha, at_least=0, below=1)
        validation.real_number("epsilon", self.epsilon, above=0)
        validation.real_number("momentum", self.momentum, at_least=0)
        validation.boolean("centered", self.centered)

    @property
    def formula(self):
        """The row of ``OPTIMIZERS`` that these settings need."""
        if self.centered:
            return "rmsprop_centered"
        return "rmsprop_momentum" if self.momentum else "rmsprop"


@dataclass(frozen=True, repr=False)
class Adagrad(Optimizer):
    """Gradients over the root of the sum of their squares, as ``torch.optim.Adagrad``.

    Parameters
    ----------
    learning_rate : float
        Above 0.
    learning_rate_decay : float
        At least 0: step t, from 1, has the rate learning_rate / (1 + (t − 1) · learning_rate_decay).
    initial_accumulator_value : float
        What the sum of squares starts from; at least 0.
    epsilon : float
        Added to the root; above 0.
    weight_decay : float
        At least 0: the gradient of weight_decay/2 · |w|² is added.
    decay_biases, layers, schedule
        Of every optimizer, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of bounds.

    Notes
    -----
    Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic optimization",
    JMLR 12 (2011).
    """

    learning_rate: float = 0.01
    learning_rate_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    epsilon: float = 1e-10
    weight_decay: float = 0.0

    formula = "adagrad"

    def _check(self):
        validation.real_number("learning_rate_decay", self.learning_rate_decay, at_least=0)
        validation.real_number("initial_accumulator_value", self.initial_accumulator_value, at_least=0)
        validation.real_number("epsilon", self.epsilon, above=0)


@dataclass(frozen=True, repr=False)
class Adadelta(Optimizer):
    """Steps in proportion to recent steps (Zeiler, 2012), as ``torch.optim.Adadelta``.

    Parameters
    ----------
    learning_rate : float
        Above 0; what multiplies a step.
    rho : float
        Decay of the running means, at least 0 and below 1.
    epsilon : float
        Added to the means before their roots are taken; above 0. The first step is about its root.
    weight_decay : float
        At least 0: the gradient of weight_decay/2 · |w|² is added.
    decay_biases, layers, schedule
        Of every optimizer, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of bounds.

    Notes
    -----
    "ADADELTA: an adaptive learning rate method", arXiv:1212.5701 (2012), Algorithm 1.
    """

    learning_rate: float = 1.0
    rho: float = 0.9
    epsilon: float = 1e-6
    weight_decay: float = 0.0

    formula = "adadelta"

    def _check(self):
        validation.real_number("rho", self.rho, at_least=0, below=1)
        validation.real_number("epsilon", self.epsilon, above=0)


@dataclass(frozen=True, repr=False)
class Lion(Optimizer):
    """The sign of a momentum (Chen et al., 2023): every parameter moves by the learning rate.

    Parameters
    ----------
    learning_rate : float
        Above 0; three to ten times smaller than Adam's.
    betas : (float, float)
        Decay of the momentum as it is used, and as it is kept; each at least 0 and below 1.
    weight_decay : float
        At least 0; decoupled, as that of `AdamW`.
    decay_biases, layers, schedule
        Of every optimizer, see `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of bounds.

    Notes
    -----
    "Symbolic discovery of optimization algorithms", arXiv:2302.06675 (2023), Algorithm 2. It keeps one state.
    """

    learning_rate: float = 0.0001
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    formula = "lion"
    decoupled = True

    def _check(self):
        _check_betas(self.betas)


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS: quasi-Newton steps on all rows at once, for small networks and exact fits; needs SciPy.

    In `train` an epoch is one iteration, `epochs` the most there are, and `batch_size` and `shuffle` mean
    nothing. Training ends earlier where a tolerance is met; ``history.stopped`` says which. The history's
    losses are those after the iterations, where validation, metrics, early stopping, callbacks and the table
    have their turn too; a callback may end training, and not change its weights. Networks with `BatchNorm` or
    `Dropout` are refused, and so are checkpoints and `resume`: what is remembered of earlier iterations is
    SciPy's. A callback can save the network instead; training it again begins with an empty memory.

    Parameters
    ----------
    memory : int
        Pairs of steps and changes of the gradient that are kept.
    gradient_tolerance : float
        Training ends where no element of the gradient is larger; at least 0.
    loss_tolerance : float
        Training ends where an iteration lowers the loss by no more than this share; at least 0.
    line_search : int
        The most evaluations of a line search, which looks for a point that meets the strong Wolfe conditions.
    weight_decay : float
        At least 0: weight_decay/2 · |w|² is added to the loss that is minimised, not to that in the history.
    decay_biases : bool
        Whether weight decay is for biases too, and for scale and shift of a normalisation.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of bounds.
    ImportError
        By `train`, if SciPy is not installed: ``pip install 'fastbp[scipy]'``.

    Notes
    -----
    ``scipy.optimize.minimize(method="L-BFGS-B")``, without bounds; Byrd, Lu, Nocedal and Zhu, "A limited
    memory algorithm for bound constrained optimization", SIAM J. Sci. Comput. 16 (1995). It works in float64:
    with a network in float32 the loss stops falling earlier.

    Rows are taken through the network in parts, whose gradients are added up in float64, so little memory is
    needed beside them, and sparse rows stay sparse.
    """

    memory: int = 10
    gradient_tolerance: float = 1e-6
    loss_tolerance: float = 1e-10
    line_search: int = 20
    weight_decay: float = 0.0
    decay_biases: bool = True

    def __post_init__(self):
        validation.positive_integer("memory", self.memory)
        validation.real_number("gradient_tolerance", self.gradient_tolerance, at_least=0)
        validation.real_number("loss_tolerance", self.loss_tolerance, at_least=0)
        validation.positive_integer("line_search", self.line_search)
        validation.real_number("weight_decay", self.weight_decay, at_least=0)
        validation.boolean("decay_biases", self.decay_biases)


BY_NAME = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "adamax": Adamax,
    "nadam": NAdam,
    "radam": RAdam,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "adadelta": Adadelta,
    "lion": Lion,
    "lbfgs": LBFGS,
}


def as_optimizer(optimizer):
    """The optimizer that a name or an optimizer means.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or a name that is not known.
    """
    if isinstance(optimizer, tuple(BY_NAME.values())):
        return optimizer
    if not isinstance(optimizer, str):
        raise TypeError(
            f"optimizer must be a name such as 'sgd', or such as fastbp.SGD(0.1); got {optimizer!r}"
        )
    return BY_NAME[validation.known_name("optimizer", optimizer, BY_NAME)]()
