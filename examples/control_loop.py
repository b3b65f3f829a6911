"""A network inside a control loop that is compiled as a whole: it balances a pendulum, and learns how to.

The pendulum stands on its tip; a motor at its foot turns it. The network sees angle and angular velocity
and gives the torque. It is taught by a controller that is known to work, one step of training at a time,
while the network itself is at the wheel: so it learns from the states that it gets into. Every simulated
millisecond is a prediction and a step of training, all in compiled code.
"""

import time

import numpy as np
from numba import njit

import fastbp

DT = 0.001  # seconds
GRAVITY, TORQUE = 9.81, 4.0


@njit
def simulate(predict_into, step, milliseconds, push):
    """Angles (milliseconds,) in radians, 0 upright; `step` may be None: then nothing is learned."""
    angles = np.empty(milliseconds)
    state, out = np.zeros(2, np.float32), np.zeros(1, np.float32)
    rows, targets = np.zeros((1, 2), np.float32), np.zeros((1, 1), np.float32)
    for t in range(milliseconds):
        if t % 1000 == 0:
            state[:] = push if t % 2000 == 0 else -push, 0.0
        predict_into(state, out)
        if step is not None:
            rows[0, :] = state
            targets[0, 0] = np.tanh(-6.0 * state[0] - 1.5 * state[1])  # what the teacher would do
            step(rows, targets)
        state[1] += DT * (GRAVITY * np.sin(state[0]) + TORQUE * GRAVITY * out[0])
        state[0] += DT * state[1]
        angles[t] = state[0]
    return angles


def balance(seed=0):
    """(angles untaught, while being taught, taught)."""
    net = fastbp.Network([2, 16, 1], activation="tanh", output_activation="tanh", seed=seed)
    functions = net.compiled(fastbp.Adam(0.01), batch_size=1)
    before = simulate(functions.predict_into, None, 2000, 0.2)
    during = simulate(functions.predict_into, functions.step, 20_000, 0.2)
    after = simulate(functions.predict_into, None, 2000, 0.2)
    start = time.perf_counter()
    simulate(functions.predict_into, None, 100_000, 0.2)
    print(f"one millisecond of the loop takes {(time.perf_counter() - start) / 100_000 * 1e9:.0f} ns")
    return before, during, after


def main():
    for name, angles in zip(("before", "while learning", "after"), balance()):
        ends = np.abs(angles.reshape(-1, 1000)[:, -1])
        print(f"{name:>14}: angle a second after each push {', '.join(f'{end:.3f}' for end in ends[:12])}")


if __name__ == "__main__":
    main()
