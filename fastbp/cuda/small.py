"""Small networks: one launch trains whole epochs, a block of threads for each of many networks.

Weights and activations of a network lie in its block's shared memory, the optimizer's states and the data in
global memory. A step is what it is elsewhere: every number is computed by one thread, in the order of the
other kernels and of the CPU. Only dense layers; hidden layers share one activation.
"""

import numpy as np
from numba import from_dtype

from fastbp.cuda.device import block_part, cuda
from fastbp.cuda.elementwise import write_hyper
from fastbp.cuda.loss import elementwise_row, softmax_row
from fastbp.cuda.program import REAL
from fastbp.cuda.rows import LANES, ROWS, SHAPE
from fastbp.cuda.simt import array, column, part, view
from fastbp.cuda.step import last_place, place_of
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.elementary import fma
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS

THREADS = LANES, ROWS  # of a block
_IN_A_BLOCK = LANES * ROWS

# Shared memory that any GPU gives a block, less what the kernel takes for itself.
MOST_BYTES = 46 * 1024


def _record(text):
    return np.dtype([(name, np.int64) for name in text.split()], align=True)


# A layer: where its parameters begin in the flat vector, and its input x, z, y and dz in shared memory, all
# counted in elements. z is y where the backward needs only y.
LAYER = _record("n_in n_out use_bias w x z y dz")

# A network and its training. parameters, state_bytes, settings, option, x, targets, order, heads, following,
# n_rows, batch_size, chunk_rows, seed, epoch, start, step, careful, halt, hyper are as in the context
# (program.py); layers: address of its LAYER records; ordered: whether `order` is that of the epoch begun;
# last_epoch, last_step: where this launch ends, whichever comes first; losses: float64, one for each epoch of
# this launch; row_losses: where they begin in shared memory, in elements.
NETWORK = _record(
    """layers n_layers parameters n_parameters state_bytes settings option
    x targets order heads following shuffle
    n_rows batch_size chunk_rows seed epoch last_epoch start ordered step last_step careful halt
    losses row_losses hyper"""
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


def _forward(name, real):
    """A function that takes the rows of a batch through a layer."""
    dtype, formula = REAL[real], part(ACTIVATIONS[name].forward)

    @part
    def forward(memory, layer, rows, first):
        n_in, n_out = layer.n_in, layer.n_out
        for e in range(first, rows * n_out, _IN_A_BLOCK):
            i, j = e // n_out, e % n_out
            z = memory[layer.w + n_in * n_out + j] if layer.use_bias != 0 else dtype(0)
            for k in range(n_in):
                z = fma(memory[layer.x + i * n_in + k], memory[layer.w + k * n_out + j], z)
            memory[layer.z + e] = z
            memory[layer.y + e] = dtype(formula(z))

    return forward


def _times_slope(name, real):
    """A function for dz = dy · f'(z) of a layer, in place."""
    dtype, formula = REAL[real], part(ACTIVATIONS[name].backward)
    keeps_y, is_identity = ACTIVATIONS[name].keeps == "y", name == "identity"

    @part
    def times_slope(memory, layer, rows, first):
        if not is_identity:
            kept = layer.y if keeps_y else layer.z
            for e in range(first, rows * layer.n_out, _IN_A_BLOCK):
                memory[layer.dz + e] = dtype(formula(memory[layer.dz + e], memory[kept + e]))

    return times_slope


def _backward(name, real):
    """A function for dx of a layer, times the slope of the layer before: its dz."""
    dtype, formula = REAL[real], part(ACTIVATIONS[name].backward)
    keeps_y, is_identity = ACTIVATIONS[name].keeps == "y", name == "identity"

    @part
    def backward(memory, layer, before, rows, first):
        n_in, n_out, kept = layer.n_in, layer.n_out, before.y if keeps_y else before.z
        for e in range(first, rows * n_in, _IN_A_BLOCK):
            i, k, d = e // n_in, e % n_in, dtype(0)
            for j in range(n_out):
                d = fma(memory[layer.dz + i * n_out + j], memory[layer.w + k * n_out + j], d)
            memory[before.dz + e] = d if is_identity else dtype(formula(d, memory[kept + e]))

    return backward


def _update(optimizer, real):
    """A function for dW, db and the optimizer's step of a layer, chunk by chunk of rows."""
    dtype, size, formula = REAL[real], REAL[real](0).itemsize, OPTIMIZERS[optimizer].update
    states, hypers = OPTIMIZERS[optimizer].states, OPTIMIZERS[optimizer].hypers
    (load, store), (load_hyper, _) = column(states) if states else (None, None), column(hypers)

    @part
    def gradient(memory, layer, i, j, first, last):
        n_in, n_out, d = layer.n_in, layer.n_out, dtype(0)
        for r in range(first, last):
            x = memory[layer.x + r * n_in + i] if i < n_in else dtype(1)
            d = fma(x, memory[layer.dz + r * n_out + j], d)
        return d

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
    def update(memory, net, layer, rows, hyper, first):
        n_out = layer.n_out
        for e in range(first, (layer.n_in + layer.use_bias) * n_out, _IN_A_BLOCK):
            i, j = e // n_out, e % n_out
            dw = gradient(memory, layer, i, j, 0, min(net.chunk_rows, rows))
            for chunk in range(net.chunk_rows, rows, net.chunk_rows):
                dw += gradient(memory, layer, i, j, chunk, min(chunk + net.chunk_rows, rows))
            apply(memory, net, layer.w + e, dw, hyper)

    return update


def _shuffle():
    """A function by which the threads of a block write the order of an epoch."""

    def shuffle(net, epoch, first):
        n = net.n_rows
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


def _steps_of_epoch(hidden, output, loss, targets, optimizer, real):
    """A function for the steps of an epoch from a row on: returns the number of the last one, negative if its
    loss is bad, and the row that is next.
    """
    dtype, over_outputs = REAL[real], not LOSSES[loss].rowwise
    hidden_forward, output_forward = _forward(hidden, real), _forward(output, real)
    slope, hidden_backward, update = (
        _times_slope(output, real),
        _backward(hidden, real),
        _update(optimizer, real),
    )
    row_loss = elementwise_row(loss, real) if over_outputs else softmax_row(targets, real)
    prepare, total_of = write_hyper(optimizer, real), _total(real)

    @part
    def gather(memory, net, layer, start, rows, first):
        n, order = layer.n_in, array(net.order, net.n_rows, np.int64)
        x = array(net.x, net.n_rows * n, dtype)
        for e in range(first, rows * n, _IN_A_BLOCK):
            place = start + e // n
            row = order[place] if net.shuffle != 0 else place
            memory[layer.x + e] = x[row * n + e % n]

    def losses_of_rows(memory, shared, net, layer, start, rows):
        n, option = layer.n_out, array(net.option, 1, dtype)[0]
        scale = dtype(1) / dtype(rows * n if over_outputs else rows)
        for block in range(0, rows, ROWS):
            i = block + cuda.threadIdx.y
            width, row = (n if i < rows else 0), start + min(i, rows - 1)
            if net.shuffle != 0:
                row = array(net.order, net.n_rows, np.int64)[row]
            y, dz = layer.y + min(i, rows - 1) * n, layer.dz + min(i, rows - 1) * n
            y, dz = memory[y : y + width], memory[dz : dz + width]
            found = row_loss(shared, cuda.threadIdx.x, (net.targets, row), n, y, dz, option, scale)
            if i < rows and cuda.threadIdx.x == 0:
                memory[net.row_losses + i] = found

    losses_of_rows = block_part(losses_of_rows)

    def steps_of_epoch(memory, shared, net, epoch, step, start, first):
        last, flag = net.n_layers - 1, cuda.shared.array(1, np.int64)
        while start < net.n_rows and step < net.last_step:
            rows = min(net.batch_size, net.n_rows - start)
            step += 1
            if first == 0:
                prepare(net.settings, step, net.hyper)
            gather(memory, net, layer_of(net.layers), start, rows, first)
            cuda.syncthreads()
            for place in range(last):
                hidden_forward(memory, layer_of(net.layers + place * _LAYER), rows, first)
                cuda.syncthreads()
            top = layer_of(net.layers + last * _LAYER)
            output_forward(memory, top, rows, first)
            cuda.syncthreads()
            losses_of_rows(memory, shared, net, top, start, rows)
            cuda.syncthreads()
            slope(memory, top, rows, first)
            cuda.syncthreads()
            for place in range(last, 0, -1):
                before = layer_of(net.layers + (place - 1) * _LAYER)
                hidden_backward(memory, layer_of(net.layers + place * _LAYER), before, rows, first)
                cuda.syncthreads()
            for place in range(last + 1):
                update(memory, net, layer_of(net.layers + place * _LAYER), rows, net.hyper, first)
            if first == 0:
                flag[0] = total_of(memory, net, epoch, rows)
            cuda.syncthreads()
            start += rows
            if flag[0] != 0:
                return -step, start
        return step, start

    return block_part(steps_of_epoch)


def _total(real):
    """A function that adds up the losses of a batch, in its order; whether to end after it."""

    @part
    def total_of(memory, net, epoch, rows):
        losses, total = array(net.losses, net.last_epoch - net.epoch, np.float64), 0.0
        for i in range(rows):
            total += np.float64(memory[net.row_losses + i])
        losses[epoch - net.epoch] += total
        return net.careful if total - total != 0.0 else 0

    return total_of


def train_small(hidden, output, loss, targets, optimizer, real):
    """Epochs [epoch, last_epoch), but no more than to last_step, of the network of each block, of the records
    at an address. Parameters of one that diverged stay as they were before the launch.
    """
    dtype, n_bytes, number = REAL[real], NETWORK.itemsize, from_dtype(np.dtype(real))
    run = _steps_of_epoch(hidden, output, loss, targets, optimizer, real)
    shuffle = _shuffle()

    def train_small(networks, _):
        memory = cuda.shared.array(0, number)
        shared = cuda.shared.array(SHAPE, dtype)
        net = network_of(networks + cuda.blockIdx.x * n_bytes)
        first = cuda.threadIdx.y * LANES + cuda.threadIdx.x
        if net.halt != 0:
            return
        parameters = array(net.parameters, net.n_parameters, dtype)
        for e in range(first, net.n_parameters, _IN_A_BLOCK):
            memory[e] = parameters[e]
        epoch, step, start = net.epoch, net.step, net.start
        while epoch < net.last_epoch and 0 <= step < net.last_step:
            if net.shuffle != 0 and (start == 0 or net.ordered == 0):
                shuffle(net, epoch, first)
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

    return train_small
