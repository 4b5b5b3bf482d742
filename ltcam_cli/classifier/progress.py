"""State of an unfinished training: `last.pt` and `history.csv` in its folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ltcam_cli.classifier.tensors import misfit, read_tensors, write_tensors
from ltcam_cli.files import atomic

log = logging.getLogger(__name__)


def save_progress(folder: Path, state: dict[str, Any]) -> None:
    """Write a state, and its `history`, rows of one table, also as CSV.

    Neither file is there if one cannot be written. The CSV comes first: a training resumed from
    its last state would not write it again.
    """
    with atomic(folder / "last.pt") as resumed, atomic(folder / "history.csv") as table:
        write_tensors(state, resumed)
        pd.DataFrame(state["history"]).to_csv(table, index=False)


@contextmanager
def resuming(folder: Path) -> Iterator[None]:
    """Name `last.pt` in errors of a state that is none of this training.

    Raises:
        LtcamError: If an entry is missing, or of another kind or shape.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise misfit(folder / "last.pt", error, "delete it to start anew") from error


def read_progress(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """State that was written last; None if there is none.

    Raises:
        LtcamError: if the file is damaged or unsafe.
    """
    path = folder / "last.pt"
    if not path.is_file():
        log.info("nothing to resume in %s; starting anew", folder)
        return None
    with resuming(folder):
        return dict(read_tensors(path, "delete it to start anew", device))
