"""Networks on disk: safetensors, with the architecture as JSON in the metadata. No pickle.

Tensors are called "layer.W", "layer.b" …; the metadata's entry "fastbp" is what `_description` writes and
`_read_description` checks. The same network gives the same bytes. A checkpoint is such a file with more in
it: tensors "training.…" and the metadata's entry "fastbp.training", which belong to ``checkpoints.py``. The
command line adds an entry "fastbp.table" of its own (``table.py``).
"""

import contextlib
import json
import os
import secrets
import shutil
from dataclasses import fields

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from . import validation
from .formulas.activations import ACTIVATIONS
from .layers import LAYERS, Residual, place
from .losses import Loss
from .network import Network, needs_activation

# Goes up when a file changes so that older versions of fastbp would misread it.
FORMAT_VERSION = 1

NETWORK_KEY = "fastbp"
TRAINING_KEY = "fastbp.training"
TRAINING_PREFIX = "training."
_DTYPES = {"F32": "float32", "F64": "float64"}


def save(network, path, more=None):
    """Write architecture and parameters of a network to a ``.safetensors`` file.

    The file is written under another name beside it and then renamed: `path` always names a whole file.

    Parameters
    ----------
    network : Network
    path : str or path
    more : dict of str to str, optional
        Entries of the metadata beside the network's.

    Raises
    ------
    ValueError
        If two layers have the same name.
    OSError
        If the file cannot be written; an older file of that name stays as it was.
    """
    metadata = {NETWORK_KEY: describe(network), **(more or {})}
    write_whole(path, to_bytes(tensors_of(network.layers), metadata))


def tensors_of(layers):
    """The arrays of layers under the names that a file gives them."""
    tensors = {}
    for layer in layers:
        for name, values in layer.arrays.items():
            if f"{layer.name}.{name}" in tensors:
                raise ValueError(f"layers must have different names to be saved; two are {layer.name!r}")
            tensors[f"{layer.name}.{name}"] = np.ascontiguousarray(values)
    return tensors


def write_whole(path, content):
    """Write a file under another name beside it, and rename it when all of it is on the disk."""
    path = os.path.realpath(validation.path("path", path))
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"path must be that of a file; {path} is a folder")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"path must be in a folder that is there; there is no {folder}")
    there = os.path.exists(path)
    if there and not os.path.isfile(path):
        raise OSError(f"path must be that of a file; {path} is a device or a pipe")
    temporary = _beside(path)
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if there:
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def _beside(path):
    """The name of a file that is not there yet, in the same folder, for what is to become this one."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{name[:50]}.{secrets.token_hex(8)}.tmp")  # names have a longest length


# How such names end.
UNFINISHED = r"\.[0-9a-f]{16}\.tmp"


def same_file(path, other, content):
    """Give a file that has this content another name too; where that cannot be, write it again."""
    temporary = _beside(other)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without links
        write_whole(other, content)
    else:
        os.replace(temporary, other)


def load(path):
    """Read a network from a file that `Network.save` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    Network
        With the saved parameters, bit by bit. The optimizer's state is not part of it.

    Raises
    ------
    OSError
        If the file is not there or cannot be read.
    ValueError
        If it is no safetensors file, or not one of fastbp's, or a newer version's, or it needs an activation
        that is not registered, or its tensors are not those of its architecture.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "model.safetensors"
    ...     Network([2, 3, 1], activation="tanh", seed=0).save(path)
    ...     load(path)
    Network(2 → 3 tanh → 1, mean_squared_error, 13 parameters, float32)
    """
    with opened(path) as file:
        return network_of(file)


@contextlib.contextmanager
def opened(path):
    """A safetensors file, open for reading; errors are sentences that begin with its name."""
    path = validation.path("path", path)
    with open(path, "rb"):  # says why a file cannot be read better than what follows
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    except Unfit as error:
        raise ValueError(f"{path} {error}") from None


class Unfit(Exception):
    """Why a file is not one that can be loaded, in words that follow its name."""


def describe(network):
    """What the metadata says of a network: JSON."""
    return json.dumps(_description(network), ensure_ascii=False)


def _description(network):
    from . import __version__

    loss = network.loss_function
    option = {loss.formula.option: loss.option} if loss.formula.option else {}
    return {
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "inputs": network.architecture.sizes[0],
        "layers": [_fields_of(layer) for layer in network._described],
        "loss": {"name": loss.name, "option": option},
        "dtype": network.dtype.name,
        "seed": network.seed,
        "input_scale": network.input_scale,
    }


def _read_description(text):
    """(description of each layer, number of inputs, Loss, dtype, input_scale, seed), all checked."""
    try:
        description = json.loads(text)
        version = validation.integer("format_version", description["format_version"], at_least=1)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Unfit("does not describe a network: its metadata is damaged") from None
    if version > FORMAT_VERSION:
        raise Unfit(
            f"was written by a newer fastbp, {description.get('library_version')}: "
            f"its format is version {version}, and this fastbp reads up to {FORMAT_VERSION}"
        )
    try:
        described = [_read_layer(dict(each)) for each in description["layers"]]
        loss = Loss(description["loss"]["name"], **description["loss"]["option"])
        dtype = validation.real_dtype(description["dtype"])
        inputs = validation.positive_integer("inputs", description["inputs"])
        place(described, inputs)
        scale = validation.input_scale(description.get("input_scale", 1.0), dtype)
        seed = validation.seed(description["seed"])
        if not described:
            raise ValueError("it has no layer")
    except KeyError as error:
        raise Unfit(f"does not describe a network: its metadata lacks {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise Unfit(f"does not describe a network: {error}") from None
    return described, inputs, loss, dtype, scale, seed


def _fields_of(layer):
    """What the metadata says of a layer: its type, and what its constructor takes."""
    found = {"type": type(layer).__name__, **{name: getattr(layer, name) for name in _names_of(type(layer))}}
    if isinstance(layer, Residual):
        found["layers"] = [_fields_of(each) for each in layer.layers]
    return found


def _names_of(kind):
    return [field.name for field in fields(kind)]


def _read_layer(found):
    """The layer that `_fields_of` told of."""
    kind = LAYERS[validation.known_name("type of layer", found.pop("type"), LAYERS)]
    names = _names_of(kind)
    if set(found) != set(names):
        raise ValueError(f"a {kind.__name__} layer must have {', '.join(names)}; got {', '.join(found)}")
    if kind is Residual:
        found["layers"] = [_read_layer(dict(each)) for each in found["layers"]]
    activation = found.get("activation")
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        raise Unfit(needs_activation(activation))
    return kind(**found)


def network_of(file):
    """The network in an open file."""
    text = (file.metadata() or {}).get(NETWORK_KEY)
    if text is None:
        raise Unfit("is a safetensors file, but not one that fastbp wrote")
    described, inputs, loss, dtype, scale, seed = _read_description(text)
    _check_tensors(file, place(described, inputs), dtype)
    network = Network._bare(described, inputs, loss, dtype, scale, seed)
    if len({layer.name for layer in network.layers}) < len(network.layers):
        raise Unfit("does not describe a network: two layers have the same name")
    for layer in network.layers:
        for name, values in layer.arrays.items():
            values[:] = file.get_tensor(f"{layer.name}.{name}")
    return network


def _check_tensors(file, placed, dtype):
    """Raise where the tensors are not those of layers at their places, before any memory is asked for."""
    expected = {
        f"{name}.{parameter.name}": parameter.shape
        for name, layer, n_in, *_ in placed
        for parameter in layer.parameters(n_in)
    }
    found = set(file.keys())
    if TRAINING_KEY in file.metadata():
        found = {name for name in found if not name.startswith(TRAINING_PREFIX) or name in expected}
    missing, extra = sorted(expected.keys() - found), sorted(found - expected.keys())
    if missing or extra:
        raise Unfit(f"lacks {', '.join(missing)}" if missing else f"has also {', '.join(extra)}")
    for name, shape in expected.items():
        tensor = file.get_slice(name)
        if tuple(tensor.get_shape()) != shape or _DTYPES.get(tensor.get_dtype()) != dtype.name:
            raise Unfit(
                f"has {name} of shape {tuple(tensor.get_shape())} and type "
                f"{_DTYPES.get(tensor.get_dtype(), tensor.get_dtype())}; expected {shape} and {dtype.name}"
            )
