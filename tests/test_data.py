"""Reading files, the data sets and their splits, and batches."""

from __future__ import annotations

import logging
import os
import shutil
import struct
import subprocess
import sys
import threading
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import numpy as np
import pandas as pd
import png
import pytest
import tifffile
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv
from toys import fault, picture, square, toy, toys

from ltcam_cli.classifier.augment import AugmentConfig, BalancedOrder, augmentation
from ltcam_cli.config import descriptions, effective
from ltcam_cli.data import image_files
from ltcam_cli.data.batches import Images, batches, collate, prefetched, to_channels
from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.folder import Folder
from ltcam_cli.data.image_files import ImageReader, white_level
from ltcam_cli.data.ksdd import TWINS, Ksdd
from ltcam_cli.data.ksdd2 import Ksdd2
from ltcam_cli.data.listing import stem_of
from ltcam_cli.data.load import DATASETS, load_split, make_dataset
from ltcam_cli.data.mask_files import MaskReader
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.size import with_size
from ltcam_cli.data.split import Split, check_classes, split_fraction, warn_of_equals
from ltcam_cli.data.synthetic import Synthetic
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.data_check import look_at
from ltcam_cli.maps.method import CamMethod, StudentMethod
from ltcam_cli.masks.segmenters import SegmenterConfig
from ltcam_cli.runs.predictions import find_images
from ltcam_cli.student.config import StudentConfig

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (13, 17), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (13, 17, 3), dtype=np.uint8)
GREY16 = RANDOM.integers(0, 65536, (13, 17), dtype=np.uint16)
COLOUR16 = RANDOM.integers(0, 65536, (13, 17, 3), dtype=np.uint16)
GREY16[0, :2] = COLOUR16[0, 0, :2] = 0, 65535


def one_line(raised: pytest.ExceptionInfo[LtcamError]) -> str:
    message = str(raised.value)
    assert "\n" not in message
    return message


def pillow(pixels: np.ndarray, **options: Any) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(pixels).save(path, **options)


def tiff(pixels: np.ndarray, **options: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, pixels, **options)


# Image files


@pytest.mark.parametrize(
    ("name", "write", "expected"),
    [
        ("grey.png", pillow(GREY), GREY),
        ("grey.bmp", pillow(GREY), GREY),
        ("grey.tif", pillow(GREY), GREY),
        ("grey.TIFF", tiff(GREY), GREY),
        ("colour.png", pillow(COLOUR), COLOUR),
        ("colour.bmp", pillow(COLOUR), COLOUR),
        ("colour.tif", pillow(COLOUR), COLOUR),
        ("lzw.tif", pillow(COLOUR, compression="tiff_lzw"), COLOUR),
        ("planes.tif", tiff(np.moveaxis(COLOUR, -1, 0), photometric="rgb"), COLOUR),
        ("grey16.png", pillow(GREY16), GREY16 / 65535),
        ("grey16.tif", tiff(GREY16), GREY16 / 65535),
        ("big-endian.tif", tiff(GREY16, byteorder=">"), GREY16 / 65535),
        ("colour16.tif", tiff(COLOUR16, photometric="rgb"), COLOUR16 / 65535),
        ("deflated.tif", tiff(COLOUR16, photometric="rgb", compression="zlib"), COLOUR16 / 65535),
        ("alpha.png", pillow(np.dstack([COLOUR, GREY])), COLOUR),
        ("alpha.tif", pillow(np.dstack([COLOUR, GREY])), COLOUR),
        ("grey-alpha.png", pillow(np.dstack([GREY, GREY])), GREY),
        ("bits.png", pillow(GREY > 99), np.where(GREY > 99, 255, 0)),
        ("bits.tif", pillow(GREY > 99, compression="group4"), np.where(GREY > 99, 255, 0)),
        ("float.tif", tiff((GREY / 255).astype(np.float32)), GREY / 255),
    ],
)
def test_lossless_images(
    tmp_path: Path, name: str, write: Callable[[Path], None], expected: np.ndarray
) -> None:
    write(tmp_path / name)
    pixels = ImageReader()(tmp_path / name)
    if expected.dtype.kind == "f":
        assert pixels.dtype == np.float32 and pixels.min() == 0 and pixels.max() == 1
    else:
        assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected.astype(pixels.dtype))


@pytest.mark.parametrize("pixels", [GREY // 8 + 100, COLOUR // 8 + 100], ids=["grey", "colour"])
@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif"])
def test_lossy_images(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    options = {"compression": "jpeg"} if suffix == "tif" else {}
    Image.fromarray(pixels).save(path, quality=95, **options)
    read = ImageReader()(path)
    if suffix == "webp" and pixels.ndim == 2:  # knows colour only
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    assert read.dtype == np.uint8 and read.shape == pixels.shape
    assert np.abs(read.astype(int) - pixels).mean() < 8


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_the_colours_of_a_palette_image_count(tmp_path: Path, suffix: str) -> None:
    paletted = Image.fromarray(COLOUR).quantize(8)
    paletted.save(tmp_path / f"image.{suffix}")
    expected = np.asarray(paletted.convert("RGB"))
    np.testing.assert_array_equal(ImageReader()(tmp_path / f"image.{suffix}"), expected)


def paletted_mask(indices: np.ndarray, colours: list[int]) -> Image.Image:
    mask = Image.new("P", (indices.shape[1], indices.shape[0]))
    mask.putpalette(colours)
    mask.putdata(indices.ravel().tolist())
    return mask


INDICES = np.array([[0, 1, 2], [2, 0, 0]])


@pytest.mark.parametrize("suffix", ["bmp", "png", "tif"])
@pytest.mark.parametrize(
    "colours",
    [
        [0, 0, 0, 85, 85, 85, 170, 170, 170],  # KolektorSDD's
        [0, 0, 0, 128, 0, 0, 0, 128, 0],  # a colour a class
        [9, 9, 9, 9, 9, 9, 9, 9, 9],  # says nothing: indices count
    ],
)
def test_all_classes_of_a_palette_mask_are_defects(
    tmp_path: Path, suffix: str, colours: list[int]
) -> None:
    paletted_mask(INDICES, colours).save(tmp_path / f"mask.{suffix}")
    mask = MaskReader()(tmp_path / f"mask.{suffix}")
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, INDICES > 0)


def test_what_a_viewer_shows_white_is_defect(tmp_path: Path) -> None:
    paletted_mask(INDICES, [255, 255, 255, 0, 0, 0, 0, 0, 0]).save(tmp_path / "swapped.png")
    np.testing.assert_array_equal(MaskReader()(tmp_path / "swapped.png"), INDICES == 0)


DEFECT = np.array([[0, 0, 255, 0], [0, 255, 0, 0], [0, 0, 0, 255]], dtype=np.uint8)
ZEROS = np.zeros_like(DEFECT)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("grey.png", pillow(DEFECT)),
        ("grey.tif", pillow(DEFECT)),
        ("deep.png", pillow(DEFECT.astype(np.uint16))),
        ("bits.png", pillow(DEFECT > 0)),
        ("blue.png", pillow(np.dstack([ZEROS, ZEROS, DEFECT]))),
        ("opaque.png", pillow(np.dstack([DEFECT, ZEROS, ZEROS, ZEROS + 255]))),
        ("opaque-grey.png", pillow(np.dstack([DEFECT, ZEROS + 255]))),
        ("classes.png", pillow(DEFECT // 85 - DEFECT // 250 * (np.arange(4) % 2).astype("uint8"))),
        ("ones.png", pillow(DEFECT // 255)),
        ("alpha.png", pillow(np.dstack([ZEROS + 255] * 3 + [DEFECT]))),
        ("alpha-grey.png", pillow(np.dstack([ZEROS + 255, DEFECT]))),
        ("clear.png", pillow(np.dstack([DEFECT, ZEROS, ZEROS, DEFECT]))),
        ("hidden.png", pillow(np.dstack([255 - DEFECT, DEFECT, ZEROS, DEFECT]))),
        ("float.tif", tiff((DEFECT / 255).astype(np.float32))),
        ("double.tif", tiff(DEFECT.astype(np.float64))),
        ("white-is-zero.tif", tiff(255 - DEFECT, photometric="miniswhite")),
        ("deep-white-is-zero.tif", tiff((255 - DEFECT) * np.uint16(257), photometric="miniswhite")),
        ("quantized.gif", lambda path: Image.fromarray(DEFECT).quantize(2).save(path)),
    ],
)
def test_masks_of_other_kinds(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    np.testing.assert_array_equal(MaskReader()(tmp_path / name), DEFECT > 0)


AREA = np.zeros((64, 64), bool)
AREA[20:32, 8:20] = True
CRACK = np.zeros((64, 64), bool)
CRACK[40, 5:60] = True


def blurred(area: np.ndarray) -> Image.Image:
    """A mask, 0 and 255, with what a drawing tool puts between."""
    large = Image.fromarray(area.astype(np.uint8) * 255).resize((256, 256))
    return large.resize((64, 64), Image.Resampling.LANCZOS)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_a_compressed_mask_is_what_was_compressed(tmp_path: Path, quality: int) -> None:
    Image.fromarray(AREA.astype(np.uint8) * 255).save(tmp_path / "m.jpg", quality=quality)
    assert (MaskReader()(tmp_path / "m.jpg") == AREA).all()
    Image.fromarray(AREA.astype(np.uint8) * 0).save(tmp_path / "none.jpg", quality=quality)
    assert not MaskReader()(tmp_path / "none.jpg").any()


def test_an_antialiased_mask_is_cut_in_the_middle(tmp_path: Path) -> None:
    blurred(AREA).save(tmp_path / "m.png")
    mask = MaskReader().read(tmp_path / "m.png")
    assert (mask.defect == AREA).all() and mask.oddities == ()
    faint = np.asarray(blurred(CRACK))
    assert 0 < faint.max() < 255  # thinner than a pixel of the first drawing: no solid area
    Image.fromarray(faint).save(tmp_path / "thin.png")
    assert (MaskReader()(tmp_path / "thin.png") == (faint > faint.max() / 2)).all()


@pytest.mark.parametrize(
    ("name", "write", "says", "settled"),
    [
        ("inverted.png", pillow(np.where(AREA, 0, 255).astype(np.uint8)), "inverted? 96 %", [0]),
        (
            "many.png",
            pillow(np.where(AREA, 255, np.where(np.eye(64, dtype=bool), 90, 10)).astype(np.uint8)),
            "values: it has 3 main ones (10, 90, 255)",
            [255],
        ),
        ("pages.tif", tiff(np.stack([AREA, ~AREA]).astype(np.uint8)), "pages: it has 2", [1]),
    ],
)
def test_unclear_masks_are_said_and_settled(
    tmp_path: Path, name: str, write: Callable[[Path], None], says: str, settled: list[float]
) -> None:
    write(tmp_path / name)
    assert [says in oddity for oddity in MaskReader().read(tmp_path / name).oddities] == [True]
    assert (MaskReader(tuple(settled))(tmp_path / name) == AREA).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_and_masks_are_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
             4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
             6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
             8: Image.Transpose.ROTATE_90}  # fmt: skip

    def turned(pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels)
        return np.asarray(image.transpose(turns[orientation]) if orientation > 1 else image)

    mask = (GREY > 200).astype(np.uint8) * 255
    for suffix, options in (("png", {}), ("tif", {}), ("webp", {"lossless": True})):
        path = tmp_path / f"i.{suffix}"
        Image.fromarray(COLOUR).save(path, exif=exif, **options)
        np.testing.assert_array_equal(ImageReader()(path), turned(COLOUR))
        Image.fromarray(mask).save(path, exif=exif, **options)
        np.testing.assert_array_equal(MaskReader()(path), turned(mask) > 0)
    Image.fromarray(COLOUR // 8).save(tmp_path / "i.jpg", exif=exif, quality=95)
    assert ImageReader()(tmp_path / "i.jpg").shape == turned(COLOUR).shape
    tag = [(0x0112, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "deep.tif", COLOUR16, photometric="rgb", extratags=tag)
    deep = np.dstack([turned((COLOUR16[..., k] >> 8).astype(np.uint8)) for k in range(3)])
    read = ImageReader()(tmp_path / "deep.tif") * 65535
    np.testing.assert_array_equal(read.round().astype(int) >> 8, deep)
    Image.fromarray(GREY16).save(tmp_path / "lzw.tif", compression="tiff_lzw", exif=exif)
    assert ImageReader()(tmp_path / "lzw.tif").shape == turned(GREY).shape


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path, dtype: Any, value: float) -> None:
    pixels = np.full((5, 6), 0.5, dtype)
    pixels[2, 3] = value
    tifffile.imwrite(tmp_path / "hole.tif", pixels)
    for read in (ImageReader(), MaskReader()):
        with pytest.raises(LtcamError, match=r"hole\.tif: 1 of its pixels are NaN"):
            read(tmp_path / "hole.tif")


@pytest.mark.parametrize(
    ("pixels", "white"),
    [
        (GREY16 >> 6, 1023.0),
        (GREY16 >> 4, 4095.0),
        (GREY16 >> 2, 16383.0),
        (GREY16, 65535.0),
        ((GREY16 >> 1).astype(np.int16), 32767.0),
        (GREY16.astype(np.int32) << 8, 2.0**24 - 1),
        (GREY.astype(np.float32), 255.0),
        ((GREY / 255).astype(np.float32), 1.0),
        (COLOUR16 >> 4, 4095.0),
    ],
)
def test_white_is_the_power_of_two_that_the_images_need(
    tmp_path: Path,
    pixels: np.ndarray,
    white: float,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_files, "_said", set())
    path, eight = tmp_path / "deep.tif", tmp_path / "eight.png"
    tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    pillow(GREY)(eight)
    assert white_level([eight, path]) == white and white_level([eight]) == "auto"
    read = ImageReader(white)(path)
    np.testing.assert_array_equal(read, (pixels / np.float64(white)).astype(np.float32))
    np.testing.assert_array_equal(ImageReader(white)(eight), GREY)
    assert not caplog.records
    assert ImageReader(white / 2)(path).max() == 1
    assert "deep.tif: has values from" in caplog.text and "dataset.white" in caplog.text


def test_zero_may_be_white(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", 4095 - (GREY16 >> 4), photometric="miniswhite")
    read = ImageReader(4095.0)(tmp_path / "x.tif")
    assert np.abs(read - (GREY16 >> 4) / 4095).max() < 1e-6


def deep_png(path: Path, pixels: np.ndarray) -> None:
    """A colour PNG of 16 bits, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", compress(rows)) + chunk(b"IEND", b"")
    )


def test_png_keeps_the_depth_of_colours(tmp_path: Path) -> None:
    deep_png(tmp_path / "deep.png", COLOUR16 >> 4)
    read = ImageReader(white_level([tmp_path / "deep.png"]))(tmp_path / "deep.png")
    np.testing.assert_array_equal(read, ((COLOUR16 >> 4) / np.float64(4095)).astype(np.float32))


def grey_alpha_png(path: Path) -> None:
    """Grey and alpha of 16 bits: its bytes are those of a picture in grey and alpha of 8 bits."""
    rows = [row.ravel().tolist() for row in np.dstack([GREY16, COLOUR16[..., 0]])]
    with path.open("wb") as stream:
        png.Writer(17, 13, greyscale=True, alpha=True, bitdepth=16).write(stream, rows)


def packed(path: Path) -> None:
    """Twelve bits a pixel, two pixels in three bytes."""
    values = (GREY16[:, :16] >> 4).ravel()
    bits = "".join(f"{value:012b}" for value in values)
    data = bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8))
    tags = [(256, 16), (257, 13), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 13)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))]]
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    path.write_bytes(head + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))


@pytest.mark.parametrize(
    ("name", "write", "expected"),
    [
        ("grey-alpha.png", grey_alpha_png, GREY16 / 65535),
        ("grey-alpha.tif", tiff(np.dstack([GREY16] * 2), extrasamples=["unassalpha"]),
         GREY16 / 65535),
        ("colour-alpha.tif",
         tiff(np.dstack([COLOUR16, GREY16]), photometric="rgb", extrasamples=["unassalpha"]),
         COLOUR16 / 65535),
        ("packed.tif", packed, (GREY16[:, :16] >> 4) / 4095),
        ("tagged.tif", tiff(GREY16 >> 6, extratags=[(281, "H", 1, 1023, True)]),
         (GREY16 >> 6) / 1023),
        ("half.tif", tiff((GREY / 255).astype(np.float16)), (GREY / 255).astype(np.float16)),
        ("lzw.tif", pillow(GREY16, compression="tiff_lzw"), GREY16 / 65535),
        ("unsigned.tif", tiff(GREY16.astype(np.uint32) * 65537), GREY16 / 65535),
        ("signed.tif", tiff((GREY // 2).astype(np.int8)), (GREY // 2) / 127),
    ],
)  # fmt: skip
def test_deep_files_of_rare_kinds(
    tmp_path: Path, name: str, write: Callable[[Path], None], expected: np.ndarray
) -> None:
    write(tmp_path / name)
    np.testing.assert_allclose(ImageReader("file")(tmp_path / name), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["L", "1", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_tiffs_of_all_kinds(tmp_path: Path, kind: str, orientation: int) -> None:
    """Some versions of Pillow mix up the pixels of uncompressed ones."""
    image = Image.fromarray(GREY16) if kind == "I;16" else Image.fromarray(COLOUR).convert(kind)
    turn: list[Callable[[np.ndarray], np.ndarray]] = [
        np.fliplr, lambda a: a[::-1, ::-1], np.flipud, lambda a: a.swapaxes(0, 1),
        lambda a: np.rot90(a, -1), lambda a: a[::-1, ::-1].swapaxes(0, 1), np.rot90,
    ]  # fmt: skip
    image.save(tmp_path / "plain.tif")
    expected = turn[orientation - 2](ImageReader()(tmp_path / "plain.tif"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number, options in enumerate([{}, {"compression": "tiff_lzw"}]):
        path = tmp_path / f"{number}.tif"
        image.save(path, exif=exif, **options)
        np.testing.assert_array_equal(ImageReader()(path), expected)
    np.testing.assert_array_equal(MaskReader((7,)).read(path).defect.shape, expected.shape[:2])


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (np.dstack([COLOUR16, GREY16]), {"photometric": "separated"}),
        (COLOUR16, {"photometric": "minisblack", "planarconfig": "contig"}),
        (np.dstack([COLOUR16, COLOUR16]), {"photometric": "minisblack", "planarconfig": "contig"}),
    ],
    ids=["CMYK", "three grey channels", "six channels"],
)
def test_deep_files_that_are_neither_grey_nor_rgb_are_refused(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any]
) -> None:
    tifffile.imwrite(tmp_path / "x.tif", pixels, **options)
    with pytest.raises(LtcamError, match=r"x\.tif: expected a grey or RGB image") as raised:
        ImageReader()(tmp_path / "x.tif")
    one_line(raised)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize("exif", [b"garbage", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\0\0\0\x08\0\x01"])
def test_damaged_metadata_hides_no_image(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(ImageReader()(tmp_path / "a.png"), GREY)


@pytest.mark.parametrize(
    ("pixels", "white", "said"),
    [
        (GREY16, 65535, False),
        (GREY16 >> 4, 4095, True),
        (GREY16 >> 6, 1023, True),
        (GREY.astype(np.uint16), 255, True),
        ((GREY / 300).astype(np.float32), 1, False),
        (GREY.astype(np.float32), 255, True),
    ],
)
def test_a_deep_image_after_a_training_on_eight_bits(
    tmp_path: Path,
    pixels: np.ndarray,
    white: float,
    said: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    image_files.forget_warnings()
    tifffile.imwrite(tmp_path / "x.tif", pixels)
    read = ImageReader(white_level([]))(tmp_path / "x.tif")
    np.testing.assert_array_equal(read, (pixels / np.float64(white)).astype(np.float32))
    assert ("x.tif: has more than 8 bits, unlike the training images" in caplog.text) == said


def test_shares_and_whole_numbers_have_no_common_white(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "share.tif", (GREY / 255).astype(np.float32))
    tifffile.imwrite(tmp_path / "whole.tif", GREY16)
    with pytest.raises(LtcamError, match=r"dataset\.white=auto: .*share\.tif .*whole\.tif"):
        white_level([tmp_path / "share.tif", tmp_path / "whole.tif"])


def test_how_files_are_read_belongs_to_their_digests(tmp_path: Path) -> None:
    pillow(GREY16)(tmp_path / "a.png")
    plain = Sample.from_files(
        tmp_path / "a.png", tmp_path / "a.png", name="a", group="a", label=None
    )
    other = plain.read_by(ImageReader(4095.0), MaskReader((7.0,)))
    assert plain.image_digest() == plain.read_by(ImageReader(), MaskReader()).image_digest()
    assert plain.image_digest() == plain.mask_digest()  # of one file
    assert len({plain.image_digest(), other.image_digest(), other.mask_digest()}) == 3


def test_the_first_page_of_an_image_is_said_to_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.gif", "b.tif", "c.png"):
        image_files.forget_warnings()
        caplog.clear()
        more = [Image.fromarray(255 - GREY)]
        Image.fromarray(GREY).save(tmp_path / name, save_all=True, append_images=more)
        first = ImageReader()(tmp_path / name)
        np.testing.assert_array_equal(first if first.ndim == 2 else first[..., 0], GREY)
        assert f"{name}: has 2 pages" in caplog.text


def test_defects_in_colour_on_white(tmp_path: Path) -> None:
    colours = np.where(AREA[..., None], [255, 0, 0], 255).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "red.png")
    Image.fromarray(colours).quantize(2).save(tmp_path / "palette.png")
    for path in tmp_path.iterdir():
        mask = MaskReader().read(path)
        assert (mask.defect == AREA).all() and mask.oddities == ()


def test_a_soft_mask_is_said(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    ramp = np.clip(255 - 6 * np.hypot(y - 32, x - 32), 0, 255).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "soft.png")
    mask = MaskReader().read(tmp_path / "soft.png")
    assert ["soft" in oddity for oddity in mask.oddities] == [True]
    assert (mask.defect == (ramp > ramp[mask.defect].min() - 1)).all()


def test_large_images_are_read_if_the_limit_is_raised(tmp_path: Path) -> None:
    pillow(GREY)(tmp_path / "large.png")
    tifffile.imwrite(tmp_path / "large.tif", GREY16)
    for name in ("large.png", "large.tif"):
        for read in (ImageReader(max_pixels=220), MaskReader(max_pixels=220)):
            with pytest.raises(LtcamError, match=r"13 x 17 pixels; raise dataset\.max_pixels"):
                read(tmp_path / name)
        assert ImageReader(max_pixels=221)(tmp_path / name).shape == (13, 17)


@pytest.mark.parametrize("read", [ImageReader(), MaskReader()])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_broken_files_are_named(
    tmp_path: Path, read: Callable[[Path], np.ndarray], suffix: str
) -> None:
    path = tmp_path / f"broken.{suffix}"
    with pytest.raises(LtcamError, match=r"no such file; restore it") as raised:
        read(path)
    assert str(path) in one_line(raised)
    path.touch()
    with pytest.raises(LtcamError, match="empty; delete or replace it") as raised:
        read(path)
    assert str(path) in one_line(raised)
    path.write_bytes(b"This is no image.\n" * 9)
    with pytest.raises(LtcamError, match=r"(no image|cannot be read).*replace it") as raised:
        read(path)
    assert str(path) in one_line(raised)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("read", [ImageReader(), MaskReader()])
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.png", pillow(COLOUR)),
        ("a.jpg", pillow(COLOUR)),
        ("a.bmp", pillow(GREY)),
        ("a.tif", pillow(COLOUR)),
        ("lzw.tif", pillow(COLOUR, compression="tiff_lzw")),
        ("deep.tif", tiff(COLOUR16, photometric="rgb")),
        ("deflated.tif", tiff(COLOUR16, photometric="rgb", compression="zlib")),
    ],
)
def test_truncated_files_never_pass_nor_crash(
    tmp_path: Path,
    name: str,
    write: Callable[[Path], None],
    read: Callable[[Path], np.ndarray],
) -> None:
    path = tmp_path / name
    write(path)
    whole = path.read_bytes()
    for length in {1, 2, 8, 20, len(whole) // 3, len(whole) // 2, len(whole) * 3 // 4}:
        path.write_bytes(whole[:length])
        with pytest.raises(LtcamError) as raised:
            read(path)
        assert str(path) in one_line(raised)


def test_the_first_page_counts(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([GREY, 255 - GREY]))
    np.testing.assert_array_equal(ImageReader()(tmp_path / "pages.tif"), GREY)


def test_deep_colour_in_planes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.moveaxis(COLOUR16, -1, 0), photometric="rgb")
    read = ImageReader()(tmp_path / "x.tif")
    np.testing.assert_array_equal(read, (COLOUR16 / 65535).astype(np.float32))


def test_files_are_read_lazily_and_anew(tmp_path: Path) -> None:
    path = tmp_path / "late.png"
    sample = Sample.from_files(path, None, name="late", group="late", label=0)
    assert sample.mask is None and sample.mask_digest() == ""
    Image.fromarray(GREY).save(path)
    np.testing.assert_array_equal(sample.image, GREY)
    Image.fromarray(255 - GREY).save(path)
    np.testing.assert_array_equal(sample.image, 255 - GREY)


def test_mask_digest_tells_pixels_and_shape() -> None:
    def digest(mask: np.ndarray) -> str:
        return replace(toy(0, 1), read_mask=lambda: mask).mask_digest()

    mask = square(0, True)
    other = mask.copy()
    other[0, 0] ^= True
    assert digest(mask) == digest(mask.copy()) != digest(other)
    assert digest(mask) != digest(mask.reshape(36, 40))


# KolektorSDD


@pytest.fixture(scope="module")
def kolektor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 50 folders with three tiny parts; Part1 is defective in every second folder."""
    root = tmp_path_factory.mktemp("kolektor")
    for number in range(1, 51):
        folder = root / f"kos{number:02d}"
        folder.mkdir()
        for part in range(3):
            image = picture(10 * number + part, False, (12, 8))
            Image.fromarray(image).save(folder / f"Part{part}.jpg")
            if part == 1 and number % 2 == 0:
                mask = paletted_mask(np.eye(12, 8), [0, 0, 0, 255, 0, 0])
            else:
                mask = Image.new("L", (8, 12))
            mask.save(folder / f"Part{part}_label.bmp")
    return root


def ksdd(where: Path, **options: Any) -> Ksdd:
    return Ksdd(**{"root": str(where), "count": None, **options})


def folders(samples: list[Sample]) -> set[str]:
    return {sample.name.split("/")[0] for sample in samples}


def kos(*numbers: int) -> set[str]:
    return {f"kos{number:02d}" for number in numbers}


def test_paper_split(kolektor: Path) -> None:
    split = load_split(ksdd(kolektor, count=150))
    assert folders(split.listed_train) == kos(*range(1, 41))
    assert folders(split.listed_test) == kos(*range(41, 51))
    assert split.dropped == []
    assert [s.name for s in split.test[:3]] == ["kos41/Part0", "kos41/Part1", "kos41/Part2"]
    assert sum(s.label or 0 for s in split.train) == 20
    assert sum(s.label or 0 for s in split.test) == 5
    assert {s.label for s in split.part("all")} == {0, 1}
    assert split.test[0].image.shape == (12, 8)


def test_forty_seven_items(kolektor: Path) -> None:
    split = load_split(ksdd(kolektor))
    samples = split.listed_train + split.listed_test
    groups = {sample.name.split("/")[0]: sample.group for sample in samples}
    assert len(groups) == 50 and len(set(groups.values())) == 47
    for first, second in (("kos01", "kos26"), ("kos27", "kos34"), ("kos38", "kos39")):
        assert groups[first] == groups[second]
    assert len(TWINS) == 3


@pytest.mark.parametrize(
    ("fold", "dropped"), [(0, {26}), (1, set()), (2, {1, 34}), (3, {27}), (4, set())]
)
def test_ten_folders_a_fold(
    kolektor: Path, caplog: pytest.LogCaptureFixture, fold: int, dropped: set[int]
) -> None:
    with caplog.at_level(logging.INFO):
        split = load_split(ksdd(kolektor, split="tens", fold=fold))
    tested = set(range(10 * fold + 1, 10 * fold + 11))
    assert folders(split.listed_test) == kos(*tested)
    assert folders(split.listed_train) == kos(*(set(range(1, 51)) - tested - dropped))
    assert folders(split.dropped) == kos(*dropped)
    assert ("dropped" in caplog.text) == bool(dropped)
    if dropped:
        assert f"dropped {3 * len(dropped)} training images" in caplog.text


@pytest.mark.parametrize(
    ("fold", "dropped"), [(0, {34, 39}), (1, {26, 38}), (2, {1, 27})], ids=["0", "1", "2"]
)
def test_official_folds(kolektor: Path, fold: int, dropped: set[int]) -> None:
    split = load_split(ksdd(kolektor, split="official", fold=fold))
    assert folders(split.dropped) == kos(*dropped)
    lists = SHARED / "KolektorSDD_splits"
    if not lists.is_dir():
        pytest.skip(f"the authors' lists of folders are not at {lists}")
    tested = set((lists / f"fold{fold}_test.txt").read_text().split())
    trained = set((lists / f"fold{fold}_train.txt").read_text().split())
    assert folders(split.listed_test) == tested
    assert folders(split.listed_train) | folders(split.dropped) == trained


def test_official_folds_partition(kolektor: Path) -> None:
    tests = [load_split(ksdd(kolektor, split="official", fold=k)).listed_test for k in range(3)]
    assert sorted(name for test in tests for name in folders(test)) == sorted(kos(*range(1, 51)))


def test_leaks_may_be_refused(kolektor: Path) -> None:
    with pytest.raises(
        LtcamError, match=r"share .*kos27.*kos38.*6 .*dataset\.drop_leaks"
    ) as raised:
        load_split(ksdd(kolektor, split="official", fold=0, drop_leaks=False))
    one_line(raised)
    load_split(ksdd(kolektor, drop_leaks=False))  # no twin across the paper's split


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "papper"}, "dataset.split=papper: unknown; did you mean 'paper'"),
        ({"split": "tens"}, "dataset.fold=null: the split tens has folds 0..4"),
        ({"split": "tens", "fold": 5}, "dataset.fold=5: the split tens has folds 0..4"),
        ({"split": "official", "fold": -1}, "dataset.fold=-1: must be a whole number"),
        ({"fold": 1}, "dataset.fold=1: the split paper has no folds"),
        ({"count": 399}, "150 images instead of 399"),
        ({"root": "/no/such/folder"}, "dataset.root=/no/such/folder: no such folder"),
        ({"root": None}, "dataset.root is not set"),
    ],
)
def test_wrong_ksdd_configs(kolektor: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LtcamError, match=message) as raised:
        load_split(ksdd(kolektor, **options))
    one_line(raised)


def test_missing_root_names_the_download(tmp_path: Path) -> None:
    with pytest.raises(LtcamError, match=r"no such folder; .*ltcam data download ksdd"):
        load_split(ksdd(tmp_path / "nothing"))
    with pytest.raises(LtcamError, match="ltcam data download ksdd"):
        load_split(ksdd(tmp_path))


def test_a_missing_mask_is_named(kolektor: Path, tmp_path: Path) -> None:
    root = shutil.copytree(kolektor, tmp_path / "copy")
    (root / "kos03" / "Part1_label.bmp").unlink()
    split = load_split(ksdd(root))
    assert len(split.test) == 30
    with pytest.raises(LtcamError, match=r"kos03/Part1_label\.bmp: no such file"):
        _ = split.train


def write_labels(path: Path, samples: list[Sample]) -> Path:
    rows = [{"name": sample.name, "label": sample.label} for sample in samples]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_labels_from_a_csv_need_no_training_mask(kolektor: Path, tmp_path: Path) -> None:
    from_masks = load_split(ksdd(kolektor))
    labels = write_labels(tmp_path / "labels.csv", from_masks.train)
    root = shutil.copytree(kolektor, tmp_path / "copy")
    for number in range(1, 41):
        for mask in (root / f"kos{number:02d}").glob("*.bmp"):
            mask.unlink()
    split = load_split(ksdd(root, labels=str(labels)))
    for part in ("train", "test"):
        assert [(s.name, s.group, s.label) for s in split.part(part)] == [
            (s.name, s.group, s.label) for s in from_masks.part(part)
        ]


def test_labels_go_before_masks(kolektor: Path, tmp_path: Path) -> None:
    samples = load_split(ksdd(kolektor)).part("all")
    turned = [replace(sample, label=1 - (sample.label or 0)) for sample in samples]
    labels = write_labels(tmp_path / "labels.csv", turned)
    split = load_split(ksdd(kolektor, labels=str(labels)))
    assert [s.label for s in split.part("all")] == [s.label for s in turned]


def test_missing_labels_are_named(kolektor: Path, tmp_path: Path) -> None:
    train = load_split(ksdd(kolektor)).train
    lacking = [sample for sample in train if sample.name != "kos07/Part2"]
    labels = write_labels(tmp_path / "labels.csv", lacking)
    with pytest.raises(LtcamError, match=r"dataset\.labels: no label .* kos07/Part2"):
        _ = load_split(ksdd(kolektor, labels=str(labels))).train


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,class\na,1\n", "column label is missing"),
        ("name,label\na,2\n", "line 2: label of a is '2'; must be 0 .good. or 1 .defective."),
        ("name,label\na,0\nb,1,2,3\n", "line 3: has 4 fields for 2 columns"),
        ("", "is empty; its first line must be name,label"),
        ('name,label\n"a,0\n', "cannot be read as CSV"),
    ],
)
def test_wrong_labels_files(kolektor: Path, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(LtcamError, match=message) as raised:
        load_split(ksdd(kolektor, labels=str(path)))
    assert str(path) in one_line(raised)


def test_missing_labels_file(kolektor: Path) -> None:
    with pytest.raises(LtcamError, match=r"dataset\.labels=none\.csv: no such file"):
        load_split(ksdd(kolektor, labels="none.csv"))


# Splits


def counting(samples: list[Sample], read: list[str]) -> list[Sample]:
    """Unlabelled copies that note whose mask is read."""

    def mask_of(sample: Sample) -> np.ndarray:
        read.append(sample.name)
        mask = sample.mask
        assert mask is not None
        return mask

    return [replace(s, label=None, read_mask=partial(mask_of, s), recipe=s.name) for s in samples]


def test_only_the_part_that_is_used_is_labelled() -> None:
    read: list[str] = []
    split = Split(counting(toys(6), read), counting(toys(3, start=300), read))
    split.fingerprint()
    assert read == []
    assert [s.label for s in split.test] == [1, 0, 0]
    assert read == ["toy300", "toy301", "toy302"]
    _ = split.test
    assert len(read) == 3
    assert [s.label for s in split.part("train")] == [1, 0, 0, 1, 0, 0]
    assert len(read) == 9


def test_parts() -> None:
    split = Split(toys(2), toys(1, start=9))
    assert split.part("all") == split.train + split.test
    with pytest.raises(LtcamError, match="must be train, test or all"):
        split.part("validation")


def test_neither_label_nor_mask() -> None:
    bare = replace(toy(0, 1), label=None, read_mask=None)
    with pytest.raises(LtcamError, match=r"toy000: has neither label nor mask; .*dataset\.labels"):
        _ = Split([bare], []).train


def test_fingerprint(kolektor: Path, tmp_path: Path) -> None:
    original = load_split(ksdd(kolektor)).fingerprint()
    root = shutil.copytree(kolektor, tmp_path / "elsewhere")
    assert load_split(ksdd(root)).fingerprint() == original
    assert load_split(ksdd(kolektor, split="tens", fold=4)).fingerprint() == original
    assert load_split(ksdd(kolektor, split="tens", fold=3)).fingerprint() != original
    labels = write_labels(tmp_path / "labels.csv", load_split(ksdd(kolektor)).part("all"))
    assert load_split(ksdd(kolektor, labels=str(labels))).fingerprint() != original
    (root / "kos01" / "Part0.jpg").touch()
    assert load_split(ksdd(root)).fingerprint() == original


@pytest.mark.parametrize("name", ["kos01/Part0.jpg", "kos42/Part1_label.bmp"])
def test_fingerprint_tells_equally_long_files(kolektor: Path, tmp_path: Path, name: str) -> None:
    root = shutil.copytree(kolektor, tmp_path / "copy")
    labels = write_labels(tmp_path / "labels.csv", load_split(ksdd(root)).part("all"))
    configs = [ksdd(root), ksdd(root, labels=str(labels))]
    before = [load_split(config).fingerprint() for config in configs]
    content, stat = (root / name).read_bytes(), (root / name).stat()
    (root / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(root / name, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10**10))  # an older file
    after = [load_split(config).fingerprint() for config in configs]
    assert after[0] != before[0]
    assert (after[1] != before[1]) == name.endswith(".jpg")  # masks tell no label there


def test_kolektor_split_by_a_csv(kolektor: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("name,split\nkos03/Part1,test\nkos26,test\nkos01,train\nkos05,train\nkos07,\n")
    count = len(load_split(ksdd(kolektor)).part("all"))  # of all images, not of those named
    split = load_split(ksdd(kolektor, split="csv", split_file=str(file), count=count))
    assert [s.name for s in split.test if s.name < "kos26"] == ["kos03/Part1"]
    assert folders(split.test) == kos(3, 26)
    assert folders(split.train) == kos(5)  # 01 is 26's twin
    assert folders(split.dropped) == kos(1)
    with pytest.raises(LtcamError, match=f"{count} images instead of {count + 1}"):
        load_split(ksdd(kolektor, split="csv", split_file=str(file), count=count + 1))
    file.write_text("name,split\nkos03/Part1,test\nkos03,train\n")
    with pytest.raises(LtcamError, match="kos03/Part1 stands there twice"):
        load_split(ksdd(kolektor, split="csv", split_file=str(file)))
    with pytest.raises(LtcamError, match=r"dataset\.split_file=.*split\.csv: no such file"):
        load_split(ksdd(kolektor, split="csv"))


def test_split_fraction_by_items() -> None:
    samples = [toy(n, int(n % 12 < 3), group=f"item{n // 4}") for n in range(120)]
    stays, goes = split_fraction(samples, 0.3, 7)
    assert {s.group for s in stays}.isdisjoint(s.group for s in goes)
    assert sorted(s.name for s in stays + goes) == sorted(s.name for s in samples)
    assert len({s.group for s in goes}) == 9  # 3 of the 10 defective items, 6 of the 20 good
    for part in (stays, goes):
        check_classes(part, "any")
    again = split_fraction(samples, 0.3, 7)
    assert again == (stays, goes)
    assert split_fraction(samples, 0.3, 8) != again
    assert split_fraction(samples[::-1], 0.3, 7)[1] == goes[::-1]
    for fraction in (0.01, 0.99):  # at least one item of each kind on both sides
        for part in split_fraction(samples, fraction, 0):
            check_classes(part, "any")


@pytest.mark.parametrize(("label", "kind"), [(0, "defective"), (1, "good")])
def test_a_class_without_samples(label: int, kind: str) -> None:
    with pytest.raises(LtcamError, match=f"the test part has no {kind} image"):
        check_classes([toy(0, label)], "test")


# Folders


def write_flat(root: Path, good: int = 8, defect: int = 4, suffix: str = "png") -> Path:
    for label, kind in ((0, "good"), (1, "defect")):
        (root / kind).mkdir(parents=True)
        for number in range(good if label == 0 else defect):
            image = Image.fromarray(picture(number, bool(label)))
            image.save(root / kind / f"{kind[0]}{number}.{suffix}")
            if label:
                (root / "masks").mkdir(exist_ok=True)
                mask = square(number, True).astype(np.uint8) * 255
                Image.fromarray(mask).save(root / "masks" / f"d{number}.bmp")
    return root


def folder(root: Path, **options: Any) -> Folder:
    return Folder(root=str(root), **options)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "PNG"])
def test_flat_folder_split_by_a_share(tmp_path: Path, suffix: str) -> None:
    root = write_flat(tmp_path / "images", suffix=suffix)
    split = load_split(folder(root, count=12))
    assert folder(root).display_name == "images"
    assert folder(root, name="mine").display_name == "mine"
    assert len(split.test) == 3 and len(split.train) == 9
    for part in (split.train, split.test):
        check_classes(part, "any")
    by_name = {s.name: s for s in split.part("all")}
    assert by_name["d2"].label == 1 and by_name["g2"].label == 0
    np.testing.assert_array_equal(by_name["d2"].mask, square(2, True))
    assert by_name["g2"].mask is None
    assert by_name["g2"].path == root / "good" / f"g2.{suffix}"
    other = load_split(folder(root, split_seed=1))
    assert {s.name for s in other.test} != {s.name for s in split.test}
    assert len(load_split(folder(root, test_fraction=0.5)).test) == 6


def test_flat_folder_split_by_a_csv(tmp_path: Path) -> None:
    root = write_flat(tmp_path)
    (root / "split.csv").write_text(
        "name,split,group\ng0,train,a\ng1,test,b\nd0,train,a\nd1,test,b\nd2,,c\ng2,train,b\n"
    )
    split = load_split(folder(root))
    assert [(s.name, s.group) for s in split.train] == [("g0", "a"), ("d0", "a")]
    assert [(s.name, s.group) for s in split.test] == [("g1", "b"), ("d1", "b")]
    assert [s.name for s in split.dropped] == ["g2"]
    with pytest.raises(LtcamError, match=r"share the item\(s\) b"):
        load_split(folder(root, drop_leaks=False))
    elsewhere = tmp_path / "other.csv"
    elsewhere.write_text("name,split\ng0,train\nd1,test\n")
    named = load_split(folder(root, split_file=str(elsewhere)))
    assert [(s.name, s.group) for s in named.part("all")] == [("g0", "g0"), ("d1", "d1")]
    assert len(load_split(folder(root, split="fraction")).part("all")) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,split\ng0,train\nx9,test\nx8,test\n", "line 3: no image for x9"),
        ("name,split\ng0,train\nd3,test\ng0,test\n", "line 4: g0 stands there twice, and line 2"),
        ("name,split\ng0,val\n", "split of g0 is 'val'; must be train, test or empty"),
        ("image,split\ng0,train\n", "column name is missing"),
    ],
)
def test_wrong_split_files(tmp_path: Path, text: str, message: str) -> None:
    root = write_flat(tmp_path)
    (root / "split.csv").write_text(text)
    with pytest.raises(LtcamError, match=message) as raised:
        load_split(folder(root))
    assert str(root / "split.csv") in one_line(raised)


def test_two_images_of_one_name(tmp_path: Path) -> None:
    root = write_flat(tmp_path)
    shutil.copy(root / "good" / "g0.png", root / "defect" / "g0.jpg")
    with pytest.raises(LtcamError, match="two images are called g0"):
        load_split(folder(root))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "random"}, r"dataset.split=random: unknown .*auto, csv, fraction, given"),
        ({"split": "given"}, "no train/good; use csv or fraction"),
        ({"split": "csv"}, r"split\.csv: no such file"),
        ({"count": 99}, "12 images instead of 99"),
        ({"test_fraction": 1.0}, "dataset.test_fraction=1.0: must be a number above 0 and below 1"),
    ],
)
def test_wrong_folder_configs(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LtcamError, match=message):
        load_split(folder(write_flat(tmp_path), **options))


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "holiday.png").touch()
    with pytest.raises(LtcamError, match="no image in good/ or defect/ below it"):
        load_split(folder(tmp_path))


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """A tree in the layout of MVTec AD, where names repeat from folder to folder."""
    for part, kind, count in (("train", "good", 5), ("test", "good", 2), ("test", "crack", 3)):
        (tmp_path / part / kind).mkdir(parents=True)
        for number in range(count):
            image = Image.fromarray(picture(number, kind != "good"))
            image.save(tmp_path / part / kind / f"{number:03d}.png")
    truth = tmp_path / "ground_truth" / "crack"
    truth.mkdir(parents=True)
    for number in range(3):
        Image.fromarray(square(number, True)).save(truth / f"{number:03d}_mask.png")
    return tmp_path


def test_mvtec_tree(mvtec: Path) -> None:
    split = load_split(folder(mvtec))
    assert [s.name for s in split.train] == [f"train/good/{n:03d}" for n in range(5)]
    assert {(s.name, s.label) for s in split.test} == {
        *((f"test/good/{n:03d}", 0) for n in range(2)),
        *((f"test/crack/{n:03d}", 1) for n in range(3)),
    }
    crack = next(s for s in split.test if s.name == "test/crack/001")
    np.testing.assert_array_equal(crack.mask, square(1, True))
    with pytest.raises(LtcamError, match="the training part has no defective image"):
        check_classes(split.train, "training")


def test_mvtec_tree_split_by_a_share(mvtec: Path) -> None:
    split = load_split(folder(mvtec, split="fraction", test_fraction=0.4))
    for part in (split.train, split.test):
        check_classes(part, "any")
    assert len(split.part("all")) == 10


def test_mvtec_tree_without_a_test_part(mvtec: Path) -> None:
    shutil.rmtree(mvtec / "test")
    split = load_split(folder(mvtec))
    with pytest.raises(LtcamError, match="the test part has no good image"):
        check_classes(split.test, "test")


def test_labels_of_a_folder(tmp_path: Path) -> None:
    root = write_flat(tmp_path / "images")
    samples = load_split(folder(root)).part("all")
    labels = write_labels(tmp_path / "labels.csv", [replace(s, label=1) for s in samples])
    split = load_split(folder(root, labels=str(labels)))
    assert all(s.label == 1 for s in split.part("all"))


def test_roadcracks(tmp_path: Path) -> None:
    archive = SHARED / "roadcracks.zip"
    if not archive.is_file():
        pytest.skip(f"the road cracks are not at {archive}")
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    root = tmp_path / "roadcracks"
    split = load_split(folder(root, count=648, drop_leaks=False))
    assert sum(s.label == 0 for s in split.part("all")) == 133
    assert sum(s.label == 1 for s in split.part("all")) == 515
    table = pd.read_csv(root / "split.csv", dtype=str).set_index("name")
    for part in ("train", "test"):
        assert {s.name for s in split.part(part)} == set(table.index[table["split"] == part])
        assert all(s.group == table.loc[s.name, "group"] for s in split.part(part))
        check_classes(split.part(part), part)
    cracked = next(s for s in split.test if s.label)
    assert cracked.image.shape == (160, 160, 3)
    assert cracked.mask is not None and cracked.mask.shape == (160, 160) and cracked.mask.any()


# How folders are listed


def save(*paths: Path) -> None:
    """A picture of its own at each path, as PNG whatever the suffix."""
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, False)).save(path, format="PNG")


def save_mask(path: Path, number: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(square(number, True)).save(path)


def names_of(split: Split) -> list[str]:
    return sorted(sample.name for sample in split.part("all"))


HIDDEN = [
    "._g0.png", ".ipynb_checkpoints/g0-checkpoint.png", "@eaDir/g0.png/THUMB.jpg", ".thumbs/g0.png",
    "Thumbs.db", "__MACOSX/g0.png", "#recycle/g0.png", "deep/.Trash-0/g0.png", "~$g0.png",
]  # fmt: skip


def test_hidden_files_and_caches_are_no_images(tmp_path: Path) -> None:
    save(*(tmp_path / "good" / name for name in ["g0.png", "g1.TIF", *HIDDEN]))
    save(tmp_path / "defect" / "d0.png", tmp_path / "masks" / "._d0.png")
    split = load_split(folder(tmp_path))
    assert names_of(split) == ["d0", "g0", "g1"]
    assert split.notes == [] and all(s.mask is None for s in split.part("all"))
    assert sorted(s.name for s in find_images([tmp_path / "good"])) == ["g0", "g1"]


def test_nested_and_linked_folders(tmp_path: Path) -> None:
    root = tmp_path / "set"
    files = ("good/cam1/a.png", "good/cam2/a.png", "defect/cam2/b.png")
    save(tmp_path / "elsewhere" / "x.png", *(root / name for name in files))
    save_mask(root / "masks" / "cam2" / "b_GT.png")
    (root / "good" / "cam3").symlink_to(tmp_path / "elsewhere")
    split = load_split(folder(root))
    assert names_of(split) == ["cam1/a", "cam2/a", "cam2/b", "cam3/x"]
    (defective,) = (s for s in split.part("all") if s.label)
    np.testing.assert_array_equal(defective.mask, square(1, True))
    (root / "good" / "cam1" / "up").symlink_to(root / "good")
    for look in (lambda: load_split(folder(root)), lambda: find_images([root / "good"])):
        with pytest.raises(LtcamError, match=r"good/cam1/up: a link that leads back to .*good"):
            look()


def test_what_is_no_image_is_counted(tmp_path: Path) -> None:
    read = "a.png b.pgm c.ppm d.gif e.jp2 f.jfif g.TIF h.JPEG".split()
    save(*(tmp_path / "good" / name for name in read), tmp_path / "defect" / "x.png")
    save(tmp_path / "scratch" / "s.png", tmp_path / "loose.png")
    for name in ("p.heic", "q.HEIC", "notes.txt", "README"):
        (tmp_path / "good" / name).touch()
    os.mkfifo(tmp_path / "good" / "pipe.png")
    split = load_split(folder(tmp_path))
    assert len(split.part("all")) == len(read) + 1
    assert split.notes == [
        "left out: 2 .heic, 1 .txt, 1 folder scratch/, 1 image beside the folders, 1 no file, "
        "1 without suffix"
    ]


@pytest.mark.parametrize("suffix", ["pgm", "ppm", "gif", "jp2", "jfif", "TIF"])
def test_suffixes_that_are_read(tmp_path: Path, suffix: str) -> None:
    kinds = {"pgm": "PPM", "jp2": "JPEG2000", "jfif": "JPEG", "TIF": "TIFF"}
    pixels = np.full((16, 24), 77, np.uint8)
    (tmp_path / "good").mkdir()
    image = Image.fromarray(pixels).convert("RGB" if suffix == "ppm" else "L")
    image.save(tmp_path / "good" / f"a.{suffix}", format=kinds.get(suffix, suffix.upper()))
    save(tmp_path / "defect" / "d.png")
    (good,) = (s for s in load_split(folder(tmp_path)).part("all") if not s.label)
    assert good.image.shape[:2] == (16, 24) and abs(int(good.image.max()) - 77) <= 1


@pytest.mark.parametrize(
    "kind", ["good", "Good", "ok", "OK", "normal", "Non_Defective", "no-defect"]
)
def test_names_of_good_folders(tmp_path: Path, kind: str) -> None:
    save(*(tmp_path / "tree" / part / kind / "0.png" for part in ("train", "test")))
    save(tmp_path / "tree" / "test" / "hole" / "0.png")
    labels = {s.name: s.label for s in load_split(folder(tmp_path / "tree")).test}
    assert labels == {f"test/{kind}/0": 0, "test/hole/0": 1}
    save(tmp_path / "flat" / kind / "a.png", tmp_path / "flat" / "NG" / "b.png")
    split = load_split(folder(tmp_path / "flat", split="fraction"))
    assert {s.name: s.label for s in split.part("all")} == {"a": 0, "b": 1}


@pytest.mark.parametrize("other", ["defect/a.png", "good/a.jpg", "OK/a.png"])
def test_two_files_of_one_stem(tmp_path: Path, other: str) -> None:
    save(tmp_path / "good" / "a.png", tmp_path / "defect" / "d.png", tmp_path / other)
    with pytest.raises(LtcamError, match="two images are called a: ") as raised:
        load_split(folder(tmp_path))
    assert str(tmp_path / "good/a.png") in str(raised.value)
    assert str(tmp_path / other) in one_line(raised)


@pytest.mark.parametrize("name", ["d_mask", "d_GT", "d_label", "d", "d-gt", "d.mask", "D\u0308"])
def test_names_of_masks(tmp_path: Path, name: str) -> None:
    stem = "\u0044\u0308" if name.startswith("D") else "d"  # NFD; the mask below is NFC
    save(tmp_path / "defect" / f"{stem}.png", tmp_path / "good" / "g.png")
    save_mask(tmp_path / "masks" / f"{unicodedata.normalize('NFC', name)}.bmp")
    save_mask(tmp_path / "masks" / "nobody.png")
    split = load_split(folder(tmp_path))
    (defective,) = (s for s in split.part("all") if s.label)
    np.testing.assert_array_equal(defective.mask, square(1, True))
    assert split.notes == ["masks of no image: 1 (masks/nobody.png)"] and not split.unread_masks
    save_mask(tmp_path / "masks" / f"{stem}_mask.png")
    save_mask(tmp_path / "masks" / f"{stem}_label.png")
    with pytest.raises(LtcamError, match=r"has two masks: .*masks/.* and .*masks/"):
        load_split(folder(tmp_path))


def test_masks_beside_their_images(tmp_path: Path) -> None:
    save(tmp_path / "defect" / "d.png", tmp_path / "good" / "g.png")
    save_mask(tmp_path / "defect" / "d_GT.png")
    split = load_split(folder(tmp_path))
    assert names_of(split) == ["d", "g"] and sum(s.mask is not None for s in split.part("all")) == 1
    assert split.notes == ["taken as masks of the images beside them: 1"]


def test_odd_names_of_files(tmp_path: Path) -> None:
    names = [b"K\xfcche.png", b"a\rb.png", b"A.png", b"a.png", b"L" * 246 + b".png"]
    (tmp_path / "good").mkdir()
    save(tmp_path / "defect" / "d.png", tmp_path / "x.png")
    for name in names:
        shutil.copy(tmp_path / "x.png", os.path.join(os.fsencode(tmp_path / "good"), name))  # noqa: PTH118
    listed = [names_of(load_split(folder(tmp_path)))[:], []]
    listed[1] = sorted(["d", *(s.name for s in find_images([tmp_path / "good"]))])
    for found in listed:
        assert found == sorted(["d", "K\\xfcche", "a\\x0db", "A", "a", "L" * 246])
    for name in ("a/b", "x" * 300, "ü" * 300):
        assert len(stem_of(name).encode()) <= 200 and "/" not in stem_of(name)
    assert stem_of("x" * 300) != stem_of("x" * 301)


TABLES = {
    "plain": lambda text: text.encode(),
    "mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "utf16": lambda text: text.encode("utf-16"),
    "utf16 without mark": lambda text: text.encode("utf-16-le"),
    "windows": lambda text: text.encode("cp1252"),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "excel": lambda text: ("sep=;\r\n" + text.replace(",", ";")).encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "blanks": lambda text: text.replace(",", " , ").replace("\n", "  \n").encode(),
    "returns": lambda text: text.replace("\n", "\r").encode(),
    "capitals": lambda text: text.replace("name", "Name").replace("test", "TEST").encode(),
    "suffixes": lambda text: text.replace(",t", ".png,t").replace("\n.png", "\n").encode(),
    "folders": lambda text: (
        text.replace("\ng", "\n./good/g").replace("\nd", "\ndefect\\d").encode()
    ),
    "blank rows": lambda text: (text.replace("\n", "\n\n") + ",\n,,\n").encode(),
}


@pytest.mark.parametrize("kind", TABLES)
def test_split_files_as_spreadsheets_write_them(tmp_path: Path, kind: str) -> None:
    root = write_flat(tmp_path / "set", good=2, defect=2)
    (root / "good" / "g0.png").rename(root / "good" / "gü.png")
    text = "name,split\ngü,train\ng1,test\nd0,train\nd1,test\n"
    (tmp_path / "split.csv").write_bytes(TABLES[kind](text))
    split = load_split(folder(root, split_file=str(tmp_path / "split.csv")))
    assert [s.name for s in split.train] == ["gü", "d0"]
    assert [s.name for s in split.test] == ["g1", "d1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g0,train\ng1,test\n", "line 1: column name, split is missing; the first line must name"),
        ("name,split\ng0,train\n\ng1,test,x\n", "line 4: has 3 fields for 2 columns"),
        ("name,split,split\ng0,train,test\n", "line 1: two columns are called split"),
        ("name,split\nG0,test\n", "line 2: no image for G0; did you mean g0"),
        ("name,split\ngood/d0,test\n", "line 2: no image for good/d0"),
        (
            "name,split,group\ng0,test,a\ng0.png,test,b\n",
            "line 3: g0 stands there twice, and line 2",
        ),
        ("name,split\n,test\n", "line 2: no image for an empty name"),
    ],
)
def test_lines_of_wrong_split_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(LtcamError, match=message) as raised:
        load_split(folder(write_flat(tmp_path / "set"), split_file=str(tmp_path / "s.csv")))
    assert str(tmp_path / "s.csv") in one_line(raised)


def test_names_that_fit_several_files(mvtec: Path) -> None:
    (mvtec / "split.csv").write_text("name,split\n000,train\n")
    with pytest.raises(
        LtcamError, match=r"line 2: 000 fits train/good/000 and test/.*more of the path"
    ):
        load_split(folder(mvtec))
    (mvtec / "split.csv").write_text("name,split\ntest/crack,test\ngood/004.png,train\n")
    split = load_split(folder(mvtec))
    assert len(split.test) == 3 and [s.name for s in split.train] == ["train/good/004"]


@pytest.mark.parametrize("words", [("0", "1"), ("0.0", "1.0"), ("False", "TRUE"), ("OK", "ng"),
                                   ("good", "defective")])  # fmt: skip
def test_words_for_labels(tmp_path: Path, words: tuple[str, str]) -> None:
    root = write_flat(tmp_path / "set", good=2, defect=2)
    rows = [f"{name},{words[int(name[0] == 'g')]}" for name in ("g0", "g1.png", "d0", "defect/d1")]
    (tmp_path / "l.csv").write_text("\n".join(["name,label", *rows]))
    split = load_split(folder(root, labels=str(tmp_path / "l.csv")))
    assert all(s.label == int(s.name[0] == "g") for s in split.part("all"))
    (tmp_path / "split.csv").write_text("name,split\ng0,train\n")  # the others are left out
    load_split(folder(root, labels=str(tmp_path / "l.csv"), split_file=str(tmp_path / "split.csv")))
    for row, message in (("g0,0", "line 6: g0 stands there twice, and line 2"),
                         ("G9,0", "line 6: no image for G9")):  # fmt: skip
        (tmp_path / "l.csv").write_text("\n".join(["name,label", *rows, row]))
        with pytest.raises(LtcamError, match=message):
            load_split(folder(root, labels=str(tmp_path / "l.csv")))


def test_what_helps_a_part_without_a_class(tmp_path: Path, mvtec: Path) -> None:
    def advice(split: Split) -> str:
        with pytest.raises(LtcamError) as raised:
            for part in ("train", "test"):
                check_classes(split.part(part), part, split)
        return str(raised.value)

    assert "use dataset.split=fraction" in advice(load_split(folder(mvtec)))
    one = write_flat(tmp_path / "one", good=4, defect=1)
    assert "the whole data set has one defective item" in advice(load_split(folder(one)))
    save(tmp_path / "odd" / "good" / "a.png", tmp_path / "odd" / "scratches" / "b.png")
    said = advice(load_split(folder(tmp_path / "odd")))
    assert "has no defective item" in said and "folder scratches/" in said


def test_no_training_image_is_called_unlike_the_training_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place in ("good/a", "good/b", "defect/c", "defect/d"):
        save(tmp_path / f"{place}.png")
        Image.fromarray(GREY16 >> 4).save(tmp_path / f"{place}_12.png")
    dataset = folder(tmp_path)
    split = load_split(dataset)
    with_size(dataset, split.listed_train)
    look_at(dataset, split)
    assert "warning" not in caplog.text


def test_findings_of_a_data_check(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_flat(tmp_path, good=4, defect=4)
    shutil.copy(root / "good" / "g0.png", root / "defect" / "d9.png")
    shutil.copy(root / "good" / "g1.png", root / "good" / "g8.png")
    Image.new("L", Image.open(root / "masks" / "d0.bmp").size).save(root / "masks" / "d0.bmp")
    Image.new("L", (5, 5), 255).save(root / "masks" / "d1.bmp")
    (root / "good" / "g2.png").write_bytes(b"")
    found = look_at(folder(root), load_split(folder(root)))
    assert "defective images without a mask, not scored: d9" in found.odd
    for words in (
        "equal images, one good and one defective: g0 = d9",
        "a defective image with an empty mask: d0",
        "a mask of another size: d1, 5x5 for an image of",
        "g2.png: the file is empty",
    ):
        assert any(words in line for line in found.wrong), found.wrong
    assert any("g1 = g8" in line for line in [*found.odd, *found.wrong])
    warn_of_equals(load_split(folder(root)))
    assert caplog.text.count("equal images with different labels: d9 = g0 (such pairs: 1)") == 1
    skipping = folder(root, on_error="skip")
    assert any("g2.png" in line for line in look_at(skipping, load_split(skipping)).odd)


@pytest.mark.parametrize(
    ("root", "name"),
    [(".", "here"), ("./", "here"), ("sub/..", "here"), ("-x", "x"), (".y/", "y"), ("a\nb", "a_b"),
     ("/", "folder"), ("z" * 200, "z" * 100)],
)  # fmt: skip
def test_names_of_roots_are_names_of_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shown = Folder(root=root).display_name
    assert shown == name
    assert Folder(name=shown).name == shown


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "a/b", "../../x", "/abs", "a\\b", "-x", ".x", "a\nb", "a\0", " a", "x" * 101],
)
@pytest.mark.parametrize("kind", [Folder, CamMethod, SegmenterConfig, StudentMethod, StudentConfig])
def test_names_that_are_no_folders(kind: Any, name: str) -> None:
    with pytest.raises(LtcamError, match=r"name=.*: must be one folder's name"):
        kind(name=name)


# KolektorSDD2, synthetic


def write_ksdd2(root: Path) -> Path:
    for part, numbers in (("train", range(10000, 10006)), ("test", range(20000, 20003))):
        (root / part).mkdir(parents=True)
        for number in numbers:
            label = number % 3 == 0
            image = np.repeat(picture(number, label)[..., None], 3, axis=-1)
            Image.fromarray(image).save(root / part / f"{number}.png")
            mask = square(number, label).astype(np.uint8) * 255
            Image.fromarray(mask).save(root / part / f"{number}_GT.png")
    return root


def test_ksdd2(tmp_path: Path) -> None:
    split = load_split(Ksdd2(root=str(write_ksdd2(tmp_path)), count=9))
    assert [s.name for s in split.test] == ["test/20000", "test/20001", "test/20002"]
    assert [s.label for s in split.train] == [0, 0, 1, 0, 0, 1]
    assert split.test[1].image.shape == (40, 36, 3)
    np.testing.assert_array_equal(split.test[1].mask, square(20001, True))


def test_ksdd2_without_a_test_part(tmp_path: Path) -> None:
    shutil.rmtree(write_ksdd2(tmp_path) / "test")
    with pytest.raises(LtcamError, match=r"no test/NNNNN\.png .*ltcam data download ksdd2"):
        load_split(Ksdd2(root=str(tmp_path)))


def test_synthetic_split(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Synthetic(items=8, parts=2, height=64, width=32)
    split = load_split(config)
    assert len(split.part("all")) == 16 and len({s.group for s in split.test}) == 2
    assert {s.group for s in split.train}.isdisjoint(s.group for s in split.test)
    assert config.display_name == "synthetic"
    monkeypatch.setattr(Sample, "image", property(lambda _: pytest.fail("is rendered")))
    same = [replace(config, name="other", on_error="skip", count=16), replace(config)]
    assert {load_split(other).fingerprint() for other in same} == {split.fingerprint()}
    for changes in ({"split_seed": 1}, {"seed": 1}, {"height": 65}, {"parts": 3}):
        assert load_split(replace(config, **changes)).fingerprint() != split.fingerprint()


# Data sets by their kind


@pytest.mark.parametrize("kind", sorted(DATASETS))
def test_built_in_kinds(kind: str) -> None:
    dataset = make_dataset({"kind": kind})
    assert dataset.kind == kind and type(dataset) is DATASETS[kind]
    assert descriptions(type(dataset)).keys() == {field.name for field in fields(dataset)}
    decisive = effective(dataset).keys()
    assert decisive.isdisjoint({"root", "name", "labels", "split_file", "on_error", "count", "url"})
    assert {"kind", "split", "fold", "height", "width", "channels"} <= decisive


def test_folds_and_facts(kolektor: Path) -> None:
    assert ksdd(kolektor).folds() == {"tens": 5, "official": 3}
    assert Folder().folds() == Synthetic().folds() == Ksdd2().folds() == {}
    config = ksdd(kolektor, split="tens", fold=2)
    (fact,) = config.facts(load_split(config))
    assert fact.startswith("47 physical items") and "kos39 = kos38" in fact


THEIRS = """
from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ltcam_cli.config import config
from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split


@config("dataset")
class Noise(Dataset):
    images: Annotated[int, Field(ge=1, le=99)] = 2
    split: Literal["given", "odd"] = "given"

    def listed(self) -> Split:
        parts = [
            [Sample(f"{part}{n}", f"{part}{n}", n % 2, lambda: None) for n in range(self.images)]
            for part in ("train", "test")
        ]
        return Split(*parts)

    def folds(self) -> dict[str, int]:
        return {"odd": 3}


class Nothing:
    pass
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of somebody else, with an entry point."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    (tmp_path / "faulty.py").write_text("1 / 0\n")
    info = tmp_path / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ltcam.datasets]\nnoise = theirs:Noise\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("theirs", None)


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("kind", ["noise", "theirs:Noise"])
def test_data_sets_of_others(kind: str) -> None:
    dataset = make_dataset({"kind": kind, "images": 3, "count": 6})
    assert isinstance(dataset, Dataset) and dataset.display_name == dataset.kind == kind
    assert [s.name for s in load_split(dataset).test] == ["test0", "test1", "test2"]
    for values, message in (
        (
            {"images": 100},
            "dataset.images=100: must be a whole number of at least 1 and at most 99",
        ),
        ({"imges": 1}, "dataset.imges: no such key; did you mean 'images'"),
        ({"split": "odd", "fold": 3}, "dataset.fold=3: the split odd has folds 0..2"),
        ({"height": 3}, "dataset.height=3: must be"),
    ):
        with pytest.raises(LtcamError, match=message):
            make_dataset({"kind": kind, **values})


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("ksd", "dataset.kind=ksd: unknown; did you mean 'ksdd'. .*noise"),
        (None, "dataset.kind=null: unknown"),
        ([1], r"dataset.kind=\[1\]: unknown"),
        ("", "dataset.kind=: unknown"),
        ("nowhere.data:Mine", "nowhere.data cannot be imported .*PYTHONPATH"),
        (":Mine", "cannot be imported"),
        ("..a:Mine", "cannot be imported"),
        ("faulty:Mine", "faulty cannot be imported .*division by zero"),
        ("theirs:Noises", "did you mean 'Noise'"),
        ("theirs:Nothing", "dataset.kind=theirs:Nothing: is no subclass of Dataset"),
        ("theirs:Dataset", "dataset.kind=theirs:Dataset: defines no method listed"),
        ("theirs:", "dataset.kind=theirs:: .*no such"),
    ],
)
def test_unknown_kinds(kind: Any, message: str) -> None:
    with pytest.raises(LtcamError, match=message) as raised:
        make_dataset({"kind": kind})
    one_line(raised)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("ksdd", "on_error", "ignore"),
        ("ksdd", "channels", 4),
        ("ksdd", "height", 16),
        ("ksdd", "name", "a/b"),
        ("ksdd", "count", 0),
        ("ksdd", "sha256", "abc"),
        ("ksdd", "items", 3),
        ("ksdd2", "split", "paper"),
        ("ksdd2", "fold", 0),
        ("folder", "test_fraction", 0),
        ("folder", "url", "https://example.org"),
        ("synthetic", "items", 1),
        ("synthetic", "items", 0),
        ("synthetic", "parts", 0),
        ("synthetic", "defective", -0.1),
        ("synthetic", "defective", float("nan")),
        ("synthetic", "height", 31),
        ("synthetic", "seed", -1),
        ("synthetic", "root", "images"),
        ("synthetic", "split", "tense"),
    ],
)
def test_wrong_values(kind: str, key: str, value: Any) -> None:
    with pytest.raises(LtcamError, match=rf"^dataset\.{key}\b") as raised:
        make_dataset({"kind": kind, key: value})
    one_line(raised)


def test_too_many_images() -> None:
    with pytest.raises(
        LtcamError, match=r"dataset\.items=9999: with dataset\.parts=1000 more than"
    ):
        Synthetic(items=9999, parts=1000)


def test_data_sets_import_no_torch() -> None:
    code = (
        "import sys, ltcam_cli.data.load as data; "
        "data.load_split(data.make_dataset({'kind': 'synthetic', 'items': 2})).fingerprint(); "
        "heavy = {'torch', 'torchvision', 'pandas', 'sklearn', 'scipy', 'skimage', 'pooch'}; "
        "print(heavy & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout.strip() == "set()", output.stderr


# Batches


def fixed(image: np.ndarray, mask: np.ndarray | None = None, **changes: Any) -> Sample:
    read_mask = None if mask is None else (lambda: mask)
    return replace(toy(0, 1), read_image=lambda: image, read_mask=read_mask, **changes)


@pytest.mark.parametrize("size", [(7, 9), (40, 33), (13, 17)])
@pytest.mark.parametrize("pixels", [GREY, COLOUR, (GREY16 / 65535).astype(np.float32)])
def test_resize_is_torchvisions(pixels: np.ndarray, size: tuple[int, int]) -> None:
    channels = 3 if pixels.ndim == 3 else 1
    item = Images([fixed(pixels)], *size, channels)[0]
    assert not isinstance(item, str)
    tensor = torch.from_numpy(pixels)
    tensor = tensor.permute(2, 0, 1) if channels == 3 else tensor[None]
    expected = tv.resize(tensor, list(size), antialias=True)
    assert item.image.dtype == torch.float32
    torch.testing.assert_close(item.image, tv.to_dtype(expected, torch.float32, scale=True))
    assert item.original is None and item.mask is None


def test_channels() -> None:
    grey = torch.from_numpy(GREY)
    assert torch.equal(to_channels(GREY, 1), grey[None])
    assert torch.equal(to_channels(GREY, 3), torch.stack([grey] * 3))
    assert torch.equal(to_channels(COLOUR, 3), torch.from_numpy(COLOUR).permute(2, 0, 1))
    luminance = COLOUR @ [0.299, 0.587, 0.114]
    assert to_channels(COLOUR, 1).shape == (1, 13, 17)
    np.testing.assert_allclose(to_channels(COLOUR, 1)[0], luminance, atol=1.1)


def test_unknown_labels() -> None:
    samples = [toy(0, 1), replace(toy(1, 0), label=None), toy(2, 0)]
    (batch,) = batches(Images(samples, 32, 32, 1), 8)
    assert batch.labels.tolist() == [1, -1, 0]
    assert batch.images.shape == (3, 1, 32, 32)
    assert [item.sample.name for item in batch.items] == ["toy000", "toy001", "toy002"]


def test_images_of_many_sizes_in_one_batch() -> None:
    sizes = [(40, 36), (20, 50), (64, 64)]
    samples = [toy(n, 1, size) for n, size in enumerate(sizes)]
    (batch,) = batches(Images(samples, 32, 48, 3, originals=True, masks=True), 8)
    assert batch.images.shape == (3, 3, 32, 48)
    for n, (item, size) in enumerate(zip(batch.items, sizes, strict=True)):
        np.testing.assert_array_equal(item.original, picture(n, True, size))
        np.testing.assert_array_equal(item.mask, square(n, True, size))


def broken_file(path: Path) -> Sample:
    path.touch()
    return Sample.from_files(path, None, name="broken", group="broken", label=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_raise_one_line(tmp_path: Path, workers: int) -> None:
    samples = [*toys(3), broken_file(tmp_path / "broken.png")]
    images = Images(samples, 32, 32, 1)
    message = fault(lambda: list(batches(images, 2, workers=workers)))
    assert message.startswith(f"{tmp_path}/broken.png: the file is empty")


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_may_be_skipped(tmp_path: Path, workers: int) -> None:
    broken = broken_file(tmp_path / "broken.png")
    images = Images([toy(0, 1), broken, broken, broken], 32, 32, 1, on_error="skip")
    first, second = batches(images, 2, workers=workers)
    assert [item.sample.name for item in first.items] == ["toy000"]
    assert first.skipped == ["broken"] and first.images.shape == (1, 1, 32, 32)
    assert second.items == [] and second.skipped == ["broken", "broken"]
    assert collate([]).items == []


def test_the_next_batch_is_made_while_one_is_used() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number
        raise LtcamError("at the end")

    seen = []
    with pytest.raises(LtcamError, match="at the end"):
        for number in prefetched(items()):
            assert number + 1 == len(made) or made[number + 1].wait(10)
            assert number + 2 >= len(made) or not made[number + 2].is_set()  # one, no more
            seen.append(number)
    assert seen == [0, 1, 2, 3] and list(prefetched([])) == []


def test_mask_of_another_size() -> None:
    sample = fixed(GREY, np.zeros((17, 13), dtype=bool), name="odd")
    images = Images([sample], 32, 32, 1, originals=True, masks=True)
    with pytest.raises(
        LtcamError, match="odd: mask of 17x13 pixels for an image of 13x17"
    ) as raised:
        images[0]
    one_line(raised)
    images.on_error = "skip"
    assert images[0] == "odd"


def test_cached_images_are_read_once_and_equal() -> None:
    read: list[int] = []

    def image() -> np.ndarray:
        read.append(1)
        return GREY

    sample = replace(toy(0, 1), read_image=image)
    cached = Images([sample], 20, 20, 1, cache=True)
    plain = Images([sample], 20, 20, 1)
    first, again, fresh = cached[0], cached[0], plain[0]
    assert len(read) == 2
    assert not any(isinstance(item, str) for item in (first, again, fresh))
    assert torch.equal(first.image, again.image) and torch.equal(first.image, fresh.image)


def test_the_cache_is_not_augmented() -> None:
    augment = augmentation(AugmentConfig(shift=0.3))
    for pixels in (GREY, (GREY16 / 65535).astype(np.float32)):
        images = Images([fixed(pixels)], 13, 17, 1, augment=augment, cache=True)
        before = images[0].image.clone()
        for seed in range(5):
            images[0, seed]
        assert torch.equal(images[0].image, before)


def test_augmentation_depends_on_the_seed_alone() -> None:
    images = Images(toys(4), 32, 32, 1, augment=augmentation(AugmentConfig()))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = images[2, 5].image
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    images[1, 7]
    assert torch.equal(images[2, 5].image, first)
    assert not torch.equal(images[2, 6].image, first)
    assert not torch.equal(images[2].image, first)


def test_workers_change_nothing() -> None:
    samples = toys(9)
    images = Images(samples, 32, 32, 1, augment=augmentation(AugmentConfig()), cache=True)

    def epoch(workers: int) -> list[torch.Tensor]:
        order = BalancedOrder([s.label or 0 for s in samples], 14, seed=3)
        return [b.images for b in batches(images, 4, workers=workers, order=order)]

    alone, helped = epoch(0), epoch(2)
    assert [len(b) for b in alone] == [4, 4, 4, 2]
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_augmentation_keeps_shape_and_range() -> None:
    config = AugmentConfig(shift=0.5, brightness=0.5, contrast=0.5, gamma=0.5)
    for channels in (1, 3):
        image = torch.rand(channels, 20, 30)
        for seed in range(20):
            torch.manual_seed(seed)
            changed = augmentation(config)(image)
            assert changed.shape == image.shape
            assert changed.min() >= 0 and changed.max() <= 1 and changed.isfinite().all()


def test_no_augmentation() -> None:
    image = torch.rand(1, 8, 8)
    nothing = AugmentConfig(False, False, 0, 0, 0, 0)
    assert torch.equal(augmentation(nothing)(image), image)


def test_a_shift_moves_whole_pixels_and_mirrors_the_border() -> None:
    only_shift = augmentation(AugmentConfig(False, False, 0.25, 0, 0, 0))
    image = torch.arange(64.0).view(1, 8, 8) / 64
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        shifted = only_shift(image)
        matches = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(shifted[0], padded(image[0], dy, dx))
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 10


def padded(image: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    """`image` moved by (dy, dx), by numpy's mirror with the edge repeated."""
    wide = np.pad(image.numpy(), 2, mode="symmetric")
    height, width = image.shape
    return torch.from_numpy(wide[2 - dy : 2 - dy + height, 2 - dx : 2 - dx + width].copy())
