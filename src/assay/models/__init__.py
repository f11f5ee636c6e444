"""Opening models, tracing them, and building small ones. `Backbone` is imported when it is asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.models.backbone import Backbone as Backbone
    from assay.models.backbone import BackboneConfig as BackboneConfig

__all__ = ["Backbone", "BackboneConfig"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'assay.models' has no attribute {name!r}")
    from assay.models import backbone

    return getattr(backbone, name)
