"""Lines that several commands print."""

from __future__ import annotations

import time


def spent(loop: float, started: float) -> str:
    """What a command took: the loop over images, and start-up and all else.

    Args:
        loop: Seconds of the loop.
        started: Reading of `time.perf_counter` at the command's start.
    """
    return f"loop {loop:.1f} s, all else {time.perf_counter() - started - loop:.1f} s"
