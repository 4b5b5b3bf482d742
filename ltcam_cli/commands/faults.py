"""Hydra's and OmegaConf's errors as one line that names the key and the nearest one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ltcam_cli.errors import LtcamError, nearest


@contextmanager
def readable_errors(hydra: Any, job: str) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's errors into an `LtcamError`.

    Args:
        hydra: Hydra's object.
        job: Root config.
    """
    try:
        yield
    except MissingConfigException as error:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        known = [option for option in error.options or [] if not option.startswith("_")]
        hint = nearest(name, known) if known else ""
        if group == "hydra/launcher":
            hint += "; more launchers: pip install 'ltcam[cluster]'"
        raise LtcamError(f"{group}={name}: no such config{hint}") from error
    except OverrideParseException as error:
        raise LtcamError(
            f"{' '.join(str(error.override).split())}: is no override in Hydra's grammar, "
            "key=value; spaces, commas and brackets need quotes of the shell and of Hydra: "
            "'key=\"a, b\"'"
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, LtcamError) else None
        raise cause or LtcamError(_one_line(hydra, job, str(error))) from error


def unresolved(
    cfg: DictConfig, error: OmegaConfBaseException, named: Collection[str]
) -> LtcamError:
    """The error of a `${…}` that cannot be resolved, with the key that holds it.

    Args:
        cfg: Composed config.
        error: OmegaConf's error.
        named: Keys that the user set, which go before those that are made of them.
    """
    reasons = {key: reason for key in _keys(cfg) if (reason := _fault_at(cfg, key))}
    keys = sorted(reasons, key=lambda key: key not in named)
    return LtcamError(f"{keys[0]}: {reasons[keys[0]]}" if keys else str(error).splitlines()[0])


def _fault_at(cfg: DictConfig, key: str) -> str:
    """Why a key's value cannot be resolved; empty if it can, or is a part of the config."""
    node: Any = cfg
    for step in key.split("."):
        node = node._get_node(step)
    if isinstance(node, DictConfig):
        return ""
    try:
        if isinstance(node, ListConfig):
            OmegaConf.to_container(node, resolve=True)
        else:
            OmegaConf.select(cfg, key)
    except OmegaConfBaseException as fault:
        return str(fault.msg or fault).splitlines()[0]
    return ""


def _one_line(hydra: Any, job: str, message: str) -> str:
    if match := re.search(r"Could not override '([^']+)'", message):
        key = match[1].split("@")[0]
        return f"{key}: no such key{_nearest_key(hydra, job, key)}"
    if match := re.search(r"Could not append to config\..*?'([^']+)'", message):
        return f"+{match[1]}: is there already; set it without the +"
    if match := re.search(r"Could not delete from config\..*?'([^']+)'", message):
        key = match[1].split("@")[0]
        return f"~{key}: no config file sets it; give it another value, {key}=VALUE"
    if "sweep" in message.lower() and "--multirun" in message:
        return "a comma list is a sweep: add -m, or quote the value"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    key = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), ""
    )
    return f"{key}: {lines[0]}" if key and key not in lines[0] else lines[0]


def _nearest_key(hydra: Any, job: str, key: str) -> str:
    cfg = hydra.compose_config(job, [], run_mode=RunMode.RUN, with_log_configuration=False)
    keys = {name for name in _keys(cfg) if not name.startswith("hydra")}
    siblings = {name for name in keys if name.rpartition(".")[0] == key.rpartition(".")[0]}
    return nearest(key, siblings or {name.split(".")[0] for name in keys})


def _keys(cfg: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for key in cfg:
        yield f"{prefix}{key}"
        value = None if OmegaConf.is_missing(cfg, key) else cfg._get_node(key)  # type: ignore[attr-defined]
        if isinstance(value, DictConfig) and key != "hydra" and not value._is_none():
            yield from _keys(value, f"{prefix}{key}.")
