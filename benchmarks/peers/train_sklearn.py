"""scikit-learn: epochs by one call of fit, which goes on from the weights that there are."""

import time
import warnings

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier, MLPRegressor

NAME = "scikit-learn"
VERSION = sklearn.__version__

ACTIVATIONS = {"identity": "identity", "relu": "relu", "tanh": "tanh", "sigmoid": "logistic"}


class Training:
    """Its squared error is half the sum over outputs: the learning rate makes up for it."""

    def __init__(self, case, x, y, threads, seed=0):
        self.threads = threads
        if case.activation not in ACTIVATIONS:
            raise NotImplementedError(f"scikit-learn has no {case.activation}")
        warnings.filterwarnings("ignore")
        model = MLPClassifier if case.classes else MLPRegressor
        factor = 2 / case.sizes[-1] if not case.classes and case.optimizer != "adam" else 1
        self._model = model(
            hidden_layer_sizes=case.sizes[1:-1], activation=ACTIVATIONS[case.activation],
            solver="adam" if case.optimizer == "adam" else "sgd", batch_size=case.batch_rows,
            learning_rate_init=case.learning_rate * factor, momentum=case.momentum, nesterovs_momentum=False,
            alpha=0.0, random_state=seed, shuffle=case.shuffles, tol=0.0, n_iter_no_change=2**31,
        )  # fmt: skip
        self._x, self._y = x, y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        # A call with few rows makes the arrays of the weights; then our parameters go into them.
        few = slice(0, 2 * case.sizes[-1] + 2)
        if case.classes:
            self._model.partial_fit(x[few], self._y[few], classes=np.arange(case.sizes[-1]))
        else:
            self._model.partial_fit(x[few], self._y[few])
        for W, b, (first_W, first_b) in zip(
            self._model.coefs_, self._model.intercepts_, case.parameters(seed)
        ):
            W[...], b[...] = first_W, first_b
        self._model.set_params(warm_start=True)

    def run(self, epochs):
        """Seconds of so many epochs; momentum begins anew."""
        start = time.perf_counter()
        self._model.max_iter = epochs
        self._model.fit(self._x, self._y)
        return time.perf_counter() - start

    def logits(self, x):
        """Outputs (n, n_out), after the link where they are classes."""
        if hasattr(self._model, "predict_proba"):
            return np.log(self._model.predict_proba(x))
        return self._model.predict(x).reshape(len(x), -1)
