"""Freed memory is used again, here and in children; imports are not searched for garbage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ltcam_cli.allocator import GLIBC, USERS

needs_glibc = pytest.mark.skipif(not GLIBC, reason="not glibc")
# Whether garbage is searched, and whether objects are left out: without an import, and with one.
COLLECTION = """
import gc
from ltcam_cli.allocator import uncollected

with uncollected():
    print(gc.isenabled())
print(gc.isenabled(), gc.get_freeze_count() > 0)
try:
    with uncollected():
        import colorsys, missing_module
except ImportError:
    print(gc.isenabled(), gc.get_freeze_count() > 0)
"""
# Page faults while ten blocks are filled and freed: before the call, after it, and in children.
FAULTS = """
import multiprocessing, resource
from ltcam_cli.allocator import reuse_freed_memory

def count():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def faults():
    b"x" * 2**26  # the first one grows the heap
    before = count()
    for _ in range(10):
        b"x" * 2**26
    return count() - before

if __name__ == "__main__":
    counts = [faults()]
    reuse_freed_memory()
    counts.append(faults())
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            counts.append(pool.apply(faults))
    print(*counts)
"""


def page_faults(folder: Path, **variables: str) -> list[int]:
    """The four counts, with these variables set by the user."""
    script = folder / "faults.py"
    script.write_text(FAULTS)
    inherited = {k: v for k, v in os.environ.items() if k not in USERS}
    printed = subprocess.check_output(
        [sys.executable, script], env=inherited | variables, text=True
    )
    return [int(word) for word in printed.split()]


@needs_glibc
def test_freed_blocks_are_used_again(tmp_path: Path) -> None:
    before, *after = page_faults(tmp_path)
    assert len(after) == 3 and max(after) < before / 10


@needs_glibc
@pytest.mark.parametrize(
    ("name", "value"), [("GLIBC_TUNABLES", ""), ("MALLOC_TRIM_THRESHOLD_", "1000000")]
)
def test_a_setting_of_the_user_is_left_alone(tmp_path: Path, name: str, value: str) -> None:
    before, *after = page_faults(tmp_path, **{name: value})
    assert len(after) == 3 and min(after) > before / 2


def test_imports_alone_are_kept_out_of_collections() -> None:
    printed = subprocess.check_output([sys.executable, "-c", COLLECTION], text=True)
    assert printed.split() == ["False", "True", "False", "True", "True"]
