"""A look at a data set: classes, items, and equal images on both sides of the split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split


def class_table(split: Split) -> pd.DataFrame:
    """Images, classes and items of both parts."""
    rows = [
        {
            "part": part,
            "images": len(samples),
            "good": sum(not sample.label for sample in samples),
            "defective": sum(bool(sample.label) for sample in samples),
            "items": len({sample.group for sample in samples}),
        }
        for part, samples in (("train", split.train), ("test", split.test))
    ]
    return pd.DataFrame(rows)


def duplicates(first: Sequence[Sample], second: Sequence[Sample]) -> set[tuple[str, str]]:
    """Pairs of different samples whose images are equal."""
    by_content = defaultdict(list)
    for sample in first:
        by_content[sample.image_digest()].append(sample.name)
    return {
        (min(name, sample.name), max(name, sample.name))
        for sample in second
        for name in by_content.get(sample.image_digest(), ())
        if name != sample.name
    }
