"""Shell completion of overrides: groups and choices by Hydra's own completer, keys by ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra._internal.core_plugins.bash_completion import BashCompletion

from ltcam_cli.commands.compose import Call, conf_dir, initialized, root_groups, settings_of
from ltcam_cli.config import leaves
from ltcam_cli.experiments.settings import Settings


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
