"""Annotations of other tools: what they read is the mask, and what they write is read back."""

from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SYNTHETIC, Cli, Run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio_converter import brush as studio
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from pycocotools.coco import COCO
from skimage.draw import polygon2mask
from toys import fault

from ltcam_cli.annotations.formats import Format
from ltcam_cli.annotations.pixels import brush, from_brush, run_lengths, uncompressed
from ltcam_cli.annotations.reading import read_annotations
from ltcam_cli.annotations.regions import regions
from ltcam_cli.annotations.shapes import names_of
from ltcam_cli.annotations.writing import WRITERS, Picture
from ltcam_cli.data.folder import Folder
from ltcam_cli.data.load import load_split
from ltcam_cli.data.sample import Sample, content_of
from ltcam_cli.errors import LtcamError
from ltcam_cli.runs.annotating import write_annotations

FORMATS: list[Format] = [*WRITERS]
PLACES = {"coco": "coco.json", "cvat": "cvat.xml", "labelstudio": "labelstudio.json"}
NO_REGIONS = pd.DataFrame()
MASKS = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(lambda size: arrays(bool, size))
formats = pytest.mark.parametrize("kind", FORMATS)


def ring(size: tuple[int, int] = (40, 36)) -> np.ndarray:
    """A mask with a hole that holds an island, a line at the border, a corner and a dot."""
    mask = np.zeros(size, bool)
    mask[4:20, 5:25] = True
    mask[8:16, 9:21] = False
    mask[10:13, 12:15] = True
    mask[22, :] = mask[-1, -3:] = mask[30, 30] = True
    mask[[26, 27, 28], [4, 5, 6]] = True
    return mask


def write(kind: Format, masks: dict[str, np.ndarray], folder: Path, name: str = "defect") -> Path:
    """Files of a format, of images called x.png beside their folder; what is to be read."""
    pictures = [
        Picture(image, f"{image}.png", folder.parent / f"{image}.png", mask)
        for image, mask in masks.items()
    ]
    for file, text in WRITERS[kind](pictures, folder, [name]):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / PLACES.get(kind, kind)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# What others see in our files


def by_labelme(points: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """LabelMe's `shape_to_mask` of a polygon."""
    image = Image.new("L", size[::-1])
    ImageDraw.Draw(image).polygon([(x, y) for x, y in points], outline=1, fill=1)
    return np.asarray(image) > 0


def by_ultralytics(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Ultralytics' `polygon2mask`: decimals are cut off, and the outline is filled, too."""
    cv2 = pytest.importorskip("cv2")
    image = np.zeros(size, np.uint8)
    cv2.fillPoly(image, [points.astype(np.int32)], 1)
    return image > 0


@settings(max_examples=300, deadline=None)
@given(MASKS)
def test_every_reader_sees_the_outlines_pixels(mask: np.ndarray) -> None:
    found = [*regions(mask)]
    assert len(found) <= mask.sum()
    for region in found:
        centres = polygon2mask(mask.shape, region.outline[:, ::-1] - 0.5)
        assert (centres == region.whole).all()
        assert (by_ultralytics(region.outline, region.size) == region.whole).all()
        if not region.has_holes:
            assert (by_labelme(region.outline.tolist(), region.size) == region.whole).all()
    assert (sum((region.whole.astype(int) for region in found), 0 * mask) == mask).all()


def test_an_outline_is_as_short_as_it_can_be() -> None:
    [square] = regions(np.ones((5, 7), bool))
    assert len(square.outline) == 8  # the corners are cut
    assert not square.has_holes


def test_pycocotools_sees_the_masks(tmp_path: Path) -> None:
    masks = {"a": ring(), "line/b": ring().T, "empty": np.zeros((9, 4), bool)}
    tool = COCO(str(write("coco", masks, tmp_path, "crack")))
    assert [each["name"] for each in tool.cats.values()] == ["crack"]
    names = {each["file_name"]: number for number, each in tool.imgs.items()}
    assert [*names] == ["a.png", "line/b.png", "empty.png"]
    for name, mask in masks.items():
        entries = tool.loadAnns(tool.getAnnIds(names[f"{name}.png"]))
        drawn = [tool.annToMask(entry) > 0 for entry in entries]
        assert (np.any(drawn, axis=0) if drawn else np.zeros_like(mask)).tolist() == mask.tolist()
        for entry, region in zip(entries, drawn, strict=True):
            rle = coco.encode(np.asfortranarray(region, np.uint8))
            assert entry["area"] == coco.area(rle) and entry["bbox"] == coco.toBbox(rle).tolist()


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_cocos_compressed_run_lengths(mask: np.ndarray) -> None:
    text = coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    assert uncompressed(text) == run_lengths(mask.ravel(order="F"))


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_label_studio_sees_the_brush(mask: np.ndarray) -> None:
    channels = studio.decode_rle(brush(mask)).reshape(*mask.shape, 4)
    assert (channels == 255 * mask[..., None]).all()
    assert (from_brush(studio.mask2rle(mask.astype(np.uint8) * 255), mask.shape) == mask).all()


def test_a_soft_brush_and_long_runs() -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint8)
    content = studio.encode_rle(np.repeat(alpha.ravel(), 4))
    assert (from_brush(content, alpha.shape) == (alpha > 127)).all()
    mask = np.zeros((300, 300), bool)  # 4 · 90000 values are more than one run holds
    mask[299, 299] = True
    assert (from_brush(brush(mask), mask.shape) == mask).all()


def test_label_studio_has_tasks_and_an_interface_for_them(tmp_path: Path) -> None:
    path = write("labelstudio", {"new images/a+b": ring()}, tmp_path, "crack")
    [task] = json.loads(path.read_text())
    folder = tmp_path.parent.name  # the storage, of which the server's root is the parent
    assert task["data"] == {"image": f"/data/local-files/?d={folder}/new%20images/a%2Bb.png"}
    view = Xml.fromstring(path.with_suffix(".xml").read_text())
    tag, label, image = view.find("BrushLabels"), view.find(".//Label"), view.find("Image")
    assert tag is not None and label is not None and image is not None
    for result in task["predictions"][0]["result"]:
        assert (result["from_name"], result["to_name"]) == (tag.get("name"), image.get("name"))
        assert result["value"]["brushlabels"] == [label.get("value")] == ["crack"]


def test_labelme_sees_the_masks(tmp_path: Path) -> None:
    mask = ring()
    folder = write("labelme", {"line/b": mask}, tmp_path / "out")
    path = folder / "line" / "b.json"
    content = json.loads(path.read_text())
    assert (path.parent / content["imagePath"]).resolve() == tmp_path.resolve() / "line" / "b.png"
    drawn = np.zeros_like(mask)
    for shape in content["shapes"]:  # as its `shapes_to_label`
        if shape["shape_type"] == "polygon":
            drawn |= by_labelme(shape["points"], (40, 36))
            continue
        (left, top), (right, bottom) = shape["points"]
        png = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
        drawn[top : bottom + 1, left : right + 1] |= np.asarray(png) > 0
    assert {shape["shape_type"] for shape in content["shapes"]} == {"polygon", "mask"}
    assert (drawn == mask).all()


def test_cvats_masks_are_rows_of_a_box(tmp_path: Path) -> None:
    """Read as datumaro reads them: COCO's run lengths of the box turned on its side."""
    mask = ring()
    [image] = Xml.parse(write("cvat", {"line/b": mask}, tmp_path)).getroot().iter("image")
    assert image.attrib == {"id": "0", "name": "line/b.png", "width": "36", "height": "40"}
    drawn = np.zeros_like(mask)
    for entry in image:
        left, top, width, height = (
            int(entry.attrib[key]) for key in ("left", "top", "width", "height")
        )
        counts = [int(length) for length in entry.attrib["rle"].split(",")]
        rle = coco.frPyObjects({"counts": counts, "size": [width, height]}, width, height)
        drawn[top : top + height, left : left + width] |= coco.decode(rle).T > 0
    assert (drawn == mask).all()


def test_ultralytics_sees_the_masks(tmp_path: Path) -> None:
    folder = write("yolo-seg", {"line/b": ring(), "empty": ring() & False}, tmp_path)
    drawn = np.zeros((40, 36), bool)
    for line in (folder / "labels" / "line" / "b.txt").read_text().splitlines():
        number, *shares = map(float, line.split())
        assert number == 0
        drawn |= by_ultralytics(np.array(shares).reshape(-1, 2) * (36, 40), (40, 36))
    assert (drawn == ring()).all()
    assert (folder / "labels" / "empty.txt").read_text() == ""


# What we read


@formats
@settings(max_examples=25, deadline=None)
@given(st.lists(MASKS, min_size=1, max_size=3))
def test_what_is_written_is_read(kind: Format, masks: list[np.ndarray]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        named = {f"line {number}/ä{number}": mask for number, mask in enumerate(masks)}
        found = read_annotations(write(kind, named, Path(folder) / "out"))
        assert len(found) == len(masks)
        for name, mask in named.items():
            [entry] = [each for each in found if name in each.image]
            assert f"{name}.png" in names_of(entry.image) or name in names_of(entry.image)
            assert (entry.mask((mask.shape[0], mask.shape[1])) == mask).all()


def labelme_json(*shapes: dict[str, Any]) -> str:
    return json.dumps({"shapes": shapes, "imagePath": "a.png", "imageHeight": 8, "imageWidth": 10})


def coco_json(**entry: Any) -> str:
    image = {"id": 7, "file_name": "a.png", "height": 8, "width": 10}
    names = [{"id": 1, "name": "crack"}, {"id": 2, "name": "Background"}]
    entries = [{"image_id": 7, "category_id": 1, **entry}]
    return json.dumps({"images": [image], "annotations": entries, "categories": names})


def cvat_xml(shape: str) -> str:
    image = f'<image id="0" name="a.png" width="10" height="8">{shape}</image>'
    return f"<annotations><version>1.1</version>{image}</annotations>"


def task_json(kind: str, *others: dict[str, Any], image: str = "a.png", **value: Any) -> str:
    size = {"original_width": 10, "original_height": 8, "image_rotation": 0}
    result = {**size, "type": kind, "value": value}
    task = {"data": {"image": image}, "annotations": [{"result": [result]}, *others]}
    return json.dumps([{**task, "predictions": [{"result": []}]}])


BOX = np.zeros((8, 10), bool)
BOX[1:4, 2:5] = True
CORNERS = [[2, 1], [5, 1], [5, 4], [2, 4]]
DRAWN_BY_HAND = {
    "coco polygon.json": coco_json(segmentation=[[2, 1, 5, 1, 5, 4, 2, 4]]),
    "coco box.json": coco_json(bbox=[2, 1, 3, 3]),
    "coco text.json": coco_json(
        segmentation={
            "size": [8, 10],
            "counts": coco.encode(np.asfortranarray(BOX, np.uint8))["counts"].decode(),
        }
    ),
    "labelme polygon.json": labelme_json({"label": "x", "points": CORNERS}),
    "labelme box.json": labelme_json(
        {"label": "x", "points": [[5, 4], [2, 1]], "shape_type": "rectangle"},
        {"label": "_background_", "points": [[0, 0], [9, 9]], "shape_type": "rectangle"},
    ),
    "labelme circle.json": labelme_json(
        {"label": "x", "points": [[3.5, 2.5], [3.5, 4.4]], "shape_type": "circle"}
    ),
    "cvat box.xml": cvat_xml('<tag label="x"/><box label="x" xtl="2" ytl="1" xbr="5" ybr="4"/>'),
    "cvat polygon.xml": cvat_xml('<polygon label="x" points="2,1;5.0,1;5,4;2,4.00"/>'),
    "cvat ellipse.xml": cvat_xml('<ellipse label="x" cx="3.5" cy="2.5" rx="1.9" ry="1.9"/>'),
    "cvat mask.xml": cvat_xml('<mask label="x" rle="0, 9" left="2" top="1" width="3" height="3"/>'),
    "studio polygon.json": task_json(
        "polygonlabels", points=[[20, 12.5], [50, 12.5], [50, 50], [20, 50]], polygonlabels=["x"]
    ),
    "studio box.json": task_json(
        "rectanglelabels", x=20, y=12.5, width=30, height=37.5, rotation=0, rectanglelabels=["x"]
    ),
    "studio ellipse.json": task_json(
        "ellipselabels", x=35, y=31.25, radiusX=19, radiusY=23.75, ellipselabels=["x"]
    ),
    "studio brush.json": task_json(
        "brushlabels", {"was_cancelled": True}, rle=studio.mask2rle(BOX * 255), format="rle"
    ),
    "labels/a.txt": "3 0.35 0.3125 0.3 0.375\n",
    "labels/train/a.txt": "0 0.2 0.125 0.5 0.125 0.5 0.5 0.2 0.5\n\n",
}


@pytest.mark.parametrize("name", DRAWN_BY_HAND)
def test_what_people_draw(name: str, tmp_path: Path) -> None:
    """Each is the same square, by each tool's own shapes; the circles hold its nine centres."""
    path = written(tmp_path / name, DRAWN_BY_HAND[name])
    [entry] = read_annotations(path if "labels" not in name else tmp_path)
    assert "a" in names_of(entry.image)[-1]
    assert entry.mask((8, 10)).tolist() == BOX.tolist()


def test_what_is_no_defect(tmp_path: Path) -> None:
    text = coco_json(bbox=[2, 1, 3, 3], category_id=2)
    [entry] = read_annotations(written(tmp_path / "a.json", text))
    assert not entry.mask((8, 10)).any()


def test_tasks_that_nobody_did(tmp_path: Path) -> None:
    """Predictions count only where nobody has annotated anything."""

    def names(*tasks: dict[str, Any]) -> list[str]:
        text = json.dumps([{"data": {"image": f"{n}.png"}, **task} for n, task in enumerate(tasks)])
        return [entry.image for entry in read_annotations(written(tmp_path / "a.json", text))]

    predicted = {"predictions": [{"result": []}]}
    done = {**predicted, "annotations": [{"result": []}]}
    skipped = {**predicted, "annotations": [{"result": [], "was_cancelled": True}]}
    undone = {**predicted, "annotations": []}
    assert names(predicted, undone) == ["0.png", "1.png"]
    assert names(predicted, done, skipped, undone) == ["1.png"]


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("/data/local-files/?d=new%20images/a%2Bb.png", "new images/a+b.png"),
        ("/data/upload/3/0123abcd-a.png", "a.png"),
        ("s3://bucket/line/a.png", "line/a.png"),
        ("C:\\images\\line\\a.png", "line/a.png"),
    ],
)
def test_images_of_label_studio(image: str, name: str, tmp_path: Path) -> None:
    text = task_json("choices", image=image, choices=["bad"])
    [entry] = read_annotations(written(tmp_path / "a.json", text))
    assert name in names_of(entry.image) and not entry.mask((8, 10)).any()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.json", '{"a": 1}', "is none of COCO"),
        ("a.csv", "a,b", "is none of COCO"),
        ("a.xml", "<annotations", "cannot be read"),
        ("a.xml", "<annotation/>", "is none of COCO"),
        ("a.xml", "<annotations><track/></annotations>", "export CVAT for images 1.1"),
        ("a.xml", cvat_xml('<polyline label="x" points="1,1;2,2"/>'), "a polyline has no area"),
        ("a.xml", cvat_xml('<box label="x" xtl="2"/>'), "'ytl' is missing"),
        ("a.json", coco_json(segmentation=[[1, 2, 3, 4]]), "at least three points"),
        ("a.json", coco_json(image_id=8, bbox=[0, 0, 1, 1]), "image_id 8"),
        ("a.json", labelme_json({"label": "x", "points": [[1, 1]], "shape_type": "point"}),
         "a point has no area"),
        ("a.json", task_json("rectanglelabels", x=1, y=1, width=9, height=9, rotation=5),
         "a rotated rectanglelabels"),
        ("a.json", task_json("choices", {"result": []}), "2 annotations of one task"),
        ("a.txt", "0 0.1 0.1 0.2 0.2\n0 0.1 x\n", "line 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(name: str, text: str, says: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, text)
    line = fault(lambda: read_annotations(path))
    assert says in line and str(path) in line and "\n" not in line


@pytest.mark.parametrize(
    "text",
    [
        labelme_json({"label": "x", "points": [[0, 0]], "mask": "AAAA", "shape_type": "mask"}),
        coco_json(segmentation={"size": [8, 10], "counts": [3, 4]}),
        coco_json(segmentation={"size": [9, 10], "counts": [90]}),
        task_json("brushlabels", rle=[0, 1, 2], format="rle"),
        task_json("brushlabels", rle=studio.mask2rle(np.zeros((3, 3), int)), format="rle"),
        cvat_xml('<mask label="x" rle="0, 8" left="2" top="1" width="3" height="3"/>'),
        cvat_xml('<mask label="x" rle="0, 9" left="8" top="1" width="3" height="3"/>'),
        cvat_xml(f'<mask label="x" rle="0, {10**12}" left="0" top="0" width="{10**6}" '
                 f'height="{10**6}"/>'),
    ],
)  # fmt: skip
def test_damaged_masks(text: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.xml" if text.startswith("<") else "a.json")
    [entry] = read_annotations(written(path, text))
    line = fault(lambda: entry.mask((8, 10)))
    assert line.startswith(f"{path}: a mask of ") and "a.png" in line


def leaves(value: Any) -> list[tuple[Any, Any]]:
    """Containers and keys of all values of a JSON document."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    here = [(value, key) for key in keys]
    inner = [value[key] for key in keys if isinstance(value[key], dict | list)]
    return here + [pair for each in inner for pair in leaves(each)]


@pytest.mark.parametrize("name", [name for name in DRAWN_BY_HAND if name.endswith("json")])
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nonsense_is_refused_or_read(name: str, data: st.DataObject) -> None:
    content = json.loads(DRAWN_BY_HAND[name])
    container, key = data.draw(st.sampled_from(leaves([content])[1:]))
    container[key] = data.draw(
        st.sampled_from([None, True, "x", "1", -1, 0.5, 10**9, [], [[]], {}, [None], {"a": 1}])
    )
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "a.json", json.dumps(content))
        try:
            masks = [entry.mask((8, 10)) for entry in read_annotations(path)]
        except LtcamError as error:
            assert str(path) in str(error)
        else:
            assert all(mask.shape == (8, 10) for mask in masks)


# Data sets


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of four defective images, of which two have masks, and two good ones."""
    rng = np.random.default_rng(0)
    names = ["defect/a", "defect/b", "defect/line/c", "defect/d", "good/e", "good/line/f"]
    for name in names:
        path = tmp_path / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 36), dtype=np.uint8)).save(path)
    for name in ("a", "b"):
        save(ring(), tmp_path / "set" / "masks" / f"{name}.png")
    return tmp_path / "set"


def save(mask: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def samples(root: Path, annotations: Path | None = None) -> dict[str, Sample]:
    dataset = Folder(root=str(root), annotations=None if annotations is None else str(annotations))
    return {sample.name: sample for sample in load_split(dataset).part("all")}


CORRECTED = {"a": ring()[::-1], "line/c": ring(), "b": np.zeros((40, 36), bool)}


@formats
def test_corrections_go_before_the_masks(kind: Format, root: Path, tmp_path: Path) -> None:
    found = samples(root, write(kind, CORRECTED, tmp_path / "out"))
    for name, mask in CORRECTED.items():
        drawn = found[name].mask
        assert drawn is not None and (drawn == mask).all()
    assert found["d"].read_mask is None and found["e"].read_mask is None


def test_corrected_mask_images(root: Path, tmp_path: Path) -> None:
    save(CORRECTED["a"], tmp_path / "out" / "a_mask.png")
    save(CORRECTED["line/c"], tmp_path / "out" / "line" / "c.png")
    found = samples(root, tmp_path / "out")
    for name in ("a", "line/c"):
        drawn = found[name].mask
        assert drawn is not None and (drawn == CORRECTED[name]).all()
    assert found["b"].mask_path == root / "masks" / "b.png"


def test_identity_follows_the_masks(root: Path, tmp_path: Path) -> None:
    """It is the same whatever format they come in, and another for other masks."""

    def digest(kind: Format, masks: dict[str, np.ndarray]) -> str:
        place = write(kind, masks, tmp_path / kind / str(len(masks)))
        return content_of([*samples(root, place).values()], masks=True)

    digests = {digest(kind, CORRECTED) for kind in FORMATS}
    assert len(digests) == 1
    assert digest("coco", {**CORRECTED, "d": ring()}) not in digests
    assert content_of([*samples(root).values()], masks=True) not in digests


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        ({"nope": ring()}, ["nope.png fits no image of the data set"]),
        ({"line": ring()}, ["fits no image"]),
        ({"defect/a": ring(), "set/defect/a": ring()}, ["a is annotated twice", "set/defect/a"]),
        ({"a": ring((44, 36))}, ["a.png has 44x36 pixels", "40x36"]),
    ],
)
def test_annotations_that_do_not_fit(
    masks: dict[str, np.ndarray], says: Iterable[str], root: Path, tmp_path: Path
) -> None:
    path = write("coco", masks, tmp_path / "out")

    def read() -> None:
        for sample in samples(root, path).values():
            _ = sample.mask

    line = fault(read)
    assert str(path) in line and all(words in line for words in says)


def test_a_name_that_fits_two_images(root: Path, tmp_path: Path) -> None:
    (root / "defect" / "top").mkdir()
    (root / "good" / "e.png").unlink()
    (root / "defect" / "d.png").rename(root / "defect" / "line" / "e.png")
    (root / "defect" / "b.png").rename(root / "defect" / "top" / "e.png")
    path = write("coco", {"defect/x/e": ring()}, tmp_path / "out")
    line = fault(lambda: samples(root, path))
    assert str(path) in line and "e.png fits top/e and line/e; write more of the path" in line
    path = write("coco", {"line/e": ring()}, tmp_path / "out")
    assert samples(root, path)["line/e"].read_mask is not None


def test_no_annotations(root: Path, tmp_path: Path) -> None:
    assert "no such file" in fault(lambda: samples(root, tmp_path / "nope"))
    (tmp_path / "empty").mkdir()
    assert "holds none of COCO" in fault(lambda: samples(root, tmp_path / "empty"))


# Predictions


def predicted(out: Path, masks: dict[str, np.ndarray]) -> pd.DataFrame:
    """A folder of predictions, of images in `images/`."""
    for name, mask in masks.items():
        save(mask, out / "masks" / f"{name}.png")
    paths = [str(out.parent / "images" / f"{name}.png") for name in masks]
    return pd.DataFrame({"name": [*masks], "path": paths})


@formats
def test_corrections_are_not_overwritten(kind: Format, tmp_path: Path) -> None:
    out = tmp_path / "out"
    table = predicted(out, {"a": ring(), "b": ring()})
    write_annotations(out, table, NO_REGIONS, kind, "defect")
    write_annotations(
        out, predicted(out, {"a": ring().T, "b": ring(), "c": ring()}), NO_REGIONS, kind, "x"
    )
    place = out / "annotations" / PLACES.get(kind, kind)
    found = read_annotations(place)
    assert [entry.image.rpartition("/")[2].partition(".")[0] for entry in found] == ["a", "b", "c"]
    write_annotations(
        out, table, NO_REGIONS, kind, "defect"
    )  # files of images that are gone go, too
    assert len(read_annotations(place)) == 2
    changed = place if place.is_file() else max(place.rglob("a.*"))
    changed.write_text(changed.read_text() + "\n")
    line = fault(lambda: write_annotations(out, table, NO_REGIONS, kind, "x"))
    assert str(changed) in line and "was changed since" in line


def images(folder: Path, count: int = 9) -> Path:
    """Files for `predict`, some in a folder of their own."""
    for number in range(count):
        save(
            ring((80, 70)) if number % 2 else ring((80, 70)).T,
            folder / f"line{number % 2}/{number}.png",
        )
    return folder


def answers(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_shards_and_interruptions_change_no_annotation(own_run: Run, cli: Cli) -> None:
    folder = images(cli.folder / "images")
    common = ["--run", own_run.name, "predict.gate=false", "predict.overlays=false", "threads=1"]
    for kind in FORMATS:
        options = [*common, f"predict.annotations={kind}", "predict.class_name=crack"]
        out = cli.ok("predict", folder, "--out", "whole", *options)
        assert "masks/ annotations/" in out
    cli.ok("predict", folder / "line0", "--out", "parts", *common)
    for shard in ("1/2", "2/2"):
        cli.ok("predict", folder, "--out", "shards", "--shard", shard, *options)
        assert not (cli.folder / "shards" / "annotations").exists()
    assert "regions.csv annotations/" in cli.ok("runs", "gather", "shards")
    whole = answers(cli.folder / "whole" / "annotations")
    shards = answers(cli.folder / "shards" / "annotations")
    assert shards.items() <= whole.items() and "labelstudio.json" in shards
    (cli.folder / "whole" / "masks" / "line0" / "0.png").unlink()  # as if interrupted before it
    (cli.folder / "whole" / "annotations" / "coco.json").unlink()
    cli.ok("predict", folder, "--out", "whole", *options, "predict.annotations=coco")
    assert answers(cli.folder / "whole" / "annotations") == whole
    for kind in FORMATS:
        for entry in read_annotations(cli.folder / "whole/annotations" / PLACES.get(kind, kind)):
            name = "/".join(entry.image.split("/")[-2:]).removesuffix(".png")
            mask = np.asarray(Image.open(cli.folder / "whole" / "masks" / f"{name}.png")) > 0
            assert (entry.mask((mask.shape[0], mask.shape[1])) == mask).all()


def test_corrections_teach_a_student(cli: Cli) -> None:
    """Mixed supervision: corrected images are labelled by their masks, the others by maps."""
    cli.ok("data", "synth", "set", "dataset.items=6", "dataset.parts=4")
    shutil.rmtree("set/masks")
    dataset = ["dataset=folder", "dataset.root=set", *SYNTHETIC[3:]]
    cli.ok("train", *dataset)
    [run] = Path("outputs").glob("set-*")
    drawn = ["--method", "layercam", "--segmenter", "otsu"]
    options = ["--out", "new", "predict.gate=false", "predict.annotations=labelme", *drawn]
    cli.ok("predict", "set/defect", "--run", run.name, *options)
    trained = [s.name for s in load_split(Folder(root="set")).train if s.label]
    files = {path.stem: path for path in Path("new/annotations/labelme").iterdir()}
    for name in files.keys() - {trained[0]}:
        files[name].unlink()
    content = json.loads(files[trained[0]].read_text())
    corner = [[0, 0], [content["imageWidth"] / 2, content["imageHeight"] / 2]]
    content["shapes"] = [{"label": "defect", "points": corner, "shape_type": "rectangle"}]
    files[trained[0]].write_text(json.dumps(content))

    steps = ["student.steps=2", "student.every=2", "student.batch_size=2", "student.overlays=0"]
    teach = ["student", "train", *dataset, *drawn, *steps]
    cli.ok(*teach)
    cli.ok(*teach, "student.labels.masks=all", "dataset.annotations=new/annotations/labelme")
    first, second = sorted((run / "student").glob("fpn*"), key=lambda path: path.stat().st_mtime)
    before, after = (torch.load(path / "labels" / "round1.pt") for path in (first, second))
    assert before.keys() == after.keys() == {*trained}
    quarter = torch.zeros(64, 64)
    quarter[:32, :32] = 1
    assert torch.equal(after[trained[0]], quarter.byte())
    assert all(torch.equal(before[name], after[name]) for name in trained[1:])
