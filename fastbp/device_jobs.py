"""Jobs side by side on a GPU, a block of its threads for each: one of `train`, many of `train_many`."""

from . import validation as checks
from .interrupts import Interrupts
from .training import DivergenceError


def run_small(jobs, show):
    """Train the networks of jobs for which `Job.why_not_small` is None.

    Parameters
    ----------
    jobs : list of Job
    show : callable
        Called a few times a second with the rows that are done of each job, a list.

    Returns
    -------
    dict
        Errors by the number of their job.
    """
    return _Side(jobs, show).run()


class _Side:
    """Jobs side by side. To `Interrupts` it is what a plan is."""

    def __init__(self, jobs, show):
        self._jobs, self._show, self._stopped = jobs, show, False
        self._small = [job.as_small() for job in jobs]

    def stop(self):
        """Ask for the end after the steps that were launched."""
        self._stopped = True

    def run(self):
        """All jobs; returns the errors by their numbers."""
        from .device_many import train_small  # needs numba-cuda

        with Interrupts(self):
            trained = train_small(self._small, [job.epochs for job in self._jobs], self._look)
        errors = {}
        for index, each in enumerate(zip(self._jobs, self._small, trained, strict=True)):
            try:
                _finish(*each)
            except DivergenceError as error:
                errors[index] = error
        return errors

    def _look(self, trained):
        """After a launch; returns whether that shall be all."""
        for job, each in zip(self._jobs, trained, strict=True):
            _record(job, each)
        self._show([each.rows for each in trained])
        return self._stopped


def _record(job, trained):
    """Epochs that are new in the history of a job; none of a launch in which it diverged."""
    history, n = job.history, trained.known if trained.diverged else len(trained.losses)
    new = slice(len(history.loss), n)
    history.loss += trained.losses[new]
    history.seconds += trained.seconds[new]
    history.samples_per_second += [job.n_rows / seconds for seconds in trained.seconds[new]]
    history.learning_rate += [job.optimizer.learning_rate] * (n - new.start)


def _finish(job, small, trained):
    """Weights to the network, or the error that says why not."""
    if trained.diverged:
        job.network.parameters[:] = small.parameters
        steps, epoch = (trained.steps, trained.steps), len(trained.losses)
        raise DivergenceError(f"the loss became {trained.losses[-1]}", epoch, steps, job.history)
    job.history.interrupted = trained.rows < job.epochs * job.n_rows
    if job.looks and not checks.all_finite(small.parameters):
        steps, epoch = (max(1, trained.steps - job.data.steps + 1), trained.steps), len(trained.losses)
        raise DivergenceError("a weight became infinite or NaN", epoch, steps, job.history)
    job.network.parameters[:] = small.parameters
