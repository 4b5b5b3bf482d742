"""Shell completion of overrides, by Hydra's own completer."""

from __future__ import annotations

from hydra._internal.core_plugins.bash_completion import BashCompletion

from ltcam_cli.commands.compose import CONFIG, initialized


def complete(incomplete: str) -> list[str]:
    """Groups, keys and choices that an unfinished override may mean."""
    with initialized("complete") as hydra:
        found = BashCompletion(hydra.config_loader)._query(config_name=CONFIG, line=incomplete)
    return [item for item in found if not item.startswith("hydra.")]
