"""What a batch tells where there is no terminal."""

from __future__ import annotations

import pytest

from labrecon import batch_command


def test_a_line_now_and_then_of_how_far_it_is(monkeypatch, capsys) -> None:
    now = 0.0
    monkeypatch.setattr(batch_command.time, "monotonic", lambda: now)
    lines = batch_command._Lines()

    def look(done: int, failed: int = 0) -> str:
        counts = {"pending": 100 - done - failed, "running": 0, "done": done}
        lines.look({**counts, "failed": failed, "skipped": 0}, ())
        return capsys.readouterr().err

    # Forty were done before: the pace is that of the ten since.
    assert look(40) == ""
    now = batch_command.PAUSE - 1
    assert look(45) == ""
    now = 600.0
    assert look(48, 2) == "50 of 100, 2 failed; about 50 min left\n"
    now = 610.0
    assert look(52, 2) == ""
    now = 700.0
    assert look(98, 2) == ""


@pytest.mark.parametrize("done", [0, 7])
def test_nothing_is_told_of_a_pace_that_is_not_known(monkeypatch, capsys, done) -> None:
    now = 0.0
    monkeypatch.setattr(batch_command.time, "monotonic", lambda: now)
    lines = batch_command._Lines()
    counts = {"pending": 9, "running": 1, "done": done, "failed": 0, "skipped": 0}
    lines.look(counts, ())
    now = 1000.0
    lines.look(counts, ())
    assert capsys.readouterr().err == ""
