"""An activation as a layer of its own: y = f(x).

    forward    z  = x           then y = f(z)              (elementwise.py)
    backward   dz = dy · f'(z), and then dx = dz           (elementwise.py)

The loops over f are those of dense layers, which work on the layer's own memory; its input is copied there.
"""

from fastbp.cpu.elementwise import copy_elements
from fastbp.cpu.records import kernel


def activation_take(real):
    """z (rows, n) = x for the rows of a block."""
    copy = copy_elements(real)

    def activation_take(op, ctx):
        for i in range(ctx.place, ctx.place + ctx.rows):
            copy(op.n_out, op.x + i * op.x_row, op.z + i * op.z_row)

    return kernel(activation_take)
