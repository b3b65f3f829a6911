"""One library in a process of its own: ``python -m benchmarks.peers.worker MODULE THREADS``.

Reads requests and writes answers, a line of JSON each. `Worker` is the other end.
"""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from .cases import Case

# Of the shell: they would make OpenBLAS mistake the processor for another.
UNWANTED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")

# What NumPy and scikit-learn are told of threads by.
THREADS_OF_BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


class Worker:
    """A library's process. Between its turns it is stopped, so that threads spinning for work disturb nobody.

    Parameters
    ----------
    module : str
        "train_jax", say.
    threads : int or None
        None: as the library likes.
    """

    def __init__(self, module, threads=None):
        environment = {name: value for name, value in os.environ.items() if name not in UNWANTED}
        if threads:
            environment |= dict.fromkeys(THREADS_OF_BLAS, str(threads))
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path[1:]])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers.worker", module, str(threads or 0)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._complaints = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.about = self._answer(600)

    def _listen(self):
        self._complaints.extend(self._process.stderr)

    def ask(self, timeout=600, **request):
        """The answer to a request (a dict; "error": why there is none)."""
        self._signal("SIGCONT")
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return self._answer(timeout)
        except (BrokenPipeError, ValueError):
            return {"error": "the process has ended"}
        finally:
            self._signal("SIGSTOP")

    def _answer(self, timeout):
        alarm = threading.Timer(timeout, self._process.kill)
        alarm.start()
        line = self._process.stdout.readline()
        alarm.cancel()
        if line:
            return json.loads(line)
        self._process.wait()
        last = [each.strip() for each in self._complaints if each.strip()][-1:] or ["killed, or out of time"]
        return {"error": last[0]}

    def _signal(self, name):
        if hasattr(signal, name) and self._process.poll() is None:
            self._process.send_signal(getattr(signal, name))

    def close(self):
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            pipe.close()


def _case(request):
    return Case(**request["case"] | {"sizes": tuple(request["case"]["sizes"])})


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**values):
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    module, threads = sys.argv[1], int(sys.argv[2]) or None
    try:
        library = importlib.import_module(f".{module}", __package__)
    except ImportError as error:
        return answer(error=str(error))
    answer(name=library.NAME, version=library.VERSION)
    training = epoch = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                case = _case(request)
                start = time.perf_counter()
                training = library.Training(case, *case.data(), threads)
                training.run(1)  # compiles
                first = time.perf_counter() - start
                epoch = training.run(1)
                while epoch < 0.02:
                    epochs = max(2, math.ceil(0.04 / max(epoch, 1e-6)))
                    epoch = training.run(epochs) / epochs
                    if epoch * epochs > 0.02:
                        break
                answer(first_seconds=first, epoch_seconds=epoch, threads=getattr(training, "threads", None))
            elif request["do"] == "round":
                epochs = max(1, round(request["seconds"] / epoch))
                answer(seconds=training.run(epochs) / epochs, steps=getattr(training, "steps", None))
            elif (
                request["do"] == "outputs"
            ):  # after so many epochs on few rows, all in one batch: what is to agree
                case = _case(request)
                x, y = case.data()
                training = library.Training(case, x, y, threads)
                training.run(request["epochs"])
                answer(outputs=training.logits(x).tolist())
            elif request["do"] == "learn":
                from .time_to_accuracy import learn

                case = _case(request)
                with np.load(request["data"]) as arrays:
                    arrays = dict(arrays)
                training = library.Training(case, arrays["x"], arrays["y"], threads, request["seed"])
                seconds, accuracy = learn(training, arrays, request["goal"], request["epochs"])
                answer(seconds=seconds, accuracy=accuracy, threads=getattr(training, "threads", None))
            elif request["do"] == "peak":
                from benchmarks.peak import seconds_per_product

                answer(
                    gflops=2e-9 / seconds_per_product(threads=request["threads"], seconds=request["seconds"])
                )
            elif request["do"] == "barrier":
                from benchmarks.bench_team import seconds_per_barrier

                answer(seconds=seconds_per_barrier(request["threads"]))
        except NotImplementedError as error:
            answer(error=str(error))
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}".splitlines()[0][:200])
    return None


if __name__ == "__main__":
    main()
