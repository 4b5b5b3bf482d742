"""A look at a data set: classes and items of both parts."""

from __future__ import annotations

import pandas as pd

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
