"""One fold and seed of a reproduction: train what is missing, evaluate all entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ltcam_cli.data.load import load_split
from ltcam_cli.experiments.evaluate import evaluate_pipelines
from ltcam_cli.experiments.pictures import can_draw
from ltcam_cli.experiments.reproduce.entries import Entry, over_deltas, over_stages
from ltcam_cli.experiments.reproduce.pictures import draw_pictures
from ltcam_cli.experiments.session import Session, find_session, training_identity
from ltcam_cli.experiments.settings import Composed, Settings
from ltcam_cli.experiments.students import train_with_teacher
from ltcam_cli.experiments.tasks import Row
from ltcam_cli.experiments.train import train_classifier
from ltcam_cli.maps.method import CamMethod, StudentMethod
from ltcam_cli.maps.stages import stages_of
from ltcam_cli.runs.folder import fitting_run


@dataclass(frozen=True)
class Reproduction:
    """What is done for each fold and seed.

    Attributes:
        entries: Entries of the table.
        teacher: Entry that students learn from; None where there are none.
        name: Name of the experiment.
        pictures: Folder of the pictures of maps; None: no pictures.
    """

    entries: list[Entry]
    teacher: Entry | None
    name: str
    pictures: Path | None

    def __call__(self, composed: Composed) -> Row:
        """Train what is missing, and evaluate all entries in as few passes as they take."""
        return {"rows": self.run(self._session(composed))}

    def run(self, session: Session) -> list[Row]:
        """Rows of all entries for one run."""
        settings = session.settings
        kind = settings.reproduce.kind
        entries = self._expanded(session)
        if kind != "table":
            session = session.with_settings(evaluation=replace(settings.evaluation, overlays=0))
        entries = self._with_students(session, entries)
        rows, _ = evaluate_pipelines(session, [entry.pipeline for entry in entries])
        dropped = session.split.dropped or []
        common = {
            "kind": settings.dataset.kind,
            "dropped": len(dropped),
            "dropped_items": " ".join(sorted({sample.group for sample in dropped})),
            "run_path": str(session.run.path),
        }
        rows = [
            row | {"entry": e.text, "options": e.options, "auto": e.auto} | common
            for row, e in zip(rows, entries, strict=True)
        ]
        drawn = settings.reproduce.pictures and kind != "curves" and can_draw()
        if self.pictures is not None and drawn:
            chosen = [_with_row_delta(e, row) for e, row in zip(entries, rows, strict=True)]
            draw_pictures(self.pictures, self.name, session, chosen, rows)
        return rows

    def _expanded(self, session: Session) -> list[Entry]:
        """The entries, over deltas for curves, stage by stage for stages; each once."""
        settings, entries = session.settings, self.entries
        if settings.reproduce.kind == "curves":
            deltas = settings.evaluation.deltas
            entries = [one for entry in entries for one in over_deltas(entry, deltas)]
        if settings.reproduce.kind == "stages":
            names = stage_names(session)
            entries = [one for entry in entries for one in over_stages(entry, names)]
        return list({entry.text: entry for entry in entries}.values())

    def _with_students(self, session: Session, entries: Sequence[Entry]) -> list[Entry]:
        """The entries with the settings' student, trained if it is not there."""
        unnamed = [
            isinstance(entry.pipeline.method, StudentMethod)
            and entry.pipeline.method.student is None
            for entry in entries
        ]
        if self.teacher is None or not any(unnamed):
            return list(entries)
        training = session.with_settings(resume=True, overwrite=False)
        row = train_with_teacher(training, self.teacher.pipeline)
        student = str(row["student"])
        return [
            replace(e, pipeline=replace(e.pipeline, method=_named(e, student))) if new else e
            for e, new in zip(entries, unnamed, strict=True)
        ]

    def _session(self, composed: Composed) -> Session:
        """Session of the run, which is trained if it is not there."""
        if composed.values.get("run") is None:
            settings = Settings.of(composed.values)
            identity = training_identity(settings, load_split(settings.dataset))
            if fitting_run(settings.root, identity) is None:
                train_classifier(replace(settings, resume=True, overwrite=False))
        return find_session(composed)


def _named(entry: Entry, student: str) -> StudentMethod:
    method = entry.pipeline.method
    assert isinstance(method, StudentMethod)
    return replace(method, student=student)


def _with_row_delta(entry: Entry, row: Row) -> Entry:
    """The entry with the δ that was used, which may have been chosen."""
    method = entry.pipeline.method
    if not isinstance(method, CamMethod):
        return entry
    pipeline = replace(entry.pipeline, method=replace(method, delta=row["delta"]))
    return replace(entry, pipeline=pipeline)


def stage_names(session: Session) -> list[str]:
    """s1..sN of a run's network."""
    return sorted(name for name in stages_of(session.classifier.model) if name.startswith("s"))
