"""fastbp/cpu/dense.py, gather.py and the small ones: seconds of each operation of a real plan, in its place.

The layer that is measured is the second of two of equal size, so that it has a gradient of its inputs.
"""

from fastbp.cpu import dense, elementwise, gather, gemm, loss, scale_shift, step, team

from . import bench_layers
from .operations import kernels, operation_seconds, running
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
    elementwise.optimizer_prepare: dict(),
    step.end_of_step: dict(),
}
ELSEWHERE = {
    dense.dense_total: "time_total",  # a plan of few parameters and many rows
    gemm.matrix_product: "bench_gemm",
    elementwise.activation_forward: "bench_elementwise",
    elementwise.activation_backward: "bench_elementwise",
    loss.elementwise_loss: "bench_loss",
    loss.elementwise_link: "bench_loss",
    loss.softmax_loss: "bench_loss",
    loss.softmax_link: "bench_loss",
    loss.copy_outputs: "bench_loss",
    step.run_epochs: "bench_step",
    step.run_section: "bench_predict",
    elementwise.scheduled_settings: "bench_update",
    team.barrier: "bench_team",
    **dict.fromkeys(bench_layers.PLANS, "bench_layers"),
    scale_shift.scale_shift_total: "bench_layers",
}
LAYERS = {"64-64 batch 32": (64, 32), "784-784 batch 128": (784, 128)}


for _each in kernels():
    if _each not in {*PLANS, *ELSEWHERE}:
        raise NotImplementedError(
            f"{_each.__name__} has no benchmark: say in PLANS which plan has it, or in ELSEWHERE who does"
        )


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
