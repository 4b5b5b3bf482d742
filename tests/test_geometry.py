"""Letterboxing: what goes into an input of another aspect comes back where it was."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv
from toys import fault, picture, square, tiny_classifier

from ltcam_cli.data.batches import Images
from ltcam_cli.data.geometry import box_of, check_aspect, cropped, fitted
from ltcam_cli.data.sample import Sample
from ltcam_cli.maps.engine import Heatmaps
from ltcam_cli.maps.fusion import at_size
from ltcam_cli.maps.tta import TiledSource
from ltcam_cli.runs.masking import Loading, batch_maps
from ltcam_cli.student.config import LabelConfig
from ltcam_cli.student.labels import BACKGROUND, DEFECT, first_labels

sides = st.integers(1, 300)
sizes = st.tuples(sides, sides)


@given(sizes, sizes)
def test_the_box_is_the_largest_of_the_aspect_in_the_middle(
    image: tuple[int, int], canvas: tuple[int, int]
) -> None:
    box = box_of(image, canvas, "pad")
    scale = min(canvas[0] / image[0], canvas[1] / image[1])
    lengths = [span.stop - span.start for span in box]
    assert any(length == to for length, to in zip(lengths, canvas, strict=True))
    for span, length, to, of in zip(box, lengths, canvas, image, strict=True):
        assert 0 <= span.start < span.stop <= to
        assert abs(length - max(1, of * scale)) <= 0.5 + 1e-9
        assert 0 <= (to - span.stop) - span.start <= 1
    assert box_of(image, canvas, "stretch") == (slice(0, canvas[0]), slice(0, canvas[1]))


@given(sizes, sizes, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_point_keeps_its_place(
    image: tuple[int, int], canvas: tuple[int, int], at: tuple[float, float]
) -> None:
    """To within half a pixel of the input of where exact scaling about the middle puts it."""
    scale = min(canvas[0] / image[0], canvas[1] / image[1])
    for span, to, of, share in zip(box_of(image, canvas, "pad"), canvas, image, at, strict=True):
        found = span.start + share * (span.stop - span.start)
        exact = to / 2 + (share - 0.5) * max(1, of * scale)
        assert abs(found - exact) <= 0.75 + 1e-9  # of the side, and of the middle of an odd rest


@settings(deadline=None, max_examples=40)
@given(st.tuples(st.integers(2, 90), st.integers(2, 90)), st.integers(0, 99))
def test_there_and_back_is_plain_resizing(image: tuple[int, int], seed: int) -> None:
    mask = torch.rand((1, *image), generator=torch.Generator().manual_seed(seed)).round()
    canvas = (64, 48)
    rows, columns = box_of(image, canvas, "pad")
    side = [rows.stop - rows.start, columns.stop - columns.start]
    plain = tv.resize(mask, side, antialias=True)
    boxed = fitted(mask, canvas, "pad", fill=0)
    assert torch.equal(cropped(boxed, image, "pad"), plain)
    torch.testing.assert_close(boxed.sum(), plain.sum())
    np.testing.assert_array_equal(at_size(boxed, image, "pad"), at_size(plain, image))


def test_padding_is_the_mean_of_each_channel() -> None:
    pixels = torch.randint(0, 256, (2, 3, 20, 80), dtype=torch.uint8)
    found = fitted(pixels, (40, 40), "pad")
    assert found.dtype == torch.uint8
    inner = tv.resize(pixels, [10, 40], antialias=True)
    assert torch.equal(found[..., 15:25, :], inner)
    mean = inner.double().mean(dim=(2, 3)).round().to(torch.uint8)
    assert (found[..., :15, :] == mean[..., None, None]).all()
    assert (found[..., 25:, :] == mean[..., None, None]).all()
    assert torch.equal(fitted(pixels, (40, 40), "stretch"), tv.resize(pixels, [40, 40]))


class Brightness:
    """A source whose map is the image itself."""

    def __call__(self, images: Tensor) -> Heatmaps:
        return Heatmaps([images.mean(dim=1)], images.mean(dim=(2, 3))[:, :1])


@pytest.mark.parametrize("tiled", [False, True])
def test_heatmaps_lie_over_their_images(tiled: bool) -> None:
    """Whatever the aspects, with the padding cut off; tiles of images of any size, too."""
    classifier = tiny_classifier()
    classifier.fit = "pad"
    tile = (classifier.height, classifier.width)
    source = TiledSource(Brightness(), tile, "full", 0.25, "pad") if tiled else Brightness()
    shapes = [(40, 36), (100, 30), (20, 90), (16, 16), (9, 70)]
    samples = [
        Sample(f"i{n}", f"i{n}", 1, partial(picture, n, True, size), partial(square, n, True, size))
        for n, size in enumerate(shapes)
    ]
    for batch in batch_maps(classifier, source, samples, Loading(2), masks=True):
        for M, item in zip(batch.heatmaps.maps[0], batch.batch.items, strict=True):
            assert item.original is not None and item.mask is not None
            size = item.mask.shape
            [heatmap] = at_size(M[None], size, "pad")
            pixels = Image.fromarray(item.original)
            scale = min(tile[0] / size[0], tile[1] / size[1])
            small = [round(side * scale) for side in (size[1], size[0])]
            again = pixels.resize(small, Image.Resampling.BILINEAR)
            again = again.resize(pixels.size, Image.Resampling.BILINEAR)
            expected = np.asarray(pixels if tiled else again)
            assert np.corrcoef(heatmap.ravel(), expected.ravel())[0, 1] > (0.95 if tiled else 0.99)


def test_tiles_decide_by_the_padded_whole() -> None:
    x = torch.rand(1, 3, 100, 30, generator=torch.Generator().manual_seed(0))
    found = TiledSource(Brightness(), (32, 32), "full", 0.25, "pad")(x)
    [logit] = Brightness()(fitted(x, (32, 32), "pad")).logits[0]
    assert found.logits[0, 0] == logit
    assert found.maps[0].shape == (1, 100, 30)
    said = fault(lambda: TiledSource(Brightness(), (32, 32), (64, 96), 0.25, "pad"))
    assert said == (
        "tta.size=[64,96]: 64 x 96 has another aspect than the network's input, 32 x 32; "
        "dataset.fit=pad needs the same"
    )
    check_aspect("any", (64, 96), (32, 32), "stretch")


def test_labels_of_the_padding_are_background() -> None:
    mask = np.zeros((10, 40), bool)
    mask[:, 10:20] = True
    labels = first_labels(mask.astype(np.float32), mask, (40, 40), LabelConfig(), "pad")
    expected = np.full((40, 40), BACKGROUND)
    expected[15:25, 10:20] = DEFECT
    np.testing.assert_array_equal(labels, expected)


def test_cached_and_read_images_are_one() -> None:
    sample = Sample("a", "a", 0, partial(picture, 0, False, (20, 70)))
    images = Images([sample], 32, 32, 3, fit="pad", cache=True)
    first, second = images[0], images[0]
    assert not isinstance(first, str) and not isinstance(second, str)
    assert torch.equal(first.image, second.image)
    pixels = torch.from_numpy(sample.image)[None].expand(3, -1, -1)
    assert torch.equal(first.image, tv.to_dtype(fitted(pixels, (32, 32), "pad"), scale=True,
                                                dtype=torch.float32))  # fmt: skip
