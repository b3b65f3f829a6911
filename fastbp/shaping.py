"""What layers and options ask to be done to gradients and weights beside the optimizer's step."""

import math
from dataclasses import dataclass

from . import validation


@dataclass(frozen=True)
class Shaping:
    """What is done to gradients and weights beside the optimizer's step; nothing by default.

    penalties : (l1, l2) of each layer. max_norms : how long a column of each layer's W may be, or 0.
    clip_value : how large an element of the gradient may be, or 0. clip_norm : how long the whole gradient
    may be then, or 0. gradient_noise, input_noise : standard deviations. gradient_noise_decay : the γ by
    which the first of them falls from step to step (`formulas.shaping.noise_deviation`), or 0.
    """

    penalties: tuple[tuple[float, float], ...]
    max_norms: tuple[float, ...]
    clip_value: float = 0.0
    clip_norm: float = 0.0
    gradient_noise: float = 0.0
    input_noise: float = 0.0
    gradient_noise_decay: float = 0.0

    def is_needed(self):
        """Whether there is anything to do."""
        return self != Shaping(((0.0, 0.0),) * len(self.penalties), (0.0,) * len(self.max_norms))

    def changes_gradient(self, layer):
        """Whether there is anything to do between a layer's gradient and its update."""
        always = self.clip_value or self.clip_norm or self.gradient_noise
        return bool(always or any(self.penalties[layer]))

    def whole_columns(self, layer):
        """Whether columns of a layer's W must not be shared by threads."""
        return bool(self.clip_norm or self.max_norms[layer])


@dataclass(frozen=True)
class AnnealedNoise:
    """Noise on gradients that falls from step to step, for ``train(gradient_noise=)``.

    Its variance is η / (1 + t)^γ in step t = 0, 1, …

    Parameters
    ----------
    eta : float
        The variance in the first step; the paper takes 0.01, 0.3 and 1.
    gamma : float
        How fast it falls.

    Raises
    ------
    TypeError, ValueError
        If a number is none, or out of bounds.

    Notes
    -----
    Neelakantan et al., "Adding Gradient Noise Improves Learning for Very Deep Networks" (2015), equation 1.

    Examples
    --------
    >>> import fastbp
    >>> net = fastbp.Network([2, 8, 1], activation="tanh", seed=0)
    >>> history = fastbp.train(net, [[0, 1], [1, 0]], [1, 0], gradient_noise=fastbp.AnnealedNoise(0.01))
    """

    eta: float
    gamma: float = 0.55

    def __post_init__(self):
        object.__setattr__(self, "eta", validation.real_number("eta", self.eta, at_least=0))
        object.__setattr__(self, "gamma", validation.real_number("gamma", self.gamma, at_least=0))


def shaping_of(network, clip_value=None, clip_norm=None, input_noise=0.0, gradient_noise=0.0):
    """What a plan must know of a network's penalties and largest norms, and of options of `fastbp.train`.

    Returns
    -------
    Shaping or None
        None where there is nothing to do.

    Raises
    ------
    TypeError, ValueError
        If an option is no number or out of bounds.
    """
    clips = {"clip_value": clip_value, "clip_norm": clip_norm}
    clips = {n: validation.real_number(n, most, above=0) for n, most in clips.items() if most is not None}
    decay = 0.0
    if isinstance(gradient_noise, AnnealedNoise):
        gradient_noise, decay = math.sqrt(gradient_noise.eta), gradient_noise.gamma
    layers = [placed.layer for placed in network._placed]
    gradient_noise = validation.real_number("gradient_noise", gradient_noise, at_least=0)
    shaping = Shaping(
        tuple((getattr(layer, "l1", 0.0), getattr(layer, "l2", 0.0)) for layer in layers),
        tuple(getattr(layer, "max_norm", None) or 0.0 for layer in layers),
        input_noise=validation.real_number("input_noise", input_noise, at_least=0),
        gradient_noise=gradient_noise,
        gradient_noise_decay=decay if gradient_noise else 0.0,
        **clips,
    )
    return shaping if shaping.is_needed() else None
