"""Tests of the CT plugin leave the user's matrix cache alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One folder for all tests in place of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABRECON_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of one test, not yet made."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LABRECON_CACHE", str(folder))
    return folder
