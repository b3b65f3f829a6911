"""Every kernel that a network may ask for, from the tables of the formulas: for tests, and for a table.

Products come with every activation and optimizer in the small tile, and with one of them in the others.
"""

from typing import NamedTuple

from fastbp.cuda import (
    assembly,
    batch_norm,
    dense,
    device,
    dropout,
    elementwise,
    gather,
    layer_norm,
    loss,
    residual,
    scale_shift,
    shaping,
    small,
    step,
)
from fastbp.cuda.gemm import TILES, tile_named
from fastbp.cuda.rows import LANES
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.formulas.schedules import SCHEDULES

ELEMENTS, COLUMNS, BY_ROWS, ONE = 256, 64, LANES * 8, 1

# Kernels whose arithmetic is float64 even for float32 networks, as on the CPU: settings of an optimizer, sums
# of losses and weights, lengths of gradients and columns.
IN_FLOAT64 = {
    small.train_small, step.prepare, step.end_of_step, loss.total_weight, loss.weigh_rows,
    shaping.clip_factor, shaping.noise_of_step, dense.dense_collect, dense.dense_max_norm,
    scale_shift.scale_shift_collect,
}  # fmt: skip

_SINGLE = {
    gather.gather: ELEMENTS, gather.scale_rows: ELEMENTS, shaping.input_noise: ELEMENTS,
    shaping.clip_factor: ONE, shaping.noise_of_step: ONE, scale_shift.scale_shift_collect: COLUMNS,
    loss.softmax_link: BY_ROWS, loss.copy_outputs: ELEMENTS, loss.total_weight: ONE,
    loss.weigh_rows: ELEMENTS, step.end_of_step: ONE, dense.dense_collect: COLUMNS,
    dense.dense_max_norm: COLUMNS,
    scale_shift.scale_shift_gradient: COLUMNS, scale_shift.slots_total: COLUMNS,
    layer_norm.layer_norm_forward: BY_ROWS, layer_norm.layer_norm_backward: BY_ROWS,
    batch_norm.batch_norm_statistics: COLUMNS, batch_norm.batch_norm_running: COLUMNS,
    batch_norm.batch_norm_forward: ELEMENTS, batch_norm.batch_norm_backward: ELEMENTS,
    batch_norm.batch_norm_backward_running: ELEMENTS, dropout.dropout_forward: ELEMENTS,
    dropout.dropout_backward: ELEMENTS, residual.residual_forward: ELEMENTS,
    residual.residual_backward: ELEMENTS, residual.residual_skip_backward: ELEMENTS,
}  # fmt: skip
_WITHOUT_TYPE = {
    step.begin_step: ONE, step.end_of_batch: ONE, step.shuffle_empty: ELEMENTS, step.shuffle_draw: ELEMENTS,
    step.shuffle_write: ELEMENTS, step.sample_balanced: ELEMENTS,
}  # fmt: skip


class Item(NamedTuple):
    """A kernel: its factory, what that is called with, and threads of a block."""

    factory: object
    arguments: tuple
    threads: int

    @property
    def name(self):
        """As in the table."""
        return f"{self.factory.__name__}({', '.join(map(str, self.arguments))})"

    @property
    def is_product(self):
        """Whether it is a matrix product."""
        return self.factory in (
            dense.dense_forward, dense.dense_backward, dense.dense_gradient, dense.dense_update
        )  # fmt: skip

    def assembled(self, *capabilities):
        """(compute capability, PTX, what ptxas makes of it) for each; taken apart if it is a product."""
        texts = device.compile_ptx(self.factory, self.arguments, *capabilities)
        for capability, ptx in zip(capabilities, texts, strict=True):
            yield capability, ptx, assembly.assemble(ptx, capability, disassemble=self.is_product)


def items(real):
    """All kernels for a type of numbers, as `Item`."""
    found = [Item(factory, (real,), threads) for factory, threads in _SINGLE.items()]
    found += [Item(factory, (), threads) for factory, threads in _WITHOUT_TYPE.items()]
    found += [Item(gather.gather_scaled, (data, real), ELEMENTS) for data in ("bytes", "numbers")]
    for name in ACTIVATIONS:
        if name != "identity":
            found.append(Item(elementwise.activation_backward, (name, real), ELEMENTS))
        found += [_product(f, (name,), "small", real) for f in (dense.dense_forward, dense.dense_backward)]
    for name, row in LOSSES.items():
        if row.rowwise:
            found += [Item(loss.softmax_loss, (t, real), BY_ROWS) for t in ("classes", "probabilities")]
        else:
            found.append(Item(loss.elementwise_loss, (name, real), BY_ROWS))
            found.append(Item(loss.elementwise_link, (name, real), ELEMENTS))
    for name in OPTIMIZERS:
        found.append(Item(step.prepare, (name, "", real), ONE))
        found.append(Item(scale_shift.scale_shift_apply, (name, 0, real), COLUMNS))
        found.append(_product(dense.dense_update, (name, 0), "small", real))
        found += [Item(dense.dense_apply, (name, shaped, real), ELEMENTS) for shaped in (0, 1)]
    found.append(Item(scale_shift.scale_shift_apply, ("momentum", 1, real), COLUMNS))
    found += [Item(step.prepare, ("nesterov", name, real), ONE) for name in SCHEDULES]
    # One for each way to keep what the backward needs, each kind of loss, each number of states.
    found += [_small(hidden=name, real=real) for name in ("tanh", "gelu")]
    found += [_small(loss=name, real=real) for name in ("huber", "softmax_cross_entropy")]
    found += [_small(optimizer=name, real=real) for name in ("sgd", "adam", "amsgrad")]
    for tile in TILES:
        found += [
            _product(factory, arguments, tile, real)
            for factory, arguments in (
                (dense.dense_forward, ("relu",)), (dense.dense_backward, ("relu",)),
                (dense.dense_gradient, ()), (dense.dense_update, ("adam", 0)),
                (dense.dense_update, ("adam", 1)),
            )
        ]  # fmt: skip
    return list(dict.fromkeys(found))


def _small(*, hidden="tanh", loss="softmax_cross_entropy", optimizer="momentum", real):
    targets = "classes" if LOSSES[loss].rowwise else "probabilities"
    threads = small.THREADS[0] * small.THREADS[1]
    return Item(small.train_small, (hidden, "identity", loss, targets, optimizer, real), threads)


def _product(factory, arguments, tile, real):
    return Item(factory, (*arguments, tile, real), tile_named(tile, real).threads)


def main_items(real):
    """Those of `items` that a table shows: one kernel of each kind, products in every tile."""
    seen, kept = set(), []
    for item in items(real):
        shown = item.arguments[:1] and item.arguments[0] in ("relu", "adam", *TILES)
        if shown if item.is_product else item.factory not in seen:
            kept.append(item)
        seen.add(item.factory)
    return kept


def table(capability=(9, 0), real="float32"):
    """Give a line for each of the main kernels: registers, shared memory, occupancy, share of FFMA."""
    name = "FFMA" if real == "float32" else "DFMA"
    yield f"{'kernel, sm_{}{}'.format(*capability):52} registers   shared  stack  occupancy  {name}"
    for item in main_items(real):
        ((_, _, found),) = item.assembled(capability)
        share, line = "", f"{item.name:52} {found.registers:9}  {found.shared:7}  {found.stack:5}"
        if item.is_product:
            multiply_adds, all_of_them = assembly.inner_loop(found.sass, name)
            share = f"{multiply_adds / all_of_them:5.0%}"
        yield f"{line}  {assembly.occupancy(found, item.threads, capability):9.0%} {share}".rstrip()
