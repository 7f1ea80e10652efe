"""Which files a call opens, as Python's audit events tell."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["check_told", "opened_in"]

_told: list[set[str]] = []


def _hook(event: str, given: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(given[0], str | bytes | os.PathLike):
        for names in _told:
            names.add(os.fsdecode(given[0]))


# It can not be taken away again.
sys.addaudithook(_hook)


@contextlib.contextmanager
def opened_in(folder: Path) -> Iterator[set[Path]]:
    """The files below a folder that are opened meanwhile; filled at the end."""
    names: set[str] = set()
    found: set[Path] = set()
    _told.append(names)
    try:
        yield found
    finally:
        _told.remove(names)
        paths = {Path(name).absolute() for name in names}
        found |= {path for path in paths if path.is_relative_to(folder) and path.is_file()}


def check_told(reader: Any, path: Path, *names: str) -> None:
    """Assert that a scan's provenance lists the files that reading it opens, which are these."""
    with opened_in(path.parent) as opened:
        scan = reader.read(path)
    told = [Path(name) for name in scan.provenance["files"]]
    assert {file.name for file in told} == set(names)
    assert len(told) == len(names), "each once"
    assert told[0] == path
    assert opened == set(told)
