"""The kernels of layers that are not dense: seconds of each operation, in a real plan.

The layer stands behind the first of two dense ones of equal size.
"""

import fastbp
from fastbp.cpu import activation, batch_norm, dropout, elementwise, layer_norm, residual, scale_shift
from fastbp.shaping import Shaping

from .operations import operation_seconds, running
from .timing import REALS, measured

BLOCK = fastbp.Residual([fastbp.LayerNorm()])


def _shaped(**options):
    return dict(shaping=Shaping(((0.0, 0.0),) * 3, (0.0,) * 3, **options))


# Which layer has an operation, and what else its plan is asked for.
PLANS = {
    activation.activation_take: (fastbp.Activation("relu"), dict()),
    elementwise.hand_back: (fastbp.Activation("relu"), dict()),
    dropout.dropout_forward: (fastbp.Dropout(0.5), dict()),
    dropout.dropout_backward: (fastbp.Dropout(0.5), dict()),
    layer_norm.layer_norm_forward: (fastbp.LayerNorm(), dict()),
    layer_norm.layer_norm_backward: (fastbp.LayerNorm(), dict()),
    scale_shift.scale_shift_update: (fastbp.LayerNorm(), dict()),
    scale_shift.scale_shift_gradient: (fastbp.BatchNorm(), dict()),
    scale_shift.scale_shift_apply: (fastbp.BatchNorm(), dict()),
    scale_shift.scale_shift_collect: (fastbp.LayerNorm(), _shaped(clip_norm=1.0)),
    scale_shift.scale_shift_pack: (fastbp.LayerNorm(), dict()),
    scale_shift.scale_shift_unpack: (fastbp.LayerNorm(), dict()),
    batch_norm.batch_norm_statistics: (fastbp.BatchNorm(), dict()),
    batch_norm.batch_norm_forward: (fastbp.BatchNorm(), dict()),
    batch_norm.batch_norm_backward: (fastbp.BatchNorm(), dict()),
    batch_norm.batch_norm_running: (fastbp.BatchNorm(), dict(task="predict")),
    batch_norm.batch_norm_backward_running: (fastbp.BatchNorm(), dict(task="gradient")),
    residual.residual_forward: (BLOCK, dict()),
    residual.residual_skip_backward: (BLOCK, dict()),
}
SHAPES = {
    "nothing": dict(),
    "clip_value": _shaped(clip_value=1.0),
    "noise": _shaped(gradient_noise=1e-9),
    "annealed noise": _shaped(gradient_noise=1e-9, gradient_noise_decay=0.55),
}
SIZES = {"64 batch 32": (64, 32), "256 batch 128": (256, 128)}


@measured(real=REALS)
def time_total(real):
    """The gradients of eight chunks of rows, added up."""
    return _seconds("scale_shift_total", fastbp.LayerNorm(), 16, 1024, real, task="gradient")


@measured(kernel=[kernel.__name__ for kernel in PLANS], size=SIZES, real=REALS)
def time_operation(kernel, size, real):
    width, batch = SIZES[size]
    layer, options = next(plan for each, plan in PLANS.items() if each.__name__ == kernel)
    return _seconds(kernel, layer, width, batch, real, **options)


@measured(shape=SHAPES, size=SIZES, real=REALS)
def time_shaping(shape, size, real):
    """The update of a scale and a shift whose gradients are shaped; beside it without anything to do."""
    width, batch = SIZES[size]
    return _seconds("scale_shift_update", fastbp.LayerNorm(), width, batch, real, **SHAPES[shape])


def _seconds(kernel, layer, width, batch, real, **options):
    with running([width] * 3, batch, real=real, behind_first=layer, **options) as plan:
        rows = operation_seconds(plan)
    return max([seconds for name, *_, seconds in rows if f".{kernel}(" in name][-1], 1e-9)
