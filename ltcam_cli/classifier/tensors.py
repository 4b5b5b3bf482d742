"""Files of tensors, read without running what they might hold."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ltcam_cli.errors import LtcamError


def read_tensors(path: Path, remedy: str, device: str | torch.device = "cpu") -> Any:
    """What `torch.save` wrote: tensors, numbers, strings, lists and dictionaries of them.

    Args:
        path: of the file.
        remedy: what to do about a bad one; ends the error's line.
        device: of the tensors.

    Raises:
        LtcamError: if the file is damaged, or holds anything else, which is not run.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise LtcamError(
            f"{path}: holds more than tensors and is not loaded for safety; {remedy}"
        ) from error
    except Exception as error:  # torch raises many kinds for damaged files
        raise LtcamError(f"{path}: is damaged ({type(error).__name__}); {remedy}") from error
