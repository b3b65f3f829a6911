"""An activation as a layer of its own: y = f(x); see ``cpu/activation.py``.

Its backward is that of any activation (``elementwise.py``), or part of the product of the dense layer behind.
"""

from fastbp.cuda.records import REAL
from fastbp.cuda.rows import over_rows
from fastbp.cuda.simt import array, part
from fastbp.formulas.activations import ACTIVATIONS


def activation_take(name, real):
    """z (rows, n) = x, y = f(z) for the rows of the batch."""
    activation, dtype = ACTIVATIONS[name], REAL[real]
    formula = part(activation.forward)

    def activation_take(op, ctx, i, columns):
        n, at = op.n_out, i * op.z_row
        x, z, y = array(op.x + i * op.x_row, n, dtype), array(op.z + at, n, dtype), array(op.y + at, n, dtype)
        for j in columns:
            each = x[j]
            z[j] = each  # the memory of y, where that alone is kept
            y[j] = dtype(formula(each))

    return over_rows(activation_take)
