"""How a reconstruction was called, so that it can be called again."""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from labrecon.instrument import Instrument

__all__ = ["called", "path_of"]


def called(
    asked: str, instrument: Instrument, source: str | None, *, other_geometry: bool
) -> dict[str, Any]:
    """What provenance says of the call.

    ``code`` tells the instrument's package with a hash of its Python files: a lab changes those
    more often than the version.

    Args:
        asked: the instrument's registered name, or its ``"module:Class"``.
        instrument: what it led to.
        source: the scan's file; None for one in memory.
        other_geometry: whether a model was used on a geometry that it was not trained for.
    """
    return {
        "instrument": asked,
        "code": _code(type(instrument).__module__),
        "scan": None if source is None else os.path.abspath(source),
        "folder": os.getcwd(),
        "other_geometry": other_geometry,
    }


def path_of(instrument: Instrument) -> str:
    """``"module:Class"`` of an instrument, by which another process finds it."""
    kind = type(instrument)
    return f"{kind.__module__}:{kind.__qualname__}"


@cache
def _code(module: str) -> dict[str, str] | None:
    """Where the package is from, and the SHA-256 of its files; None for a notebook's."""
    package = sys.modules.get(module.partition(".")[0])
    file = getattr(package, "__file__", None)
    if file is None or not Path(file).is_file():
        return None
    path = Path(file)
    files = [path]
    if path.name == "__init__.py":
        path = path.parent
        files = sorted(path.rglob("*.py"))
    digest = hashlib.sha256()
    for one in files:
        try:
            content = one.read_bytes()
        except OSError:  # it must not cost the volume
            return None
        digest.update(f"{one.relative_to(path.parent).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return {"path": str(path), "sha256": digest.hexdigest()}
