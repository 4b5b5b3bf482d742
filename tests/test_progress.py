"""Signs of life of long work: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import sys
import threading

import pytest
from conftest import Cli, Run

from ltcam_cli import progress
from ltcam_cli.progress import Progress, duration, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("search", 230, done=30, shown=False) as search:
        assert search.line() == "search: 30 of 230 images"
        now, _ = 60.0, search.update(20)
        # 3 s an image, and 180 are left.
        assert search.line() == f"search: 50 of 230 images, about {duration(540)} left"
    with Progress("exporting", None, shown=False) as exporting:
        now = 100.0
        assert exporting.line() == "exporting: for 40 s"


def test_lines_come_also_while_a_step_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.01)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with Progress("slow", 2, "mask"):
        threading.Event().wait(0.2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) > 2 and set(said) == {"slow: 0 of 2 masks"}
    threading.Event().wait(0.05)
    assert not capsys.readouterr().err


def test_quick_work_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(track(range(5), "quick")) == [0, 1, 2, 3, 4]
    assert not capsys.readouterr().err
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert sum(track(range(5), "quick")) == 10
    assert "quick" not in sys.stderr.getvalue()


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("maps", 4) as maps:
        maps.update(4, "fine")
    assert "maps: 100%" in sys.stderr.getvalue() and "4/4" in sys.stderr.getvalue()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (["search", "--method", "gradcam,layercam"], "search: "),
        (["evaluate", "--method", "ablationcam"], "ablationcam: "),
        (["report"], "{run}: "),
    ],
)
def test_commands_say_how_far_they_are(
    call: list[str], says: str, cli: Cli, own_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.ok("evaluate", "--run", own_run.name, "threads=1", "--method", "gradcam")
    monkeypatch.setattr(progress, "FIRST", 0.001)
    named = [own_run.name] if call == ["report"] else ["--run", own_run.name]
    result = cli(*call, *named, "threads=1")
    assert result.exit_code == 0, result.output
    assert says.format(run=own_run.name) in result.stderr
