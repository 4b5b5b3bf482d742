"""ltcam: where is the defect? Pixel masks from image-level labels, by class activation maps.

The names a notebook needs are here; they are imported when first used, so that the command line
starts without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ltcam_cli.classifier.checkpoint import load_classifier
    from ltcam_cli.maps.engine import explain
    from ltcam_cli.maps.spec import Fusion, MapSpec
    from ltcam_cli.maps.weightings import weighting
    from ltcam_cli.masks.segmenters import segment
    from ltcam_cli.scores.pixels import PixelCounts

__all__ = [
    "Fusion",
    "MapSpec",
    "PixelCounts",
    "explain",
    "load_classifier",
    "segment",
    "weighting",
]

_HOMES = {
    "Fusion": "ltcam_cli.maps.spec",
    "MapSpec": "ltcam_cli.maps.spec",
    "PixelCounts": "ltcam_cli.scores.pixels",
    "explain": "ltcam_cli.maps.engine",
    "load_classifier": "ltcam_cli.classifier.checkpoint",
    "segment": "ltcam_cli.masks.segmenters",
    "weighting": "ltcam_cli.maps.weightings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ltcam_cli' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
