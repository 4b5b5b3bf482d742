"""Candidates of a search: methods with their fusions, layer sets and deltas, and segmenters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ltcam_cli.config import effective
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.overrides import entry_overrides, override_text
from ltcam_cli.experiments.search import Candidate
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.experiments.sweep import grid
from ltcam_cli.files import short_hash
from ltcam_cli.maps.method import AUTO, CamMethod

ComposeSettings = Callable[[Sequence[str]], Settings]


def method_candidates(
    compose: ComposeSettings,
    settings: Settings,
    entries: Sequence[Mapping[str, Any]],
    deltas: Sequence[float | None] = (),
    layers: Sequence[str] = (),
) -> list[Candidate]:
    """Methods × fusions × layer sets × deltas, each once; a student has no fusion.

    Args:
        compose: Composes settings of overrides.
        settings: Settings of the search.
        entries: Mappings of a method and keys of the config.
        deltas: Percentiles; none: each method's own, and `evaluation.deltas` for `auto`.
        layers: Layer sets; none: each method's own.

    Raises:
        LtcamError: Naming what of an entry does not exist.
    """
    methods: dict[str, Candidate] = {}
    for entry in entries:
        with named("search.methods"):
            plain = compose(entry_overrides(entry)).method
        fused = isinstance(plain, CamMethod) and settings.search.fusions
        for fusion in settings.search.fusions if fused else [{}]:
            keys = {**entry, **{f"method.fusion.{key}": value for key, value in fusion.items()}}
            overrides = entry_overrides(keys)
            with named("search.fusions"):
                method = compose(overrides).method
            automatic = method.delta == AUTO and not deltas
            for cell in grid(method, settings.evaluation.deltas if automatic else deltas, layers):
                changed = {
                    f"method.{key}": getattr(cell, key)
                    for key in ("layers", "delta")
                    if getattr(cell, key) != getattr(method, key)
                }
                kept = [o for o in overrides if o.split("=")[0] not in changed]
                kept += [f"{key}={override_text(value)}" for key, value in changed.items()]
                methods.setdefault(short_hash(effective(cell), 64), Candidate(cell, kept))
    return list(methods.values())


def segmenter_candidates(compose: ComposeSettings, settings: Settings) -> list[Candidate]:
    """Segmenters of `search.segmenters`, each once.

    Raises:
        LtcamError: Naming what of an entry does not exist.
    """
    overrides = [entry_overrides(keys) for keys in settings.search.segmenters]
    segmenters: dict[str, Candidate] = {}
    with named("search.segmenters"):
        for words in overrides:
            segmenter = compose(words).segmenter
            segmenters.setdefault(repr(segmenter), Candidate(segmenter, words))
    return list(segmenters.values())


@contextmanager
def named(key: str) -> Iterator[None]:
    """Name the list that an entry stands in, if it does not exist."""
    try:
        yield
    except LtcamError as error:
        raise LtcamError(f"{key}: {error}") from error
