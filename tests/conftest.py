"""Fixtures and marks that all tests share."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker per core; torch reads it as it is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

# Tests patch labrecon.plugins.host: those who import it by name do so before.
import labrecon.commands  # noqa: F401

ROOT = Path(__file__).parents[1]
pytest_plugins = ["toy_fixtures"]


class OnceAModule(LoadScopeScheduling):
    """What a module makes once, such as a training, is not to be made by each worker."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, _ = nodeid.partition("::")
        return file if _shares(file) else nodeid


@functools.cache
def _shares(file: str) -> bool:
    return 'scope="module"' in (ROOT / file).read_text(encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OnceAModule:
    return OnceAModule(config, log)


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
