"""What a network is trained to make small: a loss by name, with its option."""

from . import validation
from .formulas.losses import LOSSES


class Loss:
    """A loss with its option; where the default is wanted, its name alone will do.

    Parameters
    ----------
    name : str
        A row of ``fastbp.formulas.losses.LOSSES``, which says what each is, its link and what targets it
        takes.
    **option : float
        The loss's one number, where it has one: ``delta`` of huber (default 1), ``label_smoothing`` of
        softmax_cross_entropy (default 0).

    Raises
    ------
    TypeError, ValueError
        If the name is not known, or the option is not this loss's or out of bounds.

    Examples
    --------
    >>> Loss("huber", delta=2.0)
    Loss('huber', delta=2.0)
    >>> Loss("mean_squared_error", delta=2.0)
    Traceback (most recent call last):
    ...
    TypeError: the loss 'mean_squared_error' has no option 'delta'; it has none
    """

    def __init__(self, name, **option):
        self.formula = LOSSES[validation.known_name("loss", name, LOSSES)]
        self.name = name
        for given in option:
            if given != self.formula.option:
                raise TypeError(
                    f"the loss {name!r} has no option {given!r}; it has {self.formula.option or 'none'}"
                )
        self.option = self.formula.option_default
        for given, value in option.items():
            self.option = validation.real_number(given, value)
            if not self.formula.option_is_valid(self.option):
                raise ValueError(f"{given} must be {self.formula.option_rule}; got {value}")

    def __getstate__(self):
        return self.name, self.option

    def __setstate__(self, state):
        self.name, self.option = state
        self.formula = LOSSES[self.name]

    def __repr__(self):
        if self.option == self.formula.option_default:
            return f"Loss({self.name!r})"
        return f"Loss({self.name!r}, {self.formula.option}={self.option})"


def as_loss(loss):
    """The `Loss` that a name or a `Loss` means.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or a name that is not known.
    """
    return loss if isinstance(loss, Loss) else Loss(loss)
