"""Layers beside Dense on the handwritten digits: what each does, and what training with it gives.

Only 300 digits are trained on, so that a network can memorise them and dropout has something to prevent. What
it prints says little about which is best; it shows how each is asked for.
"""

import fastbp
from fastbp import Activation, BatchNorm, Dense, Dropout, LayerNorm, Residual

x, y = fastbp.datasets.digits()
x, y, x_test, y_test = fastbp.datasets.split(x, y, 0.8333, seed=0)

NETWORKS = {
    "dense layers alone": [Dense(64, "relu"), Dense(64, "relu"), Dense(10)],
    # Half of the values between the layers, others in every step, are zero; in predictions none.
    "dropout": [Dense(64, "relu"), Dropout(0.5), Dense(64, "relu"), Dropout(0.5), Dense(10)],
    # Each row gets mean 0 and deviation 1 between the layers, then is scaled and shifted by what is learnt.
    "layer norm": [Dense(64), LayerNorm(), Dense(64, "relu"), LayerNorm(), Dense(10)],
    # The same for each column over the rows of a batch; predictions use running statistics.
    "batch norm": [Dense(64, "relu"), BatchNorm(), Dense(64, "relu"), BatchNorm(momentum=0.2), Dense(10)],
    # The activation behind the normalisation rather than before it.
    "activation": [Dense(64), BatchNorm(), Activation("relu"), Dense(64, "relu"), Dense(10)],
    # Around a block: its inputs are added to its outputs, so twelve layers are as easy to train as two.
    "residual": [
        Dense(64),
        *[Residual([LayerNorm(), Dense(32, "relu"), Dense(64)]) for _ in range(6)],
        Dense(10),
    ],
}


def make(layers):
    """A network of such layers for the digits."""
    return fastbp.Network(layers, inputs=64, loss="softmax_cross_entropy", dtype="float64", seed=0)


def learn(net):
    """Train; returns the loss that is left, and the accuracy on rows that were not trained on."""
    fastbp.train(net, x, y, epochs=60, batch_size=25, optimizer=fastbp.Adam(0.002))
    return net.loss(x, y), net.evaluate(x_test, y_test)["accuracy"]


if __name__ == "__main__":
    for name, layers in NETWORKS.items():
        net = make(layers)
        assert fastbp.check_gradients(net, x[:8], y[:8], at_most=50)
        loss, accuracy = learn(net)
        print(f"{name:20s} loss {loss:.5f}, accuracy on other digits {accuracy:.3f}")

    net = make(NETWORKS["batch norm"])
    learn(net)
    norm = net.layers[1]
    print(f"\n{net.summary()}\n")
    print(f"{norm.name}: gamma[:3] {norm.gamma[:3].round(3)}, beta[:3] {norm.beta[:3].round(3)}")
    print(f"running mean[:3] {norm.mean[:3].round(3)}, variance[:3] {norm.variance[:3].round(3)}")
