"""The network: its parameters, and what can be asked of it."""

import numpy as np

from . import one_pass, own_activations, validation
from .architecture import architecture_of
from .balance import row_weights
from .division import automatic_threads
from .formulas import activations
from .initializers import INITIALIZERS
from .kept_plans import BorrowedPlan, KeptPlans
from .layers import Dense, as_layers, place
from .layout import aligned_zeros
from .losses import as_loss
from .metrics import as_metrics, measure
from .plan import Plan
from .random import fresh_seed
from .sparse import SparseRows
from .views import Gradient, views_of

# Up to this many rows are predicted from the host's own parameters, without packing them.
FEW_ROWS = 8

# Elements behind the flat vector that kernels may read, never use: they read rows of W to whole vectors.
_MARGIN = 64


class Network:
    """A feed-forward network: x -> layers -> logits -> the loss's link -> prediction.

    Parameters
    ----------
    layers : sequence of int or of layers
        Sizes, the number of inputs first: ``[64, 32, 10]``; or layers (`Dense`, `Dropout`, `LayerNorm`,
        `BatchNorm`, `Activation`, `Residual`), with the number of inputs given by `inputs`.
    inputs : int, optional
        Number of inputs, where `layers` are layers.
    activation : str
        Of the hidden layers, where `layers` are sizes.
    output_activation : str
        Of the last layer, where `layers` are sizes. The loss's link comes after it, so it is not that link.
    loss : str or Loss
        What to train for. It owns the link from logits to predictions: softmax for softmax_cross_entropy,
        sigmoid for binary_cross_entropy, the exponential for poisson, otherwise none.
    dtype : {"float32", "float64"}
        Type of parameters and arithmetic.
    seed : int, optional
        Where the initial parameters come from; without one a fresh seed is drawn, see the attribute.
    input_scale : float
        What all inputs are multiplied by, in training and ever after; above 0 and at most 1. With 1/255
        images go in as bytes and are numbers from 0 to 1 inside. A property of the network, kept in its
        files, so a number is the same input whatever type of array it comes in.

    Attributes
    ----------
    parameters : array (n_parameters,)
        All parameters, layer by layer, W in rows and then b. Writable; `layers` hold views into it.
    layers : tuple of Layer
        With ``W (n_in, n_out)``, ``b (n_out,)``, ``activation``, ``n_in``, ``n_out``, ``name``, ``kind``.
    loss_function : Loss
    dtype : numpy.dtype
    seed : int
        Where weights, orders and masks come from. May be set, to any that `Network` takes.
    input_scale : float

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, or a size, name or number that is not known or allowed.

    Notes
    -----
    Arrays of uint8 (n, n_inputs) are used as they are, at a byte an element, a memory-mapped one too; all
    else becomes `dtype` first. Sparse rows of SciPy stay sparse: some at a time
    become dense, where they are worked on. A byte becomes a number of `dtype`, and its product with the
    scale, which is rounded to `dtype`, is rounded once: in NumPy
    ``x.astype(dtype) * dtype.type(input_scale)``.

    Examples
    --------
    >>> net = Network([2, 3, 1], activation="tanh", loss="mean_squared_error", seed=0)
    >>> net
    Network(2 → 3 tanh → 1, mean_squared_error, 13 parameters, float32)
    >>> net.predict([[0.5, -0.5], [1.0, 0.0]]).shape
    (2, 1)
    """

    def __init__(
        self, layers, *, inputs=None, activation="relu", output_activation="identity",
        loss="mean_squared_error", dtype="float32", seed=None, input_scale=1.0,
    ):  # fmt: skip
        described, n_inputs = as_layers(layers, inputs, activation, output_activation)
        dtype = validation.real_dtype(dtype)
        self._describe(described, n_inputs, as_loss(loss), dtype, validation.input_scale(input_scale, dtype))
        validation.no_link_twice(self._loss_function, described)
        for each in (self._loss_function, *(placed.layer for placed in self._placed)):
            validation.numbers_in(dtype, each, [getattr(each, name, 0) for name in ("option", "epsilon")])
        self.seed = fresh_seed() if seed is None else seed
        self._initialize()

    def _initialize(self):
        """Draw the parameters: each array has a stream of its own."""
        stream = 0
        for layer, placed in zip(self.layers, self._placed, strict=True):
            for parameter in placed.layer.parameters(placed.n_in):
                shape = parameter.shape if len(parameter.shape) == 2 else (1, *parameter.shape)
                values = INITIALIZERS[parameter.initializer](*shape, self.seed, stream)
                getattr(layer, parameter.name)[:] = values.reshape(parameter.shape)
                stream += 1

    @classmethod
    def _bare(cls, described, n_inputs, loss, dtype, input_scale, seed):
        """A network whose parameters are 0, without an initialisation that would be overwritten."""
        network = cls.__new__(cls)
        network._describe(described, n_inputs, loss, dtype, input_scale)
        network.seed = seed
        return network

    def _describe(self, described, n_inputs, loss, dtype, input_scale):
        """Everything but the values of the parameters, which are zero."""
        self._loss_function, self._dtype, self._described = loss, dtype, tuple(described)
        self._placed = place(self._described, n_inputs)
        self._architecture = architecture_of(self._placed, n_inputs, loss, dtype, input_scale)
        n = self.architecture.parameter_offsets()[-1]
        self._parameters = aligned_zeros((n + _MARGIN) * dtype.itemsize).view(dtype)[:n]
        self._layers = self._views(self.parameters)
        self._plans, self._replacements = KeptPlans(self.architecture), own_activations.replacements
        self._row_predictors = []
        self._row_shapes = {(1, n_inputs), (n_inputs,)} - {(1,)}  # one number is a column, of one row

    # What kernels rely on is fixed; the numbers in `parameters` may be written at any time.
    @property
    def parameters(self):
        """All parameters, (n_parameters,)."""
        return self._parameters

    @parameters.setter
    def parameters(self, vector):
        if vector is not self._parameters:  # as it is after net.parameters *= 2
            raise AttributeError(
                "the vector of parameters stays; net.parameters[:] = values changes what it holds"
            )

    @property
    def seed(self):
        """Where weights, orders and masks come from; may be set."""
        return self._seed

    @seed.setter
    def seed(self, value):
        self._seed = validation.seed(value)

    layers = property(lambda self: self._layers, doc="The layers, with views into `parameters`.")
    loss_function = property(lambda self: self._loss_function, doc="The `Loss`.")
    dtype = property(lambda self: self._dtype, doc="The type of the numbers.")
    architecture = property(lambda self: self._architecture, doc="What a plan needs to know.")
    input_scale = property(lambda self: self.architecture.input_scale, doc="What inputs are multiplied by.")

    def _views(self, vector):
        """The layers, with their parameters (or gradients of them) as views into a flat vector."""
        return views_of(self._placed, vector)

    # What can be asked

    def __call__(self, x):
        """Predict; the same as `predict`."""
        return self.predict(x)

    def predict(self, x, *, device="cpu"):
        """Outputs after the loss's link: probabilities or values.

        Parameters
        ----------
        x : array-like (n, n_inputs), or one row (n_inputs,)
            Of one input, (n,) are n rows.
        device : {"cpu", "cuda"}
            Where to compute, to the same bits; see `fastbp.train`.

        Returns
        -------
        array (n, n_outputs), or (n_outputs,) for one row

        Raises
        ------
        TypeError, ValueError
            If x has another shape, or holds anything but finite numbers.
        RuntimeError
            If `device` is "cuda" and numba-cuda, a GPU or its driver is missing.
        """
        if device != "cpu" and validation.device(device) == "cuda":  # no check on the way of one row
            return self._outputs_on_device("predict", x)
        if type(x) is np.ndarray and x.dtype == self.dtype and x.shape in self._row_shapes:
            predicted = self._predict_row(x)
            if predicted is not None:
                return predicted
        return self._outputs("predict", x)

    def logits(self, x, *, device="cpu"):
        """Outputs before the loss's link.

        Parameters
        ----------
        x : array-like (n, n_inputs), or one row (n_inputs,)
            Of one input, (n,) are n rows.
        device : {"cpu", "cuda"}
            Where to compute, to the same bits; see `fastbp.train`.

        Returns
        -------
        array (n, n_outputs), or (n_outputs,) for one row

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `predict`.
        """
        if validation.device(device) == "cuda":
            return self._outputs_on_device("logits", x)
        return self._outputs("logits", x)

    def loss(self, x, y, *, sample_weight=None, device="cpu"):
        """Mean loss over rows of data.

        Parameters
        ----------
        x : array-like (n, n_inputs)
        y : array-like
            Targets of the loss's kind: (n, n_outputs), (n,) where there is one output, or for
            softmax_cross_entropy integer classes (n,) or probabilities (n, n_outputs).
        sample_weight : array-like (n,), optional
            How much each row counts, at least 0: the mean is Σ wᵢ lᵢ / Σ wᵢ.
        device : {"cpu", "cuda"}
            Where to compute, to the same bits; see `fastbp.train`.

        Returns
        -------
        float

        Raises
        ------
        TypeError, ValueError
            If shapes do not fit, or values are not finite or not of the loss's kind, or weights are negative
            or all 0.
        RuntimeError
            If `device` is "cuda" and numba-cuda, a GPU or its driver is missing.
        """
        x, y = self.check_data(x, y, keep_bytes=True, keep_sparse=True)
        return self._evaluator([], x, y, self._check_weights(sample_weight, y), device)()["loss"]

    def penalty(self):
        """Σ over layers of l1 · Σ |W| + l2 · Σ W², which training adds to the loss; see `Dense`.

        Returns
        -------
        float
        """
        return float(
            sum(
                placed.layer.l1 * np.abs(layer.W, dtype=np.float64).sum()
                + placed.layer.l2 * np.square(layer.W, dtype=np.float64).sum()
                for placed, layer in zip(self._placed, self.layers, strict=True)
                if isinstance(placed.layer, Dense) and (placed.layer.l1 or placed.layer.l2)
            )
        )

    def gradient(self, x, y, *, sample_weight=None, batch_statistics=False, inputs=None, device="cpu"):
        """Mean loss over rows of data, and its gradient.

        Parameters
        ----------
        x, y, sample_weight : see `loss`
        batch_statistics : bool
            Whether `BatchNorm` layers use mean and variance of these rows, as in training, rather than the
            running ones, as elsewhere.
        inputs : bool, optional
            Whether to compute the gradient with respect to x too, as large as x and dense; by default where x
            is not sparse.
        device : {"cpu", "cuda"}
            Where to compute, to the same bits; see `fastbp.train`.

        Returns
        -------
        loss : float
        gradient : Gradient
            ``parameters`` (flat), ``layers[i].W``, ``.b`` … (views into it), ``inputs`` (n, n_inputs) or
            None: with respect to x as it is given, before `input_scale`.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `loss`.

        Notes
        -----
        Many wide sparse rows, of 2²⁴ inputs and more, are taken in parts, whose gradients are added up in
        float64: their bits are not those of dense rows. Not where `inputs` or `batch_statistics` are wanted.
        """
        x, y = self.check_data(x, y, keep_bytes=True, keep_sparse=True)
        weights, n = self._check_weights(sample_weight, y), len(x)
        where = validation.device(device)
        if where == "cpu":
            where = automatic_threads(self.architecture.multiply_adds(n), steps=1)
        sparse = type(x) is SparseRows
        inputs = not sparse if inputs is None else validation.boolean("inputs", inputs)
        options = {"inputs": True} if inputs else {}
        if validation.boolean("batch_statistics", batch_statistics):
            options["batch_statistics"] = True
        options |= one_pass.options_of(x, y, weights)
        rows = max(1, one_pass.INPUTS_AT_ONCE // x.shape[1])
        flat, d_inputs = np.empty_like(self.parameters), np.empty(x.shape, self.dtype) if inputs else None
        if sparse and n > rows and not (inputs or batch_statistics):
            loss, flat[:] = self._gradient_in_parts(x, y, weights, rows, where, options)
        else:
            with self._plan("gradient", n, where, **options) as plan:
                losses = one_pass.run_over(plan, self, x, y, outputs=d_inputs, weights=weights)
                plan.unpack(flat)
            loss = float(losses[0] / n)
        return loss, Gradient(flat, self._views(flat), d_inputs)

    def _gradient_in_parts(self, x, y, weights, rows, where, options):
        """(loss, flat gradient, float64) of so many rows at a time, added up."""
        flat, total, loss, part = np.zeros(self.parameters.shape), 0.0, 0.0, np.empty_like(self.parameters)
        with self._plan("gradient", rows, where, **options) as plan:
            for first in range(0, len(x), rows):
                some = slice(first, first + rows)
                of_rows = None if weights is None else weights[some]
                count = len(y[some]) if weights is None else float(of_rows.sum(dtype=np.float64))
                if count:
                    losses = one_pass.run_over(plan, self, x[some], y[some], weights=of_rows)
                    plan.unpack(part)
                    loss, total = loss + count * float(losses[0]) / len(y[some]), total + count
                    flat += count * part.astype(np.float64)
        return loss / total, flat / total

    def evaluate(self, x, y, metrics=None, *, sample_weight=None, device="cpu"):
        """How well the network does on rows of data.

        Parameters
        ----------
        x, y, sample_weight : see `loss`; metrics count rows by their weights too, as scikit-learn's do
        metrics : sequence of str or callable, optional
            Names in ``fastbp.metrics.METRICS``, "top_3_accuracy" and the like, or functions (targets,
            predictions) -> float, which are given the targets as kernels take them and the predictions
            (n, n_outputs), and weights as ``sample_weight=`` if they have a parameter of that name. By
            default accuracy where the targets are classes, signs or zeros and ones: the
            share of rows (of outputs, where each is a yes or no of its own) that are predicted right.
        device : {"cpu", "cuda"}
            Where loss and predictions are computed, to the same bits; metrics are NumPy's.

        Returns
        -------
        dict
            ``loss``, and each metric under its name.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `loss`, or if a metric is not known or cannot measure the targets of the network's loss.

        Examples
        --------
        >>> net = Network([2, 3, 1], seed=0)
        >>> sorted(net.evaluate([[0, 1], [1, 0]], [1, 0], metrics=["r2", "mean_absolute_error"]))
        ['loss', 'mean_absolute_error', 'r2']
        """
        kind = self.loss_function.formula.targets
        if metrics is None:
            metrics = ["accuracy"] if kind in ("classes", "binary", "sign") else []
        metrics = as_metrics(metrics, self.loss_function.formula)
        x, y = self.check_data(x, y, keep_bytes=True, keep_sparse=True)
        weights = self._check_weights(sample_weight, y)
        return self._evaluator(metrics, x, y, weights, device)()

    def compiled(self, optimizer=None, *, batch_size=1, weighted=False):
        """Functions for your own ``@numba.njit`` code: prediction and, with an optimizer, a step of training.

        Parameters
        ----------
        optimizer : str or Optimizer, optional
            What `step` trains with; a schedule of its must count steps.
        batch_size : int
            Most rows of a `step`.
        weighted : bool
            Whether `step` takes weights of rows too, by which their losses are multiplied.

        Returns
        -------
        CompiledNetwork
            ``predict_into(x, y)``, ``step(x, y)``, or ``step(x, y, weights)``, and ``take_parameters()``;
            none allocates, and all may be called from compiled code and from Python.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or out of bounds.

        Notes
        -----
        Code that calls them cannot be cached by Numba, as they know memory of this process.

        Examples
        --------
        >>> from numba import njit
        >>> net = Network([2, 8, 1], activation="tanh", seed=0)
        >>> predict_into = net.compiled().predict_into
        >>> @njit
        ... def follow(state, out, steps):
        ...     for _ in range(steps):
        ...         predict_into(state, out)
        ...         state[0] += 0.1 * state[1]
        ...         state[1] += 0.1 * out[0]
        >>> state, out = np.ones(2), np.zeros(1)
        >>> follow(state, out, 100)
        >>> bool(np.isfinite(state).all())
        True
        """
        from .compiled import compile_network

        return compile_network(self, optimizer, batch_size, weighted)

    def save(self, path):
        """Write architecture and parameters to a ``.safetensors`` file; `fastbp.load` reads it.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        OSError
            If the file cannot be written; an older file of that name stays as it was.
        """
        from .storage import save

        save(self, path)

    def summary(self):
        """A table of the layers as text: outputs, activation, parameters.

        Returns
        -------
        str
            Some lines, the last one without an end.
        """
        rows = [("layer", "inputs", "outputs", "activation", "parameters")]
        for layer, placed in zip(self.layers, self._placed, strict=True):
            count = sum(array.size for array in layer.arrays.values())
            what = layer.activation if layer.kind == "Dense" else placed.layer.label
            if layer.kind == "Residual":
                what = "x + f(x)"
            rows.append((layer.name, f"{layer.n_in:,}", f"{layer.n_out:,}", what, f"{count:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if i in (1, 2, 4) else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        lines.insert(1, "  ".join("─" * width for width in widths))
        formula = self.loss_function.formula
        if self.input_scale != 1:
            lines.append(f"inputs are multiplied by {self.input_scale:.6g}")
        lines.append(f"loss: {self.loss_function.name}, link: {formula.link_name}")
        lines.append(
            f"{self.parameters.size:,} parameters, {self.dtype.name}, {_bytes(self.parameters.nbytes)}"
        )
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self):
        scale = "" if self.input_scale == 1 else f" × {self.input_scale:.4g}"
        stages = [f"{self.architecture.sizes[0]}{scale}", *(layer.label for layer in self._described)]
        return (
            f"Network({' → '.join(stages)}, {self.loss_function.name}, "
            f"{self.parameters.size:,} parameters, {self.dtype.name})"
        )

    # How it is answered

    def check_data(self, x, y, *, keep_bytes=False, keep_sparse=False):
        """Rows and targets in the form that kernels take.

        Parameters
        ----------
        x : array-like (n, n_inputs)
        y : array-like
            Targets of the network's loss, see `loss`.
        keep_bytes, keep_sparse : bool
            Whether uint8 stays uint8, and sparse rows stay sparse.

        Returns
        -------
        x : array (n, n_inputs) of the network's dtype, or uint8; or SparseRows
        y : array (n, n_outputs) of the network's dtype, or int64 classes (n,)
            Both are what was given, or views of it, if that is of the form already.

        Raises
        ------
        TypeError, ValueError
            As `loss`.
        """
        keep = dict(keep_bytes=keep_bytes, keep_sparse=keep_sparse)
        x = validation.inputs(x, self.architecture.sizes[0], self.dtype, **keep)
        y = validation.targets(y, len(x), self.architecture.sizes[-1], self.loss_function.formula, self.dtype)
        return x, y

    def _check_weights(self, sample_weight, y):
        """Weights in the form that kernels take, or None."""
        return row_weights(
            sample_weight, None, y, self.loss_function.formula, self.architecture.sizes[-1], self.dtype
        )

    def _predict_row(self, x):
        """One row, by the shortest way from Python to the kernels; None where it is not finite."""
        self._forget_replaced_activations()
        try:
            predictor = self._row_predictors.pop()
        except IndexError:
            predictor = self._new_row_predictor()
        row, run, out, _ = predictor
        row[...] = x
        failed = run()
        predicted = (out if x.ndim == 1 else out[None]).copy()
        self._row_predictors.append(predictor)
        return None if failed else predicted

    def _new_row_predictor(self):
        """(array for the row, function, array of the outputs, plan): one for each thread of the caller's."""
        plan = Plan(self.architecture, "predict", 1, unpacked=True, staged=True)
        out = np.empty(self.architecture.sizes[-1], self.dtype)
        plan.set(host=self.parameters.ctypes.data, outputs=out.ctypes.data)
        return (*plan.stage(), out, plan)

    def _outputs(self, task, x):
        n_inputs, n_outputs = self.architecture.sizes[0], self.architecture.sizes[-1]
        ready = validation.has_form(x, (n_inputs,), self.dtype)  # the kernels see whether all is finite
        rows = x
        if not ready:
            keep = dict(row=True, keep_bytes=True, keep_sparse=True)
            rows = validation.inputs(x, n_inputs, self.dtype, **keep)
        n = len(rows)
        out = np.empty((n, n_outputs), self.dtype)
        few = n <= FEW_ROWS
        threads = 1 if few else automatic_threads(self.architecture.multiply_adds(n) // 3, steps=1)
        options = dict(unpacked=few, **one_pass.form_of(rows))
        with self._plan(task, FEW_ROWS if few else 2**31 - 1, threads, **options) as plan:
            plan.set(batch_size=n, not_finite=0)
            one_pass.run_over(plan, self, rows, None, outputs=out)
            if plan.contexts["not_finite"].any():
                validation.inputs(x, n_inputs, self.dtype)  # says where
        return out[0] if np.ndim(x) == 1 and n_inputs != 1 else out

    def _outputs_on_device(self, task, x):
        n_inputs, n_outputs = self.architecture.sizes[0], self.architecture.sizes[-1]
        rows = validation.inputs(x, n_inputs, self.dtype, row=True, keep_bytes=True, keep_sparse=True)
        out = np.empty((len(rows), n_outputs), self.dtype)
        at_once = min(len(rows), one_pass.ROWS_ON_DEVICE)
        with self._plan(task, at_once, "cuda", **one_pass.form_of(rows)) as plan:
            one_pass.run_over(plan, self, rows, None, outputs=out)
        return out[0] if np.ndim(x) == 1 and n_inputs != 1 else out

    def _loss(self, x, y, weights=None):
        threads = automatic_threads(self.architecture.multiply_adds(len(x)) // 3, steps=1)
        with self._plan("loss", 2**31 - 1, threads, **one_pass.options_of(x, y, weights)) as plan:
            plan.set(batch_size=len(x))
            losses = one_pass.run_over(plan, self, x, y, weights=weights)
        return float(losses[0] / len(x))

    def _evaluator(self, metrics, x, y, weights, device):
        """A function without arguments: loss and metrics, a dict, of the network as it is at the call.

        Rows, targets and weights were checked; on a GPU they lie from now on.
        """
        if validation.device(device) == "cuda":
            run = one_pass.on_device(self, "evaluate" if metrics else "loss", x, y, weights)
        else:
            run = lambda: (self._loss(x, y, weights), self._outputs("predict", x) if metrics else None)
        return self._by_name(run, metrics, y, weights)

    def _by_name(self, run, metrics, y, weights):
        """A function like `run`, which returns (loss, predictions): loss and metrics, a dict."""

        def evaluate():
            loss, predicted = run()
            found = measure(metrics, self.loss_function.formula, y, predicted, weights) if metrics else {}
            return {"loss": loss, **found}

        return evaluate

    def _plan(self, task, rows, where, **options):
        """A plan, taken out of those kept while in use, so that threads of the caller do not share one.

        where : a number of threads, or "cuda".
        """
        self._forget_replaced_activations()
        return BorrowedPlan(self._plans, task, rows, where, options)

    def _forget_replaced_activations(self):
        """Drop what was compiled for an activation of the user's that has since been registered anew."""
        if self._replacements != own_activations.replacements:
            self._replacements = own_activations.replacements
            self._plans, self._row_predictors = KeptPlans(self.architecture), []

    def __getstate__(self):
        return (
            self._described,
            self.architecture.sizes[0],
            self.loss_function,
            self.dtype,
            self.seed,
            self.input_scale,
            self.parameters.copy(),
        )

    def __setstate__(self, state):
        described, n_inputs, loss, dtype, self.seed, input_scale, parameters = state
        for placed in place(described, n_inputs):
            activation = getattr(placed.layer, "activation", "identity")
            if activation not in activations.ACTIVATIONS:
                raise ValueError(f"the network {needs_activation(activation)}")
        self._describe(described, n_inputs, loss, dtype, input_scale)
        self.parameters[:] = parameters


def as_network(value):
    """Check that something is a network.

    Raises
    ------
    TypeError
        If it is none.
    """
    if not isinstance(value, Network):
        raise TypeError(f"network must be a fastbp.Network; got a {type(value).__name__}")
    return value


def needs_activation(name):
    """Why a network of another process is not read, in words that follow its name."""
    return (
        f"needs the activation {name!r}, which is not known here: if it is one of your own, "
        f"call fastbp.register_activation({name!r}, …) before loading"
    )


def _bytes(n):
    for unit in ("bytes", "kB", "MB"):
        if n < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"
