"""One line for a person who waits while kernels are compiled.

It is written to stderr once in a process, before the second kernel is compiled: one kernel alone is quick. It
appears only in a terminal or a notebook, never in pipes, logs or tests. ``FASTBP_QUIET``, set to any value
that is not empty, switches it off.
"""

import contextlib
import os
import sys

_told = False


def silence():
    """Say nothing in this process."""
    global _told
    _told = True


def before_compiling(compiled, kept, folder):
    """Tell whoever waits, if it is time to.

    compiled, kept : how many kernels were compiled before this one, and how many of them are on disk now.
    folder : where they are kept, None where the cache is switched off.
    """
    if _told or not compiled or os.environ.get("FASTBP_QUIET") or not somebody_waits():
        return
    silence()
    line = "fastbp: compiling kernels for this processor takes some seconds, "
    if folder is None:
        line += "in every process, because the kernel cache is switched off\n"
    elif kept < compiled:
        line += f"in every process, because {folder} cannot be written\n"
    else:
        line += "once; `python -m fastbp warmup` compiles all of them\n"
    with contextlib.suppress(OSError, ValueError):  # a stderr that is closed is nobody's loss
        sys.stderr.write(line)
        sys.stderr.flush()


def somebody_waits():
    """Whether stderr is a terminal or the output of a notebook's cell."""
    try:
        return "ipykernel" in sys.modules or sys.stderr.isatty()
    except (AttributeError, ValueError):  # None under pythonw; closed
        return False
