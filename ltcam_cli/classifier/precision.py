"""Precision of computation: float32, or 16 bits where the device is quicker with them."""

from __future__ import annotations

from typing import Any

import torch

from ltcam_cli.config import Mixed


def autocast_dtype(mixed: Mixed, device: torch.device) -> torch.dtype | None:
    """Type of 16 bits in which a network computes under autocast; None: float32.

    Args:
        mixed: True: 16 bits; False: float32; `auto`: 16 bits on a GPU, and on a CPU that has
            instructions for bfloat16 (AVX512-BF16 or AMX).
        device: Device of the network.
    """
    if not mixed or (mixed == "auto" and device.type == "cpu" and not _cpu_has_bfloat16()):
        return None
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def rounding(mixed: Mixed, device: torch.device, threads: int | None) -> dict[str, Any]:
    """What rounds a training's sums: parts of its identity, besides the config.

    On a CPU the gradients of a batch are summed in as many parts as there are threads, so that
    their number changes the last digits of all weights; of maps and scores it changes none.

    Args:
        mixed: As of `autocast_dtype`.
        device: Device of the training.
        threads: CPU threads that were set; None: torch's own choice, which is read.
    """
    count = (threads or torch.get_num_threads()) if device.type == "cpu" else None
    return {"dtype": dtype_name(autocast_dtype(mixed, device)), "threads": count}


def dtype_name(dtype: torch.dtype | None) -> str:
    """Name of a type of `autocast_dtype`, e.g. `bfloat16`."""
    return str(dtype or torch.float32).removeprefix("torch.")


def _cpu_has_bfloat16() -> bool:
    # Releases before torch 2.9 do not say; float32 is right everywhere.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
