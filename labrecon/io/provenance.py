"""What made a result: versions, inputs, recipe, geometry, device, timings."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import labrecon
from labrecon.io.plain import plain
from labrecon.plugins import Host

__all__ = [
    "collect",
    "hash_file",
    "hash_inputs",
    "hash_options",
    "hash_slabs",
    "hash_volume",
    "versions",
]

#: Bytes of a volume that are hashed at once: what need not be copied is not.
_SLAB = 2**26


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


def hash_volume(volume: Tensor) -> str:
    """SHA-256 of a volume's content, in whatever format it is stored.

    That of the dtype and the shape in brackets (``"float32 [3, 24, 24]"``), followed by the values
    in C order, little-endian.
    """
    rows = volume.detach() if volume.ndim else volume.detach()[None]
    bytes_of_row = rows.numel() * rows.element_size() // max(1, len(rows))
    slabs = rows.split(max(1, _SLAB // max(1, bytes_of_row)))
    return hash_slabs(slabs, volume.dtype, volume.shape)


def hash_slabs(slabs: Iterable[Tensor], dtype: torch.dtype, shape: Sequence[int]) -> str:
    """`hash_volume` of a volume that comes in parts along its first axis."""
    name = str(dtype).removeprefix("torch.")
    digest = hashlib.sha256(f"{name} {list(shape)}".encode())
    for slab in slabs:
        held = slab.cpu().resolve_conj().resolve_neg().contiguous().view(torch.uint8)
        digest.update(held.numpy().data)
    return digest.hexdigest()


def hash_options(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The files that options of a recipe name, such as a mask, as `hash_inputs` tells them.

    An option counts where it has a suffix and there is such a file; ``option`` is its text.
    """
    texts = {text for key, text in _texts(recipe) if key != "name" and Path(text).suffix}
    found = []
    for text in sorted(texts):
        # One that is no path, or is gone, must not cost the volume.
        with suppress(OSError, ValueError):
            if Path(text).is_file():
                found.append({"option": text, **hash_inputs([Path(text)])[0]})
    return found


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, key)


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
            "vector_unit": torch.backends.cpu.get_cpu_capability(),
            "float32_matmul": torch.get_float32_matmul_precision(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
        "inputs": inputs,
        "timings_seconds": {name: round(seconds, 6) for name, seconds in timings.items()},
        **told,
    }
    made: dict[str, Any] = plain(record)
    return made


def versions(host: Host) -> dict[str, Any]:
    """Versions of labrecon, Python, torch, NumPy, each plugin that is ready, and what is loaded."""
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
        "packages": _loaded(),
    }


def _loaded() -> dict[str, str]:
    """Versions of the packages that this process has loaded, as they state them."""
    found = {}
    for name, module in sorted(sys.modules.items()):
        # Not getattr: some modules warn where an old attribute is asked for.
        version = getattr(module, "__dict__", {}).get("__version__")
        if "." not in name and name not in sys.stdlib_module_names and isinstance(version, str):
            found[name] = version
    return found


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.processor() or platform.machine()})"
