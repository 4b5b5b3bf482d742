"""Ranges in options: `0:90:10` for δ, `1:8/8` for shards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from ltcam_cli.errors import LtcamError

LONGEST = 10_000  # values of one range


def expand_range(text: str, option: str = "") -> str:
    """`0:90:10` -> `0,10,…,90` (the end counts), `1:3/8` -> `1/8,2/8,3/8`; other texts stay.

    Raises:
        LtcamError: If it looks like a range and is none, or is longer than 10,000 values.
    """
    where = f"{option} {text}".strip()
    if shards := re.fullmatch(r"(\d{1,9}):(\d{1,9})/(\d{1,9})", text, re.ASCII):
        first, last, count = map(int, shards.groups())
        if not 1 <= first <= last <= count:
            raise LtcamError(f"{where}: shards are first:last/n with 1 <= first <= last <= n")
        _check_length(where, last - first + 1)
        return ",".join(f"{index}/{count}" for index in range(first, last + 1))
    parts = text.split(":")
    if len(parts) != 3:
        return text
    try:
        start, stop, step = (Decimal(part) for part in parts)
    except InvalidOperation:
        return text
    if not all(value.is_finite() for value in (start, stop, step)) or step <= 0 or stop < start:
        raise LtcamError(f"{where}: a range is start:stop:step with stop >= start and step > 0")
    _check_length(where, (stop - start) / step + 1)
    return ",".join(f"{start + i * step:f}" for i in range(int((stop - start) / step) + 1))


def _check_length(where: str, length: Decimal | int) -> None:
    if length > LONGEST:
        raise LtcamError(f"{where}: a range has at most {LONGEST} values")


def deltas_of(texts: Sequence[str]) -> list[float | None]:
    """The percentiles of comma lists and ranges; None of `null`.

    Raises:
        LtcamError: If a text is no number in 0..100.
    """
    single = [
        one
        for text in texts
        for part in text.split(",")
        for one in expand_range(part, "--delta").split(",")
    ]
    return [None if text == "null" else _percentile(text) for text in single]


def _percentile(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 100:
        raise LtcamError(f"--delta {text}: must be a number in 0..100, or null")
    return value
