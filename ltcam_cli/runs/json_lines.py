"""Predictions as JSON lines: `ltcam predict --json`, `ltcam watch`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ltcam_cli.runs.annotating import BOX


def json_line(row: Mapping[Any, Any], regions: Sequence[Mapping[Any, Any]]) -> str:
    """One image.

    Args:
        row: Its row of `scores.csv`.
        regions: Its rows of `regions.csv`.
    """
    rule = row.get("rule")
    return json.dumps(
        {
            "name": row["name"],
            "path": row["path"],
            "probability": row["probability"],
            "called": "defective" if row["predicted"] else "good",
            **({"kind": row["predicted_kind"]} if _is_text(row.get("predicted_kind")) else {}),
            "verdict": row.get("verdict"),
            "rule": rule if _is_text(rule) else None,
            **_asked(row),
            "regions": [
                {
                    "box": {side: region[side] for side in BOX},
                    **{key: region[key] for key in region if key not in {"name", "region", *BOX}},
                }
                for region in regions
            ],
        },
        allow_nan=False,
    )


def _asked(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Reliability of an image called good, and whether it is looked at again, where asked for."""
    if "look_again" not in row:
        return {}
    value = row["reliability"]
    return {
        "reliability": None if value is None or value != value else value,
        "look_again": bool(row["look_again"]),
    }


def json_lines(scores: pd.DataFrame, regions: pd.DataFrame) -> list[str]:
    """Images of the two tables, in the order of the scores."""
    of_image: dict[str, list[Mapping[Any, Any]]] = {}
    for region in regions.to_dict("records"):
        of_image.setdefault(region["name"], []).append(region)
    return [json_line(row, of_image.get(row["name"], [])) for row in scores.to_dict("records")]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)  # NaN where it is read from a table
