"""JAX at its best: one compiled call per epoch with all its steps (`lax.scan`), whose order NumPy draws.

Drawn by `jax.random.permutation` within the call, the order would take a third of a small network's epoch.
"""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np

NAME = "JAX"
VERSION = jax.__version__

ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
}


class Training:
    """Threads are XLA's own choice, or one. Rows that fill no whole batch are left out of an epoch, as scan
    wants, whose `steps` are fewer then.
    """

    def __init__(self, case, x, y, threads, seed=0):
        if case.activation not in ACTIVATIONS:
            raise NotImplementedError(f"no activation {case.activation} here")
        self.threads = threads
        if threads == 1 and hasattr(os, "sched_setaffinity"):  # XLA counts cores when it is first used
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        activation, n, batch = ACTIVATIONS[case.activation], case.rows, case.batch_rows
        x, y, tree_map = jnp.asarray(x), jnp.asarray(y), jax.tree_util.tree_map
        parameters = [(jnp.asarray(W), jnp.asarray(b)) for W, b in case.parameters(seed)]
        zeros = tree_map(jnp.zeros_like, parameters)
        rate, momentum = case.learning_rate, case.momentum

        def logits(parameters, x):
            for i, (W, b) in enumerate(parameters):
                x = x @ W + b
                if i < len(parameters) - 1:
                    x = activation(x)
            return x

        def loss(parameters, x, y):
            z = logits(parameters, x)
            if case.classes:
                return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1))
            return jnp.mean((z - y) ** 2)

        def sgd(parameters, v, gradient):
            v = tree_map(lambda v, g: momentum * v + g, v, gradient)
            return tree_map(lambda p, v: p - rate * v, parameters, v), v

        def adam(parameters, state, gradient):
            m, v, t = state
            t = t + 1
            m = tree_map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
            v = tree_map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
            first, second = 1 - 0.9**t, 1 - 0.999**t

            def update(p, m, v):
                return p - rate * (m / first) / (jnp.sqrt(v / second) + 1e-8)

            return tree_map(update, parameters, m, v), (m, v, t)

        update, state = (adam, (zeros, zeros, jnp.zeros(()))) if case.optimizer == "adam" else (sgd, zeros)
        gradient = jax.grad(loss)

        @jax.jit
        def epoch(parameters, state, order):
            def step(carried, rows):
                parameters, state = carried
                return update(parameters, state, gradient(parameters, x[rows], y[rows])), None

            return jax.lax.scan(step, (parameters, state), order)[0]

        @jax.jit
        def only_step(parameters, state, order):
            return update(parameters, state, gradient(parameters, x, y))

        self.steps, self._case, self._random = n // batch, case, np.random.default_rng(seed)
        self._epoch, self._state = epoch if case.shuffles else only_step, (parameters, state)
        self._logits = jax.jit(logits)

    def _order(self):
        if not self._case.shuffles:
            return None
        steps, batch = self.steps, self._case.batch_rows
        order = self._random.permutation(np.arange(self._case.rows, dtype=np.int32))
        return order[: steps * batch].reshape(steps, batch)

    def run(self, epochs):
        """Seconds of so many epochs."""
        start = time.perf_counter()
        for _ in range(epochs):
            self._state = self._epoch(*self._state, self._order())
        jax.block_until_ready(self._state)
        return time.perf_counter() - start

    def logits(self, x):
        """Outputs (n, n_out) before the loss's link."""
        return self._logits(self._state[0], x)
