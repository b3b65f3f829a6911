"""From a network, a task and a batch size to the flat tables that a CPU executes, and their execution.

A plan owns everything that a run needs beside the data: the program of every thread (one row per operation,
with the address of its kernel), the packed parameters, the optimizer's state and the workspace. Building
one compiles only the kernels that its network uses and that are not in the cache; running one allocates
nothing. It is built in three steps, each of which knows those before: what is chosen (``choices.py``), where
everything lies (``layout.py``), and what each thread does (``program.py``).
"""

import numpy as np

from .choices import Choices
from .cpu import gemm, loss, step, team
from .cpu.cache import address
from .cpu.records import AT_ONCE, CONTEXT, ONCE, OPERATION, SECTION, SHARED, STEPS, STOP
from .formulas.optimizers import ROOM
from .layout import Layout, aligned, aligned_zeros
from .program import Program


class Plan:
    """A program for every thread, and the memory it works in.

    Parameters
    ----------
    architecture, task, batch_size, threads, options
        As for `Choices`.

    Attributes
    ----------
    choices : Choices
    layout : Layout
    programs : list of (operations, sections)
        The tables of each thread (`Program.write`).
    contexts : records of CONTEXT
        What each thread's kernels know beside their row; the caller sets where data and results lie.
    shared : uint8 array
        What threads tell each other.
    settings, schedule_settings : arrays
        The layout's, for the caller to write.
    run_epochs : compiled function
    """

    def __init__(self, architecture, task, batch_size, threads=1, **options):
        self.architecture, self.batch_size, self.threads = architecture, batch_size, threads
        self.choices = Choices(architecture, task, batch_size, threads, **options)
        self.layout = Layout(self.choices)
        self.settings, self.schedule_settings = self.layout.settings, self.layout.schedule_settings
        self._build_contexts()
        self.programs = [Program(self.choices, self.layout, thread).write() for thread in range(threads)]
        self._connect()
        self.run_epochs = team.function(address(step.run_epochs))
        self._run_section = team.function(address(step.run_section))

    def _build_contexts(self):
        architecture, threads, choices, layout = self.architecture, self.threads, self.choices, self.layout
        memory = aligned_zeros(threads * aligned(CONTEXT.itemsize)).reshape(threads, -1)
        self.contexts = ctx = memory[:, : CONTEXT.itemsize].view(CONTEXT)[:, 0]
        self.shared = aligned_zeros(SHARED.itemsize)
        ctx["address"] = [ctx[t : t + 1].ctypes.data for t in range(threads)]
        ctx["thread"], ctx["threads"], ctx["shared"] = np.arange(threads), threads, self.shared.ctypes.data
        ctx["batch_size"], ctx["chunk_rows"] = self.batch_size, choices.chunk_rows
        ctx["block_rows"], ctx["whole"] = choices.block_rows, choices.whole
        ctx["write_order"] = address(step.write_order) if choices.task == "train" else 0
        ctx["zeros"] = layout.address_of(aligned_zeros(max(self._widest() * choices.size, 64)))
        ctx["one"] = layout.address_of(np.ones(1, architecture.dtype))
        ctx["option"] = layout.address_of(np.array([architecture.option], np.float64))
        factors = [layout.keep(aligned_zeros(64)).view(np.float64) for _ in range(threads)]
        for each in factors:
            each[0] = 1.0
        ctx["row_scale"] = [each.ctypes.data for each in factors]
        ctx["shortening"] = ctx["row_scale"] + 8
        n_bytes = self._scratch_bytes()
        ctx["scratch"] = [layout.clean_memory(n_bytes) for _ in range(threads)]
        hyper = ROOM * choices.size
        ctx["hyper"] = [layout.address_of(aligned_zeros(2 * hyper)) for _ in range(threads)]
        ctx["bias_hyper"] = ctx["hyper"] + hyper

    def _widest(self):
        """Columns of the widest layer."""
        return max(map(self.choices.columns, self.architecture.sizes))

    def _scratch_bytes(self):
        """How much memory of a thread's own any of its kernels may need at a time."""
        choices, sizes = self.choices, self.architecture.sizes
        sixteens = -(-max(sizes) // 16) * 16
        of_loss = max((choices.block_rows + 1) * (sixteens + 3), 2 * max(loss.OUTPUTS_AT_ONCE, sixteens))
        panels, words = (gemm.ROW_BLOCK + 1 + 4) * choices.panel, sizes[0] + 4
        vectors = 6 * choices.whole_vectors(self._widest())  # gradients of scale and shift, four of noise
        return aligned(choices.size * max(panels, vectors, of_loss, words))

    def _connect(self):
        """Tell each operation and each context where it lies."""
        self._sections = self.programs[0][1]
        self._pack, self._unpack = (self._sections[i:].ctypes.data for i in (0, len(self._sections) - 1))
        for thread, (program, sections) in enumerate(self.programs):
            program["address"] = program.ctypes.data + OPERATION.itemsize * np.arange(len(program))
            self.contexts[thread]["program"] = program.ctypes.data
            self.contexts[thread]["sections"] = sections[1:-1].ctypes.data
            self.contexts[thread]["n_sections"] = len(sections) - 2

    # Running

    @property
    def n_bytes(self):
        """How much memory parameters, states and gradients take."""
        return self.layout.arena.nbytes

    @property
    def bytes_in_all(self):
        """The same, with the workspace."""
        return self.n_bytes + self.layout.bytes_beside

    def renew(self):
        """Forget what was trained. What else there is, every run writes before it reads."""
        self.layout.arena[:] = 0

    def set(self, **fields):
        """Set fields of every thread's context."""
        for field, value in fields.items():
            self.contexts[field] = value

    @property
    def by_rows(self):
        """The address of the section that runs by rows, for `step.run_section`."""
        return self._sections[1:2].ctypes.data

    @property
    def packing(self):
        """The address of the section that packs the parameters from the host's vector, of one thread."""
        return self._pack

    @property
    def unpacking(self):
        """The address of the section that unpacks the parameters to the host's vector."""
        return self._unpack

    def stage(self):
        """Where a staged plan's row of x (n_inputs,) goes, and a function that runs the program on it.

        The function returns 0, or something else where the row holds NaN or an infinity.
        """
        self.set(rows=1, batch_rows=1)
        return self.layout.staged_row(), team.bound(
            address(step.run_section), int(self.contexts[0]["address"]), self.by_rows
        )

    def bound(self):
        """(run, unpack): functions without arguments, for the least overhead, of a plan for one thread.

        Each returns 0, or not 0 if a kernel raised. Fields are set through ``contexts``; `unpack` writes to
        the vector of the latest `pack` or `unpack`.
        """
        context = int(self.contexts[0]["address"])
        run = team.bound(address(step.run_epochs), context, 0)
        return run, team.bound(address(step.run_section), context, self._unpack)

    def pack(self, parameters):
        """Copy the host's flat parameter vector into the panels."""
        self.set(host=parameters.ctypes.data)
        if not self.choices.unpacked:
            self._run_section(int(self.contexts[0]["address"]), self._pack)
            self.layout.replicate()

    def unpack(self, vector):
        """Copy what is left in the panels into a flat vector of the host: parameters, or their gradient."""
        self.set(host=vector.ctypes.data)
        self._run_section(int(self.contexts[0]["address"]), self._unpack)

    def states(self):
        """The optimizer's states: as many rows as it has, each laid out like the host's flat vector."""
        states = np.empty(
            (self.layout.states, self.architecture.parameter_offsets()[-1]), self.architecture.dtype
        )
        for index, vector in enumerate(states):
            self._copy_state(index, vector, self._sections[-1])
        return states

    def set_states(self, states):
        """Give the optimizer the states that `states` returned."""
        for index, vector in enumerate(states):
            self._copy_state(index, vector, self._sections[0])
        self.layout.replicate()

    def _copy_state(self, index, vector, section):
        """Pack or unpack, as the section of the first thread does the weights, one of the states."""
        operations = self.programs[0][0][section["first"] : section["last"]].copy()
        operations["w"] += (1 + index) * self.layout.arena_bytes
        operations["wt"] = 0
        context = self.contexts[:1].copy()
        context["address"], context["program"] = context.ctypes.data, operations.ctypes.data
        context["host"] = vector.ctypes.data
        whole = np.array((0, len(operations), ONCE, 0), SECTION)
        self._run_section(int(context["address"][0]), whole.ctypes.data)

    def team(self):
        """The `team.Team` that runs epochs [epoch, last_epoch), to be started."""
        self.reset()
        return team.Team(self.run_epochs, self.contexts["address"].tolist(), keeps=self)

    def run(self):
        """Run epochs [epoch, last_epoch) to their end, in the calling thread where one is enough."""
        if self.threads == 1:
            self.reset()
            self.run_epochs(int(self.contexts[0]["address"]), 0)
        else:
            self.team().start().wait()

    def reset(self):
        """Forget that a run was asked to stop: what runs without `team` or `run` would not begin."""
        self.shared[:] = 0
        self.contexts["ticket"] = 0

    def stop(self, wish=AT_ONCE):
        """Ask a running program to end after its step; `AT_ONCE` a long one is given up."""
        self.shared[STOP : STOP + 8].view(np.int64)[0] = wish

    @property
    def steps_done(self):
        """Steps of the current run so far; may be read while it runs."""
        return int(self.shared[STEPS : STEPS + 8].view(np.int64)[0])
