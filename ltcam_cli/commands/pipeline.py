"""What draws: the heatmap source and the segmenters of all commands are made here."""

from __future__ import annotations

from collections.abc import Sequence

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.commands.settings import Settings, aimed
from ltcam_cli.data.sample import Sample
from ltcam_cli.maps.averaged import averaged
from ltcam_cli.maps.engine import CamEngine, HeatmapSource
from ltcam_cli.maps.method import MethodConfig
from ltcam_cli.masks.segmenters import make_segmenter
from ltcam_cli.runs.evaluation import Drawing, drawn_by
from ltcam_cli.runs.folder import RunFolder


def heatmap_source(
    settings: Settings, run: RunFolder, classifier: Classifier, methods: Sequence[MethodConfig]
) -> HeatmapSource:
    """One map a method, with the settings' test-time options.

    Args:
        settings: of everything but the methods.
        run: that the classifier is of.
    """
    specs = [aimed(method.spec(), classifier) for method in methods]
    engine = CamEngine(classifier.model, specs, settings.half)
    return averaged(engine, settings.tta, (classifier.height, classifier.width))


def drawings(
    settings: Settings,
    run: RunFolder,
    classifier: Classifier,
    methods: Sequence[MethodConfig],
    training: Sequence[Sample] | None = None,
) -> list[Drawing]:
    """A cell for each map of `heatmap_source`: it, and the settings' segmenter, fitted.

    Args:
        training: the labelled images it is fitted on, if it must be; None: the data set's own.
    """
    return drawn_by(make_segmenter(settings.segmenter), len(methods))
