"""What shapes gradients and weights beside the optimizer: penalties, clipping, the largest norm, noise.

To each formula there is a slow obvious one in ``tests/reference.py``. Lengths are taken in float64.
"""
# ruff: noqa: D103    (the derivation above a formula is its documentation)

from fastbp.formulas.elementary import fma, like, log, sqrt
from fastbp.formulas.formula import formula
from fastbp.formulas.schedules import real_power

# What PyTorch adds to a length before it divides by it: clip_grad_norm_, renorm.
CLIP_EPSILON = 1e-6
RENORM_EPSILON = 1e-7


# L1 and L2 (Keras's L1L2)
#     the loss grows by  l1 |w| + l2 w²
#     dw grows by        l1 sign(w) + 2 l2 w              sign(0) = 0
@formula
def penalty_backward(w, l1, l2):
    zero = like(w, 0)
    sign = like(w, 1) if w > zero else (like(w, -1) if w < zero else w)
    return fma(l1, sign, (l2 + l2) * w)


# Clipping by value (torch.nn.utils.clip_grad_value_)
#     dw = min(max(dw, −limit), limit)                    NaN stays
@formula
def clip(dw, limit):
    floored = -limit if dw < -limit else dw
    return limit if floored > limit else floored


# Clipping by the norm of the whole gradient (torch.nn.utils.clip_grad_norm_)
#     dw = dw · min(1, most / (√Σ dw² + 10⁻⁶))            NaN stays
@formula
def clip_factor(square, most):
    factor = most / (sqrt(square) + CLIP_EPSILON)
    return 1.0 if factor > 1.0 else factor


# The largest norm of the weights into a unit (torch.renorm; Srivastava et al., 2014, section 5.1)
#     w = w · most / (|w| + 10⁻⁷) where |w| > most
@formula
def renorm_factor(square, most):
    length = sqrt(square)
    return most / (length + RENORM_EPSILON) if length > most else 1.0


# Noise on gradients that falls from step to step (Neelakantan et al., "Adding Gradient Noise Improves
# Learning for Very Deep Networks", 2015, equation 1): variance η / (1 + t)^γ at t = 0, 1, …
#     deviation = √η · (1 + t)^(−γ/2)                     γ = 0 is noise that stays
@formula
def noise_deviation(first, gamma, t):
    return first if gamma == 0.0 else first * real_power(1.0 + t, -0.5 * gamma)


# Normal noise: how far out a normal number lies that is exceeded with probability p, 0 < p ≤ ½; Wichura,
# "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37 (1988), routine
# PPND7, relative error about 1e-7. Its last branch is for p < e⁻²⁵, and the smallest p here is 2⁻²⁵.
#     q = ½ − p,  r = 0.180625 − q²,  near = q · A(r) / B(r)                  where q ≤ 0.425
#     s = √(−log p) − 1.6,            far  = C(s) / D(s)                      beyond
@formula
def normal_size(p):
    one, q = like(p, 1), like(p, 0.5) - p
    r = fma(-q, q, like(p, 0.180625))
    a = fma(fma(like(p, 59.109374720), r, like(p, 159.29113202)), r, like(p, 50.434271938))
    b = fma(fma(like(p, 67.187563600), r, like(p, 78.757757664)), r, like(p, 17.895169469))
    near = q * (fma(a, r, like(p, 3.3871327179)) / fma(b, r, one))
    s = sqrt(-log(p)) - like(p, 1.6)
    c = fma(fma(like(p, 0.17023821103), s, like(p, 1.3067284816)), s, like(p, 2.7568153900))
    d = fma(like(p, 0.12021132975), s, like(p, 0.73700164250))
    far = fma(c, s, like(p, 1.4234372777)) / fma(d, s, one)
    return near if q <= like(p, 0.425) else far
