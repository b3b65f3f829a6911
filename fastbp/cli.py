"""The command line: ``fastbp train digits``, ``fastbp train data.csv --target price``, ``fastbp predict
model.safetensors new.csv``, ``fastbp warmup``.
"""

import argparse
import csv
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import __version__, datasets, storage, table, validation
from .cpu import cache, notice
from .formulas.activations import ACTIVATIONS
from .jobs import train
from .layers import Dense
from .losses import Loss
from .network import Network
from .optimizers import SGD
from .training import DivergenceError
from .warmup import REALS, warm_up

# Moves targets of classification from 1 towards even odds. Halves the errors on held-out digits.
LABEL_SMOOTHING = 0.1

# Default learning rates. The slope of a squared error has no bound, so the steps for numbers are shorter.
RATE_OF_CLASSES, RATE_OF_NUMBERS = 0.05, 0.005


def main(arguments=None):
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        What follows the program's name; by default the process's own.

    Returns
    -------
    int
        0 where all went well, 1 where training or saving did not, 130 after Ctrl-C, if it came while nothing
        was there yet to be kept.

    Raises
    ------
    SystemExit
        With 2 after one sentence on stderr, if an argument or the data are not usable; with 0 after
        ``--help`` and ``--version``.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        if options.command == "warmup":
            return _warm_up(options)
        if options.command == "predict":
            return _predict(options)
        task = _digits(options) if options.data == "digits" else _table(options)
        return _train(task, _output(options), options)
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    except MemoryError:
        parser.error("there is not enough memory for this network and these rows")
    except KeyboardInterrupt:
        print("fastbp: interrupted; nothing was written", file=sys.stderr)
        return 130


# The arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """Say what is wrong in one sentence, without the usage."""
        self.exit(2, f"fastbp: {message.removeprefix('argument ')}\n")


def _parser():
    parser = _Parser(prog="fastbp", description="Train small neural networks at the speed of the silicon.")
    parser.add_argument("--version", action="version", version=f"fastbp {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_train(commands)
    _add_predict(commands)
    _add_warmup(commands)
    return parser


def _add_train(commands):
    add = commands.add_parser(
        "train",
        help="train a network on a table and save it",
        usage="%(prog)s data [options]",
        description=(
            "Train a network on the rows of a table, measure it on rows that were held out, and save it. "
            "Numbers of a CSV file are standardised for training; the saved network takes them as they are. "
            "A column of text is an input for each of its texts, which the saved file remembers for predict. "
            f"Classes are learned by softmax cross-entropy with label smoothing {LABEL_SMOOTHING}, numbers "
            "by mean squared error."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    ).add_argument
    add("data", help="'digits' (part of fastbp), or a CSV file whose first line names the columns")
    add("--target", metavar="COLUMN", default=argparse.SUPPRESS, help="the column of a CSV file to predict")
    add(
        "--task",
        choices=("auto", "classification", "regression"),
        default="auto",
        help="whether the target is a class or a number; auto takes text, and integers of at most "
        f"{table.MOST_CLASSES} different values, for classes",
    )
    add(
        "--ignore",
        metavar="COLUMN",
        nargs="+",
        default=argparse.SUPPRESS,
        help="columns of a CSV file to leave out",
    )
    add(
        "--categories",
        metavar="COLUMN",
        nargs="+",
        default=argparse.SUPPRESS,
        help="columns of a CSV file to take for text although they hold numbers, such as codes",
    )
    add(
        "--hidden",
        metavar="SIZE",
        nargs="*",
        type=_integer,
        default=[128, 64],
        help="sizes of the hidden layers; none: a linear model",
    )
    add("--activation", metavar="NAME", type=_activation, default="relu", help="of the hidden layers")
    add("--epochs", metavar="N", type=_integer, default=50, help="passes over the rows")
    add("--batch-size", metavar="N", type=_integer, default=32, help="rows in a step")
    add(
        "--learning-rate",
        metavar="X",
        type=_number(above=0),
        default=argparse.SUPPRESS,
        help=f"step length (default: {RATE_OF_CLASSES} for classes, {RATE_OF_NUMBERS} for a number)",
    )
    add("--momentum", metavar="X", type=_number(at_least=0, below=1), default=0.9, help="of past steps")
    add("--weight-decay", metavar="X", type=_number(at_least=0), default=1e-4, help="pull towards 0")
    add("--seed", metavar="N", type=_seed, default=0, help="of weights, orders and the split")
    add(
        "--threads",
        metavar="N",
        type=_threads,
        default=argparse.SUPPRESS,
        help="by default as many as the work is worth; the result does not depend on it",
    )
    add("--device", metavar="NAME", type=_device, default="cpu", help="cpu, or cuda: the same result")
    add(
        "--test-fraction",
        metavar="X",
        type=_number(above=0, below=1),
        default=0.2,
        help="share of the rows that is held out",
    )
    add(
        "--output",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="where the network goes (default: digits.safetensors, or the CSV file's name with .safetensors, "
        "in the present folder)",
    )
    add("--quiet", action="store_true", default=argparse.SUPPRESS, help="print only the results")


def _add_predict(commands):
    add = commands.add_parser(
        "predict",
        help="predict for the rows of a table",
        description=(
            "Predict for the rows of a CSV file by a network that `fastbp train data.csv` saved, and write a "
            "CSV file: a line for each row, with the target, and of a class its probability. Columns are "
            "found by their names; those that were not trained on are left aside."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    ).add_argument
    add("model", help="the network's file")
    add("data", help="a CSV file whose first line names the columns")
    add(
        "--output",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="where to write (default: standard output)",
    )
    add("--device", metavar="NAME", type=_device, default="cpu", help="cpu, or cuda: the same result")


def _add_warmup(commands):
    add = commands.add_parser(
        "warmup",
        help="compile all kernels now, so that nothing waits for them later",
        description=(
            "Compile every kernel that ships for this processor into the kernel cache, a minute or two; "
            "those that are there already are left alone. FASTBP_CACHE_DIR says where the cache is."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    ).add_argument
    add("--dtype", choices=("both", *REALS), default="both", help="types of numbers to compile for")
    add("--quiet", action="store_true", default=argparse.SUPPRESS, help="print only the result")


def _checked(check):
    """A converter of arguments: what `check` makes of a text, with its sentence where it refuses."""

    def convert(text):
        try:
            return check(text)
        except (ValueError, TypeError, RuntimeError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _number(**bounds):
    return _checked(lambda text: validation.real_number("the value", _parsed(float, text), **bounds))


def _parsed(kind, text):
    try:
        return kind(text)
    except ValueError:
        return text


_integer = _checked(lambda text: validation.positive_integer("the value", _parsed(int, text)))
_threads = _checked(lambda text: validation.threads(_parsed(int, text)))
_device = _checked(validation.device)
_seed = _checked(lambda text: validation.seed(_parsed(int, text)))
_activation = _checked(lambda text: validation.known_name("activation", text, ACTIVATIONS))


# The data


@dataclass
class _Task:
    """What is to be learned.

    x (n, n_inputs), y (n,): rows as the user has them; name: of the data; target: of y; classes: names of the
    classes, None where y is a number; described: the columns of a table, None of data without units.
    """

    x: np.ndarray
    y: np.ndarray
    name: str
    target: str
    classes: tuple[str, ...] | None
    described: table.Description | None = None


def _digits(options):
    for option in ("target", "ignore", "categories"):
        if option in options:
            raise ValueError(f"--{option} goes with a CSV file; digits has its own target")
    if options.task == "regression":
        raise ValueError("--task regression goes with a CSV file; digits are classes")
    x, y = datasets.digits()
    return _Task(x, y, "digits", "digit", tuple(map(str, range(10))))


def _table(options):
    found = table.read(Path(options.data), wanted="a CSV file, or 'digits'")
    if "target" not in options:
        raise ValueError(
            f"--target must name the column to predict; {found.path} has {', '.join(found.names)}"
        )
    target, ignored = options.target, getattr(options, "ignore", [])
    categorical = getattr(options, "categories", [])
    named = [("target", target), *(("ignore", name) for name in ignored)]
    for option, name in [*named, *(("categories", name) for name in categorical)]:
        try:
            found.check_name(name)
        except ValueError as error:
            raise ValueError(f"--{option}: {error}") from None
    for option, names in (("ignore", ignored), ("categories", categorical)):
        if target in names:
            raise ValueError(f"--{option}: {target!r} is the target")
    for name in categorical:
        if name in ignored:
            raise ValueError(f"--categories: {name!r} is ignored")
    inputs = [name for name in found.names if name != target and name not in ignored]
    if not inputs:
        raise ValueError(f"{found.path} has no column to predict {target!r} from")
    columns = table.inputs_of(found, inputs, categorical)
    y, classes = table.as_target(found, target, options.task)
    described = table.Description(columns, target, classes)
    return _Task(described.encode(found), y, found.path, target, classes, described)


def _output(options):
    """Where the network goes; that it can go there is looked at before any work."""
    default = "digits.safetensors" if options.data == "digits" else f"{Path(options.data).stem}.safetensors"
    return _writable(getattr(options, "output", default), () if options.data == "digits" else (options.data,))


def _writable(output, inputs):
    """The path of a file that may be written, and is none of those that are read."""
    output = Path(output)
    if output.is_dir():
        raise ValueError(f"--output must be a file; {str(output)!r} is a folder")
    if output.exists() and not output.is_file():
        raise ValueError(f"--output must be a file; {str(output)!r} is a device or a pipe")
    if not output.parent.is_dir():
        raise ValueError(f"--output: there is no folder {str(output.parent)!r}")
    if not os.access(output.parent, os.W_OK):
        raise ValueError(f"--output: the folder {str(output.parent)!r} cannot be written to")
    for path in inputs:
        if output.resolve() == Path(path).resolve():
            raise ValueError(f"--output would overwrite {path!r}, which is read")
    return output


# Training


def _train(task, output, options):
    quiet = "quiet" in options
    say = (lambda text: None) if quiet else _print
    x, y, x_test, y_test = datasets.split(task.x, task.y, options.test_fraction, options.seed)
    shift, scale = _units(task.described, x)
    y_shift, y_scale = (0.0, 1.0) if task.classes else _spread(y)
    y_scale = y_scale if np.isfinite(y_scale) else 1.0

    n_outputs = len(task.classes) if task.classes else 1
    loss = (
        Loss("softmax_cross_entropy", label_smoothing=LABEL_SMOOTHING)
        if task.classes
        else "mean_squared_error"
    )
    layers = [*(Dense(size, options.activation) for size in options.hidden), Dense(n_outputs)]
    network = Network(layers, inputs=x.shape[1], loss=loss, seed=options.seed)
    for line in _introduction(task, len(x), len(x_test), y_shift, y_scale):
        say(line)
    say(network)
    if quiet:
        notice.silence()

    rate = getattr(options, "learning_rate", RATE_OF_CLASSES if task.classes else RATE_OF_NUMBERS)
    try:
        history = train(
            network,
            (x - shift) / scale,
            y if task.classes else (y - y_shift) / y_scale,
            epochs=options.epochs,
            batch_size=options.batch_size,
            optimizer=SGD(rate, options.momentum, weight_decay=options.weight_decay),
            threads=getattr(options, "threads", None),
            progress=not quiet,
            device=options.device,
        )
    except DivergenceError:
        print("fastbp: training diverged, nothing was saved: give a lower --learning-rate", file=sys.stderr)
        return 1
    if task.described:
        network = _in_users_units(network, shift, scale, y_shift, y_scale)

    problem = None
    try:
        storage.save(network, output, {table.KEY: task.described.to_json()} if task.described else {})
    except OSError as error:
        problem = error.strerror or error
    if history.interrupted:
        _print(f"interrupted after {len(history)} of {options.epochs} epochs")
    _print(_quality(network, task, x_test, y_test, y))
    if history.seconds:
        _print(_speed(history, len(x), options.device))
    if problem:
        print(f"fastbp: {output} cannot be written: {problem}", file=sys.stderr)
        return 1
    _print(f"saved to           {output}")
    return 0


def _units(described, x):
    """(shift, scale) of each input: mean and spread of numbers; what has no units is left alone."""
    shift, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
    if described:
        numbers = np.repeat(
            [column.categories is None for column in described.inputs],
            [column.width for column in described.inputs],
        )
        shift[numbers], scale[numbers] = _spread(x[:, numbers])
    return shift, scale


def _spread(values):
    """(mean, scale) of each column: the standard deviation, or what float64 can still tell from the mean.

    Infinite where a column is constant: so it is 0, in training and whatever it may be later.
    """
    mean = values.mean(axis=0)
    scale = np.maximum(values.std(axis=0), 1e-12 * np.abs(mean))
    constant = (values == values[:1]).all(axis=0) | (scale == 0)
    return mean, np.where(constant, np.inf, scale)


def _in_users_units(network, shift, scale, y_shift, y_scale):
    """The same function of inputs, and to outputs, that are not standardised: a float64 network.

    First layer: (x − shift) / scale · W + b = x · W' + b' with W' = W / scale, b' = b − shift · W'.
    Last layer:  (h · W + b) · y_scale + y_shift.                float64, as x − shift may cancel most digits
    """
    layers = [Dense(layer.n_out, layer.activation) for layer in network.layers]
    raw = Network(layers, inputs=len(shift), loss=network.loss_function, dtype="float64", seed=network.seed)
    raw.parameters[:] = network.parameters
    first, last = raw.layers[0], raw.layers[-1]
    first.W[:] /= scale[:, None]
    first.b[:] -= shift @ first.W
    last.W[:] *= y_scale
    last.b[:] = last.b * y_scale + y_shift
    return raw


# Predicting


def _predict(options):
    if not Path(options.model).is_file():
        raise ValueError(f"there is no file {options.model!r}; `fastbp train data.csv` writes one")
    with storage.opened(options.model) as file:
        network, text = storage.network_of(file), file.metadata().get(table.KEY)
    sizes = network.architecture.sizes
    described = table.Description.from_json(options.model, text, sizes[0], sizes[-1])
    output = None
    if "output" in options:
        output = _writable(options.output, (options.model, options.data))
    rows = described.encode(table.read(Path(options.data), least_rows=1))
    lines = table.predictions_as_csv(described, network.predict(rows, device=options.device))
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows(lines)
    if output:
        try:
            storage.write_whole(output, content.getvalue().encode())
        except OSError as error:
            raise OSError(f"{output} cannot be written: {error.strerror or error}") from None
    else:
        _print(content.getvalue(), end="", is_data=True)
    return 0


# Warming up


def _warm_up(options):
    quiet = "quiet" in options
    try:
        warmed = warm_up(REALS if options.dtype == "both" else (options.dtype,), progress=not quiet)
    except KeyboardInterrupt:
        print("fastbp: interrupted; what was compiled is kept", file=sys.stderr)
        return 130
    lost = warmed.compiled - warmed.kept
    print(
        f"{warmed.found + warmed.kept} kernels in {cache.directory()}: {warmed.kept} compiled, "
        f"{warmed.found} found there; {_duration(warmed.seconds)}"
    )
    if lost:
        print(f"fastbp: {lost} kernels could not be kept; is the disk full?", file=sys.stderr)
        return 1
    return 0


# What is printed


def _print(text, end="\n", is_data=False):
    """To standard output, while somebody reads it; but for data, "?" stands for characters that it lacks."""
    if not is_data:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        text = str(text).encode(encoding, "replace").decode(encoding)
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:  # as of `| head`: what comes goes nowhere, at the interpreter's end too
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _introduction(task, n_train, n_test, y_shift, y_scale):
    n_rows, n_inputs = len(task.x), len(task.described.inputs) if task.described else task.x.shape[1]
    yield f"{task.name}: {n_rows:,} rows of {n_inputs} inputs; {n_train:,} to train on, {n_test:,} held out"
    if task.classes and task.described:
        shown = table.listed([f"{i} = {name}" for i, name in enumerate(task.classes)])
        yield f"target {task.target}: {len(task.classes)} classes, {shown}"
    elif task.classes is None:
        yield f"target {task.target}: a number, {y_shift:.4g} ± {y_scale:.4g}"
    if task.described:
        for column in task.described.inputs:
            if column.categories is not None:
                yield f"input {column.name}: {column.width} texts, {table.listed(column.categories)}"
        yield "numbers are standardised for training; the saved network takes them as the file has them"


def _quality(network, task, x_test, y_test, y):
    if task.classes:
        accuracy = network.evaluate(x_test, y_test)["accuracy"]
        right = round(accuracy * len(y_test))
        return f"held-out accuracy  {100 * accuracy:.2f} % ({right:,} of {len(y_test):,} rows)"
    squares = ((network.predict(x_test)[:, 0] - y_test) ** 2).mean()
    by_mean = ((y.mean() - y_test) ** 2).mean()
    explained = f", {100 * (1 - squares / by_mean):.1f} % of the variance explained" if by_mean > 0 else ""
    return f"held-out error     {np.sqrt(squares):.4g} {task.target} (root mean square){explained}"


def _speed(history, n_rows, device):
    seconds = float(np.median(history.seconds))
    threads = f"{history.threads} thread{'s' if history.threads > 1 else ''}" if device == "cpu" else device
    return (
        f"time per epoch     {_duration(seconds)} "
        f"(median of {len(history)}; {n_rows / seconds:,.0f} rows a second; {threads})"
    )


def _duration(seconds):
    if seconds >= 999.5:  # rounded to three digits it would be 1e+03
        return f"{seconds:,.0f} s"
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= 0.9995 * size), _UNITS[-1])
    return f"{seconds / size:.3g} {unit}"


_UNITS = (1.0, "s"), (1e-3, "ms"), (1e-6, "µs")
