"""Online learning: a network follows a process that changes, one measurement at a time."""

import numpy as np

import fastbp

draw = np.random.default_rng(0)


def process(step, x):
    """What is to be predicted from two inputs; halfway it becomes another."""
    return np.sin(2 * x[0]) + (0.5 if step < 10_000 else -0.5) * x[1]


def follow(steps=20_000):
    """Squared errors of predictions that were made before the target was seen, (steps,)."""
    network = fastbp.Network([2, 32, 1], activation="tanh", seed=0)
    trainer = fastbp.OnlineTrainer(network, fastbp.SGD(0.05))
    errors = np.empty(steps)
    for step in range(steps):
        x = draw.uniform(-1, 1, 2).astype(np.float32)
        errors[step] = trainer.step(x, process(step, x))  # the loss is that of before the step
    return errors


if __name__ == "__main__":
    errors = follow()
    for start in range(0, len(errors), 2000):
        mean = errors[start : start + 2000].mean()
        print(f"steps {start:6,} to {start + 2000:6,}: mean squared error {mean:.5f}")
