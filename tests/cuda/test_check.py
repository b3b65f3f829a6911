"""``python -m fastbp.cuda check``: what it says where all is well, and where it is not."""

from pathlib import Path

import numpy as np
import pytest

import fastbp
from fastbp.cuda import __main__ as command
from fastbp.cuda import check

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are not part of this distribution")
def test_networks_are_those_of_the_benchmarks():
    from benchmarks.peers import cases

    fields = ("sizes", "activation", "batch", "rows", "optimizer", "name", "steps")
    own = [case for case in check.CASES if case.networks == 1]
    assert [[getattr(case, name) for name in fields] for case in own] == [
        [getattr(case, name) for name in fields] for case in cases.CASES
    ]
    assert {(each.learning_rate, each.momentum) for each in cases.CASES} == {
        (check.LEARNING_RATE, check.MOMENTUM)
    }


def test_all_is_well(device, monkeypatch, capsys):
    if not check.SIMULATED:
        monkeypatch.setattr(check, "CASES", check.TINY_CASES)
        monkeypatch.setattr(Path, "is_dir", lambda folder: False)  # no tests within tests
    assert command.main(["check"]) == 0
    first, head, _, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"fastbp {fastbp.__version__}, ")
    assert head.split(" | ")[:3] == ["| network", "same bits", "GPU, µs per step"]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| 3-5-10 tanh, batch 4", "yes"], ["| 2 × 2-3 tanh, full batch of 3, adam", "yes"]
    ]  # fmt: skip
    assert all(float(cell) > 0 for line in lines for cell in line.split(" | ")[2:4])


def test_other_bits_are_told(device, monkeypatch, capsys):
    monkeypatch.setattr(check, "TINY_CASES", check.TINY_CASES[:1])
    monkeypatch.setattr(check, "CASES", check.TINY_CASES[:1])
    monkeypatch.setattr(Path, "is_dir", lambda folder: False)
    predict = fastbp.Network.predict

    def wrong(net, x, *, device="cpu"):
        return predict(net, x, device=device) * np.float32(1 if device == "cpu" else 1 + 1e-6)

    monkeypatch.setattr(fastbp.Network, "predict", wrong)
    assert command.main(["check"]) == 1
    said = capsys.readouterr().out.splitlines()[-1].split(" | ")[1]
    apart = float(said.removeprefix("NO: ").removesuffix(" apart"))
    assert apart == pytest.approx(1e-6, rel=0.1)


def test_without_a_device_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(command.sys.modules["fastbp.cuda.device"], "cuda", None)
    assert command.main(["check"]) == 2
    assert "numba-cuda, which is not installed" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # PyTorch's own
@pytest.mark.parametrize("how", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", [
    check.Case((3, 5, 10), "relu", None, 16), check.Case((4, 6, 2), "gelu_tanh", None, 16, "adam")
], ids=lambda case: case.name)  # fmt: skip
def test_pytorch_trains_the_same(case, how):
    pytest.importorskip("torch")
    (x, y), net = case.data(), case.network()
    training = check.PyTorch(case, x, y, how, where="cpu")
    assert np.array_equal(training.parameters(), net.parameters)
    (net,), _, _ = case.trained(x, y, "cpu")
    assert min(training.epoch() for _ in range(check.EPOCHS)) > 0
    moved = np.abs(net.parameters - case.network().parameters).max()
    assert np.abs(training.parameters() - net.parameters).max() < 1e-3 * moved
