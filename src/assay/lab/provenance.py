"""Where numbers come from: the commit of the code, and the class of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any


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
    if device.startswith("cuda"):
        found["accelerator"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
