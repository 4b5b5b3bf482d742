"""`ltcam report`: what stands in the page, and what it does in a browser."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SYNTHETIC, Cli, Run, working_in
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours
from torchvision import models

from ltcam_cli.commands.compose import compose, composer
from ltcam_cli.commands.options import Call
from ltcam_cli.data.ksdd import Ksdd
from ltcam_cli.experiments.invocation import command_of_cell, command_of_run
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.report import curves
from ltcam_cli.report.gallery import HEAT, PHOTO, outline, simplified, webp
from ltcam_cli.report.grids import wrapped_title
from ltcam_cli.report.overlay import coloured, shrunk_size
from ltcam_cli.runs.cells import Cell
from ltcam_cli.runs.folder import RunFolder
from ltcam_cli.runs.scoring import evaluate

NAME = '<s>&amp; "it\'s"'  # an image's name that a careless page would take for a tag
METHODS = ["ltlayercam", "gradcam", "ltgradcam"]


class Page(HTMLParser):
    """Tags with their attributes, and the data that the script reads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unclosed: list[str] = []
        self.text = text
        self.feed(text)
        self.close()
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
        assert found
        self.data: dict[str, Any] = json.loads(found[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "input", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unclosed.append(tag)

    def all(self, attribute: str) -> list[str]:
        return [str(attrs[attribute]) for _, attrs in self.tags if attribute in attrs]


@pytest.fixture(scope="module")
def reported(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with its report: three cells of 64x64 images in a folder, one of an odd name.

    The threshold lies in the middle, so that there are missed images and false alarms.
    """
    folder = tmp_path_factory.mktemp("reported")
    shutil.copytree(tiny_run.outputs, folder / "outputs")
    run = Run(folder / "outputs", tiny_run.name, [])
    with working_in(folder):
        cli = Cli(folder)
        cli.ok("data", "synth", "plates", *SYNTHETIC[1:5])
        defect = sorted(Path("plates/defect").iterdir())[0]
        for place in ("defect", "masks"):
            Path("plates", place, defect.name).rename(Path("plates", place, f"{NAME}.png"))
        names = [p.stem for p in sorted(Path("plates").glob("[gd]*/*.png"))]
        parts = ["train" if n in {names[1], names[-1]} else "test" for n in names]
        table = pd.DataFrame({"name": names, "split": parts})
        table.to_csv("plates/split.csv", index=False)
        path = run.path / "train/checkpoint.pt"
        content = torch.load(path, weights_only=True)
        middle = pd.read_csv(run.path / "train/images.csv")["probability"].median()
        torch.save(content | {"threshold": float(middle)}, path)
        data = ["dataset=folder", "dataset.root=plates", "dataset.channels=1", *SYNTHETIC[3:5]]
        cli.ok("evaluate", "-m", "--method", ",".join(METHODS), "--run", run.name, *data)
        cli.ok("report", run.name)
    return run


@pytest.fixture
def reporting(reported: Run) -> Iterator[Cli]:
    """The command line where that run lies."""
    with working_in(reported.outputs.parent):
        yield Cli(reported.outputs.parent)


@pytest.fixture(scope="module")
def page(reported: Run) -> Page:
    return Page((reported.path / "report.html").read_text(encoding="utf-8"))


# --- what stands in the page


def test_the_page_is_whole_and_stands_alone(page: Page) -> None:
    assert not page.unclosed and not page.open
    for attribute in ("src", "href", "xlink:href", "data", "poster", "action"):
        assert all(value.startswith(("data:", "#")) for value in page.all(attribute))
    assert not re.search(r"@import|url\((?!#)", page.text)
    outside = set(re.findall(r"https?://[^\"'\s<)]+", page.text))
    assert all(url.startswith("http://www.w3.org/") for url in outside)  # names, never fetched
    identities = page.all("id")
    assert len(identities) == len(set(identities))


def test_names_are_escaped(page: Page) -> None:
    assert "s" not in {tag for tag, _ in page.tags}
    assert NAME in [image["name"] for image in page.data["images"]]
    assert NAME not in page.text


def test_all_cells_are_in_the_table(page: Page, reported: Run) -> None:
    table = pd.read_csv(reported.path / "results.csv")
    assert page.all("data-cell") == table["cell"].tolist() and len(table) == len(METHODS)
    for iou in table["iou"]:
        assert f">{iou:.2f}<" in page.text
    rows = [attrs for tag, attrs in page.tags if tag == "tr" and "data-cell" in attrs]
    assert all(set(row) == {"data-cell"} for row in rows)  # none is marked as the best
    assert "No row is marked as the best" in page.text and "◆" not in page.text


def test_pictures_and_scores_are_those_of_the_evaluation(page: Page, reported: Run) -> None:
    labels = [cell["label"] for cell in page.data["cells"]]
    assert labels == ["ltlayercam · δ 50 · all", "gradcam · last", "ltgradcam · δ 50 · all"]
    names = [image["name"] for image in page.data["images"]]
    assert len(names) == len(set(names)) == 22
    for shown, method in zip(page.data["cells"], METHODS, strict=True):
        (path,) = (reported.path / "evaluate").glob(f"{method}-*")
        cell = Cell(path)
        found = {names[int(number)]: scores for number, scores in shown["images"].items()}
        assert len(found) == 22  # good images too, which the cell did not count
        assert set(cell.images().index) == {n for n, s in found.items() if s["label"]}
        for name, row in cell.images().iterrows():
            for score in ("iou", "precision", "recall", "probability", "touched", "tp"):
                held = found[str(name)][score]
                assert row[score] == pytest.approx(np.nan if held is None else held, nan_ok=True)
            assert found[str(name)]["mask"].startswith("M") == (row["tp"] + row["fp"] > 0)
            assert found[str(name)]["heat"].startswith("data:image/webp;base64,")


def test_what_an_evaluation_kept_is_what_is_drawn_anew(
    reporting: Cli, reported: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless images, labels or masks have changed since."""
    drawn: list[int] = []

    def counting(*given: Any, **options: Any) -> Any:
        drawn.append(len(given[3]))
        return evaluate(*given, **options)

    monkeypatch.setattr("ltcam_cli.experiments.reporting.evaluate", counting)

    def pictures() -> dict[str, dict[str, Any]]:
        reporting.ok("report", reported.name, "--method", "ltlayercam", "--out", "kept.html")
        data = Page(Path("kept.html").read_text(encoding="utf-8")).data
        found = data["cells"][0]["images"].items()
        return {data["images"][int(n)]["name"]: data["images"][int(n)] | p for n, p in found}

    (identity,) = (reported.path / "evaluate").glob("ltlayercam-*/identity.json")
    text, kept = identity.read_text(), pictures()
    identity.write_text(json.dumps(json.loads(text) | {"images": "others"}))
    anew = pictures()
    identity.write_text(text)
    good = [name for name, picture in anew.items() if not picture["label"]]
    assert drawn == [len(good), len(anew)] and 0 < len(good) < len(anew) == 22
    assert set(kept) == set(anew)
    assert all(kept[name] == pytest.approx(picture) for name, picture in anew.items())


def test_cells_without_a_curve_are_reported(reporting: Cli, reported: Run) -> None:
    (path,) = (reported.path / "evaluate").glob("ltgradcam-*/curve.csv")
    hidden = path.rename(path.with_suffix(".away"))
    metrics = json.loads(path.with_name("metrics.json").read_text())
    old = {k: v for k, v in metrics.items() if not k.startswith("seg_")}
    path.with_name("metrics.json").write_text(json.dumps(old))
    reporting.ok("report", reported.name, "--method", "ltgradcam", "--out", "bare.html")
    text = Path("bare.html").read_text()
    assert "No curve was kept of ltgradcam" in text
    hidden.rename(path)
    path.with_name("metrics.json").write_text(json.dumps(metrics))


def test_cells_are_chosen_and_images_limited(reporting: Cli, reported: Run) -> None:
    shown = reporting.ok(
        "report", reported.name, "--method", "ltlayercam", "--delta", "50", "--limit", 9,
        "--out", "some.html",
    )  # fmt: skip
    assert shown.startswith("1 cells, 9 images")
    some = Page(Path("some.html").read_text())
    assert [cell["label"] for cell in some.data["cells"]] == ["ltlayercam · δ 50"]
    assert len(some.all("data-cell")) == 3  # the table holds all
    assert "13 images are left out" in some.text
    every = Page((reported.path / "report.html").read_text()).data["cells"][0]["images"]
    (first,) = some.data["cells"]
    kept = [found["probability"] for found in first["images"].values() if not found["label"]]
    all_good = sorted((f["probability"] for f in every.values() if not f["label"]), reverse=True)
    assert sorted(kept, reverse=True) == pytest.approx(all_good[: len(kept)], abs=1e-5)
    defective = [found for found in first["images"].values() if found["label"]]
    assert len(defective) == sum(found["label"] for found in every.values())


def test_several_runs_on_one_page(reporting: Cli, reported: Run) -> None:
    if not (other := reported.outputs / "other").exists():
        shutil.copytree(reported.path, other)
    shown = reporting.ok("report", reported.name, "other")
    (path,) = reported.outputs.glob("report-*.html")
    assert str(path.relative_to(reported.outputs.parent)) in shown
    both = Page(path.read_text())
    assert len(both.data["images"]) == 22  # each photograph once
    assert len(both.data["cells"]) == 4 and len(both.all("data-cell")) == 6
    assert {cell["label"].rpartition(" · ")[2] for cell in both.data["cells"]} == {
        reported.name, "other",
    }  # fmt: skip
    shutil.rmtree(other)


def test_the_commands_make_the_run_and_the_cells_again(
    reporting: Cli, reported: Run, page: Page
) -> None:
    run = RunFolder(reported.path)
    configs = composer(Call([]))
    _, command, *overrides = command_of_run(run, configs).split()
    settings = Settings.of(compose(command, Call(overrides)).values)
    assert settings.training_part() == {k: v for k, v in run.config.items() if k != "hash"}
    assert command_of_run(run, configs) in page.text
    for path in (run.path / "evaluate").iterdir():
        cell = Cell(path)
        words = command_of_cell(cell, configs).split()
        assert words[:4] == ["ltcam", "evaluate", "--run", run.name]
        asked = words[4:]
        shown = reporting.ok("config", "evaluate", *asked)
        assert f"name: {cell.config['method']['name']}" in shown


def test_an_imported_run(cli: Cli) -> None:
    torch.save(models.squeezenet1_1(num_classes=2).state_dict(), "mine.pth")
    size = ["dataset.height=64", "dataset.width=64"]
    backbone = ["--backbone", "squeezenet1_1", "--name", "mine"]
    cli.ok("import", "mine.pth", *backbone, *size)
    cli.ok("evaluate", "--run", "mine", "--method", "gradcam", *SYNTHETIC[:5])
    cli.ok("report", "mine")
    text = Path("outputs/mine/report.html").read_text()
    assert "imported from <code>mine.pth</code>" in text and "ltcam train" not in text
    assert "<h1>synthetic · squeezenet1_1</h1>" in text


# --- without masks, and without an evaluation


def test_without_masks(reporting: Cli, reported: Run) -> None:
    """A run of which nothing was evaluated, and a part of whose images has masks, or none."""
    shutil.copytree("plates", "bare", dirs_exist_ok=True)
    run = reported.outputs / "bare"
    shutil.copytree(reported.path, run, ignore=shutil.ignore_patterns("evaluate", "*.csv", "*.md"))
    shutil.copy(reported.path / "train/images.csv", run / "train")
    data = ["dataset=folder", "dataset.root=bare", "dataset.channels=1", *SYNTHETIC[3:5]]
    shutil.rmtree("bare/masks")
    Path("bare/masks").mkdir()
    Path("bare/masks/0.npy").touch()
    reporting.fault("report", "bare", *data, says=["masks: none of its files is"], logs=True)
    shutil.rmtree("bare/masks")
    result = reporting("report", "bare", *data)
    assert result.exit_code == 0 and "nothing evaluated yet" in result.stderr
    [row] = pd.read_csv(run / "results.csv").to_dict("records")
    assert len([*run.glob("auto/*/choice.csv")]) == 1
    assert row["method"] == "student" and np.isnan(row["iou"])
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert not page.unclosed and not page.open and "nan" not in page.text.partition("<script")[0]
    assert page.data["views"] == ["image", "heatmap", "mask"]
    assert "Precision and recall of images" in page.text and "Intersection over" not in page.text
    [cell] = page.data["cells"]
    assert cell["threshold"] == torch.load(run / "train/checkpoint.pt")["threshold"]
    kept = Cell(run / "evaluate" / row["cell"]).images()
    assert np.nanmean(kept["area"]) == pytest.approx(row["area"])
    for number, found in cell["images"].items():
        name = page.data["images"][int(number)]["name"]
        assert found["iou"] is None and found["tp"] is None
        if found["label"]:
            assert found["area"] == pytest.approx(kept["area"][name])
    reporting.ok("report", "bare", "--limit", "5", "--out", "five.html", *data)
    five = Page(Path("five.html").read_text())
    names = [image["name"] for image in page.data["images"]]
    doubts = {
        names[int(number)]: abs(found["probability"] - cell["threshold"])
        for number, found in cell["images"].items()
    }
    shown = {image["name"] for image in five.data["images"]}
    assert shown == set(sorted(doubts, key=lambda name: doubts[name])[:5])
    shutil.copytree("plates/masks", "bare/masks")
    min(Path("bare/masks").iterdir()).unlink()
    reporting.ok("evaluate", "--run", "bare", "--method", "gradcam", *data)
    reporting.ok("report", "bare", "--method", "gradcam", "--out", "some.html", *data)
    some = Page(Path("some.html").read_text())
    assert some.data["views"][-1] == "truth"
    defective = [f for f in some.data["cells"][0]["images"].values() if f["label"]]
    assert [f["regions"] is None for f in defective].count(True) == 1
    shutil.rmtree(run)


# --- of a prediction


@pytest.fixture(scope="module")
def predicted(reported: Run) -> Path:
    """Folder of predictions, with one image that is gone."""
    folder = reported.outputs.parent
    with working_in(folder):
        shutil.copytree("plates/defect", "new")
        cli, out = Cli(folder), ["predict.out=found", "--method", "ltlayercam"]
        cli.ok("predict", "new", "plates/good", "--run", reported.name, *out)
        max(Path("new").iterdir()).unlink()
        cli.ok("report", "found")
    return folder / "found"


def test_a_prediction(reporting: Cli, predicted: Path) -> None:
    page = Page((predicted / "report.html").read_text(encoding="utf-8"))
    assert not page.unclosed and not page.open
    scores = pd.read_csv(predicted / "scores.csv").set_index("name")
    regions = pd.read_csv(predicted / "regions.csv")
    assert page.data["views"] == ["image", "mask"]
    called = int(scores["predicted"].sum())
    assert 0 < called < len(scores)
    for number, name in ((called, "called defective"), (len(scores) - called, "called good")):
        assert f"<dd>{number}</dd><dt>{name}</dt>" in page.text
    assert page.text.count("<tr>\n        <td") == len(regions) > 0
    [cell] = page.data["cells"]
    assert len(cell["images"]) == len(scores) - 1
    for number, found in cell["images"].items():
        row = scores.loc[page.data["images"][int(number)]["name"]]
        assert found["probability"] == pytest.approx(row["probability"])
        assert found["predicted"] == row["predicted"] == (row["probability"] >= cell["threshold"])
        assert found["mask"].startswith("M") == (row["area"] > 0)
        assert found["area"] == pytest.approx(100 * row["area"] / 64**2)
        assert found["found"] == row["regions"]
    reporting.ok("report", "found", "--limit", "3", "--out", "three.html")
    three = Page(Path("three.html").read_text())
    doubt = (scores["probability"] - cell["threshold"]).abs().sort_values()
    shown = {image["name"] for image in three.data["images"]}
    assert shown == set(doubt.index[:3]) - {max(scores.index[scores["path"].str.contains("/new/")])}
    reporting.fault("report", "found", "other", says=["found: is a prediction", "alone"])
    (predicted / "scores.csv").rename("scores.away")
    reporting.fault("report", "found", says=["run=found", "no such run"])
    (predicted / "shard.1of2.json").touch()
    reporting.fault("report", "found", says=["ltcam runs gather found"])
    (predicted / "shard.1of2.json").unlink()
    Path("scores.away").rename(predicted / "scores.csv")


# --- faults


def test_faults(cli: Cli, own_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    name = own_run.name
    says = ["nothing evaluated yet", f"ltcam evaluate --run {name}"]
    cli.fault("report", name, "--method", "gradcam", says=says)
    cli.fault("report", "nope", says=["run=nope", "no such run"])
    cli.ok("evaluate", "--run", name, "--method", "gradcam", "evaluation.overlays=0")
    cli.fault("report", name, "--cell", "nope", says=["--cell nope", "no such cell", "gradcam-"])
    cli.fault("report", name, "--method", "layercam", says=["--method layercam", "gradcam"])
    cli.fault("report", name, "method.delta=3", says=["method.delta=3", "--delta"])
    cli.fault("report", name, "dataset.rot=x", says=["dataset.rot"])
    checkpoint = own_run.path / "train/checkpoint.pt"
    torch.save(torch.load(checkpoint, weights_only=True) | {"threshold": 0.25}, checkpoint)
    cli.fault("report", name, says=["another checkpoint", "evaluate it anew"])
    for module in ("jinja2", "matplotlib"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            cli.fault("report", name, says=[module, "pip install 'ltcam[report]'"])
    assert not (own_run.path / "report.html").exists()


# --- pictures and figures, by themselves


def test_an_outline_encloses_its_mask() -> None:
    random = np.random.default_rng(0)
    mask = ndimage.gaussian_filter(random.random((120, 90)), 4) > 0.505
    mask[:3] = True  # touches the border
    mask[40:60, 30:50], mask[47:53, 37:43] = True, False  # has a hole
    drawn = Image.new("1", (90, 120))
    for contour in outline(mask).split("M")[1:]:
        start, moves = contour.rstrip("z").split("l")
        numbers = [int(n) for n in re.findall(r"-?\d+", f"{start} {moves}")]
        points = np.cumsum(np.reshape(numbers, (-1, 2)), axis=0)
        ring = Image.new("1", (90, 120))
        ImageDraw.Draw(ring).polygon([(x - 0.5, y - 0.5) for x, y in points.tolist()], fill=1)
        drawn = Image.fromarray(np.asarray(drawn) ^ np.asarray(ring))
    filled = np.asarray(drawn)
    assert (filled & mask).sum() / (filled | mask).sum() > 0.9
    assert outline(np.zeros((5, 5), bool)) == ""
    # As good as another implementation of Douglas and Peucker, which takes equals in another order.
    rings = find_contours(np.pad(mask.astype(float), 1), 0.5)
    lines = simplified(rings, 0.7)
    others = [approximate_polygon(ring, 0.7) for ring in rings]
    assert 0.95 < sum(map(len, lines)) / sum(map(len, others)) < 1.05
    for ring, line in zip(rings, lines, strict=True):
        along, to = np.diff(line, axis=0), ring[:, None] - line[:-1]
        share = ((to * along).sum(axis=2) / (along**2).sum(axis=1)).clip(0, 1)
        nearest = np.linalg.norm(to - share[..., None] * along, axis=2).min(axis=1)
        assert nearest.max() <= 0.7 + 1e-9
        assert np.array_equal(line[[0, -1]], ring[[0, -1]])
    dot = np.zeros((5, 7), bool)
    dot[2, 3] = True
    assert outline(dot).startswith("M") and outline(dot).endswith("z")


@pytest.mark.real
def test_kolektor_stays_below_twenty_megabytes(real_ksdd: Path) -> None:
    random = np.random.default_rng(0)
    total = 0
    for sample in Ksdd(root=str(real_ksdd)).samples()[-80::10]:  # eight of the eighty tested images
        size = shrunk_size(sample.image, PHOTO)
        total += len(webp(Image.fromarray(sample.image).resize(size)))
        for sigma in (6, 10, 20, 40):  # from a map of crumbs to one of a blob
            noise = random.random(sample.image.shape, dtype=np.float32)
            heatmap = ndimage.gaussian_filter(noise, sigma)
            heat = coloured(heatmap, shrunk_size(heatmap, HEAT))
            total += len(webp(Image.fromarray(heat)))
            total += len(outline(heatmap > np.quantile(heatmap, 0.8)))
    assert 0.5e6 < 10 * total < 20e6


def figures() -> list[Callable[[], Any]]:
    sweep = pd.DataFrame(
        {
            "method": "m<>", "layers": "all", "part": ["train", "train", "test", "test"],
            "delta": [0.0, 50.0] * 2, "iou": [1.0, 2.0, 3.0, 4.0], "iou_low": 0.5, "iou_high": 5.0,
            "chosen": [False, True] * 2,
        }
    )  # fmt: skip
    curve = pd.DataFrame({"recall": [10.0, 60.0, 100.0], "precision": [90.0, 50.0, 5.0]})
    nan = float("nan")
    return [
        lambda: curves.delta_figure(sweep),
        lambda: curves.precision_recall_figure({"a<": curve}, {"a<": (60, 50), "b": (nan, nan)}),
        lambda: curves.bar_figure(["a<", "b"], [[10, 8, 12], [nan, nan, nan]]),
        lambda: curves.probability_figure({"a<": [0.1, 0.9], "b": []}, 0.5),
    ]


@pytest.mark.parametrize("draw", figures())
def test_figures_suit_light_and_dark_pages(draw: Callable[[], Any]) -> None:
    svg = curves.as_svg(draw(), 'what "it" shows', "f1")
    parsed = HTMLParser()
    parsed.feed(svg)
    assert svg.startswith("<svg ") and 'aria-label="what &quot;it&quot; shows"' in svg
    assert "currentColor" in svg and "#010203" not in svg and "#000000" not in svg
    assert not re.search(r"fill: ?(#fff|white)", svg) and "<style" not in svg
    assert all(name.startswith("f1-") for name in re.findall(r'\bid="([^"]+)"', svg))
    assert all(name.startswith("f1-") for name in re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    assert svg == curves.as_svg(draw(), 'what "it" shows', "f1")


# --- in a browser


@dataclass
class Browser:
    """The page in a browser, as one sees and touches it."""

    driver: Any

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def run(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    def choose(self, group: str, value: str) -> None:
        self.run("arguments[0].click()", self.one(f"#{group} input[value='{value}']"))

    def names(self) -> list[str]:
        return [str(card.get_attribute("data-name")) for card in self.all("#gallery .card")]

    def opacity(self, part: str) -> float:
        """Of a part of the first card, without what is fading."""
        return float(self.run(f"return document.querySelector('#gallery {part}').style.opacity"))

    def value(self) -> float:
        return float(self.one("#gallery .blend").get_property("value"))

    def actions(self) -> Any:
        from selenium.webdriver import ActionChains

        return ActionChains(self.driver)


@pytest.fixture
def browser(driver: Any, reported: Run) -> Iterator[Browser]:
    """The report in a browser."""
    yield from opened(driver, reported.path / "report.html")


def opened(driver: Any, path: Path) -> Iterator[Browser]:
    """A page, opened from disk; in the end its console must be empty and the net unused."""
    driver.get(path.as_uri())
    driver.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    yield Browser(driver)
    assert driver.get_log("browser") == []
    fetched = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            fetched.append(message["params"]["request"]["url"])
    assert fetched and all(url.startswith(("file:", "data:")) for url in fetched), fetched


def of_first_cell(page: Page) -> dict[str, dict[str, Any]]:
    shown = page.data["cells"][0]["images"]
    return {page.data["images"][int(n)]["name"]: found for n, found in shown.items()}


def test_the_slider_moves_by_mouse_and_keyboard(browser: Browser) -> None:
    from selenium.webdriver import Keys

    slider = browser.one("#gallery .blend")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", slider)
    assert browser.value() == 3 and browser.opacity("path.truth:not(.halo)") == 1
    width = slider.size["width"]
    browser.actions().move_to_element_with_offset(slider, -width // 2 + 4, 0).click().perform()
    assert browser.value() == 0
    for part in (".heat", "path.mask:not(.halo)", "path.truth:not(.halo)"):
        assert browser.opacity(part) == 0
    browser.actions().move_to_element_with_offset(slider, -width // 2 + 4, 0).click_and_hold(
    ).move_by_offset(width // 3 - 2, 0).release().perform()  # fmt: skip
    assert 0.8 <= browser.value() <= 1.2 and browser.opacity(".heat") > 0.5

    slider.send_keys(Keys.ARROW_RIGHT)
    after = browser.value()
    for _ in range(5):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert browser.value() == pytest.approx(after + 0.5)
    assert browser.opacity("path.mask:not(.halo)") > 0 and browser.opacity(".heat") > 0
    slider.send_keys(Keys.HOME)
    assert browser.value() == 0
    assert slider.get_attribute("aria-valuetext") == "image"

    picture = browser.one("#gallery .picture")  # and along the picture itself
    wide = picture.size["width"]
    browser.actions().move_to_element_with_offset(picture, -wide // 3, 9).click_and_hold(
    ).move_by_offset(wide // 3 + wide // 6, 0).release().perform()  # fmt: skip
    assert browser.value() == pytest.approx(2, abs=0.15)
    browser.choose("views", "1")
    assert browser.value() == 1


def test_filters_filter(browser: Browser, page: Page) -> None:
    found = of_first_cell(page)
    kinds = {
        "all": set(found),
        "defective": {n for n, f in found.items() if f["label"]},
        "missed": {n for n, f in found.items() if f["label"] and not (f["predicted"] and f["tp"])},
        "false": {n for n, f in found.items() if not f["label"] and f["predicted"]},
    }
    assert 0 < len(kinds["missed"]) < len(kinds["defective"]) and len(kinds["false"]) > 0
    for kind, names in kinds.items():
        browser.choose("filters", kind)
        assert set(browser.names()) == names
        assert browser.one(f"[data-count={kind}]").text == str(len(names))
        assert browser.one("#count").text == f"{len(names)} of {len(found)} images"
    browser.choose("filters", "all")
    browser.one("#search").send_keys("<S>")
    assert browser.names() == [NAME]
    assert browser.one("#gallery h3").text == NAME
    browser.one("#search").send_keys("nobody")
    assert browser.names() == [] and browser.one("#nothing").is_displayed()


def test_worst_images_come_first(browser: Browser, page: Page) -> None:
    found = of_first_cell(page)
    shown = [found[name] for name in browser.names()]
    defective = [f for f in shown if f["label"]]
    assert shown[: len(defective)] == defective
    scores = [f["iou"] if f["predicted"] else -1 for f in defective]
    assert scores == sorted(scores)
    calls = [f["predicted"] for f in shown[len(defective) :]]
    assert calls == sorted(calls, reverse=True) and sum(calls)
    browser.run(
        "const o = document.getElementById('order'); o.value = 'probability';"
        "o.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    likely = [found[name]["probability"] for name in browser.names()]
    assert likely == sorted(likely, reverse=True)


def test_unsure_images_of_a_prediction_come_first(driver: Any, predicted: Path) -> None:
    page = Page((predicted / "report.html").read_text(encoding="utf-8"))
    found, threshold = of_first_cell(page), page.data["cells"][0]["threshold"]
    for shown in opened(driver, predicted / "report.html"):
        doubts = [abs(found[name]["probability"] - threshold) for name in shown.names()]
        assert len(doubts) == len(found) and doubts == sorted(doubts)
        assert shown.one("#gallery .blend").get_property("max") == "1" and shown.value() == 1
        assert shown.opacity("path.mask:not(.halo)") == 1
        assert shown.one("#gallery .tag").text.startswith("called ")
        shown.choose("filters", "called")
        assert len(shown.names()) == sum(f["predicted"] for f in found.values())


def test_the_method_is_chosen(browser: Browser, page: Page) -> None:
    number = browser.one("#gallery .card").get_attribute("data-number")
    card = f"#gallery .card[data-number='{number}']"
    for cell, shown in enumerate(page.data["cells"]):
        browser.choose("cells", str(cell))
        found = shown["images"][number]
        assert browser.one(f"{card} .heat").get_attribute("src") == found["heat"]
        for path in browser.all(f"{card} path.mask"):
            assert path.get_attribute("d") == found["mask"]
        alternative = browser.one(f"{card} .photo").get_attribute("alt")
        assert f"IoU {found['iou']:.1f} %" in alternative
    assert len(browser.all("#gallery .card")) == 22
    loaded = browser.run("return [...document.images].every((i) => i.src.startsWith('data:'))")
    assert loaded


def test_one_image_large(browser: Browser) -> None:
    from selenium.webdriver import Keys

    names = browser.names()
    browser.run("document.querySelector('#gallery .zoom').click()")
    shown = "#stage .card"
    assert browser.one("#large").get_attribute("open")
    assert browser.one(shown).get_attribute("data-name") == names[0]
    slider = browser.driver.switch_to.active_element
    assert "blend" in slider.get_attribute("class")
    slider.send_keys(Keys.ARROW_LEFT)
    assert float(slider.get_property("value")) == pytest.approx(2.9)
    slider.send_keys(Keys.ARROW_DOWN)
    assert browser.one(shown).get_attribute("data-name") == names[1]
    browser.driver.switch_to.active_element.send_keys(Keys.ARROW_UP)
    assert browser.one(shown).get_attribute("data-name") == names[0]
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not browser.one("#large").get_attribute("open")


def test_the_table_sorts_by_a_click(browser: Browser, reported: Run) -> None:
    table = pd.read_csv(reported.path / "results.csv")
    head = next(b for b in browser.all("#table th button") if b.text == "IoU")

    def cells() -> list[str]:
        return [str(row.get_attribute("data-cell")) for row in browser.all("#table tbody tr")]

    browser.run("arguments[0].click()", head)
    falling = table.sort_values("iou", ascending=False)["cell"].tolist()
    assert cells() == falling
    assert head.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    browser.run("arguments[0].click()", head)
    assert cells() == falling[::-1]
    delta = next(b for b in browser.all("#table th button") if b.text == "δ")
    browser.run("arguments[0].click()", delta)
    assert cells()[-1].startswith("gradcam")  # has none


def test_light_and_dark(browser: Browser) -> None:
    def ground() -> str:
        return str(browser.run("return getComputedStyle(document.body).backgroundColor"))

    def prefer(scheme: str) -> None:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    prefer("light")
    light = ground()
    prefer("dark")
    dark = ground()
    assert light != dark
    chosen = []
    for _ in range(3):
        browser.one("#theme").click()
        chosen.append(ground())
    assert chosen == [light, dark, dark]  # light, dark, as the system has it
    prefer("light")
    assert ground() == light


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("ltcam_plus\nsegmenter.refine.options.polarity=both", "ltcam_plus\npolarity\nboth"),
        ("a\nx.y=3", "a\ny=3"),
        ("mask of\nltgradcam_whatever", "mask of\nltgradcam_whatever"),
    ],
)
def test_titles_of_columns(name: str, lines: str) -> None:
    assert wrapped_title(name, 11) == lines
