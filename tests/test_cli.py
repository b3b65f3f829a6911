"""The command line: what it learns, prints and saves, and one sentence for what does not fit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastbp
from fastbp import cli, table
from fastbp.datasets import digits, split


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, header, rows, delimiter=","):
    lines = [delimiter.join(header)] + [delimiter.join(map(str, row)) for row in rows]
    return write_text(name, "\n".join(lines) + "\n")


def write_text(name, text):
    with open(name, "w", encoding="utf-8") as file:
        file.write(text)
    return name


def table_of(name, text):
    return table.read(Path(write_text(name, text)))


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
    options += " --weight-decay 0.01 --seed 3 --threads 1 --test-fraction 0.1 --output own.safetensors"
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
    optimizer = fastbp.SGD(0.1, 0.5, weight_decay=0.01)
    fastbp.train(network, x, y, epochs=2, batch_size=50, optimizer=optimizer, threads=1)
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
    assert "numbers are standardised" in out
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


def test_a_column_that_is_constant_but_for_rounding_is_not_stretched():
    column = np.full((7, 1), 0.1)
    assert column.std() > 0
    assert cli._spread(column)[1] == np.inf


@pytest.mark.parametrize("other", [6, 1e6])
def test_a_column_that_taught_nothing_has_no_say_in_predictions(capsys, other):
    rows = [(i % 7, 5, 2 * (i % 7)) for i in range(50)]
    table = write("table.csv", ["a", "k", "b"], rows)
    assert run(capsys, "train", table, "--target", "b", "--task", "regression", "--epochs", 2)[0] == 0
    first, second = predict(capsys, "table.safetensors", ["a", "k"], [(3, 5), (3, other)])[1:]
    assert first == second


@pytest.mark.parametrize(
    ("first", "step"), [(10**14, 1), (10**18, 1000), (12345678901234567890, 1)], ids=["id", "ns", "one float"]
)
@pytest.mark.parametrize("where", ["a", "b"])
def test_long_integers(capsys, first, step, where):
    """Identifiers, moments in nanoseconds: what float64 hardly tells apart."""
    rows = [(first + step * i, i) if where == "a" else (i, first + step * i) for i in range(100)]
    table = write("table.csv", ["a", "b"], rows)
    code, _, err = run(capsys, "train", table, "--target", "b", "--task", "regression", "--epochs", 3)
    if where == "b" and step == 1 and first > 10**19:
        assert code == 2
        assert "is 12345678901234567890 in all rows" in err
    else:
        assert code == 0


def test_what_is_explained_is_what_the_mean_of_the_rows_trained_on_does_not():
    network = fastbp.Network([1, 1], seed=0)
    network.parameters[:] = 0, 5
    task = cli._Task(None, None, "points", "t", None)
    held_out = np.zeros((2, 1)), np.array([4.0, 6.0])
    told = cli._quality(network, task, *held_out, np.zeros(4))
    assert f"{100 * (1 - 1 / 26):.1f} % of the variance explained" in told


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


def test_a_byte_order_mark_is_no_part_of_a_name(capsys):
    table = write("marked.csv", ["\N{BOM}size", "b"], [(i, i % 2) for i in range(40)])
    code, out, _ = run(capsys, "train", table, "--target", "size", "--epochs", 1)
    assert code == 0
    assert "target size: a number" in out


@pytest.mark.parametrize(
    ("values", "task", "found"),
    [
        (range(3), "auto", "3 classes, 0 = 0, 1 = 1, 2 = 2"),
        ((-1, 10, 9), "auto", "3 classes, 0 = -1, 1 = 9, 2 = 10"),
        (range(20), "auto", "20 classes, 0 = 0, 1 = 1"),
        (range(21), "auto", "a number"),
        ((0.5, 1.5), "auto", "a number"),
        (range(3), "regression", "a number"),
        ((0.5, 1.5), "classification", "2 classes, 0 = 0.5, 1 = 1.5"),
        (("1", "0", "1.0", "00", "0.0"), "auto", "2 classes, 0 = 0, 1 = 1"),
        (("1_0", "1_1"), "auto", "2 classes, 0 = 1_0, 1 = 1_1"),
        (("123456789012345678", "123456789012345679"), "auto", "2 classes, 0 = 123456789012345678, 1 = "),
        (("nan", "NaN", "yes"), "classification", "3 classes, 0 = NaN, 1 = nan, 2 = yes"),
        (("12 %", "7 %"), "classification", "2 classes, 0 = 12 %, 1 = 7 %"),
    ],
)
def test_class_or_number(capsys, values, task, found):
    table = write("table.csv", ["a", "b"], [(i, value) for i, value in enumerate(list(values) * 4)])
    code, out, _ = run(capsys, "train", table, "--target", "b", "--task", task, "--epochs", 1)
    assert code == 0
    assert f"target b: {found}" in out


def test_a_target_of_numbers_and_text_is_a_mistake(capsys):
    rows = [(i, "few" if i == 4 else i) for i in range(40)]
    table = write("table.csv", ["a", "b"], rows)
    code, out, err = run(capsys, "train", table, "--target", "b", "--epochs", 1)
    assert (code, out) == (2, "")
    assert "line 6: the target 'b' is 'few', and in others a number; --task classification takes" in err
    grades = write("grades.csv", ["a", "b"], [(i, ["1", "2", "A"][i % 3]) for i in range(40)])
    code, out, _ = run(capsys, "train", grades, "--target", "b", "--task", "classification", "--epochs", 1)
    assert code == 0
    assert "3 classes, 0 = 1, 1 = 2, 2 = A" in out


def test_ignored_and_constant_columns(capsys):
    rows = [(f"id{i}", 5.0, i % 7, 2.0 * (i % 7) + 0.5) for i in range(50)]
    table = write("table.csv", ["id", "constant", "a", "b"], rows)
    code, out, _ = run(capsys, "train", table, "--target", "b", "--ignore", "id", "--epochs", 5)
    assert code == 0
    assert "50 rows of 2 inputs" in out


# Columns of text


def mixed_table(n=300, name="mixed.csv"):
    """A number from a number, a text and a code; and whether it is large."""
    draw = np.random.default_rng(0)
    area, town, code = draw.uniform(20, 200, n), draw.integers(0, 3, n), draw.integers(0, 2, n)
    towns = np.array(["Zürich", "Bonn", "Ulm, old"])
    price = 1000 * area + np.array([90_000, 0, 40_000])[town] + 50_000 * code
    rows = [
        (a, f'"{t}"', 70 + 3 * c, p, "dear" if p > 180_000 else "cheap")
        for a, t, c, p in zip(area, towns[town], code, price)
    ]
    return write(name, ["area", "town", "zip", "price", "kind"], rows)


def predict(capsys, model, names, rows):
    """The lines that predict writes for rows."""
    new = write("new.csv", names, rows)
    code, out, err = run(capsys, "predict", model, new)
    assert (code, err) == (0, "")
    return out.splitlines()


def test_text_is_an_input_for_each_text_then_and_later(capsys):
    table = mixed_table()
    arguments = ["--target", "price", "--ignore", "kind", "--categories", "zip", "--hidden", "--epochs", 60]
    code, out, _ = run(capsys, "train", table, *arguments)
    assert code == 0
    assert "mixed.csv: 300 rows of 3 inputs" in out
    assert "input town: 3 texts, Bonn, Ulm, old, Zürich" in out
    assert "input zip: 2 texts, 70, 73" in out
    assert float(out.split("root mean square), ")[1].split()[0]) > 99
    network = fastbp.load("mixed.safetensors")
    assert network.architecture.sizes == (6, 1)
    # In any order, with columns that nobody asked for, and without the target.
    rows = [("?", "Bonn", 73, 100), ("?", "Zürich", 70, 50), ("?", '"Ulm, old"', 70, 50)]
    head, *values = predict(capsys, "mixed.safetensors", ["no", "town", "zip", "area"], rows)
    assert head == "price"
    np.testing.assert_allclose([float(v) for v in values], [150_000, 140_000, 90_000], rtol=0.02)
    encoded = [[100, 1, 0, 0, 0, 1], [50, 0, 0, 1, 1, 0], [50, 0, 1, 0, 1, 0]]
    np.testing.assert_allclose([float(v) for v in values], network.predict(encoded)[:, 0], rtol=1e-8)


def test_classes_are_predicted_by_name(capsys):
    arguments = ["--target", "kind", "--ignore", "price", "--epochs", 30, "--quiet"]
    assert run(capsys, "train", mixed_table(), *arguments)[0] == 0
    names = ["area", "town", "zip", "kind"]
    lines = predict(capsys, "mixed.safetensors", names, [(190, "Zürich", 73, ""), (25, "Bonn", 70, "dear")])
    assert lines[0] == "kind,probability"
    assert [line.split(",")[0] for line in lines[1:]] == ["dear", "cheap"]
    assert all(0.5 < float(line.split(",")[1]) <= 1 for line in lines[1:])
    code, out, _ = run(capsys, "predict", "mixed.safetensors", "new.csv", "--output", "out.csv")
    assert (code, out) == (0, "")
    with open("out.csv", encoding="utf-8") as file:
        assert file.read().splitlines() == lines


@pytest.fixture
def trained_on_text(capsys):
    """A network, and files that do not fit it."""
    run(capsys, "train", mixed_table(), "--target", "price", "--epochs", 1, "--quiet", "--ignore", "kind")
    write("short.csv", ["area", "town"], [(1, "Bonn")])
    write("other.csv", ["area", "town", "zip"], [(1, "Bonn", 70), (1, "Rome", 70)])
    write("text.csv", ["area", "town", "zip"], [("x", "Bonn", 70)])
    write("none.csv", ["area", "town", "zip"], [])
    fastbp.Network([2, 1], seed=0).save("plain.safetensors")
    fastbp.storage.save(fastbp.Network([2, 1], seed=0), "odd.safetensors", {"fastbp.table": "{}"})
    network = fastbp.load("mixed.safetensors")
    with fastbp.storage.opened("mixed.safetensors") as file:
        text = file.metadata()["fastbp.table"]
    fastbp.storage.save(fastbp.Network([7, 1]), "wide.safetensors", {"fastbp.table": text})
    fastbp.storage.save(fastbp.Network([5, 2]), "many.safetensors", {"fastbp.table": text})
    three = text.replace('"classes": null', '"classes": ["a", "b", "c"]')
    fastbp.storage.save(fastbp.Network([5, 2]), "three.safetensors", {"fastbp.table": three})
    newer = text.replace('"format_version": 1', '"format_version": 2')
    fastbp.storage.save(network, "newer.safetensors", {"fastbp.table": newer})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "mixed.safetensors short.csv",
            "short.csv must have the column 'zip', which the network was trained",
        ),
        (
            "mixed.safetensors other.csv",
            "other.csv, line 3: 'town' must be one of the texts that were there in",
        ),
        ("mixed.safetensors text.csv", "text.csv, line 2: 'area' must be a number; got 'x'\n"),
        (
            "mixed.safetensors none.csv",
            "none.csv must have at least 1 row below the names of its columns; got 0",
        ),
        ("mixed.safetensors gone.csv", "there is no file 'gone.csv'; give a CSV file\n"),
        (
            "gone.safetensors other.csv",
            "there is no file 'gone.safetensors'; `fastbp train data.csv` writes one",
        ),
        ("other.csv other.csv", "other.csv is not a whole safetensors file"),
        ("plain.safetensors other.csv", "plain.safetensors does not know the columns of a table"),
        ("odd.safetensors other.csv", "odd.safetensors is damaged: it does not describe a table"),
        ("wide.safetensors other.csv", "wide.safetensors is damaged: its table does not fit its network"),
        ("many.safetensors other.csv", "many.safetensors is damaged: its table does not fit its network"),
        ("three.safetensors other.csv", "three.safetensors is damaged: its table does not fit its network"),
        ("newer.safetensors other.csv", "newer.safetensors was written by a newer fastbp"),
        ("mixed.safetensors other.csv --output other.csv", "--output would overwrite 'other.csv'"),
        (
            "mixed.safetensors other.csv --output mixed.safetensors",
            "--output would overwrite 'mixed.safetensors'",
        ),
        ("mixed.safetensors other.csv --device gpu", "--device: unknown device 'gpu': did you mean 'cuda'?"),
    ],
)
def test_what_cannot_be_predicted(capsys, trained_on_text, arguments, sentence):
    code, out, err = run(capsys, "predict", *arguments.split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert sentence in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--categories towm", "--categories: unknown column of mixed.csv 'towm': did you mean 'town'?"),
        ("--categories price", "--categories: 'price' is the target"),
        ("--categories zip --ignore zip", "--categories: 'zip' is ignored"),
        (
            "--categories area",
            "mixed.csv: 'area' has 300 different texts in 300 rows, too many to learn from",
        ),
        ("--device gpu", "--device: unknown device 'gpu': did you mean 'cuda'?"),
    ],
)
def test_bad_choices_for_text(capsys, arguments, sentence):
    code, _, err = run(capsys, "train", mixed_table(), "--target", "price", *arguments.split())
    assert code == 2
    assert sentence in err
    assert os.listdir() == ["mixed.csv"]


def test_ctrl_c_before_there_is_anything_to_keep(capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt  # as while kernels are compiled

    monkeypatch.setattr("fastbp.cli.train", interrupted)
    code, _, err = run(capsys, "train", "digits", "--output", "net.safetensors")
    assert (code, err) == (130, "fastbp: interrupted; nothing was written\n")
    assert os.listdir() == []


def test_a_device_that_is_not_there(capsys, monkeypatch):
    def require():
        raise RuntimeError("there is no GPU")

    monkeypatch.setattr("fastbp.cuda.device.require", require)
    code, _, err = run(capsys, "train", "digits", "--device", "cuda")
    assert (code, err) == (2, "fastbp: --device: there is no GPU\n")


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
    ("train digits --categories a", "--categories goes with a CSV file"),
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
    (f"train digits --output {os.devnull}", "is a device or a pipe"),
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
    ("a,t\n1,2\nred,3\n", "line 3: 'a' must be a number; got 'red'; --categories takes a column for text"),
    ("a,t\nred,2\n,3\n", "line 3: 'a' is empty"),
    ("a,t\nw,1\nx,2\ny,3\nz,4\n", "'a' has 4 different texts in 4 rows"),
    ("a,t\n1,2\nnan,3\n", "line 3: 'a' is 'nan', which stands for a missing value"),
    ("a,t\n1,2\nNA,3\n", "line 3: 'a' is 'NA', which stands for a missing value"),
    (
        "a,t\n1,2\n1,NULL\n",
        "line 3: 't' is 'NULL', which stands for a missing value; fill such cells or leave",
    ),
    ("a;t\n0,5;2\n?;3\n−1,5;3\n", "line 2: 'a' is '0,5', nearly a number"),
    ("a;t\n1\u202f000;2\n20\u00a0000;3\n", r"line 2: 'a' is '1\u202f000', nearly a number"),
    ("a;t\n1,5e-05;2\n2e-05;3\n", "'a' must be a number; got '1,5e-05'"),
    ("a;t\n($5);2\n$-5.5;3\n¥7;2\n", "line 2: 'a' is '($5)', nearly a number"),
    ("a,t\ninf,2\n-inf,3\n", "line 2: 'a' must be finite; got 'inf'"),
    ("a,t\nred,2\nNA,3\n", "line 3: 'a' is 'NA', which stands for a missing value; fill such cells or"),
    ("a,t\nred,2\nnan,3\n", "line 3: 'a' is 'nan', which stands for a missing value"),
    ("a,t\n1,yes\n2,NaN\n", "line 3: 't' is 'NaN', which stands for a missing value"),
    ('a,t\n"0,5",2\n"1,5",3\n', "line 2: 'a' is '0,5', nearly a number; numbers are spelt as 1234.5; --cat"),
    ("a;t\n1;-0,5\n2;1,5\n", "line 2: 't' is '-0,5', nearly a number; numbers are spelt as 1234.5; --task"),
    ("a,t\n$3,2\n$1.5,3\n", "line 2: 'a' is '$3', nearly a number"),
    ("a,t\n12 %,2\n7%,3\n", "line 2: 'a' is '12 %', nearly a number"),
    ('a,t\n"1,234.5",2\n"2,345.5",3\n', "line 2: 'a' is '1,234.5', nearly a number"),
    (",a,t\n0,1,2\n1,1,2\n", "got '', 'a', 't'; a first column of row numbers is what pandas leaves out"),
    ("t\n1\n\n2\n\n", "has no column to predict 't' from"),
    ("a,t\n1,2\n1,\n", "line 3: the target 't' is empty"),
    ('a,t\n1,2\n\n"3\n",4\n5,\n', "line 6: the target 't' is empty"),
    ("a,t\n1,2\n1,inf\n", "line 3: 't' must be finite; got 'inf'"),
    ("a,t\n1,2\n-2e200,1\n", "line 3: 'a' must be at most 1e+150 in size; got '-2e200'"),
    ("a,t\n1,0.5\n2,3e200\n", "line 3: 't' must be at most 1e+150 in size; got '3e200'"),
    ("a,t\n1,2\n2,2\n", "must have at least 2 classes; all rows have '2'"),
    ("a,t\n1,2.5\n2,2.50\n", "the target 't' is 2.5 in all rows"),
    ("a,2020,t\n1,2,3\n4,5,6\n", "by anything but a number; got 'a', '2020', 't'"),
    ("a,t\n1,x\n2,y\n3,z\n", "has 3 classes in 3 rows"),
    ("t\n1\n2\n", "has no column to predict 't' from"),
    ("a,b\n1,2\n2,2\n", "--target: unknown column of t.csv 't'"),
]


@pytest.mark.parametrize(("text", "sentence"), BAD_TABLES, ids=[sentence for _, sentence in BAD_TABLES])
def test_bad_tables(capsys, text, sentence):
    code, out, err = run(capsys, "train", write_text("t.csv", text), "--target", "t")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert sentence in err


@pytest.mark.parametrize(
    "cells", ["3/4 7/8", "10x20 4x5", "1-2 3-4", "10:30 9:15", "5'11 6'2", "12a 7b", "1.2.3.4 a"]
)
def test_texts_with_digits_stay_texts(cells):
    both = cells.split()
    found = table_of("t.csv", "\n".join(["a,t", *(f"{both[i % 2]},{i}" for i in range(8))]) + "\n")
    (column,) = table.inputs_of(found, ["a"], [])
    assert set(column.categories) == set(both)


def test_commas_within_the_names_of_another_separator():
    found = table_of("t.csv", "Weight, kg\tHeight, cm\ty\n1\t2\t3\n4\t5\t6\n")
    assert found.names == ["Weight, kg", "Height, cm", "y"]


def test_more_texts_than_fit_in_memory(capsys, monkeypatch):
    monkeypatch.setattr("fastbp.table.MOST_NUMBERS", 100)
    table = write("t.csv", ["a", "t"], [(f"c{i % 7}", i % 2) for i in range(20)])
    code, _, err = run(capsys, "train", table, "--target", "t")
    assert code == 2
    assert "t.csv: 20 rows are 140 numbers" in err
    assert "at most 100 fit; 'a' has 7 texts: leave it out with --ignore" in err


def test_a_blank_line_is_an_empty_cell_where_there_is_one_column():
    assert table_of("one.csv", "a\n1\n\n2\n\n").rows == [["1"], [""], ["2"]]
    assert table_of("two.csv", "a,b\n1,1\n\n2,2\n\n").rows == [["1"] * 2, ["2"] * 2]


def test_a_line_separator_of_unicode_is_part_of_a_name():
    assert table_of("one.csv", "a\u2028b,c\n1,2\n3,4\n").names == ["a\u2028b", "c"]


def test_bad_choices_of_columns(capsys):
    table = line_table()
    for arguments, sentence in (
        ([], "--target must name the column to predict; line.csv has area, built, price"),
        (["--target", "pric"], "--target: unknown column of line.csv 'pric': did you mean 'price'?"),
        (["--target", "price", "--ignore", "x"], "--ignore: unknown column of line.csv 'x'"),
        (["--target", "price", "--ignore", "price"], "--ignore: 'price' is the target"),
        (["--target", "price", "--output", "line.csv"], "--output would overwrite 'line.csv'"),
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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.5e-6, "1.5 µs"), (9.996e-4, "1 ms"), (0.0123, "12.3 ms"), (0.9996, "1 s"), (12.345, "12.3 s"),
        (999.7, "1,000 s"), (4321.0, "4,321 s"),
    ],
)  # fmt: skip
def test_durations_are_read_without_powers_of_ten(seconds, text):
    assert cli._duration(seconds) == text


POSIX = pytest.mark.skipif(os.name != "posix", reason="pipes and devices")


def in_shell(command, **environment):
    """(exit code, stdout, stderr) of a line of the shell in which `fastbp` is the command line."""
    command = command.replace("fastbp ", f"{sys.executable} -m fastbp ")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, check=False
    )
    return done.returncode, done.stdout, done.stderr


@POSIX
def test_what_was_trained_is_saved_whoever_reads():
    line = f"set -o pipefail; fastbp train {two_kinds()} --target kind --epochs 1 | head -n 1"
    code, out, err = in_shell(line)
    assert (code, out.count("\n"), "Error" in err) == (0, 1, False)
    assert fastbp.load("kinds.safetensors").predict([[0.0]]).shape == (1, 2)


@POSIX
def test_terminals_that_lack_characters():
    code, out, _ = in_shell(f"fastbp train {two_kinds()} --target kind --epochs 1", PYTHONIOENCODING="ascii")
    assert code == 0
    assert "Network(1 ? 128 relu" in out


@POSIX
def test_a_table_from_a_pipe():
    code, out, err = in_shell(
        f"fastbp train <(cat {two_kinds()}) --target kind --epochs 1 --output a.safetensors"
    )
    assert code == 0, err
    assert "120 rows of 1 inputs" in out


def test_delimiters_within_quotes_count_for_nothing(capsys):
    rows = [(i % 7, 2 * (i % 7)) for i in range(40)]
    table = write("table.csv", ['"x (m; s; kg; A)"', "y"], rows)
    code, out, _ = run(capsys, "train", table, "--target", "y", "--epochs", 1)
    assert code == 0
    assert "40 rows of 1 inputs" in out


@POSIX
def test_predictions_are_never_changed_for_an_encoding():
    code, _, err = in_shell(f"fastbp train {two_kinds()} --target kind --epochs 20 --quiet")
    assert code == 0, err
    predict = "fastbp predict kinds.safetensors kinds.csv > out.csv"
    assert in_shell(predict, PYTHONIOENCODING="utf-8")[0] == 0
    with open("out.csv", encoding="utf-8") as file:
        assert "große" in file.read()
    code, _, err = in_shell(predict, PYTHONIOENCODING="ascii")
    assert code == 2
    assert "can't encode" in err


def test_names_with_line_breaks_and_zeros_with_signs(capsys):
    with open("table.csv", "w", encoding="utf-8") as file:
        file.write('"price\n(EUR)";t\n' + "".join(f"{i};{['-0.0', '0', '1'][i % 3]}\n" for i in range(60)))
    code, out, err = run(capsys, "train", "table.csv", "--target", "t", "--epochs", 1)
    assert code == 0, err
    assert "2 classes, 0 = 0, 1 = 1" in out


@pytest.mark.parametrize("hash_seed", ["1", "2", "3"])
def test_the_order_of_categories_is_no_matter_of_chance(hash_seed):
    rows = [(["3", "nan", "1", "2"][i % 4], i % 4) for i in range(60)]
    write("table.csv", ["code", "t"], rows)
    line = "fastbp train table.csv --target t --categories code --epochs 1"
    code, out, err = in_shell(line, PYTHONHASHSEED=hash_seed)
    assert code == 0, err
    assert "input code: 4 texts, 1, 2, 3, nan" in out
