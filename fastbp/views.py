"""A flat vector of parameters, or of their gradient, seen layer by layer: views, no copies."""

from typing import NamedTuple

import numpy as np


class Layer(NamedTuple):
    """A layer of a network, with views into the network's parameters (or their gradient).

    Attributes
    ----------
    name : str
    n_in, n_out : int
    activation : str
        Of a dense layer, or the layer itself; "identity" of any other.
    kind : str
        "Dense", "Activation", "Dropout", "LayerNorm", "BatchNorm", or "Residual": its sum, behind its layers.
    W : array (n_in, n_out) or None
    b : array (n_out,) or None
    gamma, beta : array (n_out,) or None
        Scale and shift of a normalisation.
    mean, variance : array (n_out,) or None
        Running statistics of a batch normalisation.
    """

    name: str
    n_in: int
    n_out: int
    activation: str
    kind: str = "Dense"
    gamma: np.ndarray | None = None
    beta: np.ndarray | None = None
    mean: np.ndarray | None = None
    variance: np.ndarray | None = None
    W: np.ndarray | None = None
    b: np.ndarray | None = None

    def __setattr__(self, name, value):
        """Let ``layer.W *= 2`` pass, which has changed the view in place and then hands it back."""
        if name not in self._fields:
            raise AttributeError(f"a layer has no {name!r}; it has {', '.join(self._fields)}")
        if value is getattr(self, name):
            return
        if isinstance(getattr(self, name), np.ndarray):
            raise AttributeError(
                f"a layer's arrays stay views; layer.{name}[:] = values changes what they hold"
            )
        raise AttributeError(f"layer.{name} stays {getattr(self, name)!r}; make a network of other layers")

    @property
    def arrays(self):
        """The layer's arrays by name, in their order in the flat vector: those that are there."""
        return self.learnt | self._named("mean", "variance")

    @property
    def learnt(self):
        """Those of its arrays that training learns, by name; not the running statistics."""
        return self._named("W", "b", "gamma", "beta")

    def _named(self, *names):
        named = {name: getattr(self, name) for name in names}
        return {name: array for name, array in named.items() if array is not None}


class Gradient(NamedTuple):
    """The gradient of a mean loss.

    Attributes
    ----------
    parameters : array (n_parameters,)
        With respect to the network's flat vector.
    layers : tuple of Layer
        Views into it: ``layers[i].W``, ``layers[i].b``.
    inputs : array (n, n_inputs) or None
        With respect to the rows of x, if that was wanted.
    """

    parameters: np.ndarray
    layers: tuple[Layer, ...]
    inputs: np.ndarray | None


def views_of(placed, vector):
    """The layers, with views into a flat vector as their arrays.

    Parameters
    ----------
    placed : list of layers.Placed
    vector : array (n_parameters,)

    Returns
    -------
    tuple of Layer
    """
    layers, at = [], 0
    for name, description, n_in, n_out, _ in placed:
        arrays = {}
        for parameter in description.parameters(n_in):
            size = int(np.prod(parameter.shape))
            arrays[parameter.name] = vector[at : at + size].reshape(parameter.shape)
            at += size
        kind = type(description).__name__
        activation = getattr(description, "activation", "identity")
        layers.append(Layer(name, n_in, n_out, activation, kind, **arrays))
    return tuple(layers)
