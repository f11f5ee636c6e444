"""assay: what a neural sequence model does with its memory, measured.

    report = assay.measure("builtin:attention")     # or a folder, a hub id, a loaded model
    report.findings, report.layers, report.to_html()

Importing assay is cheap; torch is imported with the first name that needs it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay._compress import compress as compress
    from assay._measure import measure as measure
    from assay.models.adapters import adapter as adapter
    from assay.models.load import load as load
    from assay.models.trace import trace as trace
    from assay.report import Finding as Finding
    from assay.report import Report as Report

from assay._errors import AssayError as AssayError
from assay._errors import InputError as InputError
from assay._errors import ModelError as ModelError
from assay._errors import OutputError as OutputError

__version__ = "0.1.0"
__all__ = [
    "AssayError",
    "Finding",
    "InputError",
    "ModelError",
    "OutputError",
    "Report",
    "adapter",
    "compress",
    "load",
    "measure",
    "trace",
]

_WHERE = {
    "Finding": "assay.report",
    "Report": "assay.report",
    "adapter": "assay.models.adapters",
    "compress": "assay._compress",
    "load": "assay.models.load",
    "measure": "assay._measure",
    "trace": "assay.models.trace",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'assay' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
