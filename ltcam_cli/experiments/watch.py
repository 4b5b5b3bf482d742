"""Watching: prediction of images as they come into a folder, beside a production line."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltcam_cli.data.arrivals import Arrivals
from ltcam_cli.data.image_files import forget_warnings
from ltcam_cli.data.listing import check_lengths, readable
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.predict import Predictor, predictor_of
from ltcam_cli.experiments.settings import Composed, Settings
from ltcam_cli.experiments.tasks import Row
from ltcam_cli.files import exclusive
from ltcam_cli.runs.json_lines import json_line
from ltcam_cli.runs.masking import Loading, mask_images
from ltcam_cli.runs.predictions import Writing, image_content, is_done, record

log = logging.getLogger("ltcam_cli")


@dataclass(frozen=True)
class Watch:
    """Prediction of a folder's images as they come, until SIGINT or SIGTERM.

    Attributes:
        folder: Folder, which is searched through; nothing there is moved or deleted.
        tell: Is given the JSON line of each image, once its rows are written.
    """

    folder: Path
    tell: Callable[[str], None]

    def __call__(self, composed: Composed) -> Row:
        """Watch; ends with the image at work, and with a second signal at once.

        Raises:
            LtcamError: If there is no such folder, or that of the results holds another pipeline's.
        """
        if not self.folder.is_dir():
            raise LtcamError(f"{self.folder}: no such folder; make it, or name another")
        check_alone(Settings.of({"predict": composed.values.get("predict", {})}))
        predictor = predictor_of(composed)
        config = predictor.settings.predict
        out = predictor.folder_of([str(self.folder)])
        writing = predictor.writing(out)
        forget_warnings()
        with (
            exclusive(writing.tables.path("scores")),
            Arrivals(self.folder, out, config.settle, config.poll) as arrivals,
            at_signals(arrivals.stop),
        ):
            watched = Watched(predictor, writing, self.folder)
            log.info("watching %s; results in %s", self.folder, out)
            for paths in arrivals:
                for start in range(0, len(paths), config.batch_size):
                    if not arrivals.stopped:
                        for line in watched.predict(paths[start : start + config.batch_size]):
                            self.tell(line)
        return {"out": str(out)}


def check_alone(settings: Settings) -> None:
    """Refuse what a folder without an end has not.

    Raises:
        LtcamError: Naming the key.
    """
    for key in ("shard", "annotations"):
        if value := getattr(settings.predict, key):
            raise LtcamError(
                f"predict.{key}={value}: not while watching; leave it out, and run ltcam predict "
                "on the folder later"
            )


class Watched:
    """Images of a folder that are done, and the prediction of others."""

    def __init__(self, predictor: Predictor, writing: Writing, folder: Path) -> None:
        """Begin where the tables end.

        Raises:
            LtcamError: If they are of shards.
        """
        self.predictor, self.writing, self.folder = predictor, writing, folder
        writing.tables.claim([], writing.identity)
        self._drop(())
        scores, _ = writing.tables.read()
        self._done: dict[str, Any] = {row["name"]: row for row in scores.to_dict("records")}
        self._names = {str(row["path"]): name for name, row in self._done.items()}

    def predict(self, paths: Sequence[Path]) -> Iterator[str]:
        """Predict those images that are not done; their JSON lines, once the rows are written."""
        samples = [sample for path in paths if (sample := self._sample(path))]
        todo = [sample for sample in samples if not is_done(sample, self._done, self.writing)]
        if changed := self._done.keys() & {sample.name for sample in todo}:
            self._drop(changed)
        read = {sample.name: image_content(sample) for sample in todo}
        predictor = self.predictor
        config = predictor.settings.predict
        loading = Loading(config.batch_size, config.workers or 0, "skip")
        results = mask_images(
            predictor.classifier,
            predictor.source,
            [predictor.job],
            todo,
            loading,
            gate=self.writing.gate,
        )
        recorded = [record(result, self.writing) for result in results]
        # A file that was written while it was read comes again.
        recorded = [(row, own) for row, own in recorded if row["content"] == read[row["name"]]]
        rows = [row for row, _ in recorded]
        self.writing.tables.append(rows, [region for _, own in recorded for region in own])
        self._done.update((row["name"], row) for row in rows)
        return (json_line(row, own) for row, own in recorded)

    def _sample(self, path: Path) -> Sample | None:
        """Sample of a file; None, which is said, if its name is too long.

        A file keeps the name that it has in the tables. A new one is called without its suffix,
        unless another file is called so.
        """
        place, below = readable(path.resolve()), path.relative_to(self.folder)
        stem = readable(below.with_suffix("").as_posix())
        if place not in self._names:
            is_taken = stem in self._names.values()
            self._names[place] = readable(below.as_posix()) if is_taken else stem
        name = self._names[place]
        try:
            check_lengths([name], len(".png"), "watch")
        except LtcamError as error:
            log.warning("skipped: %s", error)
            return None
        sample = Sample.from_files(path, None, name=name)
        return self.predictor.read(sample)

    def _drop(self, names: Collection[str]) -> None:
        """Write the tables without some images' rows, and without rows that are not whole."""
        scores, regions = self.writing.tables.read()
        self.writing.tables.write(
            scores[~scores["name"].isin(names)], regions[~regions["name"].isin(names)]
        )


@contextmanager
def at_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM call `stop`; a second one does what it did before.

    A signal that is ignored (nohup) stays so.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = [number for number, handler in before.items() if handler != signal.SIG_IGN]

    def end(*_: object) -> None:
        restore()
        stop()

    def restore() -> None:
        for number in heeded:
            signal.signal(number, before[number])

    for number in heeded:
        signal.signal(number, end)
    try:
        yield
    finally:
        restore()
