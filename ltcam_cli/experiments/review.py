"""Review of masks by a person: those of a prediction, or of a run's own images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.settings import Composed, with_kept_parts
from ltcam_cli.report.review import Review, serve
from ltcam_cli.runs.corrections import Corrections
from ltcam_cli.runs.folder import CORRECTIONS
from ltcam_cli.runs.prediction_tables import read_predictions, unsure_first
from ltcam_cli.runs.tables import rows_of


def review_predictions(folder: Path, out: Path | None, port: int) -> None:
    """Serve the review page of a folder of predictions until it is interrupted.

    Args:
        folder: Folder that `ltcam predict` wrote.
        out: Folder of the corrections; None: `corrections` in the folder.
        port: Port; 0: a free one.

    Raises:
        LtcamError: If shards were not joined, a file is damaged, or the port cannot be had.
    """
    config, scores, _ = read_predictions(folder)
    settings = with_kept_parts(Composed({}), config, ("dataset",), folder / "config.yaml")
    images = rows_of(unsure_first(scores, config["threshold"]))
    with Corrections.opened(out or folder / CORRECTIONS) as corrections:
        reader = settings.dataset.image_reader(config.get("white", "auto"))
        serve(Review(folder, images, config["threshold"], reader, corrections), port)


@dataclass(frozen=True)
class OwnMasks:
    """Prediction of a run's own images, so that they can be reviewed."""

    def __call__(self, composed: Composed) -> dict[str, str]:
        """Predict the images of `evaluation.split`; the folders of the masks and of the run.

        Raises:
            LtcamError: If the data set is not there, or its images are no files.
        """
        from ltcam_cli.data.load import load_split
        from ltcam_cli.experiments.predict import predict_samples, run_predictor

        predictor = run_predictor(composed)
        settings, part = predictor.settings, predictor.settings.evaluation.split
        samples = load_split(settings.dataset).part(part)
        if any(sample.path is None for sample in samples):
            raise LtcamError(
                f"{settings.dataset.kind}: its images are made on the fly; write them as files "
                "with: ltcam data synth"
            )
        out = predictor.folder_of([str(predictor.folder / part)])
        predict_samples(predictor, [predictor.read(sample) for sample in samples], out)
        return {"out": str(out), "corrections": str(predictor.folder / CORRECTIONS)}
