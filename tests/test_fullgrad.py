import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import bilinear, pictures, randomize, tiny, truncated, unit
from torch import nn
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.capture import capture, frozen
from ltcam_cli.maps.engine import explain
from ltcam_cli.maps.spec import MapSpec


def linear_terms(model, x, index):
    """Σ b·∂y/∂z over the linear layers, (N,), by a pass of its own."""
    outputs, biases = [], []

    def hook(module, inputs, output):
        outputs.append(output)
        biases.append(module.bias)
        return output.clone()  # a ReLU may follow in place

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    y = model(x.clone().requires_grad_(True))[:, index]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(y.sum(), outputs)
    return sum((g * b).sum(dim=1) for g, b in zip(gradients, biases, strict=True)).detach()


def assert_complete(model, x, index=-1):
    """y = Σ x·∂y/∂x + Σ b·∂y/∂z + the linear layers' biases, for every image."""
    model.eval()
    with frozen(model):
        seen = capture(model, x, index, gradients=False, biases=True)
    found = (seen.input.b * seen.input.g).sum(dim=(1, 2, 3)) + linear_terms(model, x, index)
    for term in seen.terms:
        assert term.g.ndim == 4 and term.b.shape == (term.g.shape[1], 1, 1)
        found = found + (term.b * term.g).sum(dim=(1, 2, 3))
    np.testing.assert_allclose(found, model(x)[:, index].detach(), rtol=1e-9)
    assert any(term.b.abs().sum() > 0 for term in seen.terms)
    return [term.name for term in seen.terms]


def head(channels, logits=2, pooled=2):
    return [
        nn.AdaptiveAvgPool2d(pooled),
        nn.Flatten(),
        nn.Linear(channels * pooled**2, 7),
        nn.ReLU(inplace=True),
        nn.Linear(7, logits),
    ]


def sequential(*layers, seed=0):
    torch.manual_seed(seed)
    return randomize(nn.Sequential(*layers).double(), seed)


def block(in_channels, out_channels, bias, affine, inplace=True):
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias),
        nn.BatchNorm2d(out_channels, affine=affine),
        nn.ReLU(inplace=inplace),
    ]


def test_plain_net_is_complete():
    for index in (-1, 0):
        assert assert_complete(tiny(), pictures(), index) == ["features.0", "features.3"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_batch_norm_takes_over_the_convolution_before_it(bias, affine, inplace):
    net = sequential(
        *block(3, 4, bias, affine, inplace),
        nn.MaxPool2d(2),
        *block(4, 5, bias, affine, inplace),
        *head(5),
    )
    assert assert_complete(net, pictures()) == ["1", "5"]


@pytest.mark.parametrize("affine", [False, True])
def test_standalone_batch_norms(affine):
    net = sequential(
        nn.BatchNorm2d(3, affine=affine),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(4, affine=affine),
        nn.Conv2d(4, 5, 3, stride=2, groups=1),
        nn.BatchNorm2d(5),
        nn.BatchNorm2d(5, affine=affine),
        nn.ReLU(),
        *head(5),
    )
    assert assert_complete(net, pictures()) == ["0", "1", "3", "5", "6"]


class Branches(nn.Module):
    """A convolution read by a batch norm and by others, shared layers, an unused one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.right = nn.Conv2d(4, 4, 1)
        self.unused = nn.Conv2d(4, 4, 1)
        self.idle = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = F.relu(self.stem(x))
        self.idle(x)
        x = torch.cat([self.left(x), F.relu(self.right(x) + x)], dim=1)
        return self.fc(x.amax(dim=(2, 3)))


def test_branches_are_complete():
    torch.manual_seed(0)
    net = randomize(Branches().double())
    assert assert_complete(net, pictures()) == ["stem", "left.0", "right"]


def test_resnet_is_complete():
    torch.manual_seed(0)
    net = randomize(models.resnet18(num_classes=3).double())
    names = assert_complete(net, pictures(size=(40, 32)), 1)
    norms = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert sorted(names) == sorted(norms)  # every convolution has one, none has a term of its own


def test_densenet_is_complete():
    torch.manual_seed(0)
    net = models.DenseNet(4, (2, 2), 8, bn_size=2, num_classes=3).double()
    assert_complete(randomize(net), pictures(size=(64, 32)), 0)


@pytest.mark.parametrize("norm", [False, True])
def test_vgg11_is_complete(norm):
    torch.manual_seed(0)
    slim = [v if v == "M" else v // 16 for v in cfgs["A"]]
    net = nn.Sequential(make_layers(slim, batch_norm=norm), *head(32)).double()
    names = assert_complete(randomize(net), pictures(size=(64, 32)), 1)
    kind = nn.BatchNorm2d if norm else nn.Conv2d
    assert names == [name for name, module in net.named_modules() if isinstance(module, kind)]


# The map


def psi(terms, scope="layer"):
    """Σ_k Ψ(∂y/∂z^k · b_k) of one image, at the input's size."""
    terms = np.abs(terms)
    channels = unit(terms) if scope == "layer" else [unit(channel) for channel in terms]
    return bilinear(sum(channels), (12, 8))


def normed(seed=0):
    """Convolution with bias and batch norm, then one without; and its terms, written out."""
    net = sequential(
        *block(3, 4, True, True), nn.MaxPool2d(2), *block(4, 5, False, True), *head(5), seed=seed
    )
    net.stages = {"s1": "2", "s2": "6"}
    return net.eval()


def terms_of(net, x):
    """[(∂y/∂z, b), …] of both layers, and (∂y/∂x, x), for the logit 1."""

    def affine(norm):
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return scale.view(-1, 1, 1), (norm.bias - scale * norm.running_mean).view(-1, 1, 1)

    (a1, b1), (a2, b2) = affine(net[1]), affine(net[5])
    b1 = b1 + a1 * net[0].bias.view(-1, 1, 1)
    x = x.clone().requires_grad_(True)
    z1 = a1 * F.conv2d(x, net[0].weight, padding=1) + b1
    z2 = a2 * F.conv2d(F.max_pool2d(z1.relu(), 2), net[4].weight, padding=1) + b2
    hidden = F.adaptive_avg_pool2d(z2.relu(), 2).flatten(1) @ net[9].weight.T + net[9].bias
    y = hidden.relu() @ net[11].weight[1]
    gx, g1, g2 = torch.autograd.grad(y.sum(), [x, z1, z2])
    return [(g1.numpy(), b1.detach().numpy()), (g2.numpy(), b2.detach().numpy())], (
        gx.numpy(),
        x.detach().numpy(),
    )


@pytest.mark.parametrize("scope", ["layer", "channel"])
@pytest.mark.parametrize("cut", ["layer", "channel"])
@pytest.mark.parametrize("delta", [None, 0, 50, 90])
def test_map_of_all_and_of_stages(scope, cut, delta):
    net, x = normed(), pictures()
    specs = [
        MapSpec("fullgrad", (where,), delta, cut, options=(("normalize_scope", scope),))
        for where in ("all", "s1", "s2", "last")
    ] + [MapSpec("fullgrad", ("s1", "s2"), delta, cut, options=(("normalize_scope", scope),))]
    everything, first, second, last, both = explain(net, x, specs)
    biases, (gx, _) = terms_of(net, x)
    for image in range(2):
        one, two = (
            psi((g[image] if delta is None else truncated(g[image], delta, cut)) * b, scope)
            for g, b in biases
        )
        own = psi(x[image].numpy() * gx[image], scope)  # never truncated
        for found, truth in [
            (first, one),
            (second, two),
            (last, two),
            (both, one + two),
            (everything, own + one + two),
        ]:
            assert truth.max() > 0
            np.testing.assert_allclose(found[image], truth, atol=1e-9)


def test_stages_share_all_terms_between_them():
    net, x = normed(), pictures()
    (gx, _) = terms_of(net, x)[1]
    everything, *stages = explain(net, x, [MapSpec("fullgrad", (s,)) for s in ("all", "s1", "s2")])
    own = np.stack([psi(x[image].numpy() * gx[image]) for image in range(2)])
    np.testing.assert_allclose(everything - sum(stages), own, atol=1e-9)


def test_terms_belong_to_the_next_stage():
    torch.manual_seed(0)
    net = randomize(models.resnet18(num_classes=2).double())
    stages = ("relu", "layer1", "layer2", "layer3", "layer4")
    with frozen(net):
        seen = capture(net, pictures(1, (32, 32)), 0, biases=True, markers=stages)
    for term in seen.terms:
        assert term.stage == ("relu" if term.name == "bn1" else term.name.split(".")[0])
    # Stages in front of a module that is called before them, and none after the last.
    net = tiny()
    with frozen(net):
        seen = capture(net, pictures(1), 0, biases=True, markers=("features.2",))
    assert [term.stage for term in seen.terms] == ["features.2", ""]


def test_a_convolution_after_the_last_stage_is_in_all_only():
    net, x = tiny(), pictures()
    net.stages = {"s1": "features.1"}
    everything, first = explain(net, x, [MapSpec("fullgrad", (s,)) for s in ("all", "s1")])
    net.stages = {"s1": "features.1", "s2": "features.4"}
    again, second = explain(net, x, [MapSpec("fullgrad", (s,)) for s in ("all", "s2")])
    assert torch.equal(everything, again)
    assert (everything - first - second).min() > -1e-12 and second.max() > 0


def test_a_model_without_stages_has_all():
    net, x = tiny(), pictures()
    (expected,) = explain(net, x, [MapSpec("fullgrad", ("all",))])
    del net.stages
    assert torch.equal(explain(net, x, [MapSpec("fullgrad", ("all",))])[0], expected)
    for layers in ("last", "s1"):
        with pytest.raises(LtcamError, match=f"method.layers={layers}"):
            explain(net, x, [MapSpec("fullgrad", (layers,))])


@pytest.mark.parametrize("other", ["0", "1", "4"])
def test_asking_for_a_layer_too_does_not_change_the_terms(other):
    net, x = normed(), pictures()
    full = MapSpec("fullgrad", ("all",))
    together = explain(net, x, [full, MapSpec("gradcam", (other,))])
    assert torch.equal(together[0], explain(net, x, [full])[0])
    torch.testing.assert_close(
        together[1], explain(net, x, [MapSpec("gradcam", (other,))])[0], rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("rest", [[], [nn.ReLU()], [nn.ReLU(inplace=True)]])
def test_asking_for_what_holds_the_convolution_does_not_change_the_terms(rest):
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    net = sequential(nn.Sequential(convolution, *rest), nn.BatchNorm2d(4), nn.ReLU(), *head(4))
    names = ["1"] if not rest else ["0.0", "1"]  # after a ReLU the batch norm is a layer of its own
    assert assert_complete(net, pictures()) == names
    full = MapSpec("fullgrad", ("all",))
    (expected,) = explain(net, pictures(), [full])
    together = explain(net, pictures(), [full, MapSpec("gradcam", ("0",))])
    assert torch.equal(together[0], expected)


def test_what_cannot_be_told_apart_is_refused():
    shared = nn.Conv2d(3, 3, 3, padding=1)
    net = sequential(shared, nn.ReLU(), shared, nn.ReLU(), *head(3))
    with pytest.raises(LtcamError, match=r"layer 0: is called twice"):
        explain(net, pictures(), [MapSpec("fullgrad", ("all",))])
    untracked = nn.BatchNorm2d(4, track_running_stats=False)
    net = sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head(4))
    net[1] = nn.Sequential(untracked, nn.ReLU()).double()
    with pytest.raises(LtcamError, match="running statistics"):
        explain(net, pictures(), [MapSpec("fullgrad", ("all",))])
