"""Elementary functions of our own: exp, expm1, log, log1p, tanh, sigmoid, erf, softplus, cospi, sqrt.

Each is one scalar text for float32 and float64, for the CPU, the GPU and plain Python, and gives the same
bits on all of them: every step is one exactly rounded operation of IEEE 754, and wherever the rounding of a
product before a sum would show, an ``fma`` is written out, so that no compiler is left a choice. There are no
branches, no tables and no library calls, only arithmetic and selections, so that a loop over any of these
functions becomes vector code.

The coefficients are weighted minimax fits in 50 digits (Lawson's iteration on a Chebyshev grid), rounded to
the float type one at a time from the lowest order, the others being fitted again after each rounding. Next to
each tuple stands its largest error, relative to the function, before any rounding of the arithmetic.

Errors are in ulp (units in the last place) of the exact result, subnormal results included: the largest of
every 17th float32 against the C library's float64, and of float64 against mpmath: 20,000 random and extreme
numbers, and the worst that a search around the worst of those has found.
"""

import math
from fractions import Fraction

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

__all__ = [
    "cospi",
    "erf",
    "exp",
    "exp_nonpositive",
    "expm1",
    "fma",
    "like",
    "log",
    "log1p",
    "sigmoid",
    "softplus",
    "sqrt",
    "tanh",
]


# How one text serves two types and three compilers
#
#     A constant that differs between the types is a pair (float32, float64), and by_type picks from it when
#     compiling, so that no double-precision number slips into float32 code. For a number that both types
#     hold, like is enough.


# Compiled code alone calls these: no wrapper for C, which would take a tenth of the time to compile.
INSIDE = {"no_cfunc_wrapper": True}


def by_type(z, pair):
    """``pair[0]`` if z is a float32, ``pair[1]`` if it is a float64; decided at compile time."""
    return pair[0] if isinstance(z, np.float32) else pair[1]


@overload(by_type, jit_options=INSIDE)
def _compile_by_type(z, pair):
    if z == types.float32:
        return lambda z, pair: pair[0]
    if z == types.float64:
        return lambda z, pair: pair[1]


def like(z, value):
    """The number `value` as a constant of z's float type: ``like(z, 0.5) * z`` stays float32 where z is."""
    return type(z)(value)


@overload(like, jit_options=INSIDE)
def _compile_like(z, value):
    if z == types.float32:
        return lambda z, value: np.float32(value)
    if z == types.float64:
        return lambda z, value: np.float64(value)


def elementary(formula):
    """Let compiled code inline `formula`, and plain Python call it without warnings on overflow and NaN.

    Inlining is forced, because a loop over a function that LLVM finds too long to inline does not vectorise.
    """
    function = np.errstate(all="ignore")(formula)
    overload(function, strict=False, jit_options={"forceinline": True, **INSIDE})(lambda *args: formula)
    return function


# Fused multiply-add
#
#     fma(a, b, c) = a·b + c, rounded once


def fma(a, b, c):
    """a·b + c rounded once, for three floats of one type (mixed types do not compile).

    Compiled, it is the machine's instruction, or the C library's exact emulation on a machine without it.
    """
    # Plain Python, for the CUDA simulator and for reference: exact rational arithmetic, then one rounding.
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b + c
    if not math.isfinite(c):
        return c  # a·b may be too large for its type, which it is not here
    if isinstance(a, np.float32):
        return _fma_float32(np.float64(a), np.float64(b), np.float64(c))
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:
        return a * b + c if a * b == 0 and c == 0 else type(a)(0)
    try:
        return type(a)(float(exact))
    except OverflowError:
        return type(a)(math.inf if exact > 0 else -math.inf)


def _fma_float32(a, b, c):
    # In float64 the product is exact. Where the sum is not, its last bit is made odd ("round to odd"), which
    # keeps the second rounding, to float32, from falling the wrong way on a tie.
    product = a * b
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)
    if error != 0 and np.float64(total).view(np.int64) % 2 == 0:
        total = np.nextafter(total, np.copysign(np.inf, error))
    return np.float32(total)


def _declare(builder, name, float_type, arguments):
    """LLVM's own function `name` of so many `arguments`, all of one float type."""
    name = f"llvm.{name}.f32" if float_type == ir.FloatType() else f"llvm.{name}.f64"
    declared = builder.module.globals.get(name)
    return declared or ir.Function(
        builder.module, ir.FunctionType(float_type, [float_type] * arguments), name
    )


@intrinsic
def _llvm_fma(typing_context, a, b, c):
    def generate(context, builder, signature, args):
        return builder.call(_declare(builder, "fma", args[0].type, 3), list(args))

    return a(a, b, c), generate


@overload(fma, jit_options=INSIDE)
def _compile_fma(a, b, c):
    if a in (types.float32, types.float64) and a == b == c:
        return lambda a, b, c: _llvm_fma(a, b, c)


# Polynomial, by Estrin's scheme
#
#     c0 + c1·x + c2·x² + c3·x³ + … = (c0 + c1·x) + (c2 + c3·x)·x² + …, whose pairs are paired again, …
#
#     Horner's rule waits for one fma after the other; the pairs do not wait for each other.


def _estrin(x, coefficients, fused, square):
    """The polynomial as a tree of ``fused(a, b, c)`` and ``square(x)``: of values, or of code for them."""
    terms = list(coefficients)
    while True:
        pairs = [fused(high, x, low) for low, high in zip(terms[0::2], terms[1::2])]
        terms = pairs + terms[2 * len(pairs) :]
        if len(terms) == 1:
            return terms[0]
        x = square(x)


def polynomial(x, coefficients):
    """c0 + c1·x + c2·x² + … for a tuple (c0, c1, c2, …) of two or more floats of x's type."""
    return _estrin(x, coefficients, fma, lambda x: x * x)


@intrinsic
def _llvm_polynomial(typing_context, x, coefficients):
    def generate(context, builder, signature, args):
        x, coefficients = args
        fused = _declare(builder, "fma", x.type, 3)
        return _estrin(
            x,
            [builder.extract_value(coefficients, i) for i in range(len(signature.args[1]))],
            lambda a, b, c: builder.call(fused, [a, b, c]),
            lambda x: builder.fmul(x, x),
        )

    return x(x, coefficients), generate


@overload(polynomial, jit_options=INSIDE)
def _compile_polynomial(x, coefficients):
    if isinstance(coefficients, types.UniTuple) and coefficients.dtype == x:
        return lambda x, coefficients: _llvm_polynomial(x, coefficients)


# Square root: IEEE 754 asks every machine for the exactly rounded one.


def sqrt(z):
    """Square root, exactly rounded (0.5 ulp); NaN for z < 0, and -0 for -0."""
    with np.errstate(all="ignore"):
        return np.sqrt(z)


@intrinsic
def _llvm_sqrt(typing_context, z):
    def generate(context, builder, signature, args):
        return builder.call(_declare(builder, "sqrt", args[0].type, 1), list(args))

    return z(z), generate


@overload(sqrt, jit_options=INSIDE)
def _compile_sqrt(z):
    if z in (types.float32, types.float64):
        return lambda z: _llvm_sqrt(z)


# The bits of a float
#
#     float32: 1 sign, 8 exponent (bias 127), 23 fraction; float64: 1, 11 (bias 1023), 52.


def to_bits(x):
    """The bits of a float32 or float64 as an unsigned integer."""
    return x.view(np.uint32) if isinstance(x, np.float32) else np.float64(x).view(np.uint64)


@overload(to_bits, jit_options=INSIDE)
def _compile_to_bits(x):
    if x == types.float32:
        return lambda x: np.float32(x).view(np.uint32)
    if x == types.float64:
        return lambda x: np.float64(x).view(np.uint64)


def from_bits(x, bits):
    """The float of x's type that has these bits."""
    return np.uint32(bits).view(np.float32) if isinstance(x, np.float32) else np.uint64(bits).view(np.float64)


@overload(from_bits, jit_options=INSIDE)
def _compile_from_bits(x, bits):
    if x == types.float32:
        return lambda x, bits: np.uint32(bits).view(np.float32)
    if x == types.float64:
        return lambda x, bits: np.uint64(bits).view(np.float64)


def _float_pair(value):
    return np.float32(value), np.float64(value)


def _bits_pair(float32_bits, float64_bits):
    return np.uint32(float32_bits), np.uint64(float64_bits)


def _coefficients(float32_values, float64_values):
    return tuple(map(np.float32, float32_values)), tuple(map(np.float64, float64_values))


FRACTION_BITS = _bits_pair(23, 52)
FRACTION_MASK = _bits_pair(2**23 - 1, 2**52 - 1)
SIGN_MASK = _bits_pair(2**31, 2**63)


@elementary
def with_sign(magnitude, z):
    """The number `magnitude` >= 0 with the sign of z, the sign of a zero included."""
    return from_bits(z, to_bits(magnitude) | (to_bits(z) & by_type(z, SIGN_MASK)))


# Round to an integer, and 2^n
#
#     From 2^23 (2^52) on neighbouring floats are 1 apart: x + 1.5·2^23 − 1.5·2^23 is x rounded to an integer.
#     The last bits of the sum are that integer. With the bias added as well, a shift moves n + bias into the
#     exponent field, and nothing but zeros into the fraction.

ROUNDER = np.float32(1.5 * 2**23), np.float64(1.5 * 2**52)
BIASED_ROUNDER = np.float32(1.5 * 2**23 + 127), np.float64(1.5 * 2**52 + 1023)


@elementary
def power_of_two(n):
    """2^n, exactly, for an integer-valued float n with a normal result: -126..127, in float64 -1022..1023."""
    return from_bits(n, to_bits(n + by_type(n, BIASED_ROUNDER)) << by_type(n, FRACTION_BITS))


# exp and expm1
#
#     z = n·ln 2 + r,  n = round(z / ln 2),  |r| ≤ ln 2 / 2      so exp(z) = 2^n · exp(r)
#     exp(r) = 1 + r + r²·q(r)                                   r carries the digits, q only corrects it
#
#     ln 2 is held in two parts (Cody and Waite). With fma, z − n·LN2_HIGH is exact, and what rounding takes
#     from the second step can be told as well: expm1 needs this tail where 2^n·expm1(r) and 2^n − 1 cancel.

LOG2_E = _float_pair(1.4426950408889634)
LN2_HIGH = np.float32(0.6931471824645996), np.float64(0.6931471805599453)
LN2_LOW = np.float32(-1.9046542121259336e-09), np.float64(2.3190468138462996e-17)
EXP_Q = _coefficients(
    # 2^-31.0
    (0.5, 0.1666666567325592, 0.041666485369205475, 0.008333557285368443, 0.0013933046720921993,
     0.0001975186896743253),
    # 2^-61.5
    (0.5, 0.16666666666666677, 0.04166666666666661, 0.008333333333321414, 0.0013888888888923868,
     0.0001984126988670065, 2.480158723744334e-05, 2.755724360004244e-06, 2.755735282222336e-07,
     2.5109260282385585e-08, 2.0889581588624727e-09),
)  # fmt: skip


@elementary
def multiples_of_ln2(z):
    """(n, r, tail) with z = n·ln 2 + r + tail, n an integer and ``abs(r) <= ln 2 / 2``."""
    n = fma(z, by_type(z, LOG2_E), by_type(z, ROUNDER)) - by_type(z, ROUNDER)
    exact = fma(-n, by_type(z, LN2_HIGH), z)
    r = fma(-n, by_type(z, LN2_LOW), exact)
    return n, r, fma(-n, by_type(z, LN2_LOW), exact - r)


@elementary
def exp_minus_1(r):
    """exp(r) - 1 for ``abs(r) <= ln 2 / 2``."""
    return fma(r * r, polynomial(r, by_type(r, EXP_Q)), r)


# Beyond the bound exp is 0 (less than half the smallest subnormal) or infinite. 2^n itself may be either, so
# it is applied in two halves; only the second product rounds, where the result is subnormal.

EXP_BOUND = np.float32(104.0), np.float64(746.0)


@elementary
def within_exp_bound(z):
    """z, brought to the nearer end of the range outside which exp is 0 or infinite; NaN stays NaN."""
    z = -by_type(z, EXP_BOUND) if z < -by_type(z, EXP_BOUND) else z
    return by_type(z, EXP_BOUND) if z > by_type(z, EXP_BOUND) else z


@elementary
def half_rounded(n):
    """n / 2 rounded to an integer."""
    return fma(n, like(n, 0.5), by_type(n, ROUNDER)) - by_type(n, ROUNDER)


@elementary
def exp(z):
    """e to the power z.

    Largest error: 1.01 ulp in float32, 1.01 ulp in float64.
    """
    n, r, _ = multiples_of_ln2(within_exp_bound(z))
    half = half_rounded(n)
    return (like(z, 1) + exp_minus_1(r)) * power_of_two(half) * power_of_two(n - half)


# Where z ≤ 0 there is no overflow, and if no subnormal result is wanted 2^n is applied in one piece: n is
# never less than −126 (−1022) where z is not less than −126·ln 2 (−1022·ln 2).

EXP_SMALLEST = np.float32(-87.33654), np.float64(-708.3964185322641)


@elementary
def exp_nonpositive(z):
    """e to the power z for ``z <= 0``: the bits of `exp` in three quarters of its time, or 0 for subnormals.

    Largest error: 1.01 ulp in float32, 1.01 ulp in float64.
    """
    n, r, _ = multiples_of_ln2(z)
    y = (like(z, 1) + exp_minus_1(r)) * power_of_two(n)
    return like(z, 0) if z < by_type(z, EXP_SMALLEST) else y


# expm1(z) = exp(z) − 1 = 2^n·(r + r²·q + tail) + 2^n − 1
#
#     Computed as half of that and doubled, because 2^n alone may overflow before the result does.
#     Above the first bound the result is infinite, below the second it rounds to −1, and where |z| is below
#     the third it rounds to z itself (so that −0 stays −0).

EXPM1_HIGHEST = np.float32(89.0), np.float64(710.0)
EXPM1_LOWEST = np.float32(-20.0), np.float64(-40.0)
EXPM1_TINY = np.float32(2.0**-26), np.float64(2.0**-55)


@elementary
def expm1(z):
    """e to the power z, minus 1, accurate near 0.

    Largest error: 1.30 ulp in float32, 1.28 ulp in float64.
    """
    bounded = by_type(z, EXPM1_LOWEST) if z < by_type(z, EXPM1_LOWEST) else z
    bounded = by_type(z, EXPM1_HIGHEST) if bounded > by_type(z, EXPM1_HIGHEST) else bounded
    n, r, tail = multiples_of_ln2(bounded)
    half = power_of_two(n - like(z, 1))
    main = fma(half, r, half - like(z, 0.5))
    y = fma(half, fma(r * r, polynomial(r, by_type(z, EXP_Q)), tail), main)
    return z if abs(z) < by_type(z, EXPM1_TINY) else y + y


# log and log1p
#
#     x = 2^e·m,  √½ ≤ m < √2,  f = m − 1                        so log(x) = e·ln 2 + log(1 + f)
#     s = f / (2 + f),  log(1 + f) = 2·atanh(s) = 2s + s³·L(s²),  L = 2/3 + 2/5·s² + …
#     2s = f − s·f  and  s·f = f²/2 − s·f²/2                so log(1 + f) = f − f²/2 + s·(f²/2 + s²·L(s²))
#
#     The last form adds ever smaller terms to f, which is exact, and e = 0 near x = 1: no digit is lost.

LOG_L = _coefficients(
    # 2^-30.2
    (0.6666677594184875, 0.39977556467056274, 0.298720121383667),
    # 2^-59.5
    (0.6666666666666735, 0.39999999999408814, 0.28571428743889243, 0.22222198401479829, 0.18183574076784106,
     0.15313781539841773, 0.1479882459497669),
)  # fmt: skip


@elementary
def _log_of_split(e, f):
    """e·ln 2 + log(1 + f)."""
    s = f / (like(f, 2) + f)
    w = s * s
    half_square = like(f, 0.5) * f * f
    correction = fma(s, fma(w, polynomial(w, by_type(f, LOG_L)), half_square), e * by_type(f, LN2_LOW))
    return fma(e, by_type(f, LN2_HIGH), f - fma(like(f, 0.5) * f, f, -correction))


# The bits of a positive x count through exponent and fraction together, so bits(x) − bits(√½) + bits(1) has
# e + bias in its exponent field, and its fraction added to bits(√½) gives m. Put behind the exponent of 2^23
# (2^52), the integer e + bias becomes the float 2^23 + bias + e.

SQRT_HALF_BITS = _bits_pair(0x3F3504F3, 0x3FE6A09E667F3BCD)
SQRT_HALF_TO_ONE = _bits_pair(0x3F800000 - 0x3F3504F3, 0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
INTEGER_BITS = _bits_pair(0x4B000000, 0x4330000000000000)
INTEGER_BIAS = np.float32(2**23 + 127), np.float64(2**52 + 1023)


@elementary
def _split(x):
    """(e, m) with x = 2^e·m and √½ <= m < √2, for a positive, finite, normal x."""
    # Through a float and back: Numba adds two uint32 as uint64, of which a vector holds half as many.
    bits = to_bits(from_bits(x, to_bits(x) + by_type(x, SQRT_HALF_TO_ONE)))
    biased = from_bits(x, (bits >> by_type(x, FRACTION_BITS)) | by_type(x, INTEGER_BITS))
    return biased - by_type(x, INTEGER_BIAS), from_bits(
        x, (bits & by_type(x, FRACTION_MASK)) + by_type(x, SQRT_HALF_BITS)
    )


SMALLEST_NORMAL = np.float32(2.0**-126), np.float64(2.0**-1022)


@elementary
def log(x):
    """Natural logarithm; -inf at 0, NaN below.

    Largest error: 0.76 ulp in float32, 0.73 ulp in float64.
    """
    subnormal = x < by_type(x, SMALLEST_NORMAL)
    e, m = _split(x * like(x, 2.0**52) if subnormal else x)
    y = _log_of_split(e - like(x, 52) if subnormal else e, m - like(x, 1))
    y = y if x < like(x, np.inf) else x
    y = y if x != like(x, 0) else like(x, -np.inf)
    return like(x, np.nan) if x < like(x, 0) else y


# log1p(x) = log(1 + x)
#
#     u = 1 + x is rounded; c = x − (u − 1) is what it lost, exactly.  u = 2^e·m,  f = m − 1 + 2^-e·c
#     So f = x where e = 0. Above the bound c no longer matters (2^-e, and c for infinity, leave their range).

LOG1P_LARGE = np.float32(2.0**30), np.float64(2.0**60)


@elementary
def log1p(x):
    """log(1 + x), accurate near 0; -inf at -1, NaN below.

    Largest error: 1.33 ulp in float32, 1.32 ulp in float64.
    """
    u = like(x, 1) + x
    lost = x - (u - like(x, 1))
    e, m = _split(u)
    f = m - like(x, 1)
    f = fma(lost, power_of_two(-e), f) if x < by_type(x, LOG1P_LARGE) else f
    y = _log_of_split(e, f)
    y = y if x < like(x, np.inf) else x
    y = y if x != like(x, 0) else x
    y = y if u != like(x, 0) else like(x, -np.inf)
    return like(x, np.nan) if u < like(x, 0) else y


# tanh
#
#     tanh(a) = (1 − e) / (1 + e),  e = exp(−2a) = 2^n·(1 + p)
#             = (1 − 2^n − 2^n·p) / (1 + 2^n + 2^n·p)            both rounded once: p is small where n = 0
#
#     Odd, so it is taken at a = |z| and the sign is put back. From the bound on tanh rounds to 1.

TANH_ONE = np.float32(10.0), np.float64(20.0)


@elementary
def tanh(z):
    """Hyperbolic tangent.

    Largest error: 1.94 ulp in float32 (of every number), 1.91 ulp in float64.
    """
    a = abs(z)
    a = by_type(z, TANH_ONE) if a > by_type(z, TANH_ONE) else a
    n, r, _ = multiples_of_ln2(-(a + a))
    scale = power_of_two(n)
    p = exp_minus_1(r)
    one = like(z, 1)
    return with_sign(fma(-scale, p, one - scale) / fma(scale, p, one + scale), z)


# sigmoid
#
#     sigmoid(z) = 1 / (1 + exp(−z)),  exp(−z) = 2^n·(1 + p)
#                = 2^-s / (2^-s + 2^(n−s) + 2^(n−s)·p)
#
#     s keeps the powers in range, so that the far negative tail keeps its digits: only the quotient is
#     rounded to a subnormal. It bounds z from above, far beyond where the result rounds to 1. Where n is
#     large the sum of the powers rounds; the last term gets the rest.

SIGMOID_SHIFT = np.float32(26.0), np.float64(60.0)
SIGMOID_ONE = np.float32(60.0), np.float64(60.0)


@elementary
def sigmoid(z):
    """Logistic function 1 / (1 + exp(-z)), with full relative accuracy down to the subnormals.

    Largest error: 1.69 ulp in float32, 1.62 ulp in float64.
    """
    z = by_type(z, SIGMOID_ONE) if z > by_type(z, SIGMOID_ONE) else z
    z = -by_type(z, EXP_BOUND) if z < -by_type(z, EXP_BOUND) else z
    n, r, _ = multiples_of_ln2(-z)
    one = power_of_two(-by_type(z, SIGMOID_SHIFT))
    scale = power_of_two(n - by_type(z, SIGMOID_SHIFT))
    both = one + scale
    lost = one - (both - scale)
    return one / (both + fma(scale, exp_minus_1(r), lost))


# softplus
#
#     softplus(z) = log(1 + exp(z)) = max(z, 0) + log(1 + e),  e = exp(−|z|) ≤ 1
#     log(1 + e) = 2·atanh(s) = 2s + s³·L(s²),  s = e / (2 + e) ≤ ⅓,  2s = e − s·e
#
#     As for log, but e needs no splitting: it is small where digits count.

SOFTPLUS_L = _coefficients(
    # 2^-27.7
    (0.666664183139801, 0.4002143442630768, 0.28003087639808655, 0.28006476163864136),
    # 2^-59.4
    (0.6666666666666631, 0.4000000000015568, 0.28571428548058697, 0.22222223956887177, 0.18181744375314413,
     0.15386550448565825, 0.13301095841444213, 0.12105138534798257, 0.08344152258189662, 0.17011238955053454),
)  # fmt: skip


@elementary
def softplus(z):
    """log(1 + exp(z)), accurate in both tails.

    Largest error: 1.77 ulp in float32, 1.64 ulp in float64.
    """
    e = exp(-abs(z))
    s = e / (like(z, 2) + e)
    w = s * s
    tail = fma(-s, fma(-w, polynomial(w, by_type(z, SOFTPLUS_L)), e), e)
    return (z if z > like(z, 0) else like(z, 0)) + tail


# erf
#
#     |z| < 1:  erf(z) = z + z·S(z²)                                      odd, hence a series in z²
#     |z| ≥ 1:  erf(z) = 1 − erfc(z) = 1 − exp(−Q(z)),  Q = −log(erfc)    nearly z², hence a short polynomial
#                      = (1 − 2^n) − 2^n·p,  exp(−Q) = 2^n·(1 + p)        2^n ≤ ¼: 1 − 2^n is exact
#
#     An error of Q counts erfc(z)-fold, so Q is fitted with that weight. From the bound on erf rounds to 1.

ERF_ONE = np.float32(4.0), np.float64(6.0)
ERF_S = _coefficients(
    # 2^-29.5
    (0.12837916612625122, -0.3761262893676758, 0.11283617466688156, -0.026855072006583214,
     0.005190595984458923, -0.0008029278833419085, 7.914649177109823e-05),
    # 2^-56.2
    (0.1283791670955126, -0.3761263890318406, 0.11283791670969065, -0.02686617064766021, 0.005223977649310189,
     -0.0008548328356332454, 0.00012055380200642462, -1.492675034836006e-05, 1.6479152116143786e-06,
     -1.6538875676849776e-07, 1.590279471591811e-08, -1.6082439286593705e-09, 1.3767179594023003e-10),
)  # fmt: skip
ERF_Q = _coefficients(
    # 2^-29.7 of erf
    (0.00034931578557007015, 1.1270573139190674, 0.6381979584693909, 0.10306063294410706,
     -0.021816089749336243, 0.002942217281088233, -0.00018583302153274417),
    # 2^-56.9 of erf
    (5.065251556137446e-07, 1.1283740541286131, 0.636643785680463, 0.10270300700791811, -0.01898936058441953,
     -0.00041176028184875576, 0.0019171301801062285, -0.0007716054126385078, 0.00013566120192619246,
     1.9961314650958345e-05, -2.270231938452507e-05, 8.630131053816874e-06, -2.126852952756735e-06,
     3.7171083242959233e-07, -4.6212870185218064e-08, 3.915170967489113e-09, -2.0342888294955852e-10,
     4.900973163365163e-12),
)  # fmt: skip


@elementary
def erf(z):
    """Error function, 2/√π times the integral of exp(-t²) from 0 to z.

    Largest error: 1.14 ulp in float32, 1.18 ulp in float64.
    """
    a = abs(z)
    a = by_type(z, ERF_ONE) if a > by_type(z, ERF_ONE) else a
    small = fma(a, polynomial(a * a, by_type(z, ERF_S)), a)
    n, r, _ = multiples_of_ln2(-polynomial(a, by_type(z, ERF_Q)))
    scale = power_of_two(n)
    large = fma(-scale, exp_minus_1(r), like(z, 1) - scale)
    return with_sign(small if a < like(z, 1) else large, z)


# cospi
#
#     cospi(x) = cos(π·x), even and of period 2, so x − 2·round(x / 2) = ±a with 0 ≤ a ≤ 1, exactly
#     a = h/2 + f,  h = round(2a),  |f| ≤ ¼:    cos(π·f), −sin(π·f), −cos(π·f) for h = 0, 1, 2
#     cos(π·f) = 1 + w·C(w),  sin(π·f) = f·(π + w·S(w)),  w = f²
#
#     π is held in two parts, the low one as the first coefficient of w·S(w). A float from the first bound on
#     is an integer: 2^23 (2^52), an even one, is taken off, which leaves room to round. From the second bound
#     on every float is even.

PI_HIGH = np.float32(3.1415927410125732), np.float64(3.141592653589793)
SINPI_S = _coefficients(
    # 2^-33.4
    (-8.742277657347586e-08, -5.167712688446045, 2.550154685974121, -0.5989812016487122, 0.07915709912776947),
    # 2^-63.5
    (1.2246467991473532e-16, -5.16771278004997, 2.550164039877414, -0.5992645293276705, 0.0821458869268602,
     -0.007370438152150654, 0.000466379844080566, -2.216401024471363e-05),
)  # fmt: skip
COSPI_C = _coefficients(
    # 2^-31.1
    (-4.934802055358887, 4.058696746826172, -1.3347564935684204, 0.22895073890686035),
    # 2^-61.5
    (-4.934802200544679, 4.058712126416667, -1.335262768843583, 0.23533062979399905, -0.025806876110154017,
     0.001929352921434166, -0.00010304596314028381),
)  # fmt: skip
COSPI_INTEGER = np.float32(2.0**23), np.float64(2.0**52)
COSPI_EVEN = np.float32(2.0**24), np.float64(2.0**53)


@elementary
def cospi(x):
    """cos(π·x), exact at multiples of ½; NaN for an infinity.

    Largest error: 1.09 ulp in float32, 1.14 ulp in float64.
    """
    a = abs(x)
    a = a if a < by_type(x, COSPI_EVEN) else like(x, 0)
    a = a if a < by_type(x, COSPI_INTEGER) else a - by_type(x, COSPI_INTEGER)
    a = abs(fma(half_rounded(a), like(x, -2), a))
    h = fma(a, like(x, 2), by_type(x, ROUNDER)) - by_type(x, ROUNDER)
    f = fma(h, like(x, -0.5), a)
    w = f * f
    cosine = fma(w, polynomial(w, by_type(x, COSPI_C)), like(x, 1))
    sine = fma(f, by_type(x, PI_HIGH), f * polynomial(w, by_type(x, SINPI_S)))
    y = cosine if h == like(x, 0) else (-sine if h == like(x, 1) else -cosine)
    return y + (x - x)
