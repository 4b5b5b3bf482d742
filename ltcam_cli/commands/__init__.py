"""Parse and print: commands compose the config, call experiments, and print what they return."""

import importlib
from types import ModuleType

from ltcam_cli.allocator import uncollected


def __getattr__(name: str) -> ModuleType:
    """A module of this package, imported when a command first needs it."""
    with uncollected():
        return importlib.import_module(f"{__name__}.{name}")
