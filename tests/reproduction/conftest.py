"""Reproductions leave the user's cache of CT matrices alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One folder for all tests in place of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABRECON_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
