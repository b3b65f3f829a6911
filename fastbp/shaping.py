"""What layers and options ask to be done to gradients and weights beside the optimizer's step."""

from . import validation
from .plan import Shaping


def shaping_of(network, clip_value=None, clip_norm=None, input_noise=0.0, gradient_noise=0.0):
    """What a plan must know of a network's penalties and largest norms, and of options of `fastbp.train`.

    Returns
    -------
    Shaping or None
        None where there is nothing to do.

    Raises
    ------
    TypeError, ValueError
        If an option is no number or out of bounds, or both clippings are asked for.
    """
    clips = {"clip_value": clip_value, "clip_norm": clip_norm}
    clips = {n: validation.real_number(n, most, above=0) for n, most in clips.items() if most is not None}
    if len(clips) == 2:
        raise ValueError("clip_value and clip_norm must not be given together")
    layers = [placed.layer for placed in network._placed]
    gradient_noise = validation.real_number("gradient_noise", gradient_noise, at_least=0)
    if (clips or gradient_noise) and any({"gamma", "beta"} & layer.learnt.keys() for layer in network.layers):
        raise ValueError(
            "clip_value, clip_norm and gradient_noise are not there yet for networks in which LayerNorm or "
            "BatchNorm learn a scale or a shift"
        )
    shaping = Shaping(
        tuple((getattr(layer, "l1", 0.0), getattr(layer, "l2", 0.0)) for layer in layers),
        tuple(getattr(layer, "max_norm", None) or 0.0 for layer in layers),
        input_noise=validation.real_number("input_noise", input_noise, at_least=0),
        gradient_noise=gradient_noise,
        **clips,
    )
    return shaping if shaping.is_needed() else None
