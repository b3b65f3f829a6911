"""How the time of a step grows with width, batch, depth and rows, beside the roofline: are there cliffs?

    python -m benchmarks.growth                      every width 1…1100 and batch 1…600: half an hour
    python -m benchmarks.growth --points 40          forty sizes of each scan: a minute or two
    python -m benchmarks.growth width --first 500 --last 530 --rounds 9         a closer look

Points are visited in random order, round after round, and the median of the rounds counts: a neighbour that
wakes up slows points all over the curve, not one stretch of it. The roofline is the fused multiply-adds of a
core with nothing in their way (`peak.py`), measured between the rounds, over the multiply-adds that a step
truly needs: neither padding nor elementwise work is counted.
"""

import argparse
import dataclasses
import json
import math
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from . import peak
from .peers import report
from .peers.__main__ import cores
from .peers.cases import Case
from .peers.train_fastbp import Training

# Points on either side of a point that it is compared with.
REACH = 5


@dataclasses.dataclass(frozen=True)
class Scan:
    """A family of trainings of one size each.

    Attributes
    ----------
    what : str
        What grows.
    network : str
        The family, for a reader.
    first, last : int
        The sizes that are scanned.
    case : callable
        size -> `Case`.
    every : bool
        Whether each size is a point, or only some, evenly spread on a logarithmic scale.
    """

    what: str
    network: str
    first: int
    last: int
    case: Callable
    every: bool = True


def _some_batches(batch):
    return batch * max(2, 512 // batch)  # an epoch of one step would be timed with the work between epochs


SCANS = {
    "width": Scan(
        "units of every layer", "w-w-w relu, squared error, batch 64", 1, 1100,
        lambda w: Case((w, w, w), "relu", 64, _some_batches(64), loss="mean_squared_error"),
    ),
    "batch": Scan(
        "rows of a batch", "784-128-10 relu", 1, 600,
        lambda batch: Case((784, 128, 10), "relu", batch, _some_batches(batch)),
    ),
    "depth": Scan(
        "hidden layers", "64-…64…-10 relu, batch 64", 1, 32,
        lambda depth: Case((64, *[64] * depth, 10), "relu", 64, _some_batches(64)),
    ),
    "rows": Scan(
        "rows of the data", "784-128-10 relu, batch 128", 128, 100_000,
        lambda rows: Case((784, 128, 10), "relu", 128, rows), every=False,
    ),
}  # fmt: skip


def sizes(first, last, points=None):
    """All integers from first to last, or about so many, evenly spread on a logarithmic scale."""
    if points is None or points > last - first:
        return list(range(first, last + 1))
    if points < 2:
        return [last]
    ratio = (last / first) ** (1 / (points - 1))
    return sorted({*(round(first * ratio**i) for i in range(points - 1)), last})


def multiply_adds(case):
    """Those that a step needs, the mean of an epoch whose last batch may be short."""
    return case.operations_per_step / 2 * case.rows / (case.steps * case.batch_rows)


def cliffs(points, percent, reach=REACH):
    """Where a multiply-add costs more than it does nearby: list of (size, percent above, kind).

    Parameters
    ----------
    points : list of (size, multiply-adds, seconds)
        Of one curve, sizes ascending.
    percent : float
        How much more counts as a cliff.
    reach : int
        How many points on either side are nearby.

    Returns
    -------
    list of (int, float, {"peak", "edge"})
        "peak": one point is slower than both its sides. "edge": from this point on everything is slower than
        before it. The larger a step, the better it should use the machine, so a multiply-add that becomes
        dearer is a cliff, and one that becomes cheaper is not. Sides are medians.
    """
    rates = [seconds / work for _, work, seconds in points]
    found = []
    for i in range(1, len(points)):
        before = statistics.median(rates[max(0, i - reach) : i])
        here, after = rates[i : i + reach], rates[i + 1 : i + 1 + reach]
        if after:
            above = rates[i] / max(before, statistics.median(after)) - 1
            if 100 * above > percent:
                found.append((points[i][0], 100 * above, "peak"))
                continue
        above = statistics.median(here) / before - 1
        # The steepest place alone, of an edge that many points see.
        if len(here) == reach and 100 * above > percent and rates[i] > rates[i - 1] * (1 + percent / 200):
            found.append((points[i][0], 100 * above, "edge"))
    return found


def marginal_rate(points):
    """Seconds that a further multiply-add takes, in the upper half of the work: the slope of the curve."""
    most = max(work for _, work, _ in points)
    return _slope([(work, seconds) for _, work, seconds in points if 2 * work >= most])


def exponent(points):
    """The p of seconds ~ work^p in the last decade of work, NaN where there is none: the slope of the curve
    as it is drawn. That of the roofline is 1.
    """
    most = max(work for _, work, _ in points)
    decade = [(work, seconds) for _, work, seconds in points if 10 * work >= most]
    if min(work for work, _ in decade) > most / 2:
        return math.nan
    return _slope([(math.log(work), math.log(seconds)) for work, seconds in decade])


def _slope(points):
    """The median of the slopes of all pairs of points (Theil and Sen), so that no single point bends it."""
    slopes = [(t2 - t1) / (w2 - w1) for i, (w1, t1) in enumerate(points) for w2, t2 in points[:i] if w1 != w2]
    return statistics.median(slopes) if slopes else math.nan


def measure(case, threads, seconds, epoch_seconds=None):
    """(seconds of a step, threads that were used, seconds of an epoch), trained for about ``seconds``."""
    training = Training(case, *case.data(), threads)
    if epoch_seconds is None:
        training.run(1)  # compiles
        epoch_seconds = training.run(2) / 2
    epochs = max(3, math.ceil(seconds / max(epoch_seconds, 1e-7)))
    epoch_seconds = training.run(epochs) / epochs
    return epoch_seconds / case.steps, training.threads, epoch_seconds


def run(scan, chosen, rounds, seconds, threads=(1, None), seed=0):
    """Measure a scan: list of {"size", "asked", "threads", "work", "rounds", "median"}, and peaks by threads.

    asked : 1, or None for the automatic choice; where that is 1, it is not measured a second time.
    """
    entries = [
        dict(size=size, asked=asked, work=multiply_adds(scan.case(size)), rounds=[], epoch=None)
        for size in chosen
        for asked in threads
    ]
    peaks = {n: [] for n in sorted({1, cores()})}
    shuffled = random.Random(seed)
    with tqdm(total=rounds * len(entries), desc=scan.what, unit=" points", disable=None) as bar:
        for done in range(rounds):
            for n, rates in peaks.items():
                rates.append(1 / peak.seconds_per_product(threads=n, seconds=0.1))
            for entry in shuffled.sample(entries, len(entries)):
                bar.update()
                if done and entry["asked"] is None and entry["threads"] == 1 and 1 in threads:
                    continue
                case = scan.case(entry["size"])
                told, entry["threads"], entry["epoch"] = measure(
                    case, entry["asked"], seconds, entry["epoch"]
                )
                entry["rounds"].append(told)
    for entry in entries:
        del entry["epoch"]
        entry["median"] = statistics.median(entry["rounds"])
    kept = [e for e in entries if e["asked"] is not None or e["threads"] > 1 or 1 not in threads]
    return kept, {n: max(rates) for n, rates in peaks.items()}


def curves(entries):
    """{asked: [(size, work, median)]}, sizes ascending."""
    told = {}
    for entry in sorted(entries, key=lambda entry: entry["size"]):
        told.setdefault(entry["asked"], []).append((entry["size"], entry["work"], entry["median"]))
    return told


def named(asked):
    """A curve's name."""
    return "automatic threads" if asked is None else f"{asked} thread{'s' * (asked > 1)}"


def roofline(peaks, asked):
    """Seconds per multiply-add that the roofline of a curve allows."""
    return 1 / peaks[max(peaks) if asked is None else min(asked, max(peaks))]


def table(scan, entries, peaks, percent, rows=12):
    """Markdown: some points of each curve and their share of the peak; slopes; all cliffs."""
    lines = [f"### {scan.what}: {scan.network}", ""]
    for asked, points in curves(entries).items():
        least = roofline(peaks, asked)
        lines += [f"| {scan.what}, {named(asked)} | µs per step | % of peak |", "|--:|--:|--:|"]
        shown = {points[i * (len(points) - 1) // max(1, rows - 1)] for i in range(rows)}
        for size, work, seconds in sorted(shown):
            lines.append(f"| {size} | {seconds * 1e6:.4g} | {100 * work * least / seconds:.0f} |")
        slope, found = marginal_rate(points) / least, cliffs(points, percent)
        if math.isfinite(slope):
            lines.append(f"\nA further multiply-add takes {slope:.2f} times what the roofline allows.")
        if math.isfinite(power := exponent(points)):
            lines.append(
                f"\nOver the last decade time grows as work to the power of {power:.2f}; the roofline's: 1."
            )
        lines.append(f"\nCliffs of more than {percent:g} %: {len(found) or 'none'}.")
        lines += [f"- {kind} at {size}: {above:+.0f} %" for size, above, kind in found]
        lines.append("")
    return "\n".join(lines)


def plot(results, path):
    """Time per step against size for each scan, both logarithmic, with its roofline; cliffs are circled."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullFormatter

    scans = results["scans"]
    across, down = min(2, len(scans)), -(-len(scans) // 2)
    figure = pyplot.figure(figsize=(5.5 * across, 4.2 * down), layout="constrained")
    for place, each in enumerate(scans, 1):
        at = figure.add_subplot(down, across, place)
        peaks = {int(threads): rate for threads, rate in each["peaks"].items()}
        for asked, points in curves(each["entries"]).items():
            colour = "#c8102e" if asked == 1 else "#4c72b0"
            size, work, seconds = zip(*points)
            least = roofline(peaks, asked)
            at.plot(size, [1e6 * s for s in seconds], ".-", color=colour, ms=3, lw=0.8, label=named(asked))
            at.plot(
                size, [1e6 * least * w for w in work], "--", color=colour, lw=0.8, alpha=0.6,
                label=f"roofline of {1 if asked == 1 else max(peaks)}",
            )  # fmt: skip
            found = {s for s, *_ in cliffs(points, results["percent"])}
            circled = [(s, 1e6 * t) for s, _, t in points if s in found]
            if circled:
                at.plot(*zip(*circled), "o", color=colour, ms=8, fillstyle="none")
        at.set(xscale="log", yscale="log", xlabel=each["what"], ylabel="µs per step", title=each["network"])
        low, high = at.get_ylim()
        if high < 10 * low:  # or noise would look like mountains
            at.set_ylim((low * high / 10) ** 0.5, (low * high * 10) ** 0.5)
        for axis in (at.xaxis, at.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        at.grid(color="#eeeeee")
        at.legend(frameon=False, fontsize="small")
        for side in ("top", "right"):
            at.spines[side].set_visible(False)
    figure.text(
        0.995, 0.005, results["machine"]["processor"], ha="right", va="bottom", fontsize=7, color="#888888"
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("scans", nargs="*", metavar="SCAN", help=f"of {', '.join(SCANS)}; all without")
    parser.add_argument("--points", type=int, help="sizes of each scan; all without (of rows: 25)")
    parser.add_argument("--first", type=int, help="the smallest size, where one scan is named")
    parser.add_argument("--last", type=int, help="the largest")
    parser.add_argument("--rounds", type=int, default=3, help="visits to each point (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.03, help="least time of a visit (%(default)s)")
    parser.add_argument("--cliff", type=float, default=15, metavar="PERCENT", help="(%(default)s)")
    parser.add_argument("--one-thread", action="store_true", help="not the automatic choice of threads")
    parser.add_argument("--output", type=Path, default=Path(".asv/growth"), help="folder (%(default)s)")
    chosen = parser.parse_args(arguments)
    for name in chosen.scans:
        if name not in SCANS:
            parser.error(f"unknown scan {name!r}; there are {', '.join(SCANS)}")
    if (chosen.first or chosen.last) and len(chosen.scans) != 1:
        parser.error("--first and --last go with one scan")

    results = dict(machine=report.machine() | {"cores": cores()}, percent=chosen.cliff, scans=[])
    for name in chosen.scans or SCANS:
        scan = SCANS[name]
        first, last = chosen.first or scan.first, chosen.last or scan.last
        points = chosen.points or (None if scan.every else 25)
        threads = (1,) if chosen.one_thread else (1, None)
        entries, peaks = run(scan, sizes(first, last, points), chosen.rounds, chosen.seconds, threads)
        told = dict(name=name, what=scan.what, network=scan.network, peaks=peaks, entries=entries)
        results["scans"].append(told)
        print(table(scan, entries, peaks, chosen.cliff), flush=True)
        rates = ", ".join(f"{2e-9 * rate:.0f} GFLOP/s on {threads}" for threads, rate in peaks.items())
        print(f"peak: {rates}\n", flush=True)
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "growth.json").write_text(json.dumps(results, indent=1) + "\n")
    print(chosen.output / "growth.json")
    try:
        plot(results, chosen.output / "growth.png")
        print(chosen.output / "growth.png")
    except ImportError:
        print("no plot: matplotlib is not installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
