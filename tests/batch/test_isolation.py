"""One bad scan never stops the night: whatever a worker does to itself, the others are done."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from batch_cases import states, wait_for
from fragile_toy import NAME, write_scan

from labrecon.batch.bench import SetupError
from labrecon.batch.means import Means
from labrecon.batch.policy import Policy
from labrecon.batch.run import reconstruct_batch
from labrecon.batch.tasks import Limits
from labrecon.batch.view import status
from labrecon.batch.worker import failure
from labrecon.errors import OutputError, ScanError

pytestmark = pytest.mark.slow


def batch(folder: Path, out: Path, **means) -> dict[str, dict]:
    means = Means(**{"threads": 1, **means})
    reconstruct_batch(NAME, [folder / "*.toy"], out, means=means)
    return {scan["name"]: scan for scan in status(out)["scans"]}


@pytest.mark.parametrize(
    ("fate", "kind", "reason"),
    [
        ("read segfault", "crash", r"crashed \(SIGSEGV\).*in the stage 'read' \(2 attempts\)"),
        ("prepare segfault", "crash", r"crashed \(SIGSEGV\).*'prepare' \(2 attempts\)"),
        ("read exit", "crash", r"ended with exit code 3.*\(2 attempts\)"),
        ("prepare kill", "crash", r"was killed \(SIGKILL\).*\(2 attempts\)"),
        ("prepare cuda", "crash", r"crashed \(SIGABRT\).*\(2 attempts\)"),
        ("read hang", "time limit", r"more than 12 s.*in the stage 'read'.*\(2 attempts\)"),
        ("prepare hang", "time limit", r"more than 12 s.*'prepare'.*\(2 attempts\)"),
        ("prepare memory 40", "memory limit", r"took .* GiB, more than .* 1\.5 GiB"),
        ("prepare raise", "reader", r"preparation step 'fate': 'vendor'"),
        ("read raise", "reader", r"can not be read as npz: KeyError: 'vendor'"),
    ],
)
def test_a_scan_that_breaks_its_worker_is_given_up_with_the_reason(
    scans, tmp_path, fate, kind, reason
):
    folder = scans(good=3, bad=fate)
    limits = Limits(12.0 if "hang" in fate else None, 1.5 if "memory" in fate else None)
    rows = batch(folder, tmp_path / "out", limits=limits)
    bad = rows.pop("bad")
    assert (bad["state"], bad["kind"]) == ("failed", kind)
    assert re.search(reason, bad["reason"]), bad["reason"]
    assert {row["state"] for row in rows.values()} == {"done"}
    if "segfault" in fate:
        assert "misbehave" in bad["trace"]  # where it was, by faulthandler


def test_a_worker_that_dies_once_is_forgiven(scans, tmp_path):
    rows = batch(scans(good=2, once="prepare kill-once"), tmp_path / "out", workers=2)
    assert {row["state"] for row in rows.values()} == {"done"}


def test_attempts_are_as_many_as_asked_for(scans, tmp_path):
    folder = scans(good=0, bad="prepare kill")
    rows = batch(folder, tmp_path / "out", policy=Policy(attempts=3))
    assert rows["bad"]["attempts"] == 3


def test_two_workers_share_the_scans(scans, tmp_path):
    slow = {f"s{i}": "prepare slow 1" for i in range(6)}
    rows = batch(scans(good=0, **slow), tmp_path / "out", workers=2)
    shares = Counter(row["worker"] for row in rows.values())
    assert len(shares) == 2
    assert min(shares.values()) >= 2


def test_kill_9_loses_the_scans_in_flight_at_most(scans, command, tmp_path):
    folder, out = scans(good=0), tmp_path / "out"
    for i in range(8):
        write_scan(folder / f"s{i}.toy", seed=i, fate="prepare slow 0.4")
    written: dict[Path, int] = {}
    for done in (1, 3, 5):
        process = command("--workers", "2")
        wait_for(lambda n=done: list(states(out).values()).count("done") >= n)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in (out / "scans").rglob("*.h5"):
            if "part" not in str(path):
                written.setdefault(path, path.stat().st_mtime_ns)
        # Its workers do not outlive it.
        wait_for(lambda: not workers_of(out), 20)
    assert len(written) >= 5
    assert command().wait(timeout=120) == 0
    assert list(states(out).values()) == ["done"] * 8
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert not [p for p in (out / "scans").iterdir() if p.name.endswith(".part")]


def workers_of(out: Path) -> list[int]:
    """Worker processes that write their log below a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "labrecon.batch.worker" in (process.info["cmdline"] or ()):
            try:
                files = [file.path for file in process.open_files()]
            except psutil.Error:
                continue
            if any(file.startswith(str(out)) for file in files):
                found.append(process.pid)
    return found


def test_workers_end_with_the_main_process_even_in_the_middle_of_work(scans, command, tmp_path):
    scans(good=0, a="prepare hang")
    process = command()
    wait_for(lambda: states(tmp_path / "out").get("a") == "running")
    wait_for(lambda: workers_of(tmp_path / "out"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    wait_for(lambda: not workers_of(tmp_path / "out"), 20)


def test_a_worker_that_dies_as_it_starts_is_started_again(scans, tmp_path):
    """The system may kill the one that takes the place of one that it has killed."""
    folder, out = scans(good=2, once="prepare kill-once"), tmp_path / "out"
    done = threading.Event()

    def kill():
        wait_for((folder / "once.killed").exists)
        begun = time.time()
        wait_for(lambda: [p for p in fresh(begun) if not os.kill(p.pid, signal.SIGKILL)])
        done.set()

    thread = threading.Thread(target=kill)
    thread.start()
    rows = batch(folder, out)
    thread.join()
    assert done.is_set()
    assert {row["state"] for row in rows.values()} == {"done"}


def fresh(since: float) -> list[psutil.Process]:
    """Workers of this process that were started after a time."""
    return [
        process
        for process in psutil.Process().children()
        if process.create_time() > since - 1 and "labrecon.batch.worker" in process.cmdline()
    ]


def test_workers_that_can_not_start_are_told(scans, tmp_path, monkeypatch):
    folder = scans(good=1)
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(5)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"before it could begin .*exit code 5"):
        batch(folder, tmp_path / "out")
    assert states(tmp_path / "out") == {"good_0": "pending"}


def test_what_a_killed_worker_had_begun_to_write_is_removed(scans, tmp_path):
    folder, out = scans(good=1), tmp_path / "out"
    partial = out / "scans" / ".bad.0123abcd.part"
    other = out / "scans" / ".bad.too.0123abcd.part"

    class Litter:
        def scan(self, row): ...

        def look(self, counts, running):
            if "bad" in running and not partial.exists():
                partial.mkdir(parents=True)
                other.mkdir(exist_ok=True)

        def say(self, text): ...

    write_scan(folder / "bad.toy", fate="prepare kill")
    means = Means(threads=1)
    reconstruct_batch(NAME, [folder / "*.toy"], out, means=means, spectators=[Litter()])
    assert not partial.exists()
    assert other.exists()


def test_a_scan_without_memory_is_tried_again_alone(scans, tmp_path):
    rows = batch(scans(good=1, a="prepare no-memory"), tmp_path / "out")
    assert (rows["a"]["state"], rows["a"]["attempts"]) == ("failed", 2)
    assert rows["good_0"]["attempts"] == 1


def test_why_memory_and_disk_ran_out_is_seen_through_the_chain():
    assert not failure(OutputError("x"))["disk_full"]
    full = OutputError("out can not be written: the disk is full")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert failure(full)["disk_full"]
    nested = ScanError("preparation step 'a': out")
    nested.__cause__ = MemoryError()
    assert failure(nested)["out_of_memory"]
