"""Backpropagation, step by step: every number of one training step, next to the formula that gives it.

A network of two inputs, two hidden neurons and one output, all sigmoid, sees two rows and takes one step.
First NumPy computes everything line by line; then fastbp does the same in one call, and central differences
of the loss, which know nothing of backpropagation, measure each gradient.
"""

import numpy as np

import fastbp

x = np.array([[0.1, 0.2], [0.3, 0.4]])
t = np.array([[0.5], [0.6]])
learning_rate = 0.1

network = fastbp.Network(
    [2, 2, 1],
    activation="sigmoid",
    output_activation="sigmoid",
    loss="mean_squared_error",
    dtype="float64",
    seed=1,
)


def title(text):
    print(f"\n{text}\n{'─' * len(text)}")


def show(formula, values):
    """The formula on the left, its numbers on the right, row under row."""
    rows = np.atleast_2d(values)
    for i, row in enumerate(rows):
        print(f"    {formula if i == 0 else '':<34}{'  '.join(f'{value:12.8f}' for value in row)}")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def mean_squared_error(y, t):
    return np.mean((y - t) ** 2)


def main():
    """Print the page; returns NumPy's gradients, fastbp's, and the measured ones, in the same order."""
    hidden, output = network.layers
    W1, b1, W2, b2 = (values.copy() for values in (hidden.W, hidden.b, output.W, output.b))

    title("The network and the data: n rows, one in each line")
    show("x", x)
    show("t  (targets)", t)
    show("W1", W1)
    show("b1", b1)
    show("W2", W2)
    show("b2", b2)

    title("Forward: from the inputs to the loss")
    h = sigmoid(x @ W1 + b1)
    show("h = σ(x·W1 + b1)", h)
    y = sigmoid(h @ W2 + b2)
    show("y = σ(h·W2 + b2)", y)
    loss = mean_squared_error(y, t)
    show("L = mean (y − t)²", loss)

    title("The output error: how the loss changes with what enters the output neuron")
    dy = 2 * (y - t) / y.size
    show("dy = ∂L/∂y = 2 (y − t) / n", dy)
    dz2 = dy * y * (1 - y)
    show("dz2 = dy · y (1 − y)", dz2)  # y = σ(z2), and σ' = σ (1 − σ)

    title("The hidden errors: each hidden neuron's share, handed back through the same weights")
    dh = dz2 @ W2.T
    show("dh = dz2·W2ᵀ", dh)
    dz1 = dh * h * (1 - h)
    show("dz1 = dh · h (1 − h)", dz1)

    title("The gradients: what came in, times the error, summed over the rows")
    dW2, db2 = h.T @ dz2, dz2.sum(axis=0)
    show("dW2 = hᵀ·dz2", dW2)
    show("db2 = Σ dz2", db2)
    dW1, db1 = x.T @ dz1, dz1.sum(axis=0)
    show("dW1 = xᵀ·dz1", dW1)
    show("db1 = Σ dz1", db1)
    dx = dz1 @ W1.T
    show("dx  = dz1·W1ᵀ", dx)

    title(f"The update: a step of {learning_rate} against the gradient")
    show("W1 ← W1 − 0.1 dW1", W1 - learning_rate * dW1)
    show("b1 ← b1 − 0.1 db1", b1 - learning_rate * db1)
    show("W2 ← W2 − 0.1 dW2", W2 - learning_rate * dW2)
    show("b2 ← b2 − 0.1 db2", b2 - learning_rate * db2)

    title("Does it agree?  ∂L/∂v ≈ (L(v + ε) − L(v − ε)) / 2ε, with ε = 0.00001")
    by_hand = {"W1": dW1, "b1": db1, "W2": dW2, "b2": db2, "x": dx}
    _, gradient = network.gradient(x, t)
    by_fastbp = dict(zip(by_hand, (*gradient.layers[0][-2:], *gradient.layers[1][-2:], gradient.inputs)))
    values = dict(zip(by_hand, (hidden.W, hidden.b, output.W, output.b, x)))
    measured = {name: central_differences(array) for name, array in values.items()}
    print(f"    {'':12}{'by hand':>14}{'fastbp':>14}{'measured':>14}{'largest difference':>22}")
    for name, derived in by_hand.items():
        for index in np.ndindex(derived.shape):
            three = derived[index], by_fastbp[name][index], measured[name][index]
            place = f"{name}[{', '.join(map(str, index))}]"
            print(f"    {place:12}{''.join(f'{v:14.8f}' for v in three)}{max(three) - min(three):22.1e}")
    print(f"\n    fastbp.check_gradients: {'passed' if fastbp.check_gradients(network, x, t) else 'FAILED'}")

    title("The same step by fastbp.train")
    fastbp.train(network, x, t, epochs=1, batch_size=2, optimizer=fastbp.SGD(learning_rate))
    show("W1", hidden.W)
    show("b1", hidden.b)
    show("W2", output.W)
    show("b2", output.b)
    show("L before", loss)
    show("L after", network.loss(x, t))
    return by_hand, by_fastbp, measured


def central_differences(values, epsilon=1e-5):
    """∂L/∂v of each v of an array, from two losses: with v a little larger, and a little smaller."""
    measured = np.empty_like(values)
    for index in np.ndindex(values.shape):
        v = values[index]
        values[index] = v + epsilon
        above = network.loss(x, t)
        values[index] = v - epsilon
        below = network.loss(x, t)
        values[index] = v
        measured[index] = (above - below) / (2 * epsilon)
    return measured


if __name__ == "__main__":
    main()
