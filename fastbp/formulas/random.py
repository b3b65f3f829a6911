"""Counter-based random numbers: a draw is a function of (seed, purpose, epoch, step, index) and nothing else.

There is no state to carry, so the draws are the same for any number of threads, on every device, with every
version of NumPy, and after a resume. The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel
random numbers: as easy as 1, 2, 3", SC 2011): it turns a counter of four 32-bit words and a key of two into
four random words. Our counter is (index // 4, step, epoch, purpose) and our key is the 64-bit seed.

All of this may be called from compiled code; distributions that only the host draws from are in
``fastbp/random.py``.
"""

import numpy as np
from numba.extending import register_jitable

# What a draw is for. Each purpose has draws of its own, so that adding one never changes another.
INITIALIZE = 0
SHUFFLE = 1
SPLIT = 2
DROPOUT = 3
SAMPLE = 4
INPUT_NOISE = 5
GRADIENT_NOISE = 6


def purpose_of(kind, number):
    """The purpose of draws of which a network needs several kinds: DROPOUT of its layer `number`, say."""
    return kind + (number << 8)


# Every operand below is a 32-bit word held in an unsigned 64-bit integer: no product overflows, NumPy raises
# no warning, and Numba never meets int64 with uint64, which it would turn into float64.
_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint64(0x9E3779B9)  # the golden ratio
_WEYL_1 = np.uint64(0xBB67AE85)  # sqrt(3) - 1
_WORD = np.uint64(0xFFFFFFFF)
_1, _2, _3, _4 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_32 = np.uint64(32)


# forceinline: LLVM finds it too long to inline, so no loop over it would vectorise, and `shuffle` would take
# 5 to 6 ns an element instead of 2 (AVX2).
@register_jitable(forceinline=True, no_cfunc_wrapper=True)
def philox(seed, purpose, epoch, step, block):
    """Draws 4·block … 4·block + 3 of (seed, purpose, epoch, step): four random words by Philox4x32-10.

    Parameters
    ----------
    seed : int
        0 … 2**64 − 1.
    purpose, epoch, step : int
        Each 0 … 2**32 − 1; higher bits are ignored.
    block : int, or array of uint64
        Which four of the draws; its low 32 bits count.

    Returns
    -------
    tuple of four uint64, or arrays of it
        The words, each uniform over 0 … 2**32 − 1.

    Examples
    --------
    >>> [f"{word:08x}" for word in philox(0, 0, 0, 0, 0)]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0 = np.uint64(block) & _WORD
    c1 = np.uint64(step) & _WORD
    c2 = np.uint64(epoch) & _WORD
    c3 = np.uint64(purpose) & _WORD
    k0 = np.uint64(seed) & _WORD
    k1 = np.uint64(seed) >> _32
    for _ in range(10):
        p0 = _MULTIPLIER_0 * c0
        p1 = _MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _WORD, (p0 >> _32) ^ c3 ^ k1, p0 & _WORD
        k0 = (k0 + _WEYL_0) & _WORD
        k1 = (k1 + _WEYL_1) & _WORD
    return c0, c1, c2, c3


@register_jitable
def shuffle(order, seed, epoch):
    """Write the order in which an epoch visits the rows: a permutation of 0 … n − 1.

    It is a function of (seed, epoch, n) only. For compiled code: it needs no allocation and no GIL, and takes
    2 to 3 ns an element. (Called from plain Python it gives the same permutation, slowly.)

    Parameters
    ----------
    order : int64 array (n,), C-contiguous
        Overwritten.
    seed, epoch : int
        0 … 2**64 − 1 and 0 … 2**32 − 1.

    Notes
    -----
    Fisher-Yates from the front: row i goes to place j ≤ i, and who stood there moves to place i. j is one
    32-bit word times (i + 1), shifted (Lemire 2019, without its rejection): some places are likelier than
    others by at most the fraction n / 2**32, which is 2e-4 for a million rows. Beyond 2**31 rows that is no
    longer a fair shuffle, but it stays a permutation whatever n is: the shifted product never exceeds i.
    """
    n = np.uint64(order.size)
    # First all the places j, which vectorises and needs no memory but `order` itself …
    for block in range(n // _4):
        i = block * _4
        w0, w1, w2, w3 = philox(seed, SHUFFLE, epoch, 0, block)
        order[i] = np.int64((w0 * (i + _1)) >> _32)
        order[i + _1] = np.int64((w1 * (i + _2)) >> _32)
        order[i + _2] = np.int64((w2 * (i + _3)) >> _32)
        order[i + _3] = np.int64((w3 * (i + _4)) >> _32)
    i = n // _4 * _4
    for word in philox(seed, SHUFFLE, epoch, 0, n // _4):
        if i < n:
            order[i] = np.int64((word * (i + _1)) >> _32)
        i += _1
    # … then the exchanges, one after the other.
    for i in range(n):
        j = np.uint64(order[i])
        order[i] = order[j]
        order[j] = np.int64(i)


@register_jitable
def sample_balanced(order, by_class, starts, seed, epoch):
    """Write rows for an epoch, drawn with replacement so that every class is equally likely.

    A function of (seed, epoch, n) and the classes only, for compiled code like `shuffle`. Draw i is made of
    two words: the first one says which class, the second which of its rows.

    Parameters
    ----------
    order : int64 array (n,), C-contiguous
        Overwritten.
    by_class : int64 array
        The rows, class by class.
    starts : int64 array (classes + 1,)
        Where each class begins in `by_class`, and where the last one ends. No class is empty.
    seed, epoch : int
        0 … 2**64 − 1 and 0 … 2**32 − 1.
    """
    n, classes = np.uint64(order.size), np.uint64(starts.size - 1)
    for block in range((n + _1) // _2):
        w0, w1, w2, w3 = philox(seed, SAMPLE, epoch, 0, block)
        order[block * _2] = row_of_class(w0, w1, classes, by_class, starts)
        if block * _2 + _1 < n:
            order[block * _2 + _1] = row_of_class(w2, w3, classes, by_class, starts)


@register_jitable
def row_of_class(word, second_word, classes, by_class, starts):
    """The row that two words draw: the first says which class, the second which of its rows."""
    chosen = (word * classes) >> _32
    first = np.uint64(starts[chosen])
    return by_class[first + ((second_word * (np.uint64(starts[chosen + _1]) - first)) >> _32)]
