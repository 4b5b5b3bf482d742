"""What maps, masks and training cost, against a bare pass and against other libraries.

Contestants take turns, round after round, in one process; a table gives each one's median, least
and greatest time, and its ratio to the bare pass of the same round. Weights are random.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from ltcam_cli.allocator import reuse_freed_memory
from ltcam_cli.classifier.augment import BalancedOrder, augmentation
from ltcam_cli.classifier.backbones import build_classifier
from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.config import AugmentConfig, BackboneConfig
from ltcam_cli.classifier.train import classification_loss
from ltcam_cli.data.batches import Images, batches
from ltcam_cli.data.ksdd import Ksdd
from ltcam_cli.data.load import load_split
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.synthetic import Synthetic
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import write_table
from ltcam_cli.maps.capture import capture, frozen
from ltcam_cli.maps.engine import CamEngine
from ltcam_cli.maps.folding import folded
from ltcam_cli.maps.fusion import at_size
from ltcam_cli.maps.multi_delta import multi_delta_maps
from ltcam_cli.maps.patchcore import (
    Memory,
    PatchcoreSource,
    coreset,
    drawn_patches,
    feature_extractor,
    patch_features,
)
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.maps.truncation import keep, thresholds
from ltcam_cli.masks.histogram import histogram
from ltcam_cli.masks.segmenters import Segmenter, SegmenterConfig
from ltcam_cli.runs.acceptance import ReliabilityConfig
from ltcam_cli.runs.masking import Loading, MaskJob
from ltcam_cli.runs.reliability import Reliability
from ltcam_cli.runs.scoring import evaluate
from ltcam_cli.runs.tables import as_markdown
from ltcam_cli.scores.curves import PixelCurves
from ltcam_cli.scores.pixels import PixelCounts
from ltcam_cli.scores.regions import Truth, touched_regions

Work = Callable[[], Any]
ALL, LAST = ("all",), ("last",)
RULES = ("filtered", "continuous")
DELTAS = [float(delta) for delta in range(0, 100, 10)]
LAYER_SETS = [ALL, LAST, ("s3", "s4", "s5")]
TO_INPUT = "bare pass to the input"  # what FullGrad starts from
ONCE = 15.0  # seconds from which a contestant runs once and no more
FULL_SIZE = (1260, 500)  # of KolektorSDD's images


def grid(*weightings: str, deltas: Sequence[float] = DELTAS) -> list[MapSpec]:
    """Every weighting with every δ and every layer set."""
    return [MapSpec(w, layers, d) for w in weightings for layers in LAYER_SETS for d in deltas]


SPECS: dict[str, list[MapSpec]] = {
    "gradcam, last stage": [MapSpec("gradcam", LAST)],
    **{
        f"{name}, five stages": [MapSpec(name, ALL)]
        for name in ("gradcam", "gradcampp", "xgradcam", "layercam")
    },
    "fullgrad": [MapSpec("fullgrad", ALL)],
    **{f"lt{name}": [MapSpec(name, ALL, 50.0)] for name in ("gradcam", "layercam", "fullgrad")},
    **{f"gradcam, {rule}": [MapSpec("gradcam", ALL, backward=rule)] for rule in RULES},
    "60 cells: 10 δ × {ltgradcam, ltlayercam} × 3 layer sets": grid("gradcam", "layercam"),
    "90 cells: the same with ltfullgrad": grid("gradcam", "layercam", "fullgrad"),
    "ablationcam, last stage": [MapSpec("ablationcam", LAST)],
    "scorecam, last stage": [MapSpec("scorecam", LAST)],
}
BUDGETS = {  # × bare pass, VGG16 at 224×224; scorecam's follows from its live channels
    **dict.fromkeys(
        [name for name in SPECS if "stages" in name or name.startswith("gradcam")], 1.1
    ),
    **{f"gradcam, {rule}": 1.5 for rule in RULES},
    "ltgradcam": 1.3,
    "ltlayercam": 1.3,
    "60 cells: 10 δ × {ltgradcam, ltlayercam} × 3 layer sets": 2.0,
    "90 cells: the same with ltfullgrad": 3.0,
    "fullgrad": 1.6,
    "ablationcam, last stage": 2.0,
}


# Contestants


def network(name: str) -> nn.Module:
    """A backbone with two logits and random weights, as `ltcam` loads them."""
    torch.manual_seed(0)
    model = build_classifier(BackboneConfig(name, "fc", logits=2, weights=None), 3)
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def stages(model: nn.Module) -> list[str]:
    """Module names of s1..sN."""
    names: dict[str, str] = model.stages  # type: ignore[assignment]
    return [module for name, module in names.items() if name.startswith("s")]


def bare_forward(model: nn.Module, x: Tensor) -> Tensor:
    """One forward, no graph."""
    with torch.no_grad():
        return model(x)


def bare_pass(model: nn.Module, x: Tensor, to_input: bool = False) -> tuple[Tensor, ...]:
    """One forward, and one backward from the logit to every stage's output; nothing else.

    `to_input` goes on to the image, as FullGrad must.
    """
    kept = [x.clone().requires_grad_(True)] if to_input else []

    def keep_output(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output if kept else output.detach().requires_grad_(True))
        return kept[-1]

    with frozen(model), contextlib.ExitStack() as stack:
        for name in stages(model):
            hook = model.get_submodule(name).register_forward_hook(keep_output)
            stack.callback(hook.remove)
        y = model(kept[0] if to_input else x)[:, -1]
        return torch.autograd.grad(y.sum(), kept)


def ours(model: nn.Module, x: Tensor) -> dict[str, Work]:
    """Maps of this package, by what is drawn."""

    def work(specs: list[MapSpec]) -> Work:
        engine = CamEngine(folded(model), specs)
        return lambda: engine(x)

    return {name: work(specs) for name, specs in SPECS.items()}


def verdicts(net: str, model: nn.Module, x: Tensor) -> dict[str, Work]:
    """Reliability of the images' verdicts, without and with its adversarial step."""
    backbone = BackboneConfig(net, "fc", logits=2, weights=None)
    size = (x.shape[-2], x.shape[-1])
    classifier = Classifier(model, backbone, 3, *size, mean=(0.5,) * 3, std=(0.25,) * 3)

    def work(step: float) -> Work:
        reliability = Reliability(classifier, ReliabilityConfig(step=step))
        return lambda: reliability(x)

    return {"reliability": work(0.0), "reliability, with a step": work(2 / 255)}


def theirs(model: nn.Module, x: Tensor) -> dict[str, tuple[str, Work]]:
    """The same work in pytorch-grad-cam and torchcam, where they are installed: ours, work."""
    found: dict[str, tuple[str, Work]] = {}
    layers = stages(model)
    with contextlib.suppress(ImportError):
        import pytorch_grad_cam as pgc
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        targets = [ClassifierOutputTarget(1)] * len(x)

        def pgc_work(method: str, names: list[str]) -> Work:
            def work() -> Any:
                modules = [model.get_submodule(name) for name in names]
                with getattr(pgc, method)(model=model, target_layers=modules) as cam:
                    return cam(input_tensor=x, targets=targets)

            return work

        for method, names, mine in [
            ("GradCAM", layers[-1:], "gradcam, last stage"),
            ("GradCAM", layers, "gradcam, five stages"),
            ("LayerCAM", layers, "layercam, five stages"),
            ("FullGrad", layers[-1:], "fullgrad"),
            ("AblationCAM", layers[-1:], "ablationcam, last stage"),
            ("ScoreCAM", layers[-1:], "scorecam, last stage"),
        ]:
            found[f"pytorch-grad-cam {method}, {_count(names)}"] = mine, pgc_work(method, names)
    with contextlib.suppress(ImportError):
        from torchcam import methods

        def torchcam_work(method: str, names: list[str]) -> Work:
            def work() -> Any:
                with getattr(methods, method)(model, target_layer=names) as cam:
                    maps = cam(1, model(x))
                    return cam.fuse_cams(maps) if len(maps) > 1 else maps

            return work

        for method, names, mine in [
            ("GradCAM", layers[-1:], "gradcam, last stage"),
            ("GradCAM", layers, "gradcam, five stages"),
            ("LayerCAM", layers, "layercam, five stages"),
            ("ScoreCAM", layers[-1:], "scorecam, last stage"),
        ]:
            found[f"torchcam {method}, {_count(names)}"] = mine, torchcam_work(method, names)
    return found


def _count(names: list[str]) -> str:
    return "last stage" if len(names) == 1 else "five stages"


# Measuring


def alternate(works: dict[str, Work], rounds: int, note: str = "") -> pd.DataFrame:
    """Times (s) of each contestant: a row a round, a column a contestant; NaN where it sat out.

    All are run once before, to warm up; who took longer than `ONCE` then is not run again.
    """
    started = {}
    for name, work in works.items():
        started[name] = seconds(work)
        print(f"{note}{name}: {1000 * started[name]:.0f} ms", file=sys.stderr)
    times = [
        {name: seconds(work) for name, work in works.items() if started[name] < ONCE}
        for _ in range(rounds)
    ]
    slow = {name: took for name, took in started.items() if took >= ONCE}
    return pd.DataFrame([*times[:-1], times[-1] | slow]).reindex(columns=list(works))


def seconds(work: Work) -> float:
    """How long one run takes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def summary(times: pd.DataFrame, floor: str) -> pd.DataFrame:
    """Median, least and greatest time in ms, and the ratio to the floor round by round."""
    ratio = times.div(times[floor], axis=0)
    return pd.DataFrame(
        {
            "ms": 1000 * times.median(),
            "least": 1000 * times.min(),
            "greatest": 1000 * times.max(),
            f"× {floor}": ratio.median(),
            "from": ratio.min(),
            "to": ratio.max(),
            "rounds": times.notna().sum(),
        }
    )


def memory_of(net: str, size: tuple[int, int], images: int, name: str) -> float:
    """Peak memory (MiB) above what is resident once the model is loaded; in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory_of, (net, size, images, name, torch.get_num_threads()))


def _memory_of(net: str, size: tuple[int, int], images: int, name: str, threads: int) -> float:
    torch.set_num_threads(threads)
    model, x = network(net), torch.rand(images, 3, *size)
    works = {
        "bare forward": lambda x: bare_forward(model, x),
        "bare pass": lambda x: bare_pass(model, x),
        TO_INPUT: lambda x: bare_pass(model, x, to_input=True),
        **{name: CamEngine(model, specs) for name, specs in SPECS.items()},
    }
    bare_pass(model, torch.rand(1, 3, 32, 32))  # so that the libraries' own pages are in
    return peak(lambda: works[name](x))


def peak(work: Work) -> float:
    """Peak memory (MiB) of a piece of work above what was resident before; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


# Sections


def bench_maps(options: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each method and each sweep, for each network and size."""
    for net in options.nets:
        for size in options.sizes:
            model = network(net).to(options.device)
            x = torch.rand(options.batch, 3, *size, device=options.device)
            x = x.contiguous(memory_format=torch.channels_last)
            rivals = theirs(copy.deepcopy(model), x) if options.rivals else {}
            works = {
                "bare pass": lambda m=model, x=x: bare_pass(m, x),
                "bare forward": lambda m=model, x=x: bare_forward(m, x),
                TO_INPUT: lambda m=model, x=x: bare_pass(m, x, to_input=True),
                **ours(model, x),
                **verdicts(net, model, x),
                **{name: work for name, (_, work) in rivals.items()},
            }
            if not options.slow:
                works = {k: w for k, w in works.items() if "scorecam" not in k.lower()}
                works.pop("pytorch-grad-cam AblationCAM, last stage", None)
            note = f"{net} {size[0]}x{size[1]} "
            table = summary(alternate(works, options.rounds, note), "bare pass")
            table["images/s"] = 1000 * options.batch / table["ms"]
            budgets = dict(BUDGETS)
            if "scorecam, last stage" in table.index:
                forwards = (
                    1.1 * (live_channels(model, x) + 2) * table["× bare pass"]["bare forward"]
                )
                budgets["scorecam, last stage"] = forwards
            table["budget"] = pd.Series(budgets).reindex(table.index)
            mine = pd.Series({name: ours for name, (ours, _) in rivals.items()}, dtype=object)
            same = table["ms"].reindex(mine.reindex(table.index)).to_numpy()
            table["× ours"] = table["ms"] / same
            if options.memory and options.device == "cpu":
                each = {
                    name: memory_of(net, size, options.batch, name)
                    for name in ["bare forward", "bare pass", TO_INPUT, *SPECS]
                    if name in table.index
                }
                floor = {n: each[TO_INPUT if "full" in n else "bare pass"] for n in each}
                table["peak MiB"] = pd.Series(each).reindex(table.index)
                table["× its bare pass's"] = table["peak MiB"] / pd.Series(floor)
                cells = {name: len(specs) for name, specs in SPECS.items()}
                image = 4 * options.batch * size[0] * size[1] / 2**20
                table["of it heatmaps"] = image * pd.Series(cells)
            yield f"maps {net} {size[0]}x{size[1]}", table


def live_channels(model: nn.Module, x: Tensor) -> float:
    """Channels of the last stage that are not constant, of the average image."""
    seen: list[Tensor] = []
    hook = model.get_submodule(stages(model)[-1]).register_forward_hook(
        lambda m, i, output: seen.append(output)
    )
    bare_forward(model, x)
    hook.remove()
    live = seen[0].amin(dim=(2, 3)) < seen[0].amax(dim=(2, 3))
    return float(live.sum(dim=1).float().mean())


def bench_growth(options: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    """How a sweep's maps grow with images, deltas and layers."""
    model, size = network("vgg16_slim"), (512, 192)
    x = torch.rand(8, 3, *size).contiguous(memory_format=torch.channels_last)

    def work(specs: list[MapSpec], images: int) -> Work:
        engine = CamEngine(model, specs)
        return lambda: [engine(x[: min(8, images - i)]) for i in range(0, images, 8)]

    twenty = [MapSpec(w, ALL, d) for w in ("gradcam", "layercam") for d in DELTAS]
    deltas = {1: [50.0], 10: DELTAS, 50: [float(d) for d in np.linspace(0, 98, 50)]}
    works = {f"{n} images, 20 cells": work(twenty, n) for n in (10, 40, 160)}
    for n, each in deltas.items():
        cells = [MapSpec(w, ALL, d) for w in ("gradcam", "layercam") for d in each]
        works[f"16 images, {n} deltas"] = work(cells, 16)
    for n in (1, 3, 5):
        layers = tuple(f"s{k}" for k in range(6 - n, 6))
        cells = [replace(spec, layers=layers) for spec in twenty]
        works[f"16 images, 10 deltas, {n} deepest stages"] = work(cells, 16)
    yield "growth", summary(alternate(works, options.rounds), "10 images, 20 cells")


def bench_scoring(options: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    """What one cell of one image costs after its map: up-scaling, Otsu, counts, curves."""
    torch.manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.rand(1, 1, 32, 12) ** 4, (512, 192))[0]
    heatmap = at_size(coarse, FULL_SIZE)[0]
    mask, truth = heatmap > threshold_otsu(heatmap), np.zeros(FULL_SIZE, dtype=bool)
    truth[600:604, 100:400] = True
    known, curves = Truth(truth), PixelCurves()
    known.regions  # noqa: B018  once an image, not once a cell
    works: dict[str, Work] = {
        "up-scaling to 1260x500": lambda: at_size(coarse, FULL_SIZE),
        "Otsu's threshold": lambda: threshold_otsu(hist=histogram(heatmap)),
        "Otsu's threshold, scikit-image alone": lambda: threshold_otsu(heatmap),
        "pixel counts": lambda: PixelCounts.from_masks(mask, truth),
        "regions": lambda: touched_regions(mask, known),
        "regions, truth labelled each time": lambda: touched_regions(mask, truth),
        "curves": lambda: curves.update(heatmap, known),
        "curves, truth labelled each time": lambda: curves.update(heatmap, truth),
    }
    yield "scoring", summary(alternate(works, 5 * options.rounds), "up-scaling to 1260x500")


def bench_choices(options: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    """Ways that were tried for the same work, on the stages' gradients of one image."""
    model, x = network("vgg16"), torch.rand(1, 3, 224, 224)
    grads = list(bare_pass(model, x))
    with frozen(model):
        layers = capture(model, x, "defect", stages(model)).layers
    bounds = {name: thresholds(layer.g, DELTAS) for name, layer in layers.items()}

    def one_by_one() -> None:
        for name, layer in layers.items():
            for bound in bounds[name]:
                (keep(layer.g, bound).relu() * layer.A).sum(dim=1)

    def together() -> None:
        for layer in layers.values():
            multi_delta_maps(layer, DELTAS, "channel", ["layercam"])

    def kth() -> None:
        for g in grads:
            for channel in g.flatten(0, 1).flatten(1):
                positive = channel[channel > 0]
                if len(positive):
                    positive.kthvalue((len(positive) + 1) // 2)

    works: dict[str, Work] = {
        "one δ of each channel: numpy's sort": lambda: [thresholds(g, [50.0]) for g in grads],
        "the same: torch's sort": lambda: [g.flatten(2).sort(dim=-1) for g in grads],
        "the same: kthvalue of the positive entries": kth,
        "ten δ of each channel: numpy's sort": lambda: [thresholds(g, DELTAS) for g in grads],
        "LayerCAM of ten δ, one pass": together,
        "LayerCAM of ten δ, one after another": one_by_one,
    }
    floor = "one δ of each channel: numpy's sort"
    yield "choices", summary(alternate(works, options.rounds), floor)


def bench_memory(options: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    """Peak memory of an evaluation over few and over many images, above the loaded model's."""
    rows = {}
    for how, start in {"as ltcam starts": reuse_freed_memory, "glibc's own settings": None}.items():
        for count in (40, 399):
            with multiprocessing.get_context("spawn").Pool(1, start) as pool:
                row = pool.apply(_memory_of_evaluation, (options.data, count))
            rows[f"evaluate, {count} images, {how}"] = row
    yield "memory", pd.DataFrame(rows).T


def _memory_of_evaluation(data: str, count: int) -> dict[str, float]:
    samples = real_or_synthetic(data)[:count]
    classifier = slim_classifier()
    source = CamEngine(classifier.model, [MapSpec("gradcam", ALL, 50.0)])
    jobs = [MaskJob(0, Segmenter(SegmenterConfig()))]
    bare_pass(classifier.model, torch.rand(1, 1, 64, 64))
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    found = peak(lambda: evaluate(classifier, source, jobs, samples, Loading(), images="all"))
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    faults = (after.ru_minflt - before.ru_minflt) / 1000
    return {"peak MiB": found, "s": seconds, "1000 page faults": faults}


def real_or_synthetic(data: str) -> list[Sample]:
    """KolektorSDD's 399 images where they are, else as many of the synthetic set."""
    try:
        split = load_split(Ksdd(root=data, split="paper"))
        return [*split.test, *split.train]
    except LtcamError as error:
        print(f"{error}; synthetic images instead", file=sys.stderr)
        height, width = FULL_SIZE
        made = Synthetic(items=100, parts=4, defective=0.25, height=height, width=width, seed=0)
        return made.samples()[:399]


def slim_classifier() -> Classifier:
    """`vgg16_slim` with random weights, at KolektorSDD's input size."""
    torch.manual_seed(0)
    config = BackboneConfig("vgg16_slim", "fc", hidden=64, weights=None)
    model = build_classifier(config, 1).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Classifier(model, config, 1, 512, 192, mean=(0.5,), std=(0.25,))


def bench_training(options: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    """How the time of a training step of twelve images splits into data and model."""
    samples = real_or_synthetic(options.data)[:96]
    classifier = slim_classifier()
    model = classifier.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    augment = augmentation(AugmentConfig())
    order = BalancedOrder([n % 2 for n in range(len(samples))], 96, seed=0)

    def loading(cache: bool) -> Work:
        images = Images(samples, 512, 192, 1, augment=augment, cache=cache)
        return lambda: list(batches(images, 12, order=order))

    given = list(batches(Images(samples, 512, 192, 1), 12))

    def steps() -> None:
        for batch in given:
            optimizer.zero_grad(set_to_none=True)
            logits = model(classifier.prepare(batch.images))
            classification_loss(logits, batch.labels.clamp_min(0)).backward()
            optimizer.step()

    works = {
        "model, 8 steps": steps,
        "data, 8 batches, first epoch": loading(cache=False),
        "data, 8 batches, later epochs": loading(cache=True),
    }
    yield "training", summary(alternate(works, options.rounds), "model, 8 steps")


def bench_patchcore(options: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    """What a memory of 200 good images costs, and what each map does, with 1000 patches kept."""
    config = BackboneConfig("squeezenet1_1", "avg", weights=None)
    for height, width in options.sizes:
        torch.manual_seed(0)
        model = build_classifier(config, 3).eval()
        classifier = Classifier(model, config, 3, height, width, mean=(0.5,) * 3, std=(0.25,) * 3)
        extractor, x = feature_extractor(model, "middle"), torch.rand(8, 3, height, width)

        def drawn(extractor: nn.Module = extractor, x: Tensor = x) -> Tensor:
            generator = torch.Generator().manual_seed(0)
            rows = [drawn_patches(patch_features(extractor, x), 250, generator) for _ in range(25)]
            return torch.cat([row for each in rows for row in each])

        patches = drawn()
        kept = patches[coreset(patches, 1000, torch.Generator().manual_seed(0))]
        source = PatchcoreSource(classifier, Memory(kept, extractor), 4.0)
        works: dict[str, Work] = {
            "features of 200 images": drawn,
            "1000 of 50,000 patches": lambda patches=patches: coreset(
                patches, 1000, torch.Generator().manual_seed(0)
            ),
            "maps of 8 images": lambda source=source, x=x: source(x),
            "bare forward of 8 images": lambda model=model, x=x: bare_forward(model, x),
        }
        name = f"patchcore {height}x{width}"
        yield name, summary(alternate(works, options.rounds), "bare forward of 8 images")


SECTIONS = {
    "maps": bench_maps,
    "growth": bench_growth,
    "scoring": bench_scoring,
    "choices": bench_choices,
    "memory": bench_memory,
    "training": bench_training,
    "patchcore": bench_patchcore,
}


def sizes(text: str) -> list[tuple[int, int]]:
    """224x224,512x192 as pairs of height and width."""
    pairs = [each.split("x") for each in text.split(",")]
    return [(int(height), int(width)) for height, width in pairs]


def main() -> None:
    """Run the sections asked for; print their tables and write them to the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("sections", nargs="*", default=list(SECTIONS), help=", ".join(SECTIONS))
    add("--rounds", type=int, default=5)
    add("--threads", type=int, help="of torch")
    add("--device", default="cpu", help="of the section maps")
    add("--nets", type=lambda text: text.split(","), default=["vgg16", "vgg16_slim"])
    add("--sizes", type=sizes, default=[(224, 224), (512, 192)], help="224x224,512x192")
    add("--batch", type=int, default=1, help="images of one pass, in the section maps")
    add("--slow", action="store_true", help="Score-CAM, and other libraries' hundreds of forwards")
    add("--no-rivals", dest="rivals", action="store_false", help="without other libraries")
    add("--no-memory", dest="memory", action="store_false", help="without peak memory")
    add("--data", default="data/KolektorSDD", help="of the sections memory and training")
    add("--out", type=Path, default=Path("outputs/bench"), help="folder of the tables")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown section {', '.join(unknown)} (known: {', '.join(SECTIONS)})")
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}")
    for section in options.sections:
        for name, table in SECTIONS[section](options):
            table = table.rename_axis("work").reset_index()
            print(f"\n{name}\n{as_markdown(table)}", flush=True)
            write_table(options.out / f"{name.replace(' ', '-')}.csv", table)


if __name__ == "__main__":
    main()
