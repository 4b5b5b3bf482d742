"""Trained classifier and its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltcam_cli.classifier.backbones import build_classifier
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.classifier.kinds import ANY, KindVerdict, any_log_odds, kind_verdicts
from ltcam_cli.classifier.tensors import load_state, misfit, read_tensors, write_tensors
from ltcam_cli.config import Positive, Says, Share, Side, build, check_fields
from ltcam_cli.data.batches import Images
from ltcam_cli.data.dataset import Fit
from ltcam_cli.data.geometry import fitted
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import atomic, read_json

FORMAT = 1
THRESHOLD = "threshold.json"  # beside a checkpoint: its threshold, chosen again after training
FLAT = 0.05  # added to an image's deviation, in units of `std`, so that noise is not blown up


@dataclass
class Classifier:
    """Network with all that its use needs.

    Attributes:
        model: Model from normalised images (N, in_channels, height, width) to logits
            (N, backbone.logits).
        backbone: Architecture of the model.
        in_channels, height, width: Size of the input.
        mean, std: Normalisation of images in [0, 1], per channel.
        classes: Names of the classes, in the order of two or more logits.
        defect: Index of the logit of defects; -1, the last one, for models trained here; `any`
            where each logit is of a kind of defect.
        white: Level of white of image files with more than 8 bits, `file`, or `auto` if no
            training image had more.
        fit: How images of another aspect come into the input.
        prior_shift: Number added to the logit, so that probabilities speak of the training part's
            share of defects and not of the balanced batches'.
        threshold: Probability from which an image is predicted defective.
        metrics: Image-level scores of training and test.
    """

    model: nn.Module
    backbone: BackboneConfig
    in_channels: Literal[1, 3]
    height: Side
    width: Side
    mean: tuple[float, ...]
    std: Annotated[tuple[Positive, ...], Says("numbers above 0")]
    classes: tuple[str, ...] = ("good", "defective")
    defect: int | Literal["any"] = -1
    white: Positive | Literal["auto", "file"] = "auto"
    fit: Fit = "stretch"
    prior_shift: float = 0.0
    threshold: Share = 0.5
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) in [0, 1], normalised, on the model's device."""
        device = next(self.model.parameters()).device
        images = images.to(device, non_blocking=True)
        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, -1, 1, 1)
        images = (images - mean) / std
        if self.backbone.standardize:
            images = standardized(images)
        return images.contiguous(memory_format=torch.channels_last)

    @property
    def takes(self) -> str:
        """Size, channels and fit of the images that it takes, in words."""
        return "x".join(map(str, (*self.size, self.in_channels))) + (
            " padded" if self.fit == "pad" else ""
        )

    def images(self, samples: Sequence[Sample], **options: Any) -> Images:
        """Images of samples as it takes them, before `prepare`; `options` are those of `Images`."""
        return Images(samples, *self.size, self.in_channels, fit=self.fit, **options)

    def fitted(self, images: Tensor) -> Tensor:
        """Images (..., C, H, W) of another size at the input's."""
        return fitted(images, self.size, self.fit)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of defects, in the order of the logits; empty if it tells none apart."""
        return self.classes if self.defect == ANY else ()

    def log_odds(self, logits: Tensor) -> Tensor:
        """Log-odds (N,) of a defect against all else, as trained, of logits (N, L)."""
        if self.defect == ANY:
            return any_log_odds(logits)
        if logits.shape[1] == 1:
            return logits[:, 0]
        defect = self.defect % logits.shape[1]
        others = [index for index in range(logits.shape[1]) if index != defect]
        return logits[:, defect] - logits[:, others].logsumexp(dim=1)

    def probability(self, logits: Tensor) -> Tensor:
        """Probability (N,) of a defect of logits (N, L), corrected for the sampling prior."""
        return torch.sigmoid(self.log_odds(logits) + self.prior_shift)

    def kind_shares(self, logits: Tensor) -> Tensor:
        """Probability (N, K) of each kind of an image that is defective, of logits (N, K).

        Times `probability` it is that of any image: a defect's kind does not depend on how many
        defective images the batches of the training had.
        """
        return torch.exp(F.logsigmoid(logits) - F.logsigmoid(any_log_odds(logits))[:, None])

    def kind_verdicts(self, logits: Tensor) -> list[KindVerdict]:
        """What the logits (N, L) of N images say of the kinds."""
        shares = self.kind_shares(logits) if self.kinds else logits
        return kind_verdicts(self.kinds, shares, self.probability(logits))

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically; tensors, numbers and strings only."""
        state = {key: value.cpu().contiguous() for key, value in self.model.state_dict().items()}
        metadata = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in {"model", "backbone"}
        }
        content = {
            "format": FORMAT,
            "backbone": asdict(self.backbone),
            "state_dict": state,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in metadata.items()},
        }
        with atomic(path) as temporary:
            write_tensors(content, temporary)


def standardized(images: Tensor) -> Tensor:
    """Images (N, C, H, W), each with mean 0 and, unless it is nearly flat, deviation 1."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) / (images.std(dim=(1, 2, 3), keepdim=True) + FLAT)


def load_classifier(path: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """Classifier of a checkpoint file or of a run folder; its model is in eval mode.

    Raises:
        LtcamError: if there is none, or if it is unsafe, foreign, or of another format.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "train" / "checkpoint.pt"
    if not path.is_file():
        raise LtcamError(f"{path}: no such checkpoint; train one with: ltcam train")
    content = read_tensors(path, "train it anew")
    if not isinstance(content, dict) or "format" not in content:
        raise LtcamError(f"{path}: is no ltcam checkpoint; make one with: ltcam import {path}")
    if content.pop("format") != FORMAT:
        raise LtcamError(f"{path}: was written by another version of ltcam; train it anew")
    try:
        backbone = build(BackboneConfig, content.pop("backbone"))
        state = content.pop("state_dict")
        metadata: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content.items()
        }
        check_fields(Classifier, metadata)
        with torch.device("meta"):  # drawing random weights takes seconds
            size = (metadata["height"], metadata["width"])
            model = build_classifier(backbone, metadata["in_channels"], size)
        load_state(model, state)
        classifier = Classifier(model.eval(), backbone, **metadata)
        if (chosen := chosen_threshold(path)) is not None:
            classifier.threshold = chosen
        channels, logits = classifier.in_channels, backbone.logits
        if {len(classifier.mean), len(classifier.std)} != {channels}:
            raise LtcamError(f"mean and std must be of {channels} channels")
        if classifier.defect == ANY:
            if len(classifier.classes) != logits:
                raise LtcamError(f"classes={classifier.classes}: the network has {logits} logits")
        elif not -logits <= classifier.defect < logits:
            raise LtcamError(f"defect={classifier.defect}: the network has {logits} logits")
    except (KeyError, TypeError, RuntimeError, LtcamError) as error:
        raise misfit(path, error, "train or import it anew") from error
    classifier.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return classifier


def chosen_threshold(checkpoint: Path) -> float | None:
    """Threshold that was chosen again after training (`ltcam threshold`); None if none was.

    Raises:
        LtcamError: If its file is damaged.
    """
    path = checkpoint.with_name(THRESHOLD)
    if not path.is_file():
        return None
    try:
        threshold = read_json(path)["threshold"]
        check_fields(Classifier, {"threshold": threshold})
    except (ValueError, KeyError, TypeError, LtcamError) as error:
        raise LtcamError(
            f"{path}: is damaged; delete it, and choose anew with: ltcam threshold RUN RULE"
        ) from error
    return float(threshold)


def prior_shift(defective: int, total: int) -> float:
    """Log-odds of the true share of defects, to be added to logits: those of the batches are 0.

    Args:
        defective, total: Numbers of images of the training part; half of a batch is defective.
    """
    share = defective / total
    return math.log(share / (1 - share))
