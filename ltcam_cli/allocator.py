"""Settings of memory: C's allocator, Python's collector. Importable by all; imports no torch."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

GLIBC = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
SPAWNED = {"MALLOC_TRIM_THRESHOLD_": str(2**62), "MALLOC_MMAP_MAX_": "0"}  # the same settings
USERS = {"GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", *SPAWNED}


def reuse_freed_memory() -> None:
    """Keep freed memory in the process: the kernel zeroes every page that it hands out again.

    To be called before torch is imported; see mallopt(3) and docs/measurements.md, Memory. Forked
    processes inherit the settings; spawned ones (joblib, submitit, a local Ray) read them from the
    environment. Does nothing without glibc, or where one of `USERS` is set, even to nothing.
    """
    if GLIBC and USERS.isdisjoint(os.environ):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_MAX, 0)
        os.environ.update(SPAWNED)


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without a search for garbage, and leave what was imported out of later searches.

    Modules stay; but torch and torchvision bring so many objects that Python goes through all of
    them again and again: two fifths of the time in which one image was predicted. See
    docs/measurements.md, Report and prediction.
    """
    known = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:  # else what a task left would never be searched again
            gc.freeze()
        gc.enable()
