"""Kills, full disks, little memory, odd files: what docs/reliability.md promises.

`scripts/soak` kills real commands, which is too long for a suite.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SYNTHETIC, Cli, Run, half_written
from PIL import Image
from toys import tiny_classifier

from ltcam_cli.__main__ import end_like_interruptions
from ltcam_cli.classifier.progress import save_progress
from ltcam_cli.data.image_files import ImageReader
from ltcam_cli.data.mask_files import MaskReader
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError, interrupted_status, user_message
from ltcam_cli.files import TEMPORARY, atomic, content_digest, exclusive, remove_leftovers

LEFT = f"{TEMPORARY}abcd1234.pt"


# --- signals and temporary files


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_as_interruptions_do(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        end_like_interruptions()
        with pytest.raises(KeyboardInterrupt) as caught, atomic(tmp_path / "a.pt"):
            assert half_written(tmp_path)
            os.kill(os.getpid(), number)
        assert interrupted_status(caught.value) == 128 + number
        assert not list(tmp_path.iterdir())
        signal.signal(number, signal.SIG_IGN)
        end_like_interruptions()
        assert signal.getsignal(number) == signal.SIG_IGN  # nohup ltcam train
    finally:
        signal.signal(number, before)
    assert interrupted_status(KeyboardInterrupt()) == 130


def test_a_command_ends_with_the_signals_status(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt(signal.SIGHUP)

    monkeypatch.setattr("ltcam_cli.experiments.evaluate.evaluate_task", stopped)
    result = cli("evaluate")
    assert (result.exit_code, result.stderr) == (
        129,
        "ltcam: interrupted; what was complete stays\n",
    )


def test_leftovers_of_the_dead_are_deleted_when_a_folder_is_locked(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.scores.csv.lock").touch()  # is swept under a lock of its own
    kept = [
        tmp_path / name for name in ("other/" + LEFT, ".ltcam-mine", ".ltcam", "deeper/a.ltcam-x")
    ]
    gone = [tmp_path / LEFT, tmp_path / "deeper" / LEFT]
    for path in [*kept, *gone]:
        path.touch()
    with exclusive(tmp_path / "results.csv"):
        assert [path.exists() for path in gone] == [False, False]
    assert all(path.exists() for path in kept)
    with exclusive(tmp_path / "other"):
        assert not kept[0].exists()


def test_a_living_process_keeps_its_temporary_files(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom ltcam_cli.files import atomic\n"
        "with atomic(Path('a.pt')) as path:\n    print(path, flush=True)\n    sys.stdin.read()\n"
        "    path.write_text('whole')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    temporary = tmp_path / process.stdout.readline().strip()
    remove_leftovers(tmp_path)
    assert temporary.is_file()
    process.communicate("")
    assert (tmp_path / "a.pt").read_text() == "whole" and not temporary.exists()
    with atomic(tmp_path / "a.pt") as mine:
        remove_leftovers(tmp_path)
        assert mine.is_file()


# --- disk and memory


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files may have at most `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_while_tensors_are_written(tmp_path: Path) -> None:
    classifier, path = tiny_classifier(), tmp_path / "checkpoint.pt"
    state = {"model": classifier.model.state_dict(), "history": [{"loss": 1.0}]}
    for size in (0, 100, 4000, 20_000):
        with room_for(size), pytest.raises(OSError, match="File too large") as caught:
            classifier.save(path)
        message = user_message(caught.value)
        assert message is not None
        assert message.startswith(f"{path}: File too large; make room")
        with room_for(size), pytest.raises(OSError, match="File too large"):
            save_progress(tmp_path, state)
        assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_while_pictures_and_arrays_are_written(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
    for name, write in (
        ("a.npy", lambda path: np.save(path, pixels)),
        ("a.png", lambda path: Image.fromarray(pixels).save(path)),
        ("a.txt", lambda path: path.write_bytes(pixels.tobytes())),
    ):
        with room_for(30_000), pytest.raises(OSError) as caught, atomic(tmp_path / name) as path:
            write(path)
        assert str(user_message(caught.value)).startswith(f"{tmp_path / name}: ")
        assert not list(tmp_path.iterdir())


def test_a_training_without_room(cli: Cli) -> None:
    with room_for(100_000):
        says = ["last.pt: File too large", "make room", "outputs=DIR"]
        cli.fault("train", *SYNTHETIC, says=says, logs=True)
    assert not list(Path("outputs").glob("*/train/*.pt"))
    cli.ok("train", *SYNTHETIC)


@pytest.mark.parametrize("allocate", [torch.empty, np.empty], ids=["torch", "numpy"])
def test_too_little_memory(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, allocate: type[torch.Tensor]
) -> None:
    monkeypatch.setattr(
        "ltcam_cli.experiments.evaluate.evaluate_task", lambda *_: allocate((1 << 30, 1 << 14))
    )
    cli.fault("evaluate", says=["memory is full", "evaluation.batch_size", "predict.batch_size"])


def test_a_damaged_cache_of_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTCAM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert content_digest(path) == expected
    (tmp_path / "cache/digests.sqlite").write_bytes(b"nonsense" * 4096)
    assert content_digest(path) == expected


# --- files that are no files


@pytest.fixture
def odd_files(tmp_path: Path) -> Iterator[list[Path]]:
    """A FIFO, a socket, a device and a folder, all called like images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"{kind}.png" for kind in ("fifo", "socket", "device", "folder")]
    os.mkfifo(paths[0])
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(paths[1]))  # such an address has at most 107 bytes
        paths[2].symlink_to("/dev/zero")
        paths[3].mkdir()
        yield paths


def test_odd_files_are_refused_and_never_waited_for(odd_files: list[Path]) -> None:
    for path in odd_files:
        for read in (ImageReader(), MaskReader()):
            with pytest.raises(LtcamError, match="is no regular file") as caught:
                read(path)
            assert str(path) in str(caught.value)
        with pytest.raises(OSError, match="is no regular file"):
            content_digest(path)
        sample = Sample.from_files(path, path, name="a", group="a", label=1)
        assert sample.image_digest() == sample.mask_digest() == "missing"


def test_odd_files_among_images(cli: Cli, tiny_run: Run, odd_files: list[Path]) -> None:
    Image.new("L", (64, 64), 120).save("photos/plate.png")
    predict = ["predict", "photos", "--run", tiny_run.path, "threads=1", "--out", "found"]
    cli.ok(*predict, "predict.on_error=skip")
    assert [path.name for path in Path("found/masks").iterdir()] == ["plate.png"]


# --- item of one set, shown for another


def test_a_file_replaced_in_place_with_its_old_time_has_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    first, inode = content_digest(path), path.stat().st_ino
    with path.open("r+b") as stream:  # rsync --inplace --times
        stream.write(b"two")
    os.utime(path, (1, 1))
    assert path.stat().st_ino == inode and content_digest(path) != first
