"""Where numbers come from: the study in words, the commit of the code, and the class of the machine."""

from __future__ import annotations

import inspect
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.lab.study import Study


def about(study: Study) -> dict[str, Any]:
    """What a page says of a study besides its results, as plain data: so that a page needs the record alone.

    `paper`, `idea`, `experiments` (claim: what is run), `settings` (field: description), `scales` (name: settings).
    """

    def first_paragraph(one: object) -> str:
        return " ".join(inspect.cleandoc(one.__doc__ or "").partition("\n\n")[0].split())

    fields = study.Config.model_fields.items()
    return {
        "paper": asdict(study.paper),
        "idea": first_paragraph(type(study)),
        "experiments": {claim.slug: first_paragraph(claim.experiment) for claim in study.claims},
        "settings": {name: field.description or "" for name, field in fields},
        "scales": {name: config.model_dump(mode="json") for name, config in study.scales.items()},
    }


def commit(file: Path) -> str | None:
    """The commit of the git checkout that has `file`, with `+` behind it where tracked files differ; None without."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(file.parent), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(file))
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/*.py")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or a file that it does not know
        return None


def machine(device: str) -> dict[str, Any]:
    """The class of the machine: processor, cores that may be used, memory in GiB; and the accelerator, where used."""
    import psutil
    import torch

    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
    }
    if device.startswith("cuda") and torch.cuda.is_available():  # on a Ray cluster it may be on other nodes only
        found["accelerator"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
