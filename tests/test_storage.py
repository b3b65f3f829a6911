"""Saving and loading: the same bits, whole files, and one clear sentence for every file that does not fit."""

import json
import os
import pickle
import stat

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fastbp
from fastbp import storage
from fastbp.formulas.activations import ACTIVATIONS


def rich_network(dtype="float32"):
    layers = [
        fastbp.Dense(3, "tanh", kernel_initializer="he_normal", bias_initializer="uniform", name="first"),
        fastbp.Dense(5, "gelu", use_bias=False),
        fastbp.Dense(4, name="ausgänge"),
    ]
    loss = fastbp.Loss("softmax_cross_entropy", label_smoothing=0.1)
    return fastbp.Network(layers, inputs=2, loss=loss, dtype=dtype, seed=2**64 - 1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def parts(path):
    """(tensors, description) of a saved network."""
    with storage.safe_open(path, framework="numpy") as file:
        return load_file(path), json.loads(file.metadata()["fastbp"])


def rewrite(path, tensors, description):
    text = description if isinstance(description, str) else json.dumps(description)
    save_file(tensors, path, metadata={"fastbp": text})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip_keeps_bits_and_architecture(path, dtype):
    network = rich_network(dtype)
    network.parameters[:] = np.random.default_rng(0).normal(size=network.parameters.size)
    network.parameters[:4] = [-0.0, np.inf, np.nan, np.finfo(dtype).smallest_subnormal]
    network.save(path)
    loaded = fastbp.load(path)
    assert loaded.parameters.tobytes() == network.parameters.tobytes()
    assert loaded._described == network._described
    assert loaded.architecture == network.architecture
    assert repr(loaded.loss_function) == repr(network.loss_function)
    assert (loaded.dtype, loaded.seed) == (network.dtype, network.seed)
    assert loaded.summary() == network.summary()


def test_loaded_network_predicts_and_trains_alike(path):
    network = fastbp.Network([2, 8, 1], activation="tanh", seed=1)
    x, y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20.0)
    network.save(str(path))
    loaded = fastbp.load(str(path))
    assert (loaded.predict(x) == network.predict(x)).all()
    for each in (network, loaded):
        fastbp.train(each, x, y, epochs=2)
    assert loaded.parameters.tobytes() == network.parameters.tobytes()


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (7, TypeError, "path must be a path; got 7"),
        ("", ValueError, "path must be a path that is not empty"),
        (".", IsADirectoryError, "path must be that of a file; .* is a folder"),
        ("nowhere/net", FileNotFoundError, "path must be in a folder that is there; there is no .*nowhere$"),
    ],
)
def test_where_nothing_can_be_saved(path, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        rich_network().save(path)
    assert os.listdir(tmp_path) == []


def test_same_network_gives_the_same_file(path, tmp_path):
    rich_network().save(path)
    rich_network().save(tmp_path / "again")
    assert path.read_bytes() == (tmp_path / "again").read_bytes()


def test_tensors_are_readable_by_others(path):
    network = rich_network()
    network.save(path)
    tensors = load_file(path)
    assert sorted(tensors) == ["ausgänge.W", "ausgänge.b", "first.W", "first.b", "layer1.W"]
    np.testing.assert_array_equal(tensors["layer1.W"], network.layers[1].W)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, tmp_path, monkeypatch):
    network = fastbp.Network([2, 1], seed=0)
    network.save(path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    network.parameters[:] = 7
    with pytest.raises(OSError, match="No space left"):
        network.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_link_is_followed(path, tmp_path):
    link = tmp_path / "latest"
    try:
        link.symlink_to(path)
    except OSError:
        pytest.skip("no symbolic links here")
    fastbp.Network([2, 1], seed=0).save(link)
    assert link.is_symlink()
    assert path.is_file()


def test_missing_file_and_missing_folder(path, tmp_path):
    with pytest.raises(FileNotFoundError):
        fastbp.load(path)
    with pytest.raises(FileNotFoundError):
        fastbp.Network([2, 1], seed=0).save(tmp_path / "no" / "folder")


def test_layers_of_the_same_name_are_refused(path):
    network = fastbp.Network([2, 1], seed=0)
    network._layers = (network.layers[0],) * 2  # the constructor refuses them, too
    with pytest.raises(ValueError, match="different names"):
        network.save(path)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"not a network", b"\xff" * 100])
def test_not_a_safetensors_file(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        fastbp.load(path)


def test_truncated_at_every_length(path):
    fastbp.Network([1, 1], seed=0).save(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is not a whole safetensors file"):
            fastbp.load(path)


def test_another_librarys_file(path):
    for metadata in (None, {"format": "pt"}):
        save_file({"layer0.W": np.zeros((2, 1), np.float32)}, path, metadata=metadata)
        with pytest.raises(ValueError, match="not one that fastbp wrote"):
            fastbp.load(path)


def change_tensors(name, values):
    def change(tensors, description):
        if values is None:
            del tensors[name]
        else:
            tensors[name] = values

    return change


def change_description(*keys, to):
    def change(tensors, description):
        inner = description
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return change


def drop(*keys):
    def change(tensors, description):
        inner = description
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]

    return change


SPOILT = [
    (change_tensors("first.b", None), r"lacks first\.b$"),
    (change_tensors("more", np.zeros(1)), r"has also more$"),
    (change_tensors("first.W", np.zeros((3, 2), "f")), r"first\.W of shape \(3, 2\).*expected \(2, 3\)"),
    (change_tensors("first.W", np.zeros((2, 3))), r"first\.W .*type float64; expected \(2, 3\) and float32"),
    (change_tensors("first.W", np.zeros((2, 3), np.int32)), r"type I32; expected"),
    (change_description("format_version", to=2), r"written by a newer fastbp, .*version 2"),
    (change_description("format_version", to="1"), "metadata is damaged"),
    (change_description("format_version", to=0), "metadata is damaged"),
    (change_description("inputs", to=3), r"first\.W of shape \(2, 3\).*expected \(3, 3\)"),
    (change_description("inputs", to=2**31 - 1), r"expected \(2147483647, 3\)"),
    (change_description("inputs", to=0), "inputs must be an integer at least 1"),
    (change_description("layers", to=[]), "it has no layer"),
    (change_description("layers", to=7), "does not describe a network"),
    (change_description("layers", 0, to=7), "does not describe a network"),
    (change_description("layers", 0, "type", to="Convolution"), "unknown type of layer 'Convolution'"),
    (change_description("layers", 0, "units", to=2.5), "units must be an integer"),
    (change_description("layers", 0, "color", to="red"), "a Dense layer must have units, activation"),
    (change_description("layers", 0, "activation", to="mine"), r"register_activation\('mine', …\) before"),
    (change_description("layers", 0, "kernel_initializer", to="mine"), "unknown kernel_initializer 'mine'"),
    (change_description("layers", 1, "name", to="first"), "has also layer1.W"),
    (change_description("loss", "name", to="mine"), "unknown loss 'mine'"),
    (change_description("loss", "option", to={"delta": 1.0}), "has no option 'delta'"),
    (change_description("loss", "option", to={"label_smoothing": 1.0}), "label_smoothing must be"),
    (change_description("dtype", to="float16"), "dtype must be"),
    (change_description("seed", to=-1), "seed must be"),
    (drop("format_version"), "metadata is damaged"),
    (drop("layers"), "lacks 'layers'"),
    (drop("layers", 0, "type"), "lacks 'type'"),
    (drop("layers", 0, "units"), "a Dense layer must have"),
    (drop("loss", "option"), "lacks 'option'"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILT, ids=[message for _, message in SPOILT])
def test_a_spoilt_file_is_refused_with_one_sentence(path, spoil, message):
    rich_network().save(path)
    tensors, description = parts(path)
    spoil(tensors, description)
    rewrite(path, tensors, description)
    with pytest.raises(ValueError, match=message) as refusal:
        fastbp.load(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "[" * 100_000])
def test_metadata_that_is_no_description(path, text):
    save_file({"layer0.W": np.zeros((2, 1), np.float32)}, path, metadata={"fastbp": text})
    with pytest.raises(ValueError, match="metadata is damaged"):
        fastbp.load(path)


def test_two_layers_of_one_name(path):
    network = fastbp.Network([fastbp.Dense(2, use_bias=False)] * 2, inputs=2, seed=0)
    network.save(path)
    tensors, description = parts(path)
    description["layers"][0]["name"] = "layer1"
    del tensors["layer0.W"]
    rewrite(path, tensors, description)
    with pytest.raises(ValueError, match="two layers have the same name"):
        fastbp.load(path)


def test_a_users_activation_loads_once_it_is_registered(path):
    def forward(z):
        return z + 0.1 * z * z

    def backward(dy, z):
        return dy * (1 + 0.2 * z)

    try:
        fastbp.register_activation("bent_line", forward, backward)
        network = fastbp.Network([2, 3, 1], activation="bent_line", seed=0)
        network.save(path)
        pickled = pickle.dumps(network)
        del ACTIVATIONS["bent_line"]
        with pytest.raises(
            ValueError, match="the network needs the activation 'bent_line', which is not known"
        ):
            pickle.loads(pickled)
        with pytest.raises(ValueError, match="register_activation"):
            fastbp.load(path)
        fastbp.register_activation("bent_line", forward, backward)
        assert fastbp.load(path).parameters.tobytes() == network.parameters.tobytes()
        assert pickle.loads(pickled).parameters.tobytes() == network.parameters.tobytes()
    finally:
        ACTIVATIONS.pop("bent_line", None)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_file_is_left_alone_and_a_files_mode_is_kept(path, tmp_path):
    net, pipe = fastbp.Network([2, 1]), tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="is a device or a pipe"):
        net.save(pipe)
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)
    net.save(path)
    os.chmod(path, 0o600)
    net.save(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_name_may_be_as_long_as_the_file_system_lets_it(tmp_path):
    net, path = fastbp.Network([2, 1], seed=0), tmp_path / ("x" * 255)
    net.save(path)
    assert np.array_equal(fastbp.load(path).parameters, net.parameters)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_names_are_counted_in_bytes(tmp_path):
    net, path = fastbp.Network([2, 1], seed=0), tmp_path / ("東" * 78 + ".safetensors")
    net.save(path)
    assert fastbp.load(path).parameters.tobytes() == net.parameters.tobytes()
