"""What is told while a command works, on a terminal and without one."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console
from rich.progress import Progress

from labrecon import progress
from labrecon.durations import in_words


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_now_and_then(clock, capsys):
    with progress.shown(quiet=False) as watcher:
        watcher.stage("read")
        clock[0] += 9
        watcher.step("TV", {"iteration": 10, "change": 0.5}, 100)
        assert capsys.readouterr().err == "", "a command of some seconds says nothing"
        clock[0] += 2
        watcher.step("TV", {"iteration": 20, "change": 0.25}, 100)
        assert capsys.readouterr().err == "TV: 20 of 100, change 2.5e-01, at most 16 s left\n"
        clock[0] += 29
        watcher.step("TV", {"iteration": 90, "change": 0.1}, 100)
        assert capsys.readouterr().err == ""
        clock[0] += 1
        watcher.stage("report")
        assert capsys.readouterr().err == "report\n"


def test_what_was_done_before_does_not_count_for_the_pace(clock, capsys):
    """A training that goes on at step 900 has not done 900 steps in a second."""
    with progress.shown(quiet=False) as watcher:
        watcher.step("training", {"step": 900, "loss": 1.0}, 1000)
        clock[0] += 20
        watcher.step("training", {"step": 910, "loss": 0.5}, 1000)
    assert capsys.readouterr().err == "training: 910 of 1000, loss 5.0e-01, at most 3 min left\n"


def test_quiet_is_quiet(capsys):
    with progress.shown(quiet=True) as watcher:
        assert watcher is None
    assert capsys.readouterr().err == ""


def test_bars_name_what_they_count():
    """What has passed stands before what is left, which is told once there is a pace."""
    now = [0.0]
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    bars = Progress(
        *progress.timing(), console=console, auto_refresh=False, get_time=lambda: now[0]
    )
    task = bars.add_task("TV", total=None)

    def line() -> str:
        with console.capture() as told:
            console.print(bars.make_tasks_table(bars.tasks))
        return " ".join(told.get().split())

    now[0] = 5.0
    assert line() == "0:00:05"
    bars.update(task, total=100)
    for done in (10, 20):
        now[0] += 60
        bars.update(task, completed=done)
    assert line() == "20/100 0:02:05 about 8 min left"


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal of Unix")
def test_a_terminal_gets_bars(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.shown(quiet=False) as watcher:
        watcher.stage("solve")
        watcher.step("TV", {"iteration": 1, "change": 0.5}, 4)


@pytest.mark.parametrize(
    ("seconds", "words"), [(59.6, "1 min"), (59.4, "59 s"), (3600 * 30, "30 h"), (0.0, "0 ms")]
)
def test_durations_in_the_unit_in_which_they_are_read(seconds, words):
    assert in_words(seconds) == words
