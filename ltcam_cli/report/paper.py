"""Our tables beside the paper's: its printed numbers, the differences, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

import numpy as np
import pandas as pd

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.runs.tables import as_markdown

SCORES = {"iou": "IoU", "precision": "precision", "recall": "recall", "f1": "F1"}
TEXTS = ("method", "layers", "labels")
KINDS = ("table", "curves", "stages")
# KolektorSDD's folders 11..20 and 31..40, which no trial that led to this design looked at.
UNTOUCHED = ("ksdd", "tens", (1, 3))


@dataclass
class ReproduceConfig:
    """A table or figure (conf/reproduce/default.yaml, conf/experiment/table1.yaml and others).

    Attributes:
        kind: `table`; `curves`: each method over `evaluation.deltas`; `stages`: each method on each
            stage alone and as it is.
        paper: whose printed numbers stand beside ours, `table1..3`; None for none.
        title: of the table or figure.
        methods: a line each: a method's name, and keys of it as `key=value`; also of the groups
            segmenter and tta, by their full names.
        pictures: images in the picture of maps, from best to worst; 0 for no picture.
    """

    kind: str = "table"
    paper: str | None = None
    title: str | None = None
    methods: list[str] = field(default_factory=list)
    pictures: int = 4

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise LtcamError(f"reproduce.kind={self.kind}: unknown{nearest(self.kind, KINDS)}")
        tables = dict.fromkeys(printed_numbers()["table"])
        if self.paper is not None and self.paper not in tables:
            raise LtcamError(
                f"reproduce.paper={self.paper}: the paper has no such table"
                f"{nearest(self.paper, tables)}"
            )


def printed_numbers() -> pd.DataFrame:
    """All cells of the paper's tables 1 to 3, in per cent, as printed.

    `wrong` names the score of a row that cannot be right, since F1 = 2PR/(P+R) and
    IoU = F1/(2-F1) hold for pooled pixels; `note` says why.
    """
    with resources.files("ltcam_cli.report").joinpath("paper.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False, dtype=dict.fromkeys(SCORES, float))


def beside_paper(rows: pd.DataFrame, table: str | None, dataset: str) -> pd.DataFrame:
    """`rows` with the paper's numbers of the same methods, and ours minus the paper's.

    Args:
        rows: with the column method and the `SCORES`, in per cent.
        table: `table1`, …; None: no number is known.
        dataset: the data set's kind, e.g. `ksdd`.

    Returns:
        With `printed` (the method's name in the paper), and `paper_<score>` and
        `difference_<score>`, NaN where the paper prints none; `wrong` and `note` as printed.
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


def over_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per line of `reproduce.methods`: mean and deviation over folds and seeds.

    Args:
        rows: one per run and line, with the columns entry, method, layers, delta, segmenter,
            labels, kind, split, fold, seed, the `SCORES` in per cent, and tp, fp, fn as integers.

    Returns:
        In the order of the lines: `<score>` the mean over the runs, `<score>_std` their sample
        standard deviation (NaN of one run), `pooled_<score>` of the summed pixels of all runs, and
        `untouched_<score>`, the mean over folds 1 and 3 of KolektorSDD's `tens`, NaN elsewhere.
    """
    kind, split, folds = UNTOUCHED
    rows = rows.assign(
        untouched=(rows["kind"] == kind) & (rows["split"] == split) & rows["fold"].isin(folds)
    )
    found = []
    for entry, group in rows.groupby("entry", sort=False):
        first = group.iloc[0]
        tp, fp, fn = (int(group[column].sum()) for column in ("tp", "fp", "fn"))
        pooled = {
            "iou": _percent(tp, tp + fp + fn),
            "precision": _percent(tp, tp + fp),
            "recall": _percent(tp, tp + fn),
            "f1": _percent(2 * tp, 2 * tp + fp + fn),
        }
        row = {
            "entry": entry,
            "method": first["method"],
            "layers": first["layers"],
            "delta": _all_of(group["delta"]),
            "segmenter": first["segmenter"],
            "labels": _all_of(group["labels"]),
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
            row[f"untouched_{score}"] = group.loc[group["untouched"], score].mean()
        if len(group) == 1:
            row |= {end: first[end] for end in ("iou_low", "iou_high")}
        found.append(row)
    return pd.DataFrame(found)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `beside_paper` as a person reads it: texts, two decimals.

    Columns of scores are called `IoU`, `IoU, paper`, `IoU, difference`, and so on. A printed number
    that cannot be right bears a `*`.
    """
    many, differ = bool((table["runs"] > 1).any()), table["segmenter"].nunique() > 1
    rows = []
    for _, row in table.iterrows():
        words = row["entry"].split()[1:]
        texts = {
            "method": row["printed"] or row["method"],
            "δ": row["delta"] + (" (auto)" if "delta=auto" in row["entry"] else ""),
            "layers": row["layers"],
            "options": " ".join(w for w in words if not w.startswith(("delta=", "layers="))),
            "segmenter": row["segmenter"] if differ else "",
            "labels": row["labels"],
        }
        for score, name in SCORES.items():
            spread = f" ± {row[f'{score}_std']:.2f}" if row["runs"] > 1 else ""
            star = "*" if row["wrong"] == score else ""
            texts[name] = f"{_text(row[score])}{spread}"
            texts[f"{name}, paper"] = f"{_text(row[f'paper_{score}'])}{star}"
            texts[f"{name}, difference"] = _text(row[f"difference_{score}"], "+.2f")
        if many:
            texts["IoU, pooled"] = _text(row["pooled_iou"])
            texts["IoU, untouched"] = _text(row["untouched_iou"])
        else:
            texts["IoU, interval"] = f"{_text(row['iou_low'])} to {_text(row['iou_high'])}"
        rows.append(texts)
    texts = pd.DataFrame(rows)
    return texts.loc[:, (texts != "").any()]


def notes_of(table: pd.DataFrame) -> list[str]:
    """What must be said of printed numbers that cannot be right."""
    wrong = table[table["wrong"] != ""].drop_duplicates("printed")
    return [
        f"* The paper's {row['wrong']} of {row['printed']}, {row['paper_' + row['wrong']]:.2f}, "
        f"cannot be right: {row['note']}."
        for _, row in wrong.iterrows()
    ]


def as_page(title: str, table: pd.DataFrame, notes: Sequence[str]) -> str:
    """A Markdown page: title, table of texts, a paragraph for each note."""
    paragraphs = [note.replace("*", r"\*") for note in notes]
    body = table.apply(lambda column: column.str.replace("*", r"\*", regex=False))
    return "\n\n".join([f"# {title}", as_markdown(body).rstrip(), *paragraphs]) + "\n"


def as_tex(title: str, table: pd.DataFrame, notes: Sequence[str]) -> str:
    r"""A LaTeX table in the style of booktabs; needs \usepackage{booktabs,graphicx}.

    A column called `IoU, paper` stands as `paper` below `IoU`.
    """
    heads = [column.partition(", ")[::2] for column in table.columns]
    groups: list[tuple[str, int]] = []
    for name, _ in heads:
        same = bool(groups) and groups[-1][0] == name
        groups[-1:] = [(name, groups[-1][1] + 1)] if same else [*groups[-1:], (name, 1)]
    top, rules, place = [], [], 1
    for name, width in groups:
        top.append(tex(name) if width == 1 else rf"\multicolumn{{{width}}}{{c}}{{{tex(name)}}}")
        if width > 1:
            rules.append(rf"\cmidrule(lr){{{place}-{place + width - 1}}}")
        place += width
    wide = {name for name, width in groups if width > 1}
    below = [tex(part or "ours") if name in wide else "" for name, part in heads]
    sides = "".join("l" if column in TEXTS else "r" for column in table.columns)
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(title)}}}",
        r"\resizebox{\linewidth}{!}{",
        rf"\begin{{tabular}}{{{sides}}}",
        r"\toprule",
        _tex_row(top),
        *([" ".join(rules), _tex_row(below)] if rules else []),
        r"\midrule",
        *(_tex_row([tex(cell) for cell in row]) for row in table.to_numpy()),
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\smallskip\raggedright\footnotesize {tex(note)}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    """A text with LaTeX's own characters and our Greek letters written for LaTeX."""
    signed = text[:1] in {"+", "-"} and text[1:2].isdigit()
    return f"${text[0]}$" + tex(text[1:]) if signed else text.translate(_TEX)


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&",
        "#": r"\#", "$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "*": "$^{*}$", "δ": r"$\delta$", "±": r"$\pm$", "×": r"$\times$", "≡": r"$\equiv$",
    }
)  # fmt: skip


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else float("nan")


def _text(value: float, form: str = ".2f") -> str:
    return "" if pd.isna(value) else format(value, form)


def _all_of(values: pd.Series) -> str:
    """The distinct values, joined; empty where there is none."""
    known = values.dropna().unique()
    return "/".join(
        f"{v:g}" if isinstance(v, (float, np.floating)) else str(v) for v in sorted(known)
    )
