"""Freed memory is used again, and the process is started anew once for that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ltcam_cli.allocator import GLIBC, RESTARTED, TUNABLES

pytestmark = pytest.mark.skipif(not GLIBC, reason="not glibc")
RESTART = """
import os, sys
print("started")
sys.stdout.flush()
from ltcam_cli.allocator import reuse_freed_memory
reuse_freed_memory()
print(sys.argv[1:], os.environ.get("GLIBC_TUNABLES"))
"""
GROWTH = """
from pathlib import Path
from ltcam_cli.allocator import reuse_freed_memory
reuse_freed_memory()
import torch

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

block = 8  # MiB
seen = []
for _ in range(20):
    torch.ones(block * 2**18)
    seen.append(resident())
print((seen[-1] - seen[1]) / block)
"""


def run(code: str, *arguments: str, **variables: str) -> list[str]:
    """Lines that the code prints in a process of its own."""
    inherited = {k: v for k, v in os.environ.items() if k not in {TUNABLES, RESTARTED}}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=inherited | variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_the_command_starts_anew_once_with_its_arguments() -> None:
    first, second, said = run(RESTART, "train", "dataset.root=a b")
    assert first == second == "started"
    assert said.startswith("['train', 'dataset.root=a b'] glibc.malloc.")


@pytest.mark.parametrize("value", ["", "glibc.malloc.arena_max=1"])
def test_what_a_user_has_set_counts(value: str) -> None:
    assert run(RESTART, GLIBC_TUNABLES=value) == ["started", f"[] {value}"]


def test_a_variable_that_is_taken_away_is_not_set_again() -> None:
    assert run(RESTART, LTCAM_RESTARTED="1") == ["started", "[] None"]


def test_blocks_of_one_size_take_the_place_of_those_that_were_freed() -> None:
    [blocks] = run(GROWTH)
    assert float(blocks) < 1
