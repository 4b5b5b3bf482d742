"""Beside a production line: millimetres, limits and verdicts, JSON lines, watching a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Cli, Run, half_written
from PIL import Image
from skimage.measure import label, regionprops

from ltcam_cli.data.arrivals import Arrivals
from ltcam_cli.experiments.config import PredictConfig
from ltcam_cli.runs.acceptance import Acceptance, RejectConfig

MM = 0.05
SIZE = (48, 56)


def photos(folder: Path, *names: str) -> Path:
    """Images of noise, with a bright bar in every second one."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng([7, number]).integers(60, 100, SIZE, dtype=np.uint8)
        if number % 2:
            pixels[10 : 14 + number, 8:40] = 220
        Image.fromarray(pixels).save(folder / name)
    return folder


def predicting(run: Run, *more: str) -> list[str]:
    return [
        "--run", str(run.path), "--method", "ltlayercam", "threads=1", "predict.overlays=false",
        "predict.gate=false", *more,
    ]  # fmt: skip


# Limits


@pytest.mark.parametrize(
    ("limits", "mm", "rule"),
    [
        (dict(area=30, length=12, total_area=40, regions=2, probability=0.6), None, ""),
        (dict(area=29), None, "area"),
        (dict(total_area=39.5), None, "total_area"),
        (dict(length=11.9), None, "length"),
        (dict(regions=1), None, "regions"),
        (dict(probability=0.59), None, "probability"),
        (dict(probability=0.5, regions=0, area=0), None, "probability regions area"),
        (dict(area=7.5, length=6, total_area=10), 0.5, ""),  # 30 and 40 pixels of 0.25 mm²
        (dict(area=7.4, length=5.9, total_area=9.9), 0.5, "area total_area length"),
    ],
)
def test_a_part_is_rejected_by_what_exceeds_its_limit(
    limits: dict[str, Any], mm: float | None, rule: str
) -> None:
    row = {"probability": 0.6, "regions": 2, "area": 40}
    regions = [{"area": 30, "length": 8.0}, {"area": 10, "length": 12.0}]
    judged = Acceptance(RejectConfig(**limits), mm).judged(row, regions)
    assert (judged["verdict"], judged["rule"]) == ("reject" if rule else "accept", rule)


def test_without_limits_there_is_no_verdict() -> None:
    row = {"probability": 0.6, "regions": 0, "area": 0}
    assert PredictConfig().acceptance.judged(row, []) == row
    assert PredictConfig().acceptance.parts == {}
    whole = Acceptance(RejectConfig(area=0, length=0, regions=0)).judged(row, [])
    assert whole["verdict"] == "accept"


# ltcam predict


def test_millimetres_verdicts_and_json(cli: Cli, tiny_run: Run) -> None:
    photos(Path("parts"), "a.png", "b.png", "c.png", "d.png", "e.png")
    options = predicting(tiny_run, "predict.mm_per_pixel=0.05", "predict.reject.length=2.5")
    first = cli("predict", "parts", *options, "--out", "found")
    scores = pd.read_csv("found/scores.csv", keep_default_na=False)
    regions = pd.read_csv("found/regions.csv")
    rejected = []
    for row in scores.to_dict("records"):
        mask = np.asarray(Image.open(f"found/masks/{row['name']}.png"))
        truth = regionprops(label(mask > 0, connectivity=2), spacing=(MM, MM))
        own = regions[regions["name"] == row["name"]]
        areas = sorted(float(region.area) for region in truth)
        lengths = sorted(max(MM, float(region.axis_major_length)) for region in truth)
        assert sorted(own["area_mm2"]) == pytest.approx(areas)
        assert sorted(own["length_mm"]) == pytest.approx(lengths)
        assert own["width_mm"].to_numpy() == pytest.approx(own["area_mm2"] / own["length_mm"])
        assert row["area_mm2"] == pytest.approx(sum(areas))
        is_rejected = max(lengths, default=0) > 2.5
        assert row["verdict"] == ("reject" if is_rejected else "accept")
        assert row["rule"] == ("length" if is_rejected else "")
        rejected += [row["name"]] if is_rejected else []
    assert 0 < len(rejected) < 5
    assert first.exit_code == 3 and f", {len(rejected)} rejected\n" in first.stdout

    again = cli("predict", "parts", *options, "--out", "found", "--json")
    assert again.exit_code == 3 and "5 images" in again.stderr
    lines = [json.loads(line) for line in again.stdout.splitlines()]
    assert [line["name"] for line in lines if line["verdict"] == "reject"] == rejected
    for line, row in zip(lines, scores.to_dict("records"), strict=True):
        assert {key: line[key] for key in ("name", "path", "probability", "verdict")} == {
            key: row[key] for key in ("name", "path", "probability", "verdict")
        }
        assert line["called"] == ("defective" if row["predicted"] else "good")
        assert line["rule"] == (row["rule"] or None)
        own = regions[regions["name"] == row["name"]].drop(columns=["name", "region"])
        assert [{**one.pop("box"), **one} for one in line["regions"]] == own.to_dict("records")

    cli.ok("report", "found")
    page = Path("found/report.html").read_text(encoding="utf-8")
    assert f"<dd>{len(rejected)}</dd><dt>rejected</dt>" in page and "area, mm²" in page
    assert page.count('"verdict": "reject"') == page.count('"rule": "length"') == len(rejected)

    good = next(name for name in scores["name"] if name not in rejected)
    status = cli("predict", f"parts/{good}.png", *options, "--out", "found").exit_code
    assert status == 0  # of the images that it was given
    for change in ("predict.reject.length=2.6", "predict.mm_per_pixel=0.06"):
        cli.fault("predict", "parts", *options, change, "--out", "found",
                  says=["found", "scale or limits", "predict.out"], logs=True)  # fmt: skip
    cli.fault(
        "predict", "parts", *options, "-m", "--shard", "1,2/2", "--json", says=["not with -m"]
    )
    shards = cli("predict", "parts", *options, "--out", "shards", "-m", "--shard", "1:2/2")
    assert shards.exit_code == 3
    joined = cli("runs", "gather", "shards")
    assert joined.exit_code == 3
    assert f"2 of 2 shards, 5 of their 5 images, {len(rejected)} rejected" in joined.stdout
    gathered = pd.read_csv("shards/scores.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(gathered, scores, rtol=1e-4)  # other batches round otherwise


# ltcam watch


def until(happened: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.02)


def copy_slowly(source: Path, target: Path, seconds: float) -> None:
    content = source.read_bytes()
    with target.open("wb") as stream:
        for number in range(5):
            stream.write(content[number * len(content) // 5 : (number + 1) * len(content) // 5])
            stream.flush()
            time.sleep(seconds / 5)


def test_watching_a_folder(cli: Cli, tiny_run: Run) -> None:
    source = photos(Path("source"), "first.png", "slow.png", "twin.png", "twin.bmp", "late.png")
    incoming = Path("incoming")
    incoming.mkdir()
    shutil.copy(source / "first.png", incoming)
    options = predicting(
        tiny_run, "--out", "incoming/found", "predict.settle=0.3", "predict.reject.regions=0"
    )
    with Path("lines").open("w") as lines, Path("said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "ltcam_cli", "watch", "incoming", *options],
            stdout=lines,
            stderr=said,
            text=True,
        )
    told = Path("lines").read_text
    until(lambda: '"first"' in told(), process)
    copy_slowly(source / "slow.png", incoming / "slow.png", 0.8)  # longer than it must stand still
    (incoming / "broken.png").write_bytes(b"no image")
    shutil.copy(source / "twin.png", incoming)
    until(lambda: '"slow"' in told() and '"twin"' in told(), process)
    shutil.copy(source / "twin.bmp", incoming)
    until(lambda: told().count("\n") == 4, process)
    shutil.copy(source / "late.png", incoming / "first.png")  # other content
    until(lambda: told().count("\n") == 5 and "broken" in Path("said").read_text(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    messages = Path("said").read_text()
    assert messages.count("skipped") == messages.count("broken.png") == 1
    assert sorted(path.name for path in incoming.iterdir() if path.is_file()) == sorted(
        ["broken.png", "first.png", "slow.png", "twin.bmp", "twin.png"]
    )
    names = [json.loads(line)["name"] for line in told().splitlines()]
    assert sorted(names) == ["first", "first", "slow", "twin", "twin.bmp"]
    assert not half_written(cli.folder)

    # Another watch goes on: what has a row is not predicted again.
    (incoming / "broken.png").unlink()
    scores = pd.read_csv(incoming / "found/scores.csv", keep_default_na=False)
    shutil.copy(source / "late.png", incoming)
    ends = threading.Thread(
        target=lambda: (
            until(lambda: "late" in (incoming / "found/scores.csv").read_text()),
            os.kill(os.getpid(), signal.SIGTERM),  # SIGINT may be ignored, as by `pytest &`
        )
    )
    ends.start()
    restarted = cli("watch", "incoming", *options)
    ends.join()
    assert restarted.exit_code == 0
    (line,) = map(json.loads, restarted.stdout.splitlines())
    assert line["name"] == "late"
    now = pd.read_csv(incoming / "found/scores.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(now.head(4), scores)
    cli("predict", "incoming/slow.png", "incoming/late.png", *options, "--out", "alone")
    alone = pd.read_csv("alone/scores.csv", keep_default_na=False).set_index("name")
    pd.testing.assert_frame_equal(
        alone, now.set_index("name").loc[alone.index], rtol=1e-4
    )  # other batches round otherwise


@pytest.mark.parametrize("events", [True, False])
def test_files_arrive_once_they_stand_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: bool
) -> None:
    if not events:
        monkeypatch.setitem(sys.modules, "watchdog.observers", None)
    (tmp_path / "out").mkdir()
    (tmp_path / "old.png").touch()
    given: list[Path] = []
    with Arrivals(tmp_path, tmp_path / "out", 0.2, 30 if events else 0.05) as arrivals:

        def write() -> None:
            until(lambda: given)
            for name in (".hidden.png", "notes.txt", "out/mask.png", "gone.png", "part.tmp"):
                (tmp_path / name).touch()
            (tmp_path / "gone.png").unlink()
            (tmp_path / "part.tmp").rename(tmp_path / "renamed.PNG")
            copy_slowly(Path(__file__), tmp_path / "slow.png", 0.7)
            until(lambda: len(given) >= 3)
            (tmp_path / "old.png").write_text("changed")
            until(lambda: len(given) >= 4)
            arrivals.stop()

        writer = threading.Thread(target=write)
        writer.start()
        for paths in arrivals:
            given += paths
            if tmp_path / "slow.png" in paths:
                assert (tmp_path / "slow.png").read_bytes() == Path(__file__).read_bytes()
        writer.join()
    assert [path.name for path in given] == ["old.png", "renamed.PNG", "slow.png", "old.png"]


def test_wrong_calls(cli: Cli, tiny_run: Run) -> None:
    run = ["--run", str(tiny_run.path)]
    Path("incoming").mkdir()
    cli.fault("watch", "nowhere", *run, says=["nowhere: no such folder"])
    cli.fault("watch", "incoming", *run, "predict.shard=1/2", says=["predict.shard=1/2", "leave"])
    cli.fault("watch", "incoming", *run, "predict.settle=0", says=["predict.settle=0", "above 0"])
    cli.fault("predict", "incoming", *run, "predict.reject.lenght=3", says=["'length'"])
    cli.fault("predict", "incoming", *run, "predict.reject.area=-1", says=["predict.reject.area"])
