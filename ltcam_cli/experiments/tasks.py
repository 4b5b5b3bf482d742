"""Tasks: what a command does with its composed config, here or where a launcher sends it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ltcam_cli.allocator import uncollected
from ltcam_cli.experiments.settings import Composed

Row = dict[str, Any]
Task = Callable[[Composed], Row]


@dataclass(frozen=True)
class LazyTask:
    """A task that is imported when the config is known to be valid, since torch takes seconds.

    Attributes:
        reference: `module:name` of a function, or of a class whose objects are tasks.
        arguments: Arguments of the class; None: it is a function.
    """

    reference: str
    arguments: tuple[Any, ...] | None = None

    def __call__(self, composed: Composed) -> Row:
        """Import the task, and run it."""
        module, _, name = self.reference.partition(":")
        with uncollected():
            task = getattr(importlib.import_module(module), name)
        row: Row = (task if self.arguments is None else task(*self.arguments))(composed)
        return row
