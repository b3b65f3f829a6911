"""Optimizers: the update of one parameter w, given its gradient dw and the optimizer's states of it.

``name(w, dw, *states, hyper)`` returns the new w, or (w, *states) where there are states, which start at 0.
``hyper`` is a tuple of numbers of w's type. It is made once per step, in float64, by
``name_hyper(settings, step)`` from the user's settings, a tuple in the order of ``Optimizer.settings``. The
step is 1 in the first update after the states were 0.

To add one: two functions here, a row in ``OPTIMIZERS``, a row in ``tests/reference.py``.
"""
# ruff: noqa: D103    (the derivation above a formula is its documentation)

from collections.abc import Callable
from dataclasses import dataclass

from fastbp.formulas.elementary import fma
from fastbp.formulas.formula import formula

# Stochastic gradient descent as torch.optim.SGD has it:
#     d = dw + weight_decay · w           the gradient of loss + weight_decay/2 · |w|²
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
    return fma(-learning_rate, d, w)


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


@dataclass(frozen=True)
class Optimizer:
    """An optimizer: what an engine needs to know of it.

    Attributes
    ----------
    update : callable
        Scalar formula, (w, dw, *states, hyper) -> w, or (w, *states) where there are states.
    prepare : callable
        (settings, step) -> hyper, in float64, once per step; step is 1 in the first.
    settings : tuple of str
        The names of what the user sets, in the order in which `prepare` unpacks them.
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
}
