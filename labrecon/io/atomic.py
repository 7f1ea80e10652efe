"""Output folders that are whole or not there at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labrecon.errors import OutputError

__all__ = [
    "check_output",
    "explain",
    "is_labrecon_output",
    "new_folder",
    "take_name",
    "write_file",
    "write_text",
]


def is_labrecon_output(path: Path) -> bool:
    """Whether a folder is an earlier output, told by its ``provenance.json``."""
    try:
        return "labrecon" in json.loads((path / "provenance.json").read_text())["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_output(path: Path, *, force: bool = False) -> None:
    """Raise `OutputError` unless ``path`` is free, or an earlier output and ``force`` is on."""
    if not path.exists() and not path.is_symlink():
        return
    if not force:
        earlier = is_labrecon_output(path)
        hint = ", or use --force to replace this earlier one" if earlier else ""
        raise OutputError(f"{path} exists; name another output{hint}")
    if not is_labrecon_output(path):
        raise OutputError(
            f"{path} exists and is no output of labrecon: it is left alone, --force or not"
        )
    if others := _others(path):
        raise OutputError(
            f"{path} also holds {', '.join(others)}, which labrecon did not make: move that away, "
            "or name another output"
        )


def _others(path: Path) -> list[str]:
    """What somebody put into an earlier output."""
    made = json.loads((path / "provenance.json").read_text())
    own = {"provenance.json", "report.html", "thumbnail.png", str(made.get("volume"))}
    own |= set(map(str, made.get("files", ())))
    return sorted(file.name for file in path.iterdir() if file.name not in own)


@contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary sibling that becomes ``path`` when the block ends without an error.

    If the block fails, the sibling is removed and ``path`` is as it was.

    Raises:
        OutputError: ``path`` is taken, or the disk is full, read-only, or refuses otherwise.
    """
    check_output(path, force=force)
    token = secrets.token_hex(4)
    partial = path.parent / f".{path.name}.{token}.part"
    try:
        # An operating-system error counts as one of writing: whoever computes inside the block
        # turns those of reading into their own kind first.
        try:
            partial.mkdir(parents=True)
            yield partial
            take_name(partial, path, force=force)
        except OSError as error:
            raise OutputError(explain(path, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_file(path: Path, content: str | bytes, *, force: bool = False) -> None:
    """Write a single file, whole or not at all.

    Raises:
        OutputError: it exists and ``force`` is off, or it can not be written.
    """
    if path.exists() and not force:
        raise OutputError(f"{path} exists; name another file, or use --force to replace it")
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError as error:
        raise OutputError(explain(path, error)) from error
    finally:
        with suppress(OSError):  # where the folder is a file, for one
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a small file."""
    path.write_text(text, encoding="utf-8")


def take_name(partial: Path, path: Path, *, force: bool = False) -> None:
    """Give a finished folder its name; an earlier output goes where ``force`` is on.

    Raises:
        OutputError: ``path`` is taken.
        OSError: the disk is full, read-only, or refuses otherwise.
    """
    _sync(partial)
    old = path.parent / f".{path.name}.{secrets.token_hex(4)}.old"
    _rename(partial, path, old, force=force)


def _rename(partial: Path, path: Path, old: Path, *, force: bool) -> None:
    check_output(path, force=force)
    if path.exists():
        path.rename(old)
        try:
            partial.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(path)


def _sync(folder: Path) -> None:
    """Flush the files, so that a full disk or quota is met before the rename and not after."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def explain(path: Path, error: OSError) -> str:
    """Why a path can not be written, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(_existing(path)).free / 2**30
        return (
            f"{path} can not be written: the disk is full ({free:.2f} GiB free); nothing partial "
            "is left. Free some space or name an output on another disk"
        )
    return f"{path} can not be written: {error}; nothing partial is left"


def _existing(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())
