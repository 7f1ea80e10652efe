"""Batches on this machine: done, gone on with, tried again; what is done is never touched."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from batch_cases import states, wait_for
from fragile_toy import NAME, write_scan

from labrecon.batch.manifest import FILE
from labrecon.batch.night import Policy
from labrecon.batch.run import Means, reconstruct_batch, retry
from labrecon.batch.view import status
from labrecon.errors import OutputError, RecipeError, ScanError
from labrecon.hookspecs import hookimpl
from labrecon.plugins import Host

pytestmark = pytest.mark.slow
ONE = Means(threads=1)


def run(folder: Path, out: Path, **options):
    options = {"means": ONE, **options}
    return reconstruct_batch(NAME, [folder / "*.toy"], out, **options)


def told(out: Path) -> dict[str, dict]:
    return {scan["name"]: scan for scan in status(out)["scans"]}


def stamps(out: Path) -> dict[str, int]:
    """When each output was written."""
    return {str(p): p.stat().st_mtime_ns for p in (out / "scans").rglob("*") if p.is_file()}


def test_scans_are_done_and_the_same_call_does_nothing_again(scans, tmp_path):
    folder, out = scans(good=2), tmp_path / "out"
    result = run(folder, out)
    assert result.counts["done"] == 2
    assert not result.interrupted
    made = out / "scans" / "good_0"
    assert {p.name for p in made.iterdir()} == {
        "volume.h5",
        "provenance.json",
        "report.html",
        "thumbnail.png",
    }
    row = told(out)["good_0"]
    assert row["state"] == "done"
    assert row["numbers"]["χ²"] > 0
    assert row["timings"]["solve"] > 0
    before = stamps(out)
    assert run(folder, out).counts["done"] == 2
    assert stamps(out) == before


def test_only_what_is_new_is_reconstructed(scans, tmp_path):
    folder, out = scans(good=1), tmp_path / "out"
    run(folder, out)
    before = stamps(out)
    write_scan(folder / "later.toy", seed=5)
    assert run(folder, out).counts["done"] == 2
    after = stamps(out)
    assert {path: after[path] for path in before} == before


def test_another_recipe_is_told_and_what_is_done_stays(scans, tmp_path):
    folder, out = scans(good=1), tmp_path / "out"
    run(folder, out)
    before = stamps(out)
    changed = {"overrides": ["solver.iterations=6"]}
    with pytest.raises(RecipeError, match=r"solver\.iterations: 5 → 6"):
        run(folder, out, **changed)
    write_scan(folder / "later.toy")
    run(folder, out, new_recipe=True, **changed)
    rows = told(out)
    assert rows["good_0"]["stale"] == "recipe"
    assert rows["later"]["stale"] == ""
    assert rows["later"]["iterations"] == 6
    after = stamps(out)
    assert {path: after[path] for path in before} == before
    retry(out, stale=True)
    row = told(out)["good_0"]
    assert (row["iterations"], row["stale"]) == (6, "")
    assert json.loads((out / "old/good_0-1/provenance.json").read_text())["iterations"] == 5


def test_another_file_under_the_same_name_is_told(scans, tmp_path):
    folder, out = scans(good=2), tmp_path / "out"
    run(folder, out)
    before = stamps(out)
    os.utime(folder / "good_0.toy")  # copied, perhaps: the content is the same
    write_scan(folder / "good_1.toy", seed=9)
    run(folder, out)
    assert {name: row["stale"] for name, row in told(out).items()} == {
        "good_0": "",
        "good_1": "input",
    }
    assert any("their files have changed since" in m for m in status(out)["messages"])
    assert stamps(out) == before


def test_a_failed_scan_is_tried_again_when_its_file_is_another_one(scans, tmp_path):
    folder, out = scans(good=1), tmp_path / "out"
    bad = folder / "bad.toy"
    bad.write_bytes(b"half a file")
    assert run(folder, out).counts["failed"] == 1
    assert "can not be read as npz" in told(out)["bad"]["reason"]
    assert (out / "failed" / "bad.html").exists()
    assert run(folder, out).counts["failed"] == 1
    write_scan(bad)
    assert run(folder, out).counts["done"] == 2
    assert not (out / "failed" / "bad.html").exists()


def test_retry_makes_failed_scans_anew_and_knows_names(scans, tmp_path):
    folder, out = scans(good=0, broken="prepare raise"), tmp_path / "out"
    run(folder, out)
    row = told(out)["broken"]
    assert row["kind"] == "reader"
    assert "preparation step 'fate': 'vendor'" in row["reason"]
    assert "Traceback" in row["trace"]
    assert retry(out, failed=True).counts["failed"] == 1
    assert told(out)["broken"]["attempts"] == 1
    with pytest.raises(RecipeError, match="no scan nonsense"):
        retry(out, names=["nonsense"])
    with pytest.raises(RecipeError, match="--failed"):
        retry(out)


def test_what_can_not_be_a_batch_is_refused_before_any_work(scans, tmp_path):
    folder, out = scans(good=1), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("ten years")
    with pytest.raises(OutputError, match="holds no batch"):
        run(folder, out)
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]
    with pytest.raises(ScanError, match="no file matches"):
        reconstruct_batch(NAME, [folder / "*.nothing"], tmp_path / "other", means=ONE)
    assert not (tmp_path / "other").exists()
    with pytest.raises(RecipeError, match="no recipe 'nonsense'"):
        run(folder, tmp_path / "other", recipe="nonsense")
    with pytest.raises(RecipeError, match="workers is 0"):
        Means(workers=0)
    with pytest.raises(OutputError, match="does not exist"):
        status(tmp_path / "nowhere")


def test_an_output_that_is_there_and_not_of_this_scan_is_left_alone(scans, tmp_path):
    folder, out = scans(good=1), tmp_path / "out"
    run(folder, out)
    mine = out / "scans" / "later"
    mine.mkdir()
    (mine / "notes.txt").write_text("do not lose")
    write_scan(folder / "later.toy")
    run(folder, out)
    row = told(out)["later"]
    assert (row["state"], row["kind"]) == ("failed", "output")
    assert (mine / "notes.txt").read_text() == "do not lose"


def test_a_lost_manifest_is_made_again_from_the_outputs(scans, tmp_path):
    folder, out = scans(good=2), tmp_path / "out"
    run(folder, out)
    before, row = stamps(out), told(out)["good_1"]
    (out / FILE).unlink()
    assert run(folder, out).counts["done"] == 2
    assert stamps(out) == before
    again = told(out)["good_1"]
    assert again["numbers"] == row["numbers"]
    assert again["title"] == row["title"]


class Watchful:
    """A plugin that keeps a log, vetoes, and sometimes fails."""

    def __init__(self):
        self.log = []

    @hookimpl
    def labrecon_scan_veto(self, path):
        if "broken" in path:
            raise RuntimeError("the database is down")
        return "an alignment scan" if "good_1" in path else None

    @hookimpl
    def labrecon_scan_started(self, path):
        self.log.append(f"started {Path(path).stem}")

    @hookimpl
    def labrecon_scan_finished(self, output, summary):
        self.log.append(f"finished {Path(output).name} {summary['chi2'] > 0}")

    @hookimpl
    def labrecon_scan_failed(self, path, error):
        self.log.append(f"failed {Path(path).stem} {error.kind}")

    @hookimpl
    def labrecon_batch_started(self, scans):
        self.log.append(f"batch of {scans}")

    @hookimpl
    def labrecon_batch_finished(self, counts):
        self.log.append(f"over: {counts['done']}")
        raise RuntimeError("no network")


def test_plugins_are_told_of_all_and_may_veto(scans, tmp_path):
    folder, out = scans(good=2, broken="read raise"), tmp_path / "out"
    plugin, host = Watchful(), Host()
    host.add("watchful", plugin)
    result = run(folder, out, host=host)
    assert result.counts == {"pending": 0, "running": 0, "done": 1, "failed": 1, "skipped": 1}
    assert plugin.log[0] == "batch of 3"
    assert plugin.log[-1] == "over: 1"
    assert set(plugin.log[1:-1]) == {
        "started broken",
        "failed broken reader",
        "started good_0",
        "finished good_0 True",
    }
    assert told(out)["good_1"]["reason"] == "an alignment scan (the plugin watchful)"
    messages = "\n".join(status(out)["messages"])
    assert "the database is down" in messages
    assert "no network" in messages


def test_a_watch_takes_files_that_rest_and_ends_when_idle(scans, tmp_path):
    folder, out = scans(good=1), tmp_path / "out"
    (folder / "growing.toy").touch()

    class Grower:
        """Writes the rest of a file once the first scan is done."""

        def scan(self, row):
            if row["name"] == "good_0":
                write_scan(folder / "growing.toy", seed=3)

        def look(self, counts, running): ...

        def say(self, text): ...

    policy = Policy(watch=True, settle=0.3, poll=0.1, idle=1.0)
    result = run(folder, out, means=Means(threads=1, policy=policy), spectators=[Grower()])
    assert result.counts["done"] == 2


def test_ctrl_c_finishes_what_is_in_flight_and_twice_gives_it_up(scans, command, tmp_path):
    scans(good=0, a="prepare slow 1.5", b="prepare slow 1.5", c="prepare slow 1.5", d="", e="")
    out = tmp_path / "out"
    process = command()
    wait_for(lambda: states(out).get("a") == "running")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    text = (tmp_path / "told.txt").read_text()
    assert "stopping: the scans in flight are finished" in text
    now = states(out)
    assert now["a"] == "done"
    assert now["e"] == "pending"
    assert "running" not in now.values()

    process = command()
    wait_for(lambda: "running" in states(out).values())
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "running" not in states(out).values()
    assert command().wait(timeout=120) == 0
    assert set(states(out).values()) == {"done"}


def test_a_running_batch_takes_what_another_process_retries(scans, command, tmp_path):
    folder = scans(good=0, a="read raise", b="prepare slow 6")
    out = tmp_path / "out"
    process = command()
    wait_for(lambda: states(out) == {"a": "failed", "b": "running"})
    write_scan(folder / "a.toy")
    assert retry(out, names=["a"]).queued
    assert process.wait(timeout=90) == 0
    assert states(out) == {"a": "done", "b": "done"}
