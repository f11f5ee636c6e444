"""On a Ray cluster of two nodes: the same rows as here, whatever dies on the way."""

from __future__ import annotations

import importlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_study_cli import refused, study
from toy import edit, load_toy, rows_of, run_toy

from assay import InputError
from assay.lab import Unit
from assay.lab import ray as ray_module
from assay.lab.ray import _check_fit, _on_node, on_ray
from assay.lab.store import versions
from assay.lab.study import Resources

NODE = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Any, Any]]:
    """A cluster of two nodes on this machine, each of one CPU, and its second; the first says that it has a GPU."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'assay[ray]'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_prestart_worker_first_driver", "0")  # workers that would not be used
        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_gpus": 1})
        try:
            yield cluster, cluster.add_node(**NODE)
        finally:
            cluster.shutdown()


def test_a_unit_gets_what_it_asks_for_and_one_that_fits_nowhere_is_refused(
    nodes: tuple[Any, Any], folder: Path
) -> None:
    text = "import os, ray, torch\n\n\ndef ask(*, scratch, seed):\n    (scratch / 'file').touch()\n"
    text += "    found = {name: os.environ.get(name, '') for name in ('OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES')}\n"
    text += "    own = ray.get_runtime_context().get_assigned_resources()\n"
    text += (
        "    return found | {'memory': own.get('memory', 0), 'cpus': own['CPU'], 'threads': torch.get_num_threads()}\n"
    )
    (folder / "asking.py").write_text(text)
    ask = importlib.import_module("asking").ask

    def unit(**amounts: float) -> Unit:
        return Unit(ask, {}, scratch=folder / "scratch", resources=Resources(**amounts))

    with on_ray(nodes[0].address) as executor:
        ((_, outcome),) = executor({"a": unit(memory=2e6)}, "cuda")
        assert outcome.rows is not None, outcome.traceback
        assert outcome.rows[0] | {"experiment": "", "seed": 0} == {
            "experiment": "",
            "seed": 0,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "0",
            "memory": 2e6,
            "cpus": 1,
            "threads": 1,
        }
        assert not (folder / "scratch").exists()
        _check_fit([unit(gpus=5)], gpu=False, nodes=[{"CPU": 1}])  # no GPU is asked for where the device is none
        for amounts, words in (({"cpus": 2}, "2 CPUs"), ({"gpus": 2}, "2 GPUs"), ({"memory": 9e11}, "900 GB")):
            with pytest.raises(InputError, match=f"a unit of ask takes .*{words}.*; no node has them, they have"):
                list(executor({"a": unit(**amounts)}, "cuda"))


def begun_on(node: Any, log: Path) -> dict[int, tuple[int, int]]:
    """The units that the processes of a node have begun, those processes that live."""
    begun = [line.split() for line in log.read_text().splitlines() if line.startswith("begin")]
    own = {process.process.pid for kind in node.all_processes.values() for process in kind}
    return {
        int(pid): (int(n), int(seed))
        for _, n, seed, pid in begun
        if psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).ppid() in own
    }


def test_a_worker_and_a_node_die_and_nothing_is_lost_or_finished_twice(
    nodes: tuple[Any, Any], toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All units of `first` wait until one worker of the one node and the whole other node have been killed."""
    cluster, node = nodes
    here, log, go = run_toy(toy), toy.parent / "units.log", toy.parent / "go"
    log.touch()
    write = f"    with open({str(log)!r}, 'a') as log:\n        log.write"
    body = f"    import os\n{write}(f'begin {{n}} {{seed}} {{os.getpid()}}\\n')\n"
    body += f"    while not Path({str(go)!r}).exists():\n        time.sleep(0.01)\n"
    body += "    if (n, seed) == (2, 1):\n        raise RuntimeError('no luck')\n"
    body += "    if (n, seed) == (3, 0):\n        os.kill(os.getpid(), 9)\n"
    body += f"{write}(f'end {{n}} {{seed}}\\n')\n"
    edit(toy, '    noted("first", n, seed)\n    time.sleep(pause)\n', body)
    edit(toy, '    noted("second", n, seed)\n', "")
    interrupted: list[tuple[int, int]] = []
    monkeypatch.setattr(ray_module, "ATTEMPTS", 2)  # of this process; each costs the start of a worker

    def kill() -> None:
        while not (begun_on(node, log) and begun_on(cluster.head_node, log)):
            time.sleep(0.02)
        ((pid, of_worker),) = begun_on(cluster.head_node, log).items()
        ((orphan, of_node),) = begun_on(node, log).items()
        os.kill(pid, signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)
        interrupted.extend((of_worker, of_node))
        while psutil.pid_exists(orphan):  # it ends when it finds that its node has gone
            time.sleep(0.02)
        go.touch()

    killing = threading.Thread(target=kill, daemon=True)
    killing.start()
    load_toy(toy)
    assert study("run", toy, "--scale", "smoke", "--ray", cluster.address, "--json", "--out", toy.parent / "ray") == 1
    (run,) = json.loads(capsys.readouterr().out)  # that is all: what Ray says of the dead is elsewhere
    killing.join()
    lines = [line.split() for line in log.read_text().splitlines()]
    begun = Counter((int(n), int(seed)) for kind, n, seed, *_ in lines if kind == "begin")
    ended = Counter((int(n), int(seed)) for kind, n, seed, *_ in lines if kind == "end")

    expected = Counter({(n, seed): 1 for n in (1, 2, 3) for seed in (0, 1)}) + Counter(interrupted)
    expected[2, 1] += 2  # what raises is tried twice more, wherever it is
    expected[3, 0] = 2  # what loses its worker is given up after ATTEMPTS
    assert begun == expected
    assert ended == {(1, 0): 1, (1, 1): 1, (2, 0): 1, (3, 1): 1}
    assert (run["ran"], len(run["failures"])) == (10, 2)
    assert any("RuntimeError: no luck" in words for words in run["failures"])
    assert any("the Ray worker died" in words for words in run["failures"])
    lost = (
        b'"experiment": "first", "n": 2, "pause": 0.0, "seed": 1',
        b'"experiment": "first", "n": 3, "pause": 0.0, "seed": 0',
    )
    rest = [line for line in rows_of(here).splitlines() if not any(unit in line for unit in lost)]
    assert (Path(run["folder"]) / "rows.jsonl").read_bytes().splitlines() == rest


def test_an_address_that_does_not_answer_is_one_line(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'assay[ray]'")
    assert refused("run", toy, "--ray", "nonsense") == "--ray nonsense: Invalid address format: nonsense"
    assert refused("run", toy, "--ray", "auto", "--jobs", 2).startswith("--jobs and --ray: give one of them")
    monkeypatch.setattr(ray_module, "PATIENCE", 1.0)
    words = refused("run", toy, "--ray", "127.0.0.1:1")
    assert words == "--ray 127.0.0.1:1: no Ray cluster answers there within 1 seconds"


def test_a_node_of_another_version_refuses_and_one_without_the_folder_takes_another(tmp_path: Path) -> None:
    def leave(*, scratch: Path) -> dict[str, str]:
        (scratch / "file").touch()
        return {"scratch": str(scratch)}

    (tmp_path / "file").touch()
    unit = Unit(leave, {}, scratch=tmp_path / "file" / "folder")  # no folder can be made there
    rows = _on_node(unit, "cpu", versions()).rows

    assert rows is not None
    assert not Path(rows[0]["scratch"]).exists()
    with pytest.raises(RuntimeError, match=r"and results are kept for {'torch': '0'}"):
        _on_node(unit, "cpu", {"torch": "0"})


def test_without_ray_it_says_what_to_install(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_module.importlib.util, "find_spec", lambda _: None)

    assert refused("run", toy, "--ray", "auto") == "--ray needs Ray; install it by: pip install 'assay[ray]'"
