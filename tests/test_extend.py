"""The examples of docs/extend.md, each written as the file that it names, do what the page says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_docs import examples
from torch import nn

from ltcam_cli import MapSpec, explain, segment
from ltcam_cli.data.load import load_split, make_dataset
from ltcam_cli.errors import LtcamError


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mypkg`, importable."""
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg/__init__.py").touch()
    for name, code in examples().items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypkg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_weighting() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(80, 2)
    ).eval()
    images = torch.rand(2, 3, 8, 8)
    spec = MapSpec("mypkg.cams:elementwise", layers=("3",))
    [heatmaps] = explain(model, images, [spec], target=1)
    A = model[:4](images).detach()
    g = model[5].weight[1].detach().view(5, 4, 4)  # the rest of the network is linear
    expected = nn.functional.interpolate((g * A).relu().sum(dim=1)[None], (8, 8), mode="bilinear")
    torch.testing.assert_close(heatmaps, expected[0])


def test_dataset() -> None:
    folder = Path("castings")
    folder.mkdir()
    for item in range(8):
        for view, quality in enumerate(("ok", "nok")):
            stem = folder / f"{item:02}-{view}-{quality}"
            Image.new("L", (8, 8), 10 * item).save(f"{stem}.png")
    Image.new("L", (8, 8), 1).save(folder / "05-1-nok.mask.png")
    config = {"kind": "mypkg.data:Castings", "root": "castings", "fold": 1}
    split = load_split(make_dataset(config))
    assert [sample.name for sample in split.test] == ["01-0-ok", "01-1-nok", "05-0-ok", "05-1-nok"]
    assert [sample.label for sample in split.test] == [0, 1, 0, 1]
    assert [sample.mask is not None for sample in split.test] == [False, False, False, True]
    assert len(split.train) == 12
    with pytest.raises(LtcamError, match=r"dataset\.parts=1: must be"):
        make_dataset({**config, "parts": 1})


def test_segmenter() -> None:
    heatmap = np.random.default_rng(0).random((20, 20))
    mask = segment(heatmap, heatmap, "mypkg.masks:deviations", k=1.0)
    assert (mask == (heatmap > heatmap.mean() + heatmap.std())).all()
    with pytest.raises(LtcamError, match=r"segmenter\.options\.k=-1"):
        segment(heatmap, heatmap, "mypkg.masks:deviations", k=-1.0)
