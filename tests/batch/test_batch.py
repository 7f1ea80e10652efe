"""Batches on this machine: done, gone on with, tried again; what is done is never touched."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from batch_cases import states, wait_for
from fragile_toy import NAME, write_scan

from labrecon.batch.manifest import FILE
from labrecon.batch.means import Means
from labrecon.batch.opening import output_of
from labrecon.batch.policy import Policy
from labrecon.batch.retry import retry
from labrecon.batch.run import reconstruct_batch
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
    assert any("changed since (retry --stale): good_1" in m for m in status(out)["messages"])
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


def test_an_output_of_another_recipe_or_file_is_not_taken_for_this_one(scans, tmp_path):
    folder, out = scans(good=1), tmp_path / "out"
    run(folder, out)
    before = stamps(out)
    (out / FILE).unlink()
    run(folder, out, overrides=["solver.iterations=6"])
    assert told(out)["good_0"]["kind"] == "output"
    (out / FILE).unlink()
    write_scan(folder / "good_0.toy", seed=9)
    run(folder, out)
    assert told(out)["good_0"]["kind"] == "output"
    assert stamps(out) == before


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
    # A retry does not go on watching: that would never come back.
    write_scan(folder / "later.toy")
    retry(out, names=["good_0"])
    assert set(told(out)) == {"good_0", "growing"}


def test_ctrl_c_finishes_what_is_in_flight_and_twice_gives_it_up(scans, command, tmp_path):
    scans(good=0, a="prepare slow 1.5", b="prepare slow 1.5", c="prepare slow 1.5", d="", e="")
    out = tmp_path / "out"
    process = command()
    wait_for(lambda: states(out).get("a") == "running")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    text = (tmp_path / "told.txt").read_text()
    assert re.search(r"stopping: \d scans? in flight", text)
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


def in_background(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_outputs_stay_in_the_folder_wherever_the_scans_are(scans, tmp_path):
    folder, out = scans(good=1), tmp_path / "data" / "night"
    run(folder, out)
    write_scan(tmp_path / "data" / "deep" / "s2.toy")
    (tmp_path / "data" / "bad.toy").write_bytes(b"x")
    for pattern in ("data/deep/*.toy", "data/*.toy"):
        reconstruct_batch(NAME, [tmp_path / pattern], out, means=ONE)
    made = [path for path in tmp_path.rglob("*") if path.suffix in (".h5", ".html")]
    assert len(made) == 6  # volumes and reports, the failure, the page
    assert all(path.is_relative_to(out) for path in made)
    assert not any(".." in row["name"] for row in told(out).values())
    with pytest.raises(ValueError, match="leads out of"):
        output_of(out, "../escape")


def test_a_file_that_is_rewritten_while_it_is_computed_is_stale(scans, tmp_path):
    folder, out = scans(good=0, a="prepare slow 2"), tmp_path / "out"

    def rewrite():
        wait_for(lambda: (out / FILE).exists() and told(out)["a"]["stage"] == "prepare")
        write_scan(folder / "a.toy", seed=99)

    thread = in_background(rewrite)
    run(folder, out)
    thread.join()
    run(folder, out)
    assert told(out)["a"]["stale"] == "input"


def test_failed_scans_are_tried_by_a_new_recipe(scans, tmp_path):
    folder, out = scans(good=1, bad="prepare raise"), tmp_path / "out"
    run(folder, out)
    new = {"prepare": [], "solver": {"name": "direct"}}
    assert run(folder, out, recipe=new, new_recipe=True).counts["done"] == 2
    assert told(out)["bad"]["title"].startswith("direct")


def test_names_may_be_cut_where_that_is_clear(scans, tmp_path):
    folder, out = scans(good=0), tmp_path / "out"
    for day in ("mon", "tue"):
        write_scan(folder / day / "s1.toy")
    write_scan(folder / "mon" / "s2.toy")
    reconstruct_batch(NAME, [folder / "**" / "*.toy"], out, means=ONE)
    with pytest.raises(RecipeError, match=r"did you mean mon/s1 or tue/s1\?"):
        retry(out, names=["s1"])
    assert retry(out, names=["s2"]).failed == []
    assert (out / "old" / "mon" / "s2-1" / "volume.h5").exists()


def test_an_output_is_not_moved_that_is_not_the_scans(scans, tmp_path):
    folder, out = scans(good=1), tmp_path / "out"
    mine = out / "scans" / "good_0"
    run(folder, out)
    (out / FILE).unlink()
    (mine / "provenance.json").write_text("{}")
    (mine / "notes.txt").write_text("do not lose")
    run(folder, out)
    retry(out, names=["good_0"])
    assert told(out)["good_0"]["kind"] == "output"
    assert (mine / "notes.txt").read_text() == "do not lose"


def test_a_retry_at_the_very_end_is_not_lost(scans, tmp_path):
    """A plugin takes its time over the end, and a scan is queued again meanwhile."""

    class Slow:
        @hookimpl
        def labrecon_batch_finished(self):
            time.sleep(3)

    folder, out = scans(good=0, a="read raise"), tmp_path / "out"
    host, results = Host(), []
    host.add("slow", Slow())
    thread = in_background(lambda: results.append(run(folder, out, host=host)))
    wait_for(lambda: states(out) == {"a": "failed"})
    wait_for(lambda: '"finished"' in (out / "scans.js").read_text())
    write_scan(folder / "a.toy")
    assert retry(out, failed=True).queued
    thread.join()
    assert results[0].counts["done"] == 1


def test_a_watch_survives_files_that_vanish_and_reports_empty_ones(scans, tmp_path):
    folder, out = scans(good=2), tmp_path / "out"
    (folder / "empty.toy").touch()

    class Remover:
        def scan(self, row):
            if row["name"] == "good_0":
                (folder / "good_0.toy").unlink()

        def look(self, counts, running): ...

        def say(self, text): ...

    means = Means(threads=1, policy=Policy(watch=True, settle=0.2, poll=0.1, idle=1.0))
    paths = [folder / f"{name}.toy" for name in ("good_0", "good_1", "empty")]
    result = reconstruct_batch(NAME, paths, out, means=means, spectators=[Remover()])
    assert (result.counts["done"], result.counts["failed"]) == (2, 1)
    assert "is empty" in told(out)["empty"]["reason"]
    assert retry(out, failed=True).failed == ["empty"]


def test_results_are_no_scans_and_odd_names_no_end(scans, tmp_path):
    folder, out = scans(good=1), tmp_path / "scans" / "night"
    (folder / "a #1 100%.toy").write_bytes((folder / "good_0.toy").read_bytes())
    (folder / os.fsdecode(b"\xff.toy")).write_bytes(b"x")
    first = reconstruct_batch(NAME, [folder / "**" / "*"], out, means=ONE)
    assert first.counts["done"] == 2
    assert "no UTF-8" in "".join(status(out)["messages"])
    other = reconstruct_batch(NAME, [folder / "**" / "*"], tmp_path / "other", means=ONE)
    assert sum(other.counts.values()) == 2
