"""OnlineTrainer: training on rows as they come, one or many at a time."""

import ctypes
import math

import numpy as np

from . import validation
from .balance import labels_of, weights_by_class
from .cpu import team
from .interrupts import Interrupts, run_in_team
from .network import as_network
from .one_pass import form_of
from .optimizers import LBFGS, as_optimizer
from .plan import Plan
from .rates import single_steps
from .shaping import shaping_of
from .sparse import address_of, is_sparse
from .training import SECONDS_INLINE, DivergenceError, guess_seconds

_NEVER = object()
_FEW = 32  # so many numbers are summed faster than they are looked at one by one
_ROWS_TO_A_LOOK = 256  # after so many, calls look at the weights that the network has got


class OnlineTrainer:
    """Trains a network step by step, on rows as they come; it keeps its plan and the optimizer's state.

    Parameters
    ----------
    network : Network
        Its parameters are changed in place, by every call of `step`.
    optimizer : str or Optimizer
        There are no epochs, so a schedule must count steps, and say how many it takes.
    batch_size : int
        Most rows of a step; more rows in a call are several steps, in the order in which they come.
    update_network : bool
        Whether the network has the new weights after every call. Without, only `synchronize` brings them:
        for steps that are many, in networks whose copying would take longer than a step.
    on_divergence : {"raise", "continue"}
        What to do when the loss or the weights become infinite or NaN.
    threads : int
        One is the fastest for few rows.
    class_weight : dict or array-like (classes,), optional
        How much rows count by their class, as for `fastbp.train`; "balanced" needs all rows.

    Attributes
    ----------
    network : Network
    steps : int
        Steps so far; since the last divergence, if there was one.
    learning_rate : float
        The optimizer's; may be set.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of bounds, or a parameter of the network is not finite.

    Notes
    -----
    It is for the CPU: a row that comes to a GPU waits longer for its launches than a step takes here.

    A stream is a loop, ``for x, y in chunks: trainer.step(x, y)``: a chunk of many rows is one compiled call.
    `fastbp.train` takes streams as well, with validation and all that happens between epochs.

    Weights multiply: a row of weight 2 moves the parameters as if its loss were twice as large, the loss of a
    step being Σ wᵢ lᵢ / n. (`fastbp.train` divides by Σ wᵢ of the batch; a row that comes alone would then
    count the same whatever its weight.)

    The weights that are trained are a copy of the network's: after writing to ``network.parameters`` call
    `take_parameters`.

    pickle and copy.deepcopy of a trainer work: the copy has a network of its own, and goes on to the same
    bits.

    Examples
    --------
    >>> import fastbp
    >>> net = fastbp.Network([2, 8, 1], activation="tanh", seed=0)
    >>> trainer = OnlineTrainer(net, fastbp.Adam(0.01))
    >>> losses = [trainer.step([i % 7 - 3, i % 5 - 2], i % 7 - i % 5) for i in range(2000)]
    >>> sum(losses[:100]) > 20 * sum(losses[-100:]), trainer.steps
    (True, 2000)
    """

    def __init__(
        self, network, optimizer="sgd", *, batch_size=32, update_network=True, on_divergence="raise",
        threads=1, class_weight=None,
    ):  # fmt: skip
        options = dict(locals())
        del options["self"]
        self._set_up(**options)
        if self._looks:
            validation.parameters(network)

    def _set_up(
        self, network, optimizer, batch_size, update_network, on_divergence, threads, class_weight
    ):  # fmt: skip
        as_network(network)
        self.network, self._optimizer = network, as_optimizer(optimizer)
        if isinstance(self._optimizer, LBFGS):
            raise ValueError("LBFGS needs all rows at once, so it cannot train online")
        self._batch_size = validation.positive_integer("batch_size", batch_size)
        self._threads = validation.threads(threads)
        self._updates = validation.boolean("update_network", update_network)
        validation.known_name("on_divergence", on_divergence, ("raise", "continue"))
        self._looks = on_divergence == "raise"
        architecture, self._dtype = network.architecture, network.dtype
        self._n_in, self._n_out = architecture.sizes[0], architecture.sizes[-1]
        self._loss = network.loss_function.formula
        self._kind = self._loss.targets
        self._by_class = self._check_class_weight(class_weight)
        self._options = dict(
            optimizer=self._optimizer, batch_size=self._batch_size, update_network=self._updates,
            on_divergence=on_divergence, threads=self._threads, class_weight=class_weight,
        )  # fmt: skip
        self._weight = np.ones(1, self._dtype)
        self._row, self._losses = np.empty(self._n_in, self._dtype), np.zeros(1)
        self._row_losses = np.empty(self._batch_size, self._dtype)
        self._target = np.empty(self._n_out, self._dtype)
        self._class, self._largest = np.empty(1, np.int64), float(np.finfo(self._dtype).max)
        self._finite, self._rows_to_a_look = network.parameters.copy(), _ROWS_TO_A_LOOK
        self._rates, self._plan = single_steps(self._optimizer, network), None
        self._make_plan("classes", "numbers", class_weight is not None)

    def _check_class_weight(self, class_weight):
        """(classes, weight of each), or None."""
        if class_weight is None:
            return None
        if isinstance(class_weight, str):
            raise ValueError(
                "class_weight must be a dict or a number for each class, as rows come one by one; "
                f"got {class_weight!r}"
            )
        if self._kind not in ("classes", "binary", "sign") or (self._kind != "classes" and self._n_out > 1):
            raise ValueError("class_weight needs a loss whose targets are one class for each row")
        return weights_by_class(class_weight, self._loss, self._n_out)

    def _make_plan(self, targets, data, weighted):
        """A plan for these kinds of targets and rows, with what the steps left in the one before.

        It is there as a whole or not at all, should something interrupt this.
        """
        before, architecture = self._plan, self.network.architecture
        plan = Plan(
            architecture, "train", self._batch_size, self._threads, optimizer=self._optimizer.formula,
            targets=targets, data=data, shaping=shaping_of(self.network), **self._rates.options,
            weighted="as they are" if weighted else False,
        )  # fmt: skip
        self._rates.set(plan)
        plan.set(
            order=0, shuffle=0, seed=np.uint64(self.network.seed).astype(np.int64), step=0, epoch=0,
            first_epoch=0, last_epoch=1,
            row_losses=self._row_losses.ctypes.data, losses=self._losses.ctypes.data,
        )  # fmt: skip
        if before is None:
            plan.pack(self.network.parameters)
        else:
            self._restore(plan, self._kept(before))
        run, unpack = plan.bound()
        at = plan.contexts.dtype.fields["epoch"][1]
        epochs = [ctypes.c_int64.from_address(address + at) for address in plan.contexts["address"].tolist()]
        no_weight = _NEVER if weighted else None  # the weight that needs no look
        self.__dict__.update(
            _plan=plan, _run=run, _unpack=unpack, _epochs=epochs, _targets=targets, _data=data,
            _weighted=weighted, _no_weight=no_weight, _set_to_one_row=False,
        )  # fmt: skip

    def _kept(self, plan):
        """All that the steps so far have left in a plan."""
        weights = np.empty_like(self.network.parameters)
        self._set_to_one_row = False  # so that the next step says again where the network is
        plan.unpack(weights)
        steps = int(plan.contexts[0]["step"])
        settings = plan.settings.copy(), self._rates.state(plan)
        return dict(weights=weights, states=plan.states(), settings=settings, steps=steps)

    def _restore(self, plan, kept):
        plan.pack(kept["weights"])
        plan.set(host=self.network.parameters.ctypes.data, step=kept["steps"])
        plan.set_states(kept["states"])
        plan.settings[...], rates = kept["settings"]
        self._rates.restore(plan, rates)

    def __getstate__(self):
        form = dict(targets=self._targets, data=self._data, weighted=self._weighted)
        return dict(network=self.network, options=self._options, form=form, kept=self._kept(self._plan))

    def __setstate__(self, state):
        self._set_up(state["network"], **state["options"])
        self._make_plan(**state["form"])
        self._restore(self._plan, state["kept"])

    @property
    def steps(self):
        """Steps so far."""
        return int(self._plan.contexts[0]["step"])

    @property
    def learning_rate(self):
        """The optimizer's, as its schedule has it in the latest step; may be set, which multiplies what the
        schedule has still in store too.
        """
        return self._rates.at_end_of(self._plan, self.steps, self.steps)

    @learning_rate.setter
    def learning_rate(self, value):
        value = validation.real_number("learning_rate", value, above=0)
        self._rates.change(self._plan, value, self.steps, self.steps)

    def step(self, x, y, sample_weight=None):
        """Train on a row, or on rows in their order.

        Parameters
        ----------
        x : array-like (n_inputs,) or (n, n_inputs)
            Sparse rows of SciPy stay sparse: those of a batch at a time become dense.
        y : array-like
            The row's target: a number, a class, or (n_outputs,); or the rows' targets, see `Network.loss`.
        sample_weight : float or array-like (n,), optional
            What the loss of the row, or of each row, is multiplied by, at least 0.

        Returns
        -------
        float
            Mean loss over the rows, each as it was when its step came, and times its weight.

        Raises
        ------
        TypeError, ValueError
            If x or y does not fit the network, or a weight is no number of at least 0; nothing is changed
            then.
        DivergenceError
            If the loss or the weights became infinite or NaN. The network has the weights from before the
            call; where those had overflowed and no loss had shown it yet, the latest that were looked at,
            within some hundred rows; without `update_network` those of the last `synchronize`. Training may
            go on from them, with the optimizer's state, its steps and so its schedule anew.
        KeyboardInterrupt
            After Ctrl-C while many rows are trained on; the network has the weights of the last whole step,
            or gets them by `synchronize`.

        Notes
        -----
        An array (n_inputs,) of the network's dtype with a class, or with a target of that dtype, goes the
        shortest way. From sparse rows to others and back, or from classes to probabilities, takes a while
        each time, as the program is laid out anew.
        """
        fits = type(x) is np.ndarray and x.shape == self._row.shape and x.dtype == self._dtype
        if (
            fits
            and self._takes(y)
            and _all_finite(x)
            and (sample_weight is self._no_weight or self._takes_weight(sample_weight))
        ):
            self._row[...] = x
            if not self._set_to_one_row:
                self._point_to_one_row()
            return self._train(1, self._run if self._threads == 1 else self._run_interruptibly)
        x, y = self._rows(x, y)
        return self._step_rows(x, y, self._weights(sample_weight, y))

    def _takes(self, y):
        """Whether y is a target of one row that needs no more checks; it is in its place then."""
        kind = self._kind
        if kind == "classes":
            if self._targets != "classes" or not isinstance(y, (int, np.integer)) or not 0 <= y < self._n_out:
                return False
            self._class[0] = y
            return type(y) is not bool
        if type(y) is np.ndarray:
            if y.shape != self._target.shape or y.dtype != self._dtype or kind != "real":
                return False
            self._target[...] = y
            return _all_finite(y)
        if self._n_out != 1 or not isinstance(y, (float, np.floating)) or kind != "real":
            return False
        if not abs(y) <= self._largest:
            return False
        self._target[0] = y
        return True

    def _takes_weight(self, weight):
        """Whether this is a weight of one row that needs no more checks; its product with that of the row's
        class is in its place then.
        """
        weight = 1.0 if weight is None else weight
        if not self._weighted or not isinstance(weight, (float, np.floating)):
            return False
        if self._by_class is not None:
            if self._kind != "classes":
                return False
            weight = weight * self._by_class[1][self._class[0]]
        if not 0 <= weight <= self._largest:
            return False
        self._weight[0] = weight
        return True

    def _weights(self, sample_weight, y):
        """What rows count, checked; None where nobody asked."""
        if sample_weight is None and self._by_class is None:
            return None
        weights, check = np.ones(len(y)), dict(n=len(y), dtype=self._dtype, all_may_be_0=True)
        if sample_weight is not None:
            one = np.ndim(sample_weight) == 0 and len(y) == 1
            weights = validation.weights("sample_weight", [sample_weight] if one else sample_weight, **check)
        if self._by_class is not None:
            classes, table = self._by_class
            by_row = table[np.searchsorted(classes, labels_of(y, self._loss, "class_weight"))]
            weights = validation.weights("weights of rows", weights * by_row, **check)
        return weights

    def _point_to_one_row(self):
        if self._data != "numbers":
            self._make_plan(self._targets, "numbers", self._weighted)
        target = self._class if self._kind == "classes" else self._target
        self._plan.set(x=self._row.ctypes.data, targets=target.ctypes.data, n_rows=1)
        self._plan.set(weights=self._weight.ctypes.data, host=self.network.parameters.ctypes.data)
        self._set_to_one_row = True

    def _rows(self, x, y):
        """Anything that `step` takes, as rows and targets that are checked."""
        validation.not_masked("x", x)
        validation.not_masked("y", y)
        a = x if is_sparse(x) else np.asarray(x)
        one = a.ndim < 2 and a.size == self._n_in and (self._n_in > 1 or np.size(y) in (1, self._n_out))
        if is_sparse(x):  # one row of a matrix is a matrix
            one = a.shape == (self._n_in,) or (a.shape == (1, self._n_in) and np.ndim(y) == 0)
        if one:
            y = np.asarray(y)
            x, y = a.reshape(1, -1), y if y.ndim == 2 else y[None]
        return self.network.check_data(x, y, keep_sparse=True)

    def _step_rows(self, x, y, weights=None):
        targets = "classes" if y.ndim == 1 or self._kind != "classes" else "probabilities"
        data = form_of(x).get("data", "numbers")
        if (targets, data) != (self._targets, self._data) or (weights is not None and not self._weighted):
            self._make_plan(targets, data, self._weighted or weights is not None)
        n, plan = len(x), self._plan
        if weights is None and self._weighted:
            weights = np.ones(n, self._dtype)
        self._set_to_one_row = False  # first, as what follows may be interrupted
        plan.set(x=address_of(x), targets=y.ctypes.data, n_rows=n)
        plan.set(
            weights=0 if weights is None else weights.ctypes.data, host=self.network.parameters.ctypes.data
        )
        short = guess_seconds(self.network.architecture, n, plan.batch_size) < SECONDS_INLINE
        if self._threads == 1 and short:
            return self._train(n, self._run)
        return self._train(n, self._run_interruptibly)

    def _run_interruptibly(self):
        try:
            with Interrupts(self._plan, nests=False) as interrupts:
                run_in_team(self._plan, interrupts, lambda steps: None)
        finally:  # rows that are left are not gone on with
            self._plan.reset()
            self._plan.set(begin=0)
        if interrupts.asked:
            if self._updates:
                self.synchronize()
            raise KeyboardInterrupt

    def _train(self, n, run):
        """One call of the compiled program; returns the mean loss."""
        for epoch in self._epochs:
            epoch.value = 0
        self._losses[0] = 0.0
        if run():
            raise RuntimeError(team.RAISED)
        loss = self._losses.item() / n
        if self._looks and not math.isfinite(loss):
            raise self._divergence(f"the loss became {loss}", n)
        if self._updates:
            self._unpack()
            self._rows_to_a_look -= n
            if self._rows_to_a_look <= 0:
                self._look_at_weights(n)
        return loss

    def _look_at_weights(self, n):
        """Remember those that the network has just got; DivergenceError where one is not finite."""
        self._rows_to_a_look = _ROWS_TO_A_LOOK
        if self._looks:
            finite = np.isfinite(self.network.parameters)
            if not finite.all():
                raise self._divergence(f"a weight became {self.network.parameters[~finite][0]}", n)
            self._finite[:] = self.network.parameters

    def _divergence(self, what, n):
        """Go back to weights that are finite, the network's if they are, and say what happened."""
        last, parameters = self.steps, self.network.parameters
        if not validation.all_finite(parameters):
            parameters[:] = self._finite
        self._plan.pack(parameters)
        self._plan.set_states(np.zeros_like(self._plan.states()))
        self._plan.set(step=0)
        first = max(1, last - -(-n // self._batch_size) + 1)
        return DivergenceError(what, None, (first, last), None)

    def synchronize(self):
        """Bring the weights to the network, where `step` does not.

        Raises
        ------
        DivergenceError
            If one is infinite or NaN; as by `step`.
        """
        self._plan.unpack(self.network.parameters)
        self._look_at_weights(1)

    def take_parameters(self):
        """Go on from the weights that the network has now, after somebody wrote to them.

        Raises
        ------
        ValueError
            If one is not finite, and divergence is an error; the trainer goes on from what it has then.
        """
        if self._looks:
            validation.parameters(self.network)
            self._finite[:] = self.network.parameters
        self._plan.pack(self.network.parameters)


def _all_finite(a):
    """Whether numbers are finite; of few that are, now and then False where their sum overflows."""
    if a.size <= _FEW:
        return math.isfinite(sum(a.tolist()))
    return np.count_nonzero(np.isfinite(a)) == a.size
