"""Scores over folds and seeds beside the numbers that the paper printed."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pandas as pd

from ltcam_cli.scores.pixels import PixelCounts

SCORES = {"iou": "IoU", "precision": "precision", "recall": "recall", "f1": "F1"}
# Kind, split and folds of KolektorSDD's items 11..20 and 31..40: no experiment that led to this
# design used them.
HELD_OUT = ("ksdd", "tens", (1, 3))


def printed_numbers() -> pd.DataFrame:
    """All cells of the paper's tables 1 to 3, in per cent, as printed.

    `wrong` names the score of a row that cannot be right, since F1 = 2PR/(P+R) and
    IoU = F1/(2-F1) hold for pooled pixels; `note` says why.
    """
    with resources.files("ltcam_cli.report").joinpath("paper.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False, dtype=dict.fromkeys(SCORES, float))


def mean_over_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per entry: mean and standard deviation over folds and seeds.

    Args:
        rows: One row per run and entry, with the columns entry (its unique text), options (a text
            of what else was set), auto (whether δ was chosen), method, layers, delta, segmenter,
            supervision, kind, split, fold, seed, n_images, the `SCORES` in per cent, and tp, fp, fn
            as integers.

    Returns:
        Table in the order of the entries. `<score>` is the mean over the runs, `<score>_std` the
        sample standard deviation (NaN of one run), `pooled_<score>` the score of the summed pixels
        of all runs. `held_out_<score>` is the mean over the runs of `HELD_OUT`, NaN without any.
    """
    kind, split, folds = HELD_OUT
    rows = rows.assign(
        held_out=(rows["kind"] == kind) & (rows["split"] == split) & rows["fold"].isin(folds)
    )
    means = []
    for _, group in rows.groupby("entry", sort=False):
        first = group.iloc[0]
        tp, fp, fn = (int(group[column].sum()) for column in ("tp", "fp", "fn"))
        pooled = PixelCounts(tp, fp, fn).percent
        row = {
            **first[["entry", "options", "auto", "method", "layers"]],
            "delta": _joined(group["delta"]),
            "segmenter": first["segmenter"],
            "supervision": _joined(group["supervision"]),
            "runs": len(group),
            "n_images": int(group["n_images"].sum()),
            "tp": tp,
            "fp": fp,
            "fn": fn,
        }
        for score in SCORES:
            row[score] = group[score].mean()
            row[f"{score}_std"] = group[score].std(ddof=1)
            row[f"pooled_{score}"] = pooled[score]
            row[f"held_out_{score}"] = group.loc[group["held_out"], score].mean()
        if len(group) == 1:
            row |= {end: first[end] for end in ("iou_low", "iou_high")}
        means.append(row)
    return pd.DataFrame(means)


def with_printed_numbers(rows: pd.DataFrame, table: str | None, dataset: str) -> pd.DataFrame:
    """Rows with the printed numbers of the same methods, and the differences to them.

    Args:
        rows: Table with the column method and the `SCORES`, in per cent.
        table: Table of the paper, `table1`, …; None: there are no printed numbers.
        dataset: Kind of the data set, e.g. `ksdd`.

    Returns:
        Table with `printed` (the method's name in the paper), `paper_<score>`, and
        `difference_<score>` (ours minus the paper's), NaN where the paper has none; `wrong` and
        `note` as in `printed_numbers`.
    """
    numbers = printed_numbers()
    numbers = numbers[(numbers["table"] == table) & (numbers["dataset"] == dataset)]
    numbers = numbers.drop(columns=["table", "dataset"])
    numbers = numbers.rename(columns={score: f"paper_{score}" for score in SCORES})
    merged = rows.merge(numbers, how="left", on="method")
    merged[["printed", "wrong", "note"]] = merged[["printed", "wrong", "note"]].fillna("")
    for score in SCORES:
        merged[f"difference_{score}"] = merged[score] - merged[f"paper_{score}"]
    return merged


def as_texts(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `with_printed_numbers` as texts with two decimals, without empty columns.

    Columns of scores are called `IoU`, `IoU, paper`, `IoU, difference`, and so on. A printed number
    that cannot be right has a `*`.
    """
    several, differ = bool((table["runs"] > 1).any()), table["segmenter"].nunique() > 1
    rows = []
    for _, row in table.iterrows():
        texts = {
            "method": row["printed"] or row["method"],
            "δ": row["delta"] + (" (auto)" if row["auto"] else ""),
            "layers": row["layers"],
            "options": row["options"],
            "segmenter": row["segmenter"] if differ else "",
            "supervision": row["supervision"],
        }
        for score, name in SCORES.items():
            spread = f" ± {row[f'{score}_std']:.2f}" if row["runs"] > 1 else ""
            star = "*" if row["wrong"] == score else ""
            texts[name] = f"{_text(row[score])}{spread}"
            texts[f"{name}, paper"] = f"{_text(row[f'paper_{score}'])}{star}"
            texts[f"{name}, difference"] = _text(row[f"difference_{score}"], "+.2f")
        if several:
            texts["IoU, pooled"] = _text(row["pooled_iou"])
            texts["IoU, held out"] = _text(row["held_out_iou"])
        else:
            texts["IoU, interval"] = f"{_text(row['iou_low'])} to {_text(row['iou_high'])}"
        rows.append(texts)
    texts = pd.DataFrame(rows)
    return texts.loc[:, (texts != "").any()]


def misprint_notes(table: pd.DataFrame) -> list[str]:
    """One sentence per printed number that cannot be right."""
    wrong = table[table["wrong"] != ""].drop_duplicates("printed")
    return [
        f"* The paper's {row['wrong']} of {row['printed']}, {row['paper_' + row['wrong']]:.2f}, "
        f"cannot be right: {row['note']}."
        for _, row in wrong.iterrows()
    ]


def _text(value: float, form: str = ".2f") -> str:
    return "" if pd.isna(value) else format(value, form)


def _joined(values: pd.Series) -> str:
    """The distinct values, sorted and joined by slashes; empty if there is none."""
    distinct = sorted(values.dropna().unique())
    return "/".join(f"{v:g}" if isinstance(v, (float, np.floating)) else str(v) for v in distinct)
