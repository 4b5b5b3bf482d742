"""Names of the formats that masks are written in; see `writing`."""

from __future__ import annotations

from typing import Literal

Format = Literal["coco", "yolo-seg", "labelme", "cvat", "labelstudio"]
