"""The config classes' defaults as plain mappings, from which base configs are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from ltcam_cli.config import default_of, defaults
from ltcam_cli.data.load import DATASETS
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.maps.method import CamMethod, StudentMethod

Schema = tuple[str | None, str, dict[str, Any]]


def schemas() -> Iterator[Schema]:
    """Group, name and default values of each base config; group None: the root's own keys."""
    hints = get_type_hints(Settings)
    root = {}
    for one in fields(Settings):
        kind = hints[one.name]
        if one.name == "dataset":
            for name, dataset in DATASETS.items():
                yield "dataset", f"_{name}_schema", defaults(dataset)
        elif one.name == "method":
            yield "method", "_schema", defaults(CamMethod)
            yield "method", "_student_schema", defaults(StudentMethod)
        elif is_dataclass(kind):
            yield one.name, "_schema", defaults(kind)  # type: ignore[arg-type]
        else:
            root[one.name] = default_of(one)
    yield None, "_schema", root
