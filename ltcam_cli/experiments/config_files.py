"""Files of configs: where they lie, and what a method's file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import ltcam_cli
from ltcam_cli.errors import LtcamError


def conf_dir() -> Path:
    """Where the configs lie: in the wheel inside the package, in a checkout beside it."""
    package = Path(ltcam_cli.__file__).resolve().parent
    return next(
        path
        for path in (package / "conf", package.parent / "conf")
        if (path / "base.yaml").is_file()
    )


def own_config_dirs(config_dir: Path | None) -> list[Path]:
    """Folders of the user's own configs: `--config-dir`, and `./conf` where there is one."""
    if config_dir is not None and not config_dir.is_dir():
        raise LtcamError(f"--config-dir {config_dir}: no such folder")
    given = [config_dir] if config_dir else []
    paths = dict.fromkeys(path.resolve() for path in [*given, Path("conf")])
    return [path for path in paths if path.is_dir() and path != conf_dir().resolve()]


def config_files(group: str, config_dir: Path | None) -> dict[str, Path]:
    """Files of a config group by name; the user's own before the package's."""
    folders = [*reversed(own_config_dirs(config_dir)), conf_dir()]
    paths = {path.stem: path for folder in folders for path in (folder / group).glob("*.yaml")}
    return {name: path for name, path in paths.items() if not name.startswith("_")}


def merged_file(path: Path) -> dict[str, Any]:
    """A method's file over those that it begins with."""
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    merged: dict[str, Any] = {}
    for base in values.pop("defaults", []):
        places = [path.with_name(f"{base}.yaml"), conf_dir() / "method" / f"{base}.yaml"]
        if file := next((place for place in places if place.is_file() and place != path), None):
            merged |= merged_file(file)
    return merged | values
