import gc
import weakref
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from nets import Tiny, bilinear, hooked, pictures, randomize, read, tiny, truncated
from torch import nn
from torchvision import models

from ltcam_cli.classifier.backbones import BackboneConfig, build_classifier
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps import weightings
from ltcam_cli.maps.capture import capture, frozen
from ltcam_cli.maps.engine import CamEngine, explain
from ltcam_cli.maps.folding import folded
from ltcam_cli.maps.forwards import select_logit
from ltcam_cli.maps.spec import Fusion, FusionRule, MapSpec
from ltcam_cli.maps.weightings import get_weighting, weighting

NAMES = ["gradcam", "gradcampp", "xgradcam", "layercam", "hirescam", "eigencam",
         "ablationcam", "scorecam", "fullgrad"]  # fmt: skip
READING = [name for name in NAMES if get_weighting(name).reads_gradients]


def specs_of(names, layers):
    """Many: every weighting, scope, form, rule."""
    for name in names:
        for where in layers:
            yield MapSpec(name, where)
            if get_weighting(name).reads_gradients:
                for delta in (0.0, 50.0, 90.0):
                    yield MapSpec(name, where, delta=delta)
                    yield MapSpec(name, where, delta=delta, scope="layer")
    for rule in get_args(FusionRule):
        yield MapSpec("gradcam", layers[0], delta=50.0, fusion=Fusion(rule, "minmax"))
    yield MapSpec("gradcam", layers[0], delta=50.0, form="mask")
    yield MapSpec("gradcam", layers[0], delta=50.0, form="mask_relu")


def assert_near(found, expected, tolerance):
    """Equal to `tolerance` of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1e-12)


def snapshot(model):
    return (
        {name: module.training for name, module in model.named_modules()},
        {name: p.requires_grad for name, p in model.named_parameters()},
        {name: p.grad for name, p in model.named_parameters()},
        {
            name: [len(getattr(module, hooks)) for hooks in vars(module) if hooks.endswith("hooks")]
            for name, module in model.named_modules()
        },
        {name: value.sum().item() for name, value in model.state_dict().items()},
    )


class Counter:
    """How often a model runs."""

    def __init__(self, model):
        self.count = 0
        self.handle = model.register_forward_pre_hook(self)

    def __call__(self, *_):
        self.count += 1


# One capture for many specs


LAYERS = [("all",), ("last",), ("s1",), ("s2", "s1"), ("features.0",), ("p1", "features.3")]


def test_many_specs_are_the_single_ones():
    net, x = tiny(), pictures()
    specs = list(specs_of([name for name in NAMES if name != "fullgrad"], LAYERS))
    specs += list(specs_of(["fullgrad"], LAYERS[:4]))
    for spec, together in zip(specs, explain(net, x, specs), strict=True):
        assert together.shape == (2, 12, 8)
        assert_near(together, explain(net, x, [spec])[0], 1e-9)


def test_a_batch_is_its_images():
    net, x = tiny(), pictures(3)
    x[1] *= 30
    specs = list(specs_of(NAMES, LAYERS[:3]))
    singly = [explain(net, image[None], specs) for image in x]
    for n, together in enumerate(explain(net, x, specs)):
        for image in range(3):
            assert_near(together[image], singly[image][n][0], 1e-9)


def test_in_single_precision_too():
    net = randomize(build_classifier(BackboneConfig("resnet18", "fc", 2, hidden=8), 3))
    x = pictures(2, (64, 48)).float()
    specs = list(specs_of(READING, [("all",), ("last",), ("s3", "s4")]))
    singly = [explain(net, image[None], specs) for image in x]
    maps = explain(net, x, specs)
    for n, (spec, together) in enumerate(zip(specs, maps, strict=True)):
        assert together.dtype == torch.float32 and together.shape == (2, 64, 48)
        if n % 4 == 0:
            assert_near(together, explain(net, x, [spec])[0], 1e-6)
        # A gradient at the threshold may fall to either side when its last bit differs.
        tolerance = 1e-5 if spec.delta is None else 1e-3
        for image in range(2):
            assert_near(together[image], singly[image][n][0], tolerance)


@pytest.mark.parametrize("name", ["gradcam", "fullgrad"])
def test_nothing_of_a_batch_waits_for_the_garbage_collector(name, monkeypatch):
    """Few but large objects: it would come late, and memory would grow with the images."""
    seen, plain = [], weightings._REGISTRY[name]

    def spy(layer):
        seen.extend(weakref.ref(value) for value in (layer.A, layer.g) if value is not None)
        return plain.function(layer)

    monkeypatch.setitem(weightings._REGISTRY, name, replace(plain, function=spy))
    gc.collect()
    gc.disable()
    try:
        explain(tiny(), pictures(), [MapSpec(name, ("all",))])
        assert len(seen) > 1 and all(reference() is None for reference in seen)
    finally:
        gc.enable()


def test_in_bfloat16():
    """Maps are near those of single precision, float32, and the model is left as it was."""
    net, x = tiny().float(), pictures().float()
    specs = [
        MapSpec(name, ("features.1", "features.4") if name != "fullgrad" else ("all",), delta)
        for name in ("gradcam", "gradcampp", "xgradcam", "layercam", "fullgrad")
        for delta in (None, 0.0, 50.0)
    ] + [MapSpec("ablationcam", ("features.4",)), MapSpec("scorecam", ("features.4",))]
    full, half = CamEngine(net, specs)(x), CamEngine(net, specs, torch.bfloat16)(x)
    assert half.logits.dtype == torch.float32 and not torch.equal(half.logits, full.logits)
    for spec, near, exact in zip(specs, half.maps, full.maps, strict=True):
        assert near.dtype == torch.float32
        assert not torch.equal(near, exact), spec
        error = (near - exact).abs().mean() / exact.abs().mean().clamp_min(1e-30)
        assert error < 0.1, (spec, error)
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_the_same_spec_twice_is_the_same_map_twice():
    net, x = tiny(), pictures()
    for spec in (MapSpec("gradcam", ("all",)), MapSpec("layercam", ("all",), delta=50.0)):
        (once,) = explain(net, x, [spec])
        assert once.max() > 0
        for again in explain(net, x, [spec, spec]):
            assert_near(again, once, 1e-12)
    # What differs by its target alone is the same where the target is given.
    specs = [MapSpec("gradcam", target="margin"), MapSpec("gradcam", target=0)]
    (expected,) = explain(net, x, [MapSpec("gradcam", target="defect")])
    assert all(torch.equal(found, expected) for found in explain(net, x, specs, "defect"))


def test_no_spec_no_map():
    assert explain(tiny(), pictures(), []) == []


def test_layers_in_a_list_and_in_a_string():
    net, x = tiny(), pictures()
    specs = [MapSpec("gradcam", layers) for layers in (("s1", "s2"), ["s1", "s2"], "s1+s2", "all")]
    first, *others = explain(net, x, specs)
    assert all(torch.equal(first, other) for other in others)


def test_one_forward_for_all_specs_of_a_target():
    net, x = tiny(), pictures()
    counter = Counter(net)
    explain(net, x, list(specs_of(READING, LAYERS[:3])))
    assert counter.count == 1
    targets = [MapSpec("gradcam", target=target) for target in ("defect", "margin", 0)]
    explain(net, x, targets * 2)
    assert counter.count == 1 + 3
    # Ablation-CAM runs only what follows its layer; Score-CAM 2 images x 5 channels, 2 at once.
    explain(net, x, [MapSpec("ablationcam", options=(("batch", 1),)), *targets[:1]])
    assert counter.count == 4 + 1
    explain(net, x, [MapSpec("scorecam", options=(("batch", 2),))])
    assert counter.count == 5 + 1 + 6


def test_the_source_gives_the_logits():
    net, x = tiny(), pictures()
    found = CamEngine(net, [MapSpec("gradcam"), MapSpec("gradcam", target=0)])(x)
    torch.testing.assert_close(found.logits, net(x).detach())
    assert not found.logits.requires_grad and not any(M.requires_grad for M in found.maps)


# Targets


@pytest.mark.parametrize(
    ("logits", "target", "weights"),
    [
        (1, "defect", [1]),
        (1, "margin", [1]),
        (1, 0, [1]),
        (2, "defect", [0, 1]),
        (2, "margin", [-1, 1]),
        (2, 0, [1, 0]),
        (2, 1, [0, 1]),
        (2, -2, [1, 0]),
        (4, 2, [0, 0, 1, 0]),
    ],
)
def test_targets(logits, target, weights):
    net, x = tiny(logits=logits), pictures()
    torch.testing.assert_close(
        select_logit(net(x), target), net(x) @ torch.tensor(weights).double()
    )
    g = sum(w * read(net, x, 1, index)[1] for index, w in enumerate(weights))
    with frozen(net):
        seen = capture(net, x, target, ("features.1",))
    np.testing.assert_allclose(seen.layers["features.1"].g, g, atol=1e-12)
    spec = MapSpec("gradcam", ("s1",), target=target)
    (inside,), (outside,) = (
        explain(net, x, [spec]),
        explain(net, x, [MapSpec("gradcam", "s1")], target),
    )
    assert torch.equal(inside, outside)


# Names of layers


def test_stages_are_modules():
    net, x = tiny(), pictures()
    names = [("s1", "features.1"), ("s2", "features.4"), ("p1", "features.2"), ("last", "s2")]
    for one, other in [*names, ("all", "features.1+features.4")]:
        for name in ("gradcam", "ablationcam"):
            maps = explain(net, x, [MapSpec(name, one), MapSpec(name, other)])
            assert torch.equal(*maps)
    A, g = read(net, x, 2)
    M = np.maximum((g.mean(axis=(2, 3))[:, :, None, None] * A).sum(axis=1), 0)
    (found,) = explain(net, x, [MapSpec("gradcam", ("p1",))])
    np.testing.assert_allclose(found[1], bilinear(M[1], (12, 8)), atol=1e-12)


def test_a_model_without_stages_needs_module_names():
    net = tiny()
    del net.stages
    for layers in ("all", "last"):
        with pytest.raises(LtcamError, match=f"method.layers={layers}: this model names no stages"):
            explain(net, pictures(), [MapSpec("gradcam", (layers,))])


def test_a_model_whose_stages_are_something_else():
    net = nn.Module()
    net.stages = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)])
    net.forward = lambda x: net.stages[1](net.stages[0](x).relu()).mean(dim=(2, 3))
    net.double()
    (found,) = explain(net, pictures(), [MapSpec("layercam", ("stages.0",))])
    assert found.max() > 0
    assert explain(net, pictures(), [MapSpec("fullgrad", ("all",))])[0].max() > 0
    with pytest.raises(LtcamError, match="this model names no stages"):
        explain(net, pictures(), [MapSpec("layercam", ("all",))])


# Errors, and the model is left as it was found


class Twisted(Tiny):
    """A layer called twice, one beside the logit's way, one unused, one without a map."""

    def __init__(self):
        super().__init__()
        self.again = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.beside = nn.Conv2d(3, 2, 1)
        self.unused = nn.Conv2d(3, 2, 1)
        self.drop = nn.Dropout()

    def forward(self, x):
        x = self.drop(self.again(self.again(x)) + x)
        self.beside(x)
        return super().forward(x)


def twisted():
    torch.manual_seed(0)
    net = Twisted().double().train()
    net.features[1].eval()
    net.features[0].weight.requires_grad_(False)
    net.again.requires_grad_(False)
    return net


@pytest.mark.parametrize("name", ["gradcam", "ablationcam", "scorecam"])
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("features.9", "layer features.9: the model has no such layer; did you mean 'features"),
        ("again.0", "layer again.0: is called twice in one forward"),
        ("unused", "layer unused: is not used in a forward"),
        ("classifier.0", "layer classifier.0: its output is no feature map"),
    ],
)
@pytest.mark.parametrize("others", [(), ("s1",), ("s2",)])
def test_errors_name_the_layer_and_leave_the_model_alone(name, layer, message, others):
    net = twisted()
    before = snapshot(net)
    specs = [MapSpec("gradcam", (where,)) for where in others] + [MapSpec(name, (layer,))]
    with pytest.raises(LtcamError) as error:
        explain(net, pictures(), specs)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert snapshot(net) == before


@pytest.mark.parametrize("others", [[], ["s1"], ["again.1", "beside"]])
def test_a_layer_beside_the_logits_way_is_an_error(others):
    net = twisted()
    net.again = nn.Sequential(nn.Identity(), nn.Identity())
    net.forward = lambda x: (net.beside(x), Tiny.forward(net, net.again(x)))[1]
    before = snapshot(net)
    specs = [MapSpec("gradcam", (layer,)) for layer in [*others, "beside"]]
    with pytest.raises(LtcamError, match=r"^layer beside: is not upstream of the logit[^\n]*$"):
        explain(net, pictures(), specs)
    assert snapshot(net) == before


def test_a_twisted_model_is_explained_and_left_alone():
    net = twisted()
    net.eval()
    expected = explain(net, pictures(), list(specs_of(NAMES[:-1], LAYERS)))
    net.train()
    net.features[1].eval()
    before = snapshot(net)
    for found, truth in zip(
        explain(net, pictures(), list(specs_of(NAMES[:-1], LAYERS))), expected, strict=True
    ):
        assert torch.equal(found, truth)  # no dropout
    assert snapshot(net) == before
    assert all(not module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("needs", [{"A", "g"}, {"biases"}, {"A", "forwards"}])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_weighting_that_raises_leaves_the_model_alone(needs, error, monkeypatch):
    monkeypatch.setattr(weightings, "_REGISTRY", dict(weightings._REGISTRY))

    @weighting("broken", needs=needs)
    def broken(layer):
        raise error

    net = tiny().train()
    before = snapshot(net)
    with pytest.raises(error):
        explain(net, pictures(), [MapSpec("gradcam"), MapSpec("broken")])
    assert snapshot(net) == before


def test_a_forward_that_raises_leaves_the_model_alone():
    net = tiny().train()
    before = snapshot(net)
    for name in NAMES:
        with pytest.raises(RuntimeError):
            explain(net, pictures(size=(30, 30)), [MapSpec(name)])
        assert snapshot(net) == before
    # In the middle of the further forwards.
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("stop")

    handle = net.features[0].register_forward_pre_hook(stop)
    during = snapshot(net)
    with pytest.raises(RuntimeError, match="stop"):
        explain(net, pictures(), [MapSpec("scorecam")])
    assert snapshot(net) == during
    handle.remove()
    assert snapshot(net) == before


def test_hooks_of_others_stay_and_run():
    net = tiny()
    counter = Counter(net.features[4])
    explain(net, pictures(), [MapSpec("gradcam"), MapSpec("fullgrad", ("all",))])
    assert counter.count == 1 and len(net.features[4]._forward_pre_hooks) == 1


@pytest.mark.parametrize("name", NAMES)
def test_images_stay_as_they_are(name):
    net, x = tiny(), pictures().requires_grad_(True)
    before = x.detach().clone()
    explain(net, x, [MapSpec(name, ("all",))])
    assert torch.equal(x, before) and x.grad is None and x.grad_fn is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("born_inside", [False, True])
def test_the_callers_gradient_mode_does_not_matter(mode, born_inside):
    net, x = tiny(), pictures()
    specs = list(specs_of(NAMES, LAYERS[:3]))
    expected = explain(net, x, specs)
    before = snapshot(net)
    with mode():
        found = explain(net, pictures() if born_inside else x, specs)
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert snapshot(net) == before
    found[0].clone().requires_grad_(True)  # an ordinary tensor


# In place


@pytest.mark.parametrize("name", NAMES)
def test_a_model_may_change_its_input_in_place(name):
    net, x = tiny(), pictures()
    first = nn.Sequential(nn.Hardtanh(-1, 1, inplace=True), *net.features)
    before = x.clone()
    (expected,) = explain(net, x.clamp(-1, 1), [MapSpec(name, ("s2",))])
    net.features, net.stages = first, {"s1": "features.2", "s2": "features.5"}
    for layers in ("s2", "features.1") if name != "fullgrad" else ("s2",):
        (found,) = explain(net, x, [MapSpec(name, (layers,))])
        assert torch.equal(x, before)
        assert layers != "s2" or name == "scorecam" or torch.allclose(found, expected)


@pytest.mark.parametrize("name", ["gradcam", "ablationcam"])
@pytest.mark.parametrize("others", [(), ("features.1",)])
def test_a_stage_that_is_changed_in_place_is_an_error(name, others):
    net = tiny()
    net.stages = {"s1": "features.3"}  # a convolution, and the ReLU after it works in place
    specs = [MapSpec("gradcam", (other,)) for other in others] + [MapSpec(name, ("s1",))]
    with pytest.raises(LtcamError, match=r"^layer features\.3: is changed in place after it"):
        explain(net, pictures(), specs)


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("others", [(), ("features.1",), ("features.4", "features.0")])
@pytest.mark.parametrize("biases", [False, True])
def test_a_convolution_is_seen_before_the_relu_in_place(layer, others, biases):
    net, x = tiny(inplace=True), pictures()
    name = f"features.{layer}"
    with frozen(net):
        seen = capture(net, x, 1, tuple(dict.fromkeys([name, *others])), biases=biases)
    A, g = read(net, x, layer)
    assert A.min() < 0
    np.testing.assert_allclose(seen.layers[name].A, A, atol=1e-12)
    np.testing.assert_allclose(seen.layers[name].g, g, atol=1e-12)
    for other in others:
        A, g = read(net, x, int(other[-1]))
        np.testing.assert_allclose(seen.layers[other].A, A, atol=1e-12)
        np.testing.assert_allclose(seen.layers[other].g, g, atol=1e-12)


@pytest.mark.parametrize("gradients", [False, True])
def test_a_module_and_the_module_that_ends_with_it(gradients):
    net, x = tiny(), pictures()
    names = ("features.4", "features", "features.3")
    for order in (names, names[::-1], ("features",)):
        with frozen(net):
            seen = capture(net, x, 1, order, gradients=gradients)
        for name in order:
            A, g = read(net, x, {"features": 4}.get(name) or int(name[-1]))
            np.testing.assert_allclose(seen.layers[name].A, A, atol=1e-12)
            if gradients:
                np.testing.assert_allclose(seen.layers[name].g, g, atol=1e-12)


def test_before_the_addition_in_place_of_a_residual_block():
    torch.manual_seed(0)
    net, x = randomize(models.resnet18(num_classes=2).double()), pictures(2, (32, 32))
    layers = ("layer4.1.bn2", "layer4.1.conv1", "layer4.0", "layer2.0.bn2", "bn1")
    with frozen(net):
        seen = capture(net, x, 1, layers)
    for name in layers:
        A, g = hooked(net, x, name, 1)
        assert (A.min() < 0) == (name != "layer4.0")
        torch.testing.assert_close(seen.layers[name].A, A)
        torch.testing.assert_close(seen.layers[name].g, g)
    for name in ("layer4.1.bn2", "layer4.0"):  # each alone, where the graph begins there
        with frozen(net):
            alone = capture(net, x, 1, (name,)).layers[name]
        torch.testing.assert_close(alone.A, seen.layers[name].A)
        torch.testing.assert_close(alone.g, seen.layers[name].g)


@pytest.mark.parametrize("name", ["gradcam", "ablationcam", "scorecam"])
@pytest.mark.parametrize("others", [(), ("0",)])
@pytest.mark.parametrize("module", [nn.MaxPool2d(2), nn.Sequential(nn.MaxPool2d(2)), nn.ReLU()])
def test_a_pooling_before_a_relu_in_place_is_right_or_an_error(name, others, module):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), module, nn.Hardtanh(-0.1, 0.1, inplace=True)]
    net = nn.Sequential(*body, nn.Flatten(), nn.LazyLinear(2)).double()
    x = pictures()
    net(x)
    A, g = hooked(net, x, "1", 1)
    specs = [MapSpec("gradcam", (other,)) for other in others] + [MapSpec(name, ("1",))]
    if not isinstance(module, nn.Sequential):
        with pytest.raises(LtcamError, match=r"^layer 1: is changed in place after it"):
            explain(net, x, specs)
        assert not any(m._forward_hooks for m in net.modules())
        return
    found = explain(net, x, specs)[-1]
    if name == "gradcam":
        M = (g.mean(dim=(2, 3), keepdim=True) * A).sum(dim=1).relu()
        np.testing.assert_allclose(found[0], bilinear(M[0].numpy(), (12, 8)), atol=1e-12)


# Heads


@pytest.mark.parametrize("name", ["vgg16_slim", "resnet18"])
def test_behind_avg_truncation_by_channel_only_drops_negative_gradients(name):
    torch.manual_seed(0)
    net = randomize(build_classifier(BackboneConfig(name, "avg", 2, weights=None), 3)).double()
    x = pictures(2, (64, 64))
    with frozen(net):
        layer = capture(net, x, "defect", (net.stages["s5"],)).layers[net.stages["s5"]]
    assert layer.g.shape[2] > 1
    for channel in layer.g.flatten(0, 1):  # VGG's s5 lies before its last pool: or 0
        values = channel.unique()
        assert len(values[values != 0]) == 1 and (name == "vgg16_slim" or len(values) == 1)
    deltas = (0.0, 50.0, 90.0, 100.0)
    maps = explain(net, x, [MapSpec("gradcam", delta=delta) for delta in deltas])
    A, g = hooked(net, x, net.stages["s5"], 1)
    M = (g.relu().mean(dim=(2, 3), keepdim=True) * A).sum(dim=1).relu()
    for found in maps:
        assert found.max() > 0
        np.testing.assert_allclose(found[1], bilinear(M[1].numpy(), (64, 64)), atol=1e-9)
    by_layer = explain(net, x, [MapSpec("gradcam", delta=90.0, scope="layer")])[0]
    assert not torch.allclose(by_layer, maps[0])


def test_behind_max_one_gradient_a_channel_is_not_zero():
    torch.manual_seed(0)
    net = randomize(build_classifier(BackboneConfig("vgg16_slim", "max", 1, weights=None), 1))
    x = pictures(2, (64, 64), 1).float()
    name = net.stages["s5"]
    with frozen(net):
        layer = capture(net, x, "defect", (name,)).layers[name]
    assert layer.g.count_nonzero(dim=(2, 3)).unique().tolist() == [1]
    maps = explain(net, x, [MapSpec("gradcam", delta=delta) for delta in (0.0, 50.0, 100.0)])
    assert maps[0].max() > 0 and all(torch.equal(maps[0], found) for found in maps[1:])


def test_behind_fc_delta_matters():
    torch.manual_seed(0)
    config = BackboneConfig("vgg16_slim", "fc", 1, hidden=16, weights=None)
    net, x = randomize(build_classifier(config, 1)), pictures(2, (64, 64), 1).float()
    for layers in ("all", "last"):
        specs = [MapSpec("gradcam", (layers,), delta=delta) for delta in (0.0, 50.0, 90.0)]
        maps = explain(net, x, specs)
        for n, one in enumerate(maps):
            assert one.max() > 0
            assert not any(torch.allclose(one, other, rtol=1e-2) for other in maps[n + 1 :])


# Any model


def slim_vgg11(num_classes):
    """torchvision's class with fewer channels, and without the time its linear layers take."""
    with torch.device("meta"):
        net = models.vgg11(num_classes=num_classes)
    widths = [16, "M", 16, "M", 32, 32, "M", 32, 32, "M", 32, 32, "M"]
    net.features, net.avgpool = models.vgg.make_layers(widths), nn.AdaptiveAvgPool2d(7)
    net.classifier = nn.Sequential(nn.Linear(32 * 49, 16), nn.ReLU(True), nn.Linear(16, 3))
    return net


ARCHITECTURES = {
    slim_vgg11: ("features.0", "features.1", "features.15", "features.20", "features"),
    models.resnet18: ("relu", "layer1", "layer3.0.conv1", "layer4"),
    models.densenet121: ("features.denseblock2", "features.norm5", "features"),
    models.mobilenet_v3_small: ("features.0", "features.3.block.1", "features"),
    models.efficientnet_b0: ("features.2", "features.4.0.block.1.0"),
    models.shufflenet_v2_x0_5: ("stage2", "stage3.0", "conv5"),
}


@pytest.mark.parametrize("build", ARCHITECTURES, ids=lambda build: build.__name__)
def test_torchvision_models_by_module_names(build):
    torch.manual_seed(0)
    net, layers = randomize(build(num_classes=3)).double(), ARCHITECTURES[build]
    x = pictures(1, (64, 64))
    specs = [MapSpec("gradcam", (name,)) for name in layers]
    specs += [MapSpec("gradcam", (name,), delta=50.0) for name in layers]
    specs += [MapSpec("layercam", layers, delta=50.0), MapSpec("fullgrad", ("all",), delta=50.0)]
    counter = Counter(net)
    maps = explain(net, x, specs, target=1)
    assert counter.count == 1
    assert all(found.shape == (1, 64, 64) and torch.isfinite(found).all() for found in maps)
    assert net.training and not any(module._forward_hooks for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    for n, name in enumerate(layers):
        A, g = hooked(net, x, name, 1)
        cut = torch.from_numpy(truncated(g[0].numpy(), 50.0))
        for found, weights in ((maps[n], g[0]), (maps[n + len(layers)], cut)):
            M = (weights.mean(dim=(1, 2), keepdim=True) * A[0]).sum(dim=0).relu().numpy()
            np.testing.assert_allclose(found[0], bilinear(M, (64, 64)), atol=1e-9 * max(M.max(), 1))


@pytest.mark.parametrize("name", ["vgg16_slim", "vgg16_bn", "resnet18", "mobilenet_v2"])
def test_folded_batch_norms_change_nothing(name: str) -> None:
    model = build_classifier(BackboneConfig(name, "avg", logits=2, weights=None), 3)
    model = randomize(model).double().eval()
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    specs = [*specs_of(["gradcam", "layercam", "fullgrad"], [("all",)])]
    copy = folded(model)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in copy.modules())
    assert any(isinstance(each, nn.BatchNorm2d) for each in model.modules())
    for mine, expected in zip(explain(copy, x, specs), explain(model, x, specs), strict=True):
        assert_near(mine, expected, 1e-9)


def test_a_convolution_that_is_read_is_not_folded() -> None:
    model = randomize(build_classifier(BackboneConfig("resnet18", "avg", weights=None), 3)).eval()
    copy = folded(model, keep=["conv1", "layer1.0.bn2"])
    kept = [name for name, each in copy.named_modules() if isinstance(each, nn.BatchNorm2d)]
    assert kept == ["bn1", "layer1.0.bn2"]
    plain = build_classifier(BackboneConfig("squeezenet1_1", "avg", weights=None), 3)
    assert folded(plain) is plain
