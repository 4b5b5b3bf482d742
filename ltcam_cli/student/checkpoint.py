"""A trained student, the file it is kept in, and the heatmaps it draws."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ltcam_cli.classifier.backbones import BackboneConfig
from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.tensors import read_tensors
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import atomic
from ltcam_cli.maps.averaged import resized
from ltcam_cli.maps.engine import Heatmaps
from ltcam_cli.student.network import MaskNet, NetworkConfig, build_network

FORMAT = 1


@dataclass
class Student:
    """A network that draws masks, with all that is needed to use it beside its classifier.

    Attributes:
        model: maps images (N, in_channels, height, width), normalised as the classifier's, to
            logits (N, height, width).
        network: how the model is built.
        backbone: of the classifier.
        in_channels, height, width: of the input.
        classifier: SHA-256 of the classifier's checkpoint.
    """

    model: MaskNet
    network: NetworkConfig
    backbone: BackboneConfig
    in_channels: int
    height: int
    width: int
    classifier: str

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def probability(self, images: Tensor) -> Tensor:
        """Normalised images (N, in_channels, H, W) -> (N, H, W), of a defect at each pixel."""
        return torch.sigmoid(self.model(images))

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically; tensors, numbers and strings only."""
        state = {key: value.cpu().contiguous() for key, value in self.model.state_dict().items()}
        content = {
            "format": FORMAT,
            "network": asdict(self.network),
            "backbone": asdict(self.backbone),
            "in_channels": self.in_channels,
            "height": self.height,
            "width": self.width,
            "classifier": self.classifier,
            "state_dict": state,
        }
        with atomic(path) as temporary, temporary.open("wb") as stream:
            torch.save(content, stream)  # a path's name would get into the file


def load_student(path: Path, device: str | torch.device = "cpu") -> Student:
    """Read a student's checkpoint; the model is in eval mode.

    Raises:
        LtcamError: if it is unsafe, damaged, foreign, or of another format.
    """
    remedy = "train it anew: ltcam student train --overwrite"
    content = read_tensors(path, remedy)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise LtcamError(f"{path}: is no student of this version of ltcam; {remedy}")
    try:
        network = NetworkConfig(**content.pop("network"))
        backbone = BackboneConfig(**content.pop("backbone"))
        state = content.pop("state_dict")
        model = build_network(network, content["in_channels"], backbone)
        model.load_state_dict(state)
        student = Student(model.eval(), network, backbone, **content)
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise LtcamError(f"{path}: does not fit its own description ({reason})") from error
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return student


class StudentSource:
    """The heatmap source of a student: probabilities in [0, 1], and the classifier's logits.

    Where the student is of another size than the classifier, images come at the student's, and the
    classifier sees them resized.

    Attributes:
        size: (height, width) of the images it wants; None: the classifier's.
    """

    def __init__(
        self, classifier: Classifier, student: Student, half: torch.dtype | None = None
    ) -> None:
        """Of a student and its classifier; `half`: of the student's forward, by autocast."""
        self.classifier, self.student, self.half = classifier, student, half
        same = student.size == (classifier.height, classifier.width)
        self.size = None if same else student.size

    def __call__(self, images: Tensor) -> Heatmaps:
        """Maps of normalised images (N, C, H, W), at their size."""
        with torch.inference_mode():
            size = (self.classifier.height, self.classifier.width)
            logits = self.classifier.model(images if self.size is None else resized(images, size))
            kind = images.device.type
            with torch.autocast(kind, dtype=self.half, enabled=self.half is not None):
                maps = self.student.probability(images)
        return Heatmaps([maps.float()], logits)
