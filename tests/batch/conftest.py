"""Batches of toy scans, as workers find them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fragile_toy import NAME, write_scan

TESTS = Path(__file__).parents[1]
Folder = Callable[..., Path]


@pytest.fixture
def worker_path(monkeypatch) -> None:
    """Worker processes find the toy instrument."""
    told = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TESTS), told])))


@pytest.fixture
def scans(tmp_path, worker_path) -> Folder:
    """Writes good scans and those with a fate into a folder."""

    def write(good: int = 2, **fates: str) -> Path:
        folder = tmp_path / "scans"
        for i in range(good):
            write_scan(folder / f"good_{i}.toy", seed=i)
        for name, fate in fates.items():
            write_scan(folder / f"{name}.toy", fate=fate)
        return folder

    return write


@pytest.fixture
def command(tmp_path, worker_path):
    """Starts ``labrecon recon`` on the folder in a process of its own."""

    def start(*options: str) -> subprocess.Popen:
        words = ["recon", NAME, str(tmp_path / "scans" / "*.toy"), "-o", str(tmp_path / "out")]
        with (tmp_path / "told.txt").open("a") as told:
            started.append(
                subprocess.Popen(
                    [Path(sys.executable).with_name("labrecon"), *words, "--threads=1", *options],
                    stdout=told,
                    stderr=told,
                    start_new_session=True,
                )
            )
        return started[-1]

    started: list[subprocess.Popen] = []
    yield start
    for process in started:
        process.kill()
        process.wait()
