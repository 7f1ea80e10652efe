"""Which files are the scans of a batch, and what their outputs are called."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from labrecon.errors import ScanError
from labrecon.instrument import Reader
from labrecon.io.atomic import is_labrecon_output

__all__ = [
    "common_root",
    "find",
    "fingerprint",
    "is_pattern",
    "names_for",
    "natural_key",
    "require_files",
]


def is_pattern(text: str) -> bool:
    """Whether a word stands for many files: it has wildcards, and no file is called so."""
    return glob.has_magic(text) and not os.path.lexists(text)


def natural_key(path: Path) -> tuple[Any, ...]:
    """Sorts ``scan_10`` behind ``scan_9``."""
    parts = re.split(r"(\d+)", str(path))
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts))


def common_root(patterns: Sequence[str]) -> Path:
    """The folder below which all matches are, now and later; outputs are named relative to it."""
    fixed = []
    for pattern in patterns:
        parts = Path(os.path.abspath(pattern)).parts
        wild = [i for i, part in enumerate(parts) if glob.has_magic(part)]
        literal = not is_pattern(pattern) or not wild
        fixed.append(Path(*parts[:-1]) if literal else Path(*parts[: wild[0]]))
    return Path(os.path.commonpath(fixed))


def find(
    patterns: Sequence[str], readers: Mapping[str, Reader], *, without: Path | None = None
) -> list[Path]:
    """The scans that patterns or paths stand for, in natural order, each once.

    A folder that only matches a wildcard is a scan where a reader says so; a file always is, so
    that one that nobody can read is reported. What labrecon has written is none.

    Args:
        patterns: paths, or patterns with ``*``, ``?``, ``[…]`` and ``**``.
        readers: of the instrument.
        without: the batch's own folder, which is left out.
    """
    found: dict[Path, None] = {}
    kept_out = None if without is None else without.absolute()
    outputs: dict[Path, bool] = {}
    for pattern in patterns:
        if not is_pattern(pattern):
            found[Path(os.path.abspath(pattern))] = None
            continue
        root = common_root([pattern])
        for text in glob.iglob(pattern, recursive=True):
            path = Path(os.path.abspath(text))
            if kept_out is not None and path.is_relative_to(kept_out):
                continue
            if _is_result(path, root, outputs):
                continue
            if path.is_dir() and not any(reader.matches(path) for reader in readers.values()):
                continue
            found[path] = None
    return sorted(found, key=natural_key)


def require_files(scans: Iterable[str]) -> None:
    """Raise `ScanError` on a scan that is no pattern and does not exist."""
    for scan in scans:
        if not is_pattern(scan) and not os.path.lexists(scan):
            raise ScanError(f"{scan} does not exist")


def _is_result(path: Path, root: Path, known: dict[Path, bool]) -> bool:
    """Whether a path lies in an output of labrecon, or in a batch, below ``root``."""
    for folder in path.parents:
        if folder not in known:
            known[folder] = (folder / "manifest.sqlite").exists() or is_labrecon_output(folder)
        if known[folder]:
            return True
        if folder == root:
            break
    return False


def names_for(paths: Iterable[Path], root: Path, taken: Iterable[str]) -> list[tuple[Path, str]]:
    """A name for each scan: its path below ``root`` without suffix, with it where that is taken.

    No name is the folder of another one, as each becomes a folder of its own.
    """
    used = set(taken)
    parents = {str(up) for name in used for up in PurePosixPath(name).parents}
    named = []
    for path in paths:
        # One that lies elsewhere has its whole path for a name.
        inside = path.relative_to(root if path.is_relative_to(root) else path.anchor)
        relative = PurePosixPath(*inside.parts)
        stem = relative.with_name(path.name if path.is_dir() else _without_suffix(path.name))
        flat = str(relative).replace("/", "_")
        numbered = (f"{flat}-{i}" for i in itertools.count(2))
        for name in itertools.chain((str(stem), str(relative), flat), numbered):
            above = {str(up) for up in PurePosixPath(name).parents}
            if name not in used and name not in parents and not above & used:
                used.add(name)
                parents |= above
                named.append((path, name))
                break
    return named


def _without_suffix(name: str) -> str:
    """Without the last suffix; ``.mrd.h5``, ``.ome.tif`` and ``.nii.gz`` are one."""
    stem, suffix = os.path.splitext(name)
    inner, double = os.path.splitext(stem)
    return inner if suffix and double in (".mrd", ".ome", ".nii") else stem


def fingerprint(paths: Iterable[Path]) -> dict[str, int]:
    """Bytes, and time of the last change, of files and of what is in folders; {} if one is gone."""
    files: list[Path] = []
    for path in paths:
        files += [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    try:
        stats = [file.stat() for file in files]
    except OSError:
        return {}
    return {
        "bytes": sum(stat.st_size for stat in stats),
        "changed": max((stat.st_mtime_ns for stat in stats), default=0),
    }
