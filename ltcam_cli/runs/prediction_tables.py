"""Tables of predictions, also of a part of the images: `predict.shard=3/8`, `ltcam runs gather`.

<out>/scores.csv, regions.csv; of a shard scores.3of8.csv, regions.3of8.csv, and shard.3of8.json,
which says which images it was given.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ltcam_cli.classifier.kinds import PROBABILITY
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import append, exclusive, write_json, write_table
from ltcam_cli.runs.acceptance import Acceptance
from ltcam_cli.runs.annotating import write_asked_annotations
from ltcam_cli.runs.folder import read_config
from ltcam_cli.runs.reading import TEXTS, parsed_table, read_mapping, reading
from ltcam_cli.runs.shards import Shard

ANEW = "predict the images anew"
SCORES = ["name", "path", "probability", "predicted", "regions", "area", "content"]
REGIONS = [
    "name", "region", "top", "left", "bottom", "right", "area", "length", "width", "score"
]  # fmt: skip
FLOATS = ("probability", "length", "width", "score", "area_mm2", "length_mm", "width_mm")


@dataclass(frozen=True)
class PredictionTables:
    """The two tables of a folder of predictions, or of one shard there.

    Attributes:
        out: Folder.
        shard: Part of the images; None: all.
        acceptance: What adds columns to rows that are written; those of tables are read anyway.
        kinds: Kinds of defects, which add columns, too.
    """

    out: Path
    shard: Shard | None = None
    acceptance: Acceptance = field(default_factory=Acceptance)
    kinds: tuple[str, ...] = ()

    def path(self, kind: str, suffix: str = ".csv") -> Path:
        """Of `scores` or `regions`; with `.json` of a shard's record."""
        part = f".{self.shard.index}of{self.shard.count}" if self.shard else ""
        return self.out / f"{kind}{part}{suffix}"

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Scores and regions of the images that are done; empty where there is nothing yet.

        An image without all of its regions, as of a table that lost its end, is not done.
        """
        scores = _read(self.path("scores"), self._columns["scores"])
        regions = _read(self.path("regions"), self._columns["regions"])
        found = scores["name"].map(regions["name"].value_counts()).fillna(0)
        scores = scores[found == scores["regions"]]
        return scores, regions[regions["name"].isin(scores["name"])]

    def write(self, scores: pd.DataFrame, regions: pd.DataFrame) -> None:
        """Write both anew. Regions first: an image counts as done once its score is written."""
        write_table(self.path("regions"), regions)
        write_table(self.path("scores"), scores)

    def append(self, scores: Sequence[dict[str, Any]], regions: Sequence[dict[str, Any]]) -> None:
        """Add rows: what is there is not written again, so that a long table costs no more."""
        for kind, rows in (("regions", regions), ("scores", scores)):
            table = pd.DataFrame(rows, columns=self._columns[kind])
            text = table.to_csv(header=False, index=False)
            append(self.path(kind), text)

    @property
    def _columns(self) -> dict[str, list[str]]:
        of_image = ["predicted_kind", *(PROBABILITY + kind for kind in self.kinds)]
        return {
            "scores": SCORES + self.acceptance.score_columns + of_image * bool(self.kinds),
            "regions": REGIONS + self.acceptance.region_columns + ["kind"] * bool(self.kinds),
        }

    def claim(self, names: Sequence[str], identity: str) -> None:
        """Record which images a shard is given, before it starts.

        Args:
            names: of the images.
            identity: hash of method, segmenter and classifier.

        Raises:
            LtcamError: if the folder's images were divided otherwise.
        """
        counts = {shard.count for shard in shards_in(self.out)}
        whole = not counts and (self.out / "scores.csv").is_file()
        if counts - {self.shard.count if self.shard else 0} or (self.shard and whole):
            held = f"predict.shard=i/{min(counts)}" if counts else "no predict.shard"
            raise LtcamError(
                f"{self.out}: was begun with {held}; go on so, or choose another predict.out"
            )
        if self.shard:
            self.record(names, identity, [])

    def record(self, names: Sequence[str], identity: str, skipped: Sequence[str]) -> None:
        """Write a shard's record: its images, and those of them that could not be read."""
        record = {"hash": identity, "images": list(names), "skipped": list(skipped)}
        write_json(self.path("shard", ".json"), record)


@dataclass(frozen=True)
class Gathered:
    """What `gather` found.

    Attributes:
        scores: the joined table, a row an image.
        count: the number of shards that there must be.
        given: images of the shards that began.
        skipped: images that could not be read.
        absent: for each shard that is not complete, its images without a row; None if it has not
            begun.
        annotated: whether annotations were written.
    """

    scores: pd.DataFrame
    count: int
    given: int
    skipped: int
    absent: dict[Shard, list[str] | None]
    annotated: bool = False

    def __str__(self) -> str:
        begun = self.count - sum(names is None for names in self.absent.values())
        skipped = f", {self.skipped} unreadable ones skipped" if self.skipped else ""
        images = f"{len(self.scores)} of their {self.given} images"
        count = rejected_parts(self.scores)
        rejected = "" if count is None else f", {count} rejected"
        return f"{begun} of {self.count} shards, {images}{rejected}{skipped}"

    def missing(self) -> Iterator[str]:
        """What to predict still, a line for each shard that is not complete."""
        for shard, names in self.absent.items():
            if names is None:
                yield f"shard {shard} has not begun; predict.shard={shard}"
            else:
                some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
                yield f"shard {shard} lacks {len(names)} images ({some}); predict.shard={shard}"


def shards_in(out: Path) -> list[Shard]:
    """The shards that have begun in a folder of predictions."""
    found = [re.fullmatch(r"shard\.(\d+)of(\d+)\.json", path.name) for path in out.glob("shard.*")]
    return sorted(Shard(int(name[1]), int(name[2])) for name in found if name)


def is_prediction(folder: Path) -> bool:
    """Whether `ltcam predict` wrote a folder."""
    return (folder / "scores.csv").is_file() or bool(shards_in(folder))


def read_predictions(folder: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Config, with the threshold of images, scores and regions of a folder of predictions.

    Raises:
        LtcamError: If its shards were not joined, it is empty, or a file is damaged.
    """
    if not (folder / "scores.csv").is_file():
        raise LtcamError(f"{folder}: join its shards first: ltcam runs gather {folder}")
    config = read_config(folder, ANEW, ("hash", "method", "segmenter"))
    scores, regions = PredictionTables(folder).read()
    if scores.empty:
        raise LtcamError(f"{folder}: no image was predicted; {ANEW}")
    return config | {"threshold": float(config.get("threshold", _between(scores)))}, scores, regions


def unsure_first(scores: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """A table of scores, those whose probability is nearest to the threshold first."""
    doubt = (scores["probability"] - threshold).abs()
    return scores.loc[doubt.sort_values(kind="stable").index]


def rejected_parts(scores: pd.DataFrame) -> int | None:
    """Number of the rejected parts of a table of scores; None where there are no limits."""
    return int((scores["verdict"] == "reject").sum()) if "verdict" in scores else None


def _between(scores: pd.DataFrame) -> float:
    """A threshold between the images called good and those called defective."""
    called = scores["predicted"] == 1
    sides = [scores["probability"][~called].max(), scores["probability"][called].min()]
    return float(np.nanmean(sides))


def gather(out: Path) -> Gathered:
    """Join the tables of a folder's shards into `scores.csv` and `regions.csv`, sorted by name.

    Both are made anew from the shards' tables, which stay: so it can be done again, and while
    shards still run. The annotations that the shards were asked for are made, too.

    Raises:
        LtcamError: if there are no shards, or they do not belong together.
    """
    shards = shards_in(out)
    if not shards:
        raise LtcamError(f"{out}: no shard was predicted there; see predict.shard=i/n")
    for other in shards:
        if other.count != shards[0].count:
            raise LtcamError(
                f"{out}: holds shard {shards[0]} and shard {other}, two divisions of the images; "
                "delete the files of one"
            )
    records = {
        shard: read_mapping(
            PredictionTables(out, shard).path("shard", ".json"),
            f"delete it, and predict the shard again: predict.shard={shard}",
            ("hash", "images", "skipped"),
        )
        for shard in shards
    }
    for other in shards:
        if records[other]["hash"] != records[shards[0]]["hash"]:
            raise LtcamError(
                f"{out}: shards {shards[0]} and {other} are of different methods, segmenters, "
                "classifiers or limits; predict one of them anew"
            )
    parts = {shard: PredictionTables(out, shard).read() for shard in shards}
    absent: dict[Shard, list[str] | None] = {}
    for index in range(1, shards[0].count + 1):
        shard = Shard(index, shards[0].count)
        if shard not in records:
            absent[shard] = None
            continue
        done = {*parts[shard][0]["name"], *records[shard]["skipped"]}
        if missing := [name for name in records[shard]["images"] if name not in done]:
            absent[shard] = missing
    scores, regions = (
        pd.concat([table for table in tables if len(table)] or [tables[0]])
        for tables in zip(*parts.values(), strict=True)
    )
    scores = scores.sort_values("name")
    joined = PredictionTables(out)
    with exclusive(joined.path("scores")):
        joined.write(scores, regions.sort_values(["name", "region"]))
        annotated = write_asked_annotations(out, scores, regions)
    return Gathered(
        scores,
        shards[0].count,
        given=sum(len(record["images"]) for record in records.values()),
        skipped=sum(len(record["skipped"]) for record in records.values()),
        absent=absent,
        annotated=annotated,
    )


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    content = path.read_bytes() if path.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]  # a machine that crashed may leave half a line
    if not whole:
        return pd.DataFrame(columns=columns)
    texts = [column for column in columns if column in TEXTS]
    numbers = [column for column in columns if column not in TEXTS]
    with reading(path, f"delete it and the other tables of {path.parent}, and predict again"):
        # pandas 2 loses a digit where Python's own float does not
        head = next(csv.reader([whole.partition(b"\n")[0].decode("utf-8")]))
        names = (*FLOATS, *(name for name in head if name.startswith(PROBABILITY)))
        floats = {**dict.fromkeys(names, float), "reliability": lambda text: float(text or "nan")}
        return parsed_table(whole, texts, numbers, converters=floats)
