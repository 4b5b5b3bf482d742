"""`ltcam`, and the same as `python -m ltcam_cli`."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from ltcam_cli.allocator import reuse_freed_memory, uncollected
from ltcam_cli.errors import interrupted_status


def main() -> None:
    """Entry point of `ltcam`."""
    end_like_interruptions()
    try:
        reuse_freed_memory()
        with uncollected():
            from ltcam_cli.cli import app

        app(prog_name="ltcam")
    except KeyboardInterrupt as interruption:  # before a command began
        sys.exit(interrupted_status(interruption))


def end_like_interruptions() -> None:
    """Let SIGTERM and SIGHUP end the process as SIGINT does: what it began to write is deleted.

    A signal that is ignored (nohup) stays so.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    main()
