"""From files to what the operator predicts: which reader, the scan, its preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from labrecon.errors import LabreconError, RecipeError, ScanError
from labrecon.instrument import Instrument, Reader, ReaderError, Scan
from labrecon.plan import Plan
from labrecon.plugins import Host, resolve

__all__ = ["find_reader", "prepare", "read", "read_geometry", "readers_of"]


def readers_of(instrument: Instrument, host: Host) -> dict[str, Reader]:
    """The instrument's readers and those that other plugins add as ``"<instrument>/<format>"``."""
    readers = {name: _made(reader) for name, reader in instrument.readers.items()}
    prefix = f"{instrument.name}/"
    for name in host.names("readers"):
        if name.startswith(prefix):
            readers[name.removeprefix(prefix)] = _made(host.get("readers", name))
    return readers


def _made(reader: Any) -> Reader:
    found = resolve(reader)
    made: Reader = found() if isinstance(found, type) else found
    return made


def find_reader(instrument: Instrument, path: Path, host: Host) -> tuple[str, Reader]:
    """The first reader of the instrument that recognises a file.

    Raises:
        ScanError: there is no such file, or nobody recognises it.
    """
    if not path.exists():
        raise ScanError(f"{path} does not exist")
    if path.is_file() and path.stat().st_size == 0:
        raise ScanError(f"{path} is empty: nothing has been written to it yet, or it was lost")
    readers = readers_of(instrument, host)
    for name, reader in readers.items():
        if reader.matches(path):
            return name, reader
    told = f"none of the formats that {instrument.name!r} reads ({', '.join(readers) or 'none'})"
    if path.is_dir():
        raise ScanError(
            f"{path} is a folder, and {told}; for the scans in it give a pattern in quotes, such "
            f"as '{path}/**/*.h5'"
        )
    raise ScanError(f"{path} is {told}, or it is damaged at its head")


def read_geometry(instrument: Instrument, path: Path) -> BaseModel:
    """The geometry in a JSON file.

    Raises:
        RecipeError: it can not be read, or is no geometry of the instrument.
    """
    try:
        return instrument.Geometry.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} can not be read: {error}") from error
    except ValidationError as error:
        told = [
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()[:3]
        ]
        more = f"; and {error.error_count() - 3} more" if error.error_count() > 3 else ""
        raise RecipeError(
            f"{path} is no geometry of {instrument.name!r} ({'; '.join(told)}{more}); `labrecon "
            f"describe {instrument.name}` lists its fields"
        ) from error


def read(instrument: Instrument, path: Path, host: Host) -> Scan:
    """The scan in a file.

    Raises:
        ScanError: see `find_reader`; or the file is truncated, inconsistent or incomplete.
    """
    name, reader = find_reader(instrument, path, host)
    try:
        scan = reader.read(path)
    except ReaderError as error:
        raise ScanError(f"{path}: {error}") from error
    except Exception as error:
        # A reader is a plugin's code, and a damaged file can break any library in its own way.
        raise ScanError(
            f"{path} can not be read as {name}: {type(error).__name__}: {error}"
        ) from error
    return scan.replace(provenance={"reader": name, **scan.provenance})


def prepare(instrument: Instrument, scan: Scan, plan: Plan) -> Scan:
    """The scan after the plan's preparation steps, as the instrument's operator predicts it.

    Raises:
        ScanError: a step refuses the data; the message names it.
    """
    for name, function, options in plan.steps:
        try:
            scan = function(scan, **options)
        except LabreconError:
            raise
        except Exception as error:
            told = str(error) or type(error).__name__
            raise ScanError(f"preparation step {name!r}: {told}") from error
    try:
        instrument.check(scan)
    except ReaderError as error:
        raise ScanError(str(error)) from error
    return scan
