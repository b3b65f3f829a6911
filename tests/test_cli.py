"""The command line: what it learns, prints and saves, and one sentence for what does not fit."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fastbp
from fastbp import cli
from fastbp.datasets import digits, split


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, header, rows, delimiter=","):
    lines = [delimiter.join(header)] + [delimiter.join(map(str, row)) for row in rows]
    with open(name, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return name


def line_table(n=200, name="line.csv", year=2000):
    """A number that is a line in two inputs of very different units."""
    draw = np.random.default_rng(0)
    area, built = draw.uniform(20, 200, n), draw.integers(year, year + 30, n)
    price = 5000 * area + 2000 * (built - year) + 1e5
    return write(name, ["area", "built", "price"], zip(area, built, price))


def two_kinds(name="kinds.csv", delimiter=","):
    draw = np.random.default_rng(0)
    kinds = draw.integers(0, 2, 120)
    size = 10 * kinds + draw.normal(size=120)
    return write(name, ["size", "kind"], [(s, ["small", "große"][k]) for s, k in zip(size, kinds)], delimiter)


def run(capsys, *arguments):
    """(exit code, stdout, stderr)"""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_digits_by_default(capsys, tmp_path):
    code, out, err = run(capsys, "train", "digits")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "digits: 1,797 rows of 64 inputs; 1,438 to train on, 359 held out"
    assert lines[-3].startswith("held-out accuracy")
    assert float(lines[-3].split()[2]) >= 97
    assert lines[-2].startswith("time per epoch")
    assert "median of 50" in lines[-2]
    assert lines[-1].split() == ["saved", "to", "digits.safetensors"]
    assert "training" in err, "progress is shown"
    assert os.listdir() == ["digits.safetensors"]

    network = fastbp.load("digits.safetensors")
    x_test, y_test = split(*digits(), 0.2, 0)[2:]
    assert f"{100 * network.evaluate(x_test, y_test)['accuracy']:.2f} %" in lines[-3]


@pytest.mark.slow
def test_digits_of_twenty_seeds(capsys):
    accuracies = []
    for seed in range(20):
        code, out, _ = run(capsys, "train", "digits", "--quiet", "--seed", seed)
        assert code == 0
        accuracies.append(float(out.split()[2]))
    assert min(accuracies) >= 97, accuracies


def test_options_reach_the_training(capsys):
    options = "--hidden 8 4 --activation tanh --epochs 2 --batch-size 50 --learning-rate 0.1 --momentum 0.5"
    options += " --weight-decay 0 --seed 3 --threads 1 --test-fraction 0.1 --output own.safetensors"
    code, out, _ = run(capsys, "train", "digits", *options.split())
    assert code == 0
    assert "1,617 to train on, 180 held out" in out
    assert "median of 2" in out
    assert "1 thread)" in out
    saved = fastbp.load("own.safetensors")
    assert saved.architecture.sizes == (64, 8, 4, 10)
    assert saved.architecture.activations == ("tanh", "tanh", "identity")

    x, y = digits()
    x, y = split(x, y, 0.1, 3)[:2]
    loss = fastbp.Loss("softmax_cross_entropy", label_smoothing=cli.LABEL_SMOOTHING)
    network = fastbp.Network([64, 8, 4, 10], activation="tanh", loss=loss, seed=3)
    fastbp.train(network, x, y, epochs=2, batch_size=50, optimizer=fastbp.SGD(0.1, 0.5), threads=1)
    assert network.parameters.tobytes() == saved.parameters.tobytes()


def test_quiet_prints_only_results(capsys):
    code, out, err = run(capsys, "train", "digits", "--epochs", 1, "--quiet")
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        "held-out accuracy",
        "time per epoch",
        "saved to",
    ]
    assert err == ""


def test_no_hidden_layer(capsys):
    assert run(capsys, "train", "digits", "--epochs", 1, "--quiet", "--hidden")[0] == 0
    assert fastbp.load("digits.safetensors").architecture.sizes == (64, 10)


def test_regression_in_the_users_units(capsys):
    table = line_table()
    code, out, _ = run(capsys, "train", table, "--target", "price", "--hidden", "--epochs", 30)
    assert code == 0
    assert "target price: a number, " in out
    assert "inputs are standardised" in out
    assert float(out.split("root mean square), ")[1].split()[0]) > 99
    network = fastbp.load("line.safetensors")
    expected = 5000 * 100 + 2000 * 10 + 1e5
    assert network.predict([100.0, 2010.0])[0] == pytest.approx(expected, rel=0.01)


def test_folding_the_standardisation_loses_no_digits(capsys):
    """Inputs around 1e9 that differ by tens: float32 could not hold them."""
    table = line_table(year=1_000_000_000)
    code, out, _ = run(capsys, "train", table, "--target", "price", "--hidden", "--epochs", 30)
    assert code == 0
    assert float(out.split("root mean square), ")[1].split()[0]) > 99


def test_classes_by_name(capsys):
    code, out, _ = run(capsys, "train", two_kinds(), "--target", "kind", "--epochs", 20)
    assert code == 0
    assert "target kind: 2 classes, 0 = große, 1 = small" in out
    assert "held-out accuracy  100.00 % (24 of 24 rows)" in out
    assert fastbp.load("kinds.safetensors").predict([[0.0], [10.0]]).argmax(axis=1).tolist() == [1, 0]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(capsys, delimiter):
    code, out, _ = run(capsys, "train", two_kinds(delimiter=delimiter), "--target", "kind", "--epochs", 1)
    assert code == 0
    assert "1 inputs" in out


@pytest.mark.parametrize(
    ("values", "task", "found"),
    [
        (range(3), "auto", "3 classes, 0 = 0, 1 = 1, 2 = 2"),
        ((-1, 10, 9), "auto", "3 classes, 0 = -1, 1 = 9, 2 = 10"),
        (range(30), "auto", "a number"),
        ((0.5, 1.5), "auto", "a number"),
        (range(3), "regression", "a number"),
        ((0.5, 1.5), "classification", "2 classes, 0 = 0.5, 1 = 1.5"),
    ],
)
def test_class_or_number(capsys, values, task, found):
    table = write("table.csv", ["a", "b"], [(i, value) for i, value in enumerate(list(values) * 4)])
    code, out, _ = run(capsys, "train", table, "--target", "b", "--task", task, "--epochs", 1)
    assert code == 0
    assert f"target b: {found}" in out


def test_ignored_and_constant_columns(capsys):
    rows = [(f"id{i}", 5.0, i % 7, 2.0 * (i % 7) + 0.5) for i in range(50)]
    table = write("table.csv", ["id", "constant", "a", "b"], rows)
    code, out, _ = run(capsys, "train", table, "--target", "b", "--ignore", "id", "--epochs", 5)
    assert code == 0
    assert "50 rows of 2 inputs" in out


def test_a_diverged_training_is_not_saved(capsys):
    code, _, err = run(capsys, "train", "digits", "--learning-rate", "1e6", "--quiet", "--epochs", 2)
    assert code == 1
    assert err == "fastbp: training diverged, nothing was saved: give a lower --learning-rate\n"
    assert os.listdir() == []


BAD_ARGUMENTS = [
    ("frain", "invalid choice: 'frain'"),
    ("train", "the following arguments are required: data"),
    ("train digit", "there is no file 'digit'; give a CSV file, or 'digits'"),
    ("train digits --target a", "--target goes with a CSV file"),
    ("train digits --ignore a", "--ignore goes with a CSV file"),
    ("train digits --task regression", "--task regression goes with a CSV file"),
    ("train digits --wrong 1", "unrecognized arguments: --wrong 1"),
    (
        "train digits --hidden 8 0",
        "--hidden: the value must be an integer at least 1 and at most 2147483647; got 0",
    ),
    (
        "train digits --hidden 8.5",
        "--hidden: the value must be an integer at least 1 and at most 2147483647; got '8.5'",
    ),
    ("train digits --activation rleu", "--activation: unknown activation 'rleu': did you mean 'relu'?"),
    (
        "train digits --epochs 0",
        "--epochs: the value must be an integer at least 1 and at most 2147483647; got 0",
    ),
    ("train digits --epochs 3000000000", "got 3000000000"),
    (
        "train digits --batch-size 0",
        "--batch-size: the value must be an integer at least 1 and at most 2147483647; got 0",
    ),
    ("train digits --learning-rate 0", "--learning-rate: the value must be a finite number above 0; got 0.0"),
    (
        "train digits --learning-rate nan",
        "--learning-rate: the value must be a finite number above 0; got nan",
    ),
    ("train digits --momentum 1", "--momentum: the value must be a finite number at least 0 and below 1"),
    (
        "train digits --weight-decay -1",
        "--weight-decay: the value must be a finite number at least 0; got -1.0",
    ),
    ("train digits --seed -1", "--seed: seed must be an integer at least 0"),
    (
        "train digits --threads 0",
        "--threads: threads must be an integer at least 1 and at most 1024; got 0",
    ),
    (
        "train digits --test-fraction 1",
        "--test-fraction: the value must be a finite number above 0 and below 1",
    ),
    ("train digits --output .", "--output must be a file; '.' is a folder"),
    ("train digits --output no/file", "--output: there is no folder 'no'"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD_ARGUMENTS, ids=[a for a, _ in BAD_ARGUMENTS])
def test_bad_arguments(capsys, arguments, sentence):
    code, out, err = run(capsys, *arguments.split())
    assert code == 2
    assert out == ""
    assert err.startswith("fastbp: ")
    assert err.count("\n") == 1
    assert sentence in err


BAD_TABLES = [
    ("", "is empty"),
    ("1,2\n3,4\n5,6\n", "the first line of t.csv must name all columns"),
    ("a,\n1,2\n", "the first line of t.csv must name all columns"),
    ("a,a,t\n1,2,3\n", "two are 'a'"),
    ("a,t\n1,2\n", "at least 2 rows"),
    ("a,t\n1,2\n1,2,3\n", "line 3: got 3 cells; the first line names 2"),
    ("a,t\n1,2\n,3\n", "line 3: 'a' is empty"),
    ("a,t\n1,2\nred,3\n", "line 3: 'a' must be a number, got 'red'"),
    ("a,t\n1,2\nnan,3\n", "line 3: 'a' must be finite, got 'nan'"),
    ("a,t\n1,2\n1,\n", "line 3: the target 't' is empty"),
    ("a,t\n1,2\n1,inf\n", "line 3: 't' must be finite, got 'inf'"),
    ("a,t\n1,2\n-2e200,1\n", "line 3: 'a' must be at most 1e+150 in size, got '-2e200'"),
    ("a,t\n1,0.5\n2,3e200\n", "line 3: 't' must be at most 1e+150 in size, got '3e200'"),
    ("a,t\n1,2\n2,2\n", "must have at least 2 classes; all rows have '2'"),
    ("a,t\n1,x\n2,y\n3,z\n", "has 3 classes in 3 rows"),
    ("t\n1\n2\n", "has no column to predict 't' from"),
    ("a,b\n1,2\n2,2\n", "--target: unknown column of t.csv 't'"),
]


@pytest.mark.parametrize(("text", "sentence"), BAD_TABLES, ids=[sentence for _, sentence in BAD_TABLES])
def test_bad_tables(capsys, text, sentence):
    with open("t.csv", "w", encoding="utf-8") as file:
        file.write(text)
    code, out, err = run(capsys, "train", "t.csv", "--target", "t")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert sentence in err


def test_bad_choices_of_columns(capsys):
    table = line_table()
    for arguments, sentence in (
        ([], "--target must name the column to predict; line.csv has area, built, price"),
        (["--target", "pric"], "--target: unknown column of line.csv 'pric': did you mean 'price'?"),
        (["--target", "price", "--ignore", "x"], "--ignore: unknown column of line.csv 'x'"),
        (["--target", "price", "--ignore", "price"], "--ignore: 'price' is the target"),
        (["--target", "price", "--output", "line.csv"], "--output would overwrite the data"),
    ):
        code, _, err = run(capsys, "train", table, *arguments)
        assert code == 2
        assert sentence in err


def test_binary_file_and_folder(capsys, tmp_path):
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x01" * 10)
    for name, sentence in (
        ("b.csv", "b.csv is not text in UTF-8"),
        (str(tmp_path), "is a folder; give a CSV"),
    ):
        code, _, err = run(capsys, "train", name, "--target", "t")
        assert code == 2
        assert err.count("\n") == 1
        assert sentence in err


def test_version_and_help(capsys):
    assert run(capsys, "--version") == (0, f"fastbp {fastbp.__version__}\n", "")
    code, out, _ = run(capsys)
    assert code == 0
    assert "train" in out
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    for option in (
        "hidden",
        "activation",
        "epochs",
        "batch-size",
        "learning-rate",
        "seed",
        "threads",
        "output",
    ):
        assert f"--{option}" in out
    assert "default: 50" in out


def test_as_a_module():
    command = [sys.executable, "-m", "fastbp", "train", "digits", "--epochs", "1", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "held-out accuracy" in done.stdout
    assert done.stderr == ""
