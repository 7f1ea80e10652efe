"""`labrecon simulate`: a file as the instrument would write it, to try readers and recipes on."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from labrecon.errors import OutputError, RecipeError
from labrecon.instrument import Instrument, ReaderError, Scan
from labrecon.misset import misset
from labrecon.plugins import Host
from labrecon.reading import read_geometry, readers_of

__all__ = ["simulate_file"]


def simulate_file(
    instrument: Instrument,
    path: Path,
    *,
    host: Host,
    seed: int = 0,
    geometry: Path | None = None,
    nuisances: Mapping[str, Sequence[float]] | None = None,
    force: bool = False,
) -> Scan:
    """Simulate a scan of a sample object and write it in one of the instrument's formats.

    Args:
        instrument: one with a reader that has ``write(scan, path)``.
        path: of the file; its suffix picks the format.
        host: whose readers are asked, too.
        seed: of the object and the noise.
        geometry: JSON of the acquisition; by default the instrument's example.
        nuisances: values of calibration unknowns that the simulated instrument has, and that the
            file, like that of a real one, does not tell.
        force: replace a file that is there.

    Raises:
        RecipeError: no reader can write such a file, the geometry is wrong or such as the operator
            does not take, or there is no such nuisance.
        OutputError: the file exists, or can not be written.
    """
    writer = _writer(instrument, path, host)
    known = instrument.example() if geometry is None else read_geometry(instrument, geometry)
    if path.exists() and not force:
        raise OutputError(f"{path} exists; name another file, or use --force to replace it")
    if nuisances:
        instrument = misset(instrument, nuisances)
    try:
        scan = instrument.simulate(known, torch.Generator().manual_seed(seed))
    except ValueError as error:
        if geometry is None:
            raise  # A geometry of the instrument's own: a defect.
        told = f"{geometry}: {instrument.name!r} can not simulate it: {error}"
        raise RecipeError(told) from error
    # A folder, since a format may have side files, which carry the file's own name.
    folder = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True)
        writer.write(scan, folder / path.name)
        _require_readable(writer, folder / path.name)
        files = sorted(folder.iterdir())
        taken = [file.name for file in files if (path.parent / file.name).exists()]
        if taken and not force:
            raise OutputError(f"{path.parent / taken[0]} exists; name another file, or use --force")
        for file in files:
            file.replace(path.parent / file.name)
    except OSError as error:
        raise OutputError(f"{path} can not be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return scan


def _require_readable(reader: Any, path: Path) -> None:
    """Raise unless the reader reads what it has just written."""
    try:
        if not reader.matches(path):
            raise ReaderError("it does not recognise it")
        reader.read(path)
    except Exception as error:
        raise OutputError(
            f"{type(reader).__name__} can not read what it wrote: {type(error).__name__}: {error}; "
            "`labrecon check` shows more"
        ) from error


def _writer(instrument: Instrument, path: Path, host: Host) -> Any:
    readers = readers_of(instrument, host)
    writers = {name: reader for name, reader in readers.items() if hasattr(reader, "write")}
    if not writers:
        raise RecipeError(
            f"no reader of {instrument.name!r} has write(scan, path), so there is no file to "
            "simulate; `labrecon demo` simulates in memory"
        )
    for reader in writers.values():
        suffix = getattr(reader, "suffix", "")
        if suffix and path.name.endswith(suffix):
            return reader
    told = ", ".join(f"{name} ({getattr(r, 'suffix', 'any')})" for name, r in writers.items())
    raise RecipeError(f"{path.name}: {instrument.name!r} writes {told}")
