"""The command line in a folder of its own, one tiny trained run, and trees that look like data."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; tests run side by side
os.environ.setdefault("LTCAM_CACHE", tempfile.mkdtemp(prefix="ltcam-tests-"))

import logging
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from ltcam_cli.cli import app

os.fsync = lambda handle: None  # tests write thousands of files, and outlive no power cut

REPOSITORY = Path(__file__).resolve().parents[1]

SYNTHETIC = (
    "dataset=synthetic dataset.items=6 dataset.parts=4 dataset.height=64 dataset.width=64 "
    "backbone=vgg16_slim trainer.epochs=1 trainer.images_per_epoch=12 trainer.amp=false "
    "threads=1 device=cpu"
).split()
KSDD = (
    "dataset.count=null dataset.height=64 dataset.width=48 "
    "backbone=vgg16_slim trainer.epochs=1 trainer.images_per_epoch=12 trainer.amp=false "
    "threads=1 device=cpu"
).split()


def run_app(*args: object, env: dict[str, str | None] | None = None) -> Result:
    """`ltcam ARGS` in this process; Hydra's logging is put back to what it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="ltcam", env=env)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@dataclass(frozen=True)
class Cli:
    """`ltcam`, called in an empty working folder."""

    folder: Path

    def __call__(self, *args: object, env: dict[str, str | None] | None = None) -> Result:
        return run_app(*args, env=env)

    def ok(self, *args: object) -> str:
        """Standard output of a call that must succeed."""
        result = self(*args)
        if result.exit_code != 0:
            raise AssertionError(f"{args}: {result.output}") from result.exception
        return str(result.stdout)

    def fault(self, *args: object, says: Sequence[str], logs: bool = False) -> str:
        """The one line on standard error of a call that must fail by its user's mistake.

        Args:
            says: what the line must contain: culprit and remedy.
            logs: whether the command may have said something before it failed.
        """
        result = self(*args)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError(f"{args}: no user's message") from result.exception
        lines = str(result.stderr).splitlines()
        assert result.exit_code == 2, result.output
        assert len(lines) == 1 or logs, lines
        assert lines[-1].startswith("ltcam: ")
        assert sum(line.startswith("ltcam: ") for line in lines) == 1
        for words in says:
            assert words in lines[-1]
        assert not half_written(self.folder)
        return lines[-1]

    def start(self, *args: object, **options: Any) -> subprocess.Popen[str]:
        """`python -m ltcam_cli ARGS` as a real process."""
        return subprocess.Popen(
            [sys.executable, "-m", "ltcam_cli", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # In the background of a shell SIGINT is ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **{"cwd": self.folder, **options},
        )


def half_written(folder: Path) -> list[Path]:
    """Temporary files that nobody renamed or deleted."""
    return [path for path in folder.rglob(".*") if path.is_file() and path.suffix != ".lock"]


@pytest.fixture(scope="session", autouse=True)
def short_student() -> None:
    """`pipeline=auto` trains a student of two steps."""
    from ltcam_cli.experiments import students
    from ltcam_cli.student.config import NetworkConfig, StudentConfig

    network = NetworkConfig("light", width=8, decoder=8)
    students.AUTO_STUDENT = StudentConfig(
        "auto", network, steps=2, every=2, batch_size=2, overlays=0
    )


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with working_in(tmp_path):
        yield Cli(tmp_path)


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        outputs: the folder that holds it.
        name: its own folder's name.
        overrides: what it was trained with.
    """

    outputs: Path
    name: str
    overrides: list[str]

    @property
    def path(self) -> Path:
        return self.outputs / self.name


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on tiny synthetic images. Tests that write into it take `own_run`, a copy."""
    folder = tmp_path_factory.mktemp("tiny")
    with working_in(folder):
        Cli(folder).ok("train", *SYNTHETIC)
        # So that each copy has a chosen pipeline already.
        Cli(folder).ok("evaluate", *SYNTHETIC, "--pipeline", "auto", "evaluation.overlays=0")
    (path,) = (folder / "outputs").glob("synthetic-*")
    shutil.rmtree(path / "evaluate")
    for table in path.glob("results.*"):
        table.unlink()
    return Run(path.parent, path.name, SYNTHETIC)


@pytest.fixture
def own_run(tiny_run: Run, cli: Cli) -> Run:
    """A copy of `tiny_run` in `outputs`, for which nothing is chosen."""
    outputs = cli.folder / "outputs"
    shutil.copytree(tiny_run.outputs, outputs, ignore=shutil.ignore_patterns("auto", "auto-*"))
    return Run(outputs, tiny_run.name, tiny_run.overrides)


KsddLike = Callable[..., Path]


@pytest.fixture
def ksdd_like(cli: Cli) -> KsddLike:
    """Makes a small tree in the layout of KolektorSDD: `ksdd_like(folders=(1, 41), parts=3)`.

    The last part of each folder is defective; masks are palette images with the indices 0, 1 and
    2 there, and 8-bit grey elsewhere.
    """

    def make(
        folders: Sequence[int] = (1, 2, 3, 41, 42),
        parts: int = 3,
        size: tuple[int, int] = (80, 56),
        root: str = "data/KolektorSDD",
    ) -> Path:
        random = np.random.default_rng(0)
        for number in folders:
            folder = cli.folder / root / f"kos{number:02d}"
            folder.mkdir(parents=True)
            for part in range(parts):
                pixels = random.integers(90, 160, size, dtype=np.uint8)
                mask = Image.new("L", size[::-1])
                if part == parts - 1:
                    indices = np.zeros(size, dtype=np.uint8)
                    top, left = random.integers(10, 40, 2)
                    indices[top : top + 20, left : left + 3] = 1
                    indices[top : top + 4, left : left + 3] = 2
                    pixels[indices > 0] -= 60
                    mask = Image.fromarray(indices).convert("P")
                    mask.putpalette([0, 0, 0, 255, 255, 255, 255, 0, 0])
                Image.fromarray(pixels).save(folder / f"Part{part}.jpg", quality=95)
                mask.save(folder / f"Part{part}_label.bmp")
        return cli.folder / root

    return make


@pytest.fixture(scope="session")
def real_ksdd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real KolektorSDD: in the checkout, or unpacked from beside it."""
    in_checkout = REPOSITORY / "data" / "KolektorSDD"
    if (in_checkout / "kos50").is_dir():
        return in_checkout
    archive = REPOSITORY.parent / "shared" / "data" / "KolektorSDD.zip"
    if not archive.is_file():
        pytest.skip(f"no KolektorSDD: neither {in_checkout} nor {archive} is there")
    folder = tmp_path_factory.mktemp("real")
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    return folder / "KolektorSDD"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """A headless Chromium that logs its console and what it fetches."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    service = shutil.which("chromedriver")
    if browser is None or service is None:
        pytest.skip("chromium or chromedriver is not installed (apt-get install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-dev-shm-usage "
        "disable-background-networking disable-component-update disable-sync window-size=1280,1000"
    ).split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(service))
    yield started
    started.quit()
