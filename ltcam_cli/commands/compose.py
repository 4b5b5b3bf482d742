"""Hydra: overrides -> composed config -> a task, once or as a multirun.

Hydra is used without `@hydra.main` and without touching `sys.argv`: a config is composed and run
through the `Hydra` object itself, so that launchers and sweepers work as ever. Each command has a
root config, conf/<command>.yaml. The files hold what differs from the config classes' defaults, so
that Hydra does not know all keys: `Settings.of` refuses those that do not exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ltcam_cli.commands.faults import readable_errors, unresolved
from ltcam_cli.commands.options import Call
from ltcam_cli.errors import LtcamError, nearest, user_message
from ltcam_cli.experiments.config_files import conf_dir, own_config_dirs
from ltcam_cli.experiments.devices import use_threads
from ltcam_cli.experiments.overrides import Compose, literal, quoted
from ltcam_cli.experiments.session import settings_from
from ltcam_cli.experiments.settings import Composed, Settings, named_keys, text_keys
from ltcam_cli.experiments.tasks import Row, Task

GROUPS = (
    "dataset backbone trainer segmenter tta method pipeline student evaluation predict "
    "reproduce search"
).split()


# Values that Hydra would not take for the name of a config.
NO_NAME = r"[-+.\d][\w.+-]*|true|false|null|nan|[+-]?inf(inity)?|\s*"


@contextmanager
def initialized(job: str) -> Iterator[Any]:
    """Hydra's object for the time of one command."""
    with initialize_config_dir(str(conf_dir()), job_name=job, version_base="1.3"):
        yield GlobalHydra.instance().hydra


def compose_config(job: str, call: Call) -> DictConfig:
    """The composed config of a command, without Hydra's own part; nothing is resolved."""
    check_parts(job, call.overrides)
    with initialized(job) as hydra, readable_errors(hydra, job):
        cfg = hydra.compose_config(
            job,
            [*search_path(call.config_dir), *with_open_keys(call.overrides)],
            run_mode=RunMode.RUN,
            with_log_configuration=False,
        )
        return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def compose(job: str, call: Call) -> Composed:
    """The composed config of a command as plain values."""
    return plain(compose_config(job, call), call.overrides)


def compose_here(job: str, call: Call) -> Composed:
    """The same of a command that launches no task: validated, and torch takes its threads."""
    composed = compose(job, call)
    use_threads(settings_from(composed).threads)
    return composed


def composer(call: Call) -> Compose:
    """Composes configs of other overrides, with the call's own folder of configs."""
    return lambda job, overrides: compose(job, Call([*overrides], config_dir=call.config_dir))


def settings_of(job: str, call: Call) -> Settings:
    """The composed config of a command, validated."""
    return settings_from(compose(job, call))


def plain(cfg: DictConfig, overrides: Sequence[str]) -> Composed:
    """A composed config as plain values, every `${…}` resolved.

    Raises:
        LtcamError: Naming the key that holds what cannot be resolved.
    """
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise unresolved(cfg, error, named_keys(overrides)) from error
    assert isinstance(values, dict)
    return Composed({str(key): value for key, value in values.items()}, tuple(overrides))


def launch(job: str, task: Task, call: Call) -> tuple[list[Row], Path | None]:
    """Run a task with its composed config, or with each of a multirun's.

    Args:
        job: Name of the command.
        task: Function or object that can be pickled, so that launchers can send it elsewhere.
        call: Overrides, and whether it is a multirun.

    Returns:
        The tasks' rows, and the folder of the multirun. A failed task of a multirun gives a row
        with the key `error`.

    Raises:
        LtcamError: If the only task failed.
    """
    check_parts(job, call.overrides)
    guarded = _Guarded(task)
    overrides = [*search_path(call.config_dir), *with_open_keys(call.overrides)]
    with initialized(job) as hydra, readable_errors(hydra, job):
        if not call.multirun:
            row: Row = hydra.run(job, guarded, overrides).return_value
            if "error" in row:
                raise LtcamError(row["error"])
            return [row], None
        batches = hydra.multirun(job, guarded, [*overrides, "hydra.mode=MULTIRUN"])
        returns = [one for batch in batches for one in batch]
        configs = (one.hydra_cfg for one in returns if one.hydra_cfg)  # none of a dead worker
        folder = next((Path(cfg.hydra.runtime.output_dir) for cfg in configs), None)
        return [one.return_value for one in returns], folder


@dataclass(frozen=True)
class _Guarded:
    """A task that gives its user's error as a row: Hydra says nothing, and other tasks go on."""

    task: Task

    def __call__(self, cfg: DictConfig) -> Row:
        try:
            overrides = OmegaConf.to_container(HydraConfig.get().overrides.task)  # with their ${…}
            assert isinstance(overrides, list)
            composed = plain(cfg, [str(override) for override in overrides])
            use_threads(settings_from(composed).threads)
            return self.task(composed)
        except Exception as error:
            if message := user_message(error):
                return {"error": message}
            raise


def with_open_keys(overrides: Sequence[str]) -> list[str]:
    """The overrides, with `++` before those of keys, of which no file lists all; see `literal`."""
    overrides = [literal(override, text_keys()) for override in overrides]
    return [
        override
        if re.match(rf"[+~]|hydra[./]|({'|'.join(GROUPS)}|experiment)(@|=)", override)
        else f"++{override}"
        for override in overrides
    ]


def search_path(config_dir: Path | None) -> list[str]:
    """Override that adds the user's own configs."""
    paths = ",".join(quoted(f"file://{path}") for path in own_config_dirs(config_dir))
    return [f"hydra.searchpath=[{paths}]"] if paths else []


def check_parts(job: str, overrides: Sequence[str]) -> None:
    """Refuse a part of the config that the command does not have, and choices that are no names.

    An experiment may set parts that only other commands have; a user who names one is mistaken.

    Raises:
        LtcamError: Naming the part.
    """
    parts = root_groups(job)
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        part = key.split("@")[0].split(".")[0]
        if part in GROUPS and part not in parts:
            raise LtcamError(f"{key}: ltcam {job} has no {part} (it has {', '.join(parts)})")
        if override == f"~{key}":  # the command's choice is left out
            continue
        if key in {*GROUPS, "experiment"} and re.fullmatch(NO_NAME, value, re.IGNORECASE):
            known = [path.stem for path in (conf_dir() / key).glob("[!_]*.yaml")]
            raise LtcamError(f"{key}={value}: no such config{nearest(value, known)}")


@cache
def root_groups(job: str) -> list[str]:
    """Groups that a command has: those with a choice in its root config."""
    root = yaml.safe_load((conf_dir() / f"{job}.yaml").read_text(encoding="utf-8"))
    defaults = [default for default in root["defaults"] if isinstance(default, dict)]
    groups = {group: choice for default in defaults for group, choice in default.items()}
    chosen = [group for group in GROUPS if groups.get(group)]
    masks = "method" in chosen  # whoever draws masks may name a pipeline
    return [*chosen, *(["pipeline"] if masks and "pipeline" not in chosen else [])]
