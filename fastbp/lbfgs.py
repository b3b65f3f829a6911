"""Training with L-BFGS: SciPy decides where to go, compiled code says what loss and gradient are there."""

import contextlib
import math
import time

import numpy as np

from .interrupts import NotLost
from .one_pass import INPUTS_AT_ONCE, options_of, places_of
from .training import SECONDS_INLINE, DivergenceError, Training, guess_seconds

# Rows are taken through the network in parts of about so many multiply-adds, of which the half that cannot
# be given up takes some milliseconds: so soon does Ctrl-C end an evaluation, and so little memory does it
# take. Parts of fewer rows than this would spend their time on reading and adding up large gradients. Results
# depend on both numbers, on neither threads nor machine.
WORK_OF_A_PART = 400_000_000
LEAST_ROWS_OF_A_PART = 256


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
        raise ImportError("fastbp.LBFGS needs SciPy: pip install 'fastbp[scipy]'") from None
    return minimize


class WholeBatch(Training):
    """A training by L-BFGS: an epoch is an iteration, its loss that after it, and `Data.epochs` are the most.

    Parameters
    ----------
    network : Network
    optimizer : LBFGS
    data : fastbp.data.Data
    history : History
        Its `threads` says how many to use.
    metrics, callbacks : see `Training`
    looks : bool
        Whether a loss that is infinite or NaN at the start is an error; from a finite one on, the line search
        steps back from such places.
    """

    def __init__(self, network, optimizer, data, history, *, metrics, callbacks, looks):
        super().__init__(
            network, None, None, data, history, metrics=metrics, callbacks=callbacks, identity=dict,
            looks=looks, device="cpu",
        )  # fmt: skip
        self._optimizer, self._decay = optimizer, _decay(network, optimizer)
        self._lowest = None  # (loss, place, gradient) of the best place so far
        self._before = math.nan  # what was minimised, an iteration before
        self._best, self._of_part = network.parameters.copy(), np.empty_like(network.parameters)

    # For callbacks

    @property
    def learning_rate(self):
        """None: L-BFGS has none."""
        return

    @learning_rate.setter
    def learning_rate(self, value):
        raise ValueError("LBFGS has no learning rate to be set: its line search says how far to go")

    @property
    def position(self):
        """(iterations, 0)."""
        return self.epoch, 0

    @property
    def step(self):
        """Iterations done."""
        return self.epoch

    def set_parameters(self, values):
        """Refuse.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(_NO_OTHER_WEIGHTS)

    def _take_what_was_written(self):
        if not np.array_equal(self.network.parameters, self._best, equal_nan=True):
            raise ValueError(_NO_OTHER_WEIGHTS)

    def collect(self):
        """Nothing to do: after an iteration the network has its weights."""

    # The run

    def _run(self, bar, conductor):
        """All iterations; whatever happens, the network has the weights of the last one then.

        Raises
        ------
        DivergenceError
            If the loss is infinite or NaN at the start.
        """
        network, (rows, self._parts) = self.network, self._cut()
        self._bar, self._row_losses = bar, np.empty(rows, network.dtype)
        self._short = guess_seconds(network.architecture, rows, rows) < SECONDS_INLINE
        options = options_of(self._data.x, self._data.y, self._data.weights)
        try:
            with contextlib.ExitStack() as stack:
                with NotLost():  # kernels may be compiled
                    plan = network._plan("gradient", rows, self.history.threads, **options)
                    self._plan = stack.enter_context(plan)
                self._interrupts = stack.enter_context(conductor(self._plan))
                for callback in self._callbacks:
                    self._started.append(callback)
                    callback.start(self)
                with contextlib.suppress(_Ended):
                    self._minimize()
                self.history.interrupted = self._interrupts.asked
        except BaseException:
            self.failed = True
            raise
        finally:
            network.parameters[:] = self._best
            bar.close()
            self._end()

    def _cut(self):
        """(the most rows of a part, [(x, y, weights, share of the loss)] of parts that count)."""
        architecture, data = self.network.architecture, self._data
        rows = max(LEAST_ROWS_OF_A_PART, WORK_OF_A_PART // max(1, architecture.multiply_adds(1)))
        rows = min(rows, data.n, max(1, INPUTS_AT_ONCE // architecture.sizes[0]))
        parts = []
        for first in range(0, data.n, rows):
            some = slice(first, first + rows)
            weights = None if data.weights is None else data.weights[some]
            y = data.y[some]
            counts = len(y) if weights is None else float(weights.sum(dtype=np.float64))
            if counts:
                parts.append((data.x[some], y, weights, counts))
        total = sum(counts for *_, counts in parts)
        return rows, [(*part, counts / total) for *part, counts in parts]

    def _minimize(self):
        """SciPy's whole work."""
        optimizer, epochs = self._optimizer, self.epochs
        options = dict(
            maxiter=epochs, maxfun=2**31 - 1, maxcor=optimizer.memory, maxls=optimizer.line_search,
            gtol=optimizer.gradient_tolerance, ftol=0.0,  # SciPy's is a share of no less than 1
        )  # fmt: skip
        self._clock = time.perf_counter()
        found = minimizer()(
            self._loss_and_gradient, self.network.parameters.astype(np.float64), jac=True, method="L-BFGS-B",
            callback=self._after_iteration, options=options,
        )  # fmt: skip
        if self.epoch < epochs:
            self.stop(_why(found))

    def _loss_and_gradient(self, vector):
        """What is minimised at a place, float64, and its gradient there.

        Where they are not finite, those of a cone around the best place so far, which rises three times as
        steeply as the loss fell there: SciPy's line search makes nothing of infinities.
        """
        self.network.parameters[:] = vector
        loss, gradient = self._over_all_rows()
        if self._looks and self._lowest is None and not math.isfinite(loss):
            raise DivergenceError(f"the loss is {loss} at the start", 1, (1, 1), self.history)
        loss, gradient = loss + self._penalty(vector), gradient + self._decay * vector
        if math.isfinite(loss) and np.isfinite(gradient).all():
            if self._lowest is None:
                self._before = loss
            if self._lowest is None or loss <= self._lowest[0]:
                self._lowest = loss, vector.copy(), gradient.copy()
        elif self._lowest is not None:
            lowest, place, slope = self._lowest
            away, steepness = vector - place, min(3 * _length(slope), 1e150)
            distance = _length(away)
            return lowest + steepness * distance, steepness / distance * away
        return loss, gradient

    def _over_all_rows(self):
        """(mean loss, its gradient) at the network's parameters: those of the parts, added up in float64."""
        plan, losses, loss, gradient = self._plan, np.zeros(1), 0.0, np.zeros(self._of_part.shape)
        plan.pack(self.network.parameters)
        for x, y, weights, share in self._parts:
            losses[0] = 0.0
            plan.set(
                order=0, losses=losses.ctypes.data, row_losses=self._row_losses.ctypes.data, outputs=0,
                epoch=0, first_epoch=0, last_epoch=1, shuffle=0, step=0, **places_of(x, y, weights),
            )  # fmt: skip
            self._run_part()
            plan.unpack(self._of_part)
            loss += share * float(losses[0] / len(y))
            gradient += share * self._of_part.astype(np.float64)
        return loss, gradient

    def _run_part(self):
        """The compiled call; one that was asked to end may have been given up."""
        if not self._interrupts.asked:
            self._interrupts.run(self._short, lambda steps: None)
        if self._interrupts.asked:
            raise _Ended

    def _penalty(self, vector):
        return 0.5 * float(self._decay @ (vector * vector))

    def _after_iteration(self, intermediate_result):
        """An iteration's row of the history, and its callbacks."""
        vector, before, self._before = intermediate_result.x, self._before, intermediate_result.fun
        self._best[:] = self.network.parameters[:] = vector
        loss, seconds = self._before - self._penalty(vector), time.perf_counter() - self._clock
        try:
            self._record(float(loss), seconds)
        except StopIteration as error:  # a callback's, which SciPy would take for a wish to end
            raise RuntimeError("a callback raised StopIteration") from error
        self._bar.show(self.epoch * self._n, self.history)
        least = self._optimizer.loss_tolerance * max(abs(before), abs(self._before))
        if before - self._before <= least and self.history.stopped is None and self.epoch < self.epochs:
            self.stop(_FELL_TOO_LITTLE)
        if self.history.stopped is not None or self._interrupts.asked:
            raise _Ended
        self._clock = time.perf_counter()


_NO_OTHER_WEIGHTS = (
    "LBFGS knows the loss by the places where it has been, so a callback cannot change its weights: "
    "end the training by stop(), change the network and train again"
)


class _Ended(BaseException):
    """Somebody asked to end; no `Exception`, which SciPy might take for its own."""


_FELL_TOO_LITTLE = "the loss fell by no more than loss_tolerance"


def _why(found):
    """Why SciPy ended before the last iteration, in words."""
    if found.status == 0 and "GRADIENT" in found.message:
        return "the gradient is within gradient_tolerance"
    if found.status == 0:
        return _FELL_TOO_LITTLE
    return "the line search found no better place"


def _length(vector):
    """The norm, also where squares would overflow."""
    largest = np.abs(vector).max()
    return largest * np.linalg.norm(vector / largest) if largest else 0.0


def _decay(network, optimizer):
    """The weight decay of each parameter, float64 (n_parameters,)."""
    decay = np.full(network.parameters.size, float(optimizer.weight_decay))
    if not optimizer.decay_biases:
        for layer in network._views(decay):
            for name, values in layer.learnt.items():
                if name != "W":
                    values[:] = 0.0
    return decay
