"""``python -m fastbp.cuda table``: what the kernels become; ``check``: whether and how fast they run here."""

import argparse
import sys


def main(arguments=None):
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fastbp.cuda", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser(
        "table", help="registers, shared memory, occupancy of the kernels; no GPU needed"
    )
    table.add_argument("--architecture", default="sm_90", help="sm_75, sm_80, sm_90 or sm_100")
    table.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    commands.add_parser("check", help="compare a GPU with the CPU, bit for bit, and time it beside PyTorch")
    given = parser.parse_args(arguments)
    from fastbp.cuda import device

    if given.command == "table":
        from fastbp.cuda import assembly, inventory

        known = {"sm_{}{}".format(*c): c for c in assembly.CAPABILITIES}
        if device.cuda is None or given.architecture not in known:
            print(device.missing() or f"--architecture must be one of {', '.join(known)}", file=sys.stderr)
            return 2
        for line in inventory.table(known[given.architecture], given.dtype):
            print(line, flush=True)
        return 0
    sentence = device.missing()
    if sentence:
        print(sentence, file=sys.stderr)
        return 2
    from fastbp.cuda.check import check

    good = True
    for line, is_good in check():
        print(line, flush=True)
        good = good and is_good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
