"""XOR: the four rows that no single layer can learn, and a hidden layer learns in a moment."""

import numpy as np

import fastbp

inputs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
targets = np.array([[0], [1], [1], [0]])


def learn(seed):
    """A network that was trained on the truth table, from weights drawn by `seed`."""
    network = fastbp.Network([2, 8, 1], activation="tanh", loss="binary_cross_entropy", seed=seed)
    fastbp.train(network, inputs, targets, epochs=1000, batch_size=4, optimizer=fastbp.SGD(0.3, momentum=0.9))
    return network


def has_learned(network):
    """Whether every prediction, rounded to a bit, is the table's, and none of them by a hair."""
    prediction = network.predict(inputs)
    return np.array_equal(prediction.round(), targets) and bool((abs(prediction - targets) < 0.01).all())


if __name__ == "__main__":
    network = learn(seed=0)
    for row, probability in zip(inputs, network.predict(inputs)[:, 0]):
        print(f"{row[0]} xor {row[1]} = {probability:.0f}   (probability of a 1: {probability:.6f})")

    learned = sum(has_learned(learn(seed)) for seed in range(100))
    print(f"\nlearned from {learned} of 100 random starts")
