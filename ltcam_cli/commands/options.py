"""Options of the command line: each is declared once, with the config key that it sets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.overrides import quoted
from ltcam_cli.experiments.ranges import expand_range

# Keys whose values are names of runs, or of files of a config group.
NAMED = ("run", "dataset", "backbone", "method", "segmenter", "pipeline")
REJECTED = 3  # exit status where a part was rejected


@dataclass(frozen=True)
class Call:
    """What was typed.

    Attributes:
        overrides: Overrides in Hydra's grammar; those of options come first.
        multirun: Whether all combinations of comma lists and ranges are run.
        config_dir: Folder of the user's own configs.
    """

    overrides: list[str]
    multirun: bool = False
    config_dir: Path | None = None

    def preceded_by(self, *overrides: str) -> Call:
        """The same, with overrides before the user's own."""
        return Call([*overrides, *self.overrides], self.multirun, self.config_dir)

    def followed_by(self, *overrides: str) -> Call:
        """The same, with overrides after the user's own."""
        return Call([*self.overrides, *overrides], self.multirun, self.config_dir)


@dataclass(frozen=True)
class Option:
    """An option that sets a key of the config.

    Attributes:
        flag: Flag, e.g. `--delta`.
        key: Key or group that it sets, e.g. `method.delta`.
        help: What it does, with its default.
        kind: str, or bool for a flag without a value.
        text: Whether the value is a name or path, which is quoted for Hydra.
        listed: Whether a text with commas is a list of names.
    """

    flag: str
    key: str
    help: str
    kind: type = str
    text: bool = False
    listed: bool = False

    @property
    def name(self) -> str:
        """Name of the parameter."""
        return self.flag.lstrip("-").replace("-", "_")

    def parameter(self) -> inspect.Parameter:
        """Parameter of a Typer command."""
        names = completing(self.key) if self.key in NAMED else None
        option = typer.Option(self.flag, help=self.help, show_default=False, autocompletion=names)
        kind: Any = bool if self.kind is bool else str | None
        default = False if self.kind is bool else None
        return _parameter(self.name, Annotated[kind, option], default)

    def override(self, value: Any) -> str:
        """Override of a value."""
        if value is True:
            return f"{self.key}=true"
        value = str(value)
        if not self.text:
            parts = [expand_range(part, self.flag) for part in value.split(",")]
            return f"{self.key}={','.join(parts)}"
        names = value.split(",") if self.listed and not Path(value).exists() else [value]
        return f"{self.key}={','.join(map(quoted, names))}"


def command(
    app: typer.Typer, *options: Option, name: str | None = None, multirun: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command: `function(call, **parameters that set no key)`.

    The command takes the function's own parameters, overrides, the options, and `--config-dir`.

    Args:
        app: Typer application.
        options: Options that set keys.
        name: Name of the command; None: the function's.
        multirun: Whether it takes `-m`.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        named = [p for p in signature.parameters.values() if p.name != "call"]
        overrides = [] if any(p.name in {"paths", "runs"} for p in named) else [OVERRIDES]
        added = [*overrides, *(option.parameter() for option in options)]
        added += [MULTIRUN] if multirun else []
        parameters = [*named, *added, CONFIG_DIR]
        parameters.sort(key=lambda p: p.default is not inspect.Parameter.empty)

        def run(**values: Any) -> None:
            given = {option: values.pop(option.name) for option in options}
            call = Call(
                as_overrides(given, values.pop("overrides", None)),
                values.pop("multirun", False),
                values.pop("config_dir"),
            )
            function(call, **values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__doc__ = function.__doc__
        app.command(name or function.__name__)(run)
        return function

    return register


def as_overrides(given: Mapping[Option, Any], overrides: Sequence[str] | None) -> list[str]:
    """Options and overrides as Hydra's overrides; what the user wrote as override comes last.

    Raises:
        LtcamError: If an override is none.
    """
    for override in overrides or ():
        if "=" not in override and not override.startswith("~"):
            own = "dataset=folder dataset.root=FOLDER for images, --run NAME for a run"
            raise LtcamError(f"{override}: not understood; overrides look like key=value: {own}")
    set_options = [(option, value) for option, value in given.items() if value not in (None, False)]
    set_options.sort(key=lambda pair: "." in pair[0].key)  # a group before its keys
    return [option.override(value) for option, value in set_options] + [*(overrides or ())]


def split_paths(tokens: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths and overrides of one list: an override holds a `=` and is no existing path."""
    overrides = [t for t in tokens if ("=" in t or t[:1] == "~") and not Path(t).exists()]
    return [token for token in tokens if token not in overrides], overrides


def complete_override(incomplete: str, ctx: typer.Context | None = None) -> list[str]:
    """Hydra's own completion of overrides; empty if it cannot be had."""
    try:
        from ltcam_cli.commands.completion import complete

        job = ctx.command.name if ctx else None
        return complete(incomplete, (ctx and ctx.params.get("overrides")) or (), job or "evaluate")
    except Exception:  # completion must never print a traceback into a shell
        return []


def completing(kind: str) -> Callable[[typer.Context, str], list[str]]:
    """Completion of names of a kind; see `completion.complete_name`. Empty if it cannot be had."""

    def names(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            from ltcam_cli.commands.completion import complete_name

            return complete_name(kind, incomplete, ctx.params)
        except Exception:  # completion must never print a traceback into a shell
            return []

    return names


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


OVERRIDES = _parameter(
    "overrides",
    Annotated[
        list[str] | None,
        typer.Argument(
            help="Hydra overrides, key=value; see: ltcam config COMMAND",
            autocompletion=complete_override,
            show_default=False,
        ),
    ],
    None,
)
MULTIRUN = _parameter(
    "multirun",
    Annotated[
        bool,
        typer.Option("--multirun", "-m", help="Run all combinations of comma lists and ranges."),
    ],
    False,
)
ConfigDir = Annotated[
    Path | None, typer.Option(help="Folder of your own configs; ./conf is always searched.")
]
CONFIG_DIR = _parameter("config_dir", ConfigDir, None)

DATASET = Option("--dataset", "dataset", "Data set: ksdd (default), ksdd2, folder or synthetic.")
BACKBONE = Option("--backbone", "backbone", "Network: vgg16 (default); auto for own images.")
METHOD = Option("--method", "method", "Class activation map method; default ltgradcam.")
DELTA = Option(
    "--delta",
    "method.delta",
    "Percentile below which positive gradients are cut, 0..100, null or auto; default 50.",
)
LAYERS = Option("--layers", "method.layers", "Layers that are fused: all, last, s3+s4+s5.")
SEGMENTER = Option("--segmenter", "segmenter", "Heatmap to mask; default otsu.")
PIPELINE = Option("--pipeline", "pipeline", "Method, segmenter, tta: auto, ltcam_plus, student.")
IMAGES = Option(
    "--images", "evaluation.images", "Images that count: defective (default), predicted or all."
)
RUN = Option(
    "--run", "run", "Run, by name or path; default: the one that fits.", text=True, listed=True
)
NAME = Option("--name", "name", "Name of the run folder.", text=True, listed=True)
HEIGHT = Option("--height", "dataset.height", "Height of the network's input, in pixels.")
WIDTH = Option("--width", "dataset.width", "Width of the network's input, in pixels.")
CHANNELS = Option("--channels", "dataset.channels", "1 grey or 3 RGB; default: the weights'.")
SEED = Option("--seed", "seed", "Seed of all random draws; default 0.")
DEVICE = Option("--device", "device", "Device: auto (default), cpu, cuda or cuda:1.")
OUTPUTS = Option("--outputs", "outputs", "Folder of all results; default outputs.", text=True)
URL = Option("--url", "dataset.url", "Address of the archive.", text=True)
RESUME = Option("--resume", "resume", "Go on with a training that was stopped.", bool)
OVERWRITE = Option("--overwrite", "overwrite", "Compute anew what is there already.", bool)
OUT = Option("--out", "predict.out", "Folder of the results; default: in the run.", text=True)
SAVE_MAPS = Option("--save-maps", "predict.save_maps", "Write heatmaps as .npy, too.", bool)
SHARD = Option("--shard", "predict.shard", "Part i/n of the images, e.g. 3/8; with -m 1:8/8.")
RUNTIME = Option("--runtime", "predict.runtime", "torch (default), or onnx: an exported file.")
MODEL = Option(
    "--model", "predict.model", "Exported file; default model.onnx of the run.", text=True
)
JSON = Option("--json", "predict.json", "Print a JSON line of each image, and no more.", bool)
MASKS = (METHOD, DELTA, LAYERS, SEGMENTER, PIPELINE)
WATCHING = (OUT, SAVE_MAPS, RUNTIME, MODEL)
PREDICTION = (*WATCHING, SHARD, JSON)

RUNS, METHODS = completing("run"), completing("method")
OneRun = Annotated[
    str | None, typer.Argument(help="A run, to see its results.", autocompletion=RUNS)
]
Runs = Annotated[
    list[str],
    typer.Argument(help="Runs, by name or path; and Hydra overrides.", autocompletion=RUNS),
]
Places = Annotated[
    list[str],
    typer.Argument(help="Runs, by name or path, and paths of cells.", autocompletion=RUNS),
]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", help="Cells of this method.", autocompletion=METHODS),
]
Deltas = Annotated[
    list[str] | None, typer.Option("--delta", help="Cells of this δ: a number, list, range, null.")
]
Cells = Annotated[
    list[str] | None, typer.Option("--cell", help="A cell, or the six digits its name ends with.")
]
OutputsFolder = Annotated[Path, typer.Option("--outputs", help="Folder of the runs.")]
Grid = Annotated[str | None, typer.Option("--layers", help="Layer sets: all,last,s3+s4+s5.")]
