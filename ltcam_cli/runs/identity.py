"""Identity: all that decides an artefact, hashed for its name and kept beside it.

An artefact is a run, a cell, a sweep, a fitted segmenter, a memory, a student, a prediction, a
search or a reproduction. Its `identity.json` is the mapping that was hashed; a field of a config
opts out where it is declared (`config.NO_EFFECT`). Paths, speed and the version of this package are
no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltcam_cli.config import effective
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import short_hash, write_json
from ltcam_cli.runs.dotted import flat
from ltcam_cli.runs.reading import read_mapping

FILE = "identity.json"
# Format of what each station computes: raise it when equal inputs begin to give other results.
FORMATS = {
    "training": 2,
    "segmenter": 2,
    "memory": 1,
    "cell": 2,
    "sweep": 2,
    "delta": 2,
    "search": 2,
    "choice": 6,
    "student": 2,
    "prediction": 2,
    "reproduction": 2,
}


@dataclass(frozen=True)
class Identity:
    """What decides an artefact.

    Attributes:
        station: Kind of artefact; one of `FORMATS`.
        parts: Plain mapping; configs in it count without their `NO_EFFECT` fields.
    """

    station: str
    parts: Mapping[str, Any]

    @property
    def mapping(self) -> dict[str, Any]:
        """The mapping that is hashed."""
        return {
            "station": self.station,
            "format": FORMATS[self.station],
            **effective(self.parts),
        }

    @property
    def hash(self) -> str:
        """First six hex digits of its SHA-256."""
        return short_hash(self.mapping)

    def write(self, folder: Path) -> None:
        """Write `identity.json` into the artefact's folder."""
        write_json(folder / FILE, {"hash": self.hash, **self.mapping})


def kept_identity(folder: Path) -> dict[str, Any] | None:
    """Identity that an artefact's folder holds; None if there is none.

    Raises:
        LtcamError: If the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    return read_mapping(path, f"make {folder} anew", ("hash",))


def same_but_rounding(folder: Path, identity: Identity) -> bool:
    """Whether a folder's training differs from an identity in threads or kind of device alone.

    See `classifier.precision.rounding`.
    """
    try:
        kept = kept_identity(folder)
    except LtcamError:  # a damaged run must not stop a healthy one
        return False
    keys = {key.split(".")[-1] for key, *_ in differences(kept or {}, identity.mapping)}
    return "threads" in keys and keys <= {"threads", "dtype"}


def kept_threads(folder: Path) -> int | None:
    """CPU threads of the training that a folder holds; None if it was on a GPU."""
    kept = flat(kept_identity(folder) or {})
    return kept.get("threads", kept.get("training.threads"))


def differences(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Dotted keys in which two identities differ, with both values; None where a key is absent."""
    first, second = flat(kept), flat(now)
    keys = dict.fromkeys([*first, *second])
    return [
        (key, first.get(key), second.get(key))
        for key in keys
        if key != "hash" and first.get(key) != second.get(key)
    ]
