"""Elementary functions: error bounds, special values, the same bits everywhere, vector code."""

import functools
import hashlib
import math
import os
import platform
import re
import subprocess
import sys
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from numba import config, njit

from fastbp.formulas import elementary


@njit
def _sigmoid(x):
    return 1 / (1 + np.exp(-x)) if x > 0 else np.exp(x) / (1 + np.exp(x))


@njit
def _softplus(x):
    return max(x, 0.0) + np.log1p(np.exp(-abs(x))) if x == x else x


@njit
def _cospi(x):
    return np.sin(np.pi * (0.5 - abs(x - 2 * np.round(x / 2))))


# name: (reference for float32, reference for float64, bound for float32 in ulp, bound for float64)
FUNCTIONS = {
    "exp": (njit(lambda x: np.exp(x)), mpmath.exp, 1.01, 1.01),
    "expm1": (njit(lambda x: np.expm1(x)), mpmath.expm1, 1.3, 1.3),
    "log": (njit(lambda x: np.log(x)), mpmath.log, 0.8, 0.9),
    "log1p": (njit(lambda x: np.log1p(x)), mpmath.log1p, 1.4, 1.33),
    "tanh": (njit(lambda x: np.tanh(x)), mpmath.tanh, 1.94, 1.91),
    "sigmoid": (_sigmoid, lambda x: 1 / (1 + mpmath.exp(-x)), 1.7, 1.7),
    "softplus": (_softplus, lambda x: mpmath.log1p(mpmath.exp(x)), 1.8, 1.8),
    "erf": (njit(lambda x: math.erf(x)), mpmath.erf, 1.2, 1.2),
    "cospi": (_cospi, mpmath.cospi, 1.2, 1.2),
    "sqrt": (njit(lambda x: np.sqrt(x)), mpmath.sqrt, 0.5001, 0.5001),
}
FLOATS = (np.float32, np.float64)


@functools.cache
def loop_over(name):
    function = getattr(elementary, name)

    @njit(error_model="numpy")
    def loop(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    return loop


def over(name, x):
    y = np.empty_like(x)
    loop_over(name)(x, y)
    return y


@pytest.mark.parametrize("real", FLOATS)
def test_exp_nonpositive_has_the_bits_of_exp_and_no_subnormals(real):
    smallest, least = elementary.EXP_SMALLEST[real is np.float64], np.finfo(real).smallest_normal
    ends = [
        0.0,
        -0.0,
        smallest,
        np.nextafter(smallest, real(0)),
        np.nextafter(smallest, real(-np.inf)),
        -np.inf,
    ]
    z = np.concatenate([ends, -np.geomspace(1e-30, 1000, 300_001), np.linspace(smallest, 0, 300_001)]).astype(
        real
    )
    exp, y = over("exp", z), over("exp_nonpositive", z)
    np.testing.assert_array_equal(y[z >= smallest], exp[z >= smallest])
    np.testing.assert_array_equal(y[z < smallest], 0)
    assert (exp[z < smallest] <= least).all()
    assert exp[2] >= least * (1 - 1e-6)
    assert np.isnan(over("exp_nonpositive", np.array([np.nan], real)))


# float32 against float64, by bit pattern: every finite number, subnormal, infinity and NaN has its turn


@functools.cache
def float32_error(name):
    reference = FUNCTIONS[name][0]

    @njit(error_model="numpy")
    def measure(x, y):
        worst, where = 0.0, np.float32(0)
        for i in range(x.size):
            exact = reference(np.float64(x[i]))
            rounded = np.float32(exact)
            if np.isfinite(rounded) and np.isfinite(y[i]):
                exponent = max(math.frexp(exact)[1] - 1, -126)
                error = abs(np.float64(y[i]) - exact) * math.ldexp(1.0, 23 - exponent)
            else:
                error = 0.0 if y[i] == rounded or (np.isnan(y[i]) and np.isnan(rounded)) else np.inf
            if error > worst:
                worst, where = error, x[i]
        return worst, where

    return measure


def largest_float32_error(name, step, block=2**20):
    worst, where = 0.0, 0.0
    for start in range(0, 2**32, step * block):
        patterns = np.arange(start, min(start + step * block, 2**32), step, dtype=np.uint64)
        x = patterns.astype(np.uint32).view(np.float32)
        error, at = float32_error(name)(x, over(name, x))
        if error > worst:
            worst, where = error, at
    return worst, where


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_error(name):
    error, where = largest_float32_error(name, step=9973)
    assert error <= FUNCTIONS[name][2], f"{error} ulp at {where!r}"


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_error_of_every_17th_number(name):
    # An odd step, or else the last bits of all arguments would be equal.
    error, where = largest_float32_error(name, step=17)
    assert error <= FUNCTIONS[name][2], f"{error} ulp at {where!r}"


# float64 against mpmath


def float64_points(n):
    rng = np.random.default_rng(7)
    magnitudes = np.concatenate([
        rng.uniform(0, 1, n), rng.uniform(0, 7, n), rng.uniform(0, 750, n), np.exp2(rng.uniform(-60, 10, n)),
        np.exp2(rng.uniform(-1074, 1024, n)), 1 + np.exp2(rng.uniform(-53, 0, n)),
        1 - np.exp2(rng.uniform(-53, -1, n)),
        np.repeat(math.log(2) * np.arange(1, 60) / 2, 2) * np.tile([1 - 1e-15, 1 + 1e-15], 59),
        [0.625, np.nextafter(0.625, 0), 1.0, np.nextafter(1, 0), np.sqrt(0.5), np.sqrt(2), 709.782712893384,
         745.1332191019411, 708.4, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308],
        # The worst that a search has found: of softplus, log1p, expm1, tanh, erf.
        [0.3847952223028312, 0.43585151504748537, 37.42833901113738, 0.49832628763021014, 1.0008465428708575],
    ])  # fmt: skip
    return np.concatenate([magnitudes, -magnitudes])


def largest_float64_error(name, x):
    reference = FUNCTIONS[name][1]
    if name in ("log", "sqrt"):
        x = np.abs(x)
    if name == "log1p":
        x = x[x > -1]
    worst, where = 0.0, 0.0
    with mpmath.workdps(50):
        for a, b in zip(x.tolist(), over(name, x).tolist()):
            exact = reference(mpmath.mpf(a))
            if abs(exact) > sys.float_info.max:
                error = 0.0 if math.isinf(b) else math.inf
            else:
                exponent = max(mpmath.frexp(exact)[1] - 1, -1022)
                error = float(abs(mpmath.mpf(b) - exact) * mpmath.ldexp(1, 52 - exponent))
            if not error <= worst:
                worst, where = error, a
    return worst, where


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_error(name):
    error, where = largest_float64_error(name, float64_points(150))
    assert error <= FUNCTIONS[name][3], f"{error} ulp at {where!r}"


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_error_at_many_points(name):
    error, where = largest_float64_error(name, float64_points(10_000))
    assert error <= FUNCTIONS[name][3], f"{error} ulp at {where!r}"


# Special values: (function, argument, result); the sign of a zero counts

INF, NAN = math.inf, math.nan
SPECIAL = [
    ("exp", 0.0, 1.0), ("exp", -0.0, 1.0), ("exp", INF, INF), ("exp", -INF, 0.0), ("exp", NAN, NAN),
    ("exp", 1e4, INF), ("exp", -1e4, 0.0), ("exp", 1e-40, 1.0),
    ("expm1", 0.0, 0.0), ("expm1", -0.0, -0.0), ("expm1", INF, INF), ("expm1", -INF, -1.0),
    ("expm1", NAN, NAN),
    ("expm1", 1e4, INF), ("expm1", -1e4, -1.0), ("expm1", 1e-40, 1e-40), ("expm1", -1e-40, -1e-40),
    ("log", 0.0, -INF), ("log", -0.0, -INF), ("log", 1.0, 0.0), ("log", INF, INF), ("log", -INF, NAN),
    ("log", NAN, NAN), ("log", -1.0, NAN), ("log", -1e-40, NAN),
    ("log1p", 0.0, 0.0), ("log1p", -0.0, -0.0), ("log1p", -1.0, -INF), ("log1p", INF, INF),
    ("log1p", -INF, NAN),
    ("log1p", NAN, NAN), ("log1p", -1.5, NAN), ("log1p", 1e-40, 1e-40), ("log1p", -1e-40, -1e-40),
    ("tanh", 0.0, 0.0), ("tanh", -0.0, -0.0), ("tanh", INF, 1.0), ("tanh", -INF, -1.0), ("tanh", NAN, NAN),
    ("tanh", 300.0, 1.0), ("tanh", -300.0, -1.0), ("tanh", 1e-40, 1e-40), ("tanh", -1e-40, -1e-40),
    ("sigmoid", 0.0, 0.5), ("sigmoid", -0.0, 0.5), ("sigmoid", INF, 1.0), ("sigmoid", -INF, 0.0),
    ("sigmoid", NAN, NAN), ("sigmoid", 300.0, 1.0), ("sigmoid", -1e4, 0.0), ("sigmoid", 1e-40, 0.5),
    ("softplus", 0.0, math.log(2)), ("softplus", -0.0, math.log(2)), ("softplus", INF, INF),
    ("softplus", -INF, 0.0), ("softplus", NAN, NAN), ("softplus", 300.0, 300.0), ("softplus", -1e4, 0.0),
    ("softplus", 1e30, 1e30),
    ("erf", 0.0, 0.0), ("erf", -0.0, -0.0), ("erf", INF, 1.0), ("erf", -INF, -1.0), ("erf", NAN, NAN),
    ("erf", 300.0, 1.0), ("erf", -300.0, -1.0),
    ("cospi", 0.0, 1.0), ("cospi", -0.0, 1.0), ("cospi", 0.5, 0.0), ("cospi", -1.5, 0.0),
    ("cospi", 1.0, -1.0), ("cospi", -2.0, 1.0), ("cospi", 2.0**22 - 0.5, 0.0), ("cospi", 2.0**23 + 1, -1.0),
    ("cospi", 2.0**53, 1.0), ("cospi", 1e30, 1.0), ("cospi", INF, NAN), ("cospi", -INF, NAN),
    ("cospi", NAN, NAN),
    ("sqrt", 0.0, 0.0), ("sqrt", -0.0, -0.0), ("sqrt", INF, INF), ("sqrt", -1.0, NAN), ("sqrt", NAN, NAN),
    ("sqrt", 2.0, math.sqrt(2)),
]  # fmt: skip


def same(a, b):
    """Equal, with the same sign of zero; any NaN equals any other."""
    return (np.isnan(a) and np.isnan(b)) or (a == b and np.signbit(a) == np.signbit(b))


@pytest.mark.parametrize("float_type", FLOATS)
@pytest.mark.parametrize(("name", "argument", "result"), SPECIAL)
def test_special_values(name, argument, result, float_type):
    # Eight times the argument, so that the vector code answers, and once for the code of the remainder.
    y = over(name, np.full(9, argument, float_type))
    assert all(same(value, float_type(result)) for value in y), y
    assert same(getattr(elementary, name)(float_type(argument)), float_type(result))


@pytest.mark.parametrize("z", [-87.5, -95.0, -100.0, -103.2])
def test_far_tail_rounds_into_the_subnormals(z):
    exact = math.exp(z)
    for name in ("exp", "sigmoid", "softplus"):
        y = getattr(elementary, name)(np.float32(z))
        assert 0 < y < 2.0**-126
        assert abs(float(y) - exact) <= 2.0**-149


# Plain Python, as the CUDA simulator runs the formulas, gives the compiled bits


def grid(float_type, n):
    """Arguments from every corner: moderate, of every magnitude, subnormal, at the edges."""
    info = np.finfo(float_type)
    rng = np.random.default_rng(3)
    magnitudes = np.concatenate([
        rng.uniform(0, 10, n), rng.uniform(0, 120, n),
        np.exp2(rng.uniform(info.minexp - info.nmant, info.maxexp, n)),
        [0, 0.625, 1, info.max, info.tiny, info.smallest_subnormal, np.inf],
    ]).astype(float_type)  # fmt: skip
    return np.concatenate([magnitudes, -magnitudes])


@pytest.mark.parametrize("float_type", FLOATS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_plain_python_gives_the_compiled_bits(name, float_type):
    x = grid(float_type, 25)
    compiled = over(name, x)
    for argument, value in zip(x, compiled):
        plain = getattr(elementary, name)(argument)
        assert type(plain) is float_type
        assert same(plain, value), (argument, plain, value)


@pytest.mark.parametrize("float_type", FLOATS)
@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_odd_functions_are_odd_to_the_bit(name, float_type):
    x = grid(float_type, 1000)
    assert np.array_equal(over(name, -x), -over(name, x))


# fma


@njit
def compiled_fma(a, b, c):
    return elementary.fma(a, b, c)


def nearest_float(exact, float_type):
    """The float nearest to a rational number, by looking at three candidates; ties go to the even one."""
    guess = float_type(float(exact))
    candidates = [guess, np.nextafter(guess, float_type(-np.inf)), np.nextafter(guess, float_type(np.inf))]
    integer = np.int32 if float_type is np.float32 else np.int64
    return min(candidates, key=lambda f: (abs(Fraction(float(f)) - exact), int(f.view(integer)) % 2))


@pytest.mark.parametrize("float_type", FLOATS)
def test_fma_is_rounded_once(float_type):
    rng = np.random.default_rng(1)
    digits = np.finfo(float_type).nmant
    for _ in range(300):
        a, b = (float_type(rng.integers(1, 2**digits) * 2.0**-digits) for _ in range(2))
        scale = 2.0 ** int(rng.integers(-2 * digits - 4, 8))
        for c in (float_type(rng.uniform(-1, 1) * scale), float_type(scale), -a * b):
            rounded = nearest_float(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)), float_type)
            assert elementary.fma(a, b, c) == rounded
            assert compiled_fma(a, b, c) == rounded


def test_fma_to_float32_does_not_round_twice():
    # 1 + 2^-24 lies halfway between two float32; what decides is lost if the sum is first a float64.
    above, below = np.float32(2.0**-24 + 2.0**-47), np.float32(2.0**-24 - 2.0**-48)
    for one, tie, expected in [(1 + 2.0**-23, above, 1 + 2.0**-22), (1 + 2.0**-23, below, 1 + 2.0**-23),
                               (1, above, 1 + 2.0**-23), (1, below, 1)]:  # fmt: skip
        a, b, c = tie, np.float32(1), np.float32(one)
        assert elementary.fma(a, b, c) == compiled_fma(a, b, c) == np.float32(expected)
    # The product 2^-24·(1 − 2^-46) of two float32 falls short of the tie by less than float64 shows beside 1.
    a, b, c = np.float32(2.0**-24 * (1 + 2.0**-23)), np.float32(1 - 2.0**-23), np.float32(1 + 2.0**-23)
    assert np.float64(a) * np.float64(b) + np.float64(c) == 1 + 2.0**-23 + 2.0**-24
    assert elementary.fma(a, b, c) == compiled_fma(a, b, c) == c


@pytest.mark.parametrize("float_type", FLOATS)
def test_fma_of_special_values(float_type):
    tiny, big = np.finfo(float_type).smallest_subnormal, np.finfo(float_type).max
    with np.errstate(all="ignore"):
        for a, b, c in [(0, 1, -0.0), (-0.0, 1, -0.0), (-0.0, 1, 0), (1, 1, -1), (-1, 1, 1), (INF, 0, 1),
                        (INF, 1, -INF), (INF, 1, 1), (NAN, 1, 1), (1, 1, NAN), (1, 1, -INF), (tiny, 0.5, 0),
                        (-tiny, 0.25, 0), (tiny, 0.75, 0), (big, 2, 0), (-big, 2, 0), (big, 2, -big),
                        (tiny, tiny, tiny)]:  # fmt: skip
            a, b, c = float_type(a), float_type(b), float_type(c)
            assert same(elementary.fma(a, b, c), compiled_fma(a, b, c)), (a, b, c)


# like


def test_like_keeps_the_type():
    @njit
    def half(x):
        return elementary.like(x, 0.5)

    for float_type in FLOATS:
        assert type(elementary.like(float_type(3), 0.5)) is float_type
    half(np.float32(1))
    assert str(half.nopython_signatures[0].return_type) == "float32"
    assert half(1.0) == elementary.like(1.0, 0.5) == 0.5


# The code: vectors, one type, no library


@pytest.mark.skipif(config.BOUNDSCHECK == 1, reason="a loop that checks bounds is never vector code")
@pytest.mark.parametrize("float_type", FLOATS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_loops_become_vector_code_of_one_type(name, float_type):
    loop = loop_over(name)
    over(name, np.ones(1, float_type))
    (signature,) = (s for s in loop.signatures if s[0].dtype.name == float_type.__name__)
    code = loop.inspect_llvm(signature)
    own, other = ("float", "double") if float_type is np.float32 else ("double", "float")
    assert re.search(rf"<\d+ x {own}> @llvm\.{'sqrt' if name == 'sqrt' else 'fma'}\.v", code)
    assert not re.search(rf"\b{other}\b", code)
    assert not re.search(r"call (float|double|<[^>]*>) @(?!llvm\.)", code)


# The bits do not depend on the width of the machine's vectors, nor on its having fma


def bits(names):
    digest = hashlib.sha256()
    for name in names:
        for float_type in FLOATS:
            y = over(name, grid(float_type, 5000))
            digest.update(np.where(np.isnan(y), float_type(0), y).tobytes())
    return digest.hexdigest()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86 processors")
@pytest.mark.parametrize(
    "names", [["sigmoid", "log1p", "erf"], pytest.param(list(FUNCTIONS), marks=pytest.mark.slow)]
)
def test_same_bits_on_other_processors(names):
    processors = {"haswell": "+avx2,+fma,+avx", "x86-64-v2": "+sse4.2"}
    program = f"from {__name__} import bits; print(bits({names}))"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=dict(os.environ, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features),
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, features in processors.items()
    ]
    results = [process.communicate()[0].strip() for process in running]
    assert results == [bits(names)] * 2
