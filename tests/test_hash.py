"""What is hashed of configs: keys that came later change nothing while they are not used."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import pytest
import yaml
from conftest import Cli, Run
from ltcam_cli.data.config import DatasetConfig
from toys import SLIM, TOYS, toy_split

from ltcam_cli.classifier.backbones import BackboneConfig
from ltcam_cli.classifier.train import TrainerConfig
from ltcam_cli.files import LATER, hashed, short_hash
from ltcam_cli.maps.method import FusionConfig, MethodConfig
from ltcam_cli.masks.refine import RefineConfig
from ltcam_cli.masks.segmenters import SegmenterConfig
from ltcam_cli.runs.folder import UNHASHED_DATASET, RunFolder, training_hash

# As they were hashed by the first version, word for word.
TRAINER = {
    "epochs": 20, "images_per_epoch": None, "batch_size": 12, "optimizer": "adamw", "lr": None,
    "weight_decay": 0.01, "schedule": "onecycle", "validation": 0.0, "threshold": "prior",
    "clip": 1.0, "amp": True, "cache": True, "workers": None,
    "augment": {"flip_horizontal": True, "flip_vertical": True, "shift": 0.05, "brightness": 0.15,
                "contrast": 0.15, "gamma": 0.1},
}  # fmt: skip
BACKBONE = {
    "name": "vgg16", "head": "fc", "logits": 1, "hidden": 256, "dropout": 0.5,
    "weights": "DEFAULT", "freeze_bn": False,
}  # fmt: skip
METHOD = {
    "name": "ltgradcam", "weighting": "gradcam", "layers": "all", "delta": 50.0, "scope": "channel",
    "form": "gradient", "fusion": {"rule": "sum", "normalize": "none"}, "target": "defect",
    "options": {},
}  # fmt: skip


@dataclass
class Inner:
    old: int = 1
    new: int = field(default=2, metadata=LATER)


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    new: list[int] | None = field(default=None, metadata=LATER)


def test_a_later_key_counts_where_it_is_not_its_default() -> None:
    assert hashed(Outer()) == {"inner": {"old": 1}}
    assert hashed(Outer(Inner(new=3), [])) == {"inner": {"old": 1, "new": 3}, "new": []}
    assert hashed({"a": 1}) == {"a": 1}


def test_configs_are_hashed_as_ever() -> None:
    assert hashed(TrainerConfig()) == TRAINER
    assert hashed(BackboneConfig()) == BACKBONE
    assert hashed(MethodConfig()) == METHOD
    assert hashed(SegmenterConfig()) == {"name": "otsu", "rule": "otsu", "options": {}}
    assert hashed(DatasetConfig()) == asdict(DatasetConfig())


def test_the_training_hash_is_the_one_of_the_first_version() -> None:
    split = toy_split()
    data = {k: v for k, v in asdict(TOYS).items() if k not in UNHASHED_DATASET}
    training = {k: v for k, v in TRAINER.items() if k not in {"workers", "cache"}}
    digest = short_hash([data, split.fingerprint(), asdict(SLIM), training, 3])
    assert training_hash(TOYS, split, SLIM, TrainerConfig(), 3) == digest


@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"cutmix": 0.5}])
def test_another_training_has_another_hash(options: dict[str, float]) -> None:
    digests = {
        training_hash(TOYS, toy_split(), SLIM, trainer, 0)
        for trainer in (TrainerConfig(), replace(TrainerConfig(), **options))
    }
    assert len(digests) == 2


def test_another_fusion_has_another_hash() -> None:
    fusions = [
        FusionConfig(), FusionConfig(weights=[1, 2]), FusionConfig(weights={"s1": 2}),
        FusionConfig(quantile=0.9), FusionConfig(gamma=3), FusionConfig(scaled=0),
    ]  # fmt: skip
    assert len({short_hash(hashed(MethodConfig(fusion=fusion))) for fusion in fusions}) == 6


def test_another_refinement_has_another_hash() -> None:
    refinements = [
        RefineConfig(), RefineConfig("ridge"), RefineConfig("ridge", grow=1),
        RefineConfig("ridge", threshold="clean"), RefineConfig("ridge", options={"sigmas": [1]}),
    ]  # fmt: skip
    segmenters = [SegmenterConfig(refine=refine) for refine in refinements]
    segmenters += [SegmenterConfig(min_area=5), SegmenterConfig(opening=1)]
    assert len({short_hash(hashed(segmenter)) for segmenter in segmenters}) == 7


def test_a_run_of_before_there_were_these_keys_is_found(own_run: Run, cli: Cli) -> None:
    path = own_run.path / "train" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key in ("label_smoothing", "cutmix", "guide", "guide_weight"):
        del config["trainer"][key]
    path.write_text(yaml.safe_dump(config))
    cli.ok("evaluate", *own_run.overrides, "--method", "gradcam")
    cli.ok("evaluate", "--run", own_run.name, "threads=1", "--method", "layercam")
    assert RunFolder(own_run.path).results()["method"].tolist() == ["gradcam", "layercam"]
