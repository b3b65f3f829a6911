"""A training of ten steps whose bits are written down: the same on every machine, in every version.

When a change means to alter the arithmetic, print the new numbers with ``python -m tests.test_pinned`` and
say in the changelog that trained bits change.
"""

import fastbp

LOSSES = [
    "0x1.7e825252ff14ap-2",
    "0x1.667d5cc0bfa06p-2",
    "0x1.40d3d264e88a3p-2",
    "0x1.19bf678838bbep-2",
    "0x1.f3d00dbbd3cc6p-3",
    "0x1.c84ff386b61b1p-3",
    "0x1.ad7bb089a6941p-3",
    "0x1.9c6e449a72266p-3",
    "0x1.8fd264aec92d2p-3",
    "0x1.858cd5f7f3779p-3",
]
PARAMETERS = [
    "0x1.e6f5b9349b9eap-3",
    "-0x1.17c4f0537e4cdp-3",
    "-0x1.58edb4aee253fp-1",
    "-0x1.24caa8413d4c9p-3",
    "-0x1.35e9e987090e7p-4",
    "0x1.3fe3ac08c2856p-4",
]


def ten_steps():
    """Losses of ten steps of 3-4-2, and some of the parameters after them."""
    draw = [((7 * i * i + 3 * i + 1) % 64 - 32) / 32 for i in range(40)]  # exact in binary, from no generator
    x = [draw[3 * i : 3 * i + 3] for i in range(8)]
    y = [draw[24 + 2 * i : 26 + 2 * i] for i in range(8)]
    net = fastbp.Network([3, 4, 2], activation="tanh", dtype="float64", seed=42)
    history = fastbp.train(
        net, x, y, epochs=10, batch_size=8, optimizer=fastbp.SGD(0.1, momentum=0.9, weight_decay=0.01)
    )
    return history.loss, net.parameters[::5].tolist()


def test_bits():
    losses, parameters = ten_steps()
    assert [v.hex() for v in losses] == LOSSES
    assert [v.hex() for v in parameters] == PARAMETERS


if __name__ == "__main__":
    for values in ten_steps():
        print("\n".join(f'    "{v.hex()}",' for v in values))
