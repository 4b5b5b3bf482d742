"""Networks of timm: their body with a head of ours, and their stages as feature maps.

Stages are those of timm's `feature_info`. Where they are tokens (ViT) or have their channels last
(Swin), the way to the next block leads through a feature map, whose gradient can be captured.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.classifier.heads import make_head
from ltcam_cli.errors import LtcamError, require

EXTRA = "timm"
log = logging.getLogger(__name__)


class FeatureMap(nn.Identity):
    """A stage's output as a feature map (N, K, h, w), on its way to the next block.

    It reads (N, K, h, w), (N, h, w, K), or tokens (N, P + h·w, K), of which the first P belong to
    no place.
    """

    def __init__(self, channels: int, grid: tuple[int, int], channels_last: bool) -> None:
        super().__init__()
        self.channels, self.grid, self.channels_last = channels, grid, channels_last

    def read(self, output: Tensor) -> Tensor:
        """The map of an output."""
        if output.ndim == 4:
            return output.permute(0, 3, 1, 2) if self.channels_last else output
        return output[:, self._prefix(output) :].transpose(1, 2).unflatten(2, self.grid)

    def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Forward hook of the stage: its output again, through this module."""
        A = self(self.read(output))
        if output.ndim == 4:
            return A.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self._prefix(output)], A.flatten(2).transpose(1, 2)], dim=1)

    def reads(self, output: Any) -> bool:
        """Whether an output has one of the forms."""
        if not isinstance(output, Tensor):
            return False
        if output.ndim == 4:
            return output.shape[3 if self.channels_last else 1] == self.channels
        return output.ndim == 3 and output.shape[2] == self.channels and self._prefix(output) >= 0

    def _prefix(self, output: Tensor) -> int:
        return output.shape[1] - self.grid[0] * self.grid[1]


class TimmClassifier(nn.Module):
    """A network of timm without its head: images (N, C, H, W) -> logits (N, config.logits).

    What timm normalises between its own pooling and last layer, as in ConvNeXt, stays.

    Attributes:
        mean, std: Normalisation with which timm trained it.
        stages: Module names of s1..sN.
    """

    body: Any

    def __init__(
        self, config: BackboneConfig, in_channels: int, size: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.name = str(config.model)
        self.body, self.fixed = _body(config, in_channels, size)
        given = self.body.pretrained_cfg
        self.mean, self.std = tuple(given["mean"]), tuple(given["std"])
        self.size: tuple[int, int] = size or given["input_size"][1:]
        height, width = self.size
        infos = getattr(self.body.feature_info, "info", self.body.feature_info)
        channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"

        def feature_map(channels: int, reduction: int) -> FeatureMap:
            grid = (-(-height // reduction), -(-width // reduction))
            return FeatureMap(channels, grid, channels_last)

        maps = {i["module"]: feature_map(i["num_chs"], i["reduction"]) for i in infos}
        self.last = feature_map(self.body.num_features, infos[-1]["reduction"])
        outputs = self._outputs(torch.zeros(1, in_channels, height, width), list(maps))
        found = {name: maps[name] for name in maps if maps[name].reads(outputs.get(name))}
        if not found or not self.last.reads(outputs[""]):
            raise self._fault("has no feature maps that are known")
        converted = {n: m for n, m in found.items() if outputs[n].ndim == 3 or channels_last}
        for name, each in converted.items():
            self.body.get_submodule(name).register_forward_hook(each.hook)
        self.maps = nn.ModuleList(converted.values())
        places = {name: f"maps.{number}" for number, name in enumerate(converted)}
        self.stages: Any = {
            f"s{number}": places.get(name, f"body.{name}") for number, name in enumerate(found, 1)
        }
        layers = require("timm.layers", EXTRA)
        norm = getattr(getattr(self.body, "head", None), "norm", None)
        self.normalized = isinstance(norm, layers.LayerNorm2d)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        if self.fixed and tuple(x.shape[-2:]) != self.size:
            raise self._fault(f"takes images of {self.size[0]} x {self.size[1]} alone")
        pooled = self.avgpool(self.last.read(self.body.forward_features(x)))
        if self.normalized:
            pooled = self.body.head.norm(pooled)
        return self.classifier(pooled.flatten(1))

    def attach(self, pool: nn.Module, classifier: nn.Module) -> None:
        """Set the head."""
        self.avgpool, self.classifier = pool, classifier

    def _outputs(self, images: Tensor, names: list[str]) -> dict[str, Any]:
        """What the modules of these names give, and under "" the body."""
        outputs: dict[str, Any] = {}
        modules = dict(self.body.named_modules())
        handles = [
            modules[name].register_forward_hook(
                lambda m, i, o, name=name: outputs.update({name: o})
            )
            for name in names
            if name in modules
        ]
        try:
            with torch.no_grad(), _as_timms_fault(self.name):
                outputs[""] = self.body.eval().forward_features(images)
        finally:
            self.body.train()
            for handle in handles:
                handle.remove()
        return outputs

    def _fault(self, text: str) -> LtcamError:
        return LtcamError(f"backbone.model={self.name}: {text}; choose another model or size")


def timm_classifier(
    config: BackboneConfig, in_channels: int, size: tuple[int, int] | None
) -> TimmClassifier:
    """Network of timm with random weights and one of our heads.

    Args:
        config: Backbone; `config.weights` is not read here.
        in_channels: Channels of the images, 1 or 3.
        size: Height and width of the images; None: those of timm's own training.

    Raises:
        LtcamError: If timm is missing, has no such model, or cannot build it for this size.
    """
    with torch.device("cpu"):  # its buffers are in no checkpoint
        model = TimmClassifier(config, in_channels, size)
    channels: int = model.last.channels
    head = make_head(
        config.head, channels, config.logits, config.hidden, config.dropout, config.window
    )
    model.attach(*head)
    return model


def published_weights(model: TimmClassifier, config: BackboneConfig) -> dict[str, Tensor]:
    """State dict of the body with timm's own weights, of the tag in `backbone.model`.

    Raises:
        LtcamError: If there are none, or they cannot be downloaded.
    """
    if config.weights != "DEFAULT":
        raise LtcamError(
            f"backbone.weights={config.weights}: timm names weights in the model, as in "
            "backbone.model=resnet50.a1_in1k; give DEFAULT, a file or null"
        )
    size = model.size if model.fixed else None
    return dict(_body(config, 3, size, pretrained=True)[0].state_dict())


def fitted_weights(model: TimmClassifier, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a file as timm converts it for the body, such as embeddings of positions."""
    convert = getattr(sys.modules[type(model.body).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    with _as_timms_fault(model.name):
        whole = len(inspect.signature(convert).parameters) > 1
        return dict(convert(state, model.body) if whole else convert(state))


def _body(
    config: BackboneConfig,
    in_channels: int,
    size: tuple[int, int] | None,
    pretrained: bool = False,
) -> tuple[nn.Module, bool]:
    """Body of a network of timm, and whether it takes images of one size alone."""
    timm = require("timm", EXTRA)
    create: Callable[..., Any] = timm.create_model
    name, options = str(config.model), dict(num_classes=0, global_pool="", in_chans=in_channels)
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        hint = f"; there are {close}" if close else ""
        raise LtcamError(f"backbone.model={name}: timm has no such model{hint}")
    with _as_timms_fault(name):
        given = timm.get_pretrained_cfg(name)
        fixed = bool(given and given.fixed_input_size)
        if fixed and size is not None:
            options["img_size"] = size
        body = create(name, pretrained=pretrained, **options)
    for module in body.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # a captured stage must stay
    return body, fixed


@contextmanager
def _as_timms_fault(name: str) -> Iterator[None]:
    """Errors of timm as one line; it raises many kinds.

    Raises:
        LtcamError: Naming the model.
    """
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise LtcamError(
            f"backbone.model={name}: timm cannot make it so ({text}); another size "
            "(dataset.height, dataset.width), backbone.weights=FILE or null may help"
        ) from error
