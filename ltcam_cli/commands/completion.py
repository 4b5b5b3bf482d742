"""Shell completion of overrides, by Hydra's own completer."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.bash_completion import BashCompletion

from ltcam_cli.commands.compose import conf_dir, initialized


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
    with initialized("complete") as hydra:
        line = f"{key}{incomplete}"
        items = BashCompletion(hydra.config_loader)._query(config_name=root, line=line)
    hidden = ("hydra.", f"{key}_")
    return [item.removeprefix(key) for item in items if not item.startswith(hidden)]


def _unfinished_key(words: Sequence[str]) -> str:
    """`method=` after `method`, `=` or after `method` alone; empty after a whole override."""
    *_, previous, last = ["", "", *words]
    if last == "=":
        return f"{previous}="
    return f"{last}=" if last and "=" not in last and previous != "=" else ""
