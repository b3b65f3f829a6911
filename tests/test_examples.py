"""The examples do what they say."""

import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    """The names of an example, without running its main part."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def output(name):
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_two_neurons_prints_what_the_reader_waits_for():
    lines = output("two_neurons").splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["step", str(step)] for step in range(0, 1001, 100)]
    losses = [float(line.split()[-1]) for line in lines[:-1]]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 100
    assert lines[-1].startswith("prediction for [0.7, 0.8]: 0.")


def test_two_neurons_follow_pytorch():
    """All 1000 losses, and the parameters at the end, in float64 to 1e-10."""
    torch = pytest.importorskip("torch")
    example = load("two_neurons")
    network = example["make"]()
    x = torch.tensor(example["inputs"], dtype=torch.float64)
    t = torch.tensor(example["targets"], dtype=torch.float64)
    parameters = [
        torch.tensor(array.copy(), requires_grad=True) for layer in network.layers for array in layer[-2:]
    ]
    descent = torch.optim.SGD(parameters, lr=0.1)

    def loss():
        W1, b1, W2, b2 = parameters
        prediction = torch.sigmoid(torch.sigmoid(x @ W1 + b1) @ W2 + b2)
        return torch.nn.functional.mse_loss(prediction, t)

    expected = []
    for _ in range(1000):
        descent.zero_grad()
        value = loss()
        value.backward()
        descent.step()
        expected.append(value.item())
    expected.append(loss().item())

    losses = example["train"](network)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-10)
    ended = np.concatenate([parameter.detach().numpy().ravel() for parameter in parameters])
    np.testing.assert_allclose(network.parameters, ended, rtol=0, atol=1e-10)


def test_xor_is_learned_from_at_least_95_of_100_starts():
    example = load("xor")
    learned = [example["has_learned"](example["learn"](seed)) for seed in range(100)]
    assert sum(learned) >= 95


def test_xor_prints_its_table():
    text = output("xor")
    for row in ("0 xor 0 = 0", "0 xor 1 = 1", "1 xor 0 = 1", "1 xor 1 = 0"):
        assert row in text
    assert "of 100 random starts" in text


def test_step_by_step_agrees_three_times(capsys):
    by_hand, by_fastbp, measured = load("backpropagation_step_by_step")["main"]()
    for name, derived in by_hand.items():
        np.testing.assert_allclose(by_fastbp[name], derived, rtol=1e-13, atol=0)
        np.testing.assert_allclose(measured[name], derived, rtol=1e-7, atol=0)
    assert "check_gradients: passed" in capsys.readouterr().out


def test_step_by_step_shows_every_step():
    text = output("backpropagation_step_by_step")
    for part in ("The output error", "The hidden errors", "The gradients", "The update", "Does it agree?"):
        assert part in text
    update, step = text.split("The update")[1], text.split("The same step by fastbp.train")[1]
    for name in ("W1", "b1", "W2", "b2"):
        numbers = [part.split(f"    {name} ")[1].split("\n")[0].split()[-1] for part in (update, step)]
        assert numbers[0] == numbers[1], "NumPy's update and fastbp's"


def test_weights_find_the_rare_class_and_bounds_help_on_new_rows():
    rows, bounds = output("weights_and_regularisation").split("\n\n")
    rare = {line[:24].strip(): int(line.split("%")[-2]) for line in rows.splitlines()[1:]}
    assert len(rare) == 4
    assert all(found > rare["as they are"] + 20 for name, found in rare.items() if name != "as they are")
    error = {line[:24].strip(): float(line[24:].split()[0]) for line in bounds.splitlines()[1:]}
    assert len(error) == 7
    assert all(value < error["none"] for name, value in error.items() if name != "none")


def test_every_optimizer_and_schedule_learns_the_digits():
    lines = output("optimizers_and_schedules").splitlines()
    accuracies = [float(line.split()[0]) for line in lines if not line.startswith("accuracy")]
    assert len(accuracies) == 13 + (find_spec("scipy") is not None) + 9
    assert min(accuracies) > 0.93


def test_every_kind_of_layer_learns_the_digits():
    text = output("layers")
    lines = [line for line in text.splitlines() if "accuracy on other digits" in line]
    assert len(lines) == len(load("layers")["NETWORKS"])
    assert min(float(line.split()[-1]) for line in lines) > 0.85
    assert "batch norm" in text.split("running mean")[0]


def test_an_ensemble_is_better_than_its_members_and_a_sweep_outlives_divergence():
    text = output("ensemble")
    each, together = (line.split(":")[1].split() for line in text.splitlines()[:2])
    assert float(together[0]) > np.mean([float(value) for value in each])
    assert float(together[0]) > 0.95
    losses = [line.split()[1] for line in text.splitlines()[4:]]
    assert losses[-1] == "diverged"
    assert max(map(float, losses[:-1])) < 0.5


def test_watch_and_resume():
    text = output("watch_and_resume")
    assert "stopped: validation_loss was not better in 8 epochs" in text
    assert "the resumed network has the same bits: True" in text
    assert "training diverged in epoch 1 " in text
    accuracy = text.split("'accuracy': ")[1].split("}")[0]
    assert float(accuracy) > 0.96


def test_online_learning_follows_the_change():
    errors = load("online_learning")["follow"]()
    before, after, end = errors[8000:10000].mean(), errors[10000:10200].mean(), errors[-2000:].mean()
    assert before < 0.005
    assert after > 3 * before
    assert end < 0.005


def test_streams():
    many, more = load("streams")["learn"]()
    assert len(many) == 4
    assert len(more) == 1
    assert many.validation_loss[-1] < 0.03
    assert more.validation_loss[-1] < many.validation_loss[-1]


def test_sparse_rows():
    pytest.importorskip("scipy")
    accuracy, stored, dense = load("sparse_rows")["learn"]()
    assert accuracy > 0.95
    assert stored < dense / 100


def test_images_as_bytes(tmp_path):
    accuracy, same, network = load("images_as_bytes")["learn"](tmp_path)
    assert accuracy > 0.94
    assert same
    assert network.input_scale == 1 / 255


def test_the_readme_s_twelve_lines(tmp_path, monkeypatch, capsys):
    text = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 12
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert "accuracy" in capsys.readouterr().out
    assert names["probabilities"].shape == (359, 10)
    assert names["net"].evaluate(names["x_test"], names["y_test"])["accuracy"] > 0.96
    assert (tmp_path / "digits.safetensors").is_file()


def test_control_loop():
    before, during, after = load("control_loop")["balance"]()
    assert abs(before).max() > 1, "untaught it falls"
    assert abs(during[-1000:]).max() < 0.25
    assert abs(after.reshape(-1, 1000)[:, -1]).max() < 0.02, "taught it stands, a second after each push"
