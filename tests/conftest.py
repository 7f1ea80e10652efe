"""Fixtures and marks that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker per core; torch reads it as it is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

# Tests patch labrecon.plugins.host: those who import it by name do so before.
import labrecon.commands  # noqa: F401

ROOT = Path(__file__).parents[1]
pytest_plugins = ["toy_fixtures"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def lab_data() -> Path:
    """The folder of measured scans: ``$LABRECON_DATA``, or ``../shared/data``."""
    folder = Path(os.environ.get("LABRECON_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"the measured scans are not in {folder}; set LABRECON_DATA to their folder")
    return folder
