"""The records that kernels read: an operation of the program, and the context of the run.

A kernel is called as ``kernel(operation, context)`` with the addresses of two records in the device's memory.
Sizes count elements, addresses and strides (``*_row``, ``*_bytes``) count bytes. Every field is an int64: the
host writes it, the kernel reads ``op.n_in``. The fields are those of ``cpu/records.py`` where they mean the
same. All of a layer's parameters lie as on the host: W (n_in, n_out) in rows, then b, which is one row more.
"""

import numpy as np

from fastbp.cuda.simt import view


def _record(text):
    return np.dtype([(name, np.int64) for name in text.split()], align=True)


# One operation.
#
#   n_in, n_out, use_bias    sizes of the layer; whether there is a b
#   x, dx, x_row             its input and the gradient of its input, (rows, n_in)
#   z, y, dz, z_row          before and after the activation, gradient of z (or y), (rows, n_out)
#   kept_before              what the activation before this layer kept: y or z of the layer before
#   w, state_bytes           parameters; from a parameter to its first optimizer state, and on to the next
#   slots, slot_bytes        sums of gradients: the first, and from one to the next
#   hyper, bias_hyper        what the optimizer's settings are in this step, for W and for b
#   shaping                  where its numbers lie, see shaping.py; to Python a record has a `shape` itself
#   noise, collected         as in cpu/records.py
#   squares                  float64 sums over columns of the gradient
#   use_scale, numbers, purpose, kept, skip, dskip, skip_row     as in cpu/records.py
#   sums                     dγ and dβ over the whole batch, of a batch normalisation
OPERATION = _record(
    """n_in n_out use_bias
    x dx x_row z y dz z_row kept_before
    w state_bytes slots slot_bytes
    hyper bias_hyper
    shaping noise squares collected
    use_scale numbers purpose kept sums skip dskip skip_row"""
)

# The run.
#
#   x, targets, order, n_rows, weights       the data (of sparse rows x has three addresses, see gather.py);
#                                            order 0: as it comes
#   heads, following, by_class, class_starts, classes      of a shuffle, of balanced samples
#   row_losses, losses, outputs, option      losses: float64, one for each epoch of the run
#   row_scale, shortening, deviation         addresses of what a row of weight 1 counts in this batch, what
#                                            clipping multiplies the gradient by, and of this step's noise
#   batch_size, start, batch_rows, step, epoch, first_epoch, seed
#   chunk_rows                               rows summed into one gradient slot
#   careful, halt                            whether to end after a loss that is not finite; whether it has
#   settings, groups, hyper                  the optimizer's float64 settings, rows of ROOM; what the formula
#                                            makes of them in this step, of the type of the parameters
#   schedule, scheduled, momentum            settings of a schedule; a copy of `settings` as it makes them;
#                                            which of them is the momentum
#   continues                                whether losses of a batch are added to those of the last one
CONTEXT = _record(
    """x targets order n_rows weights
    heads following by_class class_starts classes
    row_losses losses outputs option row_scale shortening deviation
    batch_size start batch_rows step epoch first_epoch seed
    chunk_rows careful halt
    settings groups hyper schedule scheduled momentum
    continues"""
)

operation, context = view(OPERATION), view(CONTEXT)

REAL = {"float32": np.float32, "float64": np.float64}
