"""How much each row counts, and how often it is drawn: sample weights, class weights, balanced sampling."""

from collections.abc import Mapping

import numpy as np

from . import validation


def labels_of(y, loss, what):
    """Tell which class each row is of.

    Parameters
    ----------
    y : array
        Targets as `validation.targets` returns them.
    loss : fastbp.formulas.losses.Loss
    what : str
        What wants to know, for the message.

    Returns
    -------
    int64 array (n,)
        Classes from 0 on; for one output that is a yes or no 0 and 1, for signs -1 and 1.

    Raises
    ------
    ValueError
        If the targets are no classes: values, probabilities, or several outputs of a yes or no each.
    """
    needs = f"{what} needs one class for each row"
    if loss.targets not in ("classes", "binary", "sign"):
        raise ValueError(f"{needs}; the targets of this network's loss are numbers, not classes")
    if loss.targets == "classes" and y.ndim == 2:
        raise ValueError(f"{needs}; got probabilities of shape {y.shape}")
    if y.ndim == 2 and y.shape[1] > 1:
        raise ValueError(f"{needs}; got {y.shape[1]} outputs of a yes or no each")
    column = y.reshape(-1)
    if loss.targets == "binary" and not (whole := np.isin(column, (0, 1))).all():
        row = int(np.argmin(whole))
        raise ValueError(f"{needs}, 0 or 1; row {row} is {column[row]}")
    return column.astype(np.int64)


def row_weights(sample_weight, class_weight, y, loss, n_outputs, dtype, *, all_may_be_0=False):
    """What each row counts: its own weight times that of its class.

    Parameters
    ----------
    sample_weight : array-like (n,) or None
    class_weight : dict, array-like, "balanced" or None
        See `fastbp.train`.
    y, loss : see `labels_of`
    n_outputs : int
    dtype : numpy.dtype
        The network's.
    all_may_be_0 : bool
        Whether these are not all rows there are.

    Returns
    -------
    array (n,) of dtype, or None
        None where all rows count the same because nobody asked for weights.

    Raises
    ------
    TypeError, ValueError
        If weights are no numbers, negative, infinite, too few or too many, all 0, or of unknown classes.
    """
    weights = None
    if sample_weight is not None:
        weights = validation.weights("sample_weight", sample_weight, len(y), dtype, all_may_be_0=all_may_be_0)
    if class_weight is not None:
        by_row = _class_weights(class_weight, y, loss, n_outputs)
        weights = by_row if weights is None else by_row * weights
        if not (all_may_be_0 or (weights > 0).any()):
            raise ValueError("sample_weight and class_weight must leave a row of weight above 0; all are 0")
    if weights is None:
        return None
    return validation.weights("weights of rows", weights, len(y), dtype, all_may_be_0=all_may_be_0)


def _class_weights(class_weight, y, loss, n_outputs):
    """The weight of each row's class, float64 (n,)."""
    labels = labels_of(y, loss, "class_weight")
    if isinstance(class_weight, str):
        validation.known_name("class_weight", class_weight, ("balanced",))
        present, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return (len(y) / (len(present) * counts))[places]
    classes, table = weights_by_class(class_weight, loss, n_outputs)
    return table[np.searchsorted(classes, labels)]


def weights_by_class(class_weight, loss, n_outputs):
    """What a class weight that is no name means.

    Parameters
    ----------
    class_weight : dict or array-like
        See `fastbp.train`.
    loss : fastbp.formulas.losses.Loss
    n_outputs : int

    Returns
    -------
    classes : sequence of int
        Labels as `labels_of` tells them, rising.
    table : float64 array (classes,)

    Raises
    ------
    TypeError, ValueError
        If weights are no numbers, negative, infinite, too few or too many, all 0, or of unknown classes.
    """
    classes = range(n_outputs) if loss.targets == "classes" else (-1, 1) if loss.targets == "sign" else (0, 1)
    if isinstance(class_weight, Mapping) or hasattr(class_weight, "keys"):  # as pandas.Series has
        by_class = dict.fromkeys(classes, 1.0)
        for label, weight in class_weight.items():
            if label not in by_class:
                raise ValueError(
                    f"class_weight has a weight for {label!r}; classes are {', '.join(map(str, classes))}"
                )
            by_class[label] = validation.real_number(f"class_weight[{label!r}]", weight, at_least=0)
        table = np.array(list(by_class.values()))
    else:
        table = validation.weights("class_weight", class_weight, len(classes), np.dtype(np.float64))
    return classes, table


def rows_by_class(labels):
    """What `formulas.random.sample_balanced` draws from.

    Parameters
    ----------
    labels : int64 array (n,)

    Returns
    -------
    by_class : int64 array (n,)
        The rows, class by class.
    starts : int64 array (classes + 1,)
        Where each class that has rows begins there, and at last n.
    """
    by_class = np.argsort(labels, kind="stable").astype(np.int64, copy=False)
    _, counts = np.unique(labels, return_counts=True)
    return by_class, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64, copy=False)
