import hashlib
import math

import numpy as np
import pytest
from numba import njit
from scipy import special, stats

from fastbp import random
from fastbp.formulas import random as draws

# Random123 1.14, tests/kat_vectors, rows "philox4x32 10": counter, key, words.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@njit
def compiled_philox(seed, purpose, epoch, step, block):
    return draws.philox(seed, purpose, epoch, step, block)


@njit(nogil=True)
def compiled_shuffle(order, seed, epoch):
    draws.shuffle(order, seed, epoch)


@njit
def count_orders(counts, n, seed, epochs):
    """How often each permutation of n rows comes first, and each follows each: counts (n**n, n**n)."""
    order = np.empty(n, np.int64)
    before = -1
    for epoch in range(epochs):
        draws.shuffle(order, seed, epoch)
        code = 0
        for row in order:
            code = code * n + row
        if before >= 0:
            counts[before, code] += 1
        before = code


def shuffled(n, seed, epoch):
    order = np.full(n, -1, np.int64)
    compiled_shuffle(order, seed, epoch)
    return order


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
@pytest.mark.parametrize("form", ["scalar", "array", "compiled"])
def test_philox_known_answers(form, counter, key, expected):
    block, step, epoch, purpose = (int(word, 16) for word in counter.split())
    low, high = (int(word, 16) for word in key.split())
    seed = high << 32 | low
    if form == "array":
        words = np.stack(draws.philox(seed, purpose, epoch, step, np.full(3, block, np.uint64)), axis=1)
        assert words.dtype == np.uint64
    else:
        philox = compiled_philox if form == "compiled" else draws.philox
        words = np.array([philox(np.uint64(seed), purpose, epoch, step, block)], np.uint64)
    for row in words:
        assert " ".join(f"{word:08x}" for word in row) == expected


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 + 5, 2**64 - 1])
def test_philox_host_and_compiled_agree(seed):
    blocks = np.array([0, 1, 2, 77, 2**31, 2**32 - 1], np.uint64)
    host = np.stack(draws.philox(seed, 3, 5, 7, blocks), axis=1)
    for block, row in zip(blocks, host):
        assert compiled_philox(np.uint64(seed), 3, 5, 7, int(block)) == tuple(row)
    assert np.all(host <= 0xFFFFFFFF)


def test_draws_change_with_each_coordinate():
    base = dict(seed=1, purpose=2, epoch=3, step=4)
    draws = [random.uniform(n=4, **base).tobytes()]
    for name in base:
        draws.append(random.uniform(n=4, **{**base, name: 9}).tobytes())
    draws.append(random.uniform(n=4, **{**base, "seed": 1 + 2**32}).tobytes())
    assert len(set(draws)) == len(draws)


def test_purposes_differ():
    plain = [
        draws.INITIALIZE, draws.SHUFFLE, draws.SPLIT, draws.DROPOUT, draws.SAMPLE, draws.INPUT_NOISE,
        draws.GRADIENT_NOISE,
    ]  # fmt: skip
    numbered = [draws.purpose_of(draws.DROPOUT, layer) for layer in range(1, 1000)]
    assert len({*plain, *numbered}) == len(plain) + len(numbered)


def test_a_draw_depends_on_its_index_only():
    whole = random.uniform(3, 1, 100_003)  # several chunks of the host form
    for n in (0, 1, 2, 3, 5, 40_000):
        assert np.array_equal(random.uniform(3, 1, n), whole[:n])
    w = draws.philox(3, 1, 0, 0, 50_000 // 4)
    assert whole[25_000] == float((int(w[0]) << 32 | int(w[1])) >> 11) / 2**53


@pytest.mark.parametrize(("dtype", "bits"), [(np.float64, 53), (np.float32, 24)])
def test_uniform_is_uniform(dtype, bits):
    u = random.uniform(7, 0, 100_000, dtype)
    assert u.dtype == dtype
    assert u.min() >= 0
    assert u.max() < 1
    assert np.all(u * 2.0**bits == np.floor(u * 2.0**bits))
    assert stats.kstest(u.astype(np.float64), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01


def test_uniform_ends(monkeypatch):
    for word, expected in ((0, 0.0), (0xFFFFFFFF, 1 - 2**-53)):
        monkeypatch.setattr(random, "_words", lambda *a, word=word: np.full(a[-1], word, np.uint64))
        assert random.uniform(0, 0, 1)[0] == expected
    assert random.uniform(0, 0, 1, np.float32)[0] == np.float32(1 - 2**-24)


def test_normal_is_normal():
    z = random.normal(11, 0, 200_000)
    assert z.dtype == np.float64
    assert stats.kstest(z, "norm").pvalue > 0.01
    n = z.size
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 4 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / n)
    assert abs(np.corrcoef(z[::2], z[1::2])[0, 1]) < 4 / np.sqrt(n / 2)


def test_normal_truncated():
    z = random.normal(12, 0, 100_000, truncated=True)
    assert np.abs(z).max() < 2
    assert stats.kstest(z, stats.truncnorm(-2, 2).cdf).pvalue > 0.01
    assert abs(z.std() - 0.87962566103423978) < 0.01


@pytest.mark.parametrize(("word", "expected"), [(0, -8.209536151601386), (0xFFFFFFFF, 8.209536151601386)])
def test_normal_extremes_are_finite(monkeypatch, word, expected):
    monkeypatch.setattr(random, "_words", lambda *a: np.full(a[-1], word, np.uint64))
    assert random.normal(0, 0, 1)[0] == pytest.approx(expected, rel=1e-14)
    assert abs(random.normal(0, 0, 1, truncated=True)[0]) <= 2


def test_quantile_against_scipy():
    near_0 = 2.0 ** -np.arange(2, 53)
    u = np.concatenate([np.linspace(1e-4, 1 - 1e-4, 20_001), near_0, 1 - near_0])
    assert np.allclose(random._normal_quantile(u), special.ndtri(u), rtol=2e-15, atol=2e-16)


def test_log_against_the_standard_library():
    powers = 2.0 ** np.arange(-1000, 1000)
    x = np.concatenate([np.linspace(1e-3, 3, 30_001), powers, 1 + 2.0 ** -np.arange(1, 53)])
    wanted = np.array([math.log(v) for v in x])  # within 1 ulp itself
    assert np.all(np.abs(random._log(x) - wanted) <= 2.2 * np.spacing(np.abs(wanted)))


@pytest.mark.parametrize(
    ("draw", "digest"),
    [
        (lambda: random.uniform(2026, draws.INITIALIZE, 1000), "ff7e29c99469fa43"),
        (lambda: random.uniform(2026, draws.INITIALIZE, 1000, np.float32), "820a4a2ca7052c5f"),
        (lambda: random.normal(2026, draws.INITIALIZE, 1000), "3d3ccc079b435b35"),
        (lambda: random.normal(2026, draws.INITIALIZE, 1000, truncated=True), "0a3bc61ec13659af"),
        (lambda: random.permutation(2026, draws.SPLIT, 1000), "9b1828e996993792"),
        (lambda: shuffled(1000, 2026, 3), "cc66b199e189cb85"),
    ],
    ids=["uniform64", "uniform32", "normal", "truncated", "permutation", "shuffle"],
)
def test_bits_are_pinned(draw, digest):
    values = draw()
    little = values.astype(values.dtype.newbyteorder("<"))
    assert hashlib.sha256(little.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("n", [*range(14), 100, 1001, 4099])
def test_shuffle_is_a_permutation_and_the_plain_python_form_agrees(n):
    order = shuffled(n, 5, 2)
    assert sorted(order) == list(range(n))
    if n <= 100:
        plain = np.empty(n, np.int64)
        draws.shuffle(plain, 5, 2)
        assert np.array_equal(plain, order)


def test_shuffle_is_fisher_yates_with_the_documented_draws():
    n, seed, epoch = 23, 2**40 + 3, 6
    words = random._words(seed, draws.SHUFFLE, epoch, 0, n)
    rows = []
    for i in range(n):
        rows.append(i)
        j = int(words[i]) * (i + 1) >> 32
        rows[i], rows[j] = rows[j], rows[i]
    assert shuffled(n, seed, epoch).tolist() == rows


def test_shuffle_overwrites_whatever_was_there():
    order = np.arange(50, dtype=np.int64)
    compiled_shuffle(order, 1, 1)
    assert np.array_equal(order, shuffled(50, 1, 1))


def test_shuffle_accepts_other_integer_types():
    wanted = shuffled(20, 3, 4)
    assert np.array_equal(shuffled(20, np.uint64(3), np.int32(4)), wanted)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shuffle_permutations_are_equally_likely_and_epochs_independent(seed):
    n, epochs = 3, 36_001
    counts = np.zeros((n**n, n**n), np.int64)
    count_orders(counts, n, seed, epochs)
    pairs = counts[counts > 0]
    assert pairs.size == 36  # each of the 6 permutations follows each
    assert stats.chisquare(pairs).pvalue > 0.001
    assert stats.chisquare(counts.sum(axis=1)[counts.sum(axis=1) > 0]).pvalue > 0.001


def test_shuffle_every_row_is_everywhere():
    n, epochs = 64, 6400
    at = np.zeros((n, n), np.int64)
    for epoch in range(epochs):
        at[np.arange(n), shuffled(n, 9, epoch)] += 1
    chi2 = ((at - epochs / n) ** 2 / (epochs / n)).sum()
    assert 1e-3 < stats.chi2.sf(chi2, (n - 1) ** 2) < 1 - 1e-3


def test_permutation():
    order = random.permutation(3, draws.SPLIT, 1000)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(1000))
    counts = {}
    for step in range(2400):
        key = tuple(random.permutation(3, draws.SPLIT, 4, step=step).tolist())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_fresh_seeds_differ_and_are_seeds():
    seeds = {random.fresh_seed() for _ in range(20)}
    assert len(seeds) > 15
    assert all(type(s) is int and 0 <= s < 2**64 for s in seeds)
