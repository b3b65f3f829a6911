"""NumPy by hand: the backward pass as one writes it for oneself."""

import time

import numpy as np

NAME = "NumPy"
VERSION = np.__version__

# In place on z; then dz of dy, in place, given y.
ACTIVATIONS = {
    "relu": (lambda z: np.maximum(z, 0, out=z), lambda d, y: np.multiply(d, y > 0, out=d)),
    "tanh": (lambda z: np.tanh(z, out=z), lambda d, y: np.multiply(d, 1 - y * y, out=d)),
    "sigmoid": (
        lambda z: np.divide(1, 1 + np.exp(-z), out=z),
        lambda d, y: np.multiply(d, y * (1 - y), out=d),
    ),
}


class Training:
    """Weights, velocities and gradients are lists over layers."""

    def __init__(self, case, x, y, threads, seed=0):
        self.threads = threads
        if case.activation not in ACTIVATIONS or case.optimizer != "momentum":
            raise NotImplementedError(f"not written for {case.activation} and {case.optimizer}")
        self._x, self._y, self._case = x, y, case
        self._random = np.random.default_rng(seed)
        self._forward, self._backward = ACTIVATIONS[case.activation]
        self._parameters = case.parameters(seed)
        self._velocities = [(np.zeros_like(W), np.zeros_like(b)) for W, b in self._parameters]

    def run(self, epochs):
        """Seconds of so many epochs."""
        start = time.perf_counter()
        for _ in range(epochs):
            for rows in self._case.batches(self._random.permutation):
                self._step(self._x[rows], self._y[rows])
        return time.perf_counter() - start

    def _step(self, x, y):
        rate, momentum = np.float32(self._case.learning_rate), np.float32(self._case.momentum)
        outputs = self._outputs(x)
        z = outputs[-1]
        if self._case.classes:
            d = np.exp(z - z.max(axis=1, keepdims=True))
            d /= d.sum(axis=1, keepdims=True)
            d[np.arange(len(y)), y] -= 1
            d /= len(y)
        else:
            d = (z - y) * np.float32(2 / z.size)
        for layer in reversed(range(len(self._parameters))):
            gradients = outputs[layer].T @ d, d.sum(axis=0)
            if layer:
                d = self._backward(d @ self._parameters[layer][0].T, outputs[layer])
            for parameter, v, gradient in zip(self._parameters[layer], self._velocities[layer], gradients):
                v *= momentum
                v += gradient
                parameter -= rate * v

    def _outputs(self, x):
        """x, then each layer's output."""
        outputs = [x]
        for i, (W, b) in enumerate(self._parameters):
            z = outputs[-1] @ W
            z += b
            outputs.append(self._forward(z) if i < len(self._parameters) - 1 else z)
        return outputs

    def logits(self, x):
        """Outputs (n, n_out) before the loss's link."""
        return self._outputs(x)[-1]
