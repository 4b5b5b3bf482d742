"""The composed config, validated once; no torch is imported."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ltcam_cli.classifier.config import BackboneConfig, TrainerConfig
from ltcam_cli.config import (
    NO_EFFECT,
    FolderName,
    Mixed,
    Says,
    Seed,
    build,
    config,
    holds_text,
    leaves,
)
from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.ksdd import Ksdd
from ltcam_cli.data.load import DATASETS, make_dataset
from ltcam_cli.errors import DamagedFileError, LtcamError
from ltcam_cli.experiments.config import (
    EvaluationConfig,
    PredictConfig,
    ReproduceConfig,
    SearchConfig,
)
from ltcam_cli.maps.method import SOURCES, CamMethod, Method, make_method
from ltcam_cli.maps.tta_config import TtaConfig
from ltcam_cli.masks.segmenters import SegmenterConfig, make_segmenter_config
from ltcam_cli.student.config import StudentConfig

# Parts of the config that decide a training, and are kept in its run folder.
TRAINING = ("dataset", "backbone", "trainer", "seed")
Device = Annotated[
    str,
    Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$"),
    Says("auto | cpu | cuda | cuda:1 | mps"),
]


@dataclass(frozen=True)
class Pipeline:
    """What draws masks of a classifier: a method, a segmenter, test-time augmentation."""

    method: Method
    segmenter: SegmenterConfig
    tta: TtaConfig


@dataclass(frozen=True)
class Composed:
    """A composed config as plain values.

    Attributes:
        values: Nested mapping.
        overrides: What the user set, in Hydra's grammar.
    """

    values: Mapping[str, Any]
    overrides: tuple[str, ...] = ()

    @property
    def named(self) -> frozenset[str]:
        """Dotted keys that the user set."""
        return named_keys(self.overrides)

    def overrides_of(self, parts: Collection[str]) -> tuple[str, ...]:
        """The overrides whose keys lie in one of the top-level parts."""
        return tuple(
            override
            for override in self.overrides
            if any(key.split(".")[0] in parts for key in named_keys([override]))
        )

    def command(self, *words: str) -> str:
        """Command line of a command, `ltcam WORDS` with the overrides."""
        return shlex.join(["ltcam", *words, *(word.lstrip("+") for word in self.overrides)])


@config("")
class Settings:
    """The whole config (conf/*.yaml); a command reads the parts that it has.

    Attributes:
        dataset: Data set.
        backbone: Network.
        trainer: Training of the classifier.
        method: Class activation map method, anomaly maps, or the student.
        tta: Test-time augmentation.
        segmenter: Heatmap to mask.
        evaluation: What is evaluated.
        student: Second-stage network and its training.
        predict: Prediction of images without labels.
        reproduce: Table or figure that is reproduced.
        search: Candidates of a search.
        outputs: Folder of all results.
        name: Name of the run folder; null: made of data set, backbone, split, seed and hash.
        run: Run to be used (name or path) instead of the one that fits the config.
        ensemble: Runs whose maps and log-odds are averaged with the run's, e.g. [NAME,NAME].
        seed: Seed of all random draws of a training.
        device: auto | cpu | cuda | cuda:1
        threads: CPU threads of torch; null: its own choice.
        bf16: Whether maps are made in bfloat16 where that is safe; `auto`: on a GPU, and on a CPU
            that has instructions for it.
        resume: Whether a stopped training goes on.
        overwrite: Whether what is there already is computed again.
    """

    dataset: Dataset = field(default_factory=Ksdd)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    method: Method = field(default_factory=CamMethod)
    tta: TtaConfig = field(default_factory=TtaConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    reproduce: ReproduceConfig = field(default_factory=ReproduceConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    outputs: Annotated[str, NO_EFFECT] = "outputs"
    name: Annotated[FolderName | None, NO_EFFECT] = None
    run: str | None = None
    ensemble: Annotated[list[str], Field(max_length=100)] = field(default_factory=list)
    seed: Seed = 0
    device: Annotated[Device, NO_EFFECT] = "auto"
    threads: Annotated[Annotated[int, Field(ge=1, le=256)] | None, NO_EFFECT] = None
    bf16: Annotated[Mixed, NO_EFFECT] = False
    resume: Annotated[bool, NO_EFFECT] = False
    overwrite: Annotated[bool, NO_EFFECT] = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Validate a composed config; parts that it lacks have their defaults.

        Raises:
            LtcamError: Naming the key that is wrong.
        """
        variants: dict[str, Callable[[Any], Any]] = {
            "dataset": make_dataset,
            "method": make_method,
            "segmenter": make_segmenter_config,
        }
        return build(
            cls,
            {
                key: variants[key](value) if key in variants else value
                for key, value in values.items()
                if key != "pipeline"
            },
        )

    def __post_init__(self) -> None:
        self.method.check()  # refuses what does not exist before anything is computed

    @property
    def root(self) -> Path:
        """Folder of all results."""
        return Path(self.outputs)

    @property
    def pipeline(self) -> Pipeline:
        """What draws masks."""
        return Pipeline(self.method, self.segmenter, self.tta)

    def training_part(self) -> dict[str, Any]:
        """Parts that decide a training, for its `config.yaml`."""
        return {part: value for part, value in asdict(self).items() if part in TRAINING}


def with_kept_parts(
    composed: Composed, kept: Mapping[str, Any], parts: Sequence[str], path: Path
) -> Settings:
    """Settings with parts of a kept config, except for keys that the user set.

    Args:
        composed: Config of the command.
        kept: Config of a run or cell folder.
        parts: Top-level keys that are taken from it.
        path: File of the kept config.

    Raises:
        LtcamError: Naming the key that is wrong, and the file if it is wrong there.
    """
    merged = copy.deepcopy(dict(composed.values))
    for part in parts:
        if part in composed.named or part not in kept:
            continue
        merged[part] = copy.deepcopy(kept[part])
        for key in composed.named:
            if key.startswith(f"{part}."):
                _copy(composed.values, merged, key.split("."))
    try:
        return Settings.of(merged)
    except LtcamError:
        try:
            Settings.of({part: kept[part] for part in parts if part in kept})
        except LtcamError as error:
            raise DamagedFileError(f"{path}: is damaged ({error}); make it anew") from error
        raise


def named_keys(overrides: Iterable[str]) -> frozenset[str]:
    """Keys of overrides in Hydra's grammar."""
    return frozenset(override.lstrip("+~").split("=")[0].split("@")[0] for override in overrides)


@cache
def text_keys() -> frozenset[str]:
    """Dotted keys of the config that take a text."""
    classes = [("", Settings), *(("dataset", each) for each in DATASETS.values())]
    classes += [("method", each) for each in SOURCES.values()]
    return frozenset(
        key
        for part, each in classes
        for key, annotation, _ in leaves(each, part)
        if holds_text(annotation)
    )


def _copy(source: Mapping[str, Any], target: dict[str, Any], path: Sequence[str]) -> None:
    """Copy the value of a nested key; one that the source lacks stays as it is."""
    *parents, last = path
    for step in parents:
        source = source.get(step) or {}
        target = target.setdefault(step, {})
    if last in source:
        target[last] = source[last]
