"""fastbp itself."""

import fastbp

NAME = "fastbp"
VERSION = fastbp.__version__


class Training:
    """`fastbp.train`, with the seconds of its history: planning and compiling are left out, as elsewhere."""

    def __init__(self, case, x, y, threads, seed=0):
        loss = "softmax_cross_entropy" if case.classes else "mean_squared_error"
        self._network = fastbp.Network(list(case.sizes), activation=case.activation, loss=loss, seed=seed)
        for layer, (W, b) in zip(self._network.layers, case.parameters(seed)):
            layer.W[:], layer.b[:] = W, b
        if case.optimizer == "adam":
            optimizer = fastbp.Adam(case.learning_rate)
        else:
            optimizer = fastbp.SGD(case.learning_rate, momentum=case.momentum)
        self._data = x, y
        self._options = dict(
            batch_size=case.batch, optimizer=optimizer, shuffle=case.shuffles, threads=threads, progress=False
        )
        self._epoch = 0

    def run(self, epochs):
        """Seconds of so many epochs."""
        self._epoch += 1  # another order each time
        history = fastbp.train(self._network, *self._data, epochs=epochs, seed=self._epoch, **self._options)
        self.threads = history.threads
        return sum(history.seconds)

    def logits(self, x):
        """Outputs (n, n_out) before the loss's link."""
        return self._network.logits(x)
