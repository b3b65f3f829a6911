"""How a step spends its time: each operation of a real plan, timed by itself while the step goes on.

python -m benchmarks.operations 784 128 10 --batch 128 --activation relu
"""

import argparse
import ctypes
import inspect
import pkgutil
import time
from contextlib import contextmanager
from importlib import import_module

import numpy as np

from fastbp import Dense, Network, cpu
from fastbp.cpu import cache, step, team
from fastbp.cpu.records import BLOCKS, CHUNKS, ONCE, SECTION
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.layout import aligned, aligned_zeros
from fastbp.plan import Plan
from fastbp.sparse import SparseRows, address_of

from .timing import least

# Targets (rows, outputs) that a loss of each kind takes; a new kind needs a row here.
TARGETS = {
    "real": lambda random, shape: random.standard_normal(shape),
    "binary": lambda random, shape: random.integers(0, 2, shape),
    "count": lambda random, shape: random.poisson(2.0, shape),
    "sign": lambda random, shape: random.choice([-1, 1], shape),
    "probabilities": lambda random, shape: random.dirichlet(np.ones(shape[1]), shape[0]),
    "classes": lambda random, shape: random.integers(0, shape[1], shape[0]),
}

# The time depends on none of them; they only have to keep numbers ordinary. Others are 0.1.
SETTINGS = {
    "learning_rate": 1e-6,
    "weight_decay": 1e-4,
    "decoupled_decay": 1e-4,
    "momentum": 0.9,
    "beta2": 0.999,
}


def kernels():
    """Every function in fastbp/cpu that describes a kernel."""
    found = []
    for _, name, _ in pkgutil.iter_modules(cpu.__path__):
        module = import_module(f"fastbp.cpu.{name}")
        for each in vars(module).values():
            if inspect.isfunction(each) and each.__module__ == module.__name__ and name != "records":
                source = inspect.getsource(each)
                if "\n    return kernel(" in source or "\n    return KERNEL, " in source:
                    found.append(each)
    return found


def named(operation):
    """The kernel of an operation as the cache names it: "dense.dense_forward(float32)"."""
    names = {found[0]: name for (name, _), found in cache._loaded.items()}
    return names[int(operation["kernel"])].removeprefix("fastbp.cpu.")


@contextmanager
def running(
    sizes, batch, *, activation="relu", loss="mean_squared_error", targets=None, optimizer="momentum",
    real="float32", task="train", threads=1, behind_first=None, input_scale=1.0, **options,
):  # fmt: skip
    """A plan with data of one batch, after its first step.

    targets : row of `TARGETS`, by default the loss's own; optimizer : row of ``OPTIMIZERS``; behind_first :
    a layer to put behind the first dense one.
    """
    layers = [Dense(n, activation) for n in sizes[1:-1]] + [Dense(sizes[-1])]
    layers[1:1] = [behind_first] if behind_first else []
    network = Network(layers, inputs=sizes[0], loss=loss, dtype=real, seed=0, input_scale=input_scale)
    random, targets = np.random.default_rng(0), targets or LOSSES[loss].targets
    if task == "train":
        options = dict(optimizer=optimizer) | options
    plan = Plan(network.architecture, task, batch, threads, **_kind(targets), **options)
    y = TARGETS[targets](random, (batch, sizes[-1]))
    arrays = dict(
        x=_inputs(random, (batch, sizes[0]), real, **options),
        targets=y.astype(np.int64 if targets == "classes" else real),
        order=random.permutation(batch),
        losses=np.zeros(1),
        row_losses=np.empty(batch, real),
        weights=random.uniform(0.5, 1.5, batch).astype(real),
        outputs=np.empty((batch, max(sizes[0], sizes[-1])), real),
    )
    settings = [SETTINGS.get(name, 0.1) for name in OPTIMIZERS[optimizer].settings]
    plan.settings[0, : len(settings)] = settings
    plan.schedule_settings[3:] = 3.0  # a schedule's own, behind those of warming up: that would come first
    plan.set(n_rows=batch, last_epoch=1, **{name: address_of(array) for name, array in arrays.items()})
    plan.pack(network.parameters)
    plan.run()
    yield plan
    del arrays, network  # alive until here: the plan holds bare addresses


def _inputs(random, shape, real, data="numbers", **others):
    """Rows of the kind; of sparse ones a twentieth is stored."""
    kind = data.removeprefix("sparse ")
    if kind == data:
        if kind == "bytes":
            return random.integers(0, 256, shape, np.uint8)
        return random.standard_normal(shape).astype(real)
    n, stored = shape[0], -(-shape[1] // 20)
    columns = np.sort([random.choice(shape[1], stored, replace=False) for _ in range(n)], axis=1)
    values = _inputs(random, (n, stored), real, kind)
    return SparseRows(values.ravel(), columns.ravel().astype(np.int32), stored * np.arange(n + 1), shape[1])


def _kind(targets):
    return {"targets": targets} if targets in ("classes", "probabilities") else {}


class Alone:
    """One operation of a running plan, so many times in one compiled call.

    Parameters
    ----------
    plan : Plan
    kernel : str
        Its name: "dense_forward". Where a program has several, the last layer's is meant.

    Attributes
    ----------
    operation : record
    rows : int
        Rows that one call works on: a block, or the batch in the second phase.
    """

    def __init__(self, plan, kernel, times=1):
        program, sections = plan.programs[0]
        places = [i for i, each in enumerate(program) if f".{kernel}(" in named(each)]
        place = max(places, key=lambda i: (program["w"][i], i))  # phase 1 comes back to the first layer
        over = next(over for first, last, over, _ in sections.tolist() if first <= place < last)
        self._operations, self._context = program[[place] * times], plan.contexts[:1].copy()
        self._operations["address"] = _addresses(self._operations)
        self.operation, context, self._times = self._operations[0], self._context[0], times
        batch = int(context["batch_rows"])
        self.rows = min(batch, _rows_at_a_time(context)[over])
        for field in ("row", "place", "block"):
            context[field] = 0
        context["rows"], context["address"] = self.rows, self._context.ctypes.data
        context["program"] = self._operations.ctypes.data
        self._sections = np.array([(0, times, 0, 0), (0, 0, 0, 0)], SECTION)
        self._run = team.function(cache.address(step.run_section))

    def seconds(self, *, before=None):
        """The least time of one operation, without what the call itself takes."""
        here, (work, nothing) = self._context.ctypes.data, _addresses(self._sections).tolist()
        calling = least(lambda: self._run(here, nothing), seconds=0.001)
        return max(least(lambda: self._run(here, work), before=before) - calling, 1e-12) / self._times

    def vary(self, field, n_bytes):
        """Let the field of each of the calls be the address of so many bytes of its own, which are 0."""
        self._memory = aligned_zeros(len(self._operations) * aligned(n_bytes))
        self._memory[:] = 0  # pages that nobody has written to are all one
        self._operations[field] = self._memory.ctypes.data + aligned(n_bytes) * np.arange(
            len(self._operations)
        )

    def matrix(self, field, columns, real):
        """What lies at an address of the operation's rows: (rows, columns), a view."""
        row = int(self.operation["z_row"])
        memory = (ctypes.c_byte * (self.rows * row)).from_address(int(self.operation[field]))
        return np.frombuffer(memory, real).reshape(self.rows, -1)[:, :columns]


def _rows_at_a_time(context):
    """Rows that a section's operations work on, by what it runs over."""
    fields = {ONCE: "batch_rows", BLOCKS: "block_rows", CHUNKS: "chunk_rows"}
    return {over: int(context[field]) for over, field in fields.items()}


def _addresses(records):
    return records.ctypes.data + records.itemsize * np.arange(len(records))


def operation_seconds(plan, seconds=0.05, steps=10):
    """The least time of every operation: list of (name, n_in, n_out, seconds); one step is their sum.

    The step is walked as `fastbp.cpu.step.run_batch` does, but each operation is called by itself; what
    calling takes is measured on the way and taken off. An operation by rows counts for all blocks.
    """
    program, sections = plan.programs[0]
    context, call = plan.contexts[0], team.function(cache.address(step.run_section))
    here, clock = int(context["address"]), time.perf_counter
    single = np.array([*((i, i + 1, 0, 0) for i in range(len(program))), (0, 0, 0, 0)], SECTION)
    *each, nothing = _addresses(single).tolist()
    best, calling, done, end = np.full(len(program), np.inf), np.inf, 0, clock() + seconds
    n, sizes = int(context["batch_rows"]), _rows_at_a_time(context)
    calls = np.ones(len(program))
    while done < steps or clock() < end:
        context["step"] += 1
        for first, last, over, _ in sections.tolist():
            size = sizes[over]
            blocks = -(-n // size)
            calls[first:last], spent = blocks, np.zeros(len(program))
            for block in range(blocks):
                context["block"], context["row"] = block, block * size
                context["rows"] = min(size, n - block * size)
                context["place"] = context["row"] * context["whole"]
                for i in range(first, last):
                    start = clock()
                    call(here, nothing)
                    middle = clock()
                    call(here, each[i])
                    spent[i] += clock() - middle
                    calling = min(calling, middle - start)
            best[first:last] = np.minimum(best[first:last], spent[first:last])
        done += 1
    return [
        (named(operation), int(operation["n_in"]), int(operation["n_out"]), max(float(taken), 0.0))
        for operation, taken in zip(program, best - calls * calling)
    ]


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operations", description=__doc__.splitlines()[0]
    )
    parser.add_argument("sizes", type=int, nargs="+", help="inputs, hidden units, outputs")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--loss", default="softmax_cross_entropy")
    parser.add_argument("--optimizer", default="momentum", choices=[*OPTIMIZERS])
    parser.add_argument("--real", default="float32", choices=["float32", "float64"])
    chosen = parser.parse_args()
    options = {name: getattr(chosen, name) for name in ("activation", "loss", "optimizer", "real")}
    with running(chosen.sizes, chosen.batch, **options) as plan:
        rows = operation_seconds(plan, seconds=1.0)
    outside = ("dense.dense_pack", "dense.dense_unpack")  # once a training, not once a step
    rows = [row for row in rows if not row[0].startswith(outside)]
    total = sum(row[-1] for row in rows)
    print(f"{'operation':44s} {'layer':>12s} {'µs':>9s} {'share':>7s} {'GFLOP/s':>9s}")
    for name, n_in, n_out, each in rows:
        product = any(
            each in name for each in ("dense_forward", "dense_backward", "dense_gradient", "dense_update")
        )
        rate = f"{2e-9 * chosen.batch * n_in * n_out / each:9.1f}" if product and each > 0 else ""
        name = name.split(".", 1)[1]  # without its module
        print(f"{name:44s} {f'{n_in}-{n_out}':>12s} {each * 1e6:9.2f} {each / total:7.1%} {rate}".rstrip())
    print(f"{'all, each called by itself':57s} {total * 1e6:9.2f}")


if __name__ == "__main__":
    main()
