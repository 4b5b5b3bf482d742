import math

import numpy as np
import pytest
import torch
from nets import bilinear, pictures, read, tail, tiny, truncated, unit

from ltcam_cli.errors import LtcamError
from ltcam_cli.maps import weightings
from ltcam_cli.maps.engine import explain
from ltcam_cli.maps.layer import Capture, Layer
from ltcam_cli.maps.spec import Fusion, MapSpec
from ltcam_cli.maps.subnetwork import ablated_copies
from ltcam_cli.maps.weightings import combine, get_weighting, weighting

LAYERS = [0, 1, 2, 4]  # before and after a ReLU, after the pooling, the last
SIZE = (12, 8)


def relu(x):
    return np.maximum(x, 0)


# The formulas, of one image: A, g (K, h, w) -> M (h, w)


def gradcam(A, g):
    M = np.zeros(A.shape[1:])
    for k in range(len(A)):
        w = sum(g[k].ravel()) / g[k].size
        M += w * A[k]
    return relu(M)


def gradcampp(A, g):
    M = np.zeros(A.shape[1:])
    for k in range(len(A)):
        w = 0.0
        for value in g[k].ravel():
            denominator = 2 * value**2 + value**3 * A[k].sum()
            if value > 0 and denominator > 0:
                w += value**2 / denominator * value
        M += w * A[k]
    return relu(M)


def xgradcam(A, g):
    M = np.zeros(A.shape[1:])
    for k in range(len(A)):
        if A[k].sum() != 0:
            w = sum(a / A[k].sum() * b for a, b in zip(A[k].ravel(), g[k].ravel(), strict=True))
            M += w * A[k]
    return relu(M)


def layercam(A, g):
    M = np.zeros(A.shape[1:])
    for k, i, j in np.ndindex(A.shape):
        M[i, j] += max(g[k, i, j], 0) * A[k, i, j]
    return relu(M)


def hirescam(A, g):
    return relu(sum(g[k] * A[k] for k in range(len(A))))


FORMULAS = [gradcam, gradcampp, xgradcam, layercam, hirescam]
by_name = pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.__name__)


def compare(net, x, specs, expected, layer, rtol=1e-9):
    """`expected(A, g, spec)` of each image, up-scaled, against `explain`."""
    A, g = read(net, x, layer)
    maps = explain(net, x, specs)
    for spec, found in zip(specs, maps, strict=True):
        for image in range(len(x)):
            truth = bilinear(expected(A[image], g[image], spec), SIZE)
            scale = max(abs(truth).max(), 1e-12)
            np.testing.assert_allclose(found[image].numpy() / scale, truth / scale, atol=rtol)
    return maps


@by_name
@pytest.mark.parametrize("layer", LAYERS)
def test_formula_with_and_without_truncation(formula, layer):
    net, x = tiny(), pictures()
    where = (f"features.{layer}",)
    name = formula.__name__
    specs = [MapSpec(name, where)] + [
        MapSpec(name, where, delta=delta, scope=scope)
        for delta in (0, 33.3, 50, 90, 100)
        for scope in ("channel", "layer")
    ]

    def expected(A, g, spec):
        return formula(A, g if spec.delta is None else truncated(g, spec.delta, spec.scope))

    maps = compare(net, x, specs, expected, layer)
    assert any(found.max() > 0 for found in maps)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", ["mask", "mask_relu"])
@pytest.mark.parametrize("scope", ["channel", "layer"])
def test_gradcam_may_mask_the_activations_instead(layer, form, scope):
    net, x = tiny(3), pictures()
    specs = [
        MapSpec("gradcam", (f"features.{layer}",), delta=delta, scope=scope, form=form)
        for delta in (0, 50, 90)
    ]

    def expected(A, g, spec):
        T = truncated(g, spec.delta, spec.scope) > 0
        M = sum(g[k].mean() * A[k] * T[k] for k in range(len(A)))
        return relu(M) if form == "mask_relu" else M

    maps = compare(net, x, specs, expected, layer)
    assert any(found.min() < 0 for found in maps) == (form == "mask")


def test_without_delta_every_form_is_plain_gradcam():
    net, x = tiny(3), pictures()
    specs = [MapSpec("gradcam", form=form) for form in ("gradient", "mask", "mask_relu")]
    plain, *others = explain(net, x, specs)
    assert plain.max() > 0 and all(torch.equal(plain, other) for other in others)


def with_bias(net, last):
    with torch.no_grad():
        net.classifier[2].bias.fill_(last)
    return net


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("bias", [5.0, -5.0])
def test_ablationcam_divides_by_the_size_of_the_logit(layer, batch, bias):
    net, x = with_bias(tiny(), bias), pictures()

    def expected(A, g, spec):
        A = torch.from_numpy(A)
        y = tail(net, layer, A[None])[0, -1].item()
        assert y * bias > 0
        M = np.zeros(A.shape[1:])
        for k in range(len(A)):
            without = A.clone()
            without[k] = 0
            M += (y - tail(net, layer, without[None])[0, -1].item()) / abs(y) * A[k].numpy()
        return relu(M)

    spec = MapSpec("ablationcam", (f"features.{layer}",), options=(("batch", batch),))
    compare(net, x, [spec], expected, layer)


def test_ablationcam_of_a_negative_logit_is_not_turned_over():
    up, down = with_bias(tiny(), 5.0), with_bias(tiny(), -5.0)
    maps = [explain(net, pictures(), [MapSpec("ablationcam")])[0] for net in (up, down)]
    assert maps[0].amax(dim=(1, 2)).min() > 0
    for above, below in zip(*maps, strict=True):
        np.testing.assert_allclose(unit(above.numpy()), unit(below.numpy()), atol=1e-9)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_scorecam_whatever_the_baseline(layer, batch):
    net, x = tiny(), pictures()
    images = iter(x)
    baselines = [torch.zeros_like(x[0]), pictures(1, seed=9)[0]]

    def expected(A, g, spec):
        image = next(images)
        maps = []
        for baseline in baselines:
            H = [torch.from_numpy(unit(bilinear(channel, SIZE))) for channel in A]
            y = [tail(net, -1, (image * mask)[None])[0, -1].item() for mask in H]
            start = tail(net, -1, baseline[None])[0, -1].item()
            e = [math.exp(value - start) for value in y]
            maps.append(relu(sum(e[k] / sum(e) * A[k] for k in range(len(A)))))
        np.testing.assert_allclose(*maps, rtol=1e-9)
        return maps[0]

    spec = MapSpec("scorecam", (f"features.{layer}",), options=(("batch", batch),))
    compare(net, x, [spec], expected, layer)


@pytest.mark.parametrize("target", ["defect", "margin", 0])
def test_ablationcam_and_scorecam_score_the_target(target):
    net, x = tiny(), pictures(1)
    index = {"defect": -1, "margin": None, 0: 0}[target]

    def y(A):
        logits = tail(net, 4, A)[0]
        return (logits[1] - logits[0] if index is None else logits[index]).item()

    A = torch.from_numpy(read(net, x, 4)[0])
    w = []
    for k in range(A.shape[1]):
        without = A.clone()
        without[0, k] = 0
        w.append((y(A) - y(without)) / abs(y(A)))
    M = relu(sum(w[k] * A[0, k].numpy() for k in range(len(w))))
    (found,) = explain(net, x, [MapSpec("ablationcam", target=target)])
    np.testing.assert_allclose(found[0].numpy(), bilinear(M, SIZE), atol=1e-9)


@pytest.mark.parametrize("layer", LAYERS)
def test_eigencam_is_the_first_principal_component(layer):
    def expected(A, g, spec):
        values, vectors = np.linalg.eigh(np.cov(A.reshape(len(A), -1)))
        M = np.tensordot(vectors[:, values.argmax()], A, 1)
        M -= M.mean()
        return relu(M if M.max() >= -M.min() else -M)

    (maps,) = compare(tiny(), pictures(), [MapSpec("eigencam", (f"features.{layer}",))], expected,
                      layer, rtol=1e-6)  # fmt: skip
    assert maps.amax(dim=(1, 2)).min() > 0


@pytest.mark.parametrize("sign", [1, -1])
def test_eigencam_shows_the_small_part_and_not_its_surroundings(sign):
    A = torch.full((1, 2, 3, 3), 0.1)
    A[0, :, 1, 2] += sign * torch.tensor([1.0, 2.0])
    (M,) = get_weighting("eigencam").function(Layer("any", A, None))
    expected = torch.zeros(3, 3)
    expected[1, 2] = 5**0.5 * 8 / 9  # |(1, 2)| minus the mean over nine positions
    torch.testing.assert_close(M, expected)
    flat = torch.full((1, 2, 7, 7), 0.1)
    assert not get_weighting("eigencam").function(Layer("any", flat, None)).any()


# Another implementation


@pytest.mark.parametrize("name", ["gradcam", "xgradcam", "layercam", "hirescam"])
@pytest.mark.parametrize("layer", [1, 4])
def test_agrees_with_pytorch_grad_cam(name, layer):
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cams = {"gradcam": "GradCAM", "xgradcam": "XGradCAM", "layercam": "LayerCAM",
            "hirescam": "HiResCAM"}  # fmt: skip
    net, x = tiny(inplace=False).float().eval(), pictures().float()
    (found,) = explain(net, x, [MapSpec(name, (f"features.{layer}",))])
    with getattr(library, cams[name])(net, [net.features[layer]]) as cam:
        theirs = cam(x, targets=[ClassifierOutputTarget(1)] * len(x))
    for ours, other in zip(found, theirs, strict=True):
        assert ours.max() > 0
        # It adds 1e-7 to ΣA and to the maximum that it divides by, so small maps differ a little.
        np.testing.assert_allclose(unit(ours.numpy()), unit(other), atol=1e-4)


def test_eigencam_agrees_with_pytorch_grad_cam_but_for_the_sign():
    svd = pytest.importorskip("pytorch_grad_cam.utils.svd_on_activations")
    A = read(tiny(), pictures(), 1)[0].astype(np.float32)
    ours = get_weighting("eigencam").function(Layer("any", torch.from_numpy(A), None)).numpy()
    for M, other in zip(ours, svd.get_2d_projection(A), strict=True):
        other = other if other.max() >= -other.min() else -other
        np.testing.assert_allclose(M, relu(other), atol=1e-5 * M.max())


# Where nothing speaks for the target

ALL = [*(formula.__name__ for formula in FORMULAS), "eigencam", "ablationcam", "scorecam"]


def every_spec(layers=("all",)):
    for name in [*ALL, "fullgrad"]:
        yield MapSpec(name, layers)
        if get_weighting(name).reads_gradients:
            yield MapSpec(name, layers, delta=50.0)
            yield MapSpec(name, layers, delta=50.0, fusion=Fusion("product", "minmax"))
    yield MapSpec("gradcam", layers, delta=50.0, form="mask")


def test_a_net_that_sees_nothing_gives_zeros():
    net = tiny().float()
    with torch.no_grad():
        net.features[0].bias.fill_(-100)
        net.features[3].bias.fill_(-100)
    for spec in every_spec():
        (found,) = explain(net, pictures().float(), [spec])
        assert torch.equal(found, torch.zeros(2, *SIZE)), spec


def test_dead_channels_and_black_images_give_numbers():
    net = tiny().float()
    with torch.no_grad():
        for layer, channel in ((0, 1), (3, 2)):
            net.features[layer].weight[channel] = 0
            net.features[layer].bias[channel] = 0
    x = pictures().float()
    x[1] = 0
    for spec in every_spec():
        (found,) = explain(net, x, [spec])
        assert torch.isfinite(found).all(), spec


def test_xgradcam_ignores_channels_whose_sum_is_zero():
    A = torch.tensor([[[[1.0, -1.0]], [[1.0, 3.0]], [[1.0, -3.0]]]])
    g = torch.tensor([[[[1.0, 2.0]], [[1.0, 2.0]], [[1.0, 2.0]]]])
    w = get_weighting("xgradcam").function(Layer("any", A, g, None))
    assert w.tolist() == [[0, 7 / 4, 5 / 2]]


def test_gradcampp_keeps_small_gradients_and_drops_impossible_ones():
    A = torch.tensor([[[[1.0, 2.0]], [[-30.0, 1.0]]]])
    g = torch.tensor([[[[1e-30, -1.0]], [[0.5, 1e-3]]]])
    (w,) = get_weighting("gradcampp").function(Layer("any", A, g, None)).tolist()
    assert w[0] == pytest.approx(0.5e-30, rel=1e-6)  # g³ alone is 0 in float32
    assert w[1] == pytest.approx(1e-3 / (2 - 1e-3 * 29), rel=1e-6)  # 2 - 0.5·29 < 0: left out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ablationcam_of_a_logit_of_zero(dtype):
    x, A = torch.ones(1, 3, 2, 2, dtype=dtype), torch.rand(1, 2, 2, 2, dtype=dtype)
    A[0, :, 0, 0] = 0
    y = torch.zeros(1, dtype=dtype)

    class Forwards:
        def ablated(self, layer, x, A, batch):
            output = torch.cat(list(ablated_copies(A, batch)))
            return 50 * output.sum(dim=(1, 2, 3)).sign() * (output[:, 0].sum(dim=(1, 2)) - 0.5)

    w = get_weighting("ablationcam").function(
        Layer("any", A, None, Capture(x, y[:, None], y, Forwards()))
    )
    assert w[0, 0] > 0 and torch.isfinite(combine(w, A)).all()


# What is refused


def test_names_that_are_near():
    for make, message in [
        (lambda: MapSpec("gradcan"), "method.weighting=gradcan: unknown; did you mean"),
        (lambda: MapSpec("gradcam", scope="chanel"), "method.scope=chanel: unknown; did you mean"),
        (lambda: MapSpec("gradcam", form="masc"), "method.form=masc: unknown; did you mean"),
        (lambda: Fusion("summ"), "method.fusion.rule=summ: unknown; did you mean 'sum'"),
        (lambda: Fusion(normalize="minmx"), "method.fusion.normalize=minmx: unknown; did you"),
        (
            lambda: MapSpec("fullgrad", options=(("normalise_scope", "layer"),)),
            "method.options.normalise_scope: fullgrad has no such option; did you mean",
        ),
        (
            lambda: MapSpec("fullgrad", options=(("normalize_scope", "chanel"),)),
            "method.options.normalize_scope=chanel: unknown; did you mean 'channel'",
        ),
        (
            lambda: MapSpec("scorecam", options=(("batch", 0),)),
            "method.options.batch=0: must be a whole number of at least 1",
        ),
        (lambda: MapSpec("nowhere.cams:mine"), "method.weighting=nowhere.cams:mine: nowhere.cams"),
        (lambda: MapSpec("math:sqrt"), "method.weighting=math:sqrt: is no weighting; decorate"),
        (lambda: MapSpec("gradcam", options=(("batch", 2),)), "method.options.batch: gradcam has"),
        (lambda: MapSpec("gradcam", ()), "method.layers is empty"),
        (lambda: MapSpec("gradcam", ("s1", "")), "method.layers is empty"),
        (lambda: MapSpec("gradcam", delta=-0.1), "method.delta=-0.1: a percentile lies in 0..100"),
        (lambda: MapSpec("gradcam", delta=100.5), "method.delta=100.5: a percentile"),
        (lambda: MapSpec("gradcam", delta=math.nan), "method.delta=nan: a percentile"),
        (lambda: MapSpec("ablationcam", delta=50), "method.delta=50: ablationcam reads no"),
        (lambda: MapSpec("eigencam", delta=50), "method.delta=50: eigencam reads no"),
        (lambda: MapSpec("scorecam", delta=0), "method.delta=0: scorecam reads no"),
        (lambda: MapSpec("layercam", delta=1, form="mask"), "method.form=mask: eq. 11 masks"),
    ]:
        with pytest.raises(LtcamError) as error:
            make()
        assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "target", "message"),
    [
        (MapSpec("gradcam", ("s22",)), None, "layer s22: the model has no such layer; did you"),
        (MapSpec("gradcam", ("features.44",)), None, "layer features.44: the model has no such"),
        (MapSpec("fullgrad", ("s22",)), None, "method.layers=s22: fullgrad takes all, last or"),
        (MapSpec("fullgrad", ("features.0",)), None, "method.layers=features.0: fullgrad takes"),
        (MapSpec("fullgrad", ("p1",)), None, "method.layers=p1: no convolution there"),
        (MapSpec("gradcam"), "defekt", "method.target=defekt: unknown; did you mean 'defect'"),
        (MapSpec("gradcam"), 2, "method.target=2: the model has logits 0..1"),
        (MapSpec("scorecam"), -3, "method.target=-3: the model has logits 0..1"),
    ],
)
def test_names_that_the_model_does_not_have(spec, target, message):
    with pytest.raises(LtcamError) as error:
        explain(tiny(), pictures(), [spec], target)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_needs_are_checked():
    with pytest.raises(ValueError, match="gradient"):
        weighting("mine", needs={"A", "gradient"})


def test_a_weighting_of_ones_own(monkeypatch):
    monkeypatch.setattr(weightings, "_REGISTRY", dict(weightings._REGISTRY))

    @weighting("strongest", needs={"A", "g"})
    def strongest(layer, power: float = 1.0):
        return layer.g.amax(dim=(2, 3)) ** power

    net, x = tiny(), pictures()
    specs = [MapSpec("strongest", ("s2",)), MapSpec("strongest", ("s2",), options=(("power", 3),))]
    for spec, power in zip(specs, (1, 3), strict=True):

        def expected(A, g, spec, power=power):
            return relu(sum(g[k].max() ** power * A[k] for k in range(len(A))))

        compare(net, x, [spec], expected, 4)
    assert MapSpec("strongest", delta=50.0).delta == 50
    with pytest.raises(LtcamError, match="powr: strongest has no such option; did you mean 'power"):
        MapSpec("strongest", options=(("powr", 1),))


def test_local_and_finished_weights_of_ones_own(monkeypatch):
    monkeypatch.setattr(weightings, "_REGISTRY", dict(weightings._REGISTRY))
    weighting("local", needs={"A", "g"})(lambda layer: layer.g)
    weighting("finished", needs={"A"})(lambda layer: -layer.A.mean(dim=1))
    net, x = tiny(), pictures()
    compare(net, x, [MapSpec("local", ("s2",))], lambda A, g, _: relu((A * g).sum(0)), 4)
    compare(net, x, [MapSpec("finished", ("s2",))], lambda A, g, _: -A.mean(0), 4)
    with pytest.raises(LtcamError, match="finished reads no gradients"):
        MapSpec("finished", delta=1)
