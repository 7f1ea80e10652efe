"""What tests of batches ask again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labrecon.batch.manifest import FILE, Manifest


def wait_for(condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def states(out: Path) -> dict[str, str]:
    if not (out / FILE).exists():
        return {}
    with Manifest(out / FILE, write=False) as manifest:
        return {row["name"]: row["state"] for row in manifest.rows()}
