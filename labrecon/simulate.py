"""`labrecon simulate`: a file as the instrument would write it, to try readers and recipes on."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from labrecon.errors import OutputError, RecipeError
from labrecon.instrument import Instrument, Scan
from labrecon.plugins import Host
from labrecon.stages import readers_of

__all__ = ["simulate_file"]


def simulate_file(
    instrument: Instrument,
    path: Path,
    *,
    host: Host,
    seed: int = 0,
    geometry: Path | None = None,
    force: bool = False,
) -> Scan:
    """Simulate a scan of a sample object and write it in one of the instrument's formats.

    Args:
        instrument: one with a reader that has ``write(scan, path)``.
        path: of the file; its suffix picks the format.
        host: whose readers are asked, too.
        seed: of the object and the noise.
        geometry: JSON of the acquisition; by default the instrument's example.
        force: replace a file that is there.

    Raises:
        RecipeError: no reader can write such a file, or the geometry is wrong.
        OutputError: the file exists, or can not be written.
    """
    writer = _writer(instrument, path, host)
    known = instrument.example() if geometry is None else _geometry(instrument, geometry)
    if path.exists() and not force:
        raise OutputError(f"{path} exists; name another file, or use --force to replace it")
    scan = instrument.simulate(known, torch.Generator().manual_seed(seed))
    partial = path.with_name(f".{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.write(scan, partial)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path} can not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return scan


def _writer(instrument: Instrument, path: Path, host: Host) -> Any:
    readers = readers_of(instrument, host)
    writers = {name: reader for name, reader in readers.items() if hasattr(reader, "write")}
    if not writers:
        raise RecipeError(
            f"no reader of {instrument.name!r} has write(scan, path), so there is no file to "
            "simulate; `labrecon demo` simulates in memory"
        )
    for reader in writers.values():
        if getattr(reader, "suffix", None) == path.suffix:
            return reader
    told = ", ".join(f"{name} ({getattr(r, 'suffix', 'any')})" for name, r in writers.items())
    raise RecipeError(f"{path.name}: {instrument.name!r} writes {told}")


def _geometry(instrument: Instrument, path: Path) -> BaseModel:
    try:
        return instrument.Geometry.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} can not be read: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{path} is no geometry of {instrument.name!r}: {error}") from error
