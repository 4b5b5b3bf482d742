"""Configs of experiments: evaluation, prediction, search, reproduction."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from ltcam_cli.annotations.formats import Format
from ltcam_cli.config import NO_EFFECT, Positive, Says, Share, Workers, config
from ltcam_cli.errors import LtcamError
from ltcam_cli.runs.acceptance import Acceptance, RejectConfig, ReliabilityConfig
from ltcam_cli.runs.shards import Shard

Percentile = Annotated[float, Field(ge=0, le=100)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
Overlays = Annotated[int, Field(ge=0, le=1_000_000)]
Entry = Annotated[dict[str, Any], Says("a mapping of config keys, e.g. {method: ltgradcam}")]
Seconds = Annotated[float, Field(gt=0, le=3600)]
DELTAS = [10.0 * step for step in range(10)]


@config("evaluation")
class EvaluationConfig:
    """What is evaluated (conf/evaluation/*.yaml).

    Attributes:
        images: Images that count: defective; predicted: all, and an image that the classifier
            calls good gets an empty mask, as on a production line; all, whatever it is called.
        split: Part of the data set: test, train or all.
        batch_size: Images of one forward.
        workers: Loading processes; null: 0 on CPUs, where a thread loads ahead, up to 8 on GPUs.
        overlays: Pictures that are written, of defective images first; null: all.
        save_maps: Whether heatmaps are written, as float32 .npy (H, W) at the images' own size.
        supervision: What method.delta=auto may read of the training part: image labels alone, or
            true masks as well (pixel).
        deltas: Percentiles that method.delta=auto chooses from.
        masks_chose: Whether masks of training images chose the pipeline before, as ltcam search
            may; then the row's supervision is pixel.
    """

    images: Literal["defective", "predicted", "all"] = "defective"
    split: Literal["test", "train", "all"] = "test"
    batch_size: BatchSize = 8
    workers: Workers | None = None
    overlays: Overlays | None = 20
    save_maps: bool = False
    supervision: Literal["image", "pixel"] = "image"
    deltas: Annotated[list[Percentile], Field(min_length=1, max_length=1001)] = field(
        default_factory=lambda: list(DELTAS)
    )
    masks_chose: bool = False


@config("predict")
class PredictConfig:
    """How images without labels are treated (conf/predict/*.yaml).

    Attributes:
        out: Folder of the results; null: predict/<name> in the run folder.
        gate: Whether an image that the classifier calls good gets an empty mask.
        overlays: Whether a picture of each image is written.
        save_maps: Whether heatmaps are written, as float32 .npy (H, W) at the images' own size.
        annotations: Format of another tool that the masks are written in, too, to be corrected
            there; null: none.
        class_name: Class of the defects in annotations.
        shard: Part i/n of the images, e.g. 3/8, with tables of its own; null: all images.
        runtime: torch, or onnx: an exported file by onnxruntime.
        model: Exported file; null: model.onnx in the run folder.
        batch_size: Images of one forward.
        workers: Loading processes; null: 0 on CPUs, up to 8 on GPUs.
        on_error: raise, or skip images that cannot be read, which are counted.
        mm_per_pixel: Millimetres of a pixel's side in the images as they are; null: not known.
        reject: Limits of an accepted part.
        ask_below: Reliability below which an image that is called good is marked to be looked at
            again; ltcam reliability proposes one. null: none is, and nothing is computed.
        reliability: How reliability is computed.
        json: Whether a JSON line of each image goes to standard output, and nothing else.
        settle: Seconds for which size and time of a file must stand still before ltcam watch
            reads it.
        poll: Seconds between listings of the folder by ltcam watch, besides the system's events.
    """

    out: str | None = None
    gate: bool = True
    overlays: bool = True
    save_maps: bool = False
    annotations: Format | None = None
    class_name: Annotated[str, Field(min_length=1, max_length=100)] = "defect"
    shard: str | None = None
    runtime: Literal["torch", "onnx"] = "torch"
    model: str | None = None
    batch_size: BatchSize = 8
    workers: Workers | None = None
    on_error: Literal["raise", "skip"] = "raise"
    mm_per_pixel: Positive | None = None
    reject: RejectConfig = field(default_factory=RejectConfig)
    ask_below: Share | None = None
    reliability: ReliabilityConfig = field(default_factory=ReliabilityConfig)
    json: Annotated[bool, NO_EFFECT] = False
    settle: Annotated[Seconds, NO_EFFECT] = 0.5
    poll: Annotated[Seconds, NO_EFFECT] = 5.0

    def __post_init__(self) -> None:
        self.part()

    @property
    def acceptance(self) -> Acceptance:
        """When a part is accepted."""
        return Acceptance(self.reject, self.mm_per_pixel, self.ask_below, self.reliability)

    def part(self) -> Shard | None:
        """Shard of the images; None for all."""
        return None if self.shard is None else Shard.parse(self.shard)


@config("search")
class SearchConfig:
    """What a search tries, all with all (conf/search/default.yaml).

    Attributes:
        methods: Mappings of a method and keys of the config, e.g. {method: ltgradcam,
            method.delta: auto}; auto stands for each of evaluation.deltas.
        fusions: Mappings of keys of method.fusion, for every method; []: the methods' own.
        segmenters: Mappings of a segmenter and keys of the config.
        folds: Folds over the items of defective training images; read with
            evaluation.supervision=pixel alone.
    """

    methods: Annotated[list[Entry], Field(min_length=1, max_length=1000)] = field(
        default_factory=lambda: [{"method": "ltgradcam", "method.delta": "auto"}]
    )
    fusions: Annotated[list[Entry], Field(max_length=1000)] = field(default_factory=list)
    segmenters: Annotated[list[Entry], Field(min_length=1, max_length=1000)] = field(
        default_factory=lambda: [{"segmenter": "otsu"}]
    )
    folds: Annotated[int, Field(ge=2, le=1000)] = 5


@config("reproduce")
class ReproduceConfig:
    """A table or figure: the paper's, or one's own (conf/experiment/table1.yaml).

    Attributes:
        kind: table; curves over evaluation.deltas; or stages, one by one.
        paper: Table of the paper whose printed numbers stand beside ours; null: none.
        title: Title of the table or figure.
        entries: Mappings of config keys, e.g. {pipeline: ltcam_plus, segmenter: fraction}; a row
            of the table each.
        pictures: Images in the picture, from best to worst.
    """

    kind: Literal["table", "curves", "stages"] = "table"
    paper: Literal["table1", "table2", "table3"] | None = None
    title: str | None = None
    entries: Annotated[list[Entry], Field(max_length=1000)] = field(default_factory=list)
    pictures: Annotated[int, Field(ge=0, le=100), NO_EFFECT] = 4


def check_split(evaluation: EvaluationConfig, command: str) -> None:
    """Refuse another part than the test part for a command that scores there alone.

    Raises:
        LtcamError: If `evaluation.split` is another.
    """
    if evaluation.split != "test":
        raise LtcamError(
            f"evaluation.split={evaluation.split}: {command} chooses on the training part and is "
            "scored on the test part; do not set it"
        )
