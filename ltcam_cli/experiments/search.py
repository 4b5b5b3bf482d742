"""Search: methods × segmenters, one chosen on training images, and scored once."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ltcam_cli.data.sample import Sample, content_of
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.calibration import calibration_digest
from ltcam_cli.experiments.cells import masks_of
from ltcam_cli.experiments.evaluate import evaluate_pipelines
from ltcam_cli.experiments.evidence import mean_evidence
from ltcam_cli.experiments.session import Session, find_session
from ltcam_cli.experiments.settings import Composed, Pipeline
from ltcam_cli.experiments.sources import passes, resolved
from ltcam_cli.experiments.tasks import Row
from ltcam_cli.files import write_table, write_text
from ltcam_cli.maps.engine import HeatmapSource
from ltcam_cli.runs.folder import write_config
from ltcam_cli.runs.identity import Identity
from ltcam_cli.runs.masking import MaskJob, mask_images, true_mask
from ltcam_cli.runs.reading import read_table
from ltcam_cli.runs.tables import SHOWN, as_markdown
from ltcam_cli.scores.pixels import PixelCounts

FOLD = "iou_fold{}"  # column of a fold's IoU
CRITERIA = {
    "image": "mean evidence of defective training images; no mask was read",
    "pixel": "mean over folds of the IoU of defective training images, in %",
}
log = logging.getLogger("ltcam_cli")


@dataclass(frozen=True)
class Candidate:
    """A method or a segmenter of candidates.

    Attributes:
        config: Its config.
        overrides: Overrides that give it to `ltcam evaluate`.
    """

    config: Any
    overrides: list[str]


@dataclass(frozen=True)
class Search:
    """Candidates of a search, all methods with all segmenters.

    Attributes:
        methods: Methods, with δ.
        segmenters: Segmenters.
        options: Options of `ltcam evaluate` besides.
    """

    methods: list[Candidate]
    segmenters: list[Candidate]
    options: list[str]

    def __call__(self, composed: Composed) -> Row:
        """Judge all candidates on the training part, and evaluate the best one."""
        session = find_session(composed)
        settings = session.settings
        supervision = settings.evaluation.supervision
        pipelines = [
            Pipeline(resolved(session, method.config), segmenter.config, settings.tta)
            for method, segmenter in product(self.methods, self.segmenters)
        ]
        identity = search_identity(session, pipelines)
        folder = session.run.path / "search" / f"{supervision}-{identity.hash}"
        table = self._judged(session, pipelines, folder)
        number = int(table.index[table["chosen"]][0])
        command = self._command(settings.tta, supervision, number)
        evaluation = replace(settings.evaluation, masks_chose=supervision == "pixel")
        pipeline = pipelines[number]
        chosen = session.with_settings(
            method=pipeline.method, segmenter=pipeline.segmenter, evaluation=evaluation
        )
        write_config(folder, {"command": shlex.join(command), **asdict(chosen.settings)})
        identity.write(folder)
        [row], _ = evaluate_pipelines(chosen, [pipeline])
        text = f"Chosen of {len(table)} by supervision={supervision}: {CRITERIA[supervision]}.\n"
        if supervision == "pixel":
            honest = held_out(table.filter(regex="^iou_fold"))
            text += (
                f"Its {table['criterion'][number]:.2f} is the best of many; chosen on all folds "
                f"but one and scored on that one: {honest:.2f}. The classifier was "
                "trained on all of them.\n"
            )
        scored = pd.DataFrame([row])
        scored = scored[[c for c in ("supervision", *SHOWN) if c in scored]]
        scored = scored.dropna(axis=1, how="all") if "evidence" in scored else scored
        text += f"\nOn the test part, once:\n\n{as_markdown(scored)}\n    {shlex.join(command)}\n"
        ranked = table.sort_values("criterion", ascending=False, kind="stable")
        write_text(folder / "search.md", f"{as_markdown(ranked)}\n{text}")
        return {"ranked": ranked, "text": text, "row": row, "folder": str(folder)}

    def _judged(
        self, session: Session, pipelines: Sequence[Pipeline], folder: Path
    ) -> pd.DataFrame:
        path = folder / "search.csv"
        if session.settings.overwrite or not path.is_file():
            write_table(path, self.table(session, pipelines, criteria(session, pipelines)))
        else:
            log.info("%s: is there already; overwrite=true searches anew", folder)
        return read_table(path, "search anew with --overwrite", ("method",), ("criterion",))

    def table(
        self, session: Session, pipelines: Sequence[Pipeline], scores: pd.DataFrame
    ) -> pd.DataFrame:
        """A row a candidate, and which is chosen: the highest criterion; of equals, the first."""
        supervision = session.settings.evaluation.supervision
        names = [self.segmenters[n % len(self.segmenters)] for n in range(len(pipelines))]
        rows = [
            {
                "method": pipeline.method.name,
                "delta": pipeline.method.delta,
                "layers": pipeline.method.layers,
                **pipeline.method.columns(),
                "segmenter": " ".join(o.removeprefix("segmenter")[1:] for o in name.overrides),
                "refine": pipeline.segmenter.refine.rule,
                "supervision": supervision,
            }
            for pipeline, name in zip(pipelines, names, strict=True)
        ]
        folds = scores if supervision == "pixel" else scores.iloc[:, :0]
        table = pd.DataFrame(rows).join(folds).assign(criterion=scores.mean(axis=1))
        if table["criterion"].isna().all():
            raise LtcamError("no candidate draws a pixel on a training image; try other segmenters")
        return table.assign(chosen=table.index == table["criterion"].idxmax())

    def _command(self, tta: Any, supervision: str, number: int) -> list[str]:
        """Command that evaluates the candidate of that number again."""
        method, segmenter = divmod(number, len(self.segmenters))
        default = asdict(type(tta)())
        changed = [f"tta.{k}={v}" for k, v in asdict(tta).items() if v != default[k]]
        command = ["ltcam", "evaluate", *self.options, "tta=none", *changed]
        command += self.methods[method].overrides + self.segmenters[segmenter].overrides
        return command + (["evaluation.masks_chose=true"] if supervision == "pixel" else [])


def search_identity(session: Session, pipelines: Sequence[Pipeline]) -> Identity:
    """All that decides what is chosen."""
    settings = session.settings
    by_masks = settings.evaluation.supervision == "pixel"
    return Identity(
        "search",
        {
            **session.source_parts,
            "pipelines": pipelines,
            "calibrations": [calibration_digest(session, pipeline) for pipeline in pipelines],
            "images": content_of(session.training_images, masks=by_masks),
            "folds": settings.search.folds if by_masks else None,
            "supervision": settings.evaluation.supervision,
        },
    )


def criteria(session: Session, pipelines: Sequence[Pipeline]) -> pd.DataFrame:
    """Scores of each pipeline (row): an IoU a fold, or the evidence, of which no mask is read.

    All maps of one test-time augmentation come from one pass over the images, and all segmenters
    work on them.
    """
    samples = [sample for sample in session.training_images if sample.label]
    tables = []
    for numbers in passes(pipelines):
        source, jobs = masks_of(session, [pipelines[number] for number in numbers])
        if session.settings.evaluation.supervision == "pixel":
            table = fold_ious(session, source, jobs, samples)
        else:
            evidence = mean_evidence(
                session.classifier, source, jobs, samples, session.loading("search")
            )
            table = pd.DataFrame({"evidence": evidence})
        tables.append(table.set_axis(numbers))
    return pd.concat(tables).sort_index()


def folds_of(groups: Sequence[str], folds: int) -> dict[str, int]:
    """Fold of each item, by a fixed shuffle; of fewer items than folds, each is one.

    Raises:
        LtcamError: If there are fewer than two items.
    """
    items = sorted(set(groups))
    if len(items) < 2:
        raise LtcamError(
            f"evaluation.supervision=pixel: {len(items)} item has defective training images, and "
            "folds need two; use evaluation.supervision=image"
        )
    order = np.random.default_rng(0).permutation(len(items))
    return {items[item]: int(place % folds) for place, item in enumerate(order)}


def fold_ious(
    session: Session, source: HeatmapSource, jobs: Sequence[MaskJob], samples: Sequence[Sample]
) -> pd.DataFrame:
    """IoU of each mask job (row) on each fold's images (column), pooled over pixels, in per cent.

    Raises:
        LtcamError: If a sample has no mask, or none can be read.
    """
    fold = folds_of([sample.group for sample in samples], session.settings.search.folds)
    results = mask_images(
        session.classifier, source, jobs, samples, session.loading("search"), masks=True
    )
    counts = [
        (result.job, fold[result.item.sample.group], count.tp, count.tp + count.fp + count.fn)
        for result in results
        for count in [PixelCounts.from_masks(result.mask, true_mask(result.item))]
    ]
    if not counts:
        raise LtcamError("none of the defective training images could be read")
    pooled = pd.DataFrame(counts, columns=["job", "fold", "both", "either"])
    pooled = pooled.groupby(["job", "fold"]).sum()
    ious = (100 * pooled["both"] / pooled["either"]).unstack("fold")
    return ious.rename(columns=FOLD.format)


def held_out(ious: pd.DataFrame) -> float:
    """What choosing gives on images that it has not seen: the mean over folds.

    The candidate with the highest mean over all other folds is scored on the one that was left
    out. The highest mean over all folds, in contrast, flatters: it is the best of many.

    Args:
        ious: IoU of each candidate (row) on each fold (column).
    """
    scores = []
    for fold in ious.columns:
        others = ious.drop(columns=fold).mean(axis=1)
        if others.notna().any():
            scores.append(ious.loc[others.idxmax(), fold])
    return float(pd.Series(scores, dtype=float).mean())
