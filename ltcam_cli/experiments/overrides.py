"""Mappings of config keys as overrides in Hydra's grammar, for experiments that list several."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltcam_cli.experiments.settings import Composed

# Composes a command's config: name of the command and overrides -> plain values.
Compose = Callable[[str, Sequence[str]], "Composed"]
# Texts that Hydra's grammar would not read as strings.
WORDS = ("null", "true", "false", "nan", "inf")


def entry_overrides(keys: Mapping[str, Any]) -> list[str]:
    """A mapping of config keys as overrides; groups first."""
    ordered = sorted(keys.items(), key=lambda pair: "." in str(pair[0]))
    return [f"{key}={override_text(value)}" for key, value in ordered]


def override_text(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(override_text(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{override_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return f"{value:.17g}" if isinstance(value, float) else quoted(str(value))


def quoted(text: str) -> str:
    """`text` as a string in Hydra's grammar, whatever it holds; in quotes where it needs them."""
    if re.fullmatch(r"[A-Za-z_/][\w./+-]*", text, re.ASCII) and text.lower() not in WORDS:
        return text
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", r"\'")
    return f"'{escaped}'"
