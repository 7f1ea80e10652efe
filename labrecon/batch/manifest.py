"""The manifest of a batch: which scans there are and what became of each, in SQLite."""

from __future__ import annotations

import datetime
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from labrecon.errors import OutputError
from labrecon.io.plain import dumps

__all__ = ["FILE", "STATES", "Manifest", "now"]

FILE = "manifest.sqlite"
STATES = ("pending", "running", "done", "failed", "skipped")
#: Version of the tables; another one is refused.
FORMAT = 1

_TABLES = """
CREATE TABLE batch (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE scans (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL DEFAULT 'pending',
    attempts INTEGER NOT NULL DEFAULT 0,
    alone INTEGER NOT NULL DEFAULT 0,
    kind TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    trace TEXT NOT NULL DEFAULT '',
    stage TEXT NOT NULL DEFAULT '',
    added TEXT NOT NULL,
    started TEXT,
    finished TEXT,
    seconds REAL,
    inputs TEXT NOT NULL DEFAULT '[]',
    seen TEXT NOT NULL DEFAULT '{}',
    recipe TEXT NOT NULL DEFAULT '',
    stale TEXT NOT NULL DEFAULT '',
    output TEXT,
    told TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX by_state ON scans (state, alone, id);
"""
_JSON = ("inputs", "seen", "told")


def now() -> str:
    """The time in UTC, as it is written."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class Manifest:
    """A row for each scan; every change is on the disk before the call returns.

    A scan is ``pending``, ``running``, ``done``, ``failed`` or ``skipped``. What is running when
    the process is killed is found so by the next one, which puts it back (`recovered`).

    Args:
        path: the file.
        write: whether anything may be changed.

    Raises:
        OutputError: there is no manifest, it is damaged, or of another version.
    """

    def __init__(self, path: Path, *, write: bool = True) -> None:
        self.path = path
        if not path.is_file():
            raise OutputError(f"{path.parent} holds no batch: there is no {path.name}")
        try:
            # Reading needs the write mode, too, where a killed process left a journal behind.
            self._connection = sqlite3.connect(path, timeout=60.0, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA synchronous = FULL")
            if not write:
                self._connection.execute("PRAGMA query_only = ON")
            kept = self._connection.execute("SELECT value FROM batch WHERE key = 'format'")
            found = json.loads((kept.fetchone() or ["0"])[0])
            columns = self._connection.execute("PRAGMA table_info(scans)")
            self._columns = {column["name"] for column in columns}
        except sqlite3.Error as error:
            raise OutputError(
                f"{path} can not be read: {error}; move it away to begin the batch anew: what is "
                "done is found by its outputs"
            ) from error
        if found != FORMAT:
            raise OutputError(f"{path} is of format {found}, this labrecon writes {FORMAT}")

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, Any]) -> Self:
        """A new one; ``facts`` are what `facts` returns.

        The file is complete before it takes its name.
        """
        partial = path.with_name(f".{path.name}.part")
        try:
            partial.unlink(missing_ok=True)
            connection = sqlite3.connect(partial)
            with connection:
                connection.executescript(_TABLES)
                connection.executemany(
                    "INSERT INTO batch VALUES (?, ?)",
                    [(k, dumps(v, None)) for k, v in {**facts, "format": FORMAT}.items()],
                )
            connection.close()
            partial.replace(path)
        except (OSError, sqlite3.Error) as error:
            raise OutputError(f"{path} can not be written: {error}") from error
        return cls(path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make several changes in one transaction."""
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # Where the disk is full, SQLite has taken it back already.
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")

    def _execute(self, command: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(command, values)
        except sqlite3.Error as error:
            raise OutputError(
                f"{self.path}: {error}; the same command goes on with the batch once that is mended"
            ) from error

    # -- the batch -----------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What holds for all scans: instrument, recipe, patterns, …."""
        rows = self._execute("SELECT key, value FROM batch").fetchall()
        return {row["key"]: json.loads(row["value"]) for row in rows}

    def state_fact(self, **facts: Any) -> None:
        """Write facts of the batch."""
        with self.together():
            for key, value in facts.items():
                told = (key, dumps(value, None))
                self._execute("INSERT OR REPLACE INTO batch VALUES (?, ?)", told)

    # -- scans ---------------------------------------------------------------------------------

    def add(self, scans: Iterable[tuple[Path, str]]) -> int:
        """Add scans by path and name, as pending; those that are there are left alone."""
        added = now()
        with self.together():
            before = self._connection.total_changes
            for path, name in scans:
                self._execute(
                    "INSERT OR IGNORE INTO scans (path, name, added) VALUES (?, ?, ?)",
                    (str(path), name, added),
                )
            return self._connection.total_changes - before

    def rows(self, state: str | None = None) -> list[dict[str, Any]]:
        """All scans, or those in a state, in the order in which they were added."""
        where, values = ("", ()) if state is None else ("WHERE state = ?", (state,))
        found = self._execute(f"SELECT * FROM scans {where} ORDER BY id", values)
        return [_read(row) for row in found]

    def row(self, scan: int) -> dict[str, Any]:
        """One scan."""
        found = self._execute("SELECT * FROM scans WHERE id = ?", (scan,)).fetchone()
        return _read(found)

    def known(self) -> dict[str, str]:
        """Names by path."""
        found = self._execute("SELECT path, name FROM scans")
        return {row["path"]: row["name"] for row in found}

    def counts(self) -> dict[str, int]:
        """How many scans there are in each state."""
        found = self._execute("SELECT state, COUNT(*) AS n FROM scans GROUP BY state")
        told = {row["state"]: row["n"] for row in found}
        return {state: told.get(state, 0) for state in STATES}

    def waiting(self, limit: int = 1, *, without: Sequence[int] = ()) -> list[dict[str, Any]]:
        """The next pending scans; those that must be alone come last."""
        marks = ",".join("?" * len(without))
        found = self._execute(
            f"SELECT * FROM scans WHERE state = 'pending' AND id NOT IN ({marks}) "
            "ORDER BY alone, id LIMIT ?",
            (*without, limit),
        )
        return [_read(row) for row in found]

    def change(self, scan: int, **columns: Any) -> None:
        """Write columns of one scan."""
        unknown = set(columns) - self._columns
        if unknown:
            raise ValueError(f"the manifest has no columns {sorted(unknown)}")
        values = [dumps(v, None) if k in _JSON else v for k, v in columns.items()]
        sets = ", ".join(f"{key} = ?" for key in columns)
        self._execute(f"UPDATE scans SET {sets} WHERE id = ?", (*values, scan))

    def put_back(self, scan: int, **columns: Any) -> None:
        """Make a scan pending again; what was said of its failure is forgotten."""
        cleared = {"kind": "", "reason": "", "trace": "", "stage": "", "seconds": None}
        blank = {"finished": None, "started": None, "state": "pending"}
        self.change(scan, **{**cleared, **blank, **columns})


def _read(row: sqlite3.Row) -> dict[str, Any]:
    return {
        key: json.loads(row[key]) if key in _JSON else row[key]
        for key in row.keys()  # noqa: SIM118 - a Row iterates over its values
    }
