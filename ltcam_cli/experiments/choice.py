"""`pipeline=auto`: method and segmenter, chosen on training images without a mask."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ltcam_cli.data.listing import stem_of
from ltcam_cli.data.sample import Sample, content_of
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.cells import masks_of
from ltcam_cli.experiments.evidence import Counterfactuals, Shares, criteria
from ltcam_cli.experiments.session import Session
from ltcam_cli.experiments.settings import Pipeline
from ltcam_cli.files import exclusive, write_table, write_text
from ltcam_cli.maps.method import AutoMethod, CamMethod
from ltcam_cli.maps.spec import Fusion
from ltcam_cli.masks.refine import RefineConfig
from ltcam_cli.masks.segmenters import SegmenterConfig
from ltcam_cli.masks.thresholds import CHOSEN
from ltcam_cli.report.overlay import draw_strip
from ltcam_cli.runs.identity import Identity
from ltcam_cli.runs.masking import mask_images
from ltcam_cli.runs.reading import read_table
from ltcam_cli.runs.tables import as_markdown

DEFECTIVE, GOOD = 80, 12  # training images that choose
LEAST = 1 / 3  # share of the log-odds that a candidate's masks must take away
PICTURES, SHOWN = 3, 4  # candidates that are drawn, and images of each
log = logging.getLogger("ltcam_cli")


class UnchosenError(LtcamError):
    """Why training images choose no pipeline."""


def contrast(polarity: str) -> SegmenterConfig:
    """The segmenter `contrast` of defects that are dark, bright, or both."""
    options = {"scale": 30.0, "smooth": 1.5, "polarity": polarity}
    refine = RefineConfig("contrast", "deviation", options=options)
    return SegmenterConfig(f"contrast_{polarity}", "fraction", {"of_maximum": 0.2}, refine)


def fraction(of_maximum: float) -> SegmenterConfig:
    """The segmenter `fraction`."""
    return SegmenterConfig(f"fraction_{of_maximum:g}", "fraction", {"of_maximum": of_maximum})


METHODS: tuple[CamMethod, ...] = (
    CamMethod(name="ltlayercam", weighting="layercam"),
    CamMethod(name="ltgradcam_product", fusion=Fusion(rule="product", normalize="minmax")),
)
SEGMENTERS: tuple[SegmenterConfig, ...] = (
    SegmenterConfig("otsu", "otsu"),  # the first is taken where nothing can be chosen
    SegmenterConfig("triangle", "triangle"),
    fraction(0.2),
    fraction(0.3),
    fraction(0.5),
    contrast("dark"),
    contrast("bright"),
    contrast("both"),
)
# Shares of the maximum that no sum of stages has used well: see docs/surfaces.md.
CORES = (fraction(0.3), fraction(0.5))


def is_open(pipeline: Pipeline) -> bool:
    """Whether method or segmenter are to be chosen."""
    return isinstance(pipeline.method, AutoMethod) or pipeline.segmenter.rule == CHOSEN


def candidates(pipeline: Pipeline) -> list[Pipeline]:
    """What may stand in the place of an open pipeline; its other parts stay."""
    methods = METHODS if isinstance(pipeline.method, AutoMethod) else [pipeline.method]
    segmenters = SEGMENTERS if pipeline.segmenter.rule == CHOSEN else [pipeline.segmenter]
    return [
        replace(pipeline, method=method, segmenter=segmenter)
        for method, segmenter in product(methods, segmenters)
        if not (method == METHODS[0] and segmenter in CORES)
    ]


def chosen_pipeline(session: Session, pipeline: Pipeline) -> Pipeline:
    """The pipeline, or the best of its candidates by `evidence.criterion`, see `best_of`.

    Reads at most 80 defective and 12 good training images and their labels, no mask. The choice is
    kept in the run folder, `auto/<hash>/`: `choice.csv`, `choice.md` and pictures of the chosen one
    and the next two. It is used where the training images are absent. Where nothing was chosen and
    they are absent, or none can be judged, the first candidate is taken, with a warning.
    """
    if not is_open(pipeline):
        return pipeline
    pool = candidates(pipeline)
    _ = session.classifier  # without which nothing can be drawn either
    identity = Identity("choice", {**session.source_parts, "pipelines": pool})
    folder = session.run.path / "auto" / identity.hash
    with exclusive(folder / "choice.csv"):
        try:
            table = _kept_or_judged(session, pool, identity, folder)
        except UnchosenError as error:
            log.warning("pipeline=auto: %s; %s, unchosen", error, described(pool[0]))
            return pool[0]
    best = pool[best_of(table)]
    log.info("pipeline=auto: %s, of %d; see %s", described(best), len(pool), folder)
    return best


def _kept_or_judged(
    session: Session, pool: Sequence[Pipeline], identity: Identity, folder: Path
) -> pd.DataFrame:
    """Table of a choice, judged anew where the training images are others.

    Raises:
        UnchosenError: If there is none and the training images are absent, of one class, or cannot
            be judged.
        LtcamError: If the table is damaged, or an image cannot be read.
    """
    path = folder / "choice.csv"
    kept = None
    if path.is_file() and not session.settings.overwrite:
        needed = ("method", "segmenter", "images")
        numbers = ("criterion", "lead_low", "removed")
        kept = read_table(path, "delete it to choose anew", needed, numbers)
    try:
        training = session.training_images
    except LtcamError as error:
        if kept is None:
            raise UnchosenError(str(error)) from error
        return kept
    defective, good = (drawn(training, label, n) for label, n in ((1, DEFECTIVE), (0, GOOD)))
    images = content_of([*defective, *good])
    if kept is not None and len(kept) == len(pool) and (kept["images"] == images).all():
        return kept
    if not defective or not good:
        raise UnchosenError("a class has no training images")
    table = judged(session, pool, defective, good).assign(images=images)
    if table["criterion"].isna().all():
        raise UnchosenError("no training image can be judged")
    best = best_of(table)
    ranked = table["criterion"].sort_values(ascending=False, kind="stable").index
    order = [best, *ranked.drop(best)]
    write_text(folder / "choice.md", as_markdown(table.drop(columns="images").loc[order]) + "\n")
    draw(session, [pool[number] for number in order[:PICTURES]], defective, folder)
    identity.write(folder)
    write_table(path, table)
    return table


def best_of(table: pd.DataFrame) -> int:
    """Number of the candidate with the highest criterion, or of the first, the plain one.

    The first stays where no other is surely ahead of it, or none takes away a third of what the
    classifier sees: then healing and deletion say little, and the smallest mask would win.
    """
    ahead = table["criterion"].where((table["lead_low"] > 0) & (table["removed"] >= LEAST))
    return 0 if ahead.isna().all() else int(ahead.argmax())


def described(pipeline: Pipeline) -> str:
    """A pipeline's name in messages."""
    return f"{pipeline.method.name} with {pipeline.segmenter.name}"


def drawn(samples: Sequence[Sample], label: int, count: int) -> list[Sample]:
    """Random samples of a label, the same ones each time."""
    fitting = [sample for sample in samples if sample.label == label]
    numbers = np.random.default_rng(0).permutation(len(fitting))[:count]
    return [fitting[number] for number in sorted(numbers)]


def judged(
    session: Session, pool: Sequence[Pipeline], defective: Sequence[Sample], good: Sequence[Sample]
) -> pd.DataFrame:
    """A row a candidate: `evidence.criteria`, with the area in per cent."""
    counterfactuals = Counterfactuals(session.classifier, read_images(session, good))
    source, jobs = masks_of(session, pool)
    results = mask_images(
        session.classifier, source, jobs, defective, session.loading("choosing a pipeline")
    )
    rows = [
        (r.job, r.item.sample.group, r.item.sample.name, *counterfactuals.shares(r))
        for r in results
    ]
    table = criteria(pd.DataFrame(rows, columns=["job", "group", "image", *Shares._fields]))
    names = {
        "method": [pipeline.method.name for pipeline in pool],
        "segmenter": [pipeline.segmenter.name for pipeline in pool],
    }
    numbers = table[["criterion", "lead_low", "removed", "brought", "area"]]
    return pd.DataFrame(names).join(numbers.assign(area=100 * numbers["area"]))


def read_images(session: Session, samples: Sequence[Sample]) -> Tensor:
    """Images (N, C, height, width) in [0, 1], of the classifier's size."""
    images = session.classifier.images(samples, on_error=session.settings.dataset.on_error)
    read = [item.image for item in images.readable(range(len(samples)))]
    if not read:
        raise LtcamError("pipeline=auto: none of the good training images could be read")
    return torch.stack(read)


def draw(
    session: Session, best: Sequence[Pipeline], samples: Sequence[Sample], folder: Path
) -> None:
    """Write strips of some images for each of these candidates."""
    source, jobs = masks_of(session, best)
    shown = samples[:SHOWN]
    for result in mask_images(session.classifier, source, jobs, shown, session.loading()):
        place = f"{result.job + 1}-{best[result.job].method.name}-{best[result.job].segmenter.name}"
        draw_strip(result, folder / stem_of(place) / f"{stem_of(result.item.sample.name)}.png")
