"""How a network is trained: an optimizer and its settings."""

from dataclasses import dataclass

from . import validation
from .formulas.optimizers import OPTIMIZERS


@dataclass(frozen=True)
class SGD:
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
        At least 0: the gradient of weight_decay/2 · |w|² is added, biases included.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of bounds, or Nesterov's momentum has no momentum or has dampening.

    Notes
    -----
    The formulas and their derivation stand in ``fastbp/formulas/optimizers.py``. The learning rate's
    default is Keras's; PyTorch's (0.001) leaves a small network untrained.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self):
        validation.real_number("learning_rate", self.learning_rate, above=0)
        validation.real_number("momentum", self.momentum, at_least=0)
        validation.real_number("dampening", self.dampening)
        validation.real_number("weight_decay", self.weight_decay, at_least=0)
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

    @property
    def settings(self):
        """Values of the formula's settings, in its order."""
        return tuple(getattr(self, name) for name in OPTIMIZERS[self.formula].settings)


@dataclass(frozen=True)
class Adam:
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
        At least 0: the gradient of weight_decay/2 · |w|² is added, biases included.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of bounds.

    Notes
    -----
    The formulas and their derivation stand in ``fastbp/formulas/optimizers.py``.
    """

    learning_rate: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    formula = "adam"

    def __post_init__(self):
        validation.real_number("learning_rate", self.learning_rate, above=0)
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise TypeError(f"betas must be two numbers, such as (0.9, 0.999); got {self.betas!r}")
        for name, beta in zip(("beta1", "beta2"), self.betas):
            validation.real_number(name, beta, at_least=0, below=1)
        validation.real_number("epsilon", self.epsilon, above=0)
        validation.real_number("weight_decay", self.weight_decay, at_least=0)

    @property
    def settings(self):
        """Values of the formula's settings, in its order."""
        return (self.learning_rate, self.weight_decay, *self.betas, self.epsilon)


BY_NAME = {"sgd": SGD, "adam": Adam}


def as_optimizer(optimizer):
    """The optimizer that a name or an optimizer means.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or a name that is not known.
    """
    if isinstance(optimizer, tuple(BY_NAME.values())):
        return optimizer
    return BY_NAME[validation.known_name("optimizer", optimizer, BY_NAME)]()
