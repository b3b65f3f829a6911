"""The update of every optimizer: seconds per parameter, the gradient read from memory."""

import numpy as np

from fastbp.cpu.cache import address
from fastbp.cpu.dense import ROW_BLOCK, dense_apply
from fastbp.cpu.elementwise import optimizer_prepare
from fastbp.cpu.machine import this_machine
from fastbp.formulas.optimizers import OPTIMIZERS

from .timing import REALS, Program, array, measured

# A layer whose W, states and gradient lie in the second-level cache.
N_IN, N_OUT, TIMES = 96, 96, 8

# The time depends on none of them; they only have to keep numbers ordinary.
SETTINGS = {"learning_rate": 1e-6, "weight_decay": 1e-4, "momentum": 0.9, "beta2": 0.999}


@measured(optimizer=OPTIMIZERS, real=REALS)
def time_update(optimizer, real):
    row = OPTIMIZERS[optimizer]
    size, panel = np.dtype(real).itemsize, this_machine().panel(real)
    columns = -(-N_OUT // 16) * 16
    arena = (N_IN + 1) * columns  # W and b; then each state; then the gradient
    memory = array(arena * (row.states + 2), real)
    random = np.random.default_rng(0)
    memory[:arena] = random.standard_normal(arena)
    memory[-arena:] = random.standard_normal(arena)
    w, slots = memory.ctypes.data, memory.ctypes.data + arena * (row.states + 1) * size
    apply = dict(
        kernel=address(dense_apply, optimizer, real), n_in=N_IN, n_out=N_OUT, columns=columns, use_bias=1,
        w=w, bias=w + N_IN * columns * size, arena_bytes=arena * size, slots=slots, slot_bytes=arena * size,
        last_row=N_IN, last_column=columns,
    )  # fmt: skip
    settings = np.array([SETTINGS.get(name, 0.1) for name in row.settings])
    program = Program(
        [dict(kernel=address(optimizer_prepare, optimizer, real))] + [apply] * TIMES,
        settings=settings, hyper=array(16, real), scratch=array(ROW_BLOCK * panel + columns, real), step=2,
        batch_rows=1, chunk_rows=1,
    )  # fmt: skip
    program.memory = memory
    return program.seconds() / (TIMES * (N_IN + 1) * N_OUT)
