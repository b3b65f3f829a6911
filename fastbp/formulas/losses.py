"""Losses: the loss of one output, and the gradient of its logit z. Each has its link, z -> prediction.

No mean is taken here. The caller divides once by the number of rows, and also by the number of outputs
unless the loss is row-wise, as PyTorch's ``reduction="mean"`` does. Conventions are PyTorch's; log_cosh and
hinge are Keras's. A loss that goes output by output is ``name(z, t, option)`` for the
logit z and its target t; option is the one number that a loss may have. Row-wise losses stand at the end.

To add one: two functions here, a row in ``LOSSES``, a row in ``tests/reference.py``.
A comparison is written so that NaN takes the branch that keeps it.
"""
# ruff: noqa: D103    (the derivation above a formula is its documentation)

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastbp.formulas import elementary
from fastbp.formulas.activations import exponential, identity, sigmoid
from fastbp.formulas.elementary import exp, expm1, like, log1p
from fastbp.formulas.formula import formula


# mean_squared_error (least squares: Legendre, 1805; PyTorch's MSELoss)
#     l  = d²,  d = z − t
#     dz = 2 d
@formula
def mean_squared_error(z, t, option):
    d = z - t
    return d * d


@formula
def mean_squared_error_backward(z, t, option):
    d = z - t
    return d + d


# mean_absolute_error (PyTorch's L1Loss)
#     l  = |d|,  d = z − t
#     dz = sign(d)                        0 at 0
@formula
def mean_absolute_error(z, t, option):
    return abs(z - t)


@formula
def mean_absolute_error_backward(z, t, option):
    d = z - t
    zero = like(z, 0.0)
    one = like(z, 1.0)
    not_above = -one if d < zero else d
    return one if d > zero else not_above


# huber (Huber, 1964, as PyTorch's HuberLoss; option: δ, where the parabola becomes a line)
#     l  = d²/2 where |d| ≤ δ, else δ (|d| − δ/2),  d = z − t
#     dz = d    where |d| ≤ δ, else δ sign(d)
@formula
def huber(z, t, option):
    half = like(z, 0.5)
    size = abs(z - t)
    line = option * (size - half * option)
    return line if size > option else half * (size * size)


@formula
def huber_backward(z, t, option):
    d = z - t
    floored = -option if d < -option else d
    return option if floored > option else floored


# log_cosh (Keras's LogCosh)
#     l  = log cosh d,  d = z − t
#     dz = tanh(d)
#     With a = |d| and u = e⁻ᵃ, for small a: cosh a = 1 + (1 − u)² / 2u, and log(1 + …) keeps its digits;
#     for large a: cosh a = eᵃ (1 + u²) / 2, so l = a − log 2 + log(1 + u²), and nothing overflows.
LOG_2 = math.log(2)


@formula
def log_cosh(z, t, option):
    one = like(z, 1.0)
    size = abs(z - t)
    less = expm1(-size)  # u − 1
    u = less + one
    small = size < one
    base = like(z, 0.0) if small else size - like(z, LOG_2)
    excess = less * less / (u + u) if small else u * u
    return base + log1p(excess)


@formula
def log_cosh_backward(z, t, option):
    return elementary.tanh(z - t)


# binary_cross_entropy (PyTorch's BCEWithLogitsLoss; link: p = σ(z); t in [0, 1])
#     l  = −t log p − (1 − t) log(1 − p)
#        = log(1 + eᶻ) − t z               log p = z − log(1 + eᶻ), log(1 − p) = −log(1 + eᶻ)
#        = max(z, 0) − t z + log(1 + e^−|z|)             no digits cancel where z and t agree
#     dz = eᶻ / (1 + eᶻ) − t = p − t
@formula
def binary_cross_entropy(z, t, option):
    line = (like(z, 1.0) - t) * z if z > like(z, 0.0) else -t * z
    return line + elementary.softplus(-abs(z))


@formula
def binary_cross_entropy_backward(z, t, option):
    return elementary.sigmoid(z) - t


# poisson (PyTorch's PoissonNLLLoss; link: rate p = eᶻ; counts t ≥ 0; the constant log t! is left out)
#     l  = p − t log p = eᶻ − t z
#     dz = eᶻ − t
@formula
def poisson(z, t, option):
    return exp(z) - t * z


@formula
def poisson_backward(z, t, option):
    return exp(z) - t


# hinge (Cortes and Vapnik, 1995; Keras's Hinge; t is −1 or +1)
#     l  = max(1 − t z, 0)
#     dz = −t where t z < 1, else 0
@formula
def hinge(z, t, option):
    zero = like(z, 0.0)
    short = like(z, 1.0) - t * z
    return zero if short <= zero else short


@formula
def hinge_backward(z, t, option):
    zero = like(z, 0.0)
    short = like(z, 1.0) - t * z
    return zero if short <= zero else -t


# softmax_cross_entropy (Bridle, 1990; PyTorch's CrossEntropyLoss; link: softmax; a row t sums to 1)
#     s_j  = z_j − max z,  e_j = e^s_j,  total = Σ e_k        s ≤ 0: nothing overflows, and total ≥ 1
#     p_j  = e_j / total                                      max z cancels
#     l    = Σ −t_j log p_j = Σ t_j (log total − s_j)
#     dz_j = Σ_k t_k (p_j − [j = k]) = p_j Σ t_k − t_j = p_j − t_j                  ∂(log total)/∂s_j = p_j
#     The loop over a row finds max z, e and total. t = 0 adds 0 even where p is 0.
@formula
def softmax(e, total):
    return e / total


@formula
def softmax_cross_entropy(s, log_total, t):
    zero = like(s, 0.0)
    return zero if t == zero else t * (log_total - s)


@formula
def softmax_cross_entropy_backward(p, t):
    return p - t


# Label smoothing ε (Szegedy et al., 2016): each target of n moves towards the uniform 1/n.
#     t ← (1 − ε) t + ε/n                 a row still sums to 1; ε = 0 leaves t as it is
@formula
def smoothed_target(t, smoothing, n):
    return (like(t, 1.0) - smoothing) * t + smoothing / n


# A row's weight w multiplies its loss and its dz, each a v. Of weight 0 they do not count, be they infinite.
@formula
def weighed(v, w):
    return v * w if w != like(w, 0.0) else like(v, 0.0)


@dataclass(frozen=True)
class Loss:
    """A loss with its link: what an engine needs to know of it.

    Attributes
    ----------
    forward : callable
        Scalar formula of what one output adds to the loss: (z, t, option) -> l, or (s, log_total, t) -> l
        where the loss is row-wise.
    backward : callable
        Its derivative with respect to the logit z: of the same arguments, or (p, t) -> dz where row-wise.
    link : callable
        Scalar formula of the prediction: z -> p, or (e, total) -> p where the loss is row-wise.
    targets : {"real", "binary", "count", "sign", "classes"}
        What a target may be: any finite number; within [0, 1]; at least 0; -1 or +1; an integer class or a
        row of probabilities.
    rowwise : bool
        Whether the outputs of a row depend on each other, through max z and total. The loss of such a row is
        the sum over its outputs, not their mean.
    option : str or None
        The public keyword of the loss's one number: for element-wise losses the formulas' third argument, for
        softmax_cross_entropy the smoothing of the targets.
    option_default : float
        Its value where the user gives none.
    option_rule : str
        What it must be, for error messages.
    option_is_valid : callable
        value -> bool, whether it is that.
    """

    forward: Callable
    backward: Callable
    link: Callable = identity
    targets: str = "real"
    rowwise: bool = False
    option: str | None = None
    option_default: float = 0.0
    option_rule: str = ""
    option_is_valid: Callable = math.isfinite

    @property
    def link_name(self):
        """The link's name: identity, sigmoid, exponential or softmax."""
        return self.link.__name__


LOSSES: dict[str, Loss] = {
    "mean_squared_error": Loss(mean_squared_error, mean_squared_error_backward),
    "mean_absolute_error": Loss(mean_absolute_error, mean_absolute_error_backward),
    "huber": Loss(
        huber,
        huber_backward,
        option="delta",
        option_default=1.0,
        option_rule="greater than 0 and finite",
        option_is_valid=lambda delta: 0 < delta < math.inf,
    ),
    "log_cosh": Loss(log_cosh, log_cosh_backward),
    "softmax_cross_entropy": Loss(
        softmax_cross_entropy,
        softmax_cross_entropy_backward,
        softmax,
        "classes",
        rowwise=True,
        option="label_smoothing",
        option_rule="at least 0 and less than 1",
        option_is_valid=lambda smoothing: 0 <= smoothing < 1,
    ),
    "binary_cross_entropy": Loss(binary_cross_entropy, binary_cross_entropy_backward, sigmoid, "binary"),
    "poisson": Loss(poisson, poisson_backward, exponential, "count"),
    "hinge": Loss(hinge, hinge_backward, targets="sign"),
}
