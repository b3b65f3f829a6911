"""train(): every argument is checked before anything changes; then the training is run."""

import numpy as np

from . import validation as checks
from .callbacks import EarlyStopping, as_callbacks
from .checkpoints import Checkpoints, check_places, read_checkpoint
from .data import Data
from .division import threads_for_training
from .formulas.optimizers import OPTIMIZERS
from .history import History
from .interrupts import Interrupts, NotLost
from .lbfgs import WholeBatch, minimizer
from .metrics import as_metrics
from .network import as_network
from .optimizers import LBFGS, as_optimizer
from .plan import Plan
from .progress import Bar, Table
from .rates import Rates
from .shaping import shaping_of
from .stream import Stream, StreamTraining
from .training import Training, guess_seconds


def train(
    network, x, y=None, *, epochs=None, batch_size=32, optimizer="sgd", shuffle=True, validation=None,
    metrics=(), early_stopping=None, callbacks=(), checkpoints=None, resume=None, on_divergence="raise",
    seed=None, threads=None, progress="auto", verbose=False, device="cpu", materialise=False,
    sample_weight=None, class_weight=None, sampling=None, clip_value=None, clip_norm=None, input_noise=0.0,
    gradient_noise=0.0,
):  # fmt: skip
    """Train a network.

    Parameters
    ----------
    network : Network
        Its parameters are changed in place.
    x : array-like (n, n_inputs), or a stream
        Of uint8, or of the network's dtype, arrays are used where they are, memory-mapped ones too, and so
        are sparse rows of SciPy: a batch of them at a time becomes dense. (In CSR they are not copied.) A
        stream, which stands for y too, is an iterator of chunks, a function that returns one, or an object to
        be iterated over, such as a list; see Notes.
    y : array-like
        Targets of the network's loss, see `Network.loss`.
    epochs : int, optional
        Passes over the rows; where training is resumed, those of before included. By default 10, and 1 of an
        iterator, which can be run through once.
    batch_size : int or None
        Rows per step; None, or more than there are, means all of them. A shorter last batch is trained on,
        and averaged over its own size.
    optimizer : str or optimizer
        A name, such as "adam" for its defaults, or one of `SGD`, `Adam`, `AdamW`, `Adamax`, `NAdam`, `RAdam`,
        `RMSprop`, `Adagrad`, `Adadelta`, `Lion`, `LBFGS`. It may bring a schedule of its learning rate, see
        ``fastbp.schedules``, and settings of single layers.
    shuffle : bool
        Whether each epoch takes the rows in an order of its own, a function of `seed` and the epoch's number;
        in a stream the rows of each chunk.
    validation : float, (x, y) or (x, y, sample_weight), optional
        Rows to measure the loss on after each epoch: a share of the rows, drawn by `seed` and not trained on,
        or rows and targets of their own. A share copies the rows; arrays larger than memory want the pair.
        Where rows have sample weights, loss and metrics count them by these here too.
    metrics : sequence of str or callable
        What else to measure on the validation rows, see `Network.evaluate`.
    early_stopping : EarlyStopping, optional
        Ends training that no longer gets better, and gives back the best weights.
    callbacks : sequence of Callback or callable
        Called between epochs, in their order. A function is called with the `Training` after each epoch.
    checkpoints : Checkpoints, optional
        Where and how often to write what `resume` needs.
    resume : str or path, optional
        A checkpoint, or a folder of checkpoints, whose newest is taken. Training goes on from there to the
        very bits that it would have reached without the interruption. The network takes its weights from
        it. All that trained bits or the history depend on must be as it was: network, data, validation rows,
        weights of rows, batch size, optimizer, regularisation, metrics, `shuffle`, `seed` if given. Free are
        `epochs` (but for a schedule that fills them), threads, the device, callbacks and checkpoints. One
        that early stopping has ended goes on where its patience is longer now.
    on_divergence : {"raise", "continue"}
        What to do when the loss or the weights become infinite or NaN.
    seed : int, optional
        Where orders come from; the network's own seed by default, or that of the checkpoint.
    threads : int, optional
        By default as many as the work of a step is worth. The trained bits do not depend on it.
    progress : bool or "auto"
        Whether to show a progress bar; "auto" does in a terminal or notebook if training takes seconds.
    verbose : bool or int
        Whether to write a table to standard output, for logs: a line for every epoch, or every so many.
    device : {"cpu", "cuda"}
        "cuda" trains on an NVIDIA GPU, to the same bits, see Notes; `threads` then means nothing. It needs
        numba-cuda, which ``pip install 'fastbp[cuda]'`` brings.
    materialise : bool
        Write each step's gradients to memory before the update. The same bits, slower; for comparison.
    sample_weight : array-like (n,), optional
        How much each row counts, at least 0. The loss of a batch is the weighted mean Σ wᵢ lᵢ / Σ wᵢ, as in
        PyTorch's weighted cross-entropy and in scikit-learn: one weight for all rows of a batch changes
        nothing, and a batch of weights 0 changes no weight by its gradient. An epoch's loss is the mean over
        its batches, each of which counts by its rows.
    class_weight : dict, array-like (classes,) or "balanced", optional
        How much rows count by their class: a dict, in which classes that are missing count 1, or one number
        for each class. "balanced" is n / (classes · rows of the class), as in scikit-learn, from the rows
        that are trained on. Multiplies `sample_weight`; the validation loss knows nothing of it. Classes
        are integer targets, or 0 and 1 (-1 and 1 for hinge) of one output.
    sampling : {"balanced"}, optional
        Each epoch draws as many rows as there are, with replacement, so that every class is equally likely;
        a function of `seed` and the epoch's number. None takes every row once.
    clip_value : float, optional
        Elements of the gradient of a batch beyond ± this are cut off, as by PyTorch's clip_grad_value_.
    clip_norm : float, optional
        Where the gradient of all parameters together is longer than this, it is shortened to it, as by
        PyTorch's clip_grad_norm_. With `clip_value` too, elements are cut off first, and the norm is that of
        what is left.
    input_noise : float
        Standard deviation of normal noise that is added to the inputs, drawn anew in each step; after the
        network's `input_scale`.
    gradient_noise : float or AnnealedNoise
        The same for the gradient (Neelakantan et al., 2015), after penalties and clipping: a standard
        deviation that stays, or one that falls from step to step. Noise is a function of `seed`, the step and
        the place, so threads change no bit of it. No draw is beyond 5.42 standard deviations.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of bounds, data do not fit the network, a parameter of it
        is not finite before training, or a checkpoint is of another training; nothing is changed then, unless
        by chunks of a stream before the bad one.
    DivergenceError
        If the loss or the weights became infinite or NaN. The network has the latest weights that were looked
        at: those from before the epoch, or from the last checkpoint within it; where epochs are so short
        that several are one compiled call, from before that call or a few before it. Of a stream: those from
        before the chunk.
    OSError
        If a checkpoint cannot be read or written.
    RuntimeError
        If `device` is "cuda" and numba-cuda, a GPU or its driver is missing.

    Notes
    -----
    Ctrl-C ends training after the current step and returns the history so far. With `checkpoints` that step
    is written down, and `resume` goes on from it to the very bits of a training that was not interrupted.
    While kernels are compiled, before the first step, it raises KeyboardInterrupt. A long look at validation
    rows is given up, and what it was to measure is NaN; not with `checkpoints`, which keep what it measures.

    On a GPU a small network is trained by one block of threads, with its weights in the block's memory, many
    steps in a launch of at most a quarter of a second. Small is one of Dense layers alone, of which all that
    a step works in (weights, rows of a batch, outputs and gradients of every layer) lies in 46 KiB; not with
    `materialise`. Any other training is a dozen launches for each step, which are sent ahead of the device.
    Validation rows are measured by the parameters on the device; these come to the host where a callback
    needs the network, and from time to time for a look whether they are finite. Ctrl-C ends training after
    the launches that were sent.

    Training a network again goes on from its weights, but is a training of its own: the optimizer's state
    starts anew, and so do the orders of the rows. `OnlineTrainer` keeps them from call to call.

    A chunk of a stream is ``(x, y)`` or ``(x, y, sample_weight)``, of any number of rows, or none. It is
    trained on as it comes, in batches of its own rows, the last of which may be shorter, and let go of
    before the next one is asked for; optimizer and schedule go on from chunk to chunk. An epoch is one
    run through the stream, its loss the mean over all rows, its time that of waiting for chunks included.
    All chunks are like the first one: with weights or without, of classes or not, of uint8 or not, sparse
    or not. Where one does not fit, or the stream raises, the network has the weights from after the chunk
    before. Validation rows are given, not taken; what needs all rows (`sample_weight`, "balanced",
    `sampling`, LBFGS) is refused, and schedules of steps need ``total=``. Nobody can go on in the middle
    of a stream, so checkpoints are written between epochs. A stream of one chunk is trained to the same
    bits as its arrays, where it has at least `batch_size` rows.

    Examples
    --------
    >>> import fastbp
    >>> x, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    >>> net = fastbp.Network([2, 8, 1], activation="tanh", loss="binary_cross_entropy", seed=1)
    >>> history = fastbp.train(net, x, y, epochs=500, batch_size=4, optimizer=fastbp.SGD(0.5, momentum=0.9))
    >>> net.predict(x).round().ravel().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    options = dict(locals())  # all of the signature, as `Job` takes it
    progress = progress_wanted(options.pop("progress"))
    job = Job(**options)
    job.run(Bar(progress, job.epochs, job.n_rows, job.epochs_before))
    return job.history


def progress_wanted(progress):
    """Check the argument of this name."""
    if not isinstance(progress, (bool, np.bool_)) and progress != "auto":
        raise TypeError(f'progress must be True, False or "auto"; got {progress!r}')
    return progress


class Job:
    """A training that is checked and not begun: nothing has changed yet.

    Parameters
    ----------
    data_of : callable
        `Data`, or something that is called like it and need not check and copy what it has seen.
    others : see `train`

    Attributes
    ----------
    history : History
        Empty before it runs.
    data : Data, Stream or None
        What is trained on. None where it was given back, to be made again when it is needed.
    checkpoint : Checkpoint or None
        What it goes on from.
    epochs, epochs_before, batch_size : int
        Epochs, those of a checkpoint, and rows of a step.
    n_rows : int or None
        Rows that are trained on, where they are known beforehand.
    """

    def __init__(
        self, network, x, y, *, epochs, batch_size, optimizer, shuffle, validation, metrics, early_stopping,
        callbacks, checkpoints, resume, on_divergence, seed, threads, verbose, materialise, sample_weight,
        class_weight, sampling, clip_value, clip_norm, input_noise, gradient_noise, device="cpu",
        data_of=Data,
    ):  # fmt: skip
        as_network(network)
        epochs = None if epochs is None else checks.positive_integer("epochs", epochs)
        self.network, self.optimizer, self._streams = network, as_optimizer(optimizer), y is None
        self.whole_batch = isinstance(self.optimizer, LBFGS)
        self.shuffle = checks.boolean("shuffle", shuffle)
        self.materialise = checks.boolean("materialise", materialise)
        self.metrics = as_metrics(metrics, network.loss_function.formula)
        if self.metrics and validation is None:
            raise ValueError("metrics are measured on validation rows; give validation=")
        threads = None if threads is None else checks.threads(threads)
        self.callbacks = _all_callbacks(early_stopping, callbacks, checkpoints, verbose)
        self.shaping = shaping_of(network, clip_value, clip_norm, input_noise, gradient_noise)
        if self.whole_batch:
            kept = resume is not None or any(isinstance(each, Checkpoints) for each in self.callbacks)
            _check_whole_batch(network, device, kept, self.shaping or sampling is not None, self._streams)
        self.device = checks.device(device)
        self.looks = checks.known_name("on_divergence", on_divergence, ("raise", "continue")) == "raise"
        if self.looks and resume is None:
            checks.parameters(network)
        self.checkpoint = checkpoint = None if resume is None else read_checkpoint(resume, network)
        if self.looks and checkpoint and not checkpoint.is_finite():
            raise ValueError(f"{checkpoint.path} cannot be resumed: its weights or states are not all finite")
        self.epochs_before = checkpoint.epoch if checkpoint else 0
        own = checkpoint.seed if checkpoint else network.seed
        self.seed = own if seed is None else checks.seed(seed)
        rows = dict(
            sample_weight=sample_weight, class_weight=class_weight, sampling=sampling, shuffle=self.shuffle,
            validation=validation, seed=self.seed,
        )  # fmt: skip
        if self._streams:
            _check_checkpoints_of_stream(self.callbacks)
            rows["epochs_before"] = self.epochs_before
            self._make_data = lambda: Stream(network, x, batch_size, epochs, **rows)
        else:
            if batch_size is not None:
                checks.positive_integer("batch_size", batch_size)
            size = None if self.whole_batch else batch_size
            self._make_data = lambda: data_of(network, x, y, size, epochs, **rows)
        self.data = data = self._make_data()
        self.epochs, self.n_rows, self.batch_size = data.epochs, data.n, data.batch_size
        self._rates = None if self.whole_batch else Rates(self.optimizer, network, data.epochs, data.steps)
        if self._rates:
            self._rates.watch(bool(data.held_out), [metric.name for metric in self.metrics])
        if checkpoint:
            n_states = OPTIMIZERS[self.optimizer.formula].states
            checkpoint.check(self._identity(data), data.n, self._rates, n_states)
        steps = None if self._streams else data.epochs * data.steps
        if threads is None:
            threads = threads_for_training(network.architecture, self.batch_size, steps)
        self.history = History(threads=threads)

    def _identity(self, data):
        """What must be the same where a training is resumed, by name: a dict of JSON values."""
        return dict(
            seed=self.seed, shuffle=self.shuffle, batch_size=self.batch_size, optimizer=repr(self.optimizer),
            regularisation=repr(self.shaping), **data.identity, metrics=[each.name for each in self.metrics],
            schedule=list(self._rates.schedule_settings),
        )  # fmt: skip

    def make_plan(self, architecture, task, batch_size, threads, **options):
        """The plan of a training on the device that was asked for."""
        if self.device == "cpu":
            return Plan(architecture, task, batch_size, threads, **options)
        from .device_plan import make_plan  # needs numba-cuda

        return make_plan(architecture, task, batch_size, **options)

    def guess_seconds(self):
        """How long it takes on one core, roughly."""
        return self.epochs * guess_seconds(self.network.architecture, self.n_rows, self.batch_size)

    def run(self, bar, conductor=Interrupts, make_plan=None):
        """Train.

        Parameters
        ----------
        bar : object with ``show(rows, history)`` and ``close()``
        conductor : callable
            Given the plan, it returns what `Interrupts` is: what runs a call, and knows whether training
            shall end.
        make_plan : callable, optional
            Something that is called like `Plan` and may return one that was used before.
        """
        if self.whole_batch:
            data = self.data or self._make_data()
            watched = dict(metrics=self.metrics, callbacks=self.callbacks, looks=self.looks)
            WholeBatch(self.network, self.optimizer, data, self.history, **watched)._run(bar, conductor)
            return
        training, plan = self.training(make_plan)
        training._run(self.checkpoint, bar, conductor(plan))

    def training(self, make_plan=None):
        """(the `Training` that `run` would run, its plan)."""
        network, data, rates = self.network, self.data or self._make_data(), self._rates
        with NotLost():  # kernels may be compiled
            plan = (make_plan or self.make_plan)(
                network.architecture, "train", data.batch_size, self.history.threads,
                optimizer=self.optimizer.formula, materialise=self.materialise, shaping=self.shaping,
                **rates.options, **data.options,
            )  # fmt: skip
        rates.set(plan)
        plan.set(seed=np.uint64(self.seed).astype(np.int64), epoch=0, step=0, begin=0, careful=self.looks)
        data.set(plan)
        training = (StreamTraining if self._streams else Training)(
            network, plan, rates, data, self.history, metrics=self.metrics, callbacks=self.callbacks,
            identity=lambda: self._identity(data), looks=self.looks, device=self.device,
        )  # fmt: skip
        return training, plan


def _check_whole_batch(network, device, kept, shaped, stream):
    """Raise where SciPy is missing, or what it does not do is asked for."""
    minimizer()  # says so where it is missing
    if device != "cpu":
        raise ValueError(f'LBFGS is run by SciPy on the CPU; got device="{device}"')
    if stream:
        raise ValueError("LBFGS needs all rows at once, so it cannot train on a stream")
    if kept:
        raise ValueError(
            "LBFGS takes no checkpoints and no resume: what it remembers is SciPy's, so it would not reach "
            "the same bits; save the network in a callback, and train again from it with an empty memory"
        )
    if shaped:
        raise ValueError("LBFGS takes no penalties, largest norms, clipping, noise or sampling")
    kinds = {layer.kind for layer in network.layers}
    if "BatchNorm" in kinds:
        raise ValueError(
            "LBFGS cannot train BatchNorm, whose statistics move while it looks; LayerNorm it can"
        )
    if "Dropout" in kinds:
        raise ValueError(
            "LBFGS cannot train Dropout, as its line search needs the same loss at the same place each time"
        )


def _check_checkpoints_of_stream(callbacks):
    """Raise where some are to be written within an epoch."""
    for callback in callbacks:
        if isinstance(callback, Checkpoints) and callback.steps is not None:
            raise ValueError(
                "nobody can go on in the middle of a stream, so its checkpoints are written between epochs: "
                f"give every= or seconds=; got steps={callback.steps}"
            )


def _all_callbacks(early_stopping, callbacks, checkpoints, verbose):
    """Callbacks in the order in which they are called: checkpoints last, as they keep the state of others."""
    if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
        raise TypeError(f"early_stopping must be a fastbp.EarlyStopping; got {early_stopping!r}")
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        raise TypeError(f"checkpoints must be a fastbp.Checkpoints; got {checkpoints!r}")
    every = int(verbose) if isinstance(verbose, (bool, np.bool_)) else verbose
    every = every and checks.integer("verbose", every, at_least=1)
    table = [Table(every)] if every else []
    first = [] if early_stopping is None else [early_stopping]
    found = [*first, *as_callbacks(callbacks), *table, *([] if checkpoints is None else [checkpoints])]
    found.sort(key=lambda callback: isinstance(callback, Checkpoints))
    for callback in found:
        if sum(callback is other for other in found) > 1:
            raise ValueError(
                f"each callback must be an object of its own; a {type(callback).__name__} is there twice"
            )
    check_places(found)
    return found
