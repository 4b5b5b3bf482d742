"""Trained student, its checkpoint, and its heatmaps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.classifier.tensors import load_state, misfit, read_tensors, write_tensors
from ltcam_cli.config import build, check_fields
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import atomic
from ltcam_cli.maps.engine import Heatmaps
from ltcam_cli.maps.tta import resized
from ltcam_cli.student.config import CropSide, NetworkConfig, Task
from ltcam_cli.student.network import MaskNet, build_network

FORMAT = 1


@dataclass
class Student:
    """Segmentation network with all that its use beside its classifier needs.

    Attributes:
        model: Model from images (N, in_channels, height, width), normalised as the classifier's, to
            logits (N, height, width).
        network: Architecture of the model.
        backbone: Architecture of the classifier.
        in_channels, height, width: Size of the input.
        classifier: SHA-256 of the classifier's checkpoint.
        task: Whether the model judges whole images, too, and scales its features by that.
    """

    model: MaskNet
    network: NetworkConfig
    backbone: BackboneConfig
    in_channels: Literal[1, 3]
    height: CropSide
    width: CropSide
    classifier: str
    task: Task = "mask"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def probability(self, images: Tensor) -> Tensor:
        """Probability (N, H, W) of a defect at each pixel of normalised images (N, C, H, W)."""
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
            "task": self.task,
            "state_dict": state,
        }
        with atomic(path) as temporary:
            write_tensors(content, temporary)


def load_student(path: Path, device: str | torch.device = "cpu") -> Student:
    """Student of a checkpoint; its model is in eval mode.

    Raises:
        LtcamError: if the file is unsafe, damaged, foreign, or of another format.
    """
    remedy = "train it anew: ltcam student train --overwrite"
    content = read_tensors(path, remedy)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise LtcamError(f"{path}: is no student of this version of ltcam; {remedy}")
    try:
        network = build(NetworkConfig, content.pop("network"))
        backbone = build(BackboneConfig, content.pop("backbone"))
        state = content.pop("state_dict")
        check_fields(Student, content)
        with torch.device("meta"):
            model = build_network(
                network, content["in_channels"], backbone, task=content.get("task", "mask")
            )
        load_state(model, state)
        student = Student(model.eval(), network, backbone, **content)
    except (KeyError, TypeError, RuntimeError, LtcamError) as error:
        raise misfit(path, error, remedy) from error
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return student


class StudentSource:
    """Heatmap source of a student: probabilities in [0, 1], and the classifier's logits or its own.

    Where the student is of another size than the classifier, images come at the student's, and the
    classifier sees them resized.

    Attributes:
        size: Height and width of the images; None: the classifier's.
    """

    def __init__(
        self,
        classifier: Classifier,
        student: Student,
        autocast_dtype: torch.dtype | None = None,
        decides: bool = False,
    ) -> None:
        """Join a student and its classifier.

        Args:
            classifier: Classifier of the run.
            student: Its student.
            autocast_dtype: Type of 16 bits that the student runs in; None: float32.
            decides: Whether the student's decision takes the place of the classifier's.

        Raises:
            LtcamError: if it shall decide and was not trained to.
        """
        if decides and student.task != "multi":
            raise LtcamError(
                "method.verdict=student: this student judges pixels alone; train one that judges "
                "images: ltcam student train student.task=multi"
            )
        self.decides = decides
        self.classifier, self.student = classifier, student
        self.autocast_dtype = autocast_dtype
        same = student.size == classifier.size
        self.size = None if same else student.size

    def __call__(self, images: Tensor) -> Heatmaps:
        """Maps of normalised images (N, C, H, W), at their size."""
        heatmaps = self.maps(images)
        if self.decides:
            return heatmaps
        small = images if self.size is None else resized(images, self.classifier.size)
        with torch.inference_mode():
            return replace(heatmaps, logits=self.classifier.model(small))

    def maps(self, images: Tensor) -> Heatmaps:
        """The same without the classifier's logits."""
        dtype = self.autocast_dtype
        with torch.inference_mode():
            with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
                pixels, decision = self.student.model.judge(images)
                maps = torch.sigmoid(pixels)
            logits = images.new_empty(len(images), 0)
            if self.decides:
                assert decision is not None
                logits = (decision - self.classifier.prior_shift)[:, None]  # which is added again
        return Heatmaps([maps.float()], logits)
