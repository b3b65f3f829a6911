"""What a `DevicePlan` and a `SmallPlan` have in common: what the host tells a run, and how it is begun."""

import numpy as np

from .cpu.team import Team, start_python_thread
from .device_memory import enough
from .formulas.optimizers import OPTIMIZERS, ROOM
from .formulas.schedules import SCHEDULES

# How far a run is: fields of `contexts`, and of the device's record.
COUNTERS = ("epoch", "epoch"), ("begin", "start"), ("step", "step")


class DeviceRun:
    """Answers to what a `plan.Plan` does for `fastbp.train`.

    A plan has ``parts``, a `device_memory.Parts` in which "parameters" lie: those of the network and then the
    optimizer's states, each ``state_bytes`` behind the last; and a method ``_run``, which returns when the
    epochs that `set` told of are done, or were asked to stop.

    Attributes
    ----------
    settings, schedule_settings, contexts
        As of a `plan.Plan`.
    steps_done : int
        Steps of the current run so far; may be read while it runs.
    """

    threads = 1

    def __init__(self, architecture, batch_size, *, optimizer=None, groups=None, schedule=None):
        self.architecture, self.batch_size = architecture, batch_size
        self.optimizer, self.schedule = optimizer, schedule
        self.groups = groups or ((0, 0),) * architecture.n_layers
        self.input_scale = architecture.input_scale
        self.settings = np.zeros((1 + max(map(max, self.groups)), ROOM))
        self.schedule_settings = np.zeros(3 + len(SCHEDULES[schedule].settings) if schedule else 0)
        self.contexts = np.zeros(1, [(name, np.int64) for name, _ in COUNTERS])
        self.evaluating, self._order = {}, None  # of device_evaluate.py; memory for the order of an epoch
        self._given, self._stopped, self.steps_done = {}, False, 0

    @property
    def momentum(self):
        """Which of the settings a schedule changes as the momentum."""
        return (OPTIMIZERS[self.optimizer].momentum_at if self.optimizer else None) or 0

    def set(self, **fields):
        """Set what the host tells the run; addresses are of the host's memory."""
        self._given.update(fields)
        for name in self.contexts.dtype.names:
            if name in fields:
                self.contexts[name] = fields[name]

    def _places_of_order(self, n):
        """Where the order of n rows lies on the device, and the lists that it is made from."""
        self._order = enough(self._order, 24 * n)
        names = ("order", "heads", "following")
        return {name: self._order.address + 8 * n * i for i, name in enumerate(names)}

    def pack(self, parameters):
        """Send the host's flat parameter vector."""
        self.parts.write("parameters", parameters)

    def unpack(self, vector):
        """Bring back the parameters to a flat vector."""
        self.parts.read("parameters", vector)

    def copy_parameters(self, other):
        """Take the parameters of another plan of the same architecture; the host takes no part."""
        self.parts.copy("parameters", other.parts, self.n_parameters * self.architecture.dtype.itemsize)

    @property
    def n_parameters(self):
        """How many parameters there are."""
        return self.architecture.parameter_offsets()[-1]

    def states(self):
        """The optimizer's states: as many rows as it has, each laid out like the flat vector."""
        states = np.empty((OPTIMIZERS[self.optimizer].states, self.n_parameters), self.architecture.dtype)
        for i, state in enumerate(states):
            self.parts.read("parameters", state, (i + 1) * self.state_bytes)
        return states

    def set_states(self, states):
        """Give the optimizer the states that `states` returned."""
        for i, state in enumerate(states):
            self.parts.write("parameters", state, (i + 1) * self.state_bytes)

    def begin(self):
        """Forget that the last run was asked to stop."""
        self._stopped, self.steps_done = False, 0

    def run(self):
        """Run epochs [epoch, last_epoch) to their end."""
        self.begin()
        self._run()

    def team(self):
        """A `team.Team` of one thread that does the same, to be started."""
        self.begin()
        return Team(lambda *_: self._run(), (0,), start_thread=start_python_thread)

    def stop(self, wish=None):
        """Ask a running program to end after the steps that were enqueued, whatever the wish."""
        self._stopped = True
