"""Every kernel that a network may ask for, from the tables of the formulas: for tests, and for a table.

Products come with every activation and optimizer in the small tile, and with one of them in the others.
"""

from typing import NamedTuple

from fastbp.cuda import assembly, device, kernels, small
from fastbp.cuda.gemm import TILES, tile_named
from fastbp.cuda.rows import LANES
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.formulas.schedules import SCHEDULES

ELEMENTS, COLUMNS, BY_ROWS, ONE = 256, 64, LANES * 8, 1

_SINGLE = {
    kernels.hand_back: ELEMENTS,
    kernels.gather: ELEMENTS, kernels.empty_rows: ELEMENTS, kernels.scale_rows: ELEMENTS,
    kernels.input_noise: ELEMENTS,
    kernels.clip_factor: ONE, kernels.noise_of_step: ONE, kernels.scale_shift_collect: COLUMNS,
    kernels.softmax_link: BY_ROWS, kernels.copy_outputs: ELEMENTS, kernels.total_weight: ONE,
    kernels.weigh_rows: ELEMENTS, kernels.end_of_step: ONE, kernels.dense_collect: COLUMNS,
    kernels.dense_max_norm: COLUMNS,
    kernels.scale_shift_gradient: COLUMNS, kernels.slots_total: COLUMNS,
    kernels.layer_norm_forward: BY_ROWS, kernels.layer_norm_backward: BY_ROWS,
    kernels.batch_norm_statistics: COLUMNS, kernels.batch_norm_running: COLUMNS,
    kernels.batch_norm_forward: ELEMENTS, kernels.batch_norm_backward: ELEMENTS,
    kernels.batch_norm_backward_running: ELEMENTS, kernels.dropout_forward: ELEMENTS,
    kernels.dropout_backward: ELEMENTS, kernels.residual_forward: ELEMENTS,
    kernels.residual_skip_backward: ELEMENTS,
}  # fmt: skip
# Activations of hidden layers in one block: among them one that keeps y and one that keeps z.
SEVERAL = "gelu identity tanh"

_WITHOUT_TYPE = {kernels.begin_step: ONE, kernels.end_of_batch: ONE}


class Item(NamedTuple):
    """A kernel: its factory, what that is called with, and threads of a block."""

    factory: object
    arguments: tuple
    threads: int

    @property
    def name(self):
        """As in the table."""
        return f"{self.factory.__name__}({', '.join(str(each) for each in self.arguments if each != '')})"

    @property
    def is_product(self):
        """Whether it is a matrix product."""
        return self.factory in (
            kernels.dense_forward, kernels.dense_backward, kernels.dense_gradient, kernels.dense_update
        )  # fmt: skip

    def assembled(self, *capabilities):
        """(compute capability, PTX, what ptxas makes of it) for each; taken apart if it is a product."""
        texts = device.compile_ptx(self.factory, self.arguments, *capabilities)
        asked = small.MOST_BYTES if self.factory is kernels.train_small else 0  # at its launch, at most
        for capability, ptx in zip(capabilities, texts, strict=True):
            found = assembly.assemble(ptx, capability, disassemble=self.is_product)
            yield capability, ptx, found._replace(shared=found.shared + asked)


def items(real):
    """All kernels for a type of numbers, as `Item`."""
    found = [Item(factory, (real,), threads) for factory, threads in _SINGLE.items()]
    found += [Item(factory, (), _WITHOUT_TYPE.get(factory, ELEMENTS)) for factory in kernels.WITHOUT_TYPE]
    for data in ("bytes", "numbers"):
        found.append(Item(kernels.gather_scaled, (data, real), ELEMENTS))
        found.append(Item(kernels.gather_sparse, (data, real), BY_ROWS))
    for name in ACTIVATIONS:
        if name != "identity":
            found.append(Item(kernels.activation_take, (name, real), ELEMENTS))
            found.append(Item(kernels.activation_backward, (name, real), ELEMENTS))
        found += [
            _product(f, (name,), "small", real) for f in (kernels.dense_forward, kernels.dense_backward)
        ]
    for name, row in LOSSES.items():
        if row.rowwise:
            found += [Item(kernels.softmax_loss, (t, real), BY_ROWS) for t in ("classes", "probabilities")]
        else:
            found.append(Item(kernels.elementwise_loss, (name, real), BY_ROWS))
            found.append(Item(kernels.elementwise_link, (name, real), ELEMENTS))
    for name in OPTIMIZERS:
        found.append(Item(kernels.prepare, (name, "", real), ONE))
        found.append(Item(kernels.scale_shift_apply, (name, 0, real), COLUMNS))
        found.append(_product(kernels.dense_update, (name, 0), "small", real))
        found += [Item(kernels.dense_apply, (name, shaped, real), ELEMENTS) for shaped in (0, 1)]
    found.append(Item(kernels.scale_shift_apply, ("momentum", 1, real), COLUMNS))
    found += [Item(kernels.prepare, ("nesterov", name, real), ONE) for name in SCHEDULES]
    # One for each way to keep what the backward needs, each kind of loss, each number of states; and one for
    # each thing that may come to it.
    found += [_small(hidden=names, real=real) for names in ("tanh", "gelu", SEVERAL)]
    found += [_small(loss=name, real=real) for name in ("huber", "softmax_cross_entropy")]
    found += [_small(optimizer=name, real=real) for name in ("sgd", "adam", "amsgrad")]
    found += [_small(data=data, real=real) for data in ("bytes", "sparse numbers", "sparse bytes")]
    found += [_small(schedule=name, real=real) for name in ("cosine", "one_cycle")]
    found += [_small(weighted=1, real=real), *(_small(shaped=how, real=real) for how in (1, 2))]
    found.append(_small(hidden="gelu", optimizer="amsgrad", data="sparse bytes", schedule="one_cycle",
                        weighted=1, shaped=2, real=real))  # fmt: skip
    for tile in TILES[real]:
        found += [
            _product(factory, arguments, tile, real)
            for factory, arguments in (
                (kernels.dense_forward, ("relu",)), (kernels.dense_backward, ("relu",)),
                (kernels.dense_gradient, ()), (kernels.dense_update, ("adam", 0)),
                (kernels.dense_update, ("adam", 1)),
            )
        ]  # fmt: skip
    return list(dict.fromkeys(found))


def _small(
    *, hidden="tanh", loss="softmax_cross_entropy", data="numbers", optimizer="momentum", schedule="",
    weighted=0, shaped=0, real,
):  # fmt: skip
    targets = "classes" if LOSSES[loss].rowwise else "probabilities"
    kind = small.Kind(
        hidden, "identity", loss, targets, data, optimizer, schedule, weighted, shaped, real
    )  # fmt: skip
    return Item(kernels.train_small, kind, small.THREADS[0] * small.THREADS[1])


def _product(factory, arguments, tile, real):
    return Item(factory, (*arguments, tile, real), tile_named(tile, real).threads)


def main_items(real):
    """Those of `items` that a table shows: one kernel of each kind, products in every tile."""
    seen, kept = set(), []
    for item in items(real):
        shown = item.arguments[:1] and item.arguments[0] in ("relu", "adam", *TILES["float32"])
        if shown if item.is_product else item.factory not in seen:
            kept.append(item)
        seen.add(item.factory)
    return kept


def table(capability=(9, 0), real="float32"):
    """Give a line for each of the main kernels: registers, shared memory, occupancy, share of FFMA."""
    name, shown = "FFMA" if real == "float32" else "DFMA", main_items(real)
    width = max(len(item.name) for item in shown)
    yield f"{'kernel, sm_{}{}'.format(*capability):{width}} registers   shared  stack  occupancy  {name}"
    for item in shown:
        ((_, _, found),) = item.assembled(capability)
        share, line = "", f"{item.name:{width}} {found.registers:9}  {found.shared:7}  {found.stack:5}"
        if item.is_product:
            multiply_adds, all_of_them = assembly.inner_loop(found.sass, name)
            share = f"{multiply_adds / all_of_them:5.0%}"
        yield f"{line}  {assembly.occupancy(found, item.threads, capability):9.0%} {share}".rstrip()
