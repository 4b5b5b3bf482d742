"""Size of the network's input, from the sizes of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.image_files import or_skip
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError

D = TypeVar("D", bound=Dataset)

STEP = 32  # pixels; a network of five stages halves them all
LEAST, MOST = 224**2, 256**2  # pixels of an input: what networks are used to, and what CPUs bear
LARGE = 1024**2  # pixels of an input whose windows are judged each, as by head noisy_or
SHORTEST = 64
SEEN = 50  # training images that are looked at


def derived_size(sizes: Sequence[tuple[int, int]], most: int = MOST) -> tuple[int, int]:
    """Height and width of the input for images of these sizes.

    The median aspect and the median number of pixels, but at least 224² and at most `most`; sides
    are multiples of 32, and at least 64.
    """
    shapes = np.array(sizes, dtype=float)
    aspect = float(np.exp(np.median(np.log(shapes[:, 0] / shapes[:, 1]))))
    area = float(np.clip(np.median(shapes.prod(axis=1)), LEAST, most))
    return rounded(math.sqrt(area * aspect)), rounded(math.sqrt(area / aspect))


def rounded(side: float) -> int:
    """A side as the nearest multiple of 32 that is allowed."""
    return max(SHORTEST, STEP * round(side / STEP))


def with_size(dataset: D, samples: Sequence[Sample], most: int = MOST) -> D:
    """The data set with a height and a width; what is not set follows from training images.

    Raises:
        LtcamError: if none of them can be read.
    """
    if dataset.height is not None and dataset.width is not None:
        return dataset
    reader = dataset.image_reader("file")  # sizes need no level of white, and no warning of it
    numbers = np.random.default_rng(0).permutation(len(samples))[:SEEN]
    sizes = []
    for number in sorted(numbers):
        try:
            height, width = samples[number].read_by(reader, dataset.mask_reader()).image.shape[:2]
        except LtcamError as error:
            if dataset.on_error != "skip":
                raise or_skip(error) from error
        else:
            sizes.append((height, width))
    if not sizes:
        raise LtcamError("no training image can be read; set dataset.height and dataset.width")
    height, width = derived_size(sizes, most)
    if dataset.height is not None:
        width = rounded(dataset.height * width / height)
    elif dataset.width is not None:
        height = rounded(dataset.width * height / width)
    return replace(dataset, height=dataset.height or height, width=dataset.width or width)
