"""Files of tensors: written whole or not at all, and read safely."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ltcam_cli.errors import LtcamError


def read_tensors(path: Path, remedy: str, device: str | torch.device = "cpu") -> Any:
    """Content of a file of `torch.save`: tensors, numbers, strings, lists and dictionaries.

    Args:
        path: File to read.
        remedy: Remedy for a bad file; ends the error's line.
        device: Device of the tensors.

    Raises:
        LtcamError: if the file is damaged, or holds anything else; that is never executed.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise LtcamError(
            f"{path}: holds more than tensors and is not loaded for safety; {remedy}"
        ) from error
    except Exception as error:  # torch raises many kinds for damaged files
        raise LtcamError(f"{path}: is damaged ({type(error).__name__}); {remedy}") from error


def write_tensors(content: Any, path: Path) -> None:
    """Write a file of `torch.save`.

    To a stream, since the name of a path would get into the file.

    Raises:
        OSError: If the disk is full.
    """
    try:
        with path.open("wb") as stream:
            torch.save(content, stream)
    except (OSError, RuntimeError) as error:
        fault = error.__context__ if isinstance(error, RuntimeError) else error  # the stream's own
        if isinstance(fault, OSError):
            fault.filename = str(path)
        if isinstance(fault, (OSError, KeyboardInterrupt)):
            raise fault from None
        raise


def load_state(model: nn.Module, state: Any) -> None:
    """Give a model, which may be on the device `meta`, the weights of a checkpoint.

    Raises:
        LtcamError, RuntimeError, TypeError: If they are of other names, shapes or types, or hold
            numbers that are not finite.
    """
    wanted = {key: value.dtype for key, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    for key, value in model.state_dict().items():
        if value.dtype != wanted[key]:
            raise LtcamError(f"{key} is of {value.dtype}, and must be of {wanted[key]}")
        if not value.isfinite().all():
            raise LtcamError(f"{key} holds numbers that are not finite")


def misfit(path: Path, error: Exception, remedy: str) -> LtcamError:
    """The error of a checkpoint whose parts do not belong together."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
    return LtcamError(f"{path}: does not fit its own description ({reason}); {remedy}")
