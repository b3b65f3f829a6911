"""The records that kernels read: an operation of the program, the context of a thread.

A kernel is called as ``kernel(operation, context)`` with the addresses of two records. Sizes count elements,
addresses and strides (``*_row``, ``*_step``, ``*_bytes``) count bytes, so that most kernels need not know
the type. Every field is an int64: NumPy writes it, the kernel reads ``op.n_in``.
"""

import numpy as np
from numba import from_dtype, types
from numba.extending import intrinsic

from fastbp.cpu.native import part


def _record(text):
    return np.dtype([(name, np.int64) for name in text.split()], align=True)


# One operation of one thread.
#
#   kernel, address          the compiled kernel; where this record lies
#   n_in, n_out              sizes of the layer
#   x_columns, columns       n_in and n_out rounded up to whole vectors
#   use_bias                 whether there is a b
#   x, dx, x_row             its input and the gradient of its input, (rows, n_in); of the first layer perhaps
#                            the addresses of the rows of the data, (rows, 1) int64
#   z, y, dz, z_row          before and after the activation, gradient of z (or y), (rows, n_out)
#   w, wt                    packed weights and bias, packed transpose of the weights (0: none)
#   arena_bytes              from a parameter to its first optimizer state, and on to the next one
#   slots, slot_bytes        sums of gradients: the first, and from one to the next
#   gives_up                 whether those may be left midway when somebody wishes to stop
#   host, host_row           where this layer's W begins in the host's flat vector, and its rows; b follows
#   packed_x, packed_dz      this thread's memory for packed copies of x and dz, or 0
#   first_row, last_row, first_column, last_column      this thread's share of W
#   settings, bias_settings  the optimizer's float64 settings for W, and for b (0: the same)
#   schedule, scheduled      settings of a schedule; this thread's copy of `settings` as it makes them
#   momentum                 where the momentum lies in that copy
#   shaping, shape           kernel that shapes gradients, or 0; its float64 numbers (shaping.py)
#   noise                    number of the first block of random words of this layer's W
#   squares, collected       float64 sums over columns of the gradient; whether the first slot holds all of it
#   piece, row, rows, column, width, written        the piece of W that is shaped, see `shape_gradient`
#   use_scale, statistics    of a normalisation: whether there is a gamma; whether running statistics follow
#                            in the host's vector
#   numbers, purpose         a layer's float64 settings; what its random draws are for
#   kept                     what a normalisation keeps for its backward: 1 / deviation of each row, or mean,
#                            1 / deviation and what rounding left of the mean of each column
#   skip, dskip, skip_row    what a residual layer adds to its input x, the gradient of that, and its rows
#   product                  the kernel of its matrix product, see gemm.py, which reads
#   ahead, ahead_bytes, ahead_parts, also, also_apart, also_parts, and
#   m, n, k, a, a_at, a_row, a_step, one, b, b_panel, b_step, c0, c, c_row
OPERATION = _record(
    """kernel address
    n_in n_out x_columns columns use_bias
    x dx x_row z y dz z_row
    w wt arena_bytes slots slot_bytes gives_up host host_row
    packed_x packed_dz first_row last_row first_column last_column
    settings bias_settings schedule scheduled momentum
    shaping shape noise squares collected piece row rows column width written
    use_scale statistics numbers purpose kept skip dskip skip_row
    product ahead ahead_bytes ahead_parts also also_apart also_parts
    m n k a a_at a_row a_step one b b_panel b_step c0 c c_row"""
)

# What a thread knows while it runs.
#
#   address, program, sections, n_sections           where this record and the thread's program lie
#   thread, threads, shared, ticket                  who this is; SHARED; arrivals due at the next barrier
#   write_order                                      the kernel of an epoch's order
#   zeros, one, scratch                              zeros; a 1; this thread's own memory
#   host                                             the flat parameter (or gradient) vector of the host
#   x, targets, order, n_rows                        the data (order 0: as it comes)
#   row_losses, losses, outputs                      of each row; float64 sums of those by epoch; predictions
#   weights, row_scale, shortening                   a weight for each row of the data; addresses of this
#                                                    thread's float64: what a row of weight 1 counts in this
#                                                    batch, and what clipping multiplies the gradient by
#   batch_size, block_rows, whole                    rows of a batch and of a block; whether activations of
#                                                    all rows of the batch are kept (1), or of one block (0)
#   chunk_rows                                       rows summed into one gradient slot
#   epoch, first_epoch, last_epoch, shuffle, seed    epochs to run, and where the order of an epoch comes
#                                                    from: 0 the order that is there, 1 a shuffle, 2 draws
#   by_class, class_starts, classes                  for draws: rows of the data by their class, where each
#                                                    class begins and the last one ends, how many there are
#   begin, rest                                      rows that the first of them took in a run before; rows
#                                                    that the last one leaves to a run that follows
#   careful                                          whether a loss that is not finite ends the run
#   not_finite                                       set to 1 by the check of the rows
#   step, start, batch_rows                          this step, its first row in the order, its number of rows
#   row, rows, place, block                          this block: first row in the batch, rows, place in the
#                                                    workspace, which of all it is
#   hyper, bias_hyper                                what the optimizer's settings are in this step
#   option                                           address of the loss's one float64 option
CONTEXT = _record(
    """address program sections n_sections
    thread threads shared ticket
    write_order zeros one scratch host
    x targets order n_rows row_losses losses outputs weights row_scale shortening
    batch_size block_rows whole chunk_rows
    epoch first_epoch last_epoch begin rest shuffle seed by_class class_starts classes
    careful not_finite
    step start batch_rows
    row rows place block
    hyper bias_hyper option"""
)

# Operations [first, last) of a program, run once a step, or once for each of the thread's blocks of rows, or
# for each chunk of the batch. gives_up: whether a wish to stop ends the step here, see `step.run_batch`.
SECTION = _record("first last over gives_up")
ONCE, BLOCKS, CHUNKS = 0, 1, 2

# What threads share, each on a cache line of its own: arrivals at barriers; the wish to stop; whether a step
# is given up for it; the decision to stop, the same for all threads; steps done.
SHARED = np.dtype([(name, np.int64, 8) for name in ("arrived", "stop", "given_up", "halt", "steps")])
ARRIVED, STOP, GIVEN_UP, HALT, STEPS = (SHARED.fields[name][1] for name in SHARED.names)

# Wishes to stop: as soon as may be, a long step given up for it; or when the step has come to its end.
AT_ONCE, AFTER_STEP = 1, 2


def _view(dtype):
    """A function for kernels that takes the address of a record and returns the record."""
    kind = from_dtype(dtype)

    @intrinsic
    def record(typingctx, address):
        def codegen(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(kind))

        return kind(types.int64), codegen

    return record


operation, context, section = _view(OPERATION), _view(CONTEXT), _view(SECTION)

KERNEL = types.void(types.int64, types.int64)
REAL = {"float32": np.float32, "float64": np.float64}


def kernel(function):
    """What `cache.address` asks of a factory, for a kernel written on records: ``function(op, ctx)``."""
    body = part(function)

    def run(op_address, ctx_address):
        body(operation(op_address), context(ctx_address))

    return KERNEL, run
