"""The composed config, validated into the stations' own dataclasses. Once, here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from ltcam_cli.classifier.backbones import BackboneConfig
from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.train import TrainerConfig
from ltcam_cli.data.config import DatasetConfig
from ltcam_cli.data.load import load_split
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.files import hashed, sha256
from ltcam_cli.maps.averaged import TtaConfig
from ltcam_cli.maps.method import MethodConfig
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.masks.segmenters import SegmenterConfig
from ltcam_cli.report.paper import ReproduceConfig
from ltcam_cli.runs.evaluation import EvaluationConfig, use_threads
from ltcam_cli.runs.folder import (
    RunFolder,
    find_run,
    find_trained,
    open_run,
    run_name,
    same_data,
    training_hash,
)
from ltcam_cli.runs.prediction import PredictConfig
from ltcam_cli.runs.search import SearchConfig
from ltcam_cli.student.train import StudentConfig

TRAINING = ("dataset", "backbone", "trainer", "seed")
PLACES = ("experiment", "outputs", "name")


@dataclass(frozen=True)
class Pipeline:
    """What draws masks of a classifier: a method, and what may come with it, as with ltcam_plus."""

    method: MethodConfig
    segmenter: SegmenterConfig
    tta: TtaConfig


@dataclass
class Settings:
    """All of conf/config.yaml."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    tta: TtaConfig = field(default_factory=TtaConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    reproduce: ReproduceConfig = field(default_factory=ReproduceConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    outputs: str = "outputs"
    name: str | None = None
    run: str | None = None
    ensemble: list[str] = field(default_factory=list)
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    bf16: bool = False
    resume: bool = False
    overwrite: bool = False

    @classmethod
    def of(cls, cfg: DictConfig) -> Settings:
        """Validate a composed config, and set the number of threads.

        Raises:
            LtcamError: naming the key that is wrong.
        """
        schema = OmegaConf.structured(cls)
        try:
            settings = OmegaConf.to_object(OmegaConf.merge(schema, cfg))
        except ConfigKeyError as error:
            parent, _, key = str(error.full_key).rpartition(".")
            known = OmegaConf.select(schema, parent) if parent else schema
            raise LtcamError(f"{error.full_key}: no such key{nearest(key, known)}") from error
        except OmegaConfBaseException as error:
            reason = str(error.msg).splitlines()[0]
            raise LtcamError(f"{error.full_key}: {reason}") from error
        assert isinstance(settings, cls)
        use_threads(settings.threads)
        return settings

    @property
    def root(self) -> Path:
        """Folder of all results."""
        return Path(self.outputs)

    @property
    def pipeline(self) -> Pipeline:
        """What draws masks."""
        return Pipeline(self.method, self.segmenter, self.tta)

    def grouped(self, pipelines: Sequence[Pipeline]) -> list[tuple[Settings, list[int]]]:
        """The settings of each segmenter and test-time options, and the pipelines that have them.

        Returns:
            For each, in order of the first ones: the settings, and the pipelines' numbers.
        """
        groups: dict[str, list[int]] = {}
        for number, pipeline in enumerate(pipelines):
            groups.setdefault(repr((pipeline.segmenter, pipeline.tta)), []).append(number)
        firsts = [pipelines[numbers[0]] for numbers in groups.values()]
        each = [replace(self, segmenter=first.segmenter, tta=first.tta) for first in firsts]
        return list(zip(each, groups.values(), strict=True))

    @cached_property
    def training(self) -> list[Sample]:
        """The labelled training images of the data set; listed once.

        Raises:
            LtcamError: if the data set is not there.
        """
        return load_split(self.dataset).train

    def torch_device(self) -> torch.device:
        """The device; `auto` takes a GPU where there is one.

        Raises:
            LtcamError: if it is not there.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise LtcamError(f"device={self.device}: is not there; use auto or cpu") from error
        return device

    @property
    def half(self) -> torch.dtype | None:
        """The type that maps' forwards and backwards compute in where that is safe."""
        return torch.bfloat16 if self.bf16 else None

    @property
    def options(self) -> list[Any]:
        """What of all but the method decides maps, to be hashed; empty at the defaults."""
        return [
            *(["bf16"] if self.bf16 else []),
            *([hashed(self.tta)] if self.tta.label else []),
            *(sha256(run.checkpoint) for run in self.members()),
        ]

    def members(self) -> list[RunFolder]:
        """The runs of `ensemble`.

        Raises:
            LtcamError: if there is no such run, or its training is not finished.
        """
        return [self._finished("ensemble", name) for name in self.ensemble]

    def _finished(self, key: str, name: str) -> RunFolder:
        """The run that a key asks for."""
        run = find_run(self.root, name, key)
        if not run.checkpoint.is_file():
            raise LtcamError(f"{key}={name}: its training is not finished")
        return run

    def training_part(self) -> dict[str, Any]:
        """What decides a training, for its `config.yaml`."""
        return {
            "dataset": asdict(self.dataset),
            "backbone": asdict(self.backbone),
            "trainer": asdict(self.trainer),
            "seed": self.seed,
        }

    def hash(self, split: Split) -> str:
        """Of the training that this config describes."""
        return training_hash(self.dataset, split, self.backbone, self.guided(), self.seed)

    def guided(self) -> TrainerConfig:
        """The trainer, with the checkpoint of a run that is its guide.

        Raises:
            LtcamError: if there is no such run, its training is not finished, or it may have seen
                this training's test images.
        """
        guide = self.trainer.guide
        if guide is None or Path(guide).is_file():
            return self.trainer
        run = self._finished("trainer.guide", guide)
        if not same_data(run.config.get("dataset", {}), asdict(self.dataset)):
            raise LtcamError(
                f"trainer.guide={guide}: was trained on another data set, split or size"
            )
        return replace(self.trainer, guide=str(run.checkpoint))

    def run_to_train(self, split: Split) -> tuple[RunFolder, str]:
        """The folder that `train` writes to, and the training's hash."""
        digest = self.hash(split)
        return open_run(self.root, self.run_name(digest), digest), digest

    def run_name(self, digest: str) -> str:
        """The chosen name of the run folder, or the one that says what is trained."""
        return self.name or run_name(self.dataset, self.backbone, self.seed, digest)


def aimed(spec: MapSpec, classifier: Classifier) -> MapSpec:
    """`spec` with the logit that this classifier has for defects, where it is not the last one.

    Raises:
        LtcamError: if the target is the margin, which is y_last - y_first.
    """
    if classifier.defect in {-1, classifier.backbone.logits - 1}:
        return spec
    if spec.target == "margin":
        raise LtcamError(
            "method.target=margin: the defect's logit must be the last one; use defect"
        )
    return replace(spec, target=classifier.defect) if spec.target == "defect" else spec


def trained(cfg: DictConfig, overrides: Sequence[str]) -> tuple[Settings, Split, RunFolder]:
    """The settings, the data and the finished run of a command that needs a classifier.

    With `run=…` data set, backbone, trainer and seed are that run's, except for what the overrides
    say otherwise.
    """
    if cfg.run is None:
        settings = Settings.of(cfg)
        split = load_split(settings.dataset)
        digest = settings.hash(split)
        if settings.name:
            open_run(settings.root, settings.name, digest)
        relevant = [o for o in overrides if _key(o).split(".")[0] in {*TRAINING, *PLACES}]
        command = shlex.join(["ltcam", "train", *relevant])
        run = find_trained(settings.root, digest, settings.run_name(digest), command)
        return settings, split, run
    run = find_run(Path(cfg.outputs), str(cfg.run))
    settings = Settings.of(with_training_of(run, cfg, overrides))
    if not run.checkpoint.is_file():
        raise LtcamError(f"{run.path}: its training is not finished; run: ltcam train --resume")
    return settings, load_split(settings.dataset), run


def with_training_of(run: RunFolder, cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`cfg` with a run's data set, backbone, trainer and seed, but for what overrides name."""
    return with_parts_of(run.config, TRAINING, cfg, overrides)


def with_parts_of(
    held: Mapping[str, Any], parts: Sequence[str], cfg: DictConfig, overrides: Sequence[str]
) -> DictConfig:
    """`cfg` with parts of a config that is kept in a folder, but for what overrides name."""
    merged = cfg.copy()
    OmegaConf.set_struct(merged, False)
    keys = [_key(override) for override in overrides]
    for part in parts:
        if part in keys or part not in held:
            continue
        merged[part] = held[part]
        for key in keys:
            if key.startswith(f"{part}."):
                OmegaConf.update(merged, key, OmegaConf.select(cfg, key))
    return merged


def _key(override: str) -> str:
    return override.lstrip("+~").split("=")[0]
