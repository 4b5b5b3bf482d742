"""Every key of every command, with nonsense: one line that names the key, or a valid config.

What is accepted is kept as it was written: 0 never means "not set".
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from conftest import Cli
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from ltcam_cli.commands.compose import (
    compose_config,
    plain,
    root_groups,
    settings_of,
    with_open_keys,
)
from ltcam_cli.commands.faults import readable_errors
from ltcam_cli.commands.options import Call
from ltcam_cli.config import leaves
from ltcam_cli.errors import LtcamError, user_message
from ltcam_cli.experiments.settings import Settings

# Commands by the groups that only they have; the smallest one first, since it is composed fastest.
JOBS = ("data", "import", "train", "evaluate", "predict", "search", "student", "reproduce")
DATASETS = ("ksdd", "ksdd2", "folder", "synthetic")
NUMBERS = "-1 0 1 2 1.5 -0.5 1e-9 1e9 1e30 99999999999999999999 nan inf -inf .5".split()
WORDS = [
    "", "null", "true", "nope", "''", "' '", "ümläut", "../x", "a/b", "-x", "x" * 300,
    "'${nope}'", "'${trainer'", "'${oc.env:NOPE_NOT_SET}'", "[]", "[1,-1]", "[nan]", "[[1]]", "{}",
    "{a:1}", "{lr:0}", "1:2:3", "'a b'", "'\"'", r"'\\'", "'\t'", "\u200b", "0:nan:1",
]  # fmt: skip


def keys() -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Command, overrides that come before, and key: every leaf of the schema."""
    for key, _, _ in leaves(Settings):
        group = key.split(".")[0]
        if group not in {"dataset", "method"}:
            job = next((job for job in JOBS if group in root_groups(job)), "data")
            yield job, (), key
    for name in DATASETS:
        dataset = settings_of("data", Call([f"dataset={name}"])).dataset
        for key, _, _ in leaves(type(dataset), "dataset"):
            yield "data", (f"dataset={name}",), key
    for name in ("ltgradcam", "student", "patchcore", "ltlayercam_patchcore"):
        method = settings_of("evaluate", Call([f"method={name}"])).method
        for key, _, _ in leaves(type(method), "method"):
            yield "evaluate", (f"method={name}",), key


@cache
def composed(job: str, before: tuple[str, ...]) -> DictConfig:
    return compose_config(job, Call([*before]))


def settings_with(job: str, before: tuple[str, ...], override: str) -> Settings:
    """As `settings_of`, with Hydra's own way to apply an override to files that are read once."""
    cfg = copy.deepcopy(composed(job, before))
    with readable_errors(None, job):
        parsed = OverridesParser.create().parse_overrides(with_open_keys([override]))
        ConfigLoaderImpl._apply_overrides_to_config(parsed, cfg)
    return Settings.of(plain(cfg, [override]).values)


def value_at(config: Any, key: str) -> Any:
    for step in key.split("."):
        config = config[step] if isinstance(config, dict) else getattr(config, step)
    return config


@settings(max_examples=500, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(place=st.sampled_from(list(keys())), text=st.sampled_from([*NUMBERS, *WORDS]))
def test_nonsense_is_one_line_that_names_the_key(
    place: tuple[str, tuple[str, ...], str], text: str
) -> None:
    job, before, key = place
    try:
        config = settings_with(job, before, f"{key}={text}")
    except Exception as error:
        message = user_message(error)
        assert message is not None, f"{key}={text}: {error!r}"
        assert isinstance(error, LtcamError) and "\n" not in message
        assert key.rpartition(".")[2] in message, message
        return
    if text in NUMBERS:
        value = value_at(config, key)
        assert isinstance(value, str) or (value is not None and float(value) == float(text))


@settings(max_examples=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(place=st.sampled_from(list(keys())), text=st.sampled_from([*NUMBERS, *WORDS]))
def test_the_whole_way_says_the_same(place: tuple[str, tuple[str, ...], str], text: str) -> None:
    """With the files read and merged by Hydra."""
    job, before, key = place
    results = []
    for make in (
        lambda: settings_with(job, before, f"{key}={text}"),
        lambda: settings_of(job, Call([*before, f"{key}={text}"])),
    ):
        try:
            results.append(repr(make()))
        except LtcamError as error:
            results.append(str(error))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("train trainer.clip=-1", "trainer.clip=-1: must be"),
        ("train trainer.lr=0", "trainer.lr=0: must be"),
        ("train dataset=synthetic dataset.items=0", "dataset.items=0: must be"),
        ("train trainer.augment.gamma=-1", "trainer.augment.gamma=-1: must be"),
        ("evaluate segmenter.closing=100000", "segmenter.closing=100000: must be"),
        ("train seed=-1", "seed=-1: must be"),
        ("train threads=100000", "threads=100000: must be"),
        ("train trainer.workers=-1", "trainer.workers=-1: must be"),
        ("train backbone.dropout=nan", "backbone.dropout=nan: must be"),
        ("train dataset=synthetic dataset.split=tense", "dataset.split=tense: unknown"),
        ("evaluate segmenter.refine.threshold=nope", "segmenter.refine.threshold=nope"),
        ("train seed=${nope}", "seed: Interpolation key 'nope' not found"),
        ("train trainer=3", "trainer=3: no such config"),
        ("train trainer=", "trainer=: no such config"),
        ("train method=gradcam", "method: ltcam train has no method"),
        ("train name=../x", "name=../x: must be one folder's name"),
        ("sweep --delta 0:90:1e-9", "a range has at most"),
        ("sweep --delta 0:nan:1", "a range is start:stop:step"),
        ("sweep --delta 101", "--delta 101: must be a number in 0..100"),
        ("evaluate -m --delta 0:90:1e-9", "a range has at most"),
        ("train -m seed=range(3,0)", "nothing to run"),
    ],
)
def test_nonsense_ends_with_status_2(cli: Cli, args: str, says: str) -> None:
    cli.fault(*args.split(), says=[says], logs="-m" in args)
