"""The command line: one screen a command. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ltcam_cli import __version__
from ltcam_cli.errors import LtcamError, user_message


class Group(TyperGroup):
    """Turns a user's mistake into one line and status 2."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("ltcam: interrupted; what was complete stays", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            message = user_message(error)
            if message is None:
                raise
            typer.echo(f"ltcam: {message}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Where is the defect? Pixel masks from images labelled only good or defective.",
)
data_app = typer.Typer(no_args_is_help=True, help="Fetch, check or make a data set.")
app.add_typer(data_app, name="data")


student_app = typer.Typer(no_args_is_help=True, help="A second stage that learns masks from maps.")
app.add_typer(student_app, name="student")


class ListGroup(TyperGroup):
    """`ltcam runs`, `ltcam runs NAME` are `ltcam runs list`, `ltcam runs list NAME`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the word in where it was left away."""
        named = args and args[0] in {*self.commands, *self.get_help_option_names(ctx)}
        return super().parse_args(ctx, args if named else ["list", *args])


runs_app = typer.Typer(
    cls=ListGroup,
    help="List runs (ltcam runs), the results of one (ltcam runs NAME), or join tables.",
)
app.add_typer(runs_app, name="runs")


def complete_override(incomplete: str, ctx: typer.Context | None = None) -> list[str]:
    """Hydra's own completion of overrides; empty if it cannot be had."""
    try:
        from ltcam_cli.commands.completion import complete

        return complete(incomplete, (ctx and ctx.params.get("overrides")) or ())
    except Exception:  # completion must never print a traceback into a shell
        return []


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Hydra overrides, key=value; see: ltcam config COMMAND",
        autocompletion=complete_override,
        show_default=False,
    ),
]
ConfigDir = Annotated[
    Path | None, typer.Option(help="Folder of your own configs; ./conf is always searched.")
]
Multirun = Annotated[
    bool, typer.Option("--multirun", "-m", help="Run all combinations of comma lists and ranges.")
]
Method = Annotated[str | None, typer.Option(help="method=…; see: ltcam methods")]
Delta = Annotated[str | None, typer.Option(help="method.delta=…: percentile 0..100, or null")]
Layers = Annotated[str | None, typer.Option(help="method.layers=…: all, last, s3+s4+s5")]
SegmenterName = Annotated[
    str | None, typer.Option(help="segmenter=…: otsu, multiotsu, fraction, clean, …")
]
Run = Annotated[str | None, typer.Option(help="run=…: name or path of a run")]
Dataset = Annotated[str | None, typer.Option(help="dataset=…: ksdd, ksdd2, folder, synthetic")]
BackboneName = Annotated[str | None, typer.Option(help="backbone=…: vgg16, vgg16_slim, …")]
Device = Annotated[str | None, typer.Option(help="device=…: auto, cpu, cuda")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="overwrite=true: compute anew")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"ltcam {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Where is the defect? Pixel masks from images labelled only good or defective."""


@app.command()
def train(
    overrides: Overrides = None,
    dataset: Dataset = None,
    backbone: BackboneName = None,
    seed: Annotated[str | None, typer.Option(help="seed=…")] = None,
    name: Annotated[str | None, typer.Option(help="name=…: of the run folder")] = None,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="resume=true: go on")] = False,
    overwrite: Overwrite = False,
    multirun: Multirun = False,
    config_dir: ConfigDir = None,
) -> None:
    """Train a classifier from image-level labels.

    [dim]ltcam train backbone=vgg16_slim dataset.root=data/KolektorSDD[/]
    """
    from ltcam_cli.commands import run
    from ltcam_cli.commands.options import as_overrides

    options = dict(
        dataset=dataset, backbone=backbone, seed=seed, name=name, device=device,
        resume=resume, overwrite=overwrite,
    )  # fmt: skip
    run.train(as_overrides(options, overrides), multirun, config_dir)


@app.command()
def evaluate(
    overrides: Overrides = None,
    method: Method = None,
    delta: Delta = None,
    layers: Layers = None,
    segmenter: SegmenterName = None,
    images: Annotated[
        str | None, typer.Option(help="evaluation.images=…: defective, predicted, all")
    ] = None,
    run: Run = None,
    device: Device = None,
    overwrite: Overwrite = False,
    multirun: Multirun = False,
    config_dir: ConfigDir = None,
) -> None:
    """Score the masks of one method against the true ones.

    [dim]ltcam evaluate --method ltgradcam --delta 50
    ltcam evaluate -m --method ltgradcam,ltlayercam --delta 0:90:10[/]
    """
    from ltcam_cli.commands import run as running
    from ltcam_cli.commands.options import as_overrides

    options = dict(
        method=method, delta=delta, layers=layers, segmenter=segmenter, images=images, run=run,
        device=device, overwrite=overwrite,
    )  # fmt: skip
    running.evaluate(as_overrides(options, overrides), multirun, config_dir)


@app.command()
def sweep(
    overrides: Overrides = None,
    method: Annotated[
        str, typer.Option(help="method=… of each: methods, joined by commas")
    ] = "ltgradcam,ltlayercam,ltfullgrad",
    delta: Annotated[
        str | None, typer.Option(help="method.delta=… of each: null,0:90:10")
    ] = "0:90:10",
    layers: Annotated[
        str | None, typer.Option(help="method.layers=… of each: all,last,s3+s4+s5")
    ] = None,
    split: Annotated[
        str, typer.Option(help="test, train, or both: then training chooses a row")
    ] = "test",
    segmenter: SegmenterName = None,
    images: Annotated[
        str | None, typer.Option(help="evaluation.images=…: defective, predicted, all")
    ] = None,
    run: Run = None,
    device: Device = None,
    overwrite: Overwrite = False,
    config_dir: ConfigDir = None,
) -> None:
    """Score a whole grid of methods, deltas and layer sets in one pass over the images.

    [dim]ltcam sweep --method ltgradcam,ltlayercam --delta 0:90:10 --layers all,last,s3+s4+s5[/]
    """
    from ltcam_cli.commands.options import as_overrides
    from ltcam_cli.commands.sweep import sweep as run_sweep

    options = dict(segmenter=segmenter, images=images, run=run, device=device, overwrite=overwrite)
    run_sweep(method, delta, layers, split, as_overrides(options, overrides), config_dir)


@app.command()
def search(
    overrides: Overrides = None,
    method: Annotated[
        str | None,
        typer.Option(help="method=… of each, joined by commas, in place of search.methods"),
    ] = None,
    delta: Annotated[str | None, typer.Option(help="method.delta=… of each: null,0:90:10")] = None,
    layers: Annotated[
        str | None, typer.Option(help="method.layers=… of each: all,last,s3+s4+s5")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="evaluation.images=…: defective, predicted, all")
    ] = None,
    run: Run = None,
    device: Device = None,
    overwrite: Overwrite = False,
    config_dir: ConfigDir = None,
) -> None:
    """Choose method, fusion and segmenter on training images; score that once on the test part.

    No mask chooses, but with evaluation.labels=pixel-val. What is tried: conf/search/default.yaml

    [dim]ltcam search --run NAME --method ltgradcam,ltlayercam --delta 0:90:10 --layers all,last[/]
    """
    from ltcam_cli.commands.options import as_overrides
    from ltcam_cli.commands.search import search as run_search

    options = dict(images=images, run=run, device=device, overwrite=overwrite)
    run_search(method, delta, layers, as_overrides(options, overrides), config_dir)


@app.command()
def predict(
    paths: Annotated[
        list[str], typer.Argument(help="Images and folders; and Hydra overrides, key=value.")
    ],
    run: Run = None,
    method: Method = None,
    delta: Delta = None,
    layers: Layers = None,
    segmenter: SegmenterName = None,
    out: Annotated[Path | None, typer.Option(help="predict.out=…: folder of the results")] = None,
    save_maps: Annotated[
        bool, typer.Option("--save-maps", help="predict.save_maps=true: heatmaps as .npy")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(help="predict.shard=…: i/n of the images, 3/8; with -m 1:8/8")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="predict.runtime=…: torch, or onnx of an exported file")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="predict.model=…: the exported file; the run's without it")
    ] = None,
    device: Device = None,
    multirun: Multirun = False,
    config_dir: ConfigDir = None,
) -> None:
    """Draw masks of images that nobody labelled.

    [dim]ltcam predict some/folder --run NAME --save-maps
    ltcam predict some/folder --run NAME -m --shard 1:8/8 hydra/launcher=joblib
    ltcam predict some/folder --runtime onnx --model model.onnx[/]
    """
    from ltcam_cli.commands.options import as_overrides, split_paths
    from ltcam_cli.commands.predict import predict as run_predict

    files, overrides = split_paths(paths)
    if not files:
        raise LtcamError("no image or folder given: ltcam predict some/folder --run NAME")
    options = dict(
        run=run, method=method, delta=delta, layers=layers, segmenter=segmenter, out=out,
        save_maps=save_maps, shard=shard, runtime=runtime, model=model, device=device,
    )  # fmt: skip
    run_predict(files, as_overrides(options, overrides), multirun, config_dir)


@app.command()
def reproduce(
    what: Annotated[
        str, typer.Argument(help="table1, table2, table3, figure8, figure9, stages, or your own.")
    ],
    overrides: Overrides = None,
    folds: Annotated[
        str | None, typer.Option(help="all, or 0,1,…: of KolektorSDD's tens (or official)")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="seed=… of each: 0,1,2")] = None,
    dataset: Dataset = None,
    backbone: BackboneName = None,
    run: Run = None,
    device: Device = None,
    overwrite: Overwrite = False,
    config_dir: ConfigDir = None,
) -> None:
    """Make a table or figure of the paper, ours beside its numbers; trains what is not trained.

    [dim]ltcam reproduce table1 backbone=vgg16_slim --folds all --seeds 0,1,2[/]
    """
    from ltcam_cli.commands.options import as_overrides
    from ltcam_cli.commands.reproduce import reproduce as run_reproduce

    options = dict(dataset=dataset, backbone=backbone, run=run, device=device, overwrite=overwrite)
    run_reproduce(what, folds, seeds, as_overrides(options, overrides), config_dir)


@app.command()
def export(
    overrides: Overrides = None,
    run: Run = None,
    method: Method = None,
    segmenter: SegmenterName = None,
    file: Annotated[
        Path | None,
        typer.Option("--out", help="The file; model.onnx in the run folder without it."),
    ] = None,
    config_dir: ConfigDir = None,
) -> None:
    """Write a run's classifier and student as one ONNX file, and check it.

    [dim]ltcam export --run NAME --out model.onnx
    ltcam predict some/folder --runtime onnx --model model.onnx[/]
    """
    from ltcam_cli.commands.export import export_run
    from ltcam_cli.commands.options import as_overrides

    options = dict(run=run, method=method, segmenter=segmenter)
    export_run(file, as_overrides(options, overrides), config_dir)


@app.command("import")
def import_(
    weights: Annotated[Path, typer.Argument(help="State dict of a torchvision model.")],
    overrides: Overrides = None,
    backbone: BackboneName = None,
    defect: Annotated[int, typer.Option(help="Index of the logit of defects.")] = -1,
    name: Annotated[str | None, typer.Option(help="name=…: of the run folder")] = None,
    config_dir: ConfigDir = None,
) -> None:
    """Make a run of your own trained model, to be explained.

    [dim]ltcam import mine.pth --backbone resnet18 dataset.height=224 dataset.width=224[/]
    """
    from ltcam_cli.commands.importing import import_weights
    from ltcam_cli.commands.options import as_overrides

    options = dict(backbone=backbone, name=name)
    import_weights(weights, defect, as_overrides(options, overrides), config_dir)


@student_app.command("train")
def student_train(
    overrides: Overrides = None,
    run: Run = None,
    method: Method = None,
    delta: Delta = None,
    layers: Layers = None,
    segmenter: SegmenterName = None,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="resume=true: go on")] = False,
    overwrite: Overwrite = False,
    multirun: Multirun = False,
    config_dir: ConfigDir = None,
) -> None:
    """Train a network on the masks that a run's maps give of its training images.

    Method and segmenter make the first labels, ltcam_plus without --method; then:
    ltcam evaluate --method student

    [dim]ltcam student train --run NAME student.steps=600[/]
    """
    from ltcam_cli.commands.options import as_overrides
    from ltcam_cli.commands.student import train as train_student

    options = dict(
        run=run, method=method, delta=delta, layers=layers, segmenter=segmenter, device=device,
        resume=resume, overwrite=overwrite,
    )  # fmt: skip
    train_student(as_overrides(options, overrides), multirun, config_dir)


@data_app.command("download")
def data_download(
    dataset: Annotated[str, typer.Argument(help="ksdd or ksdd2")],
    overrides: Overrides = None,
    url: Annotated[str | None, typer.Option(help="dataset.url=…: of the archive")] = None,
    config_dir: ConfigDir = None,
) -> None:
    """Fetch a published data set into its root."""
    from ltcam_cli.commands import data
    from ltcam_cli.commands.options import as_overrides

    data.download(dataset, as_overrides({"url": url}, overrides), config_dir)


@data_app.command("check")
def data_check(
    overrides: Overrides = None, dataset: Dataset = None, config_dir: ConfigDir = None
) -> None:
    """Count images, classes and items, and find images that stand on both sides of the split."""
    from ltcam_cli.commands import data
    from ltcam_cli.commands.options import as_overrides

    data.check(as_overrides({"dataset": dataset}, overrides), config_dir)


@data_app.command("synth")
def data_synth(
    out: Annotated[Path, typer.Argument(help="New folder for good/, defect/, masks/.")],
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
) -> None:
    """Write the synthetic set as image files."""
    from ltcam_cli.commands import data
    from ltcam_cli.commands.options import as_overrides

    data.synth(out, as_overrides({}, overrides), config_dir)


@app.command()
def methods(config_dir: ConfigDir = None) -> None:
    """List what --method takes."""
    from ltcam_cli.commands import info

    info.methods(config_dir)


@runs_app.command("list")
def runs_list(
    name: Annotated[str | None, typer.Argument(help="A run, to see its results.")] = None,
    outputs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("outputs"),
) -> None:
    """List runs, or the results of one; the word `list` can be left away."""
    from ltcam_cli.commands import info

    info.runs(outputs, name)


@runs_app.command("gather")
def runs_gather(
    out: Annotated[Path, typer.Argument(help="Folder of shards' predictions, or of runs.")],
) -> None:
    """Join tables, and say what is missing; then the exit status is 1.

    Those of shards (ltcam predict --shard) into scores.csv and regions.csv; or, of a folder of
    runs, all results into one results.csv.
    """
    from ltcam_cli.commands import info

    if not info.gather(out):
        raise typer.Exit(1)


Cells = Annotated[
    list[str] | None, typer.Option("--cell", help="A cell, or the six digits its name ends with.")
]
Methods = Annotated[list[str] | None, typer.Option("--method", help="Cells of this method.")]
Deltas = Annotated[
    list[str] | None, typer.Option("--delta", help="Cells of this δ: a number, list, range, null.")
]


@app.command()
def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Runs, by name or path; and Hydra overrides, key=value."),
    ] = None,
    cells: Cells = None,
    methods: Methods = None,
    deltas: Deltas = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Most images: defective ones, then the likeliest.")
    ] = 200,
    file: Annotated[
        Path | None, typer.Option("--out", help="The page; report.html in the run without it.")
    ] = None,
    device: Device = None,
    config_dir: ConfigDir = None,
) -> None:
    """Write one HTML page of a run, or of several: tables, curves, and a picture of each image.

    [dim]ltcam report RUN
    ltcam report RUN RUN --method ltgradcam[/]
    """
    from ltcam_cli.commands.options import as_overrides
    from ltcam_cli.commands.report import Wanted
    from ltcam_cli.commands.report import report as run_report

    names = [word for word in runs or () if "=" not in word or Path(word).exists()]
    overrides = [word for word in runs or () if word not in names]
    wanted = Wanted(cells or [], methods or [], deltas or [])
    run_report(names, wanted, limit, file, as_overrides({"device": device}, overrides), config_dir)


@app.command()
def compare(
    places: Annotated[list[str], typer.Argument(help="Runs, by name or path, and paths of cells.")],
    cells: Cells = None,
    methods: Methods = None,
    deltas: Deltas = None,
    outputs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("outputs"),
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of compare.csv; the runs' without it.")
    ] = None,
) -> None:
    """Hold cells against the first one: paired bootstrap of the difference in IoU.

    [dim]ltcam compare RUN RUN --method ltgradcam --delta 50
    ltcam compare RUN --method gradcam --method ltgradcam[/]
    """
    from ltcam_cli.commands.compare import compare as run_compare

    run_compare(places, outputs, cells or [], methods or [], deltas or [], folder)


@app.command()
def config(
    command: Annotated[str, typer.Argument(help="train, evaluate, …")],
    overrides: Overrides = None,
    dataset: Dataset = None,
    backbone: BackboneName = None,
    method: Method = None,
    delta: Delta = None,
    layers: Layers = None,
    segmenter: SegmenterName = None,
    config_dir: ConfigDir = None,
) -> None:
    """Print the composed config that a command would run with."""
    from ltcam_cli.commands import info
    from ltcam_cli.commands.options import as_overrides

    options = dict(
        dataset=dataset, backbone=backbone, method=method, delta=delta, layers=layers,
        segmenter=segmenter,
    )  # fmt: skip
    info.config(command, as_overrides(options, overrides), config_dir)


@app.command()
def demo(
    overrides: Overrides = None,
    outputs: Annotated[Path | None, typer.Option(help="outputs=…: folder of all results")] = None,
    config_dir: ConfigDir = None,
) -> None:
    """Train, map, segment and score on the synthetic set, in minutes."""
    from ltcam_cli.commands.demo import demo as run_demo
    from ltcam_cli.commands.options import as_overrides

    run_demo(as_overrides({"outputs": outputs}, overrides), config_dir)
