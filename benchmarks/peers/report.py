"""What was measured, as a table, as JSON and as a plot."""

import platform
import statistics

from .cases import Case


def machine():
    """The processor as its vendor calls it, the cores that may be used, and the system."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"processor": name, "system": platform.platform(), "python": platform.python_version()}


def summary(entry):
    """Adds to an entry what its rounds say: median and spread (half the range of the middle half)."""
    rounds = sorted(entry["rounds"])
    entry["median"] = statistics.median(rounds)
    quarter = len(rounds) // 4
    middle = rounds[quarter : len(rounds) - quarter]
    entry["middle_half"] = middle[0], middle[-1]
    entry["spread"] = (middle[-1] - middle[0]) / 2
    return entry


def best(entries):
    """Each library at the number of threads that it is fastest with; fastest first."""
    chosen = {}
    for entry in sorted((entry for entry in entries if entry["rounds"]), key=lambda entry: entry["median"]):
        chosen.setdefault(entry["label"], entry)
    return list(chosen.values())


def table(case, entries, peaks):
    """Markdown: median, spread, ratio to fastbp at its automatic threads, GFLOP/s, share of the peak."""
    name, flops = Case(**case).name, Case(**case).operations_per_step
    ours = next(
        (entry["median"] for entry in entries if entry["label"] == "fastbp" and entry["rounds"]), None
    )
    lines = [
        f"### {name}",
        "",
        "| library | threads | µs per step | ± | × fastbp | GFLOP/s | % of peak |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for entry in best(entries):
        rate = flops / entry["median"] / 1e9
        threads = min(entry["threads"] or max(peaks), max(peaks))
        ratio = f"{entry['median'] / ours:.2f}" if ours else ""
        lines.append(
            f"| {entry['label']} | {entry['threads'] or 'its own'} | {entry['median'] * 1e6:.4g} "
            f"| {entry['spread'] * 1e6:.2g} | {ratio} | {rate:.3g} | {100 * rate / peaks[threads]:.0f} |"
        )
    lines += [f"\n{entry['label']}: {entry['error']}" for entry in entries if entry.get("error")]
    return "\n".join([*lines, ""])


def advantages(entries):
    """{library: its median time over fastbp's at its automatic threads}; compiled or not, PyTorch is one."""
    medians = {}
    for entry in best(entries):
        medians.setdefault(entry["label"].removesuffix(" compiled"), entry["median"])
    ours = medians.pop("fastbp", None)
    medians.pop("fastbp, 1 thread", None)
    return {label: median / ours for label, median in medians.items()} if ours else {}


def overview(results):
    """Markdown: a line for each case, with what fastbp needs and how many times as much the others do."""
    told = [(each, advantages(each["entries"])) for each in results["cases"]]
    libraries = sorted({label for _, ratios in told for label in ratios}, key=_by_name(told))
    lines = [
        "| network | fastbp, µs per step | % of peak |" + "".join(f" × {label} |" for label in libraries),
        "|---|--:|--:|" + "--:|" * len(libraries),
    ]
    for each, ratios in told:
        ours = next((e for e in each["entries"] if e["label"] == "fastbp" and e["rounds"]), None)
        if ours is None:
            continue
        case, peaks = Case(**each["case"]), {int(n): rate for n, rate in each["peak_gflops"].items()}
        share = case.operations_per_step / ours["median"] / 1e9 / peaks[min(ours["threads"] or 1, max(peaks))]
        cells = [case.name, _short(ours["median"] * 1e6), f"{100 * share:.0f}"]
        cells += [_short(ratios[label]) if label in ratios else "" for label in libraries]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(number):
    """Three digits, and zeros rather than an exponent."""
    return f"{float(f'{number:.3g}'):,g}"


def _by_name(told):
    """A key that sorts libraries by how many cases they took part in, then by name."""
    return lambda label: (-sum(label in ratios for _, ratios in told), label.lower())


def held(results, nearest):
    """Lines that say what share of its nearest case's advantage each odd one holds; nearest: {odd: case}."""
    ratios = {each["name"]: advantages(each["entries"]) for each in results["cases"]}
    for odd, row in nearest.items():
        shared = sorted(ratios.get(odd.name, {}).keys() & ratios.get(row.name, {}).keys())
        if shared:
            told = (f"{ratios[odd.name][label] / ratios[row.name][label]:.2f} {label}" for label in shared)
            yield f"{odd.name} holds of the advantage of {row.name}: {', '.join(told)}"


def plot(results, path):
    """Dots on a logarithmic scale: cases down, microseconds per step across, one colour a library."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    measured = [(Case(**each["case"]), best(each["entries"])) for each in results["cases"]]
    measured = [(case, entries) for case, entries in measured if entries]
    labels = list(dict.fromkeys(entry["label"] for _, entries in measured for entry in entries))
    labels.sort(key=lambda label: (not label.startswith("fastbp"), label))
    colours = iter(["#4c72b0", "#7aa6d6", "#55a868", "#dd8452", "#8172b3", "#937860", "#8c8c8c", "#ccb974"])
    style = {
        label: dict(marker="o", markersize=7, linestyle="none", color=next(colours, "black"))
        for label in labels
    }
    for label, fill in (("fastbp", "full"), ("fastbp, 1 thread", "none")):
        style[label] = dict(
            marker="o", markersize=8, linestyle="none", color="#c8102e", fillstyle=fill, zorder=3
        )
    figure, axes = pyplot.subplots(figsize=(9, 1.4 + 0.55 * len(measured)), layout="constrained")
    for row, (_, entries) in enumerate(measured):
        values = [entry["median"] * 1e6 for entry in entries]
        axes.plot([min(values), max(values)], [row, row], color="#dddddd", zorder=1)
        for entry in entries:
            at, (low, high) = entry["median"] * 1e6, (1e6 * end for end in entry["middle_half"])
            axes.errorbar(at, row, xerr=[[at - low], [high - at]], **style[entry["label"]])
    for label in labels:
        axes.plot([], [], label=label, **style[label])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(measured)), [case.name for case, _ in measured])
    axes.invert_yaxis()
    axes.margins(y=0.08)
    axes.set_xlabel("µs per training step (logarithmic; left is faster)")
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=min(4, len(labels)), frameon=False, fontsize="small")
    figure.text(
        0.995, 0.005, results["machine"]["processor"], ha="right", va="bottom", fontsize=7, color="#888888"
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
