"""The selection of cells, and how two of them differ on the same images."""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Cli, Run

from ltcam_cli.errors import LtcamError
from ltcam_cli.files import write_json
from ltcam_cli.report.terminal import print_table
from ltcam_cli.runs.cells import Cell, cell_labels, find_cells, newest
from ltcam_cli.runs.comparison import compare, note
from ltcam_cli.runs.folder import RunFolder, write_config
from ltcam_cli.runs.tables import SHOWN, add_rows, in_order
from ltcam_cli.scores.intervals import paired_iou
from ltcam_cli.scores.pixels import PixelCounts

GROUPS = ["kos1", "kos1", "kos2", "kos3", "kos3", "kos3", "kos4", "NA"]


def row(method: str, delta: float | None = None, **others: Any) -> dict[str, Any]:
    """A row of results of a cell that counts the defective images of the test split."""
    cell = f"{method}-{'' if delta is None else f'd{delta:g}-'}{others.pop('digits', 'abcdef')}"
    usual = {"layers": "all", "segmenter": "otsu", "images": "defective", "split": "paper"}
    return {"method": method, "delta": delta, "cell": cell, **usual, **others}


def write_cell(run: Path, row: dict[str, Any], seed: int, names: str = "ABCDEFGH") -> Cell:
    """A cell of made-up counts: 100 pixels an image, the same defects in every cell."""
    truth = np.random.default_rng(99).integers(5, 60, len(names))
    tp = np.random.default_rng(seed).integers(0, truth + 1)
    fp = np.random.default_rng(seed + 1).integers(0, 100 - truth)
    counts = {"tp": tp, "fp": fp, "fn": truth - tp, "tn": 100 - truth - fp}
    table = pd.DataFrame({"name": list(names), "group": GROUPS[: len(names)], **counts})
    table = table.sample(frac=1, random_state=seed)  # in any order
    iou = 100 * tp.sum() / (truth.sum() + fp.sum())
    row = row | {"iou": iou, "iou_low": iou - 1, "iou_high": iou + 1}
    path = run / "evaluate" / row["cell"]
    write_json(path / "metrics.json", row)
    table.to_csv(path / "images.csv", index=False)
    write_config(run / "train", {"hash": "123456"})
    add_rows(RunFolder(run), [row])
    return Cell(path)


# --- the bootstrap


def test_paired_bootstrap_is_numpys(tmp_path: Path) -> None:
    cells = [write_cell(tmp_path / "r", row(name), seed) for seed, name in enumerate("xyz")]
    table = compare(cells)
    first, second = (
        pd.read_csv(cell.path / "images.csv", keep_default_na=False).sort_values("name")
        for cell in cells[:2]
    )
    items = sorted(set(GROUPS))
    random = np.random.default_rng(0)
    differences = []
    for drawn in random.multinomial(4 + 1, [1 / 5] * 5, size=2000):
        times = np.array([drawn[items.index(group)] for group in first["group"]])
        iou = []
        for one in (first, second):
            union = (times * (one["tp"] + one["fp"] + one["fn"])).sum()
            iou.append(100 * (times * one["tp"]).sum() / union)
        differences.append(iou[1] - iou[0])
    shown = table.iloc[1]
    assert shown["difference"] == pytest.approx(shown["iou"] - table["iou"][0])
    assert shown["difference_low"] == pytest.approx(np.quantile(differences, 0.025))
    assert shown["difference_high"] == pytest.approx(np.quantile(differences, 0.975))
    assert shown["better"] == pytest.approx(100 * np.mean(np.array(differences) > 0))
    assert table.loc[0, ["difference", "difference_low", "better"]].isna().all()


def test_without_masks_the_evidence_is_compared(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    values = random.random((2, 8))
    values[0, 3] = np.nan  # of an image whose blurring does not lower the log-odds
    cells = []
    for name, evidence in zip("xy", values, strict=True):
        of_cell = row(name, evidence=float(np.nanmean(evidence)), area=5.0)
        cell = write_cell(tmp_path / "r", of_cell, 0)
        table = pd.read_csv(cell.path / "images.csv", keep_default_na=False).sort_values("name")
        table[["tp", "fp", "fn", "tn"]] = None
        table.assign(evidence=evidence, area=5.0).to_csv(cell.path / "images.csv", index=False)
        cells.append(cell)
    table = compare(cells)
    first, *others = table.columns[table.columns.get_loc("evidence") :]
    assert [first, *others][:2] == ["evidence", "area"] and "no masks" in note(table)
    shown, gain = table.iloc[1], values[1] - values[0]
    items = sorted(set(GROUPS))
    means = []
    for drawn in np.random.default_rng(0).multinomial(5, [1 / 5] * 5, size=2000):
        repeated = [np.repeat(g, drawn[items.index(i)]) for g, i in zip(gain, GROUPS, strict=True)]
        means.append(np.nanmean(np.concatenate(repeated)))
    assert shown["difference"] == pytest.approx(np.nanmean(gain))
    ends = shown[["difference_low", "difference_high"]].tolist()
    assert ends == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist())
    assert shown["better"] == pytest.approx(100 * np.mean(np.array(means) > 0))
    masked = write_cell(tmp_path / "s", row("z"), 1)
    with pytest.raises(LtcamError, match="only one was scored with masks"):
        compare([cells[0], masked])


def test_equal_methods_do_not_differ_and_a_constant_gain_is_certain() -> None:
    counts = [PixelCounts(n, 3, 9 - n, 8) for n in range(9)]
    same = paired_iou(counts, counts, list("aabbccdde"))
    assert (same.difference, same.low, same.high, same.better) == (0, 0, 0, 0)
    more = [PixelCounts(c.tp, c.fp - 1, c.fn, c.tn + 1) for c in counts]
    gain = paired_iou(more, counts, list("aabbccdde"))
    assert gain.better == 1 and 0 < gain.low <= gain.difference <= gain.high
    nothing = paired_iou([PixelCounts(tn=4)], [PixelCounts(tn=4)], ["a"])
    assert all(np.isnan([nothing.difference, nothing.low, nothing.high, nothing.better]))
    with pytest.raises(ValueError, match="groups"):
        paired_iou(counts, counts, ["a"])


# --- what cannot be compared


def test_other_images_are_refused(tmp_path: Path) -> None:
    cell = write_cell(tmp_path / "r", row("x"), 0)
    with pytest.raises(LtcamError, match="nothing to compare"):
        compare([cell])
    fewer = write_cell(tmp_path / "s", row("y"), 1, "ABCDEFG")
    with pytest.raises(LtcamError, match=r"different images \(1, e\.g\. H\)"):
        compare([cell, fewer])
    for column, change in (("fn", 1), ("tn", 1), ("group", "s")):
        other = write_cell(tmp_path / "t", row("z"), 2)
        table = pd.read_csv(other.path / "images.csv", keep_default_na=False)
        table.loc[table["name"] == "C", column] += change
        table.to_csv(other.path / "images.csv", index=False)
        with pytest.raises(LtcamError, match="C is another image"):
            compare([cell, other])


# --- the selection of cells


@pytest.fixture
def many(tmp_path: Path) -> RunFolder:
    """A run with cells of several methods, deltas, kinds of images and parts."""
    rows = [
        row("gradcam", digits="000001"),
        row("ltgradcam", 50.0, digits="000002"),
        row("ltgradcam", 0.0, digits="000003"),
        row("ltgradcam", None, digits="000004"),
        row("ltgradcam", 50.0, digits="00000e", images="all"),
        row("layercam", digits="000006", split="paper/train"),
        row("layercam", digits="000007", layers="last"),
    ]
    for seed, cell in enumerate(rows):
        write_cell(tmp_path / "many", cell, seed)
    return RunFolder(tmp_path / "many")


def digits(cells: list[Cell]) -> str:
    return " ".join(cell.name[-1] for cell in cells)


def test_cells_are_found(many: RunFolder) -> None:
    assert digits(find_cells(many)) == "1 2 3 4 7"
    assert digits(find_cells(many, methods=["layercam", "gradcam"])) == "7 1"
    assert digits(find_cells(many, methods=["ltgradcam"], deltas=[50.0, None])) == "2 4"
    assert digits(find_cells(many, ["000006", "ltgradcam-d50-00000e", "000001"])) == "6 e 1"
    for faults, says in [
        ({"methods": ["gradcm"]}, "--method gradcm: .* did you mean 'gradcam'"),
        ({"names": ["00000"]}, "--cell 00000: .* no such cell"),
        ({"deltas": [70.0]}, "no such cell; see: ltcam runs many"),
    ]:
        with pytest.raises(LtcamError, match=says):
            find_cells(many, **faults)  # type: ignore[arg-type]
    shutil.rmtree(many.path / "evaluate" / "gradcam-000001")
    assert digits(find_cells(many)) == "2 3 4 7"
    with pytest.raises(LtcamError, match="nothing evaluated yet; ltcam evaluate --run none"):
        find_cells(RunFolder(many.path.parent / "none"))


def test_other_cells_are_selected_where_there_are_no_usual_ones(tmp_path: Path) -> None:
    write_cell(tmp_path / "r", row("x", images="all"), 0)
    assert [cell.name for cell in find_cells(RunFolder(tmp_path / "r"))] == ["x-abcdef"]


def test_the_newest_of_each_method_come_first(many: RunFolder) -> None:
    cells = find_cells(many)
    assert digits(newest(cells, 3)) == "1 4 7"
    assert digits(newest(cells, 4)) == "1 3 4 7"
    assert digits(newest(cells, 2)) == "4 7"
    assert digits(newest(cells, 9)) == "1 2 3 4 7"


def test_labels_are_distinct(many: RunFolder) -> None:
    metrics = [cell.metrics for cell in find_cells(many)]
    assert cell_labels(metrics[:3]) == ["gradcam", "ltgradcam · δ 50", "ltgradcam · δ 0"]
    *_, last = cell_labels(metrics)
    assert cell_labels(metrics)[0] == "gradcam · all" and last == "layercam · last"
    assert cell_labels([metrics[0], metrics[0]]) == ["gradcam · 000001"] * 2


@pytest.mark.parametrize("content", ["", "{", "a,b\n1,2\n", "name,group,tp,fp,fn,tn\nA,k,1,2"])
def test_a_damaged_cell_is_one_line(tmp_path: Path, content: str) -> None:
    cell = write_cell(tmp_path / "r", row("x"), 0)
    files: dict[str, Callable[[], Any]] = {
        "images.csv": cell.images,
        "metrics.json": lambda: Cell(cell.path).metrics,
        "config.yaml": lambda: cell.config,
    }
    for name, read in files.items():
        (cell.path / name).write_text(content)
        with pytest.raises(LtcamError, match=f"{name}: is damaged; evaluate the cell anew"):
            read()
        (cell.path / name).unlink()
        with pytest.raises(LtcamError, match=f"{name}: is missing; evaluate the cell anew"):
            read()


# --- printed tables


@pytest.mark.parametrize("width", [0, 60, 100, 200])
def test_printed_tables_fit(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(stream, "isatty", lambda: bool(width), raising=False)
    scores = dict.fromkeys(SHOWN[7:-1], 12.345) | {"n_images": 7}
    rows = [row("ltgradcam_product[b]", 50.0) | scores, row("gradcam") | scores | {"iou": np.nan}]
    print_table(in_order(rows), SHOWN, "results.csv")
    head, _, *lines = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue()).splitlines()
    titles = re.split(r" *\| *| +", head.strip("| ").replace("95 %", "95%"))
    names = "method delta layers segmenter images iou precision recall f1 95% mean_iou pixel_ap"
    assert titles == [*names.split(), "n_images"][: {0: 10, 60: 5, 100: 9, 200: 13}[width]]
    assert max(map(len, [head, *lines])) <= (width or 120)
    assert lines[0].strip("| ").startswith("ltgradcam_product[b]")
    assert lines[2:] == ["All columns: results.csv"] and "nan" not in lines[1]
    assert ("12.35–12.35" in lines[0]) == (width in {0, 200})


# --- the command


def test_compare(cli: Cli, own_run: Run) -> None:
    run = ["--run", own_run.name, "evaluation.overlays=0"]
    cli.ok("evaluate", "-m", "--method", "gradcam,ltlayercam", *run)
    shown = cli.ok("compare", own_run.name)
    assert "gradcam" in shown and "ltlayercam" in shown
    assert "outputs/compare.csv" in shown
    table = pd.read_csv("outputs/compare.csv")
    assert table["method"].tolist() == ["gradcam", "ltlayercam"]
    assert table["difference"][1] == pytest.approx(table["iou"][1] - table["iou"][0])
    assert table["difference_low"][1] <= table["difference"][1] <= table["difference_high"][1]
    cells = sorted(Path("outputs").glob("*/evaluate/*"), reverse=True)
    shown = cli.ok("compare", *cells, "--out", "side by side")
    turned = pd.read_csv("side by side/compare.csv")
    assert turned["method"].tolist() == ["ltlayercam", "gradcam"]
    assert turned["difference"][1] == pytest.approx(-table["difference"][1])
    assert "difference:" in Path("side by side/compare.md").read_text()


def test_faults(cli: Cli, own_run: Run) -> None:
    cli.fault("compare", own_run.name, says=["nothing evaluated yet", "ltcam evaluate --run"])
    run = ["--run", own_run.name, "evaluation.overlays=0"]
    cli.ok("evaluate", "--method", "gradcam", *run)
    cli.fault("compare", own_run.name, says=["nothing to compare"])
    cli.fault("compare", own_run.name, "nope", says=["run=nope", "no such run"])
    cli.ok("evaluate", "--method", "gradcam", "--images", "all", *run)
    cells = sorted(Path("outputs").glob("*/evaluate/*"))
    cli.fault("compare", *cells, says=["different images", "evaluation.images"])
    cli.fault("compare", own_run.name, "--delta", "much", says=["--delta much", "number"])
    assert not Path("outputs/compare.csv").exists()
