"""PyTorch with `torch.compile`."""

from functools import partial

from . import train_pytorch

NAME = "PyTorch compiled"
VERSION = train_pytorch.VERSION

Training = partial(train_pytorch.Training, compiled=True)
