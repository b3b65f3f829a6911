"""Measure fastbp beside the other libraries that are installed.

Each library trains in a process of its own. All take turns, round after round, so that what disturbs the
machine disturbs them alike; what is told is the median of the rounds and half the range of their middle half.
Every library has the same data, first parameters, batch size, optimizer and shuffling (of rows that are more
than a batch), and the threads it is fastest with. The same turns measure what the machine gives meanwhile:
the peak of its multiply-adds, and a barrier, which tells how far apart the cores are.

    python -m benchmarks.peers                                  the ten cases
    python -m benchmarks.peers 784-128 --rounds 3               those whose name begins so
    python -m benchmarks.peers --sizes 20 50 3 --batch 16 --activation tanh
    python -m benchmarks.peers --odd                            shapes nobody tunes for, and the nearest cases
    python -m benchmarks.peers --verify                         that all compute the same, without timing
"""

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path

import numpy as np

from fastbp.division import available_cores as cores

from . import report
from .cases import CASES, ODD, Case
from .worker import Worker

# Libraries that choose their threads themselves, or are told to take one.
OTHERS = [("JAX", "train_jax"), ("scikit-learn", "train_sklearn"), ("NumPy", "train_numpy")]


def entrants(wanted=None):
    """(label, module, threads) of all who take part; threads None: as the library likes."""
    one_or_all = sorted({1, cores()})
    everyone = [
        ("fastbp", "train_fastbp", None),
        ("fastbp, 1 thread", "train_fastbp", 1),
        *(("PyTorch", "train_pytorch", threads) for threads in one_or_all),
        *(("PyTorch compiled", "train_pytorch_compiled", threads) for threads in one_or_all),
        *((label, module, threads) for label, module in OTHERS for threads in (None, *one_or_all[:-1])),
        ("FANN", "train_fann", None),
    ]
    if not wanted:
        return everyone
    return [
        each for each in everyone if each[1] == "train_fastbp" or each[1].removeprefix("train_") in wanted
    ]


def start(wanted=None):
    """[(label, Worker)] of the libraries that are installed; tells which are not."""
    workers, missing = [], set()
    for label, module, threads in entrants(wanted):
        if module in missing:
            continue
        worker = Worker(module, threads)
        if "error" in worker.about:
            missing.add(module)
            print(f"without {label}: {worker.about['error']}", file=sys.stderr)
        else:
            workers.append((label, worker))
    return workers


def measure(case, workers, rounds, seconds, peaks, barriers):
    """Entries of a case: label, threads, seconds per step by round; fills ``peaks`` (threads: list), and
    ``barriers`` with seconds where there is more than one core.
    """
    entries = []
    fields = dataclasses.asdict(case)
    for label, worker in workers:
        told = worker.ask(do="prepare", case=fields)
        entry = dict(label=label, threads=told.get("threads"), rounds=[], error=told.get("error"))
        entry["first_seconds"] = told.get("first_seconds")
        entries.append(entry)
        if entry["threads"]:
            peaks.setdefault(min(entry["threads"], cores()), [])
    ours = workers[0][1]
    for _ in range(rounds):
        for entry, (_, worker) in zip(entries, workers):
            if entry["error"] is None:
                told = worker.ask(do="round", seconds=seconds)
                entry["error"] = told.get("error")
                if entry["error"] is None:
                    entry["rounds"].append(told["seconds"] / (told["steps"] or case.steps))
        for threads, rates in peaks.items():
            rates.append(ours.ask(do="peak", threads=threads, seconds=0.05)["gflops"])
        if cores() > 1:
            barriers.append(ours.ask(do="barrier", threads=cores())["seconds"])
    return [report.summary(entry) if entry["rounds"] else entry for entry in entries]


def verify(case, workers, epochs=10):
    """Train all on few rows, in one batch, so that no order matters: {label: largest difference}."""
    few = dataclasses.replace(case, rows=min(128, case.rows), batch=None, learning_rate=0.01)
    told = {}
    for label, worker in workers:
        answer = worker.ask(do="outputs", case=dataclasses.asdict(few), epochs=epochs)
        if "outputs" in answer:
            told[label] = np.array(answer["outputs"])
    first = next(iter(told.values()))
    differences = {}
    for label, outputs in told.items():
        if few.classes:  # scikit-learn tells only probabilities: logits up to a constant
            outputs, reference = (each - each.mean(axis=1, keepdims=True) for each in (outputs, first))
        else:
            reference = first
        differences[label] = float(np.abs(outputs - reference).max() / np.abs(reference).max())
    return differences


def chosen_cases(arguments):
    """The cases that the command line asks for."""
    if arguments.sizes:
        return [
            Case(
                tuple(arguments.sizes), arguments.activation, arguments.batch or None, arguments.rows,
                arguments.optimizer, arguments.loss,
            )
        ]  # fmt: skip
    cases = list(dict.fromkeys([*ODD, *ODD.values()])) if arguments.odd else CASES
    return [case for case in cases if not arguments.cases or any(map(case.name.startswith, arguments.cases))]


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", help="beginnings of names of cases; all without")
    parser.add_argument(
        "--sizes", type=int, nargs="+", help="a network of your own: inputs, hidden units, outputs"
    )
    parser.add_argument("--activation", default="relu", help="of its hidden layers (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="rows per step; 0: all (%(default)s)")
    parser.add_argument("--rows", type=int, default=8192, help="rows of data (%(default)s)")
    parser.add_argument("--optimizer", default="momentum", choices=["momentum", "adam"])
    losses = ["softmax_cross_entropy", "mean_squared_error"]
    parser.add_argument(
        "--loss", choices=losses, help="by default the first for ten outputs, else the second"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns that each library has (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a turn is (%(default)s)")
    others = "pytorch, pytorch_compiled, jax, sklearn, numpy, fann"
    parser.add_argument("--only", nargs="+", metavar="LIBRARY", help=f"beside fastbp: {others}")
    parser.add_argument(
        "--output", type=Path, default=Path(".asv/peers"), help="folder for results (%(default)s)"
    )
    parser.add_argument("--odd", action="store_true", help="shapes nobody tunes for, and the nearest cases")
    parser.add_argument("--verify", action="store_true", help="see that all compute the same, and stop")
    arguments = parser.parse_args()
    cases = chosen_cases(arguments)
    if not cases:
        parser.error("no case's name begins so; they are " + "; ".join(case.name for case in CASES))

    workers = start(arguments.only)
    try:
        if arguments.verify:
            return show_agreement(cases, workers)
        results = run(cases, workers, arguments)
        print(report.overview(results) + "\n")
        if arguments.odd:
            print("\n".join(report.held(results, ODD)) + "\n")
    finally:
        for _, worker in workers:
            worker.close()
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "peers.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"{arguments.output / 'peers.json'}")
    try:
        report.plot(results, arguments.output / "peers.png")
        print(f"{arguments.output / 'peers.png'}")
    except ImportError:
        print("no plot: matplotlib is not installed")
    return 0


def run(cases, workers, arguments):
    """Measure and print case by case; returns all of it."""
    peaks = {threads: [] for threads in sorted({1, cores()})}
    versions = {worker.about["name"]: worker.about["version"] for _, worker in workers}
    results = dict(machine=report.machine() | {"cores": cores()}, versions=versions, cases=[])
    told = [results["machine"]["processor"], f"{cores()} cores", f"Python {results['machine']['python']}"]
    print(", ".join([*told, *map(" ".join, versions.items())]) + "\n", flush=True)
    for case in cases:
        for rates in peaks.values():
            rates.clear()
        barriers = []
        entries = measure(case, workers, arguments.rounds, arguments.seconds, peaks, barriers)
        best = {threads: max(rates) for threads, rates in peaks.items()}
        fields = dataclasses.asdict(case)
        results["cases"].append(
            dict(case=fields, name=case.name, peak_gflops=best, barriers=barriers, entries=entries)
        )
        print(report.table(fields, entries, best), flush=True)
        told = [f"{rate:.0f} GFLOP/s on {threads}" for threads, rate in best.items()]
        if barriers:
            median, most = statistics.median(barriers), max(barriers)
            told.append(f"a barrier of {cores()} threads {median * 1e9:.0f} ns, at most {most * 1e9:.0f}")
        print("peak: " + ", ".join(told) + "\n")
    return results


def show_agreement(cases, workers):
    """Print how far outputs differ after ten steps; 1 where they do by more than rounding can."""
    worst = 0.0
    for case in cases:
        differences = verify(case, [each for each in workers if each[0] != "FANN"])
        print(
            case.name, {label: f"{difference:.1e}" for label, difference in differences.items()}, flush=True
        )
        worst = max(worst, *differences.values())
    return int(worst > 1e-3)


if __name__ == "__main__":
    sys.exit(main())
