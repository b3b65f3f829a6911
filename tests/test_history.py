"""The history as lists, a frame and a figure."""

import math

import pytest

import fastbp
from fastbp import History
from tests.samples import draw_inputs, draw_targets, make_network


def history(**how):
    x, y = draw_inputs(30, 3), draw_targets("mean_squared_error", 30, 2)
    return fastbp.train(make_network([3, 4, 2], dtype="float64"), x, y, **dict(epochs=4) | how)


def test_columns():
    measured = history(validation=0.2, metrics=["r2"])
    names = ["loss", "validation_loss", "r2", "learning_rate", "seconds", "samples_per_second"]
    assert list(measured.columns()) == names
    assert all(len(values) == 4 for values in measured.columns().values())
    assert measured.column("r2") is measured.metrics["r2"]
    assert measured.learning_rate == [0.01] * 4
    assert list(history().columns()) == ["loss", "learning_rate", "seconds", "samples_per_second"]
    assert measured.column("samples_per_second") is measured.samples_per_second
    with pytest.raises(ValueError, match=r"'accuracy' is not measured .* are loss, validation_loss, r2"):
        measured.column("accuracy")


def test_to_frame():
    pytest.importorskip("pandas")
    measured = history(validation=0.2, metrics=["r2"])
    frame = measured.to_frame()
    assert list(frame.columns) == list(measured.columns())
    assert frame.index.tolist() == [1, 2, 3, 4]
    assert frame.index.name == "epoch"
    assert frame["r2"].tolist() == measured.metrics["r2"]
    assert len(History().to_frame()) == 0
    cut = History(loss=[1.0, 2.0], validation_loss=[3.0])
    assert math.isnan(cut.to_frame()["validation_loss"][2])


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    measured = history(validation=0.2, metrics=["r2"], early_stopping=fastbp.EarlyStopping(50))
    figure = measured.plot()
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert labels == ["loss", "validation", "learning rate"]
    lines = [
        [line.get_ydata().tolist() for line in ax.lines if len(line.get_xdata()) == 4] for ax in figure.axes
    ]
    assert lines == [
        [measured.loss, measured.validation_loss], [measured.metrics["r2"]], [measured.learning_rate]
    ]  # fmt: skip
    figure.savefig(tmp_path / "history.png")
    assert [ax.get_ylabel() for ax in history(epochs=1).plot().axes] == ["loss", "learning rate"]
    assert [ax.get_ylabel() for ax in History(loss=[2.0, 1.0]).plot().axes] == ["loss"]  # as of L-BFGS
    with pytest.raises(ValueError, match="no whole epoch"):
        History().plot()
    hidden = History(loss=[2.0, 1.0], metrics={"_own": [0.0, 1.0]}, best_epoch=1).plot()
    assert [text.get_text() for text in hidden.axes[1].get_legend().get_texts()] == ["metric _own"]
    assert hidden.axes[0].get_title() == "dotted: epoch 1, the best"


@pytest.mark.parametrize(("ask", "extra"), [("to_frame", "frame"), ("plot", "plot")])
def test_what_is_not_installed_is_named(ask, extra, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=rf"fastbp\[{extra}\]"):
        getattr(History(loss=[1.0]), ask)()
