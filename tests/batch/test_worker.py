"""What a worker does with a scan, in this process."""

from __future__ import annotations

import gc
import queue
import threading
import weakref

from fragile_toy import NAME, write_scan

from labrecon import recon
from labrecon.batch.tasks import Setup
from labrecon.batch.worker import _Line
from labrecon.job import assemble_job


def test_nothing_of_a_scan_is_held_when_it_is_done(tmp_path, monkeypatch):
    """The next one may need all the memory there is."""
    held = []
    compute = recon.compute

    def watched(job, scan, inputs):
        outcomes = compute(job, scan, inputs)
        parts = (scan.data, outcomes[0].solution.x, outcomes[0].predicted)
        held.extend(weakref.ref(part) for part in parts)
        return outcomes

    monkeypatch.setattr(recon, "compute", watched)
    done = threading.Event()
    told = []

    def say(message):
        told.append(message)
        if message.get("event") in ("done", "failed"):
            done.set()

    write_scan(tmp_path / "a.toy")
    recipe = assemble_job(NAME, recipe="recon").recipe.plain()
    line = _Line(Setup(NAME, recipe, device="cpu").plain(), say)
    lines: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=line.serve, args=(lines,), daemon=True).start()
    task = {
        "scan": 1,
        "path": str(tmp_path / "a.toy"),
        "out": str(tmp_path / "out"),
        "alone": False,
    }
    lines.put({"scan": task})
    assert done.wait(60)
    assert told[-1]["event"] == "done" or told[-1]["told"]["stage"] == ""
    threading.Event().wait(0.3)
    gc.collect()
    assert len(held) == 3
    assert [one for one in held if one() is not None] == []
