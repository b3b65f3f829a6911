"""The slow, obvious float64 NumPy version of everything, with the names of the library.

Nothing here is clever, fast or shared with what it checks. Arrays are float64; x (n, n_in), W (n_in, n_out),
b (n_out,), z = x·W + b, y = f(z); the gradient of the mean loss with respect to v is ``dv``.

A network is a list of layers ``(W, b, activation)``, the activation by name; the last layer's y are the
logits that the loss takes.
"""

import math

import numpy as np
from scipy import special

from fastbp.formulas import random as draws

erf = np.frompyfunc(math.erf, 1, 1)


def clamp(z, low, high):
    return np.where(z < low, low, np.where(z > high, high, z))


# Activations: f(z), and its derivative f'(z)


def identity(z):
    return z


def identity_derivative(z):
    return np.ones_like(z)


def relu(z):
    return np.where(z <= 0, 0.0, z)


def relu_derivative(z):
    return np.where(z > 0, 1.0, 0.0)


def leaky_relu(z):
    return np.where(z > 0, z, 0.01 * z)


def leaky_relu_derivative(z):
    return np.where(z > 0, 1.0, 0.01)


def elu(z):
    return np.where(z > 0, z, np.expm1(z))


def elu_derivative(z):
    return np.where(z > 0, 1.0, np.exp(z))


SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717


def selu(z):
    return SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(z))


def selu_derivative(z):
    return SELU_SCALE * np.where(z > 0, 1.0, SELU_ALPHA * np.exp(z))


def celu(z, alpha=1.0):
    return np.where(z > 0, z, alpha * np.expm1(z / alpha))


def celu_derivative(z, alpha=1.0):
    return np.where(z > 0, 1.0, np.exp(z / alpha))


def relu6(z):
    return clamp(z, 0.0, 6.0)


def relu6_derivative(z):
    return np.where((z > 0) & (z < 6), 1.0, 0.0)


def sigmoid(z):
    return np.exp(-np.logaddexp(0.0, -z))


def sigmoid_derivative(z):
    return sigmoid(z) * sigmoid(-z)


def hard_sigmoid(z):
    return clamp(z + 3, 0.0, 6.0) / 6


def hard_sigmoid_derivative(z):
    return np.where((z > -3) & (z < 3), 1 / 6, 0.0)


def tanh(z):
    return np.tanh(z)


def tanh_derivative(z):
    return 1 - np.tanh(z) ** 2


def hard_tanh(z):
    return clamp(z, -1.0, 1.0)


def hard_tanh_derivative(z):
    return np.where((z > -1) & (z < 1), 1.0, 0.0)


def softplus(z):
    return np.logaddexp(0.0, z)


def softplus_derivative(z):
    return sigmoid(z)


def softsign(z):
    return z / (1 + np.abs(z))


def softsign_derivative(z):
    return 1 / (1 + np.abs(z)) ** 2


def silu(z):
    return z * sigmoid(z)


def silu_derivative(z):
    return sigmoid(z) + z * sigmoid_derivative(z)


def hard_silu(z):
    return np.where(z <= -3, 0.0, np.where(z >= 3, z, z * (z + 3) / 6))


def hard_silu_derivative(z):
    return np.where(z <= -3, 0.0, np.where(z >= 3, 1.0, z / 3 + 0.5))


def mish(z):
    return z * np.tanh(softplus(z))


def mish_derivative(z):
    return np.tanh(softplus(z)) + z * (1 - np.tanh(softplus(z)) ** 2) * sigmoid(z)


def normal_distribution(z):
    return (1 + erf(z / math.sqrt(2)).astype(np.float64)) / 2


def gelu(z):
    return z * normal_distribution(z)


def gelu_derivative(z):
    return normal_distribution(z) + z * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def gelu_tanh(z):
    u = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    return z * (1 + np.tanh(u)) / 2


def gelu_tanh_derivative(z):
    u = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)
    return (1 + np.tanh(u)) / 2 + z * (1 - np.tanh(u) ** 2) * du / 2


def log_sigmoid(z):
    return -np.logaddexp(0.0, -z)


def log_sigmoid_derivative(z):
    return sigmoid(-z)


def tanhshrink(z):
    return z - np.tanh(z)


def tanhshrink_derivative(z):
    return np.tanh(z) ** 2


def softshrink(z):
    return z - clamp(z, -0.5, 0.5)


def softshrink_derivative(z):
    return np.where(np.abs(z) > 0.5, 1.0, 0.0)


def hardshrink(z):
    return np.where(np.abs(z) <= 0.5, 0.0, z)


def hardshrink_derivative(z):
    return np.where(np.abs(z) > 0.5, 1.0, 0.0)


def squareplus(z):
    root = np.sqrt(z**2 + 4)
    return np.where(z > 0, (root + z) / 2, 2 / (root + np.abs(z)))  # (root + z)(root − z) = 4


def squareplus_derivative(z):
    return (1 + z / np.sqrt(z**2 + 4)) / 2


def exponential(z):
    return np.exp(z)


def exponential_derivative(z):
    return np.exp(z)


ACTIVATIONS = {
    "identity": (identity, identity_derivative),
    "relu": (relu, relu_derivative),
    "leaky_relu": (leaky_relu, leaky_relu_derivative),
    "elu": (elu, elu_derivative),
    "selu": (selu, selu_derivative),
    "celu": (celu, celu_derivative),
    "relu6": (relu6, relu6_derivative),
    "sigmoid": (sigmoid, sigmoid_derivative),
    "hard_sigmoid": (hard_sigmoid, hard_sigmoid_derivative),
    "tanh": (tanh, tanh_derivative),
    "hard_tanh": (hard_tanh, hard_tanh_derivative),
    "softplus": (softplus, softplus_derivative),
    "softsign": (softsign, softsign_derivative),
    "silu": (silu, silu_derivative),
    "hard_silu": (hard_silu, hard_silu_derivative),
    "mish": (mish, mish_derivative),
    "gelu": (gelu, gelu_derivative),
    "gelu_tanh": (gelu_tanh, gelu_tanh_derivative),
    "log_sigmoid": (log_sigmoid, log_sigmoid_derivative),
    "tanhshrink": (tanhshrink, tanhshrink_derivative),
    "softshrink": (softshrink, softshrink_derivative),
    "hardshrink": (hardshrink, hardshrink_derivative),
    "squareplus": (squareplus, squareplus_derivative),
    "exponential": (exponential, exponential_derivative),
}


# Losses: the mean loss of logits z (n, n_out) and targets t (n, n_out), its gradient dz, and the predictions.
# Each takes the loss's one option, whether it has one or not.


def mean_squared_error(z, t, option=None):
    return np.mean((z - t) ** 2)


def mean_squared_error_gradient(z, t, option=None):
    return 2 * (z - t) / z.size


def mean_absolute_error(z, t, option=None):
    return np.mean(np.abs(z - t))


def mean_absolute_error_gradient(z, t, option=None):
    return np.sign(z - t) / z.size


def huber(z, t, delta):
    d = np.abs(z - t)
    return np.mean(np.where(d <= delta, d**2 / 2, delta * (d - delta / 2)))


def huber_gradient(z, t, delta):
    return clamp(z - t, -delta, delta) / z.size


def log_cosh(z, t, option=None):
    return np.mean(np.logaddexp(z - t, t - z) - math.log(2))


def log_cosh_gradient(z, t, option=None):
    return np.tanh(z - t) / z.size


def log_softmax(z):
    s = z - z.max(axis=1, keepdims=True)
    return s - np.log(np.sum(np.exp(s), axis=1, keepdims=True))


def softmax(z):
    return np.exp(log_softmax(z))


def one_hot(labels, classes):
    return np.eye(classes)[np.asarray(labels)]


def smoothed(t, smoothing):
    return (1 - smoothing) * t + smoothing / t.shape[1]


def softmax_cross_entropy(z, t, label_smoothing):
    """t (n, n_out): probabilities, or (n,): integer classes."""
    t = smoothed(t if np.ndim(t) == 2 else one_hot(t, z.shape[1]), label_smoothing)
    return np.sum(np.where(t == 0, 0.0, -t * log_softmax(z))) / z.shape[0]


def softmax_cross_entropy_gradient(z, t, label_smoothing):
    t = smoothed(t if np.ndim(t) == 2 else one_hot(t, z.shape[1]), label_smoothing)
    return (softmax(z) - t) / z.shape[0]


def binary_cross_entropy(z, t, option=None):
    return np.mean(-t * log_sigmoid(z) - (1 - t) * log_sigmoid(-z))


def binary_cross_entropy_gradient(z, t, option=None):
    return (sigmoid(z) - t) / z.size


def poisson(z, t, option=None):
    return np.mean(np.exp(z) - t * z)


def poisson_gradient(z, t, option=None):
    return (np.exp(z) - t) / z.size


def hinge(z, t, option=None):
    return np.mean(np.maximum(1 - t * z, 0))


def hinge_gradient(z, t, option=None):
    return np.where(t * z < 1, -t, 0.0) / z.size


LOSSES = {
    "mean_squared_error": (mean_squared_error, mean_squared_error_gradient, identity),
    "mean_absolute_error": (mean_absolute_error, mean_absolute_error_gradient, identity),
    "huber": (huber, huber_gradient, identity),
    "log_cosh": (log_cosh, log_cosh_gradient, identity),
    "softmax_cross_entropy": (softmax_cross_entropy, softmax_cross_entropy_gradient, softmax),
    "binary_cross_entropy": (binary_cross_entropy, binary_cross_entropy_gradient, sigmoid),
    "poisson": (poisson, poisson_gradient, np.exp),
    "hinge": (hinge, hinge_gradient, identity),
}


# Optimizers: the new w and list of states after one step; the states start as zeros, the step as 1. The
# algorithms are those of torch.optim. In the table: the update, the number of states.


def sgd(w, dw, states, step, learning_rate, weight_decay=0.0):
    return w - learning_rate * (dw + weight_decay * w), []


def momentum(w, dw, states, step, learning_rate, weight_decay=0.0, momentum=0.9, dampening=0.0):
    (v,) = states
    d = dw + weight_decay * w
    v = d if step == 1 else momentum * v + (1 - dampening) * d
    return w - learning_rate * v, [v]


def nesterov(w, dw, states, step, learning_rate, weight_decay=0.0, momentum=0.9):
    (v,) = states
    d = dw + weight_decay * w
    v = d if step == 1 else momentum * v + d
    return w - learning_rate * (d + momentum * v), [v]


def adam_means(w, dw, m, v, step, weight_decay, beta1, beta2):
    """The gradient with its decay, the new running means, and the means without their bias."""
    d = dw + weight_decay * w
    m = beta1 * m + (1 - beta1) * d
    v = beta2 * v + (1 - beta2) * d**2
    return d, m, v, m / (1 - beta1**step), v / (1 - beta2**step)


def adam(
    w, dw, states, step, learning_rate, weight_decay=0.0, decoupled_decay=0.0, beta1=0.9, beta2=0.999,
    epsilon=1e-8,
):  # fmt: skip
    _, m, v, unbiased_m, unbiased_v = adam_means(w, dw, *states, step, weight_decay, beta1, beta2)
    w = w * (1 - learning_rate * decoupled_decay)
    return w - learning_rate * unbiased_m / (np.sqrt(unbiased_v) + epsilon), [m, v]


def amsgrad(
    w, dw, states, step, learning_rate, weight_decay=0.0, decoupled_decay=0.0, beta1=0.9, beta2=0.999,
    epsilon=1e-8,
):  # fmt: skip
    m, v, u = states
    _, m, v, unbiased_m, _ = adam_means(w, dw, m, v, step, weight_decay, beta1, beta2)
    u = np.maximum(u, v)
    w = w * (1 - learning_rate * decoupled_decay)
    return w - learning_rate * unbiased_m / (np.sqrt(u / (1 - beta2**step)) + epsilon), [m, v, u]


def adamax(w, dw, states, step, learning_rate, weight_decay=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8):
    m, u = states
    d = dw + weight_decay * w
    m = beta1 * m + (1 - beta1) * d
    u = np.maximum(beta2 * u, np.abs(d) + epsilon)
    return w - learning_rate * m / (1 - beta1**step) / u, [m, u]


def nadam(
    w, dw, states, step, learning_rate, weight_decay=0.0, decoupled_decay=0.0, beta1=0.9, beta2=0.999,
    epsilon=1e-8, momentum_decay=4e-3,
):  # fmt: skip
    d, m, v, _, unbiased_v = adam_means(w, dw, *states, step, weight_decay, beta1, beta2)
    mu = beta1 * (1 - 0.5 * 0.96 ** (np.arange(1, step + 2) * momentum_decay))  # of steps 1 … step + 1
    unbiased_m = mu[-1] / (1 - np.prod(mu)) * m + (1 - mu[-2]) / (1 - np.prod(mu[:-1])) * d
    w = w * (1 - learning_rate * decoupled_decay)
    return w - learning_rate * unbiased_m / (np.sqrt(unbiased_v) + epsilon), [m, v]


def radam(
    w, dw, states, step, learning_rate, weight_decay=0.0, decoupled_decay=0.0, beta1=0.9, beta2=0.999,
    epsilon=1e-8,
):  # fmt: skip
    _, m, v, unbiased_m, _ = adam_means(w, dw, *states, step, weight_decay, beta1, beta2)
    w = w * (1 - learning_rate * decoupled_decay)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    if length <= 5:
        return w - learning_rate * unbiased_m, [m, v]
    r = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    return w - learning_rate * unbiased_m * r * np.sqrt(1 - beta2**step) / (np.sqrt(v) + epsilon), [m, v]


def rmsprop_centered(
    w, dw, states, step, learning_rate, weight_decay=0.0, alpha=0.99, epsilon=1e-8, momentum=0.0
):
    v, g, b = states
    d = dw + weight_decay * w
    v = alpha * v + (1 - alpha) * d**2
    g = alpha * g + (1 - alpha) * d
    b = momentum * b + d / (np.sqrt(v - g**2) + epsilon)
    return w - learning_rate * b, [v, g, b]


def rmsprop_momentum(
    w, dw, states, step, learning_rate, weight_decay=0.0, alpha=0.99, epsilon=1e-8, momentum=0.0
):
    v, b = states
    d = dw + weight_decay * w
    v = alpha * v + (1 - alpha) * d**2
    b = momentum * b + d / (np.sqrt(v) + epsilon)
    return w - learning_rate * b, [v, b]


def rmsprop(w, dw, states, step, learning_rate, weight_decay=0.0, alpha=0.99, epsilon=1e-8):
    (v,) = states
    d = dw + weight_decay * w
    v = alpha * v + (1 - alpha) * d**2
    return w - learning_rate * d / (np.sqrt(v) + epsilon), [v]


def adagrad(
    w, dw, states, step, learning_rate, weight_decay=0.0, learning_rate_decay=0.0,
    initial_accumulator_value=0.0, epsilon=1e-10,
):  # fmt: skip
    (v,) = states
    d = dw + weight_decay * w
    v = v + d**2
    rate = learning_rate / (1 + (step - 1) * learning_rate_decay)
    return w - rate * d / (np.sqrt(initial_accumulator_value + v) + epsilon), [v]


def adadelta(w, dw, states, step, learning_rate, weight_decay=0.0, rho=0.9, epsilon=1e-6):
    v, u = states
    d = dw + weight_decay * w
    v = rho * v + (1 - rho) * d**2
    s = np.sqrt(u + epsilon) / np.sqrt(v + epsilon) * d
    u = rho * u + (1 - rho) * s**2
    return w - learning_rate * s, [v, u]


def lion(w, dw, states, step, learning_rate, decoupled_decay=0.0, beta1=0.9, beta2=0.99):
    (m,) = states
    sign = np.sign(beta1 * m + (1 - beta1) * dw)
    m = beta2 * m + (1 - beta2) * dw
    return w - learning_rate * (sign + decoupled_decay * w), [m]


OPTIMIZERS = {
    "sgd": (sgd, 0),
    "momentum": (momentum, 1),
    "nesterov": (nesterov, 1),
    "adam": (adam, 2),
    "amsgrad": (amsgrad, 3),
    "adamax": (adamax, 2),
    "nadam": (nadam, 2),
    "radam": (radam, 2),
    "rmsprop": (rmsprop, 1),
    "rmsprop_momentum": (rmsprop_momentum, 2),
    "rmsprop_centered": (rmsprop_centered, 3),
    "adagrad": (adagrad, 1),
    "adadelta": (adadelta, 2),
    "lion": (lion, 1),
}


# Schedules: the learning rate at count 0, 1, …, from the optimizer's own and the settings.


def cosine(rate, count, total, minimum=0.0):
    return minimum + (rate - minimum) * (1 + np.cos(np.pi * count / total)) / 2


def cosine_restarts(rate, count, total, factor=1, minimum=0.0):
    while count >= total:
        count, total = count - total, total * factor
    return cosine(rate, count, total, minimum)


def one_cycle_phases(rise, total, three_phases, count):
    """Which phase, and what fraction of it is over."""
    ends = [rise * total - 1, *([2 * rise * total - 2] if three_phases else []), total - 1]
    starts = [0, *ends]
    phase = next((i for i, end in enumerate(ends) if count < end), len(ends) - 1)
    return phase, min(1.0, (count - starts[phase]) / (ends[phase] - starts[phase]))


def one_cycle_between(start, end, linear, fraction):
    if linear:
        return start + (end - start) * fraction
    return end + (start - end) * (1 + np.cos(np.pi * fraction)) / 2


def one_cycle(
    rate, count, total, rise, linear, three_phases, divisor, final_divisor, lowest_momentum, highest_momentum
):
    low, last = rate / divisor, rate / divisor / final_divisor
    corners = [low, rate, low, last] if three_phases else [low, rate, last]
    phase, fraction = one_cycle_phases(rise, total, three_phases, count)
    return one_cycle_between(corners[phase], corners[phase + 1], linear, fraction)


def one_cycle_momentum(
    count, total, rise, linear, three_phases, divisor, final_divisor, lowest_momentum, highest_momentum
):
    low, high = lowest_momentum, highest_momentum
    corners = [high, low, high, high]
    phase, fraction = one_cycle_phases(rise, total, three_phases, count)
    return one_cycle_between(corners[phase], corners[phase + 1], linear, fraction)


SCHEDULES = {
    "constant": lambda rate, count: rate,
    "step": lambda rate, count, size, gamma: rate * gamma ** (count // size),
    "multi_step": lambda rate, count, gamma, **milestones: (
        rate * gamma ** sum(milestone <= count for milestone in milestones.values())
    ),
    "exponential": lambda rate, count, gamma: rate * gamma**count,
    "polynomial": lambda rate, count, total, power: rate * (1 - min(count, total) / total) ** power,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "inverse_scaling": lambda rate, count, power: rate / (1 + count) ** power,
    "one_cycle": one_cycle,
    "one_cycle_with_momentum": one_cycle,
}


# Networks


def forward(layers, x):
    """The logits (n, n_out) of x (n, n_in)."""
    return _forward(layers, x)[-1][-1]


def _forward(layers, x):
    """(x, z, y) of every layer."""
    kept = []
    for W, b, activation in layers:
        z = x @ W + b
        y = ACTIVATIONS[activation][0](z)
        kept.append((x, z, y))
        x = y
    return kept


def predict(layers, x, loss):
    """The outputs after the loss's link."""
    return LOSSES[loss][2](forward(layers, x))


def gradient(layers, x, t, loss, option=0.0):
    """The mean loss, [(dW, db), …] of all layers, and dx."""
    value, value_gradient, _ = LOSSES[loss]
    kept = _forward(layers, x)
    logits = kept[-1][-1]
    gradients = []
    dy = value_gradient(logits, t, option)
    for (W, _, activation), (x_in, z, _) in zip(reversed(layers), reversed(kept)):
        dz = dy * ACTIVATIONS[activation][1](z)
        gradients.append((x_in.T @ dz, dz.sum(axis=0)))
        dy = dz @ W.T
    return value(logits, t, option), gradients[::-1], dy


def weighted_gradient(layers, x, t, loss, weights, option=0.0):
    """The weighted mean of the rows' losses, Σ wᵢ lᵢ / Σ wᵢ, its [(dW, db), …] and dx: row by row."""
    shares = weights / weights.sum() if weights.sum() > 0 else weights
    rows = [gradient(layers, x[i : i + 1], t[i : i + 1], loss, option) for i in range(len(x))]
    value = sum(share * row[0] for share, row in zip(shares, rows))
    gradients = [
        tuple(sum(share * row[1][i][j] for share, row in zip(shares, rows)) for j in (0, 1))
        for i in range(len(layers))
    ]
    return value, gradients, np.concatenate([share * row[2] for share, row in zip(shares, rows)])


def balanced_weights(labels):
    """n / (classes · rows of the class) for each row, as scikit-learn's."""
    classes = set(labels.tolist())
    return np.array([len(labels) / (len(classes) * (labels == label).sum()) for label in labels])


# Shaping: lists of (dW, db) become others; the update follows


def penalty(layers, penalties):
    """Σ l1 |W| + l2 W² over layers, with (l1, l2) of each."""
    return sum(l1 * np.abs(W).sum() + l2 * (W**2).sum() for (W, *_), (l1, l2) in zip(layers, penalties))


def with_penalties(gradients, layers, penalties):
    """The gradient of the loss with its penalties."""
    return [
        (dW + l1 * np.sign(W) + 2 * l2 * W, db)
        for (dW, db), (W, *_), (l1, l2) in zip(gradients, layers, penalties)
    ]


def clipped_by_value(gradients, limit):
    return [tuple(clamp(d, -limit, limit) for d in pair) for pair in gradients]


def clipped_by_norm(gradients, most):
    norm = math.sqrt(sum((d**2).sum() for pair in gradients for d in pair))
    return [tuple(d * min(1.0, most / (norm + 1e-6)) for d in pair) for pair in gradients]


def renormed(W, most):
    """W with columns that are no longer than `most`."""
    norms = np.sqrt((W**2).sum(axis=0))
    return np.where(norms > most, W * most / (norms + 1e-7), W)


def normal_number(word):
    """The number that a random word of 32 bits stands for: a sign, and 23 bits of how far out it lies."""
    size = -special.ndtri(((word >> 8 & 0x7FFFFF) + 0.5) / 2**24)
    return -size if word >> 31 else size


def draw_input_noise(seed, step, rows, n_in):
    """(rows, n_in): column b + k · n_in/4, rounded up, of row i is made of word k of block i · n_in/4 + b."""
    quarter = -(-n_in // 4)
    noise = np.empty((rows, 4 * quarter))
    for i in range(rows):
        for b in range(quarter):
            words = draws.philox(seed, draws.INPUT_NOISE, 0, step, i * quarter + b)
            noise[i, b::quarter] = [normal_number(int(word)) for word in words]
    return noise[:, :n_in]


def noise_deviation(eta, gamma, step):
    """The standard deviation of a step's noise, steps counted from 1."""
    return math.sqrt(eta / float(step) ** gamma)


def draw_gradient_noise(seed, step, shapes):
    """[(of W, of b), …]: rows 4g … 4g + 3 of a column are words of one block, b being the last row."""
    first, noise = 0, []
    for n_in, n_out in shapes:
        groups = (n_in + 4) // 4
        drawn = np.empty((4 * groups, n_out))
        for g in range(groups):
            for j in range(n_out):
                words = draws.philox(seed, draws.GRADIENT_NOISE, 0, step, first + g * n_out + j)
                drawn[4 * g : 4 * g + 4, j] = [normal_number(int(word)) for word in words]
        noise.append((drawn[:n_in], drawn[n_in]))
        first += groups * n_out
    return noise


def train(layers, batches, loss, optimizer="sgd", option=0.0, *, shape=None, max_norm=None, **settings):
    """One step for each (x, t) of batches.

    shape : function of (gradients, layers, step) that the gradients go through. max_norm : see `renormed`.

    Returns the trained layers and the loss of every step, taken before its update.
    """
    update, n_states = OPTIMIZERS[optimizer]
    layers = [(W.astype(np.float64), b.astype(np.float64), activation) for W, b, activation in layers]
    states = [[[np.zeros_like(p)] * n_states for p in (W, b)] for W, b, _ in layers]
    losses = []
    for step, (x, t) in enumerate(batches, start=1):
        value, gradients, _ = gradient(layers, x, t, loss, option)
        losses.append(value)
        gradients = shape(gradients, layers, step) if shape else gradients
        for i, (W, b, activation) in enumerate(layers):
            dW, db = gradients[i]
            W, states[i][0] = update(W, dW, states[i][0], step, **settings)
            b, states[i][1] = update(b, db, states[i][1], step, **settings)
            layers[i] = W if max_norm is None else renormed(W, max_norm), b, activation
    return layers, losses


# Networks of any layers. A layer here is a function: of x it gives y and a function back(dy) -> (dx,
# gradients of its parameters, in their order). ``stack`` is a list of those.


def dense_layer(W, b, activation):
    function, slope = ACTIVATIONS[activation]

    def run(x):
        z = x @ W + (0 if b is None else b)

        def back(dy):
            dz = dy * slope(z)
            return dz @ W.T, [x.T @ dz, *([] if b is None else [dz.sum(axis=0)])]

        return function(z), back

    return run


def dropout_layer(multipliers):
    return lambda x: (x * multipliers, lambda dy: (dy * multipliers, []))


def dropout_multipliers(rate, words):
    """words (rows, n): random integers below 2**32."""
    return np.where(words >= np.round(rate * 2**32), 1 / (1 - rate), 0.0)


def philox_words(seed, purpose, epoch, step, block):
    """The four words of a counter by Philox4x32-10, in Python's integers."""
    c, k = [block % 2**32, step % 2**32, epoch % 2**32, purpose % 2**32], [seed % 2**32, seed >> 32]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [q >> 32 ^ c[1] ^ k[0], q % 2**32, p >> 32 ^ c[3] ^ k[1], p % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def dropout_words(seed, layer, epoch, step, rows, n):
    """The words (rows, n) that decide what layer number `layer` drops in a step."""
    quarter, purpose = -(-n // 4), 3 + layer * 256
    words = np.empty((rows, 4 * quarter), np.uint64)
    for row, block in np.ndindex(rows, quarter):
        words[row, block::quarter] = philox_words(seed, purpose, epoch, step, row * quarter + block)
    return words[:, :n]


def stack_forward(stack, x):
    """The logits."""
    for layer in stack:
        x, _ = layer(x)
    return x


def stack_gradient(stack, x, t, loss, option=0.0):
    """The mean loss, the flat gradient of the parameters, and dx."""
    value, value_gradient, _ = LOSSES[loss]
    backs, gradients = [], []
    for layer in stack:
        x, back = layer(x)
        backs.append(back)
    d = value_gradient(x, t, option)
    for back in reversed(backs):
        d, of_layer = back(d)
        gradients = of_layer + gradients
    return value(x, t, option), np.concatenate([np.ravel(g) for g in gradients] or [np.empty(0)]), d


def activation_layer(name):
    f, derivative = ACTIVATIONS[name]
    return lambda x: (f(x), lambda dy: (dy * derivative(x), []))


def layer_norm_layer(gamma, beta, epsilon):
    """gamma, beta (n,) or None."""

    def run(x):
        m, v = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
        r = 1 / np.sqrt(v + epsilon)
        normalized = (x - m) * r
        return normalize_ends(normalized, r, gamma, beta, axis=1)

    return run


def batch_norm_layer(gamma, beta, mean, variance, epsilon, momentum, training):
    """gamma, beta (n,) or None; mean, variance (n,) are the running ones, moved in training."""

    def run(x):
        if not training:
            r = 1 / np.sqrt(variance + epsilon)
            y, back = normalize_ends((x - mean) * r, r, gamma, beta, axis=None)
        else:
            m, v = x.mean(axis=0), x.var(axis=0)
            r = 1 / np.sqrt(v + epsilon)
            y, back = normalize_ends((x - m) * r, r, gamma, beta, axis=0)
            if len(x) > 1:
                mean[:] = (1 - momentum) * mean + momentum * m
                variance[:] = (1 - momentum) * variance + momentum * x.var(axis=0, ddof=1)
        nothing = np.zeros_like(mean)
        return y, lambda dy: (back(dy)[0], [*back(dy)[1], nothing, nothing])

    return run


def normalize_ends(normalized, r, gamma, beta, axis):
    """y and back of what was normalised along an axis (None: by constants)."""
    scale, shift = 1 if gamma is None else gamma, 0 if beta is None else beta

    def back(dy):
        d = dy * scale
        if axis is not None:
            means = [each.mean(axis=axis, keepdims=True) for each in (d, d * normalized)]
            d = d - means[0] - normalized * means[1]
        dgamma, dbeta = (dy * normalized).sum(axis=0), dy.sum(axis=0)
        return d * r, [*([] if gamma is None else [dgamma]), *([] if beta is None else [dbeta])]

    return normalized * scale + shift, back


def residual_layer(stack):
    def run(x):
        backs, y = [], x
        for layer in stack:
            y, back = layer(y)
            backs.append(back)

        def back(dy):
            d, gradients = dy, []
            for one in reversed(backs):
                d, of_layer = one(d)
                gradients = of_layer + gradients
            return dy + d, gradients

        return x + y, back

    return run
