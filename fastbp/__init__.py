"""Hand-derived neural-network training for small networks, at the speed of the silicon."""

from . import datasets, metrics, schedules
from .callbacks import Callback, CSVLogger, EarlyStopping
from .checkpoints import Checkpoints
from .gradient_check import check_gradients
from .history import History
from .jobs import train
from .layers import Activation, BatchNorm, Dense, Dropout, LayerNorm, Residual
from .learning_rate_range import LearningRateRange, find_learning_rate
from .losses import Loss
from .many import train_many
from .network import Network
from .online import OnlineTrainer
from .optimizers import LBFGS, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lion, NAdam, RAdam, RMSprop
from .own_activations import register_activation
from .shaping import AnnealedNoise
from .storage import load
from .tensorboard import TensorBoardLogger
from .training import DivergenceError, Training
from .views import Gradient

__all__ = [
    "LBFGS",
    "SGD",
    "Activation",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "AnnealedNoise",
    "BatchNorm",
    "CSVLogger",
    "Callback",
    "Checkpoints",
    "Dense",
    "DivergenceError",
    "Dropout",
    "EarlyStopping",
    "Gradient",
    "History",
    "LayerNorm",
    "LearningRateRange",
    "Lion",
    "Loss",
    "NAdam",
    "Network",
    "OnlineTrainer",
    "RAdam",
    "RMSprop",
    "Residual",
    "TensorBoardLogger",
    "Training",
    "check_gradients",
    "datasets",
    "find_learning_rate",
    "load",
    "metrics",
    "register_activation",
    "schedules",
    "train",
    "train_many",
]
__version__ = "0.1.0"
