"""What is trained: the cases, their data and their first parameters, the same for every library."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Case:
    """One training: sizes (inputs, hidden units, outputs), hidden activation, batch, rows, optimizer.

    Ten outputs are classes (softmax and cross-entropy), others numbers (mean squared error over rows and
    outputs), unless ``loss`` says otherwise. ``batch`` None: all rows.
    """

    sizes: tuple[int, ...]
    activation: str
    batch: int | None
    rows: int
    optimizer: str = "momentum"
    loss: str | None = None
    learning_rate: float = 1e-3
    momentum: float = 0.9

    @property
    def classes(self):
        """Whether targets are classes."""
        return self.sizes[-1] == 10 if self.loss is None else self.loss == "softmax_cross_entropy"

    @property
    def batch_rows(self):
        """Rows of a full batch."""
        return min(self.batch or self.rows, self.rows)

    @property
    def shuffles(self):
        """Whether an epoch has an order: the rows of one batch have none that counts."""
        return self.batch_rows < self.rows

    @property
    def steps(self):
        """Steps of an epoch."""
        return -(-self.rows // self.batch_rows)

    def batches(self, permutation):
        """The rows of each step of an epoch; ``permutation(n)`` draws its order."""
        if not self.shuffles:
            yield slice(None)
            return
        order, batch = permutation(self.rows), self.batch_rows
        for i in range(0, self.rows, batch):
            yield order[i : i + batch]

    @property
    def name(self):
        """ "64-32-10 relu, batch 32"."""
        batch = f"batch {self.batch}" if self.batch else f"full batch of {self.rows}"
        return f"{'-'.join(map(str, self.sizes))} {self.activation}, {batch}" + (
            "" if self.optimizer == "momentum" else f", {self.optimizer}"
        )

    @property
    def operations_per_step(self):
        """Multiplications and additions of the products; none for the gradient of the inputs."""
        products = [n_in * n_out for n_in, n_out in pairwise(self.sizes)]
        return 2 * self.batch_rows * (3 * sum(products) - products[0])

    def data(self, seed=0):
        """x (rows, inputs) float32, and y: classes (rows,) int64 or numbers (rows, outputs) float32."""
        random = np.random.default_rng(seed)
        x = random.standard_normal((self.rows, self.sizes[0])).astype(np.float32)
        if self.classes:
            return x, random.integers(0, self.sizes[-1], self.rows)
        return x, random.standard_normal((self.rows, self.sizes[-1])).astype(np.float32)

    def parameters(self, seed=0):
        """The first W (n_in, n_out), b (n_out,) of each layer: He's uniform for relu, Glorot's else."""
        random, layers = np.random.default_rng(seed), []
        for n_in, n_out in pairwise(self.sizes):
            bound = np.sqrt(6 / n_in if self.activation == "relu" else 6 / (n_in + n_out))
            layers.append(
                (random.uniform(-bound, bound, (n_in, n_out)).astype(np.float32), np.zeros(n_out, np.float32))
            )
        return layers


# From networks that fit in registers to those that fill a core's caches.
CASES = [
    Case((2, 1, 1), "sigmoid", 2, 2000),
    Case((2, 8, 1), "tanh", 4, 4000),
    Case((64, 32, 10), "relu", 32, 8192),
    Case((32, 64, 64, 1), "tanh", 64, 16384),
    Case((784, 128, 10), "relu", 32, 16384),
    Case((784, 128, 10), "relu", 128, 16384),
    Case((784, 256, 128, 10), "relu", 128, 16384),
    Case((784, 1024, 1024, 10), "relu", 256, 8192),
    Case((1024, 1024, 1024, 1024), "gelu_tanh", 1024, 8192, loss="mean_squared_error"),
    Case((4, 32, 16, 4), "tanh", None, 10000, "adam", loss="mean_squared_error"),
]

# Shapes that nobody tunes for, each with the case above that it is nearest to.
ODD = {
    Case((5, 7, 3), "tanh", 7, 4000): CASES[1],
    Case((64, 32, 10), "relu", 1, 2048): CASES[2],
    Case((65, 33, 10), "relu", 7, 8192): CASES[2],
    Case((2000, 16, 10), "relu", 32, 8192): CASES[4],
    Case((31, 63, 61, 1), "tanh", 67, 16384): CASES[3],
    Case((64, *[64] * 7, 10), "relu", 64, 16384): CASES[3],
    Case((777, 131, 10), "relu", 33, 16384): CASES[4],
    Case((784, 128, 10), "relu", 7, 8192): CASES[4],
    Case((500, 300, 100, 10), "relu", 100, 16384): CASES[6],
}
