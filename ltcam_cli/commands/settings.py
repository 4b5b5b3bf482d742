"""The composed config, validated into the stations' own dataclasses. Once, here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ltcam_cli.classifier.backbones import BackboneConfig
from ltcam_cli.classifier.train import TrainerConfig
from ltcam_cli.data.config import DatasetConfig
from ltcam_cli.data.load import load_split
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.method import MethodConfig
from ltcam_cli.masks.segmenters import SegmenterConfig
from ltcam_cli.runs.evaluation import EvaluationConfig, use_threads
from ltcam_cli.runs.folder import (
    RunFolder,
    find_run,
    find_trained,
    open_run,
    run_name,
    training_hash,
)
from ltcam_cli.runs.prediction import PredictConfig

TRAINING = ("dataset", "backbone", "trainer", "seed")


@dataclass
class Settings:
    """All of conf/config.yaml."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    outputs: str = "outputs"
    name: str | None = None
    run: str | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    resume: bool = False
    overwrite: bool = False

    @classmethod
    def of(cls, cfg: DictConfig) -> Settings:
        """Validate a composed config, and set the number of threads.

        Raises:
            LtcamError, OmegaConfBaseException: naming the key that is wrong.
        """
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), cfg))
        assert isinstance(settings, cls)
        use_threads(settings.threads)
        return settings

    @property
    def root(self) -> Path:
        """Folder of all results."""
        return Path(self.outputs)

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
        return training_hash(self.dataset, split, self.backbone, self.trainer, self.seed)

    def run_to_train(self, split: Split) -> tuple[RunFolder, str]:
        """The folder that `train` writes to, and the training's hash."""
        digest = self.hash(split)
        name = self.name or run_name(self.dataset, self.backbone, self.seed, digest)
        return open_run(self.root, name, digest), digest


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
        relevant = [o for o in overrides if o.lstrip("+~").split("=")[0].split(".")[0] in TRAINING]
        command = " ".join(["ltcam train", *relevant])
        return settings, split, find_trained(settings.root, digest, command)
    run = find_run(Path(cfg.outputs), str(cfg.run))
    settings = Settings.of(with_training_of(run, cfg, overrides))
    if not run.checkpoint.is_file():
        raise LtcamError(f"{run.path}: its training is not finished; run: ltcam train --resume")
    return settings, load_split(settings.dataset), run


def with_training_of(run: RunFolder, cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`cfg` with a run's data set, backbone, trainer and seed, but for what overrides name."""
    merged = cfg.copy()
    OmegaConf.set_struct(merged, False)
    held = run.config
    keys = [override.lstrip("+~").split("=")[0] for override in overrides]
    for part in TRAINING:
        if part in keys or part not in held:
            continue
        merged[part] = held[part]
        for key in keys:
            if key.startswith(f"{part}."):
                OmegaConf.update(merged, key, OmegaConf.select(cfg, key))
    return merged
