"""The paper's printed numbers, and tables with ours beside them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ltcam_cli.report.documents import escaped, latex_table, markdown_page
from ltcam_cli.report.paper import (
    SCORES,
    as_texts,
    mean_over_runs,
    misprint_notes,
    printed_numbers,
    with_printed_numbers,
)

ROUNDING = 0.02  # per cent: two printed scores of two decimals give a third one within this


def test_exactly_two_printed_cells_cannot_be_right() -> None:
    numbers = printed_numbers()
    P, R = numbers["precision"], numbers["recall"]
    f1_of_both = 2 * P * R / (P + R)
    iou_of_f1 = 100 * numbers["f1"] / (200 - numbers["f1"])
    # The scores that two of the others speak against.
    iou_wrong = (iou_of_f1 - numbers["iou"]).abs() > ROUNDING
    pair_wrong = (f1_of_both - numbers["f1"]).abs() > ROUNDING
    assert numbers.loc[iou_wrong, ["table", "method"]].to_numpy().tolist() == [
        ["table3", "ltfullgrad"]
    ]
    assert numbers.loc[pair_wrong, ["table", "method"]].to_numpy().tolist() == [
        ["table1", "ablationcam"]
    ]
    marked = numbers[numbers["wrong"] != ""]
    assert marked[["dataset", "method", "wrong"]].to_numpy().tolist() == [
        ["ksdd", "ablationcam", "precision"],
        ["ksdd", "ltfullgrad", "iou"],
    ]
    assert set(numbers.index[numbers["note"] != ""]) == set(marked.index)


def test_what_the_notes_say_is_so() -> None:
    numbers = printed_numbers()
    ablation, fullgrad = numbers[numbers["wrong"] != ""].to_dict("records")
    P, R = ablation["precision"], ablation["recall"]
    for precision, f1, iou in ((P, 29.27, 17.15), (19.98, 30.46, 17.96)):
        assert f"{2 * precision * R / (precision + R):.2f}" == f"{f1:.2f}"
        assert 1 / (1 / precision + 1 / R - 0.01) == pytest.approx(iou, abs=0.01)
        assert all(f"{value:.2f}" in ablation["note"] for value in (f1, iou))
    right = 1 / (1 / fullgrad["precision"] + 1 / fullgrad["recall"] - 0.01)
    assert f"{right:.2f}" == "16.48" and "16.48" in fullgrad["note"]
    plain = numbers[(numbers["method"] == "fullgrad") & (numbers["dataset"] == "ksdd")]
    assert round(right - plain["iou"].iloc[0], 2) == 3.29


def test_the_numbers_of_the_tables() -> None:
    numbers = printed_numbers()
    assert numbers.groupby("table").size().to_dict() == {"table1": 8, "table2": 8, "table3": 4}
    row = numbers[(numbers["table"] == "table1") & (numbers["method"] == "ltgradcam")]
    assert row[list(SCORES)].to_numpy().tolist() == [[24.09, 27.21, 67.75, 38.83]]
    again = numbers[numbers["method"] == "fullgrad"].groupby("dataset")[list(SCORES)].nunique()
    assert (again == 1).all(axis=None)  # table 3 repeats tables 1 and 2


# --- ours


def run_rows(
    entry: str = "ltgradcam delta=50", folds: int = 5, seeds: int = 1, seed: int = 0
) -> pd.DataFrame:
    """Rows as runs give them, with pixels of their own."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(seeds):
        for fold in range(folds):
            tp, fp, fn = (int(n) for n in random.integers(100, 900, 3))
            rows.append(
                {
                    "entry": entry, "method": entry.split()[0], "layers": "all", "delta": 50.0,
                    "segmenter": "otsu", "options": "", "auto": entry.endswith("auto"),
                    "supervision": "image", "kind": "ksdd", "split": "tens", "fold": fold,
                    "seed": number, "n_images": 10, "tp": tp, "fp": fp, "fn": fn,
                    "iou": 100 * tp / (tp + fp + fn), "precision": 100 * tp / (tp + fp),
                    "recall": 100 * tp / (tp + fn), "f1": 200 * tp / (2 * tp + fp + fn),
                    "iou_low": 1.0, "iou_high": 99.0,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_folds_and_seeds_against_numpy() -> None:
    both = [run_rows(seeds=2), run_rows("gradcam", seeds=2, seed=1)]
    table = mean_over_runs(pd.concat(both, ignore_index=True).sample(frac=1, random_state=0))
    for rows in both:
        [row] = table[table["entry"] == rows["entry"].iloc[0]].to_dict("records")
        assert (row["runs"], row["n_images"]) == (10, 100)
        for score in SCORES:
            values = rows[score].to_numpy()
            assert row[score] == pytest.approx(np.mean(values))
            assert row[f"{score}_std"] == pytest.approx(np.std(values, ddof=1))
            fresh = values[np.isin(rows["fold"], [1, 3])]
            assert len(fresh) == 4
            assert row[f"held_out_{score}"] == pytest.approx(fresh.mean())
        tp, fp, fn = (rows[count].sum() for count in ("tp", "fp", "fn"))
        assert (row["tp"], row["fp"], row["fn"]) == (tp, fp, fn)
        assert row["pooled_iou"] == pytest.approx(100 * tp / (tp + fp + fn))
        assert row["pooled_precision"] == pytest.approx(100 * tp / (tp + fp))
        assert row["pooled_recall"] == pytest.approx(100 * tp / (tp + fn))
        P, R = row["pooled_precision"], row["pooled_recall"]
        assert row["pooled_f1"] == pytest.approx(2 * P * R / (P + R))


@pytest.mark.parametrize("change", [{"split": "official"}, {"split": "tens/train"}, {"kind": "x"}])
def test_only_folds_of_ksdd_are_held_out(change: dict[str, str]) -> None:
    table = mean_over_runs(run_rows(folds=3).assign(**change))
    assert table["held_out_iou"].isna().all() and table["iou"].notna().all()


def test_one_run_has_an_interval_and_no_deviation() -> None:
    [row] = mean_over_runs(run_rows(folds=1)).to_dict("records")
    assert (row["iou_low"], row["iou_high"]) == (1.0, 99.0)
    assert np.isnan(row["iou_std"]) and row["pooled_iou"] == pytest.approx(row["iou"])
    many = mean_over_runs(run_rows())
    assert "iou_low" not in many


def test_several_deltas_are_all_listed() -> None:
    rows = run_rows("ltgradcam delta=auto").assign(delta=[50.0, 90.0, 50.0, 7.5, 50.0])
    table = mean_over_runs(rows)
    assert table["delta"].tolist() == ["7.5/50/90"]
    text = as_texts(with_printed_numbers(table, None, "ksdd"))
    assert text["δ"].tolist() == ["7.5/50/90 (auto)"]
    assert mean_over_runs(rows.assign(delta=None))["delta"].tolist() == [""]


def ours(*names: str) -> pd.DataFrame:
    return mean_over_runs(pd.concat([run_rows(name, folds=1) for name in names], ignore_index=True))


def test_known_rows_beside_the_papers() -> None:
    table = with_printed_numbers(
        ours("ablationcam", "ltgradcam delta=50", "mine"), "table1", "ksdd"
    )
    assert table["printed"].tolist() == ["Ablation-CAM", "LTGrad-CAM", ""]
    assert table["paper_iou"].tolist()[:2] == [17.96, 24.09] and np.isnan(table["paper_iou"][2])
    for score in SCORES:
        difference = table[score] - table[f"paper_{score}"]
        pd.testing.assert_series_equal(table[f"difference_{score}"], difference, check_names=False)
    assert (
        len(misprint_notes(table)) == 1
        and "precision of Ablation-CAM, 18.97" in misprint_notes(table)[0]
    )
    text = as_texts(table)
    assert text["method"].tolist() == ["Ablation-CAM", "LTGrad-CAM", "mine"]
    assert text["precision, paper"].tolist() == ["18.97*", "27.21", ""]
    assert text["IoU, difference"][1] == f"{table['iou'][1] - 24.09:+.2f}"
    assert text["IoU"][2] == f"{table['iou'][2]:.2f}"
    assert text["IoU, interval"].tolist() == ["1.00 to 99.00"] * 3


def test_no_numbers_of_another_data_set() -> None:
    for table, dataset in (("table1", "folder"), ("table2", "ksdd"), (None, "ksdd")):
        beside = with_printed_numbers(ours("gradcam"), table, dataset)
        assert beside["paper_iou"].isna().all() and not misprint_notes(beside)
        assert not any("paper" in column for column in as_texts(beside).columns)
    assert with_printed_numbers(ours("gradcam"), "table2", "ksdd2")["paper_iou"].tolist() == [38.67]


def test_several_runs_show_their_spread() -> None:
    text = as_texts(with_printed_numbers(mean_over_runs(run_rows("gradcam")), "table1", "ksdd"))
    rows = run_rows("gradcam")
    assert text["IoU"].tolist() == [f"{rows['iou'].mean():.2f} ± {rows['iou'].std(ddof=1):.2f}"]
    assert {"IoU, pooled", "IoU, held out"} <= set(text.columns)
    official = mean_over_runs(run_rows("gradcam").assign(split="official"))
    assert "IoU, held out" not in as_texts(with_printed_numbers(official, "table1", "ksdd"))


# --- pages


def test_a_page_keeps_its_stars() -> None:
    table = with_printed_numbers(ours("ablationcam"), "table1", "ksdd")
    page = markdown_page("Table 1", as_texts(table), misprint_notes(table))
    assert page.startswith("# Table 1\n\n| method")
    assert r"| 18.97\*" in page and "\n\\* The paper's precision" in page


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("vgg16_slim, 95 %", r"vgg16\_slim, 95 \%"),
        ("a & b # c $ d {e}", r"a \& b \# c \$ d \{e\}"),
        ("~/x^2\\n", r"\textasciitilde{}/x\textasciicircum{}2\textbackslash{}n"),
        ("δ = 50 ± 1, 3 × 3*", r"$\delta$ = 50 $\pm$ 1, 3 $\times$ 3$^{*}$"),
    ],
)
def test_tex_escapes(text: str, written: str) -> None:
    assert escaped(text) == written


def latex_of(names: tuple[str, ...] = ("ablationcam", "ltgradcam delta=50", "my_method")) -> str:
    table = with_printed_numbers(ours(*names), "table1", "ksdd")
    notes = [*misprint_notes(table), "backbone vgg16_slim & 95 %, <nothing> else"]
    return latex_table("100 % ours & the paper's: my_table", as_texts(table), notes)


def test_a_latex_table_is_well_formed() -> None:
    text = latex_of()
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert re.findall(r"\\end\{(\w+)\}", text) == opened[::-1] == ["tabular", "table"]
    assert text.count("{") == text.count("}")
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 1
    columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1])  # type: ignore[index]
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 2 + 3
    for line in body:
        spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
        assert len(re.findall(r"(?<!\\)&", line)) + 1 + spans == columns
    bare = [line for line in text.splitlines() if not line.startswith("%")]
    assert not re.search(r"(?<!\\)[%#_]", "\n".join(bare))
    rules = re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", text)
    assert len(rules) == 4 and all(int(b) - int(a) == 2 for a, b in rules)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex")
def test_a_latex_table_compiles(tmp_path: Path) -> None:
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}"
    body = f"{head}\\begin{{document}}\n{latex_of()}\\end{{document}}\n"
    (tmp_path / "t.tex").write_text(body, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
