"""Masks as annotations that other tools open, to be corrected there.

Each writer gets pictures and gives its files, as paths below a folder and texts:

| format | files | regions are |
|---|---|---|
| coco | `coco.json` | uncompressed RLE |
| yolo-seg | `yolo-seg/data.yaml`, `yolo-seg/labels/<name>.txt` | polygons; holes by slits |
| labelme | `labelme/<name>.json` | polygons; with holes: mask shapes |
| cvat | `cvat.xml`: CVAT for images 1.1 | masks |
| labelstudio | `labelstudio.json`; `labelstudio.xml`, its labelling interface | brushes |
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as Xml

import numpy as np
from PIL import Image

from ltcam_cli.annotations.formats import Format
from ltcam_cli.annotations.pixels import brush, run_lengths
from ltcam_cli.annotations.regions import Region, regions


@dataclass(frozen=True)
class Picture:
    """An image and its mask.

    Attributes:
        name: Name of the image, without suffix.
        file: The same with its suffix: the image's path below the folder of the images.
        path: Path of the image.
        mask: Mask (H, W) bool.
        classes: Class of a region by its box (top, left, height, width) and area; others are of the
            first class.
    """

    name: str
    file: str
    path: Path
    mask: np.ndarray
    classes: Mapping[tuple[int, ...], str] = field(default_factory=dict)

    def regions(self, names: Sequence[str]) -> Iterator[tuple[Region, str]]:
        """Regions with their classes, which are among some names."""
        for region in regions(self.mask):
            key = (region.top, region.left, *region.pixels.shape, int(region.pixels.sum()))
            yield region, self.classes.get(key, names[0])


# From pictures, the folder of the files and the names of the classes.
Writer = Callable[[Iterable[Picture], Path, Sequence[str]], Iterator[tuple[str, str]]]


def coco(
    pictures: Iterable[Picture], folder: Path, names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """One file of all images: https://cocodataset.org/#format-data."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for picture in pictures:
        height, width = picture.mask.shape
        images.append(
            {"id": len(images) + 1, "file_name": picture.file, "width": width, "height": height}
        )
        for region, name in picture.regions(names):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": names.index(name) + 1,
                    "iscrowd": 0,
                    "area": int(region.pixels.sum()),
                    "bbox": [region.left, region.top, *region.pixels.shape[::-1]],
                    "segmentation": {
                        "size": [height, width],
                        "counts": run_lengths(region.whole.ravel(order="F")),
                    },
                }
            )
    categories = [
        {"id": number, "name": name, "supercategory": ""} for number, name in enumerate(names, 1)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    yield "coco.json", json.dumps(content) + "\n"


def yolo(
    pictures: Iterable[Picture], folder: Path, names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """A file of each image: https://docs.ultralytics.com/datasets/segment; `images/` is not made.

    A line is a region: its class, and x and y as shares of width and height.
    """
    classes = "".join(f"  {number}: {_text(name)}\n" for number, name in enumerate(names))
    yield "yolo-seg/data.yaml", f"train: images\nval: images\nnames:\n{classes}"
    for picture in pictures:
        sides = np.array(picture.mask.shape[::-1])
        lines = [
            " ".join([str(names.index(name)), *(f"{share:.9f}" for share in shares.ravel())])
            for region, name in picture.regions(names)
            for shares in [region.outline / sides]
        ]
        yield f"yolo-seg/labels/{picture.name}.txt", "".join(f"{line}\n" for line in lines)


def labelme(
    pictures: Iterable[Picture], folder: Path, names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """A file of each image, which names it by its path from the file."""
    for picture in pictures:
        file = f"labelme/{picture.name}.json"
        height, width = picture.mask.shape
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [_shape(region, name) for region, name in picture.regions(names)],
            "imagePath": Path(os.path.relpath(picture.path, (folder / file).parent)).as_posix(),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        yield file, json.dumps(content, indent=2) + "\n"


def _shape(region: Region, name: str) -> dict[str, Any]:
    """A region as LabelMe's polygon; one with holes as its mask, whose last corner is inside."""
    shape: dict[str, Any] = {"label": name, "group_id": None, "description": "", "flags": {}}
    if not region.has_holes:
        points = region.outline.tolist()
        return {**shape, "shape_type": "polygon", "points": points, "mask": None}
    content = io.BytesIO()
    Image.fromarray(region.pixels.astype(np.uint8) * 255).save(content, "PNG")
    (height, width), left, top = region.pixels.shape, region.left, region.top
    return {
        **shape,
        "shape_type": "mask",
        "points": [[left, top], [left + width - 1, top + height - 1]],
        "mask": base64.b64encode(content.getvalue()).decode(),
    }


def cvat(
    pictures: Iterable[Picture], folder: Path, names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """One file of all images: https://docs.cvat.ai/docs/other/xml_format.

    A mask has run lengths by rows of its box, the first of what is not marked.
    """
    root = Xml.Element("annotations")
    Xml.SubElement(root, "version").text = "1.1"
    task = Xml.SubElement(Xml.SubElement(root, "meta"), "task")
    labels = Xml.SubElement(task, "labels")
    for name in names:
        label = Xml.SubElement(labels, "label")
        Xml.SubElement(label, "name").text = name
        Xml.SubElement(label, "attributes")
    for number, picture in enumerate(pictures):
        height, width = map(str, picture.mask.shape)
        head = {"id": str(number), "name": picture.file, "width": width, "height": height}
        image = Xml.SubElement(root, "image", head)
        for region, name in picture.regions(names):
            height, width = map(str, region.pixels.shape)
            place = {"left": str(region.left), "top": str(region.top)}
            runs = ", ".join(map(str, run_lengths(region.pixels.ravel())))
            mask = {"label": name, "source": "auto", "occluded": "0", "rle": runs, "z_order": "0"}
            Xml.SubElement(image, "mask", {**mask, **place, "width": width, "height": height})
    Xml.indent(root)
    text = Xml.tostring(root, encoding="unicode")
    yield "cvat.xml", f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def labelstudio(
    pictures: Iterable[Picture], folder: Path, names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Tasks with predictions, and the labelling interface that they fit.

    An image is named from the folder above the predicted one, the server's
    LOCAL_FILES_DOCUMENT_ROOT, of which a local storage must be a part.

    https://labelstud.io/guide/predictions and, of the brush, https://labelstud.io/tags/brushlabels
    """
    view = Xml.Element("View")
    Xml.SubElement(view, "Image", {"name": "image", "value": "$image", "zoom": "true"})
    labels = Xml.SubElement(view, "BrushLabels", {"name": "label", "toName": "image"})
    for name in names:
        Xml.SubElement(labels, "Label", {"value": name})
    Xml.indent(view)
    yield "labelstudio.xml", Xml.tostring(view, encoding="unicode") + "\n"
    tasks = [
        {
            "data": {"image": f"/data/local-files/?d={quote(_with_folder(picture))}"},
            "predictions": [{"model_version": "ltcam", "result": _brushes(picture, names)}],
        }
        for picture in pictures
    ]
    yield "labelstudio.json", json.dumps(tasks) + "\n"


def _with_folder(picture: Picture) -> str:
    """The image's path from the folder above that of the images."""
    return "/".join(picture.path.parts[-picture.file.count("/") - 2 :])


def _brushes(picture: Picture, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"region{number}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": picture.mask.shape[1],
            "original_height": picture.mask.shape[0],
            "image_rotation": 0,
            "value": {"format": "rle", "rle": brush(region.whole), "brushlabels": [name]},
        }
        for number, (region, name) in enumerate(picture.regions(names), 1)
    ]


def _text(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)  # a YAML string, too


WRITERS: dict[Format, Writer] = {
    "coco": coco,
    "yolo-seg": yolo,
    "labelme": labelme,
    "cvat": cvat,
    "labelstudio": labelstudio,
}
