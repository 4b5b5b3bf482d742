"""Devices and threads by their keys. Imports torch when it is asked for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltcam_cli.allocator import uncollected
from ltcam_cli.errors import LtcamError

if TYPE_CHECKING:
    import torch


def torch_device(name: str) -> torch.device:
    """The device of that name; `auto` takes a GPU where there is one.

    Raises:
        LtcamError: If it is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise LtcamError(f"device={name}: is not there; use auto or cpu") from error
    return device


def use_threads(count: int | None) -> None:
    """Let torch use `count` CPU threads; None leaves its own choice."""
    if count is not None:
        with uncollected():
            import torch

        torch.set_num_threads(count)
