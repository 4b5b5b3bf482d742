"""The command line: one screen a command. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ltcam_cli import __version__, commands
from ltcam_cli.commands import options as o
from ltcam_cli.commands.groups import Group
from ltcam_cli.commands.options import Call, command, split_paths

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(no_args_is_help=True, help="Fetch, check or make a data set.")
student_app = typer.Typer(no_args_is_help=True, help="A second stage that learns masks from maps.")
app.add_typer(data_app, name="data")
app.add_typer(student_app, name="student")
app.add_typer(commands.runs.app, name="runs")


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


@command(app, o.DATASET, o.BACKBONE, o.SEED, o.NAME, o.DEVICE, o.RESUME, o.OVERWRITE, multirun=True)
def train(call: Call) -> None:
    """Train a classifier from image-level labels.

    [dim]ltcam train backbone=vgg16_slim dataset.root=data/KolektorSDD[/]
    """
    commands.experiments.train(call)


@command(app, *o.MASKS, o.IMAGES, o.RUN, o.DEVICE, o.OVERWRITE, multirun=True)
def evaluate(call: Call) -> None:
    """Score the masks of one method against the true ones; where none are, by evidence.

    [dim]ltcam evaluate --method ltgradcam --delta 50
    ltcam evaluate -m --method ltgradcam,ltlayercam --delta 0:90:10[/]
    """
    commands.experiments.evaluate(call)


@command(app, o.SEGMENTER, o.PIPELINE, o.IMAGES, o.RUN, o.DEVICE, o.OVERWRITE)
def sweep(
    call: Call,
    method: Annotated[
        str, typer.Option(help="Methods, joined by commas.", autocompletion=o.METHODS)
    ] = "ltgradcam,ltlayercam,ltfullgrad",
    delta: Annotated[str, typer.Option(help="Percentiles: null,0:90:10.")] = "0:90:10",
    layers: o.Grid = None,
    split: Annotated[str, typer.Option(help="test, train, or both: training chooses.")] = "test",
) -> None:
    """Score a whole grid of methods, deltas and layer sets in one pass over the images.

    [dim]ltcam sweep --method ltgradcam,ltlayercam --delta 0:90:10 --layers all,last,s3+s4+s5[/]
    """
    commands.sweeping.sweep(call, method, delta, layers, split)


@command(app, o.IMAGES, o.RUN, o.DEVICE, o.OVERWRITE)
def search(
    call: Call,
    method: Annotated[
        str | None, typer.Option(help="In place of search.methods.", autocompletion=o.METHODS)
    ] = None,
    delta: Annotated[str | None, typer.Option(help="Percentiles: null,0:90:10.")] = None,
    layers: o.Grid = None,
) -> None:
    """Choose method, fusion and segmenter on training images; score that once on the test part.

    No mask chooses, but with evaluation.supervision=pixel. What is tried: conf/search/default.yaml

    [dim]ltcam search --run NAME --method ltgradcam,ltlayercam --delta 0:90:10 --layers all,last[/]
    """
    commands.sweeping.search(call, method, delta, layers)


@command(app, o.RUN, *o.MASKS, *o.PREDICTION, o.DEVICE, multirun=True)
def predict(
    call: Call,
    paths: Annotated[
        list[str], typer.Argument(help="Images and folders; and Hydra overrides, key=value.")
    ],
) -> None:
    """Make masks of images that nobody labelled.

    [dim]ltcam predict some/folder --run NAME --save-maps[/]
    """
    places, overrides = split_paths(paths)
    commands.predicting.predict(call.followed_by(*overrides), places)


@command(app, o.RUN, *o.MASKS, *o.WATCHING, o.DEVICE)
def watch(call: Call, folder: Annotated[Path, typer.Argument(help="Where images come.")]) -> None:
    """Predict images as they come into a folder, and print a JSON line of each.

    [dim]ltcam watch incoming --run NAME predict.reject.length=40[/]
    """
    commands.predicting.watch(call, folder)


@command(app, o.DEVICE)
def review(
    call: Call,
    place: Annotated[str, typer.Argument(help="Folder of predictions, or a run.")],
    out: Annotated[Path | None, typer.Option(help="Corrections; default: in PLACE.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
) -> None:
    """Accept, reject or repaint masks in a browser on this machine; then train a student on them.

    [dim]ltcam review RUN/predict/FOLDER[/]
    """
    commands.predicting.review(call, place, out, port)


@command(app, o.DEVICE)
def threshold(
    call: Call,
    run: Annotated[str, typer.Argument(help="Run, by name or path.", autocompletion=o.RUNS)],
    rule: Annotated[str, typer.Argument(help="prior, f1 or recall:R, as of trainer.threshold.")],
) -> None:
    """Choose the classifier's threshold again, on the validation images of its training.

    [dim]ltcam threshold NAME recall:0.99[/]
    """
    commands.experiments.threshold(call, run, rule)


@command(app, o.DEVICE)
def reliability(call: Call, runs: o.Runs) -> None:
    """Which images called good to look at again, and what that finds of the missed ones.

    [dim]ltcam reliability NAME
    ltcam predict some/folder --run NAME predict.ask_below=0.8[/]
    """
    names, overrides = split_paths(runs)
    commands.experiments.reliability(call.followed_by(*overrides), names)


@command(app, o.RUN, o.BACKBONE, o.DEVICE, o.OVERWRITE)
def reproduce(
    call: Call,
    what: Annotated[
        str, typer.Argument(help="table1, table2, table3, figure8, figure9, stages, presets.")
    ],
    folds: Annotated[
        str | None, typer.Option(help="all, or numbers such as 0,1,2: trains each fold.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 0,1,2: trains each seed.")] = None,
) -> None:
    """Make a table or figure of the paper, ours beside theirs; trains what is not trained yet.

    [dim]ltcam reproduce table1 backbone=vgg16_slim --folds all[/]
    """
    commands.reproducing.reproduce(call, what, folds, seeds)


@command(app, o.RUN, o.METHOD, o.SEGMENTER, o.PIPELINE)
def export(
    call: Call,
    file: Annotated[Path | None, typer.Option("--out", help="ONNX file.")] = None,
) -> None:
    """Write a run's classifier and student as one ONNX file, and check it.

    [dim]ltcam export --run NAME --out model.onnx
    ltcam predict some/folder --runtime onnx --model model.onnx[/]
    """
    commands.experiments.export(call, file)


@command(app, o.BACKBONE, o.HEIGHT, o.WIDTH, o.CHANNELS, o.NAME, name="import")
def import_(
    call: Call,
    weights: Annotated[Path, typer.Argument(help="State dict of a torchvision model.")],
    target: Annotated[int | None, typer.Option(help="Logit of defects; of two: 1.")] = None,
    mean: Annotated[str | None, typer.Option(help="By channel; default: ImageNet's.")] = None,
    std: Annotated[str | None, typer.Option(help="By channel; default: ImageNet's.")] = None,
) -> None:
    """Make a run of your own trained model, to be explained.

    [dim]ltcam import mine.pth --backbone resnet18 --height 224 --width 224[/]
    """
    commands.experiments.import_state(call, weights, target, (mean, std))


@command(student_app, o.RUN, *o.MASKS, o.DEVICE, o.RESUME, o.OVERWRITE, name="train", multirun=True)
def student_train(call: Call) -> None:
    """Train a network on the masks that a run's maps give of its training images.

    Method and segmenter make the first labels, by default what auto chooses; then:
    ltcam evaluate --pipeline student

    [dim]ltcam student train --run NAME student.steps=600[/]
    """
    commands.experiments.train_student(call)


@command(data_app, o.URL, name="download")
def data_download(
    call: Call, dataset: Annotated[str, typer.Argument(help="ksdd or ksdd2")]
) -> None:
    """Fetch a published data set into its root."""
    commands.data.download(call, dataset)


@command(data_app, o.DATASET, name="check")
def data_check(call: Call) -> None:
    """Count images, classes and items, and name what is odd; status 1 where it contradicts."""
    if not commands.data.check(call):
        raise typer.Exit(1)


@command(data_app, name="synth")
def data_synth(
    call: Call, out: Annotated[Path, typer.Argument(help="New folder for good/, defect/, masks/.")]
) -> None:
    """Write the synthetic set as image files."""
    commands.data.synth(call, out)


@app.command()
def methods(config_dir: o.ConfigDir = None) -> None:
    """List what --method takes."""
    commands.info.methods(config_dir)


@command(app, o.DEVICE)
def report(
    call: Call,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs, or a folder of predictions; and Hydra overrides.", autocompletion=o.RUNS
        ),
    ] = None,
    cells: o.Cells = None,
    methods: o.Methods = None,
    deltas: o.Deltas = None,
    limit: Annotated[int, typer.Option(min=1, help="Most images: defective or unsure.")] = 200,
    file: Annotated[Path | None, typer.Option("--out", help="Page; default: in the run.")] = None,
) -> None:
    """Write one HTML page of runs, or of a prediction: tables, curves, a picture of each image.

    [dim]ltcam report RUN RUN --method ltgradcam
    ltcam report RUN/predict/FOLDER[/]
    """
    names, overrides = split_paths(runs or [])
    chosen = (cells or [], methods or [], deltas or [])
    commands.reports.report(call.followed_by(*overrides), names, chosen, limit, file)


@app.command()
def compare(
    places: o.Places,
    cells: o.Cells = None,
    methods: o.Methods = None,
    deltas: o.Deltas = None,
    outputs: o.OutputsFolder = Path("outputs"),
    folder: Annotated[Path | None, typer.Option("--out", help="Default: that of the runs.")] = None,
) -> None:
    """Compare cells with the first one: paired bootstrap of the difference in IoU.

    [dim]ltcam compare RUN RUN --method ltgradcam --delta 50
    ltcam compare RUN --method gradcam --method ltgradcam[/]
    """
    commands.reports.compare(places, outputs, (cells or [], methods or [], deltas or []), folder)


@command(app, o.DATASET, o.BACKBONE, *o.MASKS)
def config(
    call: Call, job: Annotated[str, typer.Argument(metavar="COMMAND", help="train, evaluate, …")]
) -> None:
    """Print the composed config that a command would run with, and what each key means."""
    commands.info.config(call, job)


@command(app, o.OUTPUTS)
def demo(call: Call) -> None:
    """Train, map, segment and score on the synthetic set, in minutes."""
    commands.demonstration.demo(call)
