"""Where the files of an earlier reconstruction are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labrecon.errors import RecipeError, ScanError
from labrecon.io.provenance import hash_file
from labrecon.reproduce.record import Record

__all__ = ["locate", "scan_among", "with_options"]


def locate(
    record: Record, renamed: Mapping[str, Path] | None = None, searched: Path | None = None
) -> dict[str, Path]:
    """The present path of each file that is read again, by its former one.

    Args:
        record: of the output.
        renamed: new paths of files or folders, by their old ones.
        searched: a folder in which files that are not at their place are looked for by SHA-256.

    Raises:
        ScanError: files are missing or changed; the message names each.
        RecipeError: there is no folder to search.
    """
    new = {Path(old): Path(path) for old, path in (renamed or {}).items()}
    used: set[Path] = set()
    found: dict[str, Path] = {}
    lost: list[dict[str, Any]] = []
    wrong: list[str] = []
    for entry in record.files:
        path = _renamed(Path(entry["path"]), new, used)
        if not path.is_file():
            lost.append(entry)
        elif hash_file(path) == entry["sha256"]:
            found[entry["path"]] = path
        elif searched is not None:
            lost.append(entry)
        else:
            wrong.append(f"{path} has changed: its SHA-256 is not what it was")
    if lost and searched is not None:
        found |= _by_hash(lost, searched)
    where = "" if searched is None else f", and nothing in {searched} has its SHA-256"
    wrong += [
        f"{entry['path']} is not there{where}" for entry in lost if entry["path"] not in found
    ]
    if wrong:
        wrong += [f"{old} has a new name, but was not read" for old in new if old not in used]
        told = "".join(f"\n  {line}" for line in wrong)
        raise ScanError(
            f"{record.folder} can not be made again from other files than those of then:{told}\n"
            "name files that were moved with --input OLD=NEW, or a folder in which they are with "
            "--inputs FOLDER"
        )
    return found


def _renamed(path: Path, new: Mapping[Path, Path], used: set[Path]) -> Path:
    for old in (path, *path.parents):
        if old in new:
            used.add(old)
            return new[old] / path.relative_to(old) if old != path else new[old]
    return path


def _by_hash(entries: list[dict[str, Any]], folder: Path) -> dict[str, Path]:
    """Files in a folder by what they hold; only those of a right size are read."""
    wanted = {entry["sha256"]: entry["path"] for entry in entries}
    sizes = {entry.get("bytes") for entry in entries}
    found: dict[str, Path] = {}
    for path in _files(folder):
        if len(found) == len(entries):
            break
        if None in sizes or path.stat().st_size in sizes:
            old = wanted.get(hash_file(path))
            if old is not None:
                found.setdefault(old, path)
    # A file that was read under two names is found once.
    for entry in entries:
        twin = wanted[entry["sha256"]]
        if twin in found:
            found.setdefault(entry["path"], found[twin])
    return found


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise RecipeError(f"there is no folder {folder} to look for the files in")
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def scan_among(record: Record, found: Mapping[str, Path]) -> Path:
    """The scan's present path, of a file or a folder.

    Raises:
        ScanError: the files of a folder lie apart now.
    """
    scan = record.scan
    if str(scan) in found:
        return found[str(scan)]
    places = set()
    for entry in record.told["inputs"]:
        old = Path(entry["path"])
        if old.is_relative_to(scan):
            inner = old.relative_to(scan).parts
            now = found[entry["path"]]
            together = now.parts[-len(inner) :] == inner
            places.add(Path(*now.parts[: -len(inner)]) if together else None)
    if len(places) == 1 and (place := places.pop()) is not None:
        return place
    raise ScanError(
        f"the files of the folder {scan} lie apart now, or have other names; bring them together, "
        f"and say --input {scan}=FOLDER"
    )


def with_options(recipe: Any, record: Record, found: Mapping[str, Path]) -> Any:
    """The recipe with the present paths of the files that its options name."""
    new = {e["option"]: str(found[e["path"]].absolute())
           for e in record.told.get("option_files", [])}  # fmt: skip

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v if k == "name" else replaced(v) for k, v in value.items()}
        if isinstance(value, list):
            return [replaced(item) for item in value]
        return new.get(value, value) if isinstance(value, str) else value

    return replaced(recipe)
