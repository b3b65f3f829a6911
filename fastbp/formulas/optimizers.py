"""Optimizers: the update of one parameter w, given its gradient dw and the optimizer's states of it.

``name(w, dw, *states, hyper)`` returns (w, *states), the new ones. States are 0 before the first step.
``hyper`` is a tuple of numbers of w's type. It is made once per step, in float64, by
``name_hyper(settings, step)`` from the user's settings, a tuple in the order of ``Optimizer.settings``, the
learning rate first. The step is 1 in the first update after the states were 0.

Every rule follows torch.optim of its name, up to the last bits; Lion follows its paper. In all of them
    d = dw + weight_decay · w           is the gradient of loss + weight_decay/2 · |w|²
    w = w − learning_rate · decoupled_decay · w     shrinks w beside the rule ("decoupled", as in AdamW)

To add one: two functions here, a row in ``OPTIMIZERS``, a row in ``tests/reference.py``.
"""
# ruff: noqa: D103    (the derivation above a formula is its documentation)

from collections.abc import Callable
from dataclasses import dataclass

from fastbp.formulas.elementary import exp, fma, like, sqrt
from fastbp.formulas.formula import formula

# Numbers that an optimizer may have for settings, and that its formula may use in a step.
ROOM = 16

# Stochastic gradient descent as torch.optim.SGD has it:
#     v = d in the first step, then momentum · v + (1 − dampening) · d
#     w = w − learning_rate · d           without momentum
#     w = w − learning_rate · v           with it: the rate stands outside v, so changing it acts at once
#     w = w − learning_rate · (d + momentum · v)                  Nesterov's: the gradient one step ahead
# v = 0 before the first step, so v = d there is momentum · v + undamped · d with undamped = 1.


# sgd: no state
@formula
def sgd_hyper(settings, step):
    learning_rate, weight_decay = settings
    return learning_rate, weight_decay


@formula
def sgd(w, dw, hyper):
    learning_rate, weight_decay = hyper
    d = fma(weight_decay, w, dw)
    return (fma(-learning_rate, d, w),)


# momentum: state v
@formula
def momentum_hyper(settings, step):
    learning_rate, weight_decay, momentum, dampening = settings
    undamped = 1.0 if step == 1 else 1.0 - dampening
    return learning_rate, weight_decay, momentum, undamped


@formula
def momentum(w, dw, v, hyper):
    learning_rate, weight_decay, momentum, undamped = hyper
    d = fma(weight_decay, w, dw)
    v = fma(momentum, v, undamped * d)
    return fma(-learning_rate, v, w), v


# nesterov: state v, dampening 0
@formula
def nesterov_hyper(settings, step):
    learning_rate, weight_decay, momentum = settings
    return learning_rate, weight_decay, momentum


@formula
def nesterov(w, dw, v, hyper):
    learning_rate, weight_decay, momentum = hyper
    d = fma(weight_decay, w, dw)
    v = fma(momentum, v, d)
    return fma(-learning_rate, fma(momentum, v, d), w), v


# Adam (Kingma and Ba, 2015); t counts steps from 1:
#     m = β₁ m + (1 − β₁) d               running mean of the gradient
#     v = β₂ v + (1 − β₂) d²              and of its square; both start at 0, so after t steps they hold
#     m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)               only 1 − βᵗ of the weight of a mean
#     w = w − learning_rate · m̂ / (√v̂ + ε)
@formula
def adam_hyper(settings, step):
    learning_rate, weight_decay, decoupled_decay, beta1, beta2, epsilon = settings
    step_size = learning_rate / (1.0 - integer_power(beta1, step))
    shrink = learning_rate * decoupled_decay
    unbias = 1.0 / sqrt(1.0 - integer_power(beta2, step))
    return step_size, weight_decay, shrink, beta1, 1.0 - beta1, beta2, 1.0 - beta2, unbias, epsilon


@formula
def adam(w, dw, m, v, hyper):
    step_size, weight_decay, shrink, beta1, rest1, beta2, rest2, unbias, epsilon = hyper
    d = fma(weight_decay, w, dw)
    m = fma(beta1, m, rest1 * d)
    v = fma(beta2, v, rest2 * (d * d))
    w = fma(-shrink, w, w)
    return fma(-step_size, m / fma(sqrt(v), unbias, epsilon), w), m, v


# AMSGrad (Reddi, Kale and Kumar, 2018): Adam whose v̂ never falls.
#     u = max(u, v),  û = u / (1 − β₂ᵗ)
#     w = w − learning_rate · m̂ / (√û + ε)
@formula
def amsgrad(w, dw, m, v, u, hyper):
    step_size, weight_decay, shrink, beta1, rest1, beta2, rest2, unbias, epsilon = hyper
    d = fma(weight_decay, w, dw)
    m = fma(beta1, m, rest1 * d)
    v = fma(beta2, v, rest2 * (d * d))
    u = u if u > v else v
    w = fma(-shrink, w, w)
    return fma(-step_size, m / fma(sqrt(u), unbias, epsilon), w), m, v, u


# Adamax (Kingma and Ba, 2015): the largest recent gradient instead of the root of its mean square.
#     m = β₁ m + (1 − β₁) d
#     u = max(β₂ u, |d| + ε)              needs no correction: u = |d| + ε in the first step
#     w = w − learning_rate / (1 − β₁ᵗ) · m / u
@formula
def adamax_hyper(settings, step):
    learning_rate, weight_decay, beta1, beta2, epsilon = settings
    step_size = learning_rate / (1.0 - integer_power(beta1, step))
    return step_size, weight_decay, beta1, 1.0 - beta1, beta2, epsilon


@formula
def adamax(w, dw, m, u, hyper):
    step_size, weight_decay, beta1, rest1, beta2, epsilon = hyper
    d = fma(weight_decay, w, dw)
    m = fma(beta1, m, rest1 * d)
    now, before = abs(d) + epsilon, beta2 * u
    u = before if before > now else now
    return fma(-step_size, m / u, w), m, u


# NAdam (Dozat, 2016): Adam with Nesterov's momentum, and a momentum that grows.
#     μₜ = β₁ (1 − ½ · 0.96^(t · momentum_decay)),  Πₜ = μ₁ μ₂ … μₜ
#     m̂ = μₜ₊₁ / (1 − Πₜ₊₁) · m + (1 − μₜ) / (1 − Πₜ) · d
#     w = w − learning_rate · m̂ / (√v̂ + ε)               m, v, v̂ as in Adam
# Π is a function of t alone, so that nothing need be kept to go on later: once it is below 2⁻⁶⁰, after 53
# factors with the usual settings, 1 − Π is 1; and once 0.96^(t · momentum_decay) is below 2⁻⁵⁴, μ is β₁.
LOG_OF_0_96 = -0.040821994520255166


@formula
def nadam_hyper(settings, step):
    learning_rate, weight_decay, decoupled_decay, beta1, beta2, epsilon, momentum_decay = settings
    slowness = LOG_OF_0_96 * momentum_decay
    mu = beta1 * (1.0 - 0.5 * exp(slowness * step))
    next_mu = beta1 * (1.0 - 0.5 * exp(slowness * (step + 1)))
    product, power, decay, t = 1.0, 1.0, exp(slowness), 0
    while t < step and product > 2.0**-60 and power > 2.0**-54:
        power *= decay
        product *= beta1 * (1.0 - 0.5 * power)
        t += 1
    product *= integer_power(beta1, step - t)
    m_size = learning_rate * next_mu / (1.0 - product * next_mu)
    d_size = learning_rate * (1.0 - mu) / (1.0 - product)
    shrink = learning_rate * decoupled_decay
    unbias = 1.0 / sqrt(1.0 - integer_power(beta2, step))
    return m_size, d_size, weight_decay, shrink, beta1, 1.0 - beta1, beta2, 1.0 - beta2, unbias, epsilon


@formula
def nadam(w, dw, m, v, hyper):
    m_size, d_size, weight_decay, shrink, beta1, rest1, beta2, rest2, unbias, epsilon = hyper
    d = fma(weight_decay, w, dw)
    m = fma(beta1, m, rest1 * d)
    v = fma(beta2, v, rest2 * (d * d))
    w = fma(-shrink, w, w)
    return w - fma(m_size, m, d_size * d) / fma(sqrt(v), unbias, epsilon), m, v


# RAdam (Liu et al., 2020): Adam that divides by √v only once v has seen enough gradients.
#     ρ∞ = 2 / (1 − β₂) − 1,  ρ = ρ∞ − 2t β₂ᵗ / (1 − β₂ᵗ)       about how many gradients v averages
#     w = w − learning_rate · m̂                                 while ρ ≤ 5
#     w = w − learning_rate · m̂ · r · √(1 − β₂ᵗ) / (√v + ε)     then, with
#     r² = (ρ − 4)(ρ − 2) ρ∞ / ((ρ∞ − 4)(ρ∞ − 2) ρ)             m, v, m̂ as in Adam
# Of the sizes of the two kinds of step one is 0, so that the formula has no branch.
@formula
def radam_hyper(settings, step):
    learning_rate, weight_decay, decoupled_decay, beta1, beta2, epsilon = settings
    plain_size, adaptive_size = learning_rate / (1.0 - integer_power(beta1, step)), 0.0
    power = integer_power(beta2, step)
    longest = 2.0 / (1.0 - beta2) - 1.0
    length = longest - 2.0 * step * power / (1.0 - power)
    if length > 5.0:
        square = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length)
        adaptive_size, plain_size = plain_size * sqrt(square) * sqrt(1.0 - power), 0.0
    shrink = learning_rate * decoupled_decay
    return (
        plain_size, adaptive_size, weight_decay, shrink, beta1, 1.0 - beta1, beta2, 1.0 - beta2, epsilon
    )  # fmt: skip


@formula
def radam(w, dw, m, v, hyper):
    plain_size, adaptive_size, weight_decay, shrink, beta1, rest1, beta2, rest2, epsilon = hyper
    d = fma(weight_decay, w, dw)
    m = fma(beta1, m, rest1 * d)
    v = fma(beta2, v, rest2 * (d * d))
    w = fma(-shrink, w, w)
    return fma(-(plain_size + adaptive_size / (sqrt(v) + epsilon)), m, w), m, v


# RMSprop (Hinton, 2012):
#     v = α v + (1 − α) d²                running mean of the square of the gradient
#     s = d / (√v + ε)
#     w = w − learning_rate · s           without momentum
#     b = momentum · b + s,  w = w − learning_rate · b            with it
#     g = α g + (1 − α) d,  √(v − g²) instead of √v               centered (Graves, 2013): the variance
# The variance of a gradient that hardly changes can round to less than 0: then it is 0.


# rmsprop: state v
@formula
def rmsprop_hyper(settings, step):
    learning_rate, weight_decay, alpha, epsilon = settings
    return learning_rate, weight_decay, alpha, 1.0 - alpha, epsilon


@formula
def rmsprop(w, dw, v, hyper):
    learning_rate, weight_decay, alpha, rest, epsilon = hyper
    d = fma(weight_decay, w, dw)
    v = fma(alpha, v, rest * (d * d))
    return fma(-learning_rate, d / (sqrt(v) + epsilon), w), v


# rmsprop_momentum: states v, b
@formula
def rmsprop_momentum_hyper(settings, step):
    learning_rate, weight_decay, alpha, epsilon, momentum = settings
    return learning_rate, weight_decay, alpha, 1.0 - alpha, epsilon, momentum


@formula
def rmsprop_momentum(w, dw, v, b, hyper):
    learning_rate, weight_decay, alpha, rest, epsilon, momentum = hyper
    d = fma(weight_decay, w, dw)
    v = fma(alpha, v, rest * (d * d))
    b = fma(momentum, b, d / (sqrt(v) + epsilon))
    return fma(-learning_rate, b, w), v, b


# rmsprop_centered: states v, g, b; without momentum b is the step itself
@formula
def rmsprop_centered(w, dw, v, g, b, hyper):
    learning_rate, weight_decay, alpha, rest, epsilon, momentum = hyper
    d = fma(weight_decay, w, dw)
    v = fma(alpha, v, rest * (d * d))
    g = fma(alpha, g, rest * d)
    variance = fma(-g, g, v)
    variance = like(w, 0) if variance < like(w, 0) else variance
    b = fma(momentum, b, d / (sqrt(variance) + epsilon))
    return fma(-learning_rate, b, w), v, g, b


# Adagrad (Duchi, Hazan and Singer, 2011); t counts steps from 1:
#     v = v + d²                          torch starts it at initial_accumulator_value: here that is added
#     w = w − learning_rate / (1 + (t − 1) learning_rate_decay) · d / (√(initial_accumulator_value + v) + ε)
@formula
def adagrad_hyper(settings, step):
    learning_rate, weight_decay, learning_rate_decay, initial_accumulator_value, epsilon = settings
    step_size = learning_rate / (1.0 + (step - 1) * learning_rate_decay)
    return step_size, weight_decay, initial_accumulator_value, epsilon


@formula
def adagrad(w, dw, v, hyper):
    step_size, weight_decay, initial, epsilon = hyper
    d = fma(weight_decay, w, dw)
    v = fma(d, d, v)
    return fma(-step_size, d / (sqrt(initial + v) + epsilon), w), v


# Adadelta (Zeiler, 2012): steps as large as recent steps, in proportion to the gradient.
#     v = ρ v + (1 − ρ) d²                running mean of the square of the gradient
#     s = √(u + ε) / √(v + ε) · d         a step in the unit of w
#     u = ρ u + (1 − ρ) s²                and of the square of the step
#     w = w − learning_rate · s
@formula
def adadelta_hyper(settings, step):
    learning_rate, weight_decay, rho, epsilon = settings
    return learning_rate, weight_decay, rho, 1.0 - rho, epsilon


@formula
def adadelta(w, dw, v, u, hyper):
    learning_rate, weight_decay, rho, rest, epsilon = hyper
    d = fma(weight_decay, w, dw)
    v = fma(rho, v, rest * (d * d))
    s = sqrt(u + epsilon) / sqrt(v + epsilon) * d
    u = fma(rho, u, rest * (s * s))
    return fma(-learning_rate, s, w), v, u


# Lion (Chen et al., 2023, Algorithm 2); its weight decay is decoupled:
#     c = β₁ m + (1 − β₁) dw
#     w = w − learning_rate · (sign(c) + decoupled_decay · w)     0 and NaN are their own signs
#     m = β₂ m + (1 − β₂) dw
@formula
def lion_hyper(settings, step):
    learning_rate, decoupled_decay, beta1, beta2 = settings
    return learning_rate, learning_rate * decoupled_decay, beta1, 1.0 - beta1, beta2, 1.0 - beta2


@formula
def lion(w, dw, m, hyper):
    learning_rate, shrink, beta1, rest1, beta2, rest2 = hyper
    c = fma(beta1, m, rest1 * dw)
    sign = like(w, 1) if c > like(w, 0) else (like(w, -1) if c < like(w, 0) else c)
    m = fma(beta2, m, rest2 * dw)
    w = fma(-shrink, w, w)
    return fma(-learning_rate, sign, w), m


@formula
def integer_power(base, exponent):
    """base**exponent, an integer from 0 on, by squaring: a library's pow has other bits elsewhere."""
    power = 1.0
    while exponent > 0:
        if exponent & 1:
            power *= base
        base *= base
        exponent >>= 1
    return power


@dataclass(frozen=True)
class Optimizer:
    """An optimizer: what an engine needs to know of it.

    Attributes
    ----------
    update : callable
        Scalar formula, (w, dw, *states, hyper) -> (w, *states).
    prepare : callable
        (settings, step) -> hyper, in float64, once per step; step is 1 in the first.
    settings : tuple of str
        The names of what the user sets, in the order in which `prepare` unpacks them; "learning_rate" first.
    hypers : int
        How many numbers `prepare` returns.
    states : int
        How many numbers are kept for each parameter; they start at 0.
    """

    update: Callable
    prepare: Callable
    settings: tuple[str, ...]
    hypers: int
    states: int = 0

    @property
    def momentum_at(self):
        """Which of the settings a schedule changes as the momentum; None where there is none."""
        names = [name for name in ("momentum", "beta1") if name in self.settings]
        return self.settings.index(names[0]) if names else None


_ADAM = ("learning_rate", "weight_decay", "decoupled_decay", "beta1", "beta2", "epsilon")
_RMSPROP = ("learning_rate", "weight_decay", "alpha", "epsilon")
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(sgd, sgd_hyper, ("learning_rate", "weight_decay"), hypers=2),
    "momentum": Optimizer(
        momentum,
        momentum_hyper,
        ("learning_rate", "weight_decay", "momentum", "dampening"),
        hypers=4,
        states=1,
    ),
    "nesterov": Optimizer(
        nesterov, nesterov_hyper, ("learning_rate", "weight_decay", "momentum"), hypers=3, states=1
    ),
    "adam": Optimizer(adam, adam_hyper, _ADAM, hypers=9, states=2),
    "amsgrad": Optimizer(amsgrad, adam_hyper, _ADAM, hypers=9, states=3),
    "adamax": Optimizer(
        adamax,
        adamax_hyper,
        ("learning_rate", "weight_decay", "beta1", "beta2", "epsilon"),
        hypers=6,
        states=2,
    ),
    "nadam": Optimizer(nadam, nadam_hyper, (*_ADAM, "momentum_decay"), hypers=10, states=2),
    "radam": Optimizer(radam, radam_hyper, _ADAM, hypers=9, states=2),
    "rmsprop": Optimizer(rmsprop, rmsprop_hyper, _RMSPROP, hypers=5, states=1),
    "rmsprop_momentum": Optimizer(
        rmsprop_momentum, rmsprop_momentum_hyper, (*_RMSPROP, "momentum"), hypers=6, states=2
    ),
    "rmsprop_centered": Optimizer(
        rmsprop_centered, rmsprop_momentum_hyper, (*_RMSPROP, "momentum"), hypers=6, states=3
    ),
    "adagrad": Optimizer(
        adagrad,
        adagrad_hyper,
        ("learning_rate", "weight_decay", "learning_rate_decay", "initial_accumulator_value", "epsilon"),
        hypers=4,
        states=1,
    ),
    "adadelta": Optimizer(
        adadelta,
        adadelta_hyper,
        ("learning_rate", "weight_decay", "rho", "epsilon"),
        hypers=5,
        states=2,
    ),
    "lion": Optimizer(
        lion, lion_hyper, ("learning_rate", "decoupled_decay", "beta1", "beta2"), hypers=6, states=1
    ),
}
