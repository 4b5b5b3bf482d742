"""What made a run: versions, command and date. No part of its identity."""

from __future__ import annotations

import platform
from datetime import datetime, timezone

from ltcam_cli import __version__
from ltcam_cli.files import read_json, write_json
from ltcam_cli.runs.folder import RunFolder

FILE = "environment.json"


def write_environment(run: RunFolder, command: str) -> None:
    """Write `train/environment.json`.

    Args:
        run: Run folder.
        command: Command line that makes it.
    """
    import torch

    content = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "ltcam": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    write_json(run.train / FILE, content)


def date_of(run: RunFolder) -> datetime:
    """Date of a training's begin, in local time; of its config's file where none is kept."""
    try:
        return datetime.fromisoformat(read_json(run.train / FILE)["date"]).astimezone()
    except (OSError, ValueError, KeyError, TypeError):  # older, or damaged
        return datetime.fromtimestamp(run.config_path.stat().st_mtime)
