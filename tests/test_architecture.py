"""Imports point one way, only the commands know Hydra and Typer, and every knob has its place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from conftest import REPOSITORY, Cli
from ltcam_cli.commands.settings import Settings
from omegaconf import DictConfig, OmegaConf

from ltcam_cli.commands.compose import compose, conf_dir
from ltcam_cli.commands.options import KEYS
from ltcam_cli.maps.method import TEACHER, MethodConfig

PACKAGE = REPOSITORY / "ltcam_cli"
SOURCES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
# The stations of the data's way; each may import itself and those before it.
WAY = "data classifier maps masks student scores runs report commands".split()
# `scores` stands on nothing, so the classifier may measure itself with it.
EXCEPTIONS = {("classifier", "scores")}
FOR_ALL = {"allocator", "errors", "files"}
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
        assert not imported
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
        assert lines <= 600, source


# --- configs


def choices() -> list[tuple[str, str]]:
    """(group, name) of every config file below a group."""
    return sorted((path.parent.name, path.stem) for path in conf_dir().glob("*/*.yaml"))


@pytest.mark.parametrize(("group", "name"), choices())
def test_every_config_is_accepted(cli: Cli, group: str, name: str) -> None:
    root = ["dataset.root=somewhere"] if (group, name) == ("dataset", "folder") else []
    settings = Settings.of(compose("test", [f"{group}={name}", *root]))
    if group == "method":
        assert settings.method.name == name
        settings.method.check()
        if name == "student":
            assert settings.segmenter.name == "level"
            return
        spec = settings.method.spec()
        assert (spec.delta is not None) == name.startswith("lt")
        if name != TEACHER:
            assert spec.weighting == name.removeprefix("lt").partition("_")[0]
    elif group in {"backbone", "segmenter"}:
        assert getattr(settings, group).name == name
    elif group == "dataset":
        assert settings.dataset.kind == name


def test_first_lines_say_what_a_config_is() -> None:
    for group, name in choices():
        path = conf_dir() / group / f"{name}.yaml"
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# ") and len(first) > 5, path


def leaves(schema: Any, prefix: str = "") -> set[str]:
    """Dotted names of a dataclass's fields."""
    names, hints = set(), get_type_hints(schema)
    for field in fields(schema):
        kind = hints[field.name]
        inner = leaves(kind, f"{prefix}{field.name}.") if is_dataclass(kind) else set()
        names |= inner or {f"{prefix}{field.name}"}
    return names


def keys(config: DictConfig, prefix: str = "") -> set[str]:
    """Dotted names of a composed config's leaves; `options` are one leaf."""
    names: set[str] = set()
    for key, value in OmegaConf.to_container(config).items():  # type: ignore[union-attr]
        node = config._get_node(key)
        if isinstance(value, dict) and key != "options":
            names |= keys(node, f"{prefix}{key}.")  # type: ignore[arg-type]
        else:
            names.add(f"{prefix}{key}")
    return names


def test_every_field_has_a_key_and_every_key_a_field() -> None:
    composed = [compose("test", [])]
    composed += [
        compose("test", [f"dataset={name}"]) for group, name in choices() if group == "dataset"
    ]
    found = set().union(*(keys(config) for config in composed))
    assert found == leaves(Settings)


def test_every_option_has_a_key() -> None:
    known = leaves(Settings) | {"dataset", "backbone", "method", "segmenter"}
    assert set(KEYS.values()) <= known


def test_defaults_of_the_dataclass_are_a_listed_method() -> None:
    config = MethodConfig()
    path = conf_dir() / "method" / f"{config.name}.yaml"
    listed = OmegaConf.merge(OmegaConf.structured(MethodConfig), OmegaConf.load(path))
    assert OmegaConf.to_object(listed) == config
