"""Reliability of the verdict "good": what it finds of the images that a run's classifier misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ltcam_cli.data.batches import batches
from ltcam_cli.data.sample import Sample
from ltcam_cli.experiments.session import Session, find_session
from ltcam_cli.experiments.settings import Composed
from ltcam_cli.experiments.threshold import validation_images
from ltcam_cli.files import exclusive, write_table
from ltcam_cli.maps.tta import FLIPS
from ltcam_cli.progress import Progress
from ltcam_cli.runs.folder import ANEW
from ltcam_cli.runs.reading import read_table
from ltcam_cli.runs.reliability import Reliability
from ltcam_cli.scores.missed import Called, ranking

PARTS = ("training", "test")
COLUMNS = (
    "name", "group", "label", "logit", "probability", "predicted", "reliability", "mirrored_mean",
    "mirrored_spread",
)  # fmt: skip
# What each score says of a table's rows, higher where the verdict is more doubtful.
SCORES = {
    "reliability": lambda table: -table["reliability"],
    "probability": lambda table: table["probability"],
    "both, by ranks": lambda table: table["probability"].rank() - table["reliability"].rank(),
    "mean of mirrored": lambda table: table["mirrored_mean"],
    "spread of mirrored": lambda table: table["mirrored_spread"],
    "mean of runs": lambda table: table["runs_mean"],
    "spread of runs": lambda table: table["runs_spread"],
}


def reliabilities(composed: Sequence[Composed]) -> dict[str, Any]:
    """Reliability of all images that are called good, kept in each run's `train/images.csv`.

    Args:
        composed: Config of each run.

    Returns:
        `rows`: of each part and score, what it finds of the missed images, mean over the runs;
        `ask_below`: of each run, the least `predict.ask_below` that marks all that are missed among
        the images of its part `training`, or None where none is missed there.

    Raises:
        LtcamError: If there is no such run, or no table of its test images.
    """
    tables: dict[str, list[pd.DataFrame]] = {part: [] for part in PARTS}
    ask_below: dict[str, float | None] = {}
    for one in composed:
        session = find_session(one)
        reliability = Reliability(session.classifier, session.settings.predict.reliability)
        for part, samples in zip(PARTS, (seen_images(session), session.split.test), strict=True):
            tables[part].append(verdicts(session, samples, reliability))
        ask_below[session.run.name] = threshold_of_all(tables["training"][-1])
        keep(session, tables["test"][-1])
    rows = [row for part in PARTS for row in part_rows(part, tables[part])]
    return {"rows": rows, "ask_below": ask_below}


def seen_images(session: Session) -> list[Sample]:
    """The validation images, or where there are none the training images."""
    validated = session.settings.trainer.validation > 0
    return validation_images(session) if validated else session.split.train


def verdicts(session: Session, samples: Sequence[Sample], reliability: Reliability) -> pd.DataFrame:
    """Table of images: name, group, label, logit, probability, predicted, and of those called good
    reliability, and mean and spread of the log-odds of the image and its three mirror images.
    """
    classifier, loading = session.classifier, session.loading()
    images = classifier.images(samples, on_error=loading.on_error)

    def log_odds(images: torch.Tensor) -> torch.Tensor:
        return classifier.log_odds(classifier.model(classifier.prepare(images)).float()).cpu()

    rows: list[dict[str, Any]] = []
    with torch.inference_mode(), Progress("reliability", len(images)) as progress:
        for batch in batches(images, loading.batch_size):
            progress.update(len(batch.items) + len(batch.skipped))
            if not batch.items:
                continue
            odds = log_odds(batch.images)
            probabilities = torch.sigmoid(odds + classifier.prior_shift)
            good = (probabilities < classifier.threshold).nonzero()[:, 0]
            found: dict[int, dict[str, float]] = {}
            if len(good):
                flipped = [batch.images[good].flip(axes) for axes in FLIPS["both"] if axes]
                mirrored = torch.stack([odds[good], *map(log_odds, flipped)])
                scores = reliability(batch.images[good]), mirrored.mean(0), mirrored.std(0)
                for index, *values in zip(good.tolist(), *scores, strict=True):
                    found[index] = dict(zip(COLUMNS[6:], map(float, values), strict=True))
            for index, item in enumerate(batch.items):
                sample = item.sample
                rows.append(
                    {
                        "name": sample.name,
                        "group": sample.group,
                        "label": sample.label,
                        "logit": float(odds[index]),
                        "probability": float(probabilities[index]),
                        "predicted": int(index not in found),
                        **found.get(index, {}),
                    }
                )
    return pd.DataFrame(rows, columns=COLUMNS)


def threshold_of_all(table: pd.DataFrame) -> float | None:
    """The least threshold, of four decimals, below which the reliability of all missed images is.

    None where no image is missed; 1 at most, which marks all but those of reliability 1.
    """
    missed = table[(table["predicted"] == 0) & (table["label"] == 1)]
    if missed.empty:
        return None
    return min(1.0, float(np.floor(1e4 * missed["reliability"].max()) + 1) / 1e4)


def keep(session: Session, table: pd.DataFrame) -> None:
    """Write the column `reliability` of the run's table of test images; empty where not good."""
    path = session.run.train / "images.csv"
    with exclusive(session.run.train):
        kept = read_table(path, ANEW, ("name",), ("label", "probability"))
        kept["reliability"] = kept["name"].map(table.set_index("name")["reliability"])
        write_table(path, kept)


def part_rows(part: str, tables: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """Row of each score; those over several runs where all of them saw the same images."""
    logits = pd.concat(tables).groupby("name")["logit"].agg(["mean", "std", "count"])
    shared = len(tables) > 1 and (logits["count"] == len(tables)).all()
    called = []
    for table in tables:
        of_runs = logits.reindex(table["name"])
        more = {"runs_mean": of_runs["mean"].array, "runs_spread": of_runs["std"].array}
        called.append(table.assign(**more)[table["predicted"] == 0])
    names = [name for name in SCORES if shared or not name.endswith("of runs")]
    return [_row(part, name, called) for name in names]


def _row(part: str, score: str, called: Sequence[pd.DataFrame]) -> dict[str, Any]:
    found = ranking(
        [
            Called(table["label"].to_numpy(), SCORES[score](table).to_numpy(), list(table["group"]))
            for table in called
        ]
    )
    percent: Mapping[str, float] = {
        "auroc": found.auroc,
        "auroc_low": found.auroc_interval[0],
        "auroc_high": found.auroc_interval[1],
        "ap": found.ap,
        "ap_low": found.ap_interval[0],
        "ap_high": found.ap_interval[1],
        "looked at for all": found.review,
    }
    return {
        "images": part,
        "score": score,
        "called good": sum(len(table) for table in called),
        "missed": int(sum(table["label"].sum() for table in called)),
        **{name: 100 * value for name, value in percent.items()},
    }
