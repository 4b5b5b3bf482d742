"""Training guided by a first classifier: the second one learns to look where the first one looked.

Two phases, as in *Network Knowledge Prior Guided Learning* (2026), of which we have the abstract
alone; the maps and the loss are our choice.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ltcam_cli.classifier.checkpoint import Classifier, load_classifier
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.layer import Layer
from ltcam_cli.maps.stages import main_stages
from ltcam_cli.maps.weightings import combine, gradcam


class Guide:
    """A trained classifier whose maps are the prior."""

    def __init__(self, path: Path, classifier: Classifier) -> None:
        """Load the guide of a classifier's training from a checkpoint.

        Raises:
            LtcamError: If there is no such checkpoint, or its images have another size or depth.
        """
        device = next(classifier.model.parameters()).device
        self.guide = load_classifier(path, device)
        self.guide.model.requires_grad_(False)
        if self.guide.takes != classifier.takes:
            raise LtcamError(
                f"trainer.guide={path}: takes images of {self.guide.takes}, this training of "
                f"{classifier.takes}"
            )

    def maps(self, pixels: Tensor) -> Tensor:
        """The guide's maps (N, h, w) of images (N, C, H, W) in [0, 1]."""
        return saliency(self.guide, self.guide.prepare(pixels))[1].detach()


def saliency(
    classifier: Classifier, images: Tensor, *, differentiable: bool = False
) -> tuple[Tensor, Tensor]:
    """Logits, and Grad-CAM of the last stage divided by each image's maximum, from one forward.

    Args:
        classifier: Classifier with its model in train or eval mode.
        images: (N, C, H, W), prepared.
        differentiable: Whether the maps can be differentiated themselves.

    Returns:
        (N, L), and (N, h, w) float32 in [0, 1]: all 0 where nothing speaks for a defect.
    """
    name = main_stages(classifier.model)[-1]
    outputs: list[Tensor] = []

    def record(module: object, inputs: object, output: Tensor) -> Tensor:
        outputs.append(output if output.requires_grad else output.detach().requires_grad_(True))
        return outputs[0]

    handle = classifier.model.get_submodule(name).register_forward_hook(record)
    try:
        logits = classifier.model(images)
    finally:
        handle.remove()
    [A] = outputs
    y = classifier.log_odds(logits).sum()
    (g,) = torch.autograd.grad(y, A, create_graph=differentiable, retain_graph=differentiable)
    layer = Layer(name, A.float(), g.float())
    M = combine(gradcam(layer), layer.A)
    highest = M.amax(dim=(1, 2), keepdim=True)
    return logits, M / torch.where(highest > 0, highest, 1)


def consistency(maps: Tensor, prior: Tensor, labels: Tensor) -> Tensor:
    """Mean squared difference of maps, over the defective images that the guide has a map of.

    Args:
        maps: (N, h, w), of the classifier that is trained.
        prior: (N, h', w'), of the guide.
        labels: (N,) 0, 1, or shares of a defect.
    """
    prior = F.interpolate(prior[:, None], maps.shape[1:], mode="bilinear", antialias=True)[:, 0]
    counted = (labels > 0) & (prior.amax(dim=(1, 2)) > 0)
    difference = (maps - prior).square().mean(dim=(1, 2))
    return (difference * counted).sum() / counted.sum().clamp_min(1)
