"""Normalisation, along the features of a row (layer) or the rows of a feature (batch).

The formulas are the same for both; only the n values that share a mean m and a variance v differ.
"""
# ruff: noqa: D103    (the derivation above a formula is its documentation)

from fastbp.formulas.elementary import fma, like, sqrt
from fastbp.formulas.formula import formula

# Sums over the rows of a column are one chain of partial sums over so many rows: short chains round less.
ROWS = 64

# Normalisation of n values, with learnt scale γ and shift β (Ioffe, Szegedy 2015; Ba, Kiros, Hinton 2016):
#     m = Σ x / n        v = Σ (x − m)² / n        r = 1 / √(v + ε)
#     x̂ = (x − m) · r
#     y = γ · x̂ + β
# A mean m' that was rounded is a little off: by d = Σ (x − m') / n. What is left is small, so its digits are
# all there:    x − m = (x − m') − d        v = Σ (x − m')² / n − d²


@formula
def inverse_deviation(variance, epsilon):
    return like(variance, 1.0) / sqrt(variance + epsilon)


@formula
def variance_about(mean_square, off):
    v = fma(-off, off, mean_square)
    return v if v > like(v, 0.0) else like(v, 0.0)  # which rounding may have gone below


@formula
def normalize(x, mean, r):
    return (x - mean) * r


@formula
def scale_and_shift(normalized, gamma, beta):
    return fma(gamma, normalized, beta)


# Backward. Every x moves m and v too:
#     dβ = Σ dy        dγ = Σ dy · x̂        dx̂ = dy · γ         (sums over the rows: there γ and β are shared)
#     ∂m/∂xᵢ = 1/n     ∂v/∂xᵢ = 2 (xᵢ − m) / n     ∂r/∂v = −r³ / 2, so ∂r/∂xᵢ = −r² · x̂ᵢ / n
#     dxᵢ = Σⱼ dx̂ⱼ · ∂x̂ⱼ/∂xᵢ = r · (dx̂ᵢ − Σⱼ dx̂ⱼ / n − x̂ᵢ · Σⱼ dx̂ⱼ x̂ⱼ / n)
# What is kept is x̂ and r. The two sums run over the n values that were normalised together.
@formula
def normalize_backward(dnormalized, normalized, mean_d, mean_product, r):
    return r * (dnormalized - fma(normalized, mean_product, mean_d))


# Where the batch's statistics are used in training, predictions use running ones, which follow PyTorch:
#     running ← (1 − momentum) · running + momentum · new      of variances the unbiased: n / (n − 1) · v
@formula
def follow(running, new, momentum):
    return fma(momentum, new, (like(momentum, 1.0) - momentum) * running)
