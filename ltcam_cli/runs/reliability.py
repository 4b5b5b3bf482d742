"""How far a verdict "good" can be trusted: the defect's map held against a class-agnostic one.

Our reading of "When Can We Trust Deep Neural Networks?" (2026), of which the abstract alone was at
hand: it flags false negatives by the IoU between the two heatmaps, and widens the gap by an
adversarial step. Formula, step and stage are ours; docs/kin.md says what they give.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.maps.capture import capture, frozen
from ltcam_cli.maps.fusion import upscale
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.maps.stages import resolve_layers
from ltcam_cli.masks.thresholds import make_threshold
from ltcam_cli.runs.acceptance import ReliabilityConfig

SIZE = (64, 64)  # of both maps when they are segmented


class Reliability:
    """Reliability of the verdict "good" in [0, 1]: 1 − IoU of two masks of the image.

    R = 1 − |m(D) ∩ m(C)| / |m(D) ∪ m(C)|, m Otsu's mask. D = ReLU(Σ_k g_k ∘ A_k) is the defect's
    map (HiResCAM), C the class-agnostic one, Σ_k A_k² or Σ_k |g_k ∘ A_k|, both of one layer and of
    the image x + step · sign(∂y/∂x), y the log-odds of a defect. Where what little speaks for a
    defect lies where the network sees most, the verdict is doubtful. R is 1 where nothing does.

    Attributes:
        classifier: Copy of the classifier, since others hold hooks on theirs meanwhile.
        config: Layer, class-agnostic map, and step.
        layer: Module name.

    Raises:
        LtcamError: If there is no such layer.
    """

    def __init__(self, classifier: Classifier, config: ReliabilityConfig) -> None:
        self.classifier, self.config = copy.deepcopy(classifier), config
        [self.layer] = resolve_layers(classifier.model, MapSpec("hirescam", (config.layer,)))

    def __call__(self, images: Tensor) -> np.ndarray:
        """Reliabilities (N,) of images (N, C, H, W) in [0, 1], of any size."""
        defect, agnostic = self.maps(self.stepped(self.classifier.fitted(images)))
        return 1 - mask_iou(otsu_masks(defect), otsu_masks(agnostic))

    def stepped(self, images: Tensor) -> Tensor:
        """Images (N, C, h, w) after the step against the verdict, in [0, 1] still."""
        if not self.config.step:
            return images
        classifier = self.classifier
        with torch.inference_mode(False), torch.enable_grad(), frozen(classifier.model):
            x = images.clone().requires_grad_(True)
            y = classifier.log_odds(classifier.model(classifier.prepare(x)).float())
            [gradient] = torch.autograd.grad(y.sum(), x)
        return (images + self.config.step * gradient.sign()).clamp(0, 1)

    def maps(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The defect's map and the class-agnostic one of images: (N, 64, 64) each."""
        classifier = self.classifier
        with frozen(classifier.model):
            x, target = classifier.prepare(images), classifier.defect
            layer = capture(classifier.model, x, target, [self.layer]).layers[self.layer]
        A, g = layer.A, layer.g
        assert A is not None and g is not None
        energy = self.config.agnostic == "energy"
        agnostic = (A.square() if energy else (g * A).abs()).sum(dim=1)
        both = torch.stack([(g * A).sum(dim=1).relu(), agnostic]).flatten(0, 1)
        defect, other = upscale(both, SIZE).cpu().numpy().reshape(2, len(images), *SIZE)
        return defect, other


def otsu_masks(maps: np.ndarray) -> np.ndarray:
    """Otsu's mask of each map: (N, H, W) bool; empty of a constant one."""
    threshold = make_threshold("otsu", {})
    return np.stack([threshold(each) for each in maps])


def mask_iou(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU (N,) of masks (N, H, W) with others; 0 where both are empty."""
    both = (masks & others).sum(axis=(1, 2))
    return both / np.maximum((masks | others).sum(axis=(1, 2)), 1)
