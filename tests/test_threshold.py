"""`ltcam threshold`: what a training with that rule would have chosen, kept and used."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from conftest import SYNTHETIC, Cli
from test_cli import table_on

from ltcam_cli.classifier.checkpoint import load_classifier

VALIDATED = [*SYNTHETIC, "trainer.validation=0.4", "trainer.lr=0.001"]


def metrics(name: str) -> dict[str, object]:
    values = json.loads(Path(f"outputs/{name}/train/metrics.json").read_text())
    return {key: value for key, value in values.items() if key != "seconds"}


def predicted(cli: Cli) -> tuple[str, list[int]]:
    """Folder of a prediction of the data set's own images, and which are called defective."""
    shown = cli.ok("predict", "plates", "--run", "a", "--method", "gradcam", "device=cpu")
    out = shown.splitlines()[-1].partition(":")[0]
    table = pd.read_csv(Path(out) / "scores.csv")
    threshold = load_classifier("outputs/a").threshold
    assert (table["predicted"] == (table["probability"] >= threshold)).all()
    return out, table["predicted"].tolist()


def test_a_threshold_chosen_again_is_that_of_a_training_by_its_rule(cli: Cli) -> None:
    cli.ok("train", *VALIDATED, "name=a")
    cli.ok("train", *VALIDATED, "name=b", "trainer.threshold=recall:0.9")
    cli.ok("data", "synth", "plates", *[word for word in SYNTHETIC if word.startswith("dataset.")])
    trained, wanted = metrics("a"), metrics("b")
    assert trained["threshold"] != wanted["threshold"]
    first = predicted(cli)

    shown = cli.ok("threshold", "a", "recall:0.9", "device=cpu")
    assert metrics("a") == wanted
    assert load_classifier("outputs/a").threshold == wanted["threshold"]
    pd.testing.assert_frame_equal(
        *(pd.read_csv(f"outputs/{name}/train/images.csv") for name in "ab")
    )
    validation, test = table_on(shown)
    assert float(validation["recall %"]) >= 90 and test["images"] == "test (report only)"
    assert int(test["false alarms"]) == wanted["test_fp"]
    assert int(test["found"]) == wanted["test_tp"]

    assert predicted(cli)[0] != first[0]  # the old masks are not taken for the new ones
    cli.fault("predict", "plates", "--run", "a", "--method", "gradcam", "--out", first[0],
              "device=cpu", says=["another method, segmenter, classifier"], logs=True)  # fmt: skip
    cli.ok("threshold", "a", "prior")
    assert metrics("a") == trained
    assert predicted(cli) == first


def test_no_threshold_without_images_that_training_left_out(cli: Cli, own_run: object) -> None:
    (path,) = Path("outputs").glob("synthetic-*")
    cli.fault("threshold", path.name, "f1", says=["no validation images", "trainer.validation=0.2"])
    cli.fault("threshold", path.name, "f1", "trainer.validation=0.2", says=["settled that"])


def test_other_images_and_damaged_thresholds_are_refused(cli: Cli) -> None:
    cli.ok("train", *VALIDATED, "name=a", "trainer.epochs=1")
    cli.fault("threshold", "a", "best", says=["trainer.threshold=best: must be prior, f1 or"])
    cli.fault("threshold", "a", "f1", "dataset.items=9", says=["other images", "runs why a"])
    for text in ('{"threshold": 2}', '{"threshold": "0.5"}', "[]", '{"thr'):
        Path("outputs/a/train/threshold.json").write_text(text)
        cli.fault("threshold", "a", "f1", says=["threshold.json: is damaged; delete it"])
