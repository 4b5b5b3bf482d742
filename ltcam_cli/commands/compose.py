"""Hydra: overrides -> composed config -> a task, once or as a multirun.

Hydra is used without `@hydra.main` and without touching `sys.argv`: a config is composed and run
through the `Hydra` object itself, so that launchers and sweepers work as ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import ltcam_cli
from ltcam_cli.commands.options import quoted
from ltcam_cli.errors import LtcamError, nearest, user_message

Row = dict[str, Any]
Task = Callable[[DictConfig], Row]
CONFIG = "config"


def conf_dir() -> Path:
    """Where the configs lie: in the wheel inside the package, in a checkout beside it."""
    package = Path(ltcam_cli.__file__).resolve().parent
    return next(
        path
        for path in (package / "conf", package.parent / "conf")
        if (path / "config.yaml").is_file()
    )


@contextmanager
def initialized(job: str) -> Iterator[Any]:
    """Hydra's object for the time of one command."""
    with initialize_config_dir(str(conf_dir()), job_name=job, version_base="1.3"):
        yield GlobalHydra.instance().hydra


def compose(job: str, overrides: Sequence[str], config_dir: Path | None = None) -> DictConfig:
    """The composed config, without running anything."""
    with initialized(job) as hydra, readable_errors(hydra):
        cfg = hydra.compose_config(
            CONFIG,
            [*search_path(config_dir), *opened(overrides)],
            run_mode=RunMode.RUN,
            with_log_configuration=False,
        )
        hydra_free = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return hydra_free


def launch(
    job: str,
    task: Task,
    overrides: Sequence[str],
    *,
    multirun: bool = False,
    config_dir: Path | None = None,
) -> tuple[list[Row], Path | None]:
    """Run a task with its composed config, or with each of a multirun's.

    Args:
        job: the command's name.
        task: importable by name, so that launchers can send it elsewhere.
        overrides: Hydra's, in its own grammar.
        config_dir: of the user; joins the search path, as `./conf` does.

    Returns:
        The tasks' rows, and the folder of the multirun. A failed task of a multirun gives a row
        with the key `error`.

    Raises:
        LtcamError: if the only task failed.
    """
    guarded = _Guarded(task)
    overrides = [*search_path(config_dir), *opened(overrides)]
    with initialized(job) as hydra, readable_errors(hydra):
        if not multirun:
            row: Row = hydra.run(CONFIG, guarded, overrides).return_value
            if "error" in row:
                raise LtcamError(row["error"])
            return [row], None
        batches = hydra.multirun(CONFIG, guarded, [*overrides, "hydra.mode=MULTIRUN"])
        returns = [each for batch in batches for each in batch]
        configs = (each.hydra_cfg for each in returns if each.hydra_cfg)  # none of a dead worker
        folder = next((Path(cfg.hydra.runtime.output_dir) for cfg in configs), None)
        return [each.return_value for each in returns], folder


class _Guarded:
    """A task that gives its user's error as a row: Hydra says nothing, and other tasks go on."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, cfg: DictConfig) -> Row:
        try:
            return self.task(cfg)
        except Exception as error:
            if message := user_message(error):
                return {"error": message}
            raise


def own_configs(config_dir: Path | None) -> list[Path]:
    """The folders of the user's own configs: `--config-dir`, and `./conf` where there is one."""
    if config_dir is not None and not config_dir.is_dir():
        raise LtcamError(f"--config-dir {config_dir}: no such folder")
    given = [config_dir] if config_dir else []
    paths = dict.fromkeys(path.resolve() for path in [*given, Path("conf")])
    return [path for path in paths if path.is_dir() and path != conf_dir().resolve()]


def opened(overrides: Sequence[str]) -> list[str]:
    """The overrides, with `++` before those of a rule's options, which no config lists all of."""
    return [re.sub(r"^(?=[\w.]+\.options\.)", "++", override) for override in overrides]


def search_path(config_dir: Path | None) -> list[str]:
    """The override that adds the user's own configs."""
    paths = ",".join(quoted(f"file://{path}") for path in own_configs(config_dir))
    return [f"hydra.searchpath=[{paths}]"] if paths else []


@contextmanager
def readable_errors(hydra: Any) -> Iterator[None]:
    """Hydra's and OmegaConf's errors as one line that names the key and the nearest one."""
    try:
        yield
    except MissingConfigException as error:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        options = error.options or []
        hint = nearest(name, options) if options else ""
        if group == "hydra/launcher":
            hint += "; more launchers: pip install 'ltcam[cluster]'"
        raise LtcamError(f"{group}={name}: no such config{hint}") from error
    except OverrideParseException as error:
        raise LtcamError(
            f"{error.override}: is no override in Hydra's grammar, key=value; spaces, commas and "
            "brackets need quotes of the shell and of Hydra: 'key=\"a, b\"'"
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, LtcamError) else None
        raise cause or LtcamError(_one_line(hydra, str(error))) from error


def _one_line(hydra: Any, message: str) -> str:
    if found := re.search(r"Could not override '([^']+)'", message):
        key = found[1].split("@")[0]
        return f"{key}: no such key{_nearest_key(hydra, key)}"
    if "sweep" in message.lower() and "--multirun" in message:
        return "a comma list is a sweep: add -m, or quote the value"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    key = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), ""
    )
    return f"{key}: {lines[0]}" if key and key not in lines[0] else lines[0]


def _nearest_key(hydra: Any, key: str) -> str:
    cfg = hydra.compose_config(CONFIG, [], run_mode=RunMode.RUN, with_log_configuration=False)
    keys = {k for k in _keys(cfg) if not k.startswith("hydra")}
    siblings = {k for k in keys if k.rpartition(".")[0] == key.rpartition(".")[0]}
    return nearest(key, siblings or {k.split(".")[0] for k in keys})


def _keys(cfg: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for key in cfg:
        yield f"{prefix}{key}"
        value = None if OmegaConf.is_missing(cfg, key) else cfg._get_node(key)  # type: ignore[attr-defined]
        if isinstance(value, DictConfig) and key != "hydra":
            yield from _keys(value, f"{prefix}{key}.")
