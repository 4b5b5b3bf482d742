"""Shell completion of overrides, by Hydra's own completer."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.bash_completion import BashCompletion

from ltcam_cli.commands.compose import CONFIG, initialized


def complete(incomplete: str, before: Sequence[str] = ()) -> list[str]:
    """Groups, keys and choices that an unfinished override may mean.

    Args:
        incomplete: the word that is being written.
        before: the overrides before it. Bash splits `method=lt` into `method`, `=` and `lt`, and
            wants to hear what the last may become.
    """
    key = _unfinished_key(before)
    with initialized("complete") as hydra:
        line = f"{key}{incomplete}"
        found = BashCompletion(hydra.config_loader)._query(config_name=CONFIG, line=line)
    return [item.removeprefix(key) for item in found if not item.startswith("hydra.")]


def _unfinished_key(words: Sequence[str]) -> str:
    """`method=` after `method`, `=` or after `method` alone; empty after a whole override."""
    *_, previous, last = ["", "", *words]
    if last == "=":
        return f"{previous}="
    return f"{last}=" if last and "=" not in last and previous != "=" else ""
