"""Image files that come into a folder, once they are complete: `ltcam watch`."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ltcam_cli.data.listing import IMAGE_SUFFIXES, is_clutter, list_images
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import regular

log = logging.getLogger("ltcam_cli")
TELLING = {"created", "modified", "moved", "closed"}  # events of files that may be complete soon

Status = tuple[int, int, int]  # size in bytes, time of change in ns, inode


class Arrivals:
    """Batches of the image files of a folder, those of its past first; a context manager.

    A file counts as complete when its size and time have stood still for `settle` seconds. One
    that changes later is given again. Events of the system tell what to look at; the folder is
    listed every `poll` seconds, too, since network folders send none and events can be lost.
    """

    def __init__(self, folder: Path, besides: Path, settle: float, poll: float) -> None:
        """Begin.

        Args:
            folder: Folder, which is searched through.
            besides: A folder that is not looked into.
            settle: Seconds for which a file must have stood still.
            poll: Seconds between listings.
        """
        self.folder, self.settle, self.poll = folder, settle, poll
        self._besides = Path(os.path.realpath(besides))
        self._events: SimpleQueue[Path | None] = SimpleQueue()  # signal handlers may use it
        self._waiting: dict[Path, tuple[Status, float]] = {}  # and since when it is so
        self._given: dict[Path, Status] = {}
        self._listed = -float("inf")
        self._is_lost, self.stopped = False, False
        self._observer = self._observing()

    def __enter__(self) -> Arrivals:
        return self

    def __exit__(self, *_: object) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()

    def stop(self) -> None:
        """End the iteration; a signal handler may call it."""
        self.stopped = True
        self._events.put(None)

    def __iter__(self) -> Iterator[list[Path]]:
        """Paths of complete files, until it is stopped."""
        while not self.stopped:
            if time.monotonic() >= self._listed + self.poll:
                self._list()
            if ready := self._ready():
                yield ready
            else:
                self._wait()

    def _list(self) -> None:
        self._listed = time.monotonic()
        try:
            if not self.folder.is_dir():
                raise LtcamError(f"{self.folder}: is not there any more; bring it back")
            files = list_images(self.folder, self._besides).files
        except (LtcamError, OSError) as error:  # a network folder may come back
            if not self._is_lost:
                log.warning("%s; it is tried again every %g s", error, self.poll)
            self._is_lost = True
            return
        self._is_lost = False
        for path in files:
            self._look(path)

    def _look(self, path: Path) -> None:
        """Note how a file is now."""
        status = None
        with suppress(OSError):
            now = regular(path)
            status = (now.st_size, now.st_mtime_ns, now.st_ino)
        if status is None:  # moved away or deleted, or no file
            self._waiting.pop(path, None)
            self._given.pop(path, None)
        elif status == self._given.get(path):
            self._waiting.pop(path, None)
        elif status != self._waiting.get(path, (None,))[0]:
            self._waiting[path] = (status, time.monotonic())

    def _ready(self) -> list[Path]:
        """Files that have stood still for long enough; they are given."""
        latest = time.monotonic() - self.settle
        for path in [path for path, (_, since) in self._waiting.items() if since <= latest]:
            self._look(path)  # whether it is still so
        ready = [path for path, (_, since) in self._waiting.items() if since <= latest]
        for path in ready:
            self._given[path] = self._waiting.pop(path)[0]
        return sorted(ready)

    def _wait(self) -> None:
        """Wait for events, and note them, until a file may be complete or a listing is due."""
        dues = [since + self.settle for _, since in self._waiting.values()]
        due = min([self._listed + self.poll, *dues])
        with suppress(Empty):
            event = self._events.get(timeout=max(0.0, due - time.monotonic()))
            while True:
                if event is not None and self._is_image(event):
                    self._look(event)
                event = self._events.get_nowait()

    def _is_image(self, path: Path) -> bool:
        """Whether `list_images` would list a file."""
        is_image = path.suffix.lower() in IMAGE_SUFFIXES
        is_hidden = any(map(is_clutter, path.relative_to(self.folder).parts))
        below = Path(os.path.realpath(path)).is_relative_to(self._besides)
        return is_image and not is_hidden and not below

    def _observing(self) -> Any:
        """Observer of the system's events; None where there is none, which is said."""
        try:
            from watchdog.events import FileSystemEvent, FileSystemEventHandler
            from watchdog.observers import Observer
        except ImportError:
            self._say_without_events("watchdog is not installed (pip install 'ltcam[watch]')")
            return None

        events = self._events

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                if event.event_type in TELLING and not event.is_directory:
                    events.put(Path(os.fsdecode(event.dest_path or event.src_path)))

        observer = Observer()
        observer.schedule(Handler(), str(self.folder), recursive=True)
        try:
            observer.start()
        except OSError as error:  # no more watches, or a folder that has none
            self._say_without_events(error.strerror or str(error))
            return None
        return observer

    def _say_without_events(self, reason: str) -> None:
        log.warning("%s; the folder is listed every %g s alone", reason, self.poll)
