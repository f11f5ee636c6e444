"""Units on a Ray cluster that is there already: an executor like that of one machine."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from assay._errors import InputError
from assay.lab.executor import ATTEMPTS, ENVIRONMENT, Executor, Outcome, run_unit
from assay.lab.store import versions
from assay.lab.study import Resources, Unit

PATIENCE = 7.0
"""Seconds that a cluster has to answer, with the start of a process that asks."""


@contextlib.contextmanager
def on_ray(address: str) -> Iterator[Executor]:
    """An executor on the Ray cluster at `address`: HOST:PORT, or "auto" for that of this machine (or `$RAY_ADDRESS`).

        with on_ray("auto") as executor:
            run = run_study(study, config, executor=executor)

    Units get what `Study.resources` says, and one thread. Only their rows come back. Where a worker or its node dies,
    what it was running is run again elsewhere; a unit that this happens to `ATTEMPTS` times is recorded as failed.
    Assay and the study must be importable on all nodes, in the same versions; a study of a file is found before this is
    entered, for workers look for modules where this process did then. Raises `InputError` where Ray is not installed or
    nothing answers, within ten seconds; and where no node has what a unit takes.
    """
    check_address(address)
    import ray

    try:
        ray.init(address, runtime_env={"env_vars": ENVIRONMENT}, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # another version of Ray or Python, no node of the cluster on this machine, …
        raise InputError(f"--ray {address}: {' '.join(str(error).split())}") from error
    try:
        yield _run
    finally:
        ray.shutdown()


@cache
def check_address(address: str) -> None:
    """Raise `InputError` where no cluster answers: `ray.init` would wait for minutes, and complain on the way."""
    ask = "import sys, ray; from ray._private.services import canonicalize_bootstrap_address_or_die as find; "
    ask += "ray._raylet.GcsClient(address=find(sys.argv[1]))"
    if importlib.util.find_spec("ray") is None:
        raise InputError("--ray needs Ray; install it by: pip install 'assay[ray]'")
    try:
        done = subprocess.run([sys.executable, "-c", ask, address], capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise InputError(f"--ray {address}: no Ray cluster answers there within {PATIENCE:g} seconds") from None
    if done.returncode:
        raise InputError(f"--ray {address}: {done.stderr.strip().rpartition('Error: ')[2]}")


def _run(units: Mapping[str, Unit], device: str) -> Iterator[tuple[str, Outcome]]:
    import ray

    gpu = device.startswith("cuda")
    _check_fit(units.values(), gpu, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    task, deaths, under_way = ray.remote(_on_node), Counter[str](), dict[Any, str]()

    def start(key: str) -> None:
        takes = units[key].resources
        options = {"num_cpus": takes.cpus, "num_gpus": takes.gpus if gpu else 0, "memory": takes.memory or None}
        under_way[task.options(**options, max_retries=0).remote(units[key], device, versions())] = key

    try:
        for key in units:
            start(key)
        while under_way:
            for done in ray.wait(list(under_way))[0]:
                key = under_way.pop(done)
                try:
                    outcome = ray.get(done)
                except ray.exceptions.RayError as error:  # of Ray: what the experiment raises is in the outcome
                    deaths[key] += 1
                    if deaths[key] < ATTEMPTS:
                        start(key)
                        continue
                    outcome = Outcome(None, 0.0, f"the Ray worker died or could not begin: {error}")
                yield key, outcome
    finally:
        for left in under_way:
            ray.cancel(left, force=True)


def _on_node(unit: Unit, device: str, expected: dict[str, str]) -> Outcome:
    """On a worker. The scratch folder is on the disk of its node, and of no use once the unit has finished there."""
    if versions() != expected:
        raise RuntimeError(f"{socket.gethostname()} has {versions()}, and results are kept for {expected}")
    if unit.scratch is not None and unit.uses("scratch"):
        try:
            unit.scratch.mkdir(parents=True, exist_ok=True)
        except OSError:  # a folder of the driver's that cannot be on this node
            unit = replace(unit, scratch=Path(tempfile.mkdtemp()))
    outcome = run_unit(unit, device)
    if unit.scratch is not None:
        shutil.rmtree(unit.scratch, ignore_errors=True)
    return outcome


def _check_fit(units: Iterable[Unit], gpu: bool, nodes: list[dict[str, float]]) -> None:
    """Ray would wait for ever for a node that can take a unit."""

    def wanted(takes: Resources) -> dict[str, float]:
        return {"CPU": takes.cpus, "GPU": takes.gpus if gpu else 0, "memory": takes.memory}

    def words(amounts: Mapping[str, float]) -> str:
        memory = amounts.get("memory", 0)
        return f"{amounts.get('CPU', 0):g} CPUs, {amounts.get('GPU', 0):g} GPUs, {memory / 1e9:.3g} GB"

    for takes, name in {unit.resources: unit.name for unit in units}.items():
        if not any(all(node.get(kind, 0) >= amount for kind, amount in wanted(takes).items()) for node in nodes):
            there = "; ".join(sorted({words(node) for node in nodes}))
            raise InputError(f"a unit of {name} takes {words(wanted(takes))}; no node has them, they have {there}")
