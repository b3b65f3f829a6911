"""History: what happened in training, epoch by epoch, as lists, a frame or a figure."""

from dataclasses import dataclass, field


@dataclass
class History:
    """What happened in training: one value per whole epoch.

    Attributes
    ----------
    loss : list of float
        Mean loss over the epoch's rows, each as it was when the row's batch came. With weights, the mean of
        its batches' weighted means, each counting by its rows; one whose weights are all 0 has a loss of 0.
    validation_loss : list of float
        Mean loss on the validation rows after the epoch; empty without validation, NaN where Ctrl-C ended a
        long look at them.
    metrics : dict of str to list of float
        Each metric on the validation rows after the epoch, under its name.
    learning_rate : list of float
        What it was at the end of the epoch; empty with LBFGS, which has none.
    seconds : list of float
        Time of the epoch, without validation. Epochs so short that several ran in one compiled call share
        its time equally.
    samples_per_second : list of float
    interrupted : bool
        Whether Ctrl-C ended training; the parameters are those of the last whole step.
    stopped : str or None
        Why training ended before its last epoch, where something asked it to.
    best_epoch : int or None
        The epoch, counted from 1, whose weights early stopping found best.
    threads : int
        How many threads trained.

    Examples
    --------
    >>> history = History(loss=[0.5, 0.25], metrics={"r2": [0.1, 0.6]})
    >>> history.column("r2")
    [0.1, 0.6]
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    samples_per_second: list[float] = field(default_factory=list)
    interrupted: bool = False
    stopped: str | None = None
    best_epoch: int | None = None
    threads: int = 1

    def __len__(self):
        """Whole epochs."""
        return len(self.loss)

    def columns(self):
        """Every list by its name, in the order of tables; lists that stayed empty are left out.

        Returns
        -------
        dict of str to list of float
        """
        lists = {
            "loss": self.loss, "validation_loss": self.validation_loss, **self.metrics,
            "learning_rate": self.learning_rate, "seconds": self.seconds,
            "samples_per_second": self.samples_per_second,
        }  # fmt: skip
        return {name: values for name, values in lists.items() if values}

    def column(self, name):
        """The list of a name.

        Parameters
        ----------
        name : str
            Of one of those that `columns` returns.

        Returns
        -------
        list of float
            One value for each epoch.

        Raises
        ------
        ValueError
            If there is none.
        """
        columns = self.columns()
        if name not in columns:
            known = ", ".join(columns)
            raise ValueError(f"{name!r} is not measured in this training; known are {known}")
        return columns[name]

    def to_frame(self):
        """The history as a table.

        Returns
        -------
        pandas.DataFrame
            A row per epoch, numbered from 1, and a column per list that is not empty.

        Raises
        ------
        ImportError
            If pandas is not installed, which ``fastbp[frame]`` brings.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("a frame needs pandas: pip install 'fastbp[frame]'") from None
        columns = {name: pandas.Series(values, dtype=float) for name, values in self.columns().items()}
        frame = pandas.DataFrame(columns, index=range(len(self)))
        frame.index = pandas.RangeIndex(1, len(self) + 1, name="epoch")
        return frame

    def plot(self):
        """Draw the loss, the metrics and the learning rate over epochs.

        Returns
        -------
        matplotlib.figure.Figure
            Shown by a notebook as it is; ``figure.savefig("history.png")`` keeps it.

        Raises
        ------
        ImportError
            If matplotlib is not installed, which ``fastbp[plot]`` brings.
        ValueError
            If there is no whole epoch.
        """
        from .plots import plot_history

        return plot_history(self)
