"""Activations: y = f(z), and the gradient of z from the gradient of y.

Each forward stands above its backward, and the derivation above both. A backward receives dy and the one
value that was kept, y where that loses nothing that matters (z may then be overwritten), else z.
Constants and slopes at kinks are PyTorch's; squareplus and exponential are Keras's.

To add one: two functions here, a row in ``ACTIVATIONS``, a row in ``tests/reference.py``.
A comparison is written so that NaN takes the branch that keeps it.
"""
# ruff: noqa: D103    (the derivation above a formula is its documentation)

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastbp.formulas import elementary
from fastbp.formulas.elementary import erf, exp, expm1, like, sqrt
from fastbp.formulas.formula import formula


# identity (PyTorch's Identity)
#     y  = z
#     dz = dy
@formula
def identity(z):
    return z


@formula
def identity_backward(dy, y):
    return dy


# relu (Nair and Hinton, 2010)
#     y  = max(z, 0)
#     dz = dy where z > 0, else 0         y > 0 exactly where z > 0, so y is kept; the slope at 0 is 0
@formula
def relu(z):
    zero = like(z, 0.0)
    return zero if z <= zero else z


@formula
def relu_backward(dy, y):
    zero = like(y, 0.0)
    return zero if y <= zero else dy


# leaky_relu (Maas, Hannun and Ng, 2013)
#     y  = z where z > 0, else 0.01 z
#     dz = dy where z > 0, else 0.01 dy   the sign of y is that of z; the slope at 0 is 0.01
@formula
def leaky_relu(z):
    return z if z > like(z, 0.0) else like(z, 0.01) * z


@formula
def leaky_relu_backward(dy, y):
    return dy if y > like(y, 0.0) else like(y, 0.01) * dy


# elu (Clevert, Unterthiner and Hochreiter, 2016; α = 1, where celu (Barron, 2017) is the same function)
#     y  = z where z > 0, else eᶻ − 1
#     dz = dy where z > 0, else dy · eᶻ = dy · (y + 1)
@formula
def elu(z):
    below = expm1(z)
    return z if z > like(z, 0.0) else below


@formula
def elu_backward(dy, y):
    return dy if y > like(y, 0.0) else dy * (y + like(y, 1.0))


# selu (Klambauer et al., 2017: λ and α keep mean 0 and variance 1)
#     y  = λ z where z > 0, else λα (eᶻ − 1)
#     dz = λ dy where z > 0, else dy · λα eᶻ = dy · (y + λα)       the slope at 0 is λα
SELU_SCALE = 1.0507009873554804934193349852946  # λ
SELU_FLOOR = 1.0507009873554804934193349852946 * 1.6732632423543772848170429916717  # λα


@formula
def selu(z):
    below = like(z, SELU_FLOOR) * expm1(z)
    return like(z, SELU_SCALE) * z if z > like(z, 0.0) else below


@formula
def selu_backward(dy, y):
    return dy * like(y, SELU_SCALE) if y > like(y, 0.0) else dy * (y + like(y, SELU_FLOOR))


# relu6 (Krizhevsky, 2010: relu with units of at most 6)
#     y  = min(max(z, 0), 6)
#     dz = dy where 0 < y < 6, else 0
@formula
def relu6(z):
    zero = like(z, 0.0)
    six = like(z, 6.0)
    floored = zero if z <= zero else z
    return six if floored > six else floored


@formula
def relu6_backward(dy, y):
    zero = like(y, 0.0)
    below_six = zero if y >= like(y, 6.0) else dy
    return zero if y <= zero else below_six


# sigmoid (the logistic function: Rumelhart, Hinton and Williams, 1986)
#     y  = 1 / (1 + e⁻ᶻ)
#     dz = dy · e⁻ᶻ / (1 + e⁻ᶻ)² = dy · y · (1 − y)
@formula
def sigmoid(z):
    return elementary.sigmoid(z)


@formula
def sigmoid_backward(dy, y):
    return dy * (y * (like(y, 1.0) - y))


# hard_sigmoid (Howard et al., 2019: part of h-swish)
#     y  = min(max(z + 3, 0), 6) / 6
#     dz = dy / 6 where 0 < y < 1, else 0         PyTorch's float64 has 1/6 rounded to float32 here: 3e-8 off
@formula
def hard_sigmoid(z):
    return relu6(z + like(z, 3.0)) * like(z, 1 / 6)


@formula
def hard_sigmoid_backward(dy, y):
    zero = like(y, 0.0)
    below_one = zero if y >= like(y, 1.0) else dy * like(y, 1 / 6)
    return zero if y <= zero else below_one


# tanh (LeCun, Bottou, Orr and Müller, 1998, section 4.4)
#     y  = tanh(z)
#     dz = dy · (1 − y²) = dy · (1 − y)(1 + y)        tanh' = 1 − tanh²; the factors lose nothing near ±1
@formula
def tanh(z):
    return elementary.tanh(z)


@formula
def tanh_backward(dy, y):
    one = like(y, 1.0)
    return dy * ((one - y) * (one + y))


# hard_tanh (Collobert, 2004)
#     y  = min(max(z, −1), 1)
#     dz = dy where −1 < y < 1, else 0
@formula
def hard_tanh(z):
    one = like(z, 1.0)
    floored = -one if z < -one else z
    return one if floored > one else floored


@formula
def hard_tanh_backward(dy, y):
    return like(y, 0.0) if abs(y) >= like(y, 1.0) else dy


# softplus (Dugas et al., 2001)
#     y  = log(1 + eᶻ)
#     dz = dy · eᶻ / (1 + eᶻ) = dy · (1 − e⁻ʸ)        1 + eᶻ = eʸ; exact for small y too
@formula
def softplus(z):
    return elementary.softplus(z)


@formula
def softplus_backward(dy, y):
    return -dy * expm1(-y)


# softsign (Turian, Bergstra and Bengio, 2009)
#     y  = z / (1 + |z|)
#     dz = dy / (1 + |z|)² = dy · (1 − |y|)²          1 − |y| = 1 / (1 + |z|)
@formula
def softsign(z):
    return z / (like(z, 1.0) + abs(z))


@formula
def softsign_backward(dy, y):
    slope = like(y, 1.0) - abs(y)
    return dy * (slope * slope)


# silu (Elfwing, Uchibe and Doya, 2018), also called swish (Ramachandran, Zoph and Le, 2017)
#     y  = z σ(z)                                     σ: sigmoid
#     dz = dy · (σ + z σ (1 − σ))                     not monotonic: y does not tell z, so z is kept
@formula
def silu(z):
    return z * elementary.sigmoid(z)


@formula
def silu_backward(dy, z):
    s = elementary.sigmoid(z)
    return dy * (s + z * (s * (like(z, 1.0) - s)))


# hard_silu, also called hard swish (Howard et al., 2019)
#     y  = z · min(max(z + 3, 0), 6) / 6              0 below −3, z above 3
#     dz = dy · (2z + 3) / 6 = dy · (z/3 + 1/2)       between; 0 at −3 and 1 at 3
@formula
def hard_silu(z):
    three = like(z, 3.0)
    between = z * ((z + three) * like(z, 1 / 6))
    above = z if z >= three else between
    return like(z, 0.0) if z <= -three else above


@formula
def hard_silu_backward(dy, z):
    three = like(z, 3.0)
    between = dy * (z * like(z, 1 / 3) + like(z, 0.5))
    above = dy if z >= three else between
    return like(z, 0.0) if z <= -three else above


# mish (Misra, 2019)
#     y  = z t,  t = tanh(log(1 + eᶻ)) = ((1 + eᶻ)² − 1) / ((1 + eᶻ)² + 1)
#     dz = dy · (t + z t'),  t' = (1 − t²) σ(z)
#     With e = e^−|z|, which never overflows, and d = 1 + 2e + 2e² for z > 0, d = 2 + 2e + e² for z ≤ 0:
#         t  = (1 + 2e) / d    or  e (2 + e) / d
#         t' = 4e² (1 + e) / d²  or  4e (1 + e) / d²
#     so one exponential serves both, and no digits cancel.
@formula
def mish(z):
    one = like(z, 1.0)
    two = like(z, 2.0)
    e = exp(-abs(z))
    above = (one + two * e) / (one + two * e + two * (e * e))
    below = (e * (two + e)) / (two + two * e + e * e)
    return z * (above if z > like(z, 0.0) else below)


@formula
def mish_backward(dy, z):
    zero = like(z, 0.0)
    one = like(z, 1.0)
    two = like(z, 2.0)
    e = exp(-abs(z))
    numerator = one + two * e if z > zero else e * (two + e)
    d = one + two * e + two * (e * e) if z > zero else two + two * e + e * e
    small = e * e if z > zero else e
    t = numerator / d
    return dy * (t + z * (like(z, 4.0) * small * (one + e) / (d * d)))


# gelu (Hendrycks & Gimpel, 2016; exact)
#     y  = z Φ(z),  Φ(z) = (1 + erf(z / √2)) / 2      Φ, φ: distribution and density of the standard normal
#     dz = dy · (Φ(z) + z φ(z)),  φ(z) = e^(−z²/2) / √(2π)
SQRT_HALF = math.sqrt(0.5)
DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)


@formula
def gelu(z):
    half = like(z, 0.5)
    return z * (half + half * erf(z * like(z, SQRT_HALF)))


@formula
def gelu_backward(dy, z):
    half = like(z, 0.5)
    distribution = half + half * erf(z * like(z, SQRT_HALF))
    density = like(z, DENSITY_AT_0) * exp(-half * (z * z))
    return dy * (distribution + z * density)


# gelu_tanh (Hendrycks & Gimpel, 2016)
#     y  = z (1 + tanh u) / 2 = z σ(2u),  u = √(2/π) (z + 0.044715 z³)
#     dz = dy · (σ + z σ (1 − σ) · 2u'),  u' = √(2/π) (1 + 3 · 0.044715 z²)        σ = σ(2u)
#
#     σ is 0 or 1 long before z² is at the bound, beyond which it would overflow in the end, and 0 · ∞ is NaN.
GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = GELU_LINEAR * 0.044715
GELU_SQUARE = 1e10


@formula
def gelu_tanh(z):
    return z * elementary.sigmoid(z * (like(z, GELU_LINEAR) + like(z, GELU_CUBIC) * (z * z)))


@formula
def gelu_tanh_backward(dy, z):
    square = z * z
    square = like(z, GELU_SQUARE) if square > like(z, GELU_SQUARE) else square
    s = elementary.sigmoid(z * (like(z, GELU_LINEAR) + like(z, GELU_CUBIC) * square))
    inner = like(z, GELU_LINEAR) + like(z, 3 * GELU_CUBIC) * square
    return dy * (s + z * (s * (like(z, 1.0) - s) * inner))


# log_sigmoid (PyTorch's LogSigmoid)
#     y  = log σ(z) = −log(1 + e⁻ᶻ)
#     dz = dy · (1 − σ(z)) = dy · (1 − eʸ)            exact for small y too
@formula
def log_sigmoid(z):
    return -elementary.softplus(-z)


@formula
def log_sigmoid_backward(dy, y):
    return -dy * expm1(y)


# tanhshrink (PyTorch's Tanhshrink)
#     y  = z − tanh(z)
#     dz = dy · (1 − (1 − tanh²(z))) = dy · tanh²(z)
@formula
def tanhshrink(z):
    return z - elementary.tanh(z)


@formula
def tanhshrink_backward(dy, z):
    t = elementary.tanh(z)
    return dy * (t * t)


# softshrink (soft thresholding: Donoho and Johnstone, 1994; λ = 1/2, as PyTorch's)
#     y  = z − λ above λ, z + λ below −λ, else 0      z − z is 0, or NaN for NaN
#     dz = dy where y ≠ 0, else 0
@formula
def softshrink(z):
    half = like(z, 0.5)
    below = z + half if z < -half else z - z
    return z - half if z > half else below


@formula
def softshrink_backward(dy, y):
    zero = like(y, 0.0)
    return zero if y == zero else dy


# hardshrink (hard thresholding: Donoho and Johnstone, 1994; λ = 1/2, as PyTorch's)
#     y  = 0 where |z| ≤ λ, else z
#     dz = dy where y ≠ 0, else 0
@formula
def hardshrink(z):
    return like(z, 0.0) if abs(z) <= like(z, 0.5) else z


@formula
def hardshrink_backward(dy, y):
    zero = like(y, 0.0)
    return zero if y == zero else dy


# squareplus (Barron, 2021; b = 4)
#     y  = (z + √(z² + 4)) / 2                        y(z) y(−z) = 1, which saves the digits below 0
#     dz = dy · y² / (1 + y²)                         from y² − z y − 1 = 0: (2y − z) y' = y, z = y − 1/y
#
#     From the bound on √(z² + 4) rounds to |z|, and y² / (1 + y²) to 1; a square would overflow in the end.
SQUAREPLUS_LINEAR = 1e10


@formula
def squareplus(z):
    one, half = like(z, 1.0), like(z, 0.5)
    size = abs(z)
    root = size if size > like(z, SQUAREPLUS_LINEAR) else sqrt(size * size + like(z, 4.0))
    above = half * size + half * root
    return above if z > like(z, 0.0) else one / above


@formula
def squareplus_backward(dy, y):
    y = like(y, SQUAREPLUS_LINEAR) if y > like(y, SQUAREPLUS_LINEAR) else y
    square = y * y
    return dy * (square / (like(y, 1.0) + square))


# exponential (Keras's exponential)
#     y  = eᶻ
#     dz = dy · y
@formula
def exponential(z):
    return exp(z)


@formula
def exponential_backward(dy, y):
    return dy * y


@dataclass(frozen=True)
class Activation:
    """An activation: what an engine needs to know of it.

    Attributes
    ----------
    forward : callable
        Scalar formula, z -> y.
    backward : callable
        Scalar formula, (dy, kept) -> dz, where dy and dz are gradients with respect to y and z.
    keeps : {"y", "z"}
        Which of the two `backward` receives. With "y" the engine may overwrite z by y.
    initializer : {"glorot_uniform", "he_uniform", "lecun_normal"}
        How weights of a layer with this activation start unless the user says otherwise.
    """

    forward: Callable
    backward: Callable
    keeps: str = "z"
    initializer: str = "glorot_uniform"

    def __post_init__(self):
        if self.keeps not in ("y", "z"):
            raise ValueError(f'keeps must be "y" or "z"; got {self.keeps!r}')


HE = "he_uniform"

ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(identity, identity_backward, "y"),
    "relu": Activation(relu, relu_backward, "y", HE),
    "leaky_relu": Activation(leaky_relu, leaky_relu_backward, "y", HE),
    "elu": Activation(elu, elu_backward, "y", HE),
    "selu": Activation(selu, selu_backward, "y", "lecun_normal"),
    "celu": Activation(elu, elu_backward, "y", HE),
    "relu6": Activation(relu6, relu6_backward, "y", HE),
    "sigmoid": Activation(sigmoid, sigmoid_backward, "y"),
    "hard_sigmoid": Activation(hard_sigmoid, hard_sigmoid_backward, "y"),
    "tanh": Activation(tanh, tanh_backward, "y"),
    "hard_tanh": Activation(hard_tanh, hard_tanh_backward, "y"),
    "softplus": Activation(softplus, softplus_backward, "y", HE),
    "softsign": Activation(softsign, softsign_backward, "y"),
    "silu": Activation(silu, silu_backward, "z", HE),
    "hard_silu": Activation(hard_silu, hard_silu_backward, "z", HE),
    "mish": Activation(mish, mish_backward, "z", HE),
    "gelu": Activation(gelu, gelu_backward, "z", HE),
    "gelu_tanh": Activation(gelu_tanh, gelu_tanh_backward, "z", HE),
    "log_sigmoid": Activation(log_sigmoid, log_sigmoid_backward, "y"),
    "tanhshrink": Activation(tanhshrink, tanhshrink_backward, "z"),
    "softshrink": Activation(softshrink, softshrink_backward, "y"),
    "hardshrink": Activation(hardshrink, hardshrink_backward, "y"),
    "squareplus": Activation(squareplus, squareplus_backward, "y", HE),
    "exponential": Activation(exponential, exponential_backward, "y"),
}

# Those of the library, whatever is registered later.
OURS = dict(ACTIVATIONS)
