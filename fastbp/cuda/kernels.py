"""Every kernel by its name: what a plan launches, and what the inventory goes through.

Each is a function ``factory(*arguments, real)``, `real` the type of its numbers; those of `WITHOUT_TYPE` are
called without.
"""

# ruff: noqa: F401    (names, nothing else)

from fastbp.cuda.activation import activation_take
from fastbp.cuda.batch_norm import (
    batch_norm_backward,
    batch_norm_backward_running,
    batch_norm_forward,
    batch_norm_running,
    batch_norm_statistics,
)
from fastbp.cuda.dense import (
    dense_apply,
    dense_backward,
    dense_collect,
    dense_forward,
    dense_gradient,
    dense_max_norm,
    dense_update,
)
from fastbp.cuda.dropout import dropout_backward, dropout_forward
from fastbp.cuda.elementwise import activation_backward, hand_back
from fastbp.cuda.gather import empty_rows, gather, gather_scaled, gather_sparse, scale_rows
from fastbp.cuda.layer_norm import layer_norm_backward, layer_norm_forward
from fastbp.cuda.loss import (
    copy_outputs,
    elementwise_link,
    elementwise_loss,
    softmax_link,
    softmax_loss,
    total_weight,
    weigh_rows,
)
from fastbp.cuda.residual import residual_forward, residual_skip_backward
from fastbp.cuda.scale_shift import scale_shift_apply, scale_shift_collect, scale_shift_gradient, slots_total
from fastbp.cuda.shaping import clip_factor, input_noise, noise_of_step
from fastbp.cuda.small import train_small
from fastbp.cuda.step import (
    begin_step,
    end_of_batch,
    end_of_step,
    prepare,
    sample_balanced,
    shuffle_draw,
    shuffle_empty,
    shuffle_write,
)

# Of integers alone.
WITHOUT_TYPE = begin_step, end_of_batch, shuffle_empty, shuffle_draw, shuffle_write, sample_balanced
