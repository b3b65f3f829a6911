"""Training with L-BFGS: SciPy decides where to go, compiled code says what loss and gradient are there."""

import math
import time

import numpy as np

from .one_pass import options_of as _options
from .one_pass import run_over as _run_over
from .training import SECONDS_INLINE, DivergenceError, guess_seconds


def minimizer():
    """SciPy's minimize.

    Raises
    ------
    ImportError
        If SciPy is not installed.
    """
    try:
        from scipy.optimize import minimize
    except ImportError:
        raise ImportError("fastbp.LBFGS needs SciPy: pip install fastbp[scipy]") from None
    return minimize


def train_whole_batch(network, optimizer, data, history, bar, conductor, looks):
    """Iterations of L-BFGS on all rows: changes the network's parameters, fills the history.

    Parameters
    ----------
    network : Network
    optimizer : LBFGS
    data : fastbp.data.Data
        Its `epochs` are the most iterations.
    history : History
        Its `threads` says how many to use. One value for each iteration; the loss is that after it.
    bar : object with ``show(rows, history)``
    conductor : callable
        Given the plan, it returns what `Interrupts` is: what runs a call, and knows whether to end.
    looks : bool
        Whether a loss that is infinite or NaN at the start is an error; from a finite one on, SciPy's line
        search steps back from such places.

    Raises
    ------
    DivergenceError
        If the loss is infinite or NaN at the start.
    """
    minimize, dtype, n = minimizer(), network.dtype, data.n
    x, y, weights, held_out, epochs = data.x, data.y, data.weights, data.held_out, data.epochs
    decay = _decay(network, optimizer)
    gradient, best = np.empty_like(network.parameters), network.parameters.copy()
    short = guess_seconds(network.architecture, n, n) < SECONDS_INLINE
    started, begun = time.perf_counter(), False

    def run(plan):
        if not interrupts.asked:
            interrupts.run(short, lambda steps: None)
        if interrupts.asked:
            raise _Ended

    def loss_and_gradient(vector):
        nonlocal begun
        network.parameters[:] = vector
        loss = float(_run_over(plan, network, x, y, weights=weights, run=run)[0] / n)
        if looks and not begun and not math.isfinite(loss):
            raise DivergenceError(f"the loss is {loss} at the start", 1, (1, 1), history)
        begun = True
        plan.unpack(gradient)
        total = loss + 0.5 * float(decay @ (vector * vector))
        return total, gradient.astype(np.float64) + decay * vector

    def after_iteration(intermediate_result):
        nonlocal started
        vector = intermediate_result.x
        best[:] = network.parameters[:] = vector
        elapsed = time.perf_counter() - started
        history.loss.append(float(intermediate_result.fun - 0.5 * decay @ (vector * vector)))
        history.seconds.append(elapsed)
        history.samples_per_second.append(n / elapsed)
        if held_out:
            history.validation_loss.append(network._loss(*held_out))
        bar.show(len(history) * n, history)
        started = time.perf_counter()

    options = dict(
        maxiter=epochs, maxfun=2**31 - 1, maxcor=optimizer.memory, maxls=optimizer.line_search,
        gtol=optimizer.gradient_tolerance, ftol=optimizer.loss_tolerance,
    )  # fmt: skip
    try:
        with (
            network._plan("gradient", n, history.threads, **_options(x, y, weights)) as plan,
            conductor(plan) as interrupts,
        ):
            minimize(
                loss_and_gradient, network.parameters.astype(np.float64), jac=True, method="L-BFGS-B",
                callback=after_iteration, options=options,
            )  # fmt: skip
    except _Ended:
        history.interrupted = True
    finally:
        network.parameters[:] = best.astype(dtype)
        bar.close()
    return history


class _Ended(BaseException):
    """Somebody asked to end; no `Exception`, which SciPy might take for its own."""


def _decay(network, optimizer):
    """The weight decay of each parameter, float64 (n_parameters,)."""
    decay = np.full(network.parameters.size, float(optimizer.weight_decay))
    if not optimizer.decay_biases:
        for layer in network._views(decay):
            for name, values in layer.learnt.items():
                if name != "W":
                    values[:] = 0.0
    return decay
