"""A session: a run, its data and its classifier, each read once."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcam_cli.classifier.config import TrainerConfig
from ltcam_cli.config import effective
from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.kinds import kinds_digest
from ltcam_cli.data.load import load_split
from ltcam_cli.data.sample import Sample, content_of
from ltcam_cli.data.size import LARGE, MOST, with_size
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.devices import torch_device
from ltcam_cli.experiments.settings import TRAINING, Composed, Settings, with_kept_parts
from ltcam_cli.files import content_digest
from ltcam_cli.runs.folder import RunFolder, find_run, find_trained, finished_run, open_run
from ltcam_cli.runs.identity import Identity, same_but_rounding

if TYPE_CHECKING:
    import torch

    from ltcam_cli.classifier.checkpoint import Classifier
    from ltcam_cli.runs.masking import Loading

PLACES = ("experiment", "outputs", "name")  # keys besides TRAINING that `ltcam train` needs


@dataclass
class Session:
    """A finished run and what is done with it.

    Attributes:
        settings: Settings of the command; pipelines may differ from theirs.
        run: Folder of the run.
    """

    settings: Settings
    run: RunFolder

    @cached_property
    def split(self) -> Split:
        """Listed data set.

        Raises:
            LtcamError: If it is not there.
        """
        return self.as_trained(load_split(self.settings.dataset))

    def as_trained(self, split: Split) -> Split:
        """A split whose images have the training's level of white."""
        dataset = self.settings.dataset
        if dataset.white != "auto" or self.classifier.white == "auto":
            return split
        return split.read_by(dataset.image_reader(self.classifier.white), dataset.mask_reader())

    @cached_property
    def checkpoint(self) -> str:
        """SHA-256 of the classifier's checkpoint."""
        return content_digest(self.run.checkpoint)

    @cached_property
    def device(self) -> torch.device:
        """Device of the classifier."""
        return torch_device(self.settings.device)

    @cached_property
    def classifier(self) -> Classifier:
        """Trained classifier, on the device."""
        from ltcam_cli.classifier.checkpoint import load_classifier

        return load_classifier(self.run.checkpoint, self.device)

    @cached_property
    def members(self) -> list[Session]:
        """Sessions of the runs of `ensemble`, besides this one.

        Raises:
            LtcamError: If there is no such run, its training is not finished, it may have seen
                this run's test images, or its classifier would count twice.
        """
        counted = {self.checkpoint}
        runs = [
            finished_run(self.settings.root, name, "ensemble") for name in self.settings.ensemble
        ]
        for run in runs:
            if not same_data(dataset_of(run), dataset_of(self.run)):
                raise LtcamError(
                    f"ensemble={run.name}: was trained on another data set, split or size than "
                    f"{self.run.name}"
                )
            if (digest := content_digest(run.checkpoint)) in counted:
                raise LtcamError(
                    f"ensemble={run.name}: its classifier is averaged already; name each run once, "
                    f"and not {self.run.name}"
                )
            counted.add(digest)
        return [Session(replace(self.settings, ensemble=[]), run) for run in runs]

    @property
    def source_parts(self) -> dict[str, Any]:
        """What decides heatmaps besides the method: parts of identities."""
        from ltcam_cli.classifier.precision import dtype_name

        return {
            "checkpoint": self.checkpoint,
            "dtype": dtype_name(self.autocast_dtype),
            "ensemble": [member.checkpoint for member in self.members],
        }

    @property
    def decision_parts(self) -> dict[str, float]:
        """The threshold, if it was chosen again after training: parts of identities."""
        from ltcam_cli.classifier.checkpoint import chosen_threshold

        chosen = chosen_threshold(self.run.checkpoint)
        return {} if chosen is None else {"threshold": chosen}

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Type that maps are computed in where that is safe; None: float32."""
        from ltcam_cli.classifier.precision import autocast_dtype

        return autocast_dtype(self.settings.bf16, self.device)

    @cached_property
    def training_images(self) -> list[Sample]:
        """Labelled training images."""
        return self.split.train

    @cached_property
    def training_digest(self) -> str:
        """Digest of the labelled training images."""
        return content_of(self.training_images)

    def with_settings(self, **changes: Any) -> Session:
        """This session with other settings of what is done; run, data and classifier are shared."""
        other = Session(replace(self.settings, **changes), self.run)
        read = {name: value for name, value in vars(self).items() if name not in vars(other)}
        vars(other).update(read)
        return other

    def loading(self, progress: str | None = None, *, workers: bool = False) -> Loading:
        """How an evaluation's images are loaded.

        Args:
            progress: Title of the progress bar.
            workers: Whether `evaluation.workers` counts.
        """
        from ltcam_cli.runs.masking import Loading

        evaluation = self.settings.evaluation
        return Loading(
            evaluation.batch_size,
            evaluation.workers if workers else None,
            self.settings.dataset.on_error,
            progress,
        )


def find_session(composed: Composed) -> Session:
    """The session of a command that needs a finished run.

    With `run=…` data set, backbone, trainer and seed are that run's, except for what the user set;
    otherwise the run is the one whose training the config describes.

    Raises:
        LtcamError: If there is no such run, or its training is not finished.
    """
    if composed.values.get("run") is None:
        settings = Settings.of(composed.values)
        split = load_split(settings.dataset)
        settings = completed(settings, split)
        identity = training_identity(settings, split)
        name = run_name(settings, identity)
        if settings.name and not same_but_rounding(settings.root / name / "train", identity):
            open_run(settings.root, settings.name, identity.hash)
        words = [word.lstrip("+") for word in composed.overrides_of((*TRAINING, *PLACES))]
        command = shlex.join(["ltcam", "train", *words])
        session = Session(settings, find_trained(settings.root, identity, name, command))
        session.split = session.as_trained(split)
        return session
    settings, run = settings_of_run(composed)
    if not run.checkpoint.is_file():
        raise LtcamError(f"{run.path}: its training is not finished; run: ltcam train --resume")
    return Session(settings, run)


def settings_from(composed: Composed) -> Settings:
    """Settings of a command, with what they have of the run that the config names.

    Raises:
        LtcamError: If there is no such run, or naming the key that is wrong.
    """
    named = composed.values.get("run") is not None and "backbone" in composed.values
    return settings_of_run(composed)[0] if named else Settings.of(composed.values)


def settings_of_run(composed: Composed) -> tuple[Settings, RunFolder]:
    """Settings with the data set, backbone, trainer and seed of the run that the config names.

    Raises:
        LtcamError: If there is no such run.
    """
    outputs = Path(str(composed.values.get("outputs", "outputs")))
    run = find_run(outputs, str(composed.values["run"]))
    return with_kept_parts(composed, run.config, TRAINING, run.config_path), run


def session_of_run(composed: Composed) -> Session:
    """As `find_session`, and where a run is named, its data set need not be there."""
    if composed.values.get("run") is None:
        return find_session(composed)
    return Session(*settings_of_run(composed))


def training_identity(settings: Settings, split: Split) -> Identity:
    """All that decides what a training learns: data, split, network, training, seed."""
    from ltcam_cli.classifier.precision import rounding

    backbone, trainer = settings.backbone, guided(settings)
    weights, guide = backbone.weights, trainer.guide
    return Identity(
        "training",
        {
            "dataset": settings.dataset,
            "images": split.fingerprint(),
            "backbone": backbone,
            "weights": content_digest(Path(weights)) if weights and Path(weights).is_file() else "",
            "trainer": replace(trainer, guide=None),
            "guide": content_digest(Path(guide)) if guide else "",
            **({"kinds": kinds_digest(split)} if trainer.kinds else {}),
            **rounding(trainer.amp, torch_device(settings.device), settings.threads),
            "seed": settings.seed,
        },
    )


def completed(settings: Settings, split: Split) -> Settings:
    """The settings of a training with what its data and the machine decide.

    These are the network that `backbone=auto` stands for, and a size of the images that is not set.
    """
    backbone = settings.backbone
    most = LARGE if backbone.head == "noisy_or" else MOST
    dataset = with_size(settings.dataset, split.listed_train, most)
    if backbone.name == "auto":
        from ltcam_cli.classifier.auto import resolved_backbone

        backbone = resolved_backbone(backbone, torch_device(settings.device).type == "cuda")
    return replace(settings, dataset=dataset, backbone=backbone)


def guided(settings: Settings) -> TrainerConfig:
    """The trainer, with the checkpoint of a run that is its guide.

    Raises:
        LtcamError: If there is no such run, its training is not finished, or it may have seen this
            training's test images.
    """
    trainer = settings.trainer
    if trainer.guide is None or Path(trainer.guide).is_file():
        return trainer
    run = finished_run(settings.root, trainer.guide, "trainer.guide")
    if not same_data(dataset_of(run), settings.dataset):
        raise LtcamError(
            f"trainer.guide={trainer.guide}: was trained on another data set, split or size"
        )
    return replace(trainer, guide=str(run.checkpoint))


def dataset_of(run: RunFolder) -> Dataset:
    """Data set that a run was trained on."""
    return with_kept_parts(Composed({}), run.config, ("dataset",), run.config_path).dataset


def same_data(first: Dataset, second: Dataset) -> bool:
    """Whether two data sets are the same, split alike; paths do not count."""
    return effective(first) == effective(second)


def run_name(settings: Settings, identity: Identity) -> str:
    """Name of the run folder: `<dataset>-<backbone>-<split><fold>-s<seed>-<hash>` unless chosen."""
    if settings.name:
        return settings.name
    dataset = settings.dataset
    fold = dataset.fold
    split = f"{dataset.split}{'' if fold is None else fold}"
    names = f"{dataset.display_name}-{settings.backbone.display_name}"
    return f"{names}-{split}-s{settings.seed}-{identity.hash}"
