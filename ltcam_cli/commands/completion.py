"""Shell completion: overrides by Hydra's own completer, keys, names and runs by ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.bash_completion import BashCompletion

from ltcam_cli.commands.compose import Call, initialized, root_groups, settings_of
from ltcam_cli.config import leaves
from ltcam_cli.experiments.config_files import conf_dir, config_files
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.runs.folder import list_runs


def complete(incomplete: str, before: Sequence[str] = (), job: str = "evaluate") -> list[str]:
    """Groups, keys and choices that an unfinished override may mean.

    Args:
        incomplete: Word that is being written.
        before: Overrides before it. Bash splits `method=lt` into `method`, `=` and `lt`, and wants
            to hear what the last may become.
        job: Command; its root config is asked.
    """
    key = _unfinished_key(before)
    root = job if (conf_dir() / f"{job}.yaml").is_file() else "evaluate"
    line = f"{key}{incomplete}"
    with initialized("complete") as hydra:
        items = BashCompletion(hydra.config_loader)._query(config_name=root, line=line)
    if not key and "=" not in incomplete:
        items += [f"{name}=" for name in _keys(root) if name.startswith(incomplete)]
    hidden = ("hydra.", f"{key}_", f"{line.rpartition('=')[0]}=_")
    return sorted({item.removeprefix(key) for item in items if not item.startswith(hidden)})


def complete_name(kind: str, incomplete: str, params: Mapping[str, Any]) -> list[str]:
    """Names that may end an unfinished list of names joined by commas.

    Args:
        kind: `run`, or a group of configs such as `method`.
        incomplete: Word that is being written.
        params: Options before it: `outputs` and `config_dir` say where names are looked for.
    """
    if kind == "run":
        names = [run.name for run in list_runs(Path(params.get("outputs") or "outputs"))]
    else:
        names = sorted(config_files(kind, params.get("config_dir")))
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]


def _keys(root: str) -> Iterator[str]:
    """Dotted keys of a command's config."""
    groups, settings = root_groups(root), settings_of(root, Call([]))
    for name, _, _ in leaves(Settings):
        if ("." not in name and name not in ("dataset", "method")) or name.split(".")[0] in groups:
            yield name
    for part in ("dataset", "method"):
        if part in groups:
            yield from (key for key, _, _ in leaves(type(getattr(settings, part)), part))


def _unfinished_key(words: Sequence[str]) -> str:
    """`method=` after `method`, `=` or after `method` alone; empty after a whole override."""
    *_, previous, last = ["", "", *words]
    if last == "=":
        return f"{previous}="
    return f"{last}=" if last and "=" not in last and previous != "=" else ""
