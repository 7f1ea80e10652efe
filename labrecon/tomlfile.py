"""TOML with line numbers: read it, override parts of it, say where a key stands."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labrecon.errors import RecipeError

Key = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_ASSIGNMENT = re.compile(r"^\s*([A-Za-z0-9_\-.\"' ]+?)\s*=")
_MULTILINE = re.compile(r'"""|\'\'\'')


@dataclass(frozen=True)
class Document:
    """Nested values, and where each of them was written.

    Attributes:
        name: what messages call it: a file name, or "recipe 'recon' of 'ct'".
        values: the tables and values.
        lines: line number of each key, for a file.
        overrides: the text of the command-line override that set a key.
    """

    name: str
    values: dict[str, Any]
    lines: Mapping[Key, int] = field(default_factory=dict)
    overrides: Mapping[Key, str] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """Where a key, or the nearest thing around it, was written."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.overrides:
                return f"--set {self.overrides[key[:end]]}"
            if key[:end] in self.lines:
                return f"{self.name}, line {self.lines[key[:end]]}"
        return self.name


def read(path: Path) -> Document:
    """Parse a TOML file.

    Raises:
        RecipeError: it can not be read, or is not TOML; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"the recipe {path} can not be read: {error}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error
    return Document(str(path), values, key_lines(text))


def key_lines(text: str) -> dict[Key, int]:
    """The line of each table header and key; keys of an inline table stand on its line."""
    lines: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    table: Key = ()
    quoted = False
    for number, line in enumerate(text.splitlines(), start=1):
        inside, quoted = quoted, quoted ^ (len(_MULTILINE.findall(line)) % 2 == 1)
        if inside:
            continue
        if header := _HEADER.match(line):
            table = _numbered(_split(header[2]), counts, starts=header[1] == "[[")
            lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            lines[(*table, *_split(assignment[1]))] = number
    return lines


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _numbered(names: tuple[str, ...], counts: dict[Key, int], *, starts: bool) -> Key:
    """The path of a header, with the index of each array of tables on the way."""
    path: Key = ()
    for position, name in enumerate(names):
        path = (*path, name)
        if starts and position == len(names) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def override(document: Document, assignments: Iterable[str]) -> Document:
    """The document with dotted assignments applied: ``solver.iterations=50``.

    A value is read as TOML, and as a plain string where it is not TOML. An entry of a list is
    addressed by its number or by its ``step`` or ``title``: ``prepare.subset.every=4``.

    Raises:
        RecipeError: an assignment has no ``=`` or leads into something that is not a table.
    """
    values = copy.deepcopy(document.values)
    texts = dict(document.overrides)
    for text in assignments:
        dotted, equals, literal = text.partition("=")
        if not equals or not dotted.strip():
            raise RecipeError(f"--set {text}: expected key=value, as in solver.iterations=50")
        key = _assign(values, _split(dotted), _value(literal.strip()), text)
        texts[key] = text
    return Document(document.name, values, document.lines, texts)


def _value(literal: str) -> Any:
    try:
        return tomllib.loads(f"value = {literal}")["value"]
    except tomllib.TOMLDecodeError:
        return literal


def _assign(values: dict[str, Any], names: tuple[str, ...], value: Any, text: str) -> Key:
    here: Any = values
    key: Key = ()
    for name in names[:-1]:
        if isinstance(here, list):
            index = _entry(here, name, text)
            key, here = (*key, index), here[index]
        else:
            key, here = (*key, name), here.setdefault(name, {})
        if not isinstance(here, dict | list):
            raise RecipeError(f"--set {text}: {'.'.join(map(str, key))} is not a table")
    last = _entry(here, names[-1], text) if isinstance(here, list) else names[-1]
    here[last] = value
    return (*key, last)


def _entry(entries: list[Any], name: str, text: str) -> int:
    names = [str(entry.get("step", entry.get("title"))) for entry in entries]
    if name in names:
        return names.index(name)
    if name.isdigit() and int(name) < len(entries):
        return int(name)
    raise RecipeError(f"--set {text}: no entry {name!r}; there are {', '.join(names) or 'none'}")
