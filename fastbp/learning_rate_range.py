"""find_learning_rate(): the range test, which raises the learning rate step by step until the loss grows."""

from dataclasses import dataclass, replace

import numpy as np

from . import random, validation
from .division import automatic_threads
from .formulas.random import SHUFFLE
from .network import as_network
from .online import OnlineTrainer
from .optimizers import LBFGS, as_optimizer

# The loss is smoothed as a running mean with this share of the old; a test ends where it has grown beyond its
# best by so many times that, and by so many times what it had fallen: a loss may be below 0.
SMOOTHING = 0.9
GROWTH_AT_THE_END = 3.0

# The share of the steps whose losses are compared, before a rate and behind it. One batch says little.
COMPARED = 0.1


@dataclass(frozen=True, eq=False)
class LearningRateRange:
    """What a range test found.

    Attributes
    ----------
    learning_rates : array (n,)
        Of each step, rising.
    losses : array (n,)
        Of each step's batch, before the step.
    smoothed : array (n,)
        A running mean of it.
    suggestion : float or None
        Where the loss falls most with the logarithm of the rate, from the mean of a tenth of the steps to
        that of the next tenth; None if it never falls.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float | None

    def plot(self):
        """Draw the losses over the learning rates.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If matplotlib is not installed, which ``fastbp[plot]`` brings.
        ValueError
            If no loss was finite.
        """
        from .plots import plot_learning_rates

        return plot_learning_rates(self.learning_rates, self.losses, self.smoothed, self.suggestion)


def find_learning_rate(
    network, x, y, *, lowest=1e-6, highest=10.0, steps=100, batch_size=32, optimizer="sgd", seed=None
):  # fmt: skip
    """Try learning rates from low to high, one per step, and see where the loss falls and where it grows.

    Parameters
    ----------
    network : Network
        Stays as it is. The test begins from its weights: of one that is trained already it finds the rates
        to go on with, and the loss may fall little, or not at all.
    x : array-like (n, n_inputs)
        Sparse rows stay sparse, and bytes bytes, as in `fastbp.train`.
    y : array-like
        Targets of the network's loss, see `Network.loss`.
    lowest, highest : float
        Of the rates, which rise by the same factor from step to step.
    steps : int
        At least 10.
    batch_size : int or None
        Rows of a step; None, or more than there are, means all of them.
    optimizer : str or Optimizer
        With its own settings but for the learning rate; a schedule is left out.
    seed : int, optional
        Where the order of the rows comes from; the network's own by default.

    Returns
    -------
    LearningRateRange
        Shorter than `steps` where the loss grew far beyond its best, by three times that and by three times
        what it had fallen, or was no longer finite.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of bounds, data do not fit the network, or a parameter of
        it is not finite.

    Notes
    -----
    The test of L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (2017).

    It runs on the CPU. A GPU would find the same to the bit, so the result is good for ``device="cuda"`` too.
    Ctrl-C raises KeyboardInterrupt.

    Examples
    --------
    >>> import fastbp
    >>> net = fastbp.Network([64, 32, 10], loss="softmax_cross_entropy", seed=0)
    >>> found = fastbp.find_learning_rate(net, *fastbp.datasets.digits())
    >>> 0.001 < found.suggestion < 10
    True
    """
    as_network(network)
    steps = validation.integer("steps", steps, at_least=10)
    lowest = validation.real_number("lowest", lowest, above=0)
    highest = validation.real_number("highest", highest, above=lowest)
    optimizer = as_optimizer(optimizer)
    if isinstance(optimizer, LBFGS):
        raise ValueError("LBFGS has no learning rate to look for; give another optimizer")
    seed = network.seed if seed is None else validation.seed(seed)
    if batch_size is not None:
        validation.positive_integer("batch_size", batch_size)
    validation.parameters(network)
    x, y = network.check_data(x, y, keep_bytes=True, keep_sparse=True)
    batch_size = min(batch_size or len(x), len(x))
    trainer = OnlineTrainer(
        network, replace(optimizer, schedule=None), batch_size=batch_size, update_network=False,
        on_divergence="continue", threads=automatic_threads(network.architecture.multiply_adds(batch_size)),
    )  # fmt: skip
    rates = np.geomspace(lowest, highest, steps)
    losses, smoothed, mean = [], [], 0.0
    for rows, rate in zip(_batches(len(x), batch_size, seed), rates):
        trainer.learning_rate = rate
        losses.append(trainer._step_rows(x[rows], y[rows]))
        mean = SMOOTHING * mean + (1 - SMOOTHING) * losses[-1]
        smoothed.append(mean / (1 - SMOOTHING ** len(losses)))  # as if it had not started at 0
        best = min(smoothed)
        if not smoothed[-1] - best <= GROWTH_AT_THE_END * max(abs(best), smoothed[0] - best):
            break
    finite = len(smoothed) if np.isfinite(smoothed[-1]) else len(smoothed) - 1
    rates, losses, smoothed = rates[:finite], np.array(losses[:finite]), np.array(smoothed[:finite])
    return LearningRateRange(rates, losses, smoothed, _steepest(rates, losses, smoothed, steps))


def _batches(n, batch_size, seed):
    """Rows of one batch after the other without end, each pass over the rows in an order of its own; a batch
    of all rows takes them as they lie.
    """
    passes = 0
    while batch_size == n:
        yield slice(None)
    while True:
        order = random.permutation(seed, SHUFFLE, n, epoch=passes)
        for start in range(0, n - batch_size + 1, batch_size):
            yield order[start : start + batch_size]
        passes += 1


def _steepest(rates, losses, smoothed, steps):
    """The rate where the loss falls most before it is smallest, or None."""
    width = max(1, int(COMPARED * steps))
    least = int(np.argmin(smoothed)) if len(smoothed) else 0
    places = range(width, min(least, len(losses) - width) + 1)
    falls = [losses[at - width : at].mean() - losses[at : at + width].mean() for at in places]
    if not falls or max(falls) <= 0:
        return None
    return float(rates[places[int(np.argmax(falls))]])
