"""What the C library does with freed memory. Importable by every station; imports nothing heavy."""

from __future__ import annotations

import os
import sys

GLIBC = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
TUNABLES = "GLIBC_TUNABLES"
# Nothing goes back to the kernel, which would zero it for the next batch anew. And no splinter is
# cached: glibc cuts one off an aligned block, and without it the freed block is too small for the
# next request of the same size, so the heap grows (glibc's bugs 14581 and 30723; mended in 2.39).
REUSE = (
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:"
    "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
)
RESTARTED = "LTCAM_RESTARTED"  # a privileged program loses the other; this ends the restarts


def reuse_freed_memory() -> None:
    """Start this very command anew with glibc set to use freed memory again.

    glibc reads these settings once, at a program's start. Batches are faster with them, and the
    memory of an evaluation does not grow with its batches (docs/measurements.md). Does nothing
    without glibc, or where `GLIBC_TUNABLES` is set, be it to nothing.
    """
    if GLIBC and TUNABLES not in os.environ and RESTARTED not in os.environ:
        environment = os.environ | {TUNABLES: REUSE, RESTARTED: "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
