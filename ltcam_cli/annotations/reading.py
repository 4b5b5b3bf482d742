"""Annotations of other tools, recognised by their content.

COCO, LabelMe and Label Studio are JSON, CVAT for images is XML, and YOLO has a text file for each
image. All classes count as defect, but those called background or ignore.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as Xml

from ltcam_cli.annotations.shapes import (
    FAULTS,
    Annotation,
    Polygon,
    Shape,
    box,
    by_columns,
    by_rows,
    ellipse,
    is_defect,
    of_brush,
    of_png,
    polygon,
)
from ltcam_cli.errors import LtcamError

KNOWN = "COCO, LabelMe or Label Studio JSON, CVAT for images XML, or YOLO labels"
SUFFIXES = frozenset({".json", ".xml", ".txt"})
LISTS = frozenset({"classes", "labels", "notes", "obj", "readme", "train", "val", "test"})


def read_annotations(path: Path) -> list[Annotation]:
    """Annotations of a file, or of all files of a folder; empty if a folder has none.

    Raises:
        LtcamError: If the file is none, or damaged; naming it, and the entry.
    """
    if path.is_file():
        found = _read(path)
        if found is None:
            raise LtcamError(f"dataset.annotations={path}: is none of {KNOWN}")
        return found
    files = sorted(file for file in path.rglob("*") if _is_candidate(file.relative_to(path)))
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    found = [each for file in files if file not in texts for each in _read(file) or ()]
    if found:
        return found
    labels = [file for file in texts if "labels" in file.relative_to(path.parent).parts[:-1]]
    texts = labels or [file for file in texts if file.stem.casefold() not in LISTS]
    return [_yolo(file, path) for file in texts]


def _is_candidate(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _read(path: Path) -> list[Annotation] | None:
    """Annotations of a file; None if it is of no known format."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".txt":
            return [_yolo(path, path.parent)]
        content = path.read_bytes()
        if suffix == ".xml":
            root = Xml.fromstring(content)
            return list(_cvat(path, root)) if root.tag == "annotations" else None
        return _json(path, json.loads(content)) if suffix == ".json" else None
    except (*FAULTS, OSError, Xml.ParseError) as error:
        raise LtcamError(
            f"dataset.annotations: {path} cannot be read ({error}); export it anew"
        ) from error


def _json(path: Path, content: Any) -> list[Annotation] | None:
    if isinstance(content, dict):
        if "images" in content and "annotations" in content:
            return list(_coco(path, content))
        if "shapes" in content and "imagePath" in content:
            return [_labelme(path, content)]
        content = [content]
    if isinstance(content, list) and all(_is_task(each) for each in content):
        key = "annotations" if any(task.get("annotations") for task in content) else "predictions"
        return [each for task in content if (each := _task(path, task, key))]
    return None


def _is_task(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("data"), dict)


def _annotation(
    path: Path, image: Any, size: tuple[Any, Any] | None, shapes: Callable[[], Iterator[Shape]]
) -> Annotation:
    """An annotation of shapes that may be wrong.

    Raises:
        LtcamError: Naming file and image.
    """
    try:
        sides = None if size is None or None in size else (int(size[0]), int(size[1]))
        return Annotation(path, str(image), sides, tuple(shapes()))
    except FAULTS as error:
        fault = f"{error} is missing" if isinstance(error, KeyError) else error
        raise LtcamError(
            f"dataset.annotations: {path}, image {image}: {fault}; correct it there"
        ) from error


def _coco(path: Path, content: Mapping[str, Any]) -> Iterator[Annotation]:
    names = {each["id"]: each.get("name") for each in content.get("categories", ())}
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for each in content["annotations"]:
        by_image.setdefault(each.get("image_id"), []).append(each)
    for image in content["images"]:
        entries = by_image.pop(image.get("id"), [])

        def shapes(entries: list[Mapping[str, Any]] = entries) -> Iterator[Shape]:
            for entry in entries:
                if not is_defect(names.get(entry.get("category_id"))):
                    continue
                segmentation = entry.get("segmentation")
                if isinstance(segmentation, dict):
                    yield by_columns(segmentation)
                elif segmentation:
                    yield from map(polygon, segmentation)
                else:
                    left, top, width, height = entry["bbox"]
                    yield box(left, top, left + width, top + height)

        yield _annotation(
            path, image.get("file_name"), (image.get("height"), image.get("width")), shapes
        )
    if by_image:
        raise LtcamError(
            f"dataset.annotations: {path}: annotations of image_id {next(iter(by_image))}, which "
            "is not among its images; export it anew"
        )


def _labelme(path: Path, content: Mapping[str, Any]) -> Annotation:
    def shapes() -> Iterator[Shape]:
        for entry in content["shapes"]:
            if is_defect(entry["label"]):
                yield _labelme_shape(entry)

    image = (path.parent / str(content["imagePath"]).replace("\\", "/")).as_posix()
    return _annotation(path, image, (content.get("imageHeight"), content.get("imageWidth")), shapes)


def _labelme_shape(entry: Mapping[str, Any]) -> Shape:
    points, kind = entry["points"], entry.get("shape_type", "polygon")
    if kind == "mask":
        return of_png(entry["mask"], *points[0])
    if kind in {"polygon", "oriented_rectangle"}:
        return polygon(points)
    if kind == "rectangle":
        return box(*points[0], *points[1])
    if kind == "circle":
        (x, y), (other_x, other_y) = points
        radius = ((x - other_x) ** 2 + (y - other_y) ** 2) ** 0.5
        return ellipse(x, y, radius, radius)
    raise ValueError(f"a {kind} has no area; draw a polygon or mask")


def _task(path: Path, task: Mapping[str, Any], key: str) -> Annotation | None:
    """What a task of Label Studio says; None of one that was skipped or not done.

    Args:
        path: File.
        task: Task.
        key: `annotations`, or `predictions` of a file in which nobody has annotated yet.
    """
    chosen = [each for each in task.get(key, ()) if not each.get("was_cancelled")]
    texts = [value for value in task["data"].values() if isinstance(value, str)]
    image = str(task["data"].get("image") or next(iter(texts), None))
    if not chosen:
        return None
    results = [each for each in chosen[0].get("result", ()) if isinstance(each.get("value"), dict)]

    def shapes() -> Iterator[Shape]:
        if len(chosen) > 1:
            raise ValueError(f"{len(chosen)} annotations of one task, and not one")
        for result in results:
            if shape := _task_shape(result):
                yield shape

    size = next(((r["original_height"], r["original_width"]) for r in results
                 if "original_width" in r), None)  # fmt: skip
    url = urlsplit(image)
    local = parse_qs(url.query).get("d", [])
    return _annotation(path, local[0] if local else unquote(url.path), size, shapes)


def _task_shape(result: Mapping[str, Any]) -> Shape | None:
    """Shape of a result of Label Studio, whose places are percents; None of a choice or text."""
    value, kind = result["value"], str(result.get("type", ""))
    labels = value.get(kind) or ["defect"]
    if not any(map(is_defect, labels)):
        return None
    if not {"rle", "points", "x"} & value.keys():
        return None
    height, width = int(result["original_height"]), int(result["original_width"])
    if result.get("image_rotation"):
        raise ValueError("was rotated; annotate it as it is")
    if "rle" in value:
        return of_brush(value["rle"], (height, width))
    across, down = width / 100, height / 100
    if "points" in value:
        return polygon([(x * across, y * down) for x, y in value["points"]])
    if value.get("rotation"):
        raise ValueError(f"a rotated {kind}; draw a polygon or use the brush")
    x, y = value["x"] * across, value["y"] * down
    if "radiusX" in value:
        return ellipse(x, y, value["radiusX"] * across, value["radiusY"] * down)
    if {"width", "height"} <= value.keys():
        return box(x, y, x + value["width"] * across, y + value["height"] * down)
    raise ValueError(f"a {kind} has no area; draw a polygon or use the brush")


def _cvat(path: Path, root: Xml.Element) -> Iterator[Annotation]:
    if root.find("track") is not None:
        raise LtcamError(f"{path}: is CVAT for video; export CVAT for images 1.1")
    for image in root.iter("image"):

        def shapes(image: Xml.Element = image) -> Iterator[Shape]:
            for entry in image:
                if entry.tag != "tag" and is_defect(entry.get("label")):
                    yield _cvat_shape(entry)

        size = image.get("height"), image.get("width")
        yield _annotation(path, image.get("name"), size, shapes)


def _cvat_shape(entry: Xml.Element) -> Shape:
    def numbers(*keys: str) -> list[float]:
        return [float(entry.attrib[key]) for key in keys]

    if entry.tag not in {"mask", "polygon", "box", "ellipse"}:
        raise ValueError(f"a {entry.tag} has no area; draw a polygon or mask")
    if float(entry.get("rotation", 0)):
        raise ValueError(f"a rotated {entry.tag}; draw a polygon or mask")
    if entry.tag == "mask":
        left, top, width, height = map(int, numbers("left", "top", "width", "height"))
        return by_rows(entry.attrib["rle"], left, top, (height, width))
    if entry.tag == "polygon":
        return polygon([pair.split(",") for pair in entry.attrib["points"].split(";")])
    if entry.tag == "box":
        return box(*numbers("xtl", "ytl", "xbr", "ybr"))
    return ellipse(*numbers("cx", "cy", "rx", "ry"))


def _yolo(path: Path, root: Path) -> Annotation:
    """Labels of one image, which has the file's name; five numbers are a box."""

    def shapes() -> Iterator[Shape]:
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                if line.strip():
                    yield _yolo_shape([float(word) for word in line.split()][1:])
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error

    name = path.relative_to(root).with_suffix("").as_posix()
    return _annotation(path, name, None, shapes)


def _yolo_shape(numbers: list[float]) -> Polygon:
    if len(numbers) == 4:
        x, y, width, height = numbers
        edges = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        return box(*edges, shares=True)
    return polygon(numbers, shares=True)
