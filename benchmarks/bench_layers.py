"""fastbp/cpu/dropout.py and the like: seconds of each operation of a layer, in a real plan.

The layer stands behind the first of two dense ones of equal size.
"""

import fastbp
from fastbp.cpu import dropout

from .operations import operation_seconds, running
from .timing import REALS, measured

# Which layer has an operation, and what else its plan is asked for.
PLANS = {
    dropout.dropout_forward: (fastbp.Dropout(0.5), dict()),
    dropout.dropout_backward: (fastbp.Dropout(0.5), dict()),
}
SIZES = {"64 batch 32": (64, 32), "256 batch 128": (256, 128)}


@measured(kernel=[kernel.__name__ for kernel in PLANS], size=SIZES, real=REALS)
def time_operation(kernel, size, real):
    width, batch = SIZES[size]
    layer, options = next(plan for each, plan in PLANS.items() if each.__name__ == kernel)
    with running([width] * 3, batch, real=real, behind_first=layer, **options) as plan:
        rows = operation_seconds(plan)
    return max([seconds for name, *_, seconds in rows if f".{kernel}(" in name][-1], 1e-9)
