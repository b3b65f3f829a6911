"""fastbp/cpu/elementwise.py: seconds per element of every activation, forward and backward."""

import numpy as np

from fastbp.cpu.cache import address
from fastbp.cpu.elementwise import activation_backward, activation_forward
from fastbp.formulas.activations import ACTIVATIONS

from .timing import REALS, Program, array, measured

# As much as a block of a batch holds: eight operations, of sixteen rows of 128 units each.
OPERATIONS, ROWS, COLUMNS = 8, 16, 128


@measured(activation=ACTIVATIONS, real=REALS)
def time_forward(activation, real):
    return _seconds(activation_forward, activation, real)


@measured(activation=ACTIVATIONS, real=REALS)
def time_backward(activation, real):
    return _seconds(activation_backward, activation, real)


def _seconds(factory, activation, real):
    """Kernels work in place: values are put back before each run, else they would end in inf or subnormals."""
    shape = (OPERATIONS, ROWS, COLUMNS)
    z, y, dz = (array(shape, real) for _ in range(3))
    fresh_z = np.random.default_rng(0).normal(0, 2, shape).astype(real)
    forward = np.vectorize(ACTIVATIONS[activation].forward, otypes=[real])
    fresh_y = forward(fresh_z[:, :1]).repeat(ROWS, axis=1)
    in_place = ACTIVATIONS[activation].keeps == "y"

    def put_back():
        z[...] = fresh_z
        y[...] = fresh_z if factory is activation_forward and in_place else fresh_y
        dz[...] = 1

    kernel = address(factory, activation, real)
    operations = [
        dict(kernel=kernel, columns=COLUMNS, z=z[i], y=y[i], dz=dz[i], z_row=COLUMNS * z.itemsize)
        for i in range(OPERATIONS)
    ]
    return Program(operations, rows=ROWS).seconds(before=put_back) / z.size
