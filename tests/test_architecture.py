"""Imports point one way, only the commands know Hydra and Typer, and every knob has its place."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, Cli

from ltcam_cli.commands import options
from ltcam_cli.commands.compose import GROUPS, root_groups, settings_of
from ltcam_cli.commands.options import Call
from ltcam_cli.config import descriptions, leaves
from ltcam_cli.data.ksdd import Ksdd
from ltcam_cli.experiments.config_files import conf_dir
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.maps.method import CamMethod

PACKAGE = REPOSITORY / "ltcam_cli"
SOURCES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
# The stations of the data's way; each may import itself and those before it.
WAY = (
    "annotations data classifier maps masks student scores runs report experiments commands".split()
)
# `scores` stands on nothing, so the classifier may measure itself with it. And a guided training
# weighs channels as Grad-CAM does (`classifier/guidance.py`).
EXCEPTIONS = {("classifier", "scores"), ("classifier", "maps")}
FOR_ALL = {"allocator", "config", "errors", "files", "parts", "progress"}
FRAMEWORKS = {"hydra", "omegaconf", "typer", "click"}


def imports(source: Path) -> Iterator[str]:
    """Dotted names that a source of the package imports, anywhere in it."""
    tree = ast.parse((PACKAGE / source).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner_imports(source: Path) -> set[str]:
    """Stations and root modules of the package that a source imports."""
    names = [name.split(".") for name in imports(source)]
    return {name[1] for name in names if name[0] == "ltcam_cli" and len(name) > 1}


def station(source: Path) -> str:
    return source.parts[0] if len(source.parts) > 1 else source.stem


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_imports_point_one_way(source: Path) -> None:
    here, imported = station(source), inner_imports(source) - FOR_ALL - {"__version__"}
    if here in WAY:
        before = set(WAY[: WAY.index(here) + 1])
        before |= {there for origin, there in EXCEPTIONS if origin == here}
        assert imported <= before
        if here == "scores":
            assert imported <= {"scores"}
    elif here in FOR_ALL:
        assert not imported  # but others of these
    elif here == "__init__":
        assert not imported - set(WAY[:-1])  # a notebook's names, and no command
    else:
        assert here in {"cli", "__main__"} and imported <= {"commands", "cli"}


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_only_commands_know_hydra_and_typer(source: Path) -> None:
    found = {name.split(".")[0] for name in imports(source)} & FRAMEWORKS
    assert not found or source.parts[0] in {"commands", "cli.py"}


def test_stations_are_those_of_the_design() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(WAY)
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert modules == FOR_ALL | {"__init__", "__main__", "cli"}


def test_sources_are_short() -> None:
    for source in SOURCES:
        lines = (PACKAGE / source).read_text(encoding="utf-8").count("\n")
        assert lines <= (320 if source.name == "cli.py" else 300), source


# --- configs


def choices() -> list[tuple[str, str]]:
    """(group, name) of every config file below a group."""
    files = conf_dir().glob("*/*.yaml")
    return sorted((path.parent.name, path.stem) for path in files if path.stem[0] != "_")


COMMAND_OF = {"student": "student", "predict": "predict", "search": "search",
              "reproduce": "reproduce", "experiment": "reproduce"}  # fmt: skip


@pytest.mark.parametrize(("group", "name"), choices())
def test_every_config_is_accepted(cli: Cli, group: str, name: str) -> None:
    settings = settings_of(COMMAND_OF.get(group, "evaluate"), Call([f"{group}={name}"]))
    if group == "method":
        assert settings.method.name == name
        settings.method.check()
        assert (settings.method.delta is not None) == name.startswith("lt")
    elif group in {"backbone", "segmenter"}:
        assert getattr(settings, group).name == name
    elif group == "dataset":
        assert settings.dataset.kind == name


def test_first_lines_say_what_a_config_is() -> None:
    for group, name in choices():
        path = conf_dir() / group / f"{name}.yaml"
        lines = path.read_text(encoding="utf-8").splitlines()
        first = next(line for line in lines if "@package" not in line)
        assert first.startswith("# ") and len(first) > 5, path


@pytest.mark.parametrize("group", ["method", "segmenter"])
def test_configs_are_deltas(group: str) -> None:
    """At most 15 % of the lines stand in another file of the group, too."""
    lines = Counter(
        line.strip()
        for path in (conf_dir() / group).glob("*.yaml")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    )
    repeated = sum(count - 1 for count in lines.values())
    assert repeated <= 0.15 * sum(lines.values()), lines.most_common(5)


def test_a_command_has_only_its_own_groups(cli: Cli) -> None:
    train = cli.ok("config", "train")
    keys = yaml.safe_load(train)
    assert {"dataset", "backbone", "trainer"} == set(keys) & set(GROUPS)
    assert set(root_groups("evaluate")) > {"method", "segmenter", "tta", "pipeline", "evaluation"}
    for path in conf_dir().glob("*.yaml"):
        named = yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"]
        groups = {group for default in named if isinstance(default, dict) for group in default}
        assert path.stem == "base" or groups >= set(GROUPS) | {"experiment"}, path


def test_every_field_is_described() -> None:
    for config in {
        type(Settings()),
        *(
            type(getattr(Settings(), group))
            for group in ("dataset", "backbone", "trainer", "method", "segmenter", "evaluation")
        ),
    }:
        told = descriptions(config)
        names = {key.partition(".")[0] for key, _, _ in leaves(config)}
        assert names <= {*told, "augment", "fusion", "refine", *GROUPS}, config


def test_every_option_has_a_key() -> None:
    known = {key for key, _, _ in leaves(Settings)} | set(GROUPS)
    known |= {key for key, _, _ in leaves(Ksdd, "dataset")}
    known |= {key for key, _, _ in leaves(CamMethod, "method")}
    declared = [value for value in vars(options).values() if isinstance(value, options.Option)]
    assert len(declared) > 15
    assert {option.key for option in declared} <= known


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--version",
        "train --help",
        "runs",
        "methods",
        "config evaluate",
        "config train trainer.lr=0",
        "train --nope",
        "train trainer.lr=-1",
        "evaluate method=nope",
        "evaluate method.weighting=nope",
        "evaluate segmenter.options.nope=1",
        "predict somewhere predict.batch_size=0",
        "student train student.lr=0",
        "sweep --delta 0:90:1e-9",
    ],
)
def test_what_needs_no_torch_does_not_import_it(words: str, tmp_path: Path) -> None:
    program = "import sys; from ltcam_cli.cli import app\n"
    program += f"try: app({words.split()!r})\n"
    program += "finally: assert not {'torch', 'sklearn', 'matplotlib'} & sys.modules.keys()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert "AssertionError" not in done.stderr
    assert done.returncode in {0, 2}, done.stderr
