"""Every optimizer on the handwritten digits, then one of them with every schedule of its learning rate.

What it prints says little about which is best: rates were chosen by a glance, and the task is an easy one. It
shows how each is asked for.
"""

from importlib.util import find_spec

import fastbp
from fastbp import schedules

x, y = fastbp.datasets.digits()
x, y, x_test, y_test = fastbp.datasets.split(x, y, 0.2, seed=0)

OPTIMIZERS = [
    fastbp.SGD(0.1, momentum=0.9),
    fastbp.SGD(0.1, momentum=0.9, nesterov=True),
    fastbp.Adam(0.005),
    fastbp.Adam(0.005, amsgrad=True),
    # Weight decay for weights only, and the output layer more slowly than the rest:
    fastbp.AdamW(0.005, weight_decay=0.1, decay_biases=False, layers={"layer1": {"learning_rate": 0.002}}),
    fastbp.Adamax(0.01),
    fastbp.NAdam(0.005),
    fastbp.RAdam(0.01),
    fastbp.RMSprop(0.002),
    fastbp.RMSprop(0.002, momentum=0.5, centered=True),
    fastbp.Adagrad(0.05),
    fastbp.Adadelta(1.0),
    fastbp.Lion(0.001),
]
if find_spec("scipy"):
    OPTIMIZERS.append(fastbp.LBFGS(weight_decay=1e-4))  # its epochs are iterations on all rows

SCHEDULES = [
    schedules.Constant(warmup=3),
    schedules.Step(4, gamma=0.5),
    schedules.MultiStep((5, 8)),
    schedules.Exponential(0.8),
    schedules.Polynomial(),
    schedules.Cosine(warmup=2),
    schedules.CosineRestarts(2, factor=2),
    schedules.InverseScaling(),
    schedules.OneCycle(per="epoch"),
]


def learn(optimizer):
    """Loss of the last epoch, accuracy on rows that were not trained on."""
    net = fastbp.Network([64, 32, 10], loss="softmax_cross_entropy", dtype="float64", seed=0)
    epochs = 60 if isinstance(optimizer, fastbp.LBFGS) else 12
    history = fastbp.train(net, x, y, epochs=epochs, optimizer=optimizer)
    return history.loss[-1], net.evaluate(x_test, y_test)["accuracy"]


if __name__ == "__main__":
    print("accuracy, loss")
    for optimizer in OPTIMIZERS:
        loss, accuracy = learn(optimizer)
        print(f"{accuracy:8.3f}{loss:8.4f}  {optimizer}")
    print("accuracy, learning rates of twelve epochs in thousandths")
    for schedule in SCHEDULES:
        loss, accuracy = learn(fastbp.SGD(0.1, momentum=0.9, schedule=schedule))
        rates = "".join(f"{1000 * rate:5.0f}" for rate in schedule.rates(0.1, epochs=12))
        print(f"{accuracy:8.3f}{rates}  {type(schedule).__name__}")
