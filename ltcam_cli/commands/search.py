"""`search`: methods × segmenters, one chosen on training images, and scored once."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import ltcam_cli
from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.commands.compose import Row, compose, launch
from ltcam_cli.commands.options import line_overrides, print_table
from ltcam_cli.commands.pipeline import drawings, heatmap_source, resolved, together
from ltcam_cli.commands.settings import Settings, trained
from ltcam_cli.commands.sweep import grid
from ltcam_cli.commands.tasks import evaluate_methods, of_map
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import hashed, sha256, short_hash, write_text
from ltcam_cli.maps.averaged import TtaConfig
from ltcam_cli.maps.method import AUTO, MethodConfig
from ltcam_cli.masks.segmenters import SegmenterConfig
from ltcam_cli.runs.delta import Evidence, judge
from ltcam_cli.runs.folder import RunFolder, write_config, write_table
from ltcam_cli.runs.search import fold_ious, held_out
from ltcam_cli.runs.tables import SHOWN, as_markdown

CRITERIA = {
    "image": "mean evidence of defective training images; no mask was read",
    "pixel-val": "mean over folds of the IoU of defective training images, in %",
}
TOP = 10  # candidates on the terminal; all of them are in the files
log = logging.getLogger("ltcam_cli")


@dataclass(frozen=True)
class Part:
    """A method or a segmenter of candidates.

    Attributes:
        overrides: that give it to `ltcam evaluate`.
    """

    config: Any
    overrides: list[str]


def search(
    names: str | None,
    deltas: str | None,
    layers: str | None,
    overrides: Sequence[str],
    config_dir: Path | None,
) -> Row:
    """Choose a pipeline, evaluate it; print the best candidates, its scores and how to run it.

    Args:
        names: methods, joined by commas, in place of `search.methods`.
        deltas, layers: of each method, see `sweep.grid`; None keeps its own.
    """
    settings = Settings.of(compose("search", overrides, config_dir))
    if settings.evaluation.split != "test":
        raise LtcamError(
            f"evaluation.split={settings.evaluation.split}: a search chooses on the training part "
            "and is scored on the test part; leave it away"
        )
    for override in overrides:
        key = override.split("=")[0]
        if key in {"method", "segmenter"}:
            raise LtcamError(f"{override}: a search tries several; list them in search.{key}s=[…]")
    methods = methods_of(settings, names, deltas, layers, overrides, config_dir)
    segmenters = []
    for line in settings.search.segmenters:
        own = line_overrides("segmenter", line)
        composed = compose("search", [*overrides, *own], config_dir)
        segmenters.append(Part(Settings.of(composed).segmenter, own))
    given = ["--config-dir", str(config_dir)] if config_dir else []
    given += [o for o in overrides if not o.startswith(("search.", "overwrite="))]
    task = SearchTask(methods, segmenters, given)
    [found], _ = launch("search", task, overrides, config_dir=config_dir)
    print_table(found["ranked"].head(TOP))
    print(f"\n{found['text']}")
    print(os.path.relpath(found["folder"]))
    return found


def methods_of(
    settings: Settings,
    names: str | None,
    deltas: str | None,
    layers: str | None,
    overrides: Sequence[str],
    config_dir: Path | None,
) -> list[Part]:
    """Lines × fusions × layer sets × deltas, each once; a student has no fusion."""
    parts: dict[str, Part] = {}
    lines = []
    for line in names.split(",") if names else settings.search.methods:
        student = method_of(line, overrides, config_dir).is_student
        fusions = [] if student else settings.search.fusions
        lines += [
            " ".join([line, *(f"fusion.{key}" for key in fusion.split())])
            for fusion in fusions or [""]
        ]
    for text in lines:
        method = method_of(text, overrides, config_dir)
        swept = deltas
        if method.delta == AUTO and deltas is None:
            swept = ",".join(map(str, settings.evaluation.deltas))
        for cell in grid(method, swept, layers):
            own = line_overrides("method", text)
            for key, value in (("layers", cell.layers), ("delta", cell.delta)):
                if value != getattr(method, key):
                    own = [o for o in own if not o.startswith(f"method.{key}=")]
                    own.append(f"method.{key}={'null' if value is None else value}")
            parts.setdefault(short_hash(hashed(cell), 64), Part(cell, own))
    return list(parts.values())


def method_of(line: str, overrides: Sequence[str], config_dir: Path | None) -> MethodConfig:
    """The method that a line describes, but for test-time options that it would bring."""
    own = line_overrides("method", line)
    return Settings.of(compose("search", [*overrides, *own], config_dir)).method


@dataclass(frozen=True)
class SearchTask:
    """The task that Hydra runs.

    Attributes:
        methods, segmenters: of which each pair is a candidate.
        given: the user's options of `ltcam evaluate`.
    """

    methods: list[Part]
    segmenters: list[Part]
    given: list[str]

    def __call__(self, cfg: DictConfig) -> Row:
        """Judge all candidates on the training part, and evaluate the best one."""
        settings, split, run = trained(cfg, HydraConfig.get().overrides.task)
        by = settings.evaluation.labels
        methods = [resolved(run, part.config) for part in self.methods]
        segmenters = [part.config for part in self.segmenters]
        folder = run.path / "search" / f"{by}-{identity(settings, split, run, methods, segmenters)}"
        path = folder / "search.csv"
        if settings.overwrite or not path.is_file():
            scores = judged(settings, split, run, methods, segmenters)
            write_table(path, self.table(by, methods, scores))
        else:
            log.info("%s: is there already; overwrite=true searches anew", folder)
        table = pd.read_csv(path)
        number = int(table.index[table["chosen"]][0])
        place, segmenter = divmod(number, len(segmenters))
        command = ["ltcam", "evaluate", *self.given, *tta_overrides(settings.tta)]
        command += self.methods[place].overrides + self.segmenters[segmenter].overrides
        command += ["evaluation.masks_chose=true"] if by == "pixel-val" else []
        evaluation = settings.evaluation
        if by == "pixel-val":
            evaluation = replace(evaluation, masks_chose=True)
        chosen = replace(
            settings,
            method=methods[place],
            segmenter=segmenters[segmenter],
            evaluation=evaluation,
        )
        write_config(folder, {"command": shlex.join(command), **asdict(chosen)})
        [row], _ = evaluate_methods(chosen, split, run, [chosen.method])
        text = f"Chosen of {len(table)} by labels={by}: {CRITERIA[by]}.\n"
        if by == "pixel-val":
            honest = held_out(table.filter(regex="^iou_fold"))
            text += (
                f"Its {table['criterion'][number]:.2f} is the best of many; chosen on all folds "
                f"but one and scored on that one: {honest:.2f}. The classifier was "
                "trained on all of them.\n"
            )
        scored = pd.DataFrame([row])[["labels", *SHOWN]]
        text += f"\nOn the test part, once:\n\n{as_markdown(scored)}\n    {shlex.join(command)}\n"
        ranked = table.sort_values("criterion", ascending=False, kind="stable")
        write_text(folder / "search.md", f"{as_markdown(ranked)}\n{text}")
        return {"ranked": ranked, "text": text, "row": row, "folder": str(folder)}

    def table(self, by: str, methods: Sequence[MethodConfig], scores: pd.DataFrame) -> pd.DataFrame:
        """A row a candidate, and which is chosen: the highest criterion; of equals, the first."""
        rows = [
            {
                "method": method.name,
                "delta": method.delta,
                "layers": method.layers,
                **of_map(method),
                "segmenter": " ".join(o.removeprefix("segmenter")[1:] for o in part.overrides),
                "refine": part.config.refine.rule,
                "labels": by,
            }
            for method, part in product(methods, self.segmenters)
        ]
        folds = scores if by == "pixel-val" else scores.iloc[:, :0]
        table = pd.DataFrame(rows).join(folds).assign(criterion=scores.mean(axis=1))
        if table["criterion"].isna().all():
            raise LtcamError("no candidate draws a pixel on a training image; try other segmenters")
        return table.assign(chosen=table.index == table["criterion"].idxmax())


def judged(
    settings: Settings,
    split: Split,
    run: RunFolder,
    methods: Sequence[MethodConfig],
    segmenters: Sequence[SegmenterConfig],
) -> pd.DataFrame:
    """Scores of each candidate (row): an IoU a fold, or the evidence, of which no mask is read.

    All maps come from one pass over the images, and all segmenters draw from them; each student
    has a pass of its own.
    """
    samples = [sample for sample in split.train if sample.label]
    classifier = load_classifier(run.checkpoint, settings.torch_device())
    options: dict[str, Any] = {
        "batch_size": settings.evaluation.batch_size,
        "on_error": settings.dataset.on_error,
        "progress": "search",
    }
    tables = []
    for group in together(methods):
        wanted = [methods[number] for number in group]
        drawn, numbers = [], list[int]()
        for place, segmenter in enumerate(segmenters):
            drawn += drawings(replace(settings, segmenter=segmenter), run, classifier, wanted)
            numbers += [number * len(segmenters) + place for number in group]
        source = heatmap_source(settings, run, classifier, wanted)
        if settings.evaluation.labels == "pixel-val":
            folds = settings.search.folds
            table = fold_ious(classifier, source, drawn, samples, folds, **options)
        else:
            evidence = judge(classifier, source, drawn, samples, Evidence(classifier), **options)
            table = pd.DataFrame({"evidence": evidence})
        tables.append(table.set_axis(numbers))
    return pd.concat(tables).sort_index()


def identity(
    settings: Settings,
    split: Split,
    run: RunFolder,
    methods: Sequence[MethodConfig],
    segmenters: Sequence[SegmenterConfig],
) -> str:
    """A hash of all that decides what is chosen."""
    by_masks = settings.evaluation.labels == "pixel-val"
    return short_hash(
        [
            [hashed(method) for method in methods],
            [hashed(segmenter) for segmenter in segmenters],
            [(s.name, s.label, s.mask_digest() if by_masks else "") for s in split.train],
            settings.search.folds if by_masks else None,
            sha256(run.checkpoint),
            ltcam_cli.__version__,
            *settings.options,
        ]
    )


def tta_overrides(tta: TtaConfig) -> list[str]:
    """The test-time options as overrides, whatever a method's own are."""
    usual = asdict(TtaConfig())
    own = {key: value for key, value in asdict(tta).items() if value != usual[key]}
    return ["tta=none", *(f"tta.{key}={value}" for key, value in own.items())]
