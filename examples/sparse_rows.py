"""Sparse rows: texts as word counts. The vocabulary is large, and each text uses few of its words.

SciPy's sparse rows are trained on as they are: only a batch of them is ever dense. Needs SciPy.
"""

import numpy as np
from scipy.sparse import csr_array

import fastbp

WORDS, TOPICS, LENGTH = 20_000, 4, 60


def texts(n, seed):
    """x (n, WORDS): how often each word occurs in a text; y (n,): its topic, 0 to 3.

    Half of a text's words are anybody's, some far more frequent than others; half are of its topic's.
    """
    draw = np.random.default_rng(seed)
    y = draw.integers(0, TOPICS, n)
    words = (WORDS * draw.random((n, LENGTH)) ** 3).astype(int)
    own = draw.random((n, LENGTH)) < 0.5
    words[own] = (words // TOPICS * TOPICS + y[:, None])[own]
    counts = np.ones(words.size, np.float32)
    x = csr_array((counts, words.ravel(), LENGTH * np.arange(n + 1)), shape=(n, WORDS))
    return x, y  # a word that occurs twice is stored twice: such counts are added up


def learn():
    """(accuracy on other texts, bytes of the rows that were trained on, bytes that they would take dense)."""
    (x, y), others = texts(4000, seed=0), texts(1000, seed=1)
    network = fastbp.Network([WORDS, 16, TOPICS], loss="softmax_cross_entropy", seed=0)
    fastbp.train(network, x, y, epochs=3, optimizer="adam", validation=0.1)
    stored = x.data.nbytes + x.indices.nbytes + x.indptr.nbytes
    return network.evaluate(*others)["accuracy"], stored, 4 * x.shape[0] * x.shape[1]


if __name__ == "__main__":
    accuracy, stored, dense = learn()
    print(f"accuracy on other texts: {accuracy:.3f}")
    print(f"{stored / 1e6:.0f} MB were trained on; dense they would be {dense / 1e6:.0f}")
