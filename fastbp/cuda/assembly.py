"""What a kernel becomes on a GPU, without one: assembled by ptxas, taken apart by nvdisasm.

Both come with the extra ``fastbp[cuda]``, from the packages nvidia-cuda-nvcc and nvidia-cuda-nvdisasm.
"""

import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

# Registers of a multiprocessor, registers that are handed out together to a warp, and threads that it holds;
# bytes of shared memory that its blocks share, and blocks; by compute capability.
LIMITS = {
    (7, 5): (65536, 256, 1024, 64 * 1024, 16),
    (8, 0): (65536, 256, 2048, 164 * 1024, 32),
    (9, 0): (65536, 256, 2048, 228 * 1024, 32),
    (10, 0): (65536, 256, 2048, 228 * 1024, 32),
}
CAPABILITIES = tuple(LIMITS)
WARP = 32


class Assembled(NamedTuple):
    """What ptxas says of a kernel.

    registers : of a thread. shared, stack, spills : bytes. sass : the instructions, as nvdisasm writes them.
    """

    registers: int
    shared: int
    stack: int
    spills: int
    sass: str


def tool(name):
    """The path of ptxas or nvdisasm.

    Raises
    ------
    FileNotFoundError
        If it is neither in the environment nor on the path.
    """
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    found = [*packages.glob(f"*/bin/{name}"), *packages.glob(f"*/bin/{name}.exe")]
    path = str(found[0]) if found else shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed: python -m pip install 'fastbp[cuda]' brings it")
    return path


def assemble(ptx, capability, disassemble=True):
    """Assemble PTX for a compute capability such as (9, 0); take it apart too, unless told not to.

    Raises
    ------
    RuntimeError
        If ptxas refuses it.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        architecture = "sm_{}{}".format(*capability)
        done = subprocess.run(
            [tool("ptxas"), "-v", f"-arch={architecture}", source, "-o", target],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"ptxas: {done.stderr}")
        sass = ""
        if disassemble:
            command = [tool("nvdisasm"), target]
            sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def number(pattern):
        return sum(map(int, re.findall(pattern, done.stderr)))

    return Assembled(
        number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"), number(r"(\d+) bytes stack frame"),
        number(r"(\d+) bytes spill"), sass,
    )  # fmt: skip


def inner_loop(sass, name="FFMA"):
    """(instructions of a name, all instructions) of the innermost loop with the largest share of that name.

    Of loops that have at least 64 of it: others are not a product's.
    """
    places, instructions, jumps = {}, [], []
    for line in sass.splitlines():
        label = re.match(r"\s*(\.L\w+):", line)
        if label:
            places[label[1]] = len(instructions)
        found = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line)
        if found:
            instructions.append(found[1])
            target = re.search(r"\bBRA\b.*`\((\.L\w+)\)", found[1])
            if target and target[1] in places:  # a jump back
                jumps.append((places[target[1]], len(instructions)))
    inside = [(a, b) for a, b in jumps if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in jumps)]
    counts = [
        (sum(bool(re.search(rf"\b{name}\b", each)) for each in instructions[a:b]), b - a) for a, b in inside
    ]
    return max((each for each in counts if each[0] >= 64), key=lambda each: each[0] / each[1], default=(0, 1))


def occupancy(assembled, threads, capability):
    """The share of a multiprocessor's threads that blocks of so many threads of a kernel can fill."""
    registers, together, most_threads, shared, most_blocks = LIMITS[capability]
    warps = -(-threads // WARP)
    of_warp = -(-assembled.registers * WARP // together) * together
    blocks = min(registers // of_warp // warps, most_threads // (warps * WARP), most_blocks)
    if assembled.shared:
        blocks = min(blocks, shared // (assembled.shared + 1024))  # 1024 bytes belong to the system
    return blocks * warps * WARP / most_threads
