"""How the weights of a layer may start, by name.

An initialiser is a function (n_in, n_out, seed, stream=0) -> float64 array (n_in, n_out). `stream` numbers
the arrays of one network: two of them never share draws. The bits are the same on every machine: draws and
roots are exact or correctly rounded, and sums are added in an order written here.

Scaled initialisers hold the variance of what flows through a layer: Glorot and Bengio 2010 forwards and
backwards, He et al. 2015 behind a ReLU, LeCun et al. 1998 forwards. Their bounds are those of
``torch.nn.init`` with gain 1 (He: sqrt(2)), https://docs.pytorch.org/docs/stable/nn.init.html. Keras has the
same uniform ones, and truncates the normal ones, https://keras.io/api/layers/initializers/.
"""

import math

import numpy as np

from . import random
from .formulas.random import INITIALIZE


def zeros(n_in, n_out, seed, stream=0):
    """Zeros: PyTorch's zeros_."""
    return np.zeros((n_in, n_out))


def ones(n_in, n_out, seed, stream=0):
    """Ones: PyTorch's ones_."""
    return np.ones((n_in, n_out))


def uniform(n_in, n_out, seed, stream=0):
    """Uniform over [-0.05, 0.05), as Keras' RandomUniform; PyTorch has no default bounds fit for weights."""
    return _uniform(0.05, n_in, n_out, seed, stream)


def normal(n_in, n_out, seed, stream=0):
    """Normal with mean 0 and standard deviation 0.05, as Keras' RandomNormal."""
    return _normal(0.05, n_in, n_out, seed, stream)


def truncated_normal(n_in, n_out, seed, stream=0):
    """Normal with mean 0 and scale 0.05, kept to two scales, within ±0.1, as Keras' TruncatedNormal.

    Its standard deviation is 0.04398.
    """
    return _normal(0.05, n_in, n_out, seed, stream, truncated=True)


def glorot_uniform(n_in, n_out, seed, stream=0):
    """Uniform within ±sqrt(6 / (n_in + n_out)): PyTorch's xavier_uniform_, Keras' GlorotUniform.

    Glorot and Bengio 2010, equation 16.
    """
    return _uniform(math.sqrt(6 / (n_in + n_out)), n_in, n_out, seed, stream)


def glorot_normal(n_in, n_out, seed, stream=0):
    """Normal with standard deviation sqrt(2 / (n_in + n_out)): PyTorch's xavier_normal_.

    Glorot and Bengio 2010, equation 12.
    """
    return _normal(math.sqrt(2 / (n_in + n_out)), n_in, n_out, seed, stream)


def he_uniform(n_in, n_out, seed, stream=0):
    """Uniform within ±sqrt(6 / n_in): PyTorch's kaiming_uniform_(nonlinearity="relu"), Keras' HeUniform.

    The variance is that of He et al. 2015, equation 10.
    """
    return _uniform(math.sqrt(6 / n_in), n_in, n_out, seed, stream)


def he_normal(n_in, n_out, seed, stream=0):
    """Normal with standard deviation sqrt(2 / n_in): PyTorch's kaiming_normal_(nonlinearity="relu").

    He et al. 2015, equation 10.
    """
    return _normal(math.sqrt(2 / n_in), n_in, n_out, seed, stream)


def lecun_uniform(n_in, n_out, seed, stream=0):
    """Uniform within ±sqrt(3 / n_in): Keras' LecunUniform, PyTorch's kaiming_uniform_ of a linear layer.

    The variance is that of LeCun et al. 1998, section 4.6.
    """
    return _uniform(math.sqrt(3 / n_in), n_in, n_out, seed, stream)


def lecun_normal(n_in, n_out, seed, stream=0):
    """Normal with standard deviation sqrt(1 / n_in): PyTorch's kaiming_normal_ of a linear layer.

    LeCun et al. 1998, section 4.6.
    """
    return _normal(math.sqrt(1 / n_in), n_in, n_out, seed, stream)


def orthogonal(n_in, n_out, seed, stream=0):
    """Orthonormal columns, or rows where they are fewer: PyTorch's orthogonal_, Keras' Orthogonal, gain 1.

    Saxe et al. 2014. The matrix is uniform over all such (Haar): modified Gram-Schmidt makes it from normal
    draws. 512 by 512 takes about 0.3 s, 2048 by 2048 about 20 s.
    """
    long, short = max(n_in, n_out), min(n_in, n_out)
    a = _normal(1.0, long, short, seed, stream)
    for i in range(short):
        a[:, i] /= math.sqrt(_column_sums(a[:, i : i + 1] ** 2)[0])
        rest, q = a[:, i + 1 :], a[:, i : i + 1]
        rest -= q * _column_sums(rest * q)
    return a if n_in >= n_out else np.ascontiguousarray(a.T)


def _uniform(limit, n_in, n_out, seed, stream):
    u = random.uniform(seed, INITIALIZE, n_in * n_out, step=stream)
    return (limit * (2.0 * u - 1.0)).reshape(n_in, n_out)


def _normal(scale, n_in, n_out, seed, stream, truncated=False):
    z = random.normal(seed, INITIALIZE, n_in * n_out, step=stream, truncated=truncated)
    return (scale * z).reshape(n_in, n_out)


def _column_sums(a):
    """Sums of the columns, overwriting `a`: its halves are added until one row is left.

    np.sum and BLAS choose the order of their additions by processor; this one is fixed by the shape.
    """
    n = len(a)
    while n > 1:
        half = n // 2
        a[:half] += a[n - half : n]
        n -= half
    return a[0]


INITIALIZERS = {
    f.__name__: f
    for f in (
        zeros,
        ones,
        uniform,
        normal,
        truncated_normal,
        glorot_uniform,
        glorot_normal,
        he_uniform,
        he_normal,
        lecun_uniform,
        lecun_normal,
        orthogonal,
    )
}
