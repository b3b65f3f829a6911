"""fastbp/cpu/dense.py, gather.py and the small ones: seconds of each operation of a real plan, in its place.

The layer that is measured is the second of two of equal size, so that it has a gradient of its inputs.
"""

from fastbp.cpu import dense, elementwise, gather, gemm, loss, scale_shift, shaping, step, team, tiny
from fastbp.shaping import Shaping

from . import bench_layers
from .operations import kernels, operation_seconds, running
from .timing import REALS, measured

# Of a plan with two layers; noise is most of the work that there may be.
NOISE = dict(shaping=Shaping(((0.0, 0.0),) * 2, (0.0,) * 2, gradient_noise=1e-9, input_noise=1e-9))
PENALTIES = dict(shaping=Shaping(((1e-9, 1e-9),) * 2, (1.0,) * 2, clip_norm=1.0))

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
    gather.find_rows: dict(),
    gather.gather: NOISE,
    gather.gather_scaled: dict(data="bytes"),
    gather.gather_sparse: dict(data="sparse numbers"),
    gather.scale_rows: dict(task="predict", staged=True, input_scale=0.5),
    gather.require_finite: dict(task="predict", staged=True),
    gather.check_rows: dict(task="predict"),
    elementwise.optimizer_prepare: dict(),
    step.end_of_step: dict(),
    dense.dense_collect: PENALTIES,
    dense.dense_max_norm: PENALTIES,
    shaping.clip_factor: PENALTIES,
    shaping.input_noise: NOISE,
    loss.total_weight: dict(weighted=True),
    loss.weigh_rows: dict(weighted=True),
}
ELSEWHERE = {
    dense.dense_total: "time_total",  # a plan of few parameters and many rows
    gemm.matrix_product: "bench_gemm",
    tiny.tiny_forward: "bench_step",  # of 2-1-1
    tiny.tiny_backward: "bench_step",
    tiny.tiny_update: "bench_step",
    shaping.shape_gradient: "time_shaping",  # the update calls it
    elementwise.activation_forward: "bench_elementwise",
    elementwise.activation_backward: "bench_elementwise",
    loss.elementwise_loss: "bench_loss",
    loss.elementwise_link: "bench_loss",
    loss.softmax_loss: "bench_loss",
    loss.softmax_link: "bench_loss",
    loss.copy_outputs: "bench_loss",
    elementwise.scheduled_settings: "bench_update",
    step.run_epochs: "bench_step",
    step.write_order: "bench_step",
    step.run_section: "bench_predict",
    team.barrier: "bench_team",
    **dict.fromkeys(bench_layers.PLANS, "bench_layers"),
    scale_shift.scale_shift_total: "bench_layers",
    scale_shift.scale_shift_shape: "bench_layers",  # the update calls it
}
SHAPES = {
    "nothing": dict(),
    "penalties": dict(shaping=Shaping(((1e-9, 1e-9),) * 2, (0.0,) * 2)),
    "clip_value": dict(shaping=Shaping(((0.0, 0.0),) * 2, (0.0,) * 2, clip_value=1.0)),
    "noise": NOISE,
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


@measured(shape=SHAPES, layer=LAYERS, real=REALS)
def time_shaping(shape, layer, real):
    """The update of a layer whose gradient is shaped; beside it without anything to do."""
    width, batch = LAYERS[layer]
    return _seconds("dense_update", width, batch, real, **SHAPES[shape])


def _seconds(kernel, width, batch, real, **options):
    with running([width] * 3, batch, real=real, **options) as plan:
        rows = operation_seconds(plan)
    return max([seconds for name, *_, seconds in rows if f".{kernel}(" in name][-1], 1e-9)
