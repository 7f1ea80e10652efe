"""What made a result: versions, inputs, recipe, geometry, device, timings."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import labrecon
from labrecon.io.plain import plain
from labrecon.plugins import Host

__all__ = ["collect", "hash_file", "hash_inputs"]


def hash_file(path: Path) -> str:
    """SHA-256 of a file, as ``sha256sum`` prints it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_inputs(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Path, size and SHA-256 of each input file; a folder stands for the files in it."""
    files: list[Path] = []
    for path in paths:
        files += sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    return [
        {"path": str(f.absolute()), "bytes": f.stat().st_size, "sha256": hash_file(f)}
        for f in files
    ]


def collect(
    *,
    host: Host,
    inputs: list[dict[str, Any]],
    device: torch.device,
    timings: Mapping[str, float],
    **told: Any,
) -> dict[str, Any]:
    """Everything needed to say, and to repeat, how a result was made.

    Args:
        host: for the names and versions of the plugins.
        inputs: of `hash_inputs`.
        device: where it was computed.
        timings: seconds per stage.
        **told: recipe, geometry, steps, seed, status and whatever else belongs to it.
    """
    record = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": versions(host),
        "machine": {
            "platform": platform.platform(),
            "host": platform.node(),
            "processors": os.cpu_count(),
            "device": _device_name(device),
            "threads": torch.get_num_threads(),
        },
        "inputs": inputs,
        "timings_seconds": {name: round(seconds, 6) for name, seconds in timings.items()},
        **told,
    }
    made: dict[str, Any] = plain(record)
    return made


def versions(host: Host) -> dict[str, Any]:
    """Versions of labrecon, Python, torch, numpy and every plugin that is ready."""
    return {
        "labrecon": labrecon.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "plugins": {
            name: f"{report.distribution} {report.version}".strip()
            for name, report in host.reports.items()
            if report.status == "ready"
        },
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.processor() or platform.machine()})"
