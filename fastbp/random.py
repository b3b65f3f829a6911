"""Random numbers that the host draws: uniform and normal ones, permutations, seeds.

The generator and its counters are those of ``formulas/random.py``. Its `philox` runs on a NumPy array of
counters as it does in compiled code, so a network is initialised without compiling anything.
"""

import os

import numpy as np

from .formulas.random import philox

_BLOCKS = 1 << 13  # blocks of four words the host makes at a time: the temporaries stay in cache


def _words(seed, purpose, epoch, step, n):
    """Draws 0 … n − 1 as a uint64 array (n,), each below 2**32."""
    out = np.empty((-(-n // 4), 4), np.uint64)
    for start in range(0, len(out), _BLOCKS):
        part = out[start : start + _BLOCKS]
        blocks = np.arange(start, start + len(part), dtype=np.uint64)
        part[:, 0], part[:, 1], part[:, 2], part[:, 3] = philox(seed, purpose, epoch, step, blocks)
    return out.reshape(-1)[:n]


def _wide_words(seed, purpose, epoch, step, n):
    """n draws of 64 bits, uint64 (n,): draw i is made of words 2i (high half) and 2i + 1."""
    pairs = _words(seed, purpose, epoch, step, 2 * n).reshape(n, 2)
    return pairs[:, 0] << np.uint64(32) | pairs[:, 1]


def uniform(seed, purpose, n, dtype=np.float64, *, epoch=0, step=0):
    """Draw n numbers uniform over [0, 1).

    Only integers are scaled by a power of two, so the bits are the same on every machine.

    Parameters
    ----------
    seed : int
        0 … 2**64 − 1.
    purpose : int
        What the draws are for, one of the constants of ``formulas/random.py``.
    n : int
        How many.
    dtype : {numpy.float64, numpy.float32}
        float64 has 53 random bits a number, float32 has 24.
    epoch, step : int
        Where in the training; or the number of the parameter array that is initialised.

    Returns
    -------
    array (n,) of dtype

    Examples
    --------
    >>> from fastbp.formulas.random import INITIALIZE
    >>> uniform(0, INITIALIZE, 3).tolist()
    [0.3990464708489645, 0.7357127844834425, 0.9722412015223156]
    """
    if np.dtype(dtype) == np.float32:
        return (_words(seed, purpose, epoch, step, n) >> np.uint64(8)).astype(np.float32) * np.float32(2**-24)
    return (_wide_words(seed, purpose, epoch, step, n) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(seed, purpose, n, *, epoch=0, step=0, truncated=False):
    """Draw n numbers from the standard normal distribution, float64.

    The inverse of the distribution function is applied to a uniform draw of 52 bits, with nothing but
    + − × ÷ and sqrt, which IEEE 754 rounds alike everywhere; NumPy's log and cos differ between processors.

    Parameters
    ----------
    seed, purpose, n, epoch, step
        As for `uniform`.
    truncated : bool
        Whether to keep to (−2, 2), with the same density there up to a factor. Otherwise no draw exceeds 8.21
        in magnitude.

    Returns
    -------
    float64 array (n,)

    Examples
    --------
    >>> from fastbp.formulas.random import INITIALIZE
    >>> normal(0, INITIALIZE, 3).round(6).tolist()
    [-0.255816, 0.630184, 1.914803]
    """
    half_open = (_wide_words(seed, purpose, epoch, step, n) >> np.uint64(12)).astype(np.float64)
    u = (half_open + 0.5) * 2.0**-52  # exact, and never 0 or 1
    if truncated:
        u = _BELOW_MINUS_2 + u * (1.0 - 2.0 * _BELOW_MINUS_2)
    return _normal_quantile(u)


def permutation(seed, purpose, n, *, epoch=0, step=0):
    """Draw a permutation of 0 … n − 1 without compiling anything: the host's way to split data.

    Parameters
    ----------
    seed, purpose, n, epoch, step
        As for `uniform`.

    Returns
    -------
    int64 array (n,)

    Examples
    --------
    >>> from fastbp.formulas.random import SPLIT
    >>> permutation(0, SPLIT, 6).tolist()
    [5, 4, 3, 2, 0, 1]
    """
    keys = _wide_words(seed, purpose, epoch, step, n)
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


def fresh_seed():
    """Draw a seed from the operating system, for whoever asks for none; it can be shown and used again."""
    return int.from_bytes(os.urandom(4), "little")


_BELOW_MINUS_2 = 0.022750131948179209  # the standard normal distribution function at −2

# Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37 (1988),
# routine PPND16: numerators and denominators, highest power first. Relative error about 1e-16.
_CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
     4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
     1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
     2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
     4.2313330701600911252e1, 1.0),
)  # fmt: skip
_SHOULDER = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258e0, 3.64784832476320460504e0, 5.76949722146069140550e0,
     4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0,
     2.05319162663775882187e0, 1.0),
)  # fmt: skip
_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
     2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580e0,
     5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
     7.86869131145613259100e-4, 1.48753612908506148525e-2, 1.36929880922735805310e-1,
     5.99832206555887937690e-1, 1.0),
)  # fmt: skip


def _horner(coefficients, x):
    y = coefficients[0]
    for c in coefficients[1:]:
        y = y * x + c
    return y


def _ratio(polynomials, x):
    return _horner(polynomials[0], x) / _horner(polynomials[1], x)


def _normal_quantile(u):
    """Invert the standard normal distribution function: float64 array in (0, 1) -> float64 array."""
    q = u - 0.5
    y = q * _ratio(_CENTRE, 0.180625 - q * q)
    outer = np.abs(q) > 0.425
    r = np.sqrt(-_log(np.minimum(u[outer], 1.0 - u[outer])))
    tail = np.where(r <= 5.0, _ratio(_SHOULDER, r - 1.6), _ratio(_TAIL, r - 5.0))
    y[outer] = np.where(q[outer] < 0.0, -tail, tail)
    return y


def _log(x):
    """Logarithm of a float64 array of positive normal numbers, within 1.2 ulp.

    x = 2**k · m with m in [sqrt(½), sqrt(2)), and log(m) = 2 atanh(s) for s = (m − 1) / (m + 1): a series in
    s² ≤ 0.0295, cut where a term is below 2**-53 of the sum.
    """
    m, k = np.frexp(x)
    low = m < 0.70710678118654757
    m = np.where(low, 2.0 * m, m)
    k = np.where(low, k - 1, k).astype(np.float64)
    f = m - 1.0
    s = f / (m + 1.0)
    series = _horner([1.0 / n for n in (23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3)], s * s) * (s * s)
    # log(m) = 2s + 2s·series = f − s·(f − 2·series), because 2s = f − s·f: f is exact and s·(…) is small.
    # ln 2 is split so that k times its upper part is exact.
    return k * 0.69314718036912382 + (k * 1.9082149292705877e-10 + (f - s * (f - 2.0 * series)))
