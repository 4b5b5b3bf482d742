"""Backbones, their stages and heads; weights; checkpoints."""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from toys import SLIM, tiny_classifier

from ltcam_cli.classifier.backbones import BACKBONES, build_classifier, freeze_batch_norm
from ltcam_cli.classifier.checkpoint import Classifier, load_classifier, prior_shift
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.classifier.heads import LsePool
from ltcam_cli.classifier.train import classification_loss
from ltcam_cli.classifier.weights import (
    _is_name,
    load_weights,
    read_state,
)
from ltcam_cli.errors import LtcamError

HEADS = ("fc", "avg", "max", "lse")
HEAVY = ("vgg16", "vgg16_bn")  # half a gigabyte with their own head
VGG = ("features.3", "features.8", "features.15", "features.22", "features.29")
VGG_BN = ("features.5", "features.12", "features.22", "features.32", "features.42")
RESNET = ("relu", "layer1", "layer2", "layer3", "layer4")


def following(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"features.{int(name.split('.')[1]) + 1}" for name in names)


STAGES = {
    "vgg16": (VGG, following(VGG)),
    "vgg16_bn": (VGG_BN, following(VGG_BN)),
    "vgg16_slim": (VGG_BN, following(VGG_BN)),
    "resnet18": (RESNET, ("maxpool",)),
    "resnet50": (RESNET, ("maxpool",)),
    "squeezenet1_1": (
        ("features.1", "features.4", "features.7", "features.12"),
        ("features.2", "features.5", "features.8"),
    ),
    "mobilenet_v2": (
        tuple(f"features.{n}" for n in ("2.conv.0", "4.conv.0", "7.conv.0", "14.conv.0", "18")),
        (),
    ),
}


def config(name: str, head: str = "avg", logits: int = 1, **options: Any) -> BackboneConfig:
    return BackboneConfig(name, head, logits, hidden=8, weights=None, **options)


def one_line(raised: pytest.ExceptionInfo[LtcamError]) -> str:
    message = str(raised.value)
    assert "\n" not in message
    return message


# Networks


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in BACKBONES],
)
def test_every_backbone_with_every_head(name: str, head: str) -> None:
    for logits, channels in ((1, 1), (2, 3)):
        model = build_classifier(config(name, head, logits), channels).eval()
        with torch.no_grad():
            y = model(torch.rand(2, channels, 64, 33))
        assert y.shape == (2, logits) and y.isfinite().all()


@pytest.mark.parametrize("name", BACKBONES)
def test_stages(name: str) -> None:
    with torch.device("meta"):
        model = build_classifier(config(name), 3)
    s, p = STAGES[name]
    assert model.stages == {
        **{f"s{k}": module for k, module in enumerate(s, 1)},
        **{f"p{k}": module for k, module in enumerate(p, 1)},
    }


# The modules that reduce the resolution of s1, s2, … where no pooling layer does.
NEXT = {
    "resnet18": ("maxpool", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1"),
    "resnet50": ("maxpool", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"),
    "mobilenet_v2": tuple(f"features.{n}.conv.1" for n in (2, 4, 7, 14)),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_end_where_the_resolution_falls(name: str) -> None:
    device = "meta" if name in HEAVY else "cpu"  # shapes without numbers
    with torch.device(device):
        model = build_classifier(config(name), 3).eval()
    outputs: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            outputs.setdefault(name, output)  # a module that is called again counts once

        return hook

    for module_name, module in model.named_modules():
        module.register_forward_hook(record(module_name))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 96, device=device))
    sizes = {module: output.shape[-2:] for module, output in outputs.items() if output.ndim == 4}
    s, p = STAGES[name]
    reducing = NEXT.get(name, p)
    for stage, reduces in zip(s, reducing, strict=False):
        assert sizes[reduces].numel() < sizes[stage].numel() / 2.5
    for shallow, deep in pairwise(s):
        assert sizes[shallow].numel() > 2.5 * sizes[deep].numel()
    if name in NEXT or name == "squeezenet1_1":  # and nothing after the last stage but the head
        assert len(reducing) == len(s) - 1
    coarse = [module for module in sizes if sizes[module] == sizes[s[-1]]]
    body = [module for module in coarse if module.startswith(("features.", "layer"))]
    assert body[-1] in {s[-1], f"{s[-1]}.2"}
    for stage in s if device == "cpu" else ():
        assert (outputs[stage] >= 0).all() and (outputs[stage] > 0).any()


@pytest.mark.parametrize("head", HEADS)
def test_logits_may_be_negative(head: str) -> None:
    model = build_classifier(config("squeezenet1_1", head, 2), 3).eval()
    with torch.no_grad():
        y = torch.cat([model(torch.randn(8, 3, 64, 64) * 3) for _ in range(3)])
        list(model.parameters())[-1].fill_(-1)  # the last layer's bias
        assert (model(torch.zeros(1, 3, 64, 64)) < 0).any()
    assert y.isfinite().all()


def test_lse_lies_between_mean_and_max() -> None:
    x = torch.randn(3, 4, 6, 5) * 2
    pooled = LsePool()(x)[:, :, 0, 0]
    assert pooled.shape == (3, 4)
    assert (pooled > x.mean(dim=(2, 3))).all() and (pooled < x.amax(dim=(2, 3))).all()
    exact = np.log(np.mean(np.exp(4 * x.double().numpy()), axis=(2, 3))) / 4
    np.testing.assert_allclose(pooled, exact, atol=1e-5)
    torch.testing.assert_close(LsePool(1e-4)(x)[..., 0, 0], x.mean(dim=(2, 3)), atol=5e-3, rtol=0)
    torch.testing.assert_close(LsePool(1e3)(x)[..., 0, 0], x.amax(dim=(2, 3)), atol=5e-3, rtol=0)
    assert LsePool()(torch.full((1, 1, 2, 2), 1e4)).item() == pytest.approx(1e4)


def test_slim_is_vgg16_at_a_quarter_of_its_width() -> None:
    slim = build_classifier(BackboneConfig("vgg16_slim", "fc", 1, hidden=64, weights=None), 1)
    with torch.device("meta"):
        full = build_classifier(config("vgg16_bn"), 1)
    widths = [
        [m.out_channels for m in model.features if isinstance(m, nn.Conv2d)]
        for model in (slim, full)
    ]
    assert [4 * width for width in widths[0]] == widths[1]
    assert 1.2e6 < sum(p.numel() for p in slim.parameters()) < 1.4e6
    assert slim.stages["s1"] == "features.5"


@pytest.mark.parametrize("name", ["vgg16_slim", "resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_grey_input(name: str) -> None:
    grey, colour = (build_classifier(config(name), channels) for channels in (1, 3))
    first = [next(m for m in net.modules() if isinstance(m, nn.Conv2d)) for net in (grey, colour)]
    assert [conv.in_channels for conv in first] == [1, 3]
    for attribute in ("out_channels", "kernel_size", "stride", "padding"):
        assert getattr(first[0], attribute) == getattr(first[1], attribute)
    assert (first[0].bias is None) == (first[1].bias is None)
    assert grey.stages == colour.stages
    assert list(grey.state_dict()) == list(colour.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vgg61"}, r"backbone\.name=vgg61: unknown; did you mean 'vgg16'"),
        ({"head": "lsse"}, r"backbone\.head=lsse: unknown; did you mean 'lse'"),
        ({"logits": 0}, r"backbone\.logits=0: must be a whole number of at least 1"),
        ({"dropout": math.nan}, r"backbone\.dropout=nan: must be a number .* below 1"),
    ],
)
def test_wrong_backbones(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LtcamError, match=message) as raised:
        BackboneConfig(**options)
    one_line(raised)


def test_every_backbone_that_a_config_may_name_is_there() -> None:
    names = get_args(get_type_hints(BackboneConfig)["name"])
    assert ["auto", *BACKBONES, "timm"] == list(names)


# Frozen batch norm


def test_frozen_batch_norm_stays() -> None:
    model = build_classifier(config("vgg16_slim", "fc"), 1)
    model.train()
    freeze_batch_norm(model)
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms and model.training and not any(m.training for m in norms.values())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        classification_loss(model(torch.rand(4, 1, 32, 32)), torch.tensor([0, 1, 0, 1])).backward()
        optimizer.step()
    for key, value in model.state_dict().items():
        of_norm = key.rpartition(".")[0] in norms
        assert torch.equal(value, before[key]) == of_norm, key


# Weights


def body_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if k.startswith("features.")}


def same_body(model: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in body_of(model).items())


@pytest.fixture(scope="module")
def squeeze() -> dict[str, Tensor]:
    """The state dict of an unchanged SqueezeNet with other weights than a new one's."""
    torch.manual_seed(5)
    return models.squeezenet1_1().state_dict()


def squeezenet(weights: str | Path) -> BackboneConfig:
    return BackboneConfig("squeezenet1_1", "max", 1, weights=str(weights))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 7},
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {
            "epoch": 3,
            "state_dict": {f"model._orig_mod.module.{k}": v for k, v in state.items()}
            | {"loss.pos_weight": torch.ones(1)},
        },
        lambda state: {
            "model_state_dict": {"net": {f"_orig_mod.{k}": v for k, v in state.items()}}
        },
        lambda state: {"net": OrderedDict((f"net.{k}", v) for k, v in state.items()), "acc": 0.9},
        lambda state: {k: v for k, v in state.items() if k.startswith("features.")},
        lambda state: {
            k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")
        },
    ],
    ids=[
        "whole",
        "state_dict",
        "model",
        "module.",
        "Lightning",
        "compiled",
        "net.",
        "features.",
        "features alone",
    ],
)
def test_weights_from_a_file(tmp_path: Path, squeeze: dict[str, Tensor], wrap: Any) -> None:
    torch.save(wrap(squeeze), tmp_path / "weights.pth")
    model = build_classifier(squeezenet(tmp_path / "weights.pth"), 3)
    assert not same_body(model, squeeze)
    load_weights(model, squeezenet(tmp_path / "weights.pth"))
    assert same_body(model, squeeze)


def test_batch_norm_counters_may_be_missing(tmp_path: Path) -> None:
    whole = models.mobilenet_v2().state_dict()
    counters = [key for key in whole if key.endswith("num_batches_tracked")]
    assert counters
    torch.save({k: v for k, v in whole.items() if k not in counters}, tmp_path / "w.pth")
    mobile = BackboneConfig("mobilenet_v2", "avg", weights=str(tmp_path / "w.pth"))
    model = build_classifier(mobile, 3)
    load_weights(model, mobile)
    assert same_body(model, whole)


def test_no_weights_change_nothing() -> None:
    model = build_classifier(SLIM, 1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_weights(model, SLIM)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_vgg_head_is_filled_where_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small stand-in for VGG16: two hidden layers are taken over, the last one is ours."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
            self.classifier = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 9))

    whole = Small()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    model = Small()
    model.classifier[-1] = nn.Linear(5, 1)
    last = model.classifier[-1].weight.clone()
    load_weights(model, BackboneConfig("vgg16", "fc", weights=str(tmp_path / "w.pth")))
    assert torch.equal(model.features[0].weight, whole.features[0].weight)
    assert torch.equal(model.classifier[0].weight, whole.classifier[0].weight)
    assert torch.equal(model.classifier[-1].weight, last)


def test_first_misfit_is_named(tmp_path: Path, squeeze: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pth"
    lacking = OrderedDict((k, v) for k, v in squeeze.items() if not k.startswith("features.6"))
    torch.save(lacking, path)
    model = build_classifier(squeezenet(path), 3)
    before = body_of(model)["features.0.weight"].clone()
    message = rf"backbone\.weights={path}: has no features\.6\.squeeze\.weight; .*=squeezenet1_1"
    with pytest.raises(LtcamError, match=message) as raised:
        load_weights(model, squeezenet(path))
    one_line(raised)
    torch.save(squeeze | {"features.3.squeeze.bias": torch.zeros(3)}, path)
    message = r"features\.3\.squeeze\.bias has shape \(3,\) instead of \(16,\)"
    with pytest.raises(LtcamError, match=message) as raised:
        load_weights(model, squeezenet(path))
    one_line(raised)
    assert torch.equal(body_of(model)["features.0.weight"], before)
    torch.save(models.resnet18().state_dict(), path)
    with pytest.raises(LtcamError, match=r"has no features\.0\.weight"):
        load_weights(model, squeezenet(path))


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(LtcamError, match=r"none\.pth: no such weights; give a file, .* or null"):
        read_state(tmp_path / "none.pth")


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def save_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("read", [read_state, load_classifier])
@pytest.mark.parametrize("save", [torch.save, save_pickle])
def test_unsafe_files_are_never_executed(tmp_path: Path, read: Any, save: Any) -> None:
    sprung = tmp_path / "sprung"
    save({"state_dict": Trap(sprung), "format": 1}, tmp_path / "trap.pth")
    with pytest.raises(LtcamError, match="more than tensors and is not loaded") as raised:
        read(tmp_path / "trap.pth")
    one_line(raised)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()  # the trap works


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 half a zip"])
def test_files_that_are_no_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    for read in (read_state, load_classifier):
        with pytest.raises(LtcamError, match=r"w\.pth") as raised:
            read(tmp_path / "w.pth")
        one_line(raised)


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, torch.zeros(3)])
def test_files_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(LtcamError, match="holds no state dict"):
        read_state(tmp_path / "w.pth")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, squeeze: dict[str, Tensor]) -> list[str]:
    """torchvision's download, played: what was asked for."""
    asked: list[str] = []

    def get_state_dict(weights: Any, **_: Any) -> dict[str, Tensor]:
        asked.append(str(weights))
        return squeeze

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", get_state_dict)
    return asked


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1"])
def test_weights_of_torchvision(
    name: str, published: list[str], squeeze: dict[str, Tensor]
) -> None:
    model = build_classifier(squeezenet(name), 3)
    load_weights(model, squeezenet(name))
    assert published == ["SqueezeNet1_1_Weights.IMAGENET1K_V1"]
    assert same_body(model, squeeze)


def test_unknown_weights_of_torchvision(published: list[str]) -> None:
    message = "IMAGENET1K_V9: torchvision has no such weights .* did you mean 'IMAGENET1K_V1'"
    with pytest.raises(LtcamError, match=message) as raised:
        load_weights(build_classifier(squeezenet("IMAGENET1K_V9"), 3), squeezenet("IMAGENET1K_V9"))
    one_line(raised)
    assert published == []


def test_slim_has_no_published_weights() -> None:
    slim = replace(SLIM, weights="DEFAULT")
    with pytest.raises(LtcamError, match=r"no published weights; .*backbone\.weights=FILE.* null"):
        load_weights(build_classifier(slim, 3), slim)


@pytest.mark.parametrize(
    "error", [URLError("no route to host"), RuntimeError("invalid hash value")]
)
def test_a_failed_download_names_the_ways_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def get_state_dict(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", get_state_dict)
    message = r"DEFAULT: cannot be downloaded .*backbone\.weights=FILE, .* with null"
    with pytest.raises(LtcamError, match=message) as raised:
        load_weights(build_classifier(squeezenet("DEFAULT"), 3), squeezenet("DEFAULT"))
    one_line(raised)


# Models that others trained


def unchanged(name: str, classes: int) -> nn.Module:
    """torchvision's own model, with other batch norms than a new one's."""
    torch.manual_seed(3)
    model = getattr(models, name)(num_classes=classes).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY),
        "resnet18",
        "resnet50",
        "mobilenet_v2",
        "squeezenet1_1",
    ],
)
def test_imported_models_have_the_same_logits(name: str) -> None:
    theirs = unchanged(name, 4)
    ours = build_classifier(config(name, "own", 4), 3).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 70, 64)
    with torch.no_grad():
        expected = theirs(images)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=1e-4)


def test_slim_has_no_head_of_torchvision() -> None:
    with pytest.raises(LtcamError, match=r"backbone\.head=own: vgg16_slim is not torchvision's"):
        build_classifier(config("vgg16_slim", "own"), 3)


# Checkpoints


@pytest.fixture
def classifier() -> Classifier:
    made = tiny_classifier(replace(SLIM, logits=2))
    made.threshold, made.prior_shift = 0.3, -1.25
    made.metrics = {"test_ap": 0.5, "threshold_rule": "f1"}
    return made


def test_checkpoint_round_trip(tmp_path: Path, classifier: Classifier) -> None:
    classifier.save(tmp_path / "c.pt")
    loaded = load_classifier(tmp_path / "c.pt")
    assert not loaded.model.training
    assert loaded.model.stages == classifier.model.stages
    for name in Classifier.__dataclass_fields__:
        if name != "model":
            assert getattr(loaded, name) == getattr(classifier, name), name
    images = torch.rand(5, 1, 32, 32)
    with torch.no_grad():
        expected = classifier.model(classifier.prepare(images))
        assert torch.equal(loaded.model(loaded.prepare(images)), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_checkpoints_hold_plain_values(tmp_path: Path, classifier: Classifier) -> None:
    classifier.save(tmp_path / "c.pt")
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    assert content["format"] == 1
    assert content["backbone"]["name"] == "vgg16_slim" and content["backbone"]["head"] == "avg"
    assert content["classes"] == ["good", "defective"]
    assert (content["height"], content["width"], content["in_channels"]) == (32, 32, 1)
    assert (content["mean"], content["std"], content["threshold"]) == ([0.5], [0.25], 0.3)
    assert content["metrics"] == classifier.metrics
    assert all(isinstance(value, Tensor) for value in content["state_dict"].values())


def test_a_run_folder_stands_for_its_checkpoint(tmp_path: Path, classifier: Classifier) -> None:
    (tmp_path / "train").mkdir()
    classifier.save(tmp_path / "train" / "checkpoint.pt")
    assert load_classifier(str(tmp_path)).threshold == 0.3


def test_missing_checkpoint_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(LtcamError, match=r"checkpoint\.pt: no such checkpoint; .*ltcam train"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "written by another version of ltcam"),
        ({"backbone": {"name": "resnet18", "head": "avg", "logits": 2}}, "does not fit its own"),
        ({"backbone": {"colour": "blue"}}, "does not fit its own description .*colour"),
        (
            {"backbone": {"name": "alexnet"}},
            "does not fit its own .*backbone.name=alexnet: unknown",
        ),
        ({"state_dict": {}}, "does not fit its own description"),
        ({"surprise": 1}, "does not fit its own description .*surprise"),
    ],
)
def test_foreign_checkpoints(
    tmp_path: Path, classifier: Classifier, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "c.pt"
    classifier.save(path)
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(LtcamError, match=message) as raised:
        load_classifier(path)
    one_line(raised)


def test_weights_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save(tiny_classifier().model.state_dict(), tmp_path / "w.pt")
    with pytest.raises(LtcamError, match=r"is no ltcam checkpoint; .*ltcam import"):
        load_classifier(tmp_path / "w.pt")


def test_weights_of_a_checkpoint_may_start_another_training(
    tmp_path: Path, classifier: Classifier
) -> None:
    classifier.save(tmp_path / "c.pt")
    other = replace(SLIM, head="max", logits=1, weights=str(tmp_path / "c.pt"))
    model = build_classifier(other, 1)
    load_weights(model, other)
    assert same_body(model, classifier.model.state_dict())


def test_prepare(classifier: Classifier) -> None:
    images = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(classifier.prepare(images), (images - 0.5) / 0.25)
    colour = replace(classifier, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    images = torch.rand(2, 3, 4, 4)
    expected = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [1.0, 2.0, 4.0]
    ).view(3, 1, 1)
    torch.testing.assert_close(colour.prepare(images), expected)


# Probabilities


@pytest.mark.parametrize(("count", "defect"), [(1, -1), (2, -1), (2, 0), (5, -1), (5, 2), (5, 0)])
def test_log_odds_and_probability(classifier: Classifier, count: int, defect: int) -> None:
    logits = torch.randn(6, count, dtype=torch.float64) * 3
    made = replace(classifier, defect=defect, prior_shift=-0.7)
    values = logits.numpy()
    if count == 1:
        odds = values[:, 0]
    else:
        share = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
        odds = np.log(share[:, defect] / (1 - share[:, defect]))
    np.testing.assert_allclose(made.log_odds(logits), odds, atol=1e-12)
    np.testing.assert_allclose(made.probability(logits), 1 / (1 + np.exp(0.7 - odds)), atol=1e-12)


def test_prior_shift() -> None:
    assert prior_shift(10, 20) == 0
    assert prior_shift(42, 319) == pytest.approx(math.log(42 / 277))
    # An image as likely good as defective in balanced batches has the true share's probability.
    made = replace(tiny_classifier(), prior_shift=prior_shift(42, 319))
    assert made.probability(torch.zeros(1, 1)).item() == pytest.approx(42 / 319)


def test_loss() -> None:
    labels = torch.tensor([0, 1, 1])
    one = torch.randn(3, 1, dtype=torch.float64)
    p = 1 / (1 + np.exp(-one[:, 0].numpy()))
    expected = -np.mean(np.log(np.where(labels.numpy(), p, 1 - p)))
    assert classification_loss(one, labels).item() == pytest.approx(expected)
    two = torch.cat([torch.zeros_like(one), one], dim=1)  # the same odds
    assert classification_loss(two, labels).item() == pytest.approx(expected)


def test_named_weights_need_no_file_of_that_name(published: list[str]) -> None:
    assert _is_name("DEFAULT") and _is_name("IMAGENET1K_V2")
    assert not _is_name("DEFAULT.pth")
