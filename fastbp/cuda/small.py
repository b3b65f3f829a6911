"""Small networks: one launch trains whole epochs, a block of threads for each of many networks.

Weights and activations of a network lie in its block's shared memory, the optimizer's states and the data in
global memory. A step is what it is elsewhere: every number is computed by one thread, in the order of the
other kernels and of the CPU. Only dense layers.

A phase of a step reads what other threads wrote in the one before, so between two phases all threads of the
block come together; nothing is shared between blocks. The branches around that depend on the network's record
and on counts that all threads keep alike, so all of a block take the same.
"""

from typing import NamedTuple

import numpy as np
from numba import from_dtype

from fastbp.cuda.device import block_part, cuda
from fastbp.cuda.loss import elementwise_row, softmax_row
from fastbp.cuda.records import REAL
from fastbp.cuda.rows import LANES, ROWS
from fastbp.cuda.rows import SHAPE as SHAPE_OF_ROWS
from fastbp.cuda.shaping import (
    DEVIATION,
    MOST,
    SHAPE,
    SHAPE64,
    before_norm_one,
    deviation_of_step,
    factor_of_norm,
    input_noise_one,
    shape_one,
)
from fastbp.cuda.simt import array, column, part, view
from fastbp.cuda.step import draw_two, group_of_settings, last_place, place_of
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.elementary import fma
from fastbp.formulas.losses import LOSSES, weighed
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.formulas.shaping import renorm_factor

THREADS = LANES, ROWS  # of a block
_IN_A_BLOCK = LANES * ROWS

# Shared memory that any GPU gives a block, less what the kernel takes for itself.
MOST_BYTES = 46 * 1024


class Kind(NamedTuple):
    """What a kernel is made of, and the arguments of `train_small`.

    hidden : activations of hidden layers, each once, with spaces between. output : that of the last layer.
    loss, optimizer, schedule : rows of the tables; "": no schedule. targets : "classes" or "probabilities".
    data : "numbers", "bytes", "sparse numbers" or "sparse bytes". weighted : whether rows have weights.
    shaped : 0; 1 where something is done to gradients, weights or inputs (``shaping.py``); 2 where that needs
    the norm of the whole gradient. real : type of the numbers.
    """

    hidden: str
    output: str
    loss: str
    targets: str
    data: str
    optimizer: str
    schedule: str
    weighted: int
    shaped: int
    real: str


def _record(text):
    return np.dtype([(name, np.int64) for name in text.split()], align=True)


# A layer: where its parameters begin in the flat vector, and its input x, z, y and dz in shared memory, all
# counted in elements; z is y where the backward needs only y. hyper, bias_hyper, shaping, noise, collected:
# those of an operation (records.py); at shaping the largest norm of a column of W lies too. activation: its
# place in Kind.hidden.
LAYER = _record("n_in n_out use_bias w x z y dz hyper bias_hyper shaping noise collected activation")

# A network and its training. Fields that the context (records.py) has too are what they are there; n_in,
# shaping, numbers, slots, squares those of the operations that gather, add noise to inputs and clip.
# layers: address of its LAYER records; ordered: whether `order` is that of the epoch begun; last_epoch,
# last_step: where this launch ends, whichever comes first; losses: float64, one for each epoch of the launch;
# row_losses: where they begin in shared memory, in elements.
NETWORK = _record(
    """layers n_layers n_in parameters n_parameters state_bytes
    settings groups hyper schedule scheduled momentum option numbers
    shaping shortening deviation row_scale slots squares
    x targets weights order heads following shuffle by_class class_starts classes
    n_rows batch_size chunk_rows seed epoch last_epoch start ordered step last_step careful halt
    losses row_losses"""
)

layer_of, network_of = view(LAYER), view(NETWORK)
_LAYER = LAYER.itemsize


def elements(sizes, keeps_z, n_parameters, batch_size):
    """Elements of shared memory: (in all, where row losses begin, x, z, y, dz of each layer)."""
    at, places, inputs = n_parameters + batch_size * sizes[0], [], n_parameters
    for n, keeps in zip(sizes[1:], keeps_z, strict=True):
        y, dz = at, at + batch_size * n
        at += 2 * batch_size * n
        z = at if keeps else y
        at += batch_size * n * keeps
        places.append((inputs, z, y, dz))
        inputs = y
    return at + batch_size, at, places


def _activation(names, way, real, first=0):
    """A function ``(which, *numbers)``: forward or backward (`way`) of the activation that has this number,
    the first of the names having `first`. One name: nothing is asked.
    """
    dtype, (name, *others) = REAL[real], names
    formula = part(getattr(ACTIVATIONS[name], way))

    @part
    def only(which, *numbers):
        return dtype(formula(*numbers))

    if not others:
        return only
    other = _activation(others, way, real, first + 1)

    @part
    def one_of(which, *numbers):
        return only(which, *numbers) if which == first else other(which, *numbers)

    return one_of


def _forward(names, real):
    """A function that takes the rows of a batch through a layer, whose activation is one of these."""
    dtype, activation = REAL[real], _activation(names, "forward", real)

    @part
    def forward(memory, layer, rows, first):
        n_in, n_out, which = layer.n_in, layer.n_out, layer.activation
        for e in range(first, rows * n_out, _IN_A_BLOCK):
            i, j = e // n_out, e % n_out
            z = memory[layer.w + n_in * n_out + j] if layer.use_bias != 0 else dtype(0)
            for k in range(n_in):
                z = fma(memory[layer.x + i * n_in + k], memory[layer.w + k * n_out + j], z)
            memory[layer.z + e] = z
            memory[layer.y + e] = activation(which, z)

    return forward


def _times_slope(name, real):
    """A function for dz = dy · f'(z) of the last layer, in place."""
    activation, is_identity = _activation([name], "backward", real), name == "identity"

    @part
    def times_slope(memory, layer, rows, first):
        if not is_identity:
            for e in range(first, rows * layer.n_out, _IN_A_BLOCK):
                memory[layer.dz + e] = activation(0, memory[layer.dz + e], memory[layer.z + e])

    return times_slope


def _backward(names, real):
    """A function for dx of a layer, times the slope of the layer before, one of these: its dz."""
    dtype, activation = REAL[real], _activation(names, "backward", real)

    @part
    def backward(memory, layer, before, rows, first):
        n_in, n_out, which = layer.n_in, layer.n_out, before.activation
        for e in range(first, rows * n_in, _IN_A_BLOCK):
            i, k, d = e // n_in, e % n_in, dtype(0)
            for j in range(n_out):
                d = fma(memory[layer.dz + i * n_out + j], memory[layer.w + k * n_out + j], d)
            memory[before.dz + e] = activation(which, d, memory[before.z + e])

    return backward


def _update(kind):
    """(collect, update): functions for dW, db and the optimizer's step of a layer, and what follows it.

    collect: the gradient of a layer, summed chunk by chunk of rows, into its place at net.slots; update: from
    there where `kind.shaped` is 2, else from the rows at once.
    """
    dtype, size, formula = REAL[kind.real], REAL[kind.real](0).itemsize, OPTIMIZERS[kind.optimizer].update
    states, hypers = OPTIMIZERS[kind.optimizer].states, OPTIMIZERS[kind.optimizer].hypers
    (load, store), (load_hyper, _) = column(states) if states else (None, None), column(hypers)
    before_norm, shape, shaped = before_norm_one(kind.real), shape_one(kind.real), kind.shaped

    @part
    def of_rows(memory, layer, i, j, first, last):
        n_in, n_out, d = layer.n_in, layer.n_out, dtype(0)
        for r in range(first, last):
            x = memory[layer.x + r * n_in + i] if i < n_in else dtype(1)
            d = fma(x, memory[layer.dz + r * n_out + j], d)
        return d

    @part
    def gradient(memory, net, layer, rows, e):
        i, j = e // layer.n_out, e % layer.n_out
        dw = of_rows(memory, layer, i, j, 0, min(net.chunk_rows, rows))
        for chunk in range(net.chunk_rows, rows, net.chunk_rows):
            dw += of_rows(memory, layer, i, j, chunk, min(chunk + net.chunk_rows, rows))
        return dw

    @part
    def collect(memory, net, layer, rows, first):
        slots = array(net.slots, net.n_parameters, dtype)
        for e in range(first, (layer.n_in + layer.use_bias) * layer.n_out, _IN_A_BLOCK):
            at = layer.w + e
            slots[at] = before_norm(
                layer, e // layer.n_out, memory[at], gradient(memory, net, layer, rows, e)
            )

    @part
    def with_states(memory, net, at, dw, hyper):
        state = net.parameters + net.state_bytes + at * size
        numbers = load(state, net.state_bytes, dtype)
        stepped = formula(memory[at], dw, *numbers, load_hyper(hyper, size, dtype))
        memory[at] = stepped[0]
        store(state, net.state_bytes, stepped[1:])

    @part
    def without(memory, net, at, dw, hyper):
        memory[at] = formula(memory[at], dw, load_hyper(hyper, size, dtype))[0]

    apply = with_states if states else without

    @part
    def update(memory, net, layer, rows, first):
        n_out = layer.n_out
        for e in range(first, (layer.n_in + layer.use_bias) * n_out, _IN_A_BLOCK):
            i, at = e // n_out, layer.w + e
            if shaped == 2:
                dw = array(net.slots, net.n_parameters, dtype)[at]
            else:
                dw = gradient(memory, net, layer, rows, e)
            if shaped:
                dw = shape(layer, net, i, e % n_out, memory[at], dw)
            apply(memory, net, at, dw, layer.hyper if i < layer.n_in else layer.bias_hyper)

    return collect, update


def _norms(real):
    """(squares, shorten): functions for the sums of squares of a layer's collected columns, and for columns
    of its W that are longer than asked.
    """
    dtype, size = REAL[real], REAL[real](0).itemsize

    @part
    def squares(net, layer, before, first):
        slots = array(net.slots, net.n_parameters, dtype)
        for j in range(first, layer.n_out, _IN_A_BLOCK):
            total = 0.0
            for i in range(layer.n_in + layer.use_bias):
                dw = np.float64(slots[layer.w + i * layer.n_out + j])
                total += dw * dw
            array(net.squares + 8 * before, layer.n_out, np.float64)[j] = total

    @part
    def shorten(memory, layer, first):
        most = array(layer.shaping + SHAPE * size, SHAPE64, np.float64)[MOST]
        if most != 0.0:
            for j in range(first, layer.n_out, _IN_A_BLOCK):
                total = 0.0
                for i in range(layer.n_in):
                    w = np.float64(memory[layer.w + i * layer.n_out + j])
                    total += w * w
                factor = renorm_factor(total, most)
                if factor != 1.0:
                    for i in range(layer.n_in):
                        memory[layer.w + i * layer.n_out + j] *= dtype(factor)

    return squares, shorten


def _shuffle():
    """A function by which the threads of a block write the order of an epoch: of a shuffle, or balanced."""

    def shuffle(net, epoch, first):
        n = net.n_rows
        if net.shuffle == 2:
            for block in range(first, (n + 1) // 2, _IN_A_BLOCK):
                draw_two(net, epoch, block)
        else:
            heads, following = array(net.heads, n, np.int64), array(net.following, n, np.int64)
            order = array(net.order, n, np.int64)
            for i in range(first, n, _IN_A_BLOCK):
                heads[i] = -1
            cuda.syncthreads()
            for i in range(first, n, _IN_A_BLOCK):
                following[i] = cuda.atomic.exch(heads, place_of(net.seed, epoch, i), i)
            cuda.syncthreads()
            for i in range(first, n, _IN_A_BLOCK):
                order[last_place(heads, following, place_of(net.seed, epoch, i), i)] = i
        cuda.syncthreads()

    return block_part(shuffle)


@part
def _row_of(net, place):
    """Which row of the data stands at a place of the epoch."""
    return array(net.order, net.n_rows, np.int64)[place] if net.shuffle != 0 else place


def _gather(kind):
    """A function that copies the rows of a batch side by side, scaled, with noise where that is asked for."""
    dtype, source = REAL[kind.real], np.uint8 if "bytes" in kind.data else REAL[kind.real]
    noise, shaped = input_noise_one(kind.real), kind.shaped

    def dense(memory, net, x, start, rows, first):
        n, scale = net.n_in, array(net.numbers, 1, dtype)[0]
        data = array(net.x, net.n_rows * n, source)
        for e in range(first, rows * n, _IN_A_BLOCK):
            memory[x + e] = dtype(data[_row_of(net, start + e // n) * n + e % n]) * scale

    def sparse(memory, net, x, start, rows, first):
        n, scale, at = net.n_in, array(net.numbers, 1, dtype)[0], array(net.x, 3, np.int64)
        for e in range(first, rows * n, _IN_A_BLOCK):
            memory[x + e] = dtype(0)
        cuda.syncthreads()
        for i in range(cuda.threadIdx.y, rows, ROWS):
            bounds = array(at[2] + 8 * _row_of(net, start + i), 2, np.int64)
            stored, columns = array(at[0], bounds[1], source), array(at[1], bounds[1], np.int32)
            for k in range(bounds[0] + cuda.threadIdx.x, bounds[1], LANES):
                memory[x + i * n + columns[k]] = (dtype(stored[k]) + dtype(0)) * scale

    copy = block_part(sparse if "sparse" in kind.data else dense)

    def gather(memory, net, x, start, rows, first):
        copy(memory, net, x, start, rows, first)
        if shaped and array(net.shaping, SHAPE, dtype)[DEVIATION] != 0:
            cuda.syncthreads()
            for e in range(first, rows * net.n_in, _IN_A_BLOCK):
                memory[x + e] += noise(net, net, e // net.n_in, e % net.n_in)

    return block_part(gather)


def _losses(kind):
    """A function for the losses of the rows of a batch, and the gradient of their mean, both weighed."""
    dtype = REAL[kind.real]
    over_outputs, weighted = not LOSSES[kind.loss].rowwise, kind.weighted
    row_loss = elementwise_row(kind.loss, kind.real) if over_outputs else softmax_row(kind.targets, kind.real)

    @part
    def weigh(memory, net, layer, start, rows, first):
        weights, one = array(net.weights, net.n_rows, dtype), array(net.row_scale, 1, np.float64)[0]
        for e in range(first, rows * layer.n_out, _IN_A_BLOCK):
            i = e // layer.n_out
            scale = dtype(np.float64(weights[_row_of(net, start + i)]) * one)
            memory[layer.dz + e] = weighed(memory[layer.dz + e], scale)
            if e % layer.n_out == 0:
                memory[net.row_losses + i] = weighed(memory[net.row_losses + i], scale)

    def losses(memory, shared, net, layer, start, rows, first):
        n, option = layer.n_out, array(net.option, 1, dtype)[0]
        scale = dtype(1) / dtype(rows * n if over_outputs else rows)
        for block in range(0, rows, ROWS):  # as many turns for every thread: `row_loss` brings all together
            i = block + cuda.threadIdx.y
            width, row = (n if i < rows else 0), _row_of(net, start + min(i, rows - 1))
            y, dz = layer.y + min(i, rows - 1) * n, layer.dz + min(i, rows - 1) * n
            y, dz = memory[y : y + width], memory[dz : dz + width]
            found = row_loss(shared, cuda.threadIdx.x, (net.targets, row), n, y, dz, option, scale)
            if i < rows and cuda.threadIdx.x == 0:
                memory[net.row_losses + i] = found
        if weighted:
            cuda.syncthreads()
            weigh(memory, net, layer, start, rows, first)

    return block_part(losses)


def _prepare(kind):
    """A function by which single threads find what counts in one step: settings, weights, noise."""
    dtype, weighted, shaped = REAL[kind.real], kind.weighted, kind.shaped
    settings_of = group_of_settings(kind.optimizer, kind.schedule, kind.real)
    write_deviation = deviation_of_step(kind.real)

    @part
    def total_weight(net, start, rows):
        weights, total = array(net.weights, net.n_rows, dtype), 0.0
        for i in range(rows):
            total += np.float64(weights[_row_of(net, start + i)])
        array(net.row_scale, 1, np.float64)[0] = rows / total if total > 0.0 else 0.0

    @part
    def prepare(net, epoch, step, start, rows, first):
        for group in range(first, net.groups, _IN_A_BLOCK):
            settings_of(net, step, epoch, group)
        if first == 0:
            net.step = step  # which noise is a function of
            if weighted:
                total_weight(net, start, rows)
            if shaped:
                write_deviation(net, net, step)

    return prepare


def _phase_two(kind):
    """A function for the gradients and updates of all layers."""
    (collect, update), (squares, shorten) = _update(kind), _norms(kind.real)
    write_factor, shaped = factor_of_norm(kind.real), kind.shaped

    def by_norm(memory, net, rows, first):
        for place in range(net.n_layers):
            collect(memory, net, layer_of(net.layers + place * _LAYER), rows, first)
        cuda.syncthreads()
        columns = 0
        for place in range(net.n_layers):
            layer = layer_of(net.layers + place * _LAYER)
            squares(net, layer, columns, first)
            columns += layer.n_out
        cuda.syncthreads()
        if first == 0:
            write_factor(net, net, columns)
        cuda.syncthreads()

    by_norm = block_part(by_norm)

    def phase_two(memory, net, rows, first):
        if shaped == 2:
            by_norm(memory, net, rows, first)
        for place in range(net.n_layers):
            update(memory, net, layer_of(net.layers + place * _LAYER), rows, first)
        if shaped:
            cuda.syncthreads()
            for place in range(net.n_layers):
                shorten(memory, layer_of(net.layers + place * _LAYER), first)

    return block_part(phase_two)


def _steps_of_epoch(kind):
    """A function for the steps of an epoch from a row on: returns the number of the last one, negative if its
    loss is bad, and the row that is next.
    """
    hidden, real = kind.hidden.split(), kind.real
    hidden_forward, output_forward = _forward(hidden, real), _forward([kind.output], real)
    slope, hidden_backward = _times_slope(kind.output, real), _backward(hidden, real)
    gather, losses, prepare, phase_two = _gather(kind), _losses(kind), _prepare(kind), _phase_two(kind)

    def steps_of_epoch(memory, shared, net, epoch, step, start, first):
        last, flag = net.n_layers - 1, cuda.shared.array(1, np.int64)
        while start < net.n_rows and step < net.last_step:
            rows = min(net.batch_size, net.n_rows - start)
            step += 1
            prepare(net, epoch, step, start, rows, first)  # what it writes is read in later phases
            gather(memory, net, layer_of(net.layers).x, start, rows, first)
            cuda.syncthreads()
            for place in range(last):
                hidden_forward(memory, layer_of(net.layers + place * _LAYER), rows, first)
                cuda.syncthreads()
            top = layer_of(net.layers + last * _LAYER)
            output_forward(memory, top, rows, first)
            cuda.syncthreads()
            losses(memory, shared, net, top, start, rows, first)
            cuda.syncthreads()
            slope(memory, top, rows, first)
            cuda.syncthreads()
            for place in range(last, 0, -1):
                before = layer_of(net.layers + (place - 1) * _LAYER)
                hidden_backward(memory, layer_of(net.layers + place * _LAYER), before, rows, first)
                cuda.syncthreads()
            phase_two(memory, net, rows, first)
            if first == 0:
                flag[0] = _add_up_losses(memory, net, epoch, rows)
            cuda.syncthreads()
            start += rows
            if flag[0] != 0:
                return -step, start
        return step, start

    return block_part(steps_of_epoch)


@part
def _add_up_losses(memory, net, epoch, rows):
    """Add up the losses of a batch, in its order; returns whether to end after it."""
    losses, total = array(net.losses, net.last_epoch - net.epoch, np.float64), 0.0
    for i in range(rows):
        total += np.float64(memory[net.row_losses + i])
    losses[epoch - net.epoch] += total
    return net.careful if total - total != 0.0 else 0


def train_small(*kind):
    """Epochs [epoch, last_epoch), but no more than to last_step, of the network of each block, of the records
    at an address. Parameters of one that diverged stay as they were before the launch. kind: a `Kind`.
    """
    kind = Kind(*kind)
    dtype, n_bytes, number = REAL[kind.real], NETWORK.itemsize, from_dtype(np.dtype(kind.real))
    run, shuffle = _steps_of_epoch(kind), _shuffle()

    def train_small(networks, _):
        memory = cuda.shared.array(0, number)
        shared = cuda.shared.array(SHAPE_OF_ROWS, dtype)
        net = network_of(networks + cuda.blockIdx.x * n_bytes)
        first = cuda.threadIdx.y * LANES + cuda.threadIdx.x
        if net.halt != 0 or net.epoch >= net.last_epoch:
            return
        parameters = array(net.parameters, net.n_parameters, dtype)
        for e in range(first, net.n_parameters, _IN_A_BLOCK):
            memory[e] = parameters[e]
        epoch, step, start, ordered = net.epoch, net.step, net.start, net.ordered
        cuda.syncthreads()  # `prepare` writes net.step
        while epoch < net.last_epoch and 0 <= step < net.last_step:
            if net.shuffle != 0 and (start == 0 or ordered == 0):
                shuffle(net, epoch, first)
            ordered = 1
            step, start = run(memory, shared, net, epoch, step, start, first)
            if step < 0 or start == net.n_rows:
                epoch, start = epoch + 1, 0
        cuda.syncthreads()
        if step >= 0:
            for e in range(first, net.n_parameters, _IN_A_BLOCK):
                parameters[e] = memory[e]
        cuda.syncthreads()
        if first == 0:
            net.epoch, net.start, net.step, net.halt = epoch, start, abs(step), (1 if step < 0 else 0)
            net.ordered = 1

    return train_small
