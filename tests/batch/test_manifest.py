"""The manifest: nothing is lost, nothing is there twice."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from labrecon.batch.lock import is_locked, locked
from labrecon.batch.manifest import FILE, Manifest
from labrecon.errors import OutputError


@pytest.fixture
def manifest(tmp_path):
    made = Manifest.create(tmp_path / FILE, {"root": "/scans", "messages": []})
    made.add([(Path(f"/scans/{i}.h5"), str(i)) for i in range(4)])
    yield made
    made.close()


def test_a_scan_is_added_once(manifest):
    assert manifest.add([(Path("/scans/3.h5"), "3"), (Path("/scans/4.h5"), "4")]) == 1
    assert [row["name"] for row in manifest.rows()] == ["0", "1", "2", "3", "4"]
    assert manifest.counts() == {
        "pending": 5,
        "running": 0,
        "done": 0,
        "failed": 0,
        "skipped": 0,
    }


def test_what_is_written_is_read_by_another_process(manifest, tmp_path):
    manifest.change(2, state="done", told={"numbers": {"χ²": 1.5}}, inputs=[{"path": "a"}])
    with Manifest(tmp_path / FILE, write=False) as reader:
        row = reader.row(2)
        assert row["told"]["numbers"]["χ²"] == 1.5
        assert row["inputs"] == [{"path": "a"}]
        with pytest.raises(OutputError, match="readonly"):
            reader.change(2, state="failed")


def test_scans_that_must_be_alone_come_last(manifest):
    manifest.put_back(1, alone=1)
    assert [row["id"] for row in manifest.waiting(9)] == [2, 3, 4, 1]
    assert [row["id"] for row in manifest.waiting(9, without=[2, 1])] == [3, 4]


def test_what_was_said_of_a_failure_is_forgotten(manifest):
    manifest.change(1, state="failed", kind="crash", reason="SIGSEGV", trace="…", attempts=2)
    manifest.put_back(1)
    row = manifest.row(1)
    assert (row["state"], row["kind"], row["reason"], row["trace"]) == ("pending", "", "", "")
    assert row["attempts"] == 2


def test_a_transaction_is_whole_or_not_at_all(manifest):
    def broken():
        with manifest.together():
            manifest.change(1, state="done")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert manifest.row(1)["state"] == "pending"


def test_unknown_columns_are_refused(manifest):
    with pytest.raises(ValueError, match="no columns"):
        manifest.change(1, colour="red")


def test_no_manifest_a_damaged_one_and_one_of_another_version_are_told(tmp_path):
    with pytest.raises(OutputError, match="holds no batch"):
        Manifest(tmp_path / FILE)
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(OutputError, match="can not be read"):
        Manifest(tmp_path / FILE)
    (tmp_path / FILE).unlink()
    Manifest.create(tmp_path / FILE, {}).close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE batch SET value = '99' WHERE key = 'format'")
    connection.close()
    with pytest.raises(OutputError, match="format 99"):
        Manifest(tmp_path / FILE)


def test_one_process_at_a_time(tmp_path):
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with (
            pytest.raises(OutputError, match=r"another process works on .*process \d+"),
            locked(tmp_path),
        ):
            pass
    assert not is_locked(tmp_path)
