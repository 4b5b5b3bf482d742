"""Progress of long work on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

FIRST, EVERY = 2.0, 30.0  # seconds until the first line, and between lines


class Progress:
    """How far some work is, and how long the rest will take; a context manager.

    Attributes:
        total: Number of steps; None: not known.
        done: Steps that are done.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str = "image",
        *,
        done: int = 0,
        delay: float = 0.0,
        shown: bool = True,
    ) -> None:
        """Begin.

        Args:
            title: What is done.
            total: Number of steps; None: not known, so that only the time is told.
            unit: What a step is, in the singular.
            done: Steps that were done before.
            delay: Seconds before a bar appears, for work that is mostly quick.
            shown: Whether anything is shown.
        """
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._stream, self._closed = sys.stderr, threading.Event()
        terminal = self._stream.isatty() and total is not None
        self._bar: tqdm[Any] = tqdm(
            total=total, desc=title, unit=unit, initial=done, delay=delay, dynamic_ncols=True,
            file=self._stream, disable=not (shown and terminal),
        )  # fmt: skip
        self._before, self._started = done, time.monotonic()
        if shown and not terminal:
            threading.Thread(target=self._tell, daemon=True).start()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, steps: int = 1, text: str = "") -> None:
        """Count steps; `text` stands beside the bar."""
        self.done += steps
        if text:
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(steps)

    def close(self) -> None:
        """End; nothing is shown any more."""
        self._closed.set()
        self._bar.close()

    def line(self) -> str:
        """What is done and left, e.g. `search: 12 of 230 images, about 9 min left`."""
        seconds = time.monotonic() - self._started
        if self.total is None:
            return f"{self.title}: for {duration(seconds)}"
        text = f"{self.title}: {self.done} of {self.total} {self.unit}s"
        if new := self.done - self._before:
            text += f", about {duration(seconds / new * (self.total - self.done))} left"
        return text

    def _tell(self) -> None:
        wait = FIRST
        while not self._closed.wait(wait):
            print(self.line(), file=self._stream, flush=True)
            wait = EVERY


def track(
    items: Collection[T], title: str, unit: str = "image", *, shown: bool = True
) -> Iterator[T]:
    """The items, with the progress of what is done with each, if it takes longer than seconds."""
    with Progress(title, len(items), unit, delay=FIRST, shown=shown) as progress:
        for item in items:
            yield item
            progress.update()


def duration(seconds: float) -> str:
    """Duration in seconds, minutes or hours, e.g. `10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
