"""Where units run. An executor takes units and yields what became of each, in any order; it knows no files.

`in_processes` makes the one for a single machine, `assay.lab.ray.on_ray` that for a Ray cluster; anything with the same
signature can take their place.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass
from typing import Any

from assay._errors import InputError
from assay.lab.study import Row, Unit

ATTEMPTS = 3
"""How often a unit is tried before it is recorded as failed."""
ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {
    "MALLOC_TRIM_THRESHOLD_": str(2**28),  # or glibc hands back what a step of training used, to ask for it again
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}
"""Of a worker process: one thread, and memory that is kept from step to step."""


@dataclass(frozen=True)
class Outcome:
    """What became of a unit: its rows, or the traceback of its last attempt. `seconds`: of that attempt."""

    rows: list[Row] | None
    seconds: float
    traceback: str = ""


Executor = Callable[[Mapping[str, Unit], str], Iterator[tuple[str, Outcome]]]
"""(units by key, device) -> (key, outcome) of each, as they come."""


def run_unit(unit: Unit, device: str) -> Outcome:
    """Run a unit here, on one thread, at most `ATTEMPTS` times. Whatever it raises is in the outcome.

    What it prints goes to the standard error output.
    """
    start, words = time.perf_counter(), ""
    for _ in range(ATTEMPTS):
        start = time.perf_counter()
        try:
            with _alone(unit.seed), contextlib.redirect_stdout(sys.stderr):
                found = unit.call(device)
            rows = [_row(unit, row) for row in (found if isinstance(found, list) else [found])]
            return Outcome(rows, time.perf_counter() - start)
        except Exception:
            words = traceback.format_exc()
    return Outcome(None, time.perf_counter() - start, words)


def in_this_process(units: Mapping[str, Unit], device: str) -> Iterator[tuple[str, Outcome]]:
    """The executor without processes: one unit after the other. Raises `InputError` where one does not fit."""
    fitting(units.values(), 1, device)
    for key, unit in units.items():
        yield key, run_unit(unit, device)


@contextlib.contextmanager
def in_processes(jobs: int) -> Iterator[Executor]:
    """An executor with `jobs` processes of this machine, one thread each; they end with the context.

        with in_processes(4) as executor:
            run = run_study(study, config, executor=executor)

    A worker that dies (killed for its memory, say) takes the others with it. Whatever was under way then is run again,
    one unit at a time, so that it is known which of them does it; that one is given up after `ATTEMPTS` attempts.
    Where `jobs` units at once would not fit into memory, fewer run; where one does not, that is an `InputError`.
    """
    if jobs == 1:
        yield in_this_process
        return
    with _Pool(jobs) as pool:
        yield pool.run


def fitting(units: Iterable[Unit], jobs: int, device: str = "cpu") -> int:
    """How many of the units may run at once on this machine's `jobs` cores and its GPUs, and in its free memory.

    Raises `InputError` where one alone does not fit.
    """
    import torch

    from assay.models._memory import available_memory, human_bytes

    free, most = available_memory(torch.device("cpu")), jobs
    gpus = torch.cuda.device_count() if torch.device(device).type == "cuda" else 0
    for unit in units:
        cpus, memory = unit.resources.cpus, unit.resources.memory
        if memory > free:
            raise InputError(
                f"a unit of {unit.name} takes {human_bytes(memory)} of memory and {human_bytes(free)} are free here; "
                "`assay study show` says what the units of each scale take"
            )
        most = min(most, int(jobs // max(cpus, 1)), int(free // memory) if memory else jobs)
        if gpus and unit.resources.gpus:
            most = min(most, int(gpus / unit.resources.gpus))
    return max(most, 1)


class _Pool:
    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.workers: Any = None

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self.workers is not None:
            self.workers.shutdown(kill_workers=True)
            self.workers = None

    def run(self, units: Mapping[str, Unit], device: str) -> Iterator[tuple[str, Outcome]]:
        pending, at_once = dict(units), fitting(units.values(), self.jobs, device)
        deaths: Counter[str] = Counter()
        while pending:
            suspects = [key for key in pending if deaths[key]]
            batch = {key: pending[key] for key in suspects[:1] or pending}
            under_way: dict[Future[Outcome], str] = {}
            try:
                for key, outcome in self._batch(batch, device, under_way, at_once):
                    del pending[key]
                    yield key, outcome
            except BrokenExecutor as error:
                self.__exit__()
                deaths.update(set(under_way.values()))
                for key in [key for key in pending if deaths[key] >= ATTEMPTS]:
                    del pending[key]
                    yield key, Outcome(None, 0.0, f"the worker process died: {error}")

    def _batch(
        self, batch: Mapping[str, Unit], device: str, under_way: dict[Future[Outcome], str], at_once: int
    ) -> Iterator[tuple[str, Outcome]]:
        """Keeps `at_once` units `under_way`, or two for each worker; raises `BrokenExecutor` where one dies."""
        waiting, most = iter(batch.items()), at_once if at_once < self.jobs else 2 * self.jobs
        while True:
            for key, unit in itertools.islice(waiting, most - len(under_way)):
                under_way[self._started().submit(run_unit, unit, device)] = key
            if not under_way:
                return
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                outcome = future.result()
                yield under_way.pop(future), outcome

    def _started(self) -> Any:
        if self.workers is None:
            from joblib.externals.loky import ProcessPoolExecutor  # type: ignore[import-untyped]

            # loky replaces workers whose memory has grown, which changes nothing for us
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
            self.workers = ProcessPoolExecutor(
                max_workers=self.jobs, env=ENVIRONMENT, initializer=_end_with, initargs=(os.getpid(),)
            )
        return self.workers


def _end_with(parent: int) -> None:
    """In a worker: end when the process that started it was killed, instead of waiting for it for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One thread, and all global generators seeded; both are as before afterwards."""
    import numpy as np
    import torch

    threads, python_state, numpy_state = torch.get_num_threads(), random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            torch.set_num_threads(1)
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(threads)
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _row(unit: Unit, measured: Mapping[str, Any]) -> Row:
    """Where a row comes from, and its numbers as plain JSON: null for NaN."""
    settings = {name: value for name, value in unit.settings.items() if not isinstance(value, list | tuple | dict)}
    row: Row = {"experiment": unit.name, **settings, "seed": unit.seed}
    for name, value in measured.items():
        plain = value.item() if hasattr(value, "item") else value
        if not isinstance(plain, bool | int | float | str | None):
            raise TypeError(f"row[{name!r}] is {type(value).__name__}; expected a number, text or truth value")
        if isinstance(plain, float) and plain in (float("inf"), float("-inf")):
            raise ValueError(f"row[{name!r}] is infinite")
        row[name] = None if isinstance(plain, float) and plain != plain else plain
    return row
