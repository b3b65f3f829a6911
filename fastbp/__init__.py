"""Hand-derived neural-network training for small networks, at the speed of the silicon."""

from . import datasets
from .formulas.activations import register_activation
from .gradient_check import check_gradients
from .layers import Dense
from .losses import Loss
from .network import Gradient, Network
from .optimizers import SGD, Adam
from .storage import load
from .training import History, train

__all__ = [
    "SGD",
    "Adam",
    "Dense",
    "Gradient",
    "History",
    "Loss",
    "Network",
    "check_gradients",
    "datasets",
    "load",
    "register_activation",
    "train",
]
__version__ = "0.1.0"
