"""Dropout: whether a random word keeps a value, and how the value is scaled then.

Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, in the "inverted" form of all peers: what is
kept is scaled up in training, so that nothing need be scaled when predicting.
"""
# ruff: noqa: D103    (the derivation above a formula is its documentation)

from fastbp.formulas.elementary import like
from fastbp.formulas.formula import formula

WORDS = 2**32  # as many values as a random word has


def dropout_threshold(rate):
    """The words below this drop their value: a share `rate` of all words, to within 2**-33."""
    return min(WORDS - 1, round(rate * WORDS))


# dropout
#     m  = 0 with probability rate, else 1 / (1 − rate)           so the mean of m is 1
#     y  = x · m
#     dx = dy · m         m does not depend on x; it is kept, which is cheaper than to draw it again
@formula
def dropout_multiplier(word, threshold, scale):
    return scale if word >= threshold else like(scale, 0.0)


@formula
def dropout(x, multiplier):
    return x * multiplier


@formula
def dropout_backward(dy, multiplier):
    return dy * multiplier
