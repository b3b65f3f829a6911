"""How a step spends its time: each operation of a real plan, timed by itself while the step goes on.

python -m benchmarks.operations 784 128 10 --batch 128 --activation relu
"""

import argparse
import time
from contextlib import contextmanager

import numpy as np

from fastbp import SGD, Network
from fastbp.cpu import cache, step, team
from fastbp.cpu.program import SECTION
from fastbp.plan import Plan


def named(operation):
    """The kernel of an operation as the cache names it: "dense.dense_forward(float32)"."""
    names = {found[0]: name for (name, _), found in cache._loaded.items()}
    return names[int(operation["kernel"])].removeprefix("fastbp.cpu.")


@contextmanager
def running(
    sizes, batch, *, activation="relu", loss="mean_squared_error", real="float32", task="train", **options
):
    """A plan for one thread with data of one batch, about to make steps."""
    network = Network(sizes, activation=activation, loss=loss, dtype=real, seed=0)
    random, optimizer = np.random.default_rng(0), SGD(1e-4, momentum=0.9)
    options = dict(optimizer=optimizer.formula) | options if task == "train" else options
    plan = Plan(network.architecture, task, batch, 1, **options)
    x = random.standard_normal((batch, sizes[0])).astype(real)
    classes = network.loss_function.formula.targets == "classes"
    y = random.integers(0, sizes[-1], batch) if classes else np.full((batch, sizes[-1]), 0.5, real)
    order, losses, row_losses = random.permutation(batch), np.zeros(1), np.empty(batch, real)
    outputs = np.empty((batch, sizes[-1]), real)
    plan.settings[: len(optimizer.settings)] = optimizer.settings
    addresses = dict(x=x, targets=y, order=order, losses=losses, row_losses=row_losses, outputs=outputs)
    plan.set(n_rows=batch, batch_rows=batch, **{name: each.ctypes.data for name, each in addresses.items()})
    plan.pack(network.parameters)
    yield plan
    del addresses, network  # alive until here: the plan holds bare addresses


def operation_seconds(plan, seconds=0.05, steps=10):
    """The least time of every operation: list of (name, n_in, n_out, seconds); one step is their sum.

    The step is walked as `fastbp.cpu.step.run_batch` does, but each operation is called by itself; what
    calling takes is measured on the way and taken off. An operation by rows counts for all blocks.
    """
    program, sections = plan._programs[0]
    context, call = plan.contexts[0], team.function(cache.address(step.run_section))
    here, clock = int(context["address"]), time.perf_counter
    single = np.array([*((i, i + 1, 0) for i in range(len(program))), (0, 0, 0)], SECTION)
    *each, nothing = (single.ctypes.data + SECTION.itemsize * np.arange(len(single))).tolist()
    best, calling, done, end = np.full(len(program), np.inf), np.inf, 0, clock() + seconds
    n, size = int(context["batch_rows"]), int(context["block_rows"])
    calls = np.ones(len(program))
    while done < steps or clock() < end:
        context["step"] += 1
        for first, last, by_rows in sections.tolist():
            blocks = -(-n // size) if by_rows else 1
            calls[first:last], spent = blocks, np.zeros(len(program))
            for block in range(blocks):
                context["block"], context["row"] = block, block * size * by_rows
                context["rows"] = min(size, n - block * size) if by_rows else n
                context["slot"] = context["row"] * context["whole"]
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
    parser.add_argument("--real", default="float32", choices=["float32", "float64"])
    chosen = parser.parse_args()
    options = dict(activation=chosen.activation, loss=chosen.loss, real=chosen.real)
    with running(chosen.sizes, chosen.batch, **options) as plan:
        rows = operation_seconds(plan, seconds=1.0)
    outside = ("dense.dense_pack", "dense.dense_unpack")  # once a training, not once a step
    total = sum(row[-1] for row in rows if not row[0].startswith(outside))
    print(f"{'operation':44s} {'layer':>12s} {'µs':>9s} {'share':>7s} {'GFLOP/s':>9s}")
    for name, n_in, n_out, each in rows:
        product = "dense_forward" in name or "dense_backward" in name or "dense_update" in name
        rate = f"{2e-9 * chosen.batch * n_in * n_out / each:9.1f}" if product and each > 0 else ""
        share = "" if name.startswith(outside) else f"{each / total:7.1%}"
        print(f"{name:44s} {f'{n_in}-{n_out}':>12s} {each * 1e6:9.2f} {share:>7s} {rate}")
    print(f"{'a step, one thread':57s} {total * 1e6:9.2f}")


if __name__ == "__main__":
    main()
