"""A batch as tables and pages show it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labrecon.batch.drift import find_drift
from labrecon.batch.lock import is_locked
from labrecon.batch.manifest import FILE, Manifest, now
from labrecon.batch.outliers import flag_outliers
from labrecon.errors import OutputError
from labrecon.io.atomic import write_file
from labrecon.report.gallery import failure_page, write_data, write_page

__all__ = ["Report", "batch_told", "rows_told", "status"]


def rows_told(manifest: Manifest, out: Path) -> list[dict[str, Any]]:
    """All scans, with flags where they differ from the others of the batch."""
    rows = [_told(row, out) for row in manifest.rows()]
    for old in (False, True):
        # What another recipe has made is no measure.
        alike = [row for row in rows if (row["stale"] == "recipe") == old]
        for row, flags in zip(alike, flag_outliers(alike), strict=True):
            row["flags"] = list(flags)
    return rows


def _told(row: Mapping[str, Any], out: Path) -> dict[str, Any]:
    known = row["told"] if row["state"] == "done" else {}
    output = row["output"]
    page = f"{output}/report.html" if output else None
    if row["state"] == "failed":
        page = f"failed/{row['name']}.html"
    picture = f"{output}/thumbnail.png" if output else None
    same = ("id", "name", "path", "state", "attempts", "kind", "trace", "stage")
    return {
        **{key: row[key] for key in same},
        # The path is beside it.
        "reason": row["reason"].removeprefix(f"{row['path']}: "),
        "seconds": row["seconds"],
        "timings": known.get("timings", {}),
        "started": row["started"],
        "finished": row["finished"],
        "output": output,
        "page": page,
        "thumbnail": picture if picture and (out / picture).exists() else None,
        "title": known.get("title", ""),
        "status": known.get("status", ""),
        "iterations": known.get("iterations"),
        "numbers": known.get("numbers", {}),
        "warnings": known.get("warnings", []),
        "worker": known.get("worker"),
        "worker_memory": known.get("worker_memory"),
        "first": known.get("first", False),
        "flags": [],
        "stale": row["stale"],
        "recipe": row["recipe"],
        # Files keep the time of their last change where they are copied with it.
        "acquired": row["seen"].get("changed", 0),
    }


def _watched(batch: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The batch with what drifts in it; an alarm is a message, too, the last one."""
    watched = find_drift(rows)
    alarms = [alarm for group in watched for alarm in group.alarms]
    messages = [*batch["messages"], *(f"{batch['updated']}: {alarm.text}" for alarm in alarms)]
    return {**batch, "messages": messages, "drift": [group.plain() for group in watched]}


def batch_told(manifest: Manifest, out: Path, state: str, pace: float | None) -> dict[str, Any]:
    """What holds for the whole batch.

    Args:
        manifest: of the batch.
        out: its folder.
        state: "running", "finished" or "interrupted".
        pace: seconds from one finished scan to the next.
    """
    facts, counts = manifest.facts(), manifest.counts()
    left = counts["pending"] + counts["running"]
    end = None
    if pace is not None and left and state == "running":
        at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=pace * left)
        end = at.isoformat(timespec="seconds")
    return {
        "title": out.name,
        "instrument": facts["setup"]["instrument"],
        "recipe": facts["setup"]["recipe"],
        "state": state,
        "started": facts["created"],
        "updated": now(),
        "counts": counts,
        "seconds_per_scan": pace,
        "estimated_end": end,
        "workers": facts["options"].get("workers"),
        "output": str(out),
        "labrecon": facts["labrecon"],
        "messages": facts["messages"],
    }


def status(out: Path) -> dict[str, Any]:
    """The batch and its scans, as ``labrecon status --json`` prints them.

    Raises:
        OutputError: the folder holds no batch.
    """
    if not out.is_dir():
        raise OutputError(f"{out} does not exist")
    with Manifest(out / FILE, write=False) as manifest:
        counts = manifest.counts()
        left = counts["pending"] + counts["running"]
        state = "running" if is_locked(out) else "interrupted" if left else "finished"
        told = batch_told(manifest, out, state, None)
        scans = rows_told(manifest, out)
        if state != "running":
            # Of a process that was killed.
            told["counts"] = {**counts, "pending": left, "running": 0}
            for scan in scans:
                scan["state"] = "pending" if scan["state"] == "running" else scan["state"]
        return {**_watched(told, scans), "scans": scans}


class Report:
    """Writes and refreshes the batch's ``index.html``.

    Args:
        out: folder of the batch.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._begun = datetime.datetime.now(datetime.UTC)
        self._done_before: int | None = None
        self._failures: dict[str, str] = {}
        self._pause = 3.0
        write_page(out)

    def __call__(self, manifest: Manifest, state: str) -> float:
        """Write what has changed; after how many seconds it is time for it again.

        The report of many scans takes its time: it gets a fiftieth of all.
        """
        begin = time.monotonic()
        rows = rows_told(manifest, self.out)
        batch = _watched(batch_told(manifest, self.out, state, self._pace(manifest)), rows)
        batch["refresh"] = self._pause
        for row in rows:
            self._failure(row, batch)
        write_data(self.out, batch, rows)
        self._pause = max(3.0, 50 * (time.monotonic() - begin))
        return self._pause

    def _pace(self, manifest: Manifest) -> float | None:
        counts = manifest.counts()
        over = counts["done"] + counts["failed"] + counts["skipped"]
        if self._done_before is None:
            self._done_before = over
        made = over - self._done_before
        passed = datetime.datetime.now(datetime.UTC) - self._begun
        return passed.total_seconds() / made if made else None

    def _failure(self, row: Mapping[str, Any], batch: Mapping[str, Any]) -> None:
        """The page of a failed scan; gone again when the scan is not failed any more."""
        name = row["name"]
        path = self.out / "failed" / f"{name}.html"
        if row["state"] != "failed":
            if self._failures.pop(name, None) is not None or path.exists():
                path.unlink(missing_ok=True)
        elif self._failures.get(name) != row["finished"]:
            write_file(path, failure_page(row, batch), force=True)
            self._failures[name] = row["finished"]
