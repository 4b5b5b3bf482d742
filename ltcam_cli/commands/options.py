"""Command-line options as overrides, and tables on the terminal."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcam_cli.errors import LtcamError

if TYPE_CHECKING:
    import pandas as pd

# Each option is sugar for one override.
KEYS = {
    "dataset": "dataset",
    "root": "dataset.root",
    "backbone": "backbone",
    "method": "method",
    "delta": "method.delta",
    "layers": "method.layers",
    "segmenter": "segmenter",
    "images": "evaluation.images",
    "run": "run",
    "name": "name",
    "seed": "seed",
    "device": "device",
    "resume": "resume",
    "overwrite": "overwrite",
    "out": "predict.out",
    "shard": "predict.shard",
    "runtime": "predict.runtime",
    "model": "predict.model",
    "outputs": "outputs",
    "url": "dataset.url",
    "save_maps": "predict.save_maps",
}
# A group must be chosen before a key of it is set.
GROUPS = ("dataset", "backbone", "method", "segmenter")
# Names and paths hold characters that Hydra's grammar knows otherwise.
WORDS = ("null", "true", "false", "nan", "inf")  # that Hydra would not read as strings
TEXTS = ("run", "name", "out", "model", "outputs", "url")


def as_overrides(options: Mapping[str, Any], overrides: Sequence[str] | None) -> list[str]:
    """Options and overrides as Hydra's overrides; what the user wrote as override comes last."""
    for override in overrides or ():
        if "=" not in override and not override.startswith("~"):
            raise LtcamError(f"{override}: not understood; overrides look like key=value")
    given = {name: value for name, value in options.items() if value not in (None, False)}
    ordered = sorted(given, key=lambda name: name not in GROUPS)
    return [f"{KEYS[name]}={_value(name, given[name])}" for name in ordered] + [*(overrides or ())]


def _value(name: str, value: Any) -> str:
    if value is True:
        return "true"
    text = str(value)
    if name not in TEXTS:
        return ",".join(map(expand_range, text.split(","))) if ":" in text else text
    is_list = name in {"run", "name"} and not Path(text).exists()
    return ",".join(map(quoted, text.split(",") if is_list else [text]))


def line_overrides(group: str, line: str, others: Collection[str] = ()) -> list[str]:
    """`ltgradcam delta=50` as the overrides `method=ltgradcam`, `method.delta=50` of its group.

    Args:
        others: groups of which the line may name keys, too: with segmenter, `segmenter=fraction`.
    """
    try:
        name, *keys = shlex.split(line)
    except ValueError:
        raise LtcamError(
            f"{line!r}: must be the name of a {group}, and keys of it as key=value"
        ) from None
    return [
        f"{group}={name}",
        *(key if re.split("[.=]", key)[0] in others else f"{group}.{key}" for key in keys),
    ]


def quoted(text: str) -> str:
    """`text` as a string in Hydra's grammar, whatever it holds; in quotes where it needs them."""
    if re.fullmatch(r"[A-Za-z_/][\w./+-]*", text, re.ASCII) and text.lower() not in WORDS:
        return text
    return "'" + text.replace("'", r"\'") + "'"


def expand_range(text: str) -> str:
    """`0:90:10` -> `0,10,…,90` (the end counts), `1:3/8` -> `1/8,2/8,3/8`; others stay."""
    if shards := re.fullmatch(r"(\d+):(\d+)/(\d+)", text):
        first, last, count = map(int, shards.groups())
        if not 1 <= first <= last <= count:
            raise LtcamError(f"{text}: shards are first:last/n with 1 <= first <= last <= n")
        return ",".join(f"{index}/{count}" for index in range(first, last + 1))
    parts = text.split(":")
    if len(parts) != 3:
        return text
    try:
        start, stop, step = (Decimal(part) for part in parts)
    except InvalidOperation:
        return text
    if step <= 0 or stop < start:
        raise LtcamError(f"{text}: a range is start:stop:step with stop >= start and step > 0")
    count = int((stop - start) / step) + 1
    return ",".join(f"{start + i * step:f}" for i in range(count))


def deltas_of(texts: Sequence[str]) -> list[float | None]:
    """The percentiles of comma lists and ranges; None of `null`."""
    single = [
        one for text in texts for part in text.split(",") for one in expand_range(part).split(",")
    ]
    return [None if text == "null" else _number(text) for text in single]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise LtcamError(f"--delta {text}: must be a number in 0..100, or null") from None


def split_paths(tokens: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Paths and overrides of one list: an override holds a `=` and is no existing path."""
    overrides = [t for t in tokens if ("=" in t or t[:1] == "~") and not Path(t).exists()]
    return [Path(t) for t in tokens if t not in overrides], overrides


def print_table(table: pd.DataFrame, columns: Sequence[str] | None = None) -> None:
    """A table on the terminal, in Markdown, without columns that hold nothing."""
    from ltcam_cli.runs.tables import as_markdown

    shown = [column for column in columns or table.columns if column in table.columns]
    print(as_markdown(table, [column for column in shown if table[column].notna().any()]), end="")


def spent(loop: float, started: float) -> str:
    """What a command took since `started`: the loop over images, and start-up and all else.

    Args:
        loop: seconds.
        started: reading of `time.perf_counter`.
    """
    return f"loop {loop:.1f} s, all else {time.perf_counter() - started - loop:.1f} s"
