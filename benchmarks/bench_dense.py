"""fastbp/cpu/dense.py and gather.py: seconds of each operation, in a real plan between its neighbours.

The layer that is measured is the second of two of equal size, so that it has a gradient of its inputs.
"""

from fastbp.cpu import dense, gather

from .operations import operation_seconds, running
from .timing import REALS, measured

# Which plan has an operation: the task, and what else it is asked for.
PLANS = {
    dense.dense_forward: dict(),
    dense.dense_backward: dict(),
    dense.dense_update: dict(),
    dense.dense_pack: dict(),
    dense.dense_unpack: dict(),
    dense.dense_gradient: dict(materialise=True),
    dense.dense_apply: dict(materialise=True),
    dense.dense_forward_unpacked: dict(task="predict", unpacked=True),
    dense.dense_forward_in_order: dict(task="predict"),
    gather.gather: dict(),
    gather.require_finite: dict(task="predict", staged=True),
    gather.check_rows: dict(task="predict"),
}
SUMMED_IN_CHUNKS = {dense.dense_total}  # a plan of few parameters and many rows, see `time_total`
LAYERS = {"64-64 batch 32": (64, 32), "784-784 batch 128": (784, 128)}


for _name, _each in [*vars(dense).items(), *vars(gather).items()]:
    _kernels = ("dense_", "gather", "require_", "check_")
    if _name.startswith(_kernels) and callable(_each) and _each not in {*PLANS, *SUMMED_IN_CHUNKS}:
        raise NotImplementedError(f"{_name} has no benchmark: say in PLANS which plan has it")


@measured(kernel=[kernel.__name__ for kernel in PLANS], layer=LAYERS, real=REALS)
def time_operation(kernel, layer, real):
    width, batch = LAYERS[layer]
    options = next(options for each, options in PLANS.items() if each.__name__ == kernel)
    return _seconds(kernel, width, batch, real, **options)


@measured(real=REALS)
def time_total(real):
    """The gradients of eight chunks of rows, added up."""
    return _seconds("dense_total", 16, 1024, real, task="gradient")


def _seconds(kernel, width, batch, real, **options):
    with running([width] * 3, batch, real=real, **options) as plan:
        rows = operation_seconds(plan)
    return max([seconds for name, *_, seconds in rows if f".{kernel}(" in name][-1], 1e-9)
