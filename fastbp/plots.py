"""Figures of a training, by matplotlib, which is imported when one is asked for."""

import numpy as np


def _figure(rows, height):
    """(figure, its axes, one above the other); no window and no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("a figure needs matplotlib: pip install 'fastbp[plot]'") from None
    figure = Figure(figsize=(7.5, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plot_history(history):
    """The figure of a `fastbp.History`: loss; metrics and learning rate if there are any; see its `plot`."""
    if not len(history):
        raise ValueError("there is no whole epoch to plot")
    rows = 1 + bool(history.metrics) + bool(history.learning_rate)  # L-BFGS has none
    figure, axes = _figure(rows, 2.4 + 1.8 * (rows - 1))
    marker = "o" if len(history) == 1 else None

    def draw(ax, values, label):
        label = f"metric {label}" if label.startswith("_") else label  # else matplotlib would leave it out
        ax.plot(range(1, len(values) + 1), values, label=label, marker=marker)

    draw(axes[0], history.loss, "training")
    if history.validation_loss:
        draw(axes[0], history.validation_loss, "validation")
    _logarithmic_where_wide(axes[0], history.loss + history.validation_loss)
    axes[0].set_ylabel("loss")
    axes[0].legend()
    for name, values in history.metrics.items():
        draw(axes[1], values, name)
    if history.metrics:
        axes[1].set_ylabel("validation")
        axes[1].legend()
    if history.learning_rate:
        draw(axes[-1], history.learning_rate, "learning rate")
        if not _logarithmic_where_wide(axes[-1], history.learning_rate):
            axes[-1].set_ylim(bottom=0)
        axes[-1].set_ylabel("learning rate")
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    if history.best_epoch:
        for ax in axes:
            ax.axvline(history.best_epoch, color="gray", linestyle=":")
        axes[0].set_title(f"dotted: epoch {history.best_epoch}, the best", fontsize="small")
    return figure


def plot_learning_rates(rates, losses, smoothed, suggestion):
    """The figure of a learning-rate range test; see `fastbp.find_learning_rate`."""
    if not len(losses):
        raise ValueError("there is nothing to plot: no loss was finite")
    figure, (ax,) = _figure(1, 4.0)
    ax.plot(rates, losses, color="tab:blue", alpha=0.3, label="loss of the batch")
    ax.plot(rates, smoothed, color="tab:blue", label="smoothed")
    if suggestion is not None:
        ax.axvline(suggestion, color="tab:orange", linestyle="--", label=f"suggestion: {suggestion:.2g}")
    ax.set_xscale("log")
    low = np.nanmin(smoothed)
    high = max(smoothed[0], low)
    ax.set_ylim(low - 0.1 * (high - low) - 1e-12, high + 0.5 * (high - low) + 1e-12)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss")
    ax.legend()
    return figure


def _logarithmic_where_wide(ax, values):
    """Make the axis logarithmic where positive values span more than a factor of 30; tell whether they do."""
    values = np.asarray(values)
    values = values[np.isfinite(values)]
    wide = bool(len(values) and values.min() > 0 and values.max() > 30 * values.min())
    if wide:
        ax.set_yscale("log")
    return wide
