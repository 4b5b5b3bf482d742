"""Memories of good training images, kept in the run folder: <run>/memories/<hash>.pt.

`predict` needs no data set: a memory is used as it is where the training images are absent.
"""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltcam_cli.classifier.backbones import build_classifier
from ltcam_cli.classifier.tensors import load_state, misfit, read_tensors, write_tensors
from ltcam_cli.classifier.weights import load_weights
from ltcam_cli.data.batches import batches
from ltcam_cli.data.sample import Sample, content_of
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.session import Session
from ltcam_cli.files import atomic, content_digest, exclusive
from ltcam_cli.maps.method import PatchcoreMethod
from ltcam_cli.maps.patchcore import (
    Memory,
    coreset,
    drawn_patches,
    feature_extractor,
    patch_features,
)
from ltcam_cli.progress import Progress
from ltcam_cli.runs.identity import Identity, kept_identity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kept:
    """Content of a memory's file.

    Attributes:
        images: Digest of the good training images.
        patches: (M, K).
        state: Weights of the extractor; None: they are the classifier's.
    """

    images: str
    patches: Tensor
    state: dict[str, Tensor] | None


def memory_of(session: Session, method: PatchcoreMethod) -> Memory:
    """Memory of a method; read, or made of the training images where it is absent or of others.

    Raises:
        LtcamError: If it is absent and so are the training images, none of them is good, or it is
            damaged.
    """
    place, images = _place(session, method), images_of(session, method)
    with exclusive(place):
        kept = None if session.settings.overwrite else _read(place)
        if kept is None or kept.images != images:
            kept = _made(session, method, images)
            with atomic(place) as temporary:
                write_tensors(vars(kept), temporary)
    try:
        model = session.classifier.model
        if kept.state is not None:
            with torch.device("meta"):
                model = build_classifier(
                    session.classifier.backbone, session.classifier.in_channels
                )
        extractor = feature_extractor(model.eval(), method.layers)
        if kept.state is not None:
            load_state(extractor, kept.state)
    except (RuntimeError, TypeError, LtcamError) as error:
        raise misfit(place, error, "delete it") from error
    device = session.device
    return Memory(kept.patches.to(device), extractor.to(device))


def with_memory(session: Session, method: PatchcoreMethod) -> PatchcoreMethod:
    """A method that names what its memory is made of, for identities. Nothing is computed.

    Raises:
        LtcamError: If the memory's images are absent and it was never made, or others are asked
            for.
    """
    digest = f"sha256:{images_of(session, method)[:12]}"
    if method.memory not in {None, digest}:
        raise LtcamError(
            f"{session.run.path}: the good training images are others than those of "
            f"{method.memory}; evaluate it anew, with method.memory=null"
        )
    return replace(method, memory=digest)


def images_of(session: Session, method: PatchcoreMethod) -> str:
    """Digest of the good training images; where they are absent, that of the kept memory.

    Raises:
        LtcamError: If there is neither.
    """
    try:
        return content_of(_good(session))
    except LtcamError as error:
        if (kept := _read(_place(session, method))) is not None:
            return kept.images
        raise LtcamError(
            f"method={method.name}: remembers good training images, and {error}; or evaluate the "
            "run once with this method where they are"
        ) from error


def _good(session: Session) -> list[Sample]:
    return [sample for sample in session.training_images if sample.label == 0]


def _place(session: Session, method: PatchcoreMethod) -> Path:
    """File of a memory; its name is of all that decides it but the images."""
    unnamed = replace(method, name="patchcore", memory=None, smooth=0.0)
    identity = Identity(
        "memory",
        {
            "method": unnamed,
            "checkpoint": session.checkpoint,
            "dataset": session.settings.dataset,
        },
    )
    return session.run.path / "memories" / f"{identity.hash}.pt"


def _read(place: Path) -> _Kept | None:
    if not place.is_file():
        return None
    content: Any = read_tensors(place, "delete it")
    try:
        return _Kept(**content)
    except TypeError as error:
        raise LtcamError(f"{place}: is damaged; delete it") from error


def _made(session: Session, method: PatchcoreMethod, images: str) -> _Kept:
    """A memory of good training images."""
    classifier, generator = session.classifier, torch.Generator().manual_seed(method.seed)
    started = method.features == "start"
    model = _at_start(session) if started else classifier.model
    extractor = feature_extractor(model, method.layers)
    good = _good(session)
    order = torch.randperm(len(good), generator=generator)[: method.images].tolist()
    settings = session.settings
    drawn = [good[number] for number in sorted(order)]
    data = classifier.images(drawn, on_error=settings.dataset.on_error)
    share = -(-method.patches // max(1, len(data)))
    rows: list[Tensor] = []
    with Progress(f"{method.name}: good images", len(data), "image") as progress:
        for batch in batches(data, settings.evaluation.batch_size):
            if batch.items:
                features = patch_features(extractor, classifier.prepare(batch.images))
                rows += drawn_patches(features, share, generator)
            progress.update(len(batch.items) + len(batch.skipped))
    if not rows:
        raise LtcamError(
            f"method={method.name}: remembers good training images, and none of them could be "
            "read; choose another dataset.split or method"
        )
    patches = torch.cat(rows)
    chosen = coreset(patches, method.coreset, generator)
    log.info("%s: %d patches of %d, of %d good images", method.name, len(chosen), len(patches),
             len(rows))  # fmt: skip
    state = {key: value.cpu().contiguous() for key, value in extractor.state_dict().items()}
    return _Kept(images, patches[chosen].cpu().contiguous(), state if started else None)


def _at_start(session: Session) -> nn.Module:
    """The network with the weights that the run's training began with.

    Raises:
        LtcamError: If it began with random ones, their file is another one now, or they cannot be
            read.
    """
    classifier = session.classifier
    weights = classifier.backbone.weights
    if weights is None:
        raise LtcamError(
            f"method.features=start: {session.run.name} was trained from scratch; "
            "use features=classifier"
        )
    began = kept_identity(session.run.train) or {}
    if Path(weights).is_file() and content_digest(Path(weights)) != began.get("weights"):
        raise LtcamError(
            f"method.features=start: {weights} is not the file that {session.run.name} began with; "
            "restore it, or use features=classifier"
        )
    model = deepcopy(classifier.model)
    load_weights(model, classifier.backbone)
    return model
