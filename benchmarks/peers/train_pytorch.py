"""PyTorch: a loop over index batches, eager or with the forward pass compiled."""

import time

import torch

NAME = "PyTorch"
VERSION = torch.__version__

ACTIVATIONS = {
    "identity": torch.nn.Identity,
    "relu": torch.nn.ReLU,
    "tanh": torch.nn.Tanh,
    "sigmoid": torch.nn.Sigmoid,
    "gelu": torch.nn.GELU,
    "gelu_tanh": lambda: torch.nn.GELU(approximate="tanh"),
    "silu": torch.nn.SiLU,
    "elu": torch.nn.ELU,
    "softplus": torch.nn.Softplus,
}


class Training:
    """`torch.compile` takes in network and loss, forward and backward; the optimizer stays eager."""

    def __init__(self, case, x, y, threads, seed=0, compiled=False):
        if case.activation not in ACTIVATIONS:
            raise NotImplementedError(f"no activation {case.activation} here")
        if threads:
            torch.set_num_threads(threads)
        torch.manual_seed(seed)
        self.threads = torch.get_num_threads()
        modules = []
        for W, b in case.parameters(seed):
            linear = torch.nn.Linear(*W.shape)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(W.T.copy()))
                linear.bias.copy_(torch.from_numpy(b))
            modules += [linear, ACTIVATIONS[case.activation]()]
        self._network = torch.nn.Sequential(*modules[:-1])
        parameters = self._network.parameters()
        if case.optimizer == "adam":
            self._optimizer = torch.optim.Adam(parameters, lr=case.learning_rate, fused=True)
        else:
            self._optimizer = torch.optim.SGD(
                parameters, lr=case.learning_rate, momentum=case.momentum, fused=True
            )
        criterion = torch.nn.CrossEntropyLoss() if case.classes else torch.nn.MSELoss()

        def loss(x, y):
            return criterion(self._network(x), y)

        self._loss = torch.compile(loss) if compiled else loss
        self._x, self._y, self._case = torch.from_numpy(x), torch.from_numpy(y), case

    def run(self, epochs):
        """Seconds of so many epochs."""
        start = time.perf_counter()
        for _ in range(epochs):
            for rows in self._case.batches(torch.randperm):
                self._optimizer.zero_grad(set_to_none=True)
                self._loss(self._x[rows], self._y[rows]).backward()
                self._optimizer.step()
        return time.perf_counter() - start

    def logits(self, x):
        """Outputs (n, n_out) before the loss's link."""
        with torch.no_grad():
            return self._network(torch.from_numpy(x)).numpy()
