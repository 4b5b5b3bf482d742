"""Kinds of defects: where they are read, what is learnt and said of them, and their scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Cli, Run, working_in
from PIL import Image
from pycocotools.coco import COCO
from sklearn import metrics
from torch import nn
from toys import SLIM, fault, tiny_classifier, toy

from ltcam_cli.annotations.formats import Format
from ltcam_cli.annotations.writing import WRITERS, Picture
from ltcam_cli.classifier.checkpoint import Classifier, load_classifier
from ltcam_cli.classifier.config import TrainerConfig
from ltcam_cli.classifier.kinds import KindVerdict, any_log_odds, kind_loss, kind_targets
from ltcam_cli.config import effective
from ltcam_cli.data.folder import Folder
from ltcam_cli.data.kinds import kind_names
from ltcam_cli.data.load import load_split
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import CamEngine, explain
from ltcam_cli.maps.ensemble import Ensemble
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.runs.kinds import ImageKinds, image_kinds
from ltcam_cli.scores import kinds as scores

KINDS = ("dark", "light")


def surface(number: int, kind: str = "", size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Grey noise with a square of each kind that is named: pixels (H, W) uint8, and its mask."""
    random = np.random.default_rng([7, number])
    pixels, mask = random.integers(100, 140, (size, size)), np.zeros((size, size), bool)
    for each in kind.split("+") if kind else ():
        left = 4 if each == "dark" else 24  # apart, where both are
        top = int(random.integers(0, size - 12))
        square = np.s_[top : top + 12, left : left + 12]
        pixels[square] += 100 if each == "light" else -90
        mask[square] = True
    return pixels.astype(np.uint8), mask


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_tree(root: Path, per_kind: int = 8) -> Path:
    """`good/`, `defect/<kind>/` with one image of both kinds, and `masks/<kind>/`."""
    for number in range(2 * per_kind):
        write(root / f"good/{number}.png", surface(number)[0])
    for place, kind in enumerate(["dark"] * per_kind + ["light"] * per_kind + ["dark+light"] * 4):
        pixels, mask = surface(100 + place, kind)
        write(root / f"defect/{kind}/{place}.png", pixels)
        write(root / f"masks/{kind}/{place}.png", mask.astype(np.uint8) * 255)
    return root


def kinds_of(dataset: Folder) -> dict[str, tuple[str, ...]]:
    return {sample.name: sample.kinds for sample in load_split(dataset).part("all")}


# Where kinds are read


def test_kinds_of_folders(tmp_path: Path) -> None:
    kinds = kinds_of(Folder(root=str(write_tree(tmp_path, 2)), split="fraction"))
    assert kinds["dark/0"] == ("dark",) and kinds["light/2"] == ("light",)
    assert kinds["dark+light/4"] == ("dark", "light") and kinds["0"] == ()


def test_kinds_of_the_layout_of_mvtec(tmp_path: Path) -> None:
    for name in ("train/good/0", "test/good/0", "test/scratch/0", "test/bent_lead/sub/1"):
        write(tmp_path / f"{name}.png", surface(0)[0])
        if "good" not in name:
            mask = tmp_path / f"{name.replace('test', 'ground_truth')}_mask.png"
            write(mask, surface(0, "dark")[1].astype(np.uint8) * 255)
    kinds = kinds_of(Folder(root=str(tmp_path)))
    assert kinds["test/scratch/0"] == ("scratch",)
    assert kinds["test/bent_lead/sub/1"] == ("bent_lead",)
    assert kinds["test/good/0"] == kinds["train/good/0"] == ()


@pytest.mark.parametrize("file", ["kinds.csv", "split.csv", "labels.csv", "other.csv"])
def test_kinds_of_a_column(file: str, tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"{'defect' if number < 2 else 'good'}/{number}.png", surface(number)[0])
    rows = [(0, "train", 1, "hole"), (1, "test", 1, "hole + crack"), (2, "train", 0, "good"),
            (3, "test", 0, "crack")]  # fmt: skip
    lines = ["name,split,label,kind", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / file).write_text("\n".join(lines))
    if file != "split.csv":
        split = [line.rsplit(",", 2)[0] for line in lines]
        (tmp_path / "split.csv").write_text("\n".join(split))
    labels = str(tmp_path / file) if file == "labels.csv" else None
    other = str(tmp_path / file) if file == "other.csv" else None
    kinds = kinds_of(Folder(root=str(tmp_path), labels=labels, kinds=other))
    assert kinds == {"0": ("hole",), "1": ("crack", "hole"), "2": (), "3": ()}


def test_labels_go_before_kinds(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", 2)
    rows = [f"{path.relative_to(root)},{int('light' in str(path))}" for path in root.rglob("*.png")]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(["name,label", *(row for row in rows if "masks" not in row)]))
    kinds = kinds_of(Folder(root=str(root), split="fraction", labels=str(labels)))
    assert kinds["dark/0"] == () and kinds["dark+light/4"] == ("dark", "light")


def test_what_is_wrong_with_kinds(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", 2)
    (tmp_path / "a.csv").write_text("name,sort\n0,crack\n")
    (tmp_path / "b.csv").write_text("name,kind\nnowhere,crack\n")
    for file, says in {"a": "column kind is missing", "b": "no image for nowhere"}.items():
        dataset = Folder(root=str(root), kinds=str(tmp_path / f"{file}.csv"))
        assert says in fault(lambda dataset=dataset: load_split(dataset))
    assert "trainer.kinds=true: no training image" in fault(lambda: kind_names([toy(0, 1)]))
    with pytest.raises(LtcamError, match=r"trainer\.cutmix"):
        TrainerConfig(kinds=True, cutmix=0.5)


# What is learnt and said of them


def test_two_classes_have_the_identity_that_they_had() -> None:
    assert "kinds" not in effective(TrainerConfig()) and "kinds" not in effective(Folder())


def test_noisy_or() -> None:
    z = torch.randn(50, 4, dtype=torch.float64).mul_(4).requires_grad_()
    p = torch.sigmoid(z)
    any_of = 1 - (1 - p).prod(dim=1)
    y = any_log_odds(z)
    assert torch.allclose(y.double(), torch.log(any_of / (1 - any_of)), atol=1e-4)
    (g,) = torch.autograd.grad(y.sum(), z)
    assert torch.allclose(g, p / any_of[:, None], atol=1e-5)
    assert torch.allclose(any_log_odds(z[:, :1]), z[:, 0].float(), atol=1e-5)
    far = torch.tensor([[-200.0, -200.0], [200.0, -200.0], [-60.0, -90.0]], requires_grad=True)
    values = any_log_odds(far)
    values.sum().backward()
    assert torch.isfinite(values).all() and torch.isfinite(far.grad).all()  # type: ignore[arg-type]
    assert values[1:].tolist() == pytest.approx([200, -60], rel=1e-6)


def test_probabilities_are_those_of_the_training_part() -> None:
    """Batches have more defects than the training part: each image counts less by Bayes' rule."""
    classifier = of_kinds()
    logits = torch.tensor([[1.0, -1.0], [-3.0, 0.5]])
    each = torch.sigmoid(logits).numpy().astype(float)
    weight = np.exp(classifier.prior_shift)
    whole = 1 - (1 - each).prod(axis=1)
    expected = weight * each / (weight * whole + 1 - whole)[:, None]
    verdicts = classifier.kind_verdicts(logits)
    found = [list(verdict.probabilities.values()) for verdict in verdicts]
    assert np.allclose(found, expected)
    assert np.allclose(
        classifier.probability(logits), weight * whole / (weight * whole + 1 - whole)
    )
    assert [verdict.likely for verdict in verdicts] == [("dark",), ("light",)]
    assert classifier.kind_verdicts(torch.tensor([[2.0, 2.0]]))[0].likely == KINDS
    assert classifier.kind_verdicts(torch.tensor([[-9.0, -9.1]]))[0].likely == ("dark",)
    assert verdicts[0].columns(False)["predicted_kind"] == ""
    two = tiny_classifier().kind_verdicts(torch.zeros(3, 1))
    assert two == [KindVerdict()] * 3 and two[0].columns(True) == {}


def test_loss_of_kinds() -> None:
    samples = [
        replace(toy(0, 1), kinds=("light",)),
        replace(toy(1, 1), kinds=KINDS),
        replace(toy(2, 0), kinds=("light",)),  # labelled good
        toy(3, 1),  # of unknown kind
    ]
    targets = kind_targets(samples, KINDS)
    assert targets[:3].tolist() == [[0, 1], [1, 1], [0, 0]] and targets[3].isnan().all()
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    for smoothing in (0.0, 0.2):
        total = 0.0
        for n in range(3):
            for k in range(2):
                t = float(targets[n, k]) * (1 - smoothing) + smoothing / 2
                p = 1 / (1 + np.exp(-float(logits[n, k])))
                total -= t * np.log(p) + (1 - t) * np.log(1 - p)
        assert float(kind_loss(logits, targets, smoothing)) == pytest.approx(total / 4, rel=1e-5)


def of_kinds() -> Classifier:
    classifier = tiny_classifier(replace(SLIM, logits=2))
    return replace(classifier, classes=KINDS, defect="any", prior_shift=-0.7)


def test_a_checkpoint_keeps_kinds(tmp_path: Path) -> None:
    of_kinds().save(tmp_path / "checkpoint.pt")
    assert load_classifier(tmp_path / "checkpoint.pt").kinds == KINDS
    replace(of_kinds(), classes=("dark",)).save(tmp_path / "checkpoint.pt")
    assert "2 logits" in fault(lambda: load_classifier(tmp_path / "checkpoint.pt"))
    assert tiny_classifier().kinds == ()


class AnyOf(nn.Module):
    """A classifier of kinds with the log-odds of any defect as its one logit, by the formula."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        p = 1 - (1 - torch.sigmoid(self.model(images).double())).prod(dim=1, keepdim=True)
        return torch.log(p / (1 - p)).float()


def test_a_map_of_any_is_that_of_the_log_odds() -> None:
    classifier, images = of_kinds(), torch.rand(2, 1, 32, 32)
    stages: dict[str, str] = classifier.model.stages  # type: ignore[assignment]
    spec = MapSpec("layercam", layers=(stages["s4"],), delta=30.0)
    [M] = explain(classifier.model, images, [spec], target="any")
    other = replace(spec, layers=(f"model.{stages['s4']}",))
    [expected] = explain(AnyOf(classifier.model), images, [other])
    assert M.any() and torch.allclose(M, expected, atol=1e-6)


def test_an_ensemble_averages_the_logits_of_kinds() -> None:
    first, images = of_kinds(), torch.rand(2, 1, 32, 32)
    second = of_kinds()
    with torch.no_grad():
        for parameter in second.model.parameters():
            parameter.mul_(1.1)
    spec = MapSpec("gradcam", target="any")
    members = [(each, CamEngine(each.model, [spec])) for each in (first, second)]
    expected = torch.stack([each.model(images).detach() for each, _ in members]).mean(dim=0)
    assert torch.allclose(Ensemble(members)(images).logits, expected)


# Regions


def test_a_region_is_of_the_kind_whose_map_is_highest_there() -> None:
    mask = np.zeros((8, 8), bool)
    mask[1:3, 1:3] = mask[5:7, 5:8] = mask[7, 0] = True
    dark, light = np.zeros((8, 8), np.float32), np.full((8, 8), 0.1, np.float32)
    dark[:4, :4] = 1
    light[4:, 4:] = 3
    maps = {"dark": torch.tensor(dark)[None], "light": torch.tensor(light)[None]}
    kinds = ImageKinds(KindVerdict(dict.fromkeys(KINDS, 0.9), KINDS), maps)
    parts = kinds.of_mask(mask)
    assert parts["dark"].sum() == 4 and parts["dark"][1, 1]
    assert parts["light"].sum() == 7 and parts["light"][7, 0]
    assert (kinds.of_mask(mask, "hole")["hole"] == mask).all()
    single = ImageKinds(KindVerdict({"dark": 0.9, "light": 0.1}, ("dark",)))
    assert list(single.of_mask(mask)) == ["dark"]
    assert ImageKinds().of_mask(mask) == {}


def test_maps_of_several_likely_kinds_alone() -> None:
    logits = torch.tensor([[3.0, 3.0], [3.0, -3.0]])
    both, one = image_kinds(of_kinds(), torch.rand(2, 1, 48, 40), logits)
    assert list(both.maps) == [*KINDS] and both.maps["dark"].shape == (1, 32, 32)
    assert one.maps == {} and one.verdict.likely == ("dark",)


# Scores


def test_scores_of_the_classifier_by_kind() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    kinds = np.where(labels, random.choice(["dark", "light", "dark+light", ""], 200), "")
    called = random.choice(["", "dark", "light", "dark+light"], 200)
    table = pd.DataFrame({"label": labels, "kind": kinds, "predicted_kind": called})
    for kind in KINDS:
        table[f"probability_{kind}"] = random.random(200)
    found = scores.image_kinds(table, KINDS).set_index("kind")
    known = table[(table["label"] == 0) | (table["kind"] != "")]
    for kind in KINDS:
        truth, said = (known[c].str.contains(kind) for c in ("kind", "predicted_kind"))
        row = found.loc[kind]
        assert row["images"] == truth.sum()
        assert row["ap"] == pytest.approx(
            metrics.average_precision_score(truth, known[f"probability_{kind}"])
        )
        assert row["precision"] == pytest.approx(metrics.precision_score(truth, said))
        assert row["recall"] == pytest.approx(metrics.recall_score(truth, said))
    defective = known[known["label"] == 1]
    expected = metrics.accuracy_score(defective["kind"], defective["predicted_kind"])
    assert scores.kind_accuracy(table) == pytest.approx(expected)


def test_scores_of_masks_by_kind() -> None:
    random = np.random.default_rng(1)
    names = [f"image{n}" for n in range(9)]
    kinds = {name: [("dark",), ("light",), KINDS][n % 3] for n, name in enumerate(names[:-1])}
    masks, truths = random.random((2, 9, 6, 7)) > 0.5
    rows = []
    for n, (mask, truth) in enumerate(zip(masks, truths, strict=True)):
        tn, fp, fn, tp = metrics.confusion_matrix(truth.ravel(), mask.ravel()).ravel()
        rows.append({"name": names[n], "group": str(n), "tp": tp, "fp": fp, "fn": fn, "tn": tn})
    found = scores.mask_kinds(pd.DataFrame(rows).set_index("name"), kinds).set_index("kind")
    assert list(found.index) == [*KINDS, "together"]
    for kind in found.index:
        chosen = [kind == "together" or kind in kinds.get(name, ()) for name in names]
        truth, mask = truths[chosen].ravel(), masks[chosen].ravel()
        row = found.loc[kind]
        assert row["images"] == sum(chosen)
        assert row["iou"] == pytest.approx(100 * metrics.jaccard_score(truth, mask))
        assert row["f1"] == pytest.approx(100 * metrics.f1_score(truth, mask))
        each = [metrics.jaccard_score(t.ravel(), m.ravel())
                for t, m, c in zip(truths, masks, chosen, strict=True) if c]  # fmt: skip
        assert row["mean_iou"] == pytest.approx(100 * np.mean(each))
        assert row["iou_low"] <= row["iou"] <= row["iou_high"]


# Annotations


def classes_in(kind: Format, folder: Path) -> list[str]:
    """Classes of the regions in a format's files, as its own documents say."""
    if kind == "coco":
        coco = COCO(str(folder / "coco.json"))
        return [coco.cats[each["category_id"]]["name"] for each in coco.anns.values()]
    if kind == "yolo-seg":
        lines = (folder / "yolo-seg/labels/a.txt").read_text().splitlines()
        named = (folder / "yolo-seg/data.yaml").read_text().split("names:\n")[1].splitlines()
        names = {n.split(":")[0].strip(): json.loads(n.split(":")[1]) for n in named}
        return [names[line.split()[0]] for line in lines]
    if kind == "labelme":
        shapes = json.loads((folder / "labelme/a.json").read_text())["shapes"]
        return [shape["label"] for shape in shapes]
    if kind == "cvat":
        root = Xml.parse(folder / "cvat.xml")
        declared = [each.text for each in root.findall("meta/task/labels/label/name")]
        assert declared == [*KINDS]
        return [str(mask.get("label")) for mask in root.iter("mask")]
    interface = Xml.parse(folder / "labelstudio.xml")
    assert [each.get("value") for each in interface.iter("Label")] == [*KINDS]
    [task] = json.loads((folder / "labelstudio.json").read_text())
    return [each["value"]["brushlabels"][0] for each in task["predictions"][0]["result"]]


@pytest.mark.parametrize("kind", [*WRITERS])
def test_annotations_have_the_kinds_as_classes(kind: Format, tmp_path: Path) -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:6, 3:9] = mask[10:15, 20:28] = True
    classes = {(2, 3, 4, 6, 24): "light", (10, 20, 5, 8, 40): "dark"}
    picture = Picture("a", "a.png", tmp_path / "a.png", mask, classes)
    for file, text in WRITERS[kind]([picture], tmp_path, KINDS):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert classes_in(kind, tmp_path) == ["light", "dark"]


# All of it


TINY = (
    "dataset=folder dataset.height=32 dataset.width=32 dataset.channels=1 backbone=vgg16_slim "
    "backbone.head=avg trainer.epochs=10 trainer.images_per_epoch=72 trainer.amp=false "
    "trainer.lr=0.01 threads=1 device=cpu"
).split()


@pytest.fixture(scope="module")
def kinds_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("kinds")
    root = write_tree(folder / "tree", 12)
    overrides = [*TINY, f"dataset.root={root}", "trainer.kinds=true"]
    with working_in(folder):
        Cli(folder).ok("train", *overrides)
    (path,) = (folder / "outputs").glob("tree-*")
    return Run(path.parent, path.name, overrides)


def test_training_and_evaluation(kinds_run: Run) -> None:
    cli = Cli(kinds_run.outputs.parent)
    with working_in(cli.folder):
        table = pd.read_csv(kinds_run.path / "train/images.csv", keep_default_na=False)
        assert set(table["kind"]) <= {"", "dark", "light", "dark+light"}
        trained = json.loads((kinds_run.path / "train/metrics.json").read_text())
        assert trained["test_kind_accuracy"] == scores.kind_accuracy(table)
        assert trained["test_kind_ap"] > 0.8  # light and dark are easily told apart
        named = cli.ok("evaluate", *kinds_run.overrides, "--method", "ltlayercam")
        assert "together" in named and "kinds.csv" in named
        ofone = cli.ok("evaluate", "--run", kinds_run.name, "--method", "ltlayercam",
                       "method.target=dark", "evaluation.images=predicted")  # fmt: skip
        assert "light" in ofone
        cli.fault("evaluate", "--run", kinds_run.name, "method.target=darc",
                  says=["method.target=darc: unknown", "did you mean 'dark'?"])  # fmt: skip
    cells = [*(kinds_run.path / "evaluate").iterdir()]
    assert len(cells) == 2
    for cell in cells:
        images = pd.read_csv(cell / "images.csv", keep_default_na=False)
        if "predicted" in cell.name:  # masks of dark squares alone
            other = images[~images["predicted_kind"].str.contains("dark")]
            assert (other["tp"] + other["fp"] == 0).all()


def test_prediction(kinds_run: Run) -> None:
    cli = Cli(kinds_run.outputs.parent)
    folder, out = cli.folder / "tree/defect", cli.folder / "predicted"
    with working_in(cli.folder):
        cli.ok("predict", folder, "--run", kinds_run.name, "--method", "gradcam", "--out", out,
               "predict.annotations=coco", "predict.overlays=true")  # fmt: skip
        lines = cli.ok("predict", folder, "--run", kinds_run.name, "--method", "gradcam",
                       "--out", out, "predict.annotations=coco", "--json")  # fmt: skip
        cli.ok("report", out)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'value="kind:dark"' in page
    table = pd.read_csv(out / "scores.csv", keep_default_na=False)
    regions = pd.read_csv(out / "regions.csv", keep_default_na=False)
    kinds = dict(zip(table["name"], table["predicted_kind"], strict=True))
    assert {"dark", "light", "dark+light"} <= set(kinds.values())
    assert all(row["kind"] in kinds[row["name"]].split("+") for _, row in regions.iterrows())
    told = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    assert all(each.get("kind", "") == kinds[each["name"]] for each in told)
    coco = COCO(str(out / "annotations/coco.json"))
    assert [each["name"] for each in coco.cats.values()] == [*KINDS]
    for each in coco.imgs.values():
        name = each["file_name"].removesuffix(".png")
        annotations = coco.imgToAnns[each["id"]]
        found = {(a["area"], coco.cats[a["category_id"]]["name"]) for a in annotations}
        rows = regions[regions["name"] == name]
        assert found == set(zip(rows["area"], rows["kind"], strict=True))


def test_a_classifier_of_two_classes_knows_no_kind(tiny_run: Run) -> None:
    with working_in(tiny_run.outputs.parent):
        Cli(tiny_run.outputs.parent).fault(
            "evaluate", "--run", tiny_run.name, "method.target=crack",
            says=["method.target=crack", "trainer.kinds"],
        )  # fmt: skip
