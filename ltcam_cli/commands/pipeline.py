"""What draws: the heatmap source and the segmenters of all commands are made here."""

from __future__ import annotations

from collections.abc import Sequence

from ltcam_cli.classifier.checkpoint import Classifier, load_classifier
from ltcam_cli.commands.settings import Settings, aimed
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.averaged import averaged
from ltcam_cli.maps.engine import CamEngine, HeatmapSource
from ltcam_cli.maps.ensemble import Ensemble
from ltcam_cli.maps.method import MethodConfig
from ltcam_cli.masks.segmenters import make_segmenter
from ltcam_cli.runs.evaluation import Drawing, drawn_by
from ltcam_cli.runs.folder import RunFolder, same_data


def heatmap_source(
    settings: Settings, run: RunFolder, classifier: Classifier, methods: Sequence[MethodConfig]
) -> HeatmapSource:
    """One map a method, with the settings' test-time options, of an ensemble if they name one.

    Args:
        settings: of everything but the methods.
        run: that the classifier is of.
    """
    members = [(classifier, _alone(settings, classifier, methods))]
    for other in settings.members():
        member = load_classifier(other.checkpoint, settings.torch_device())
        _check_member(other, member, run, classifier)
        members.append((member, _alone(settings, member, methods)))
    return Ensemble(members) if len(members) > 1 else members[0][1]


def _alone(
    settings: Settings, classifier: Classifier, methods: Sequence[MethodConfig]
) -> HeatmapSource:
    """The source of one classifier."""
    specs = [aimed(method.spec(), classifier) for method in methods]
    engine = CamEngine(classifier.model, specs, settings.half)
    return averaged(engine, settings.tta, (classifier.height, classifier.width))


def _check_member(
    other: RunFolder, member: Classifier, run: RunFolder, classifier: Classifier
) -> None:
    """Refuse a run that takes other inputs, or may have seen this one's test images."""
    inputs = [(c.height, c.width, c.in_channels) for c in (member, classifier)]
    if inputs[0] != inputs[1]:
        raise LtcamError(
            f"ensemble={other.name}: takes images of {'x'.join(map(str, inputs[0]))}, {run.name} "
            f"of {'x'.join(map(str, inputs[1]))}; train them alike"
        )
    if not same_data(other.config.get("dataset", {}), run.config.get("dataset", {})):
        raise LtcamError(
            f"ensemble={other.name}: was trained on another data set, split or size than {run.name}"
        )


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
