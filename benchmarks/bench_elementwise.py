"""fastbp/cpu/elementwise.py: seconds per element of every activation, forward and backward."""

import numpy as np

from fastbp.formulas.activations import ACTIVATIONS

from .operations import Alone, running
from .timing import REALS, measured

# A block of rows of 128 units: tens of kilobytes.
BATCH, COLUMNS = 128, 128
MEASURED = [name for name in ACTIVATIONS if name != "identity"]  # which no plan calls


@measured(activation=MEASURED, real=REALS)
def time_forward(activation, real):
    return _seconds("activation_forward", activation, real)


@measured(activation=MEASURED, real=REALS)
def time_backward(activation, real):
    return _seconds("activation_backward", activation, real)


def _seconds(kernel, activation, real):
    """Kernels work in place: values are put back before a run, or they would end as inf or subnormals."""
    row = ACTIVATIONS[activation]
    with running([16, COLUMNS, 16], BATCH, activation=activation, real=real) as plan:
        operation = Alone(plan, kernel)
        fresh_z = np.random.default_rng(0).normal(0, 2, (operation.rows, COLUMNS)).astype(real)
        z, y, dz = (operation.matrix(field, COLUMNS, real) for field in ("z", "y", "dz"))
        first_row = [row.forward(value) for value in fresh_z[0]]
        kept = np.tile(np.array(first_row, real), (operation.rows, 1)) if row.keeps == "y" else fresh_z

        def put_back():
            if kernel == "activation_forward":
                z[...] = fresh_z  # where y is kept, z and y are the same memory
            else:
                (y if row.keeps == "y" else z)[...] = kept
                dz[...] = 1

        return operation.seconds(before=put_back) / fresh_z.size
