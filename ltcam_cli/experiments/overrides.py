"""Mappings of config keys as overrides in Hydra's grammar, for experiments that list several."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ltcam_cli.data.listing import readable
from ltcam_cli.errors import LtcamError

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


def literal(override: str, keys: Collection[str]) -> str:
    """An override of a key that takes a text, with quotes where Hydra would read it otherwise.

    What names a file or folder that is there is that; else sweeps, functions, `null` and `${…}`
    keep their meaning.

    Args:
        override: `key=value` as typed.
        keys: dotted keys that take texts.

    Raises:
        LtcamError: if it is not UTF-8.
    """
    key, equals, value = override.partition("=")
    if any("\ud800" <= character <= "\udfff" for character in override):
        raise LtcamError(f"{readable(override)}: is not UTF-8; rename the file or folder")
    if not equals or key.lstrip("+") not in keys or value == "null":
        return override
    if os.path.lexists(value) and not _is_text(value):
        return f"{key}={quoted(value.replace('${', chr(92) + '${'))}"
    if not value or value[0] in "'\"[{" or "${" in value or re.match(r"[a-z_]+\(", value):
        return override
    parts = [part if _is_text(part) else quoted(part) for part in value.split(",")]
    return f"{key}={','.join(parts)}"


def _is_text(value: str) -> bool:
    """Whether Hydra reads a value as the text that it is, though `quoted` would quote it."""
    return bool(re.fullmatch(r"[a-z_/][\w./+:@ -]*", value, re.ASCII | re.IGNORECASE)) and (
        value.strip().lower() not in WORDS and value == value.strip()
    )


def quoted(text: str) -> str:
    """`text` as a string in Hydra's grammar, whatever it holds; in quotes where it needs them."""
    if re.fullmatch(r"[A-Za-z_/][\w./+-]*", text, re.ASCII) and text.lower() not in WORDS:
        return text
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", r"\'")
    return f"'{escaped}'"


def with_experiment(what: str, overrides: Sequence[str]) -> list[str]:
    """The overrides, with `what` before the experiments that the user chose besides."""
    chosen = [o for o in overrides if o.split("=")[0] == "experiment"]
    names = [what, *(o.split("=", 1)[1].strip("[]") for o in chosen)]
    both = f"experiment=[{','.join(names)}]" if chosen else f"experiment={what}"
    return [both, *(o for o in overrides if o not in chosen)]
