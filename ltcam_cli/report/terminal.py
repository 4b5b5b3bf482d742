"""What is printed: tables (rich on a terminal, Markdown in a pipe), commented configs, times."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ltcam_cli.config import descriptions
from ltcam_cli.runs.tables import markdown, text_of

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

WIDTH = 120  # characters of a line where the output is no terminal
SENTENCE = 30  # characters; longer texts may be wrapped


@dataclass(frozen=True)
class _Column:
    """Title and texts of a printed column."""

    title: str
    texts: list[str]
    number: bool

    @property
    def wraps(self) -> bool:
        """Whether it holds sentences."""
        return max(map(len, self.texts), default=0) > SENTENCE

    @property
    def width(self) -> int:
        """Narrowest width in characters at which no word is broken."""
        texts = [self.title, *self.texts]
        words = [word for text in texts for word in text.split()] if self.wraps else texts
        return max(map(len, words))


def print_table(
    table: pd.DataFrame, columns: Sequence[str] | None = None, rest: Path | str | None = None
) -> None:
    """Print the most important columns that fit the terminal, or 120 characters elsewhere.

    Args:
        table: Values; numbers have two decimals, None and NaN are empty, and so are columns that
            hold nothing else: they are not printed.
        columns: Names of columns, the most important first; those that the table lacks are
            ignored. None: all. `<name>_low` and `<name>_high` become one column `95 %`, and
            `test_<name>` is called `<name>`.
        rest: File that holds all columns; a last line names it if some were not printed.
    """
    names = list(table.columns) if columns is None else [c for c in columns if c in table.columns]
    candidates = _columns(table, names)
    console = _console() if sys.stdout.isatty() else None
    if console is not None:
        shown = _fitting(candidates, console.width, gap=2)
        console.print(_rich_table(shown))
    else:
        shown = _fitting(candidates, WIDTH - len("|  |"), gap=len(" | "))
        print(markdown([column.title for column in shown], _rows(shown)), end="")
    if rest is not None and len(shown) < len(_columns(table, list(table.columns))):
        line = f"All columns: {rest}"
        if console is not None:
            console.print(line, style="dim", soft_wrap=True)
        else:
            print(line)


def print_files(paths: Iterable[str]) -> None:
    """Print tables that were written as CSV, each below its path."""
    import pandas as pd

    for path in paths:
        print(f"\n{path}")
        print_table(pd.read_csv(path, dtype={"kind": str}, keep_default_na=False, na_values=[""]))


def _columns(table: pd.DataFrame, names: Sequence[str]) -> list[_Column]:
    """The columns that hold a value, with the ends of an interval in one."""
    columns = []
    for name in names:
        values = table[name]
        stem = name.rpartition("_")[0]
        if values.isna().all() or (name == f"{stem}_high" and f"{stem}_low" in names):
            continue
        if name == f"{stem}_low" and f"{stem}_high" in names:
            ends = zip(map(text_of, values), map(text_of, table[f"{stem}_high"]), strict=True)
            texts = [f"{low}–{high}" if low and high else "" for low, high in ends]
            columns.append(_Column("95 %", texts, True))
        else:
            number = all(isinstance(value, Number) for value in values.dropna())
            title = name.removeprefix("test_")
            columns.append(_Column(title, list(map(text_of, values)), number))
    return columns


def _fitting(columns: Sequence[_Column], width: int, gap: int) -> Sequence[_Column]:
    """The first columns that fit a width, at least one."""
    used = -gap
    for number, column in enumerate(columns):
        used += column.width + gap
        if used > width and number:
            return columns[:number]
    return columns


def _rows(columns: Sequence[_Column]) -> list[tuple[str, ...]]:
    return list(zip(*(column.texts for column in columns), strict=True))


def _console() -> Console:
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False)


def _rich_table(columns: Sequence[_Column]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.number else "left",
            no_wrap=not column.wraps,
            overflow="fold",
        )
    for texts in _rows(columns):
        table.add_row(*texts)
    return table


def commented_yaml(values: Mapping[str, Any], config: Any, indent: str = "") -> Iterator[str]:
    """Lines of YAML with what each key means behind it.

    Args:
        values: Values by key.
        config: Config whose docstring describes the keys.
        indent: Indentation of the lines.
    """
    known = {one.name for one in fields(config)}
    told = descriptions(type(config))
    for key, value in values.items():
        inner = getattr(config, key) if key in known else None
        if is_dataclass(inner) and isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from commented_yaml(value, inner, f"{indent}  ")
            continue
        value = list(value) if isinstance(value, tuple) else value
        text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
        line = f"{indent}{key}: {text.removesuffix(chr(10)).removesuffix('...').strip()}"
        comment = told.get(key, "").rstrip(".")
        yield f"{line:<30}  # {comment}" if comment else line


def spent(loop: float, started: float) -> str:
    """What a command took: the loop over images, and start-up and all else.

    Args:
        loop: Seconds of the loop.
        started: Reading of `time.perf_counter` at the command's start.
    """
    return f"loop {loop:.1f} s, all else {time.perf_counter() - started - loop:.1f} s"
