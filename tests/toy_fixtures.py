"""Fixtures around the toy instrument."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from toy_instrument import ENTRY_POINTS, plugin, write_toy

from labrecon.plugins import Host

HERE = Path(__file__).parent


@pytest.fixture
def toy_host() -> Host:
    """A host with labrecon's own plugins and the toy instrument."""
    host = Host(discover=False)
    host.add("toy", plugin)
    return host


@pytest.fixture
def toy_scan(tmp_path) -> Path:
    """A scan in the toy format."""
    return write_toy(tmp_path / "scan.toy")


@pytest.fixture
def toy_environment(tmp_path) -> dict[str, str]:
    """Environment of a subprocess in which the toy is an installed plugin."""
    site = tmp_path / "site"
    info = site / "toy_instrument-0.1.dist-info"
    info.mkdir(parents=True)
    shutil.copy(HERE / "toy_instrument.py", site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-instrument\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    paths = [str(site), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture
def labrecon_command() -> list[str]:
    """The command line as a subprocess, installed or not."""
    return [sys.executable, "-c", "from labrecon.cli import main; main()"]
