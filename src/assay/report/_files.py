"""Writing results so that a killed run leaves nothing that looks finished."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from assay._errors import OutputError


def check_free(folder: Path, *, force: bool) -> None:
    """Raise `OutputError` where `folder` cannot take a result; meant to be asked before the work is done."""
    try:
        is_file, is_taken = folder.exists() and not folder.is_dir(), folder.is_dir() and any(folder.iterdir())
    except OSError as error:  # not ours to read, or too long a name
        raise OutputError(f"cannot read {folder}: {error.strerror or error}; give another --out") from None
    if is_file:
        raise OutputError(f"{folder} is a file; give --out a folder")
    if is_taken and not force:
        raise OutputError(f"{folder} exists and is not empty; give another --out, or --force to replace what is in it")


def write_folder(folder: Path, files: dict[str, str], *, force: bool) -> None:
    """Write all files into `folder`, or none: they are written beside it first, then moved into place.

    Into a folder that is there already (`force`) they are moved one after the other, in the order given.

    Raises `OutputError` where the folder is taken (unless `force`), or the disk is full or read-only.
    """
    check_free(folder, force=force)
    staging: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        staging.chmod(0o755)
        for name, text in files.items():
            with (staging / name).open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        if folder.exists():
            for name in files:
                (staging / name).replace(folder / name)
        else:
            staging.replace(folder)
    except OSError as error:
        raise OutputError(f"cannot write the report to {folder}: {error.strerror or error}") from None
    finally:
        if staging is not None and staging.exists():
            shutil.rmtree(staging, ignore_errors=True)
