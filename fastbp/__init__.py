"""Hand-derived neural-network training for small networks, at the speed of the silicon."""

from . import datasets, schedules
from .formulas.activations import register_activation
from .gradient_check import check_gradients
from .layers import BatchNorm, Dense, Dropout, LayerNorm, Residual
from .losses import Loss
from .network import Gradient, Network
from .optimizers import LBFGS, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lion, NAdam, RAdam, RMSprop
from .storage import load
from .training import History, train

__all__ = [
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "BatchNorm",
    "Dense",
    "Dropout",
    "Gradient",
    "History",
    "LayerNorm",
    "Lion",
    "Loss",
    "NAdam",
    "Network",
    "RAdam",
    "RMSprop",
    "Residual",
    "check_gradients",
    "datasets",
    "load",
    "register_activation",
    "schedules",
    "train",
]
__version__ = "0.1.0"
