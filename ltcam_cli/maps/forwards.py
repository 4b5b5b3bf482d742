"""Further runs of a model, for weightings that read no gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ltcam_cli.classifier.kinds import ANY, any_log_odds
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.spec import Target
from ltcam_cli.maps.stages import submodule
from ltcam_cli.maps.subnetwork import Subnetwork, ablated_copies, subnetwork_after


def select_logit(logits: Tensor, target: Target) -> Tensor:
    """y (N,) of logits (N, L).

    Args:
        logits: Logits.
        target: `defect` the last, `margin` y_defect - y_good, `any` the log-odds of any of
            independent classes, or an index.
    """
    count = logits.shape[1]
    if target == "defect":
        return logits[:, -1]
    if target == "margin":
        return logits[:, -1] - logits[:, 0] if count == 2 else logits[:, -1]
    if target == ANY:
        return any_log_odds(logits)
    if isinstance(target, str):
        raise LtcamError(
            f"method.target={target}: unknown{nearest(target, ['defect', 'margin', ANY])}"
        )
    if not -count <= target < count:
        raise LtcamError(f"method.target={target}: the model has logits 0..{count - 1}")
    return logits[:, target]


def autocast(x: Tensor, dtype: torch.dtype | None) -> torch.autocast:
    """Autocast to a dtype on the device of x; off where it is None."""
    return torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def to_float32(values: Tensor) -> Tensor:
    """Half precision as float32; others as they are."""
    return values.float() if values.dtype in {torch.bfloat16, torch.float16} else values


class Forwards:
    """Runs of a model without gradients."""

    def __init__(
        self, model: nn.Module, target: Target, autocast_dtype: torch.dtype | None = None
    ) -> None:
        self.model, self.target, self.autocast_dtype = model, target, autocast_dtype
        self.subnetworks: dict[str, Subnetwork | None] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """y (M,) of images (M, C, H, W)."""
        with autocast(images, self.autocast_dtype):
            logits = self.model(images)
        return select_logit(to_float32(logits), self.target)

    @torch.no_grad()
    def ablated(self, layer: str, x: Tensor, A: Tensor, batch: int) -> Tensor:
        """y (K,) of one image when each channel of A in turn is 0.

        Only what follows the layer runs, where the model can be parted so.

        Args:
            layer: Module name.
            x: (1, C, H, W), the image.
            A: (1, K, h, w), the layer's output for it.
            batch: Channels of one run.
        """
        if layer not in self.subnetworks:
            self.subnetworks[layer] = subnetwork_after(self.model, layer)
        if (subnetwork := self.subnetworks[layer]) is not None:
            with autocast(A, self.autocast_dtype):
                logits = subnetwork.ablated(A, batch)
            return select_logit(to_float32(logits), self.target)
        return torch.cat([self._replaced(layer, x, copies) for copies in ablated_copies(A, batch)])

    def _replaced(self, layer: str, x: Tensor, output: Tensor) -> Tensor:
        """y (M,) of an image when the layer gives each of the outputs (M, K, h, w) in turn."""
        handle = submodule(self.model, layer).register_forward_hook(lambda *_: output)
        try:
            return self(x.repeat(len(output), 1, 1, 1))
        finally:
            handle.remove()
