"""A table of texts with title and notes, as a page in Markdown or a table in LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ltcam_cli.runs.tables import as_markdown

LEFT = ("method", "layers", "supervision")  # columns set flush left in LaTeX


def markdown_page(title: str, table: pd.DataFrame, notes: Sequence[str]) -> str:
    """A Markdown page: title, table of texts, one paragraph per note."""
    paragraphs = [note.replace("*", r"\*") for note in notes]
    body = table.apply(lambda column: column.str.replace("*", r"\*", regex=False))
    return "\n\n".join([f"# {title}", as_markdown(body).rstrip(), *paragraphs]) + "\n"


def latex_table(title: str, table: pd.DataFrame, notes: Sequence[str]) -> str:
    r"""A LaTeX table in the style of booktabs; needs \usepackage{booktabs,graphicx}.

    A column called `IoU, paper` has the heading `paper` below `IoU`.
    """
    heads = [column.partition(", ")[::2] for column in table.columns]
    groups: list[tuple[str, int]] = []
    for name, _ in heads:
        same = bool(groups) and groups[-1][0] == name
        groups[-1:] = [(name, groups[-1][1] + 1)] if same else [*groups[-1:], (name, 1)]
    top, rules, place = [], [], 1
    for name, width in groups:
        text = escaped(name)
        top.append(text if width == 1 else rf"\multicolumn{{{width}}}{{c}}{{{text}}}")
        if width > 1:
            rules.append(rf"\cmidrule(lr){{{place}-{place + width - 1}}}")
        place += width
    wide = {name for name, width in groups if width > 1}
    below = [escaped(part or "ours") if name in wide else "" for name, part in heads]
    sides = "".join("l" if column in LEFT else "r" for column in table.columns)
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(title)}}}",
        r"\resizebox{\linewidth}{!}{",
        rf"\begin{{tabular}}{{{sides}}}",
        r"\toprule",
        _row(top),
        *([" ".join(rules), _row(below)] if rules else []),
        r"\midrule",
        *(_row([escaped(cell) for cell in row]) for row in table.to_numpy()),
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\smallskip\raggedright\footnotesize {escaped(note)}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text for LaTeX: its special characters, signs of numbers and Greek letters."""
    signed = text[:1] in {"+", "-"} and text[1:2].isdigit()
    return f"${text[0]}$" + escaped(text[1:]) if signed else text.translate(_SPECIAL)


_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&",
        "#": r"\#", "$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "*": "$^{*}$", "δ": r"$\delta$", "±": r"$\pm$", "×": r"$\times$", "≡": r"$\equiv$",
    }
)  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
