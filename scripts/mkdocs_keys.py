"""MkDocs hook: a line `{{ keys module:Class }}` becomes a table of the keys of a config class.

With `besides module:Base` the table has only the keys in which the class differs from its base.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ltcam_cli.config import allowed, descriptions, leaves, shown


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its tables of keys filled in."""
    line = r"^\{\{ keys (\S+?)(?: besides (\S+))? \}\}$"
    return re.sub(line, lambda match: table(*match.groups()), markdown, flags=re.M)


def table(name: str, base: str | None) -> str:
    """Markdown table of a config class: key, default, what is allowed, description.

    Args:
        name: Config class, as module:Class.
        base: Another one, whose rows are not repeated.
    """
    inherited = list(rows(base)) if base else []
    lines = ["| key | default | allowed | |", "|---|---|---|---|"]
    for row in rows(name):
        if row not in inherited:
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |")
    return "\n".join(lines)


def rows(name: str) -> Iterator[tuple[str, ...]]:
    """Cells of each key of a config class."""
    module, _, attribute = name.partition(":")
    cls = getattr(import_module(module), attribute)
    group = cls.__config_key__
    for key, annotation, leaf in leaves(cls, group):
        default = default_of(leaf)
        text = "" if default is MISSING or default == "" else f"`{shown(default)}`"
        owner = owner_of(cls, key.removeprefix(f"{group}.").split(".")[:-1])
        yield f"`{key}`", text, allowed(annotation), descriptions(owner).get(leaf.name, "")


def default_of(leaf: Field[Any]) -> Any:
    """Default value of a dataclass's field; MISSING where it has none."""
    given: Any = leaf.default
    if hasattr(given, "get_default"):  # pydantic's Field(default_factory=…)
        return given.get_default(call_default_factory=True)
    return given if leaf.default_factory is MISSING else leaf.default_factory()


def owner_of(cls: Any, path: list[str]) -> Any:
    """The nested config class at a path of field names."""
    for name in path:
        cls = get_type_hints(cls)[name]
        assert is_dataclass(cls)
    return cls
