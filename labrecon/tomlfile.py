"""TOML with line numbers: read it, override parts of it, say where a key stands."""

from __future__ import annotations

import copy
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
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
        overrides: the words of the command line that set a key.
    """

    name: str
    values: dict[str, Any]
    lines: Mapping[Key, int] = field(default_factory=dict)
    overrides: Mapping[Key, str] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """Where a key, or the nearest thing around it, was written."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.overrides:
                return self.overrides[key[:end]]
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
        texts[key] = f"--set {text}"
    return Document(document.name, values, document.lines, texts)


def with_value(document: Document, key: tuple[str, ...], value: Any, told: str) -> Document:
    """The document with one value that was given by words of the command line of its own.

    Args:
        document: to change.
        key: of the value.
        value: of the key.
        told: the words, for messages: ``"--network unrolled"``.
    """
    values = copy.deepcopy(document.values)
    table = values
    for name in key[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{document.where(key)}: {name} is not a table")
    table[key[-1]] = value
    return Document(document.name, values, document.lines, {**document.overrides, key: told})


def dumps(values: Mapping[str, Any]) -> str:
    """Tables and values as TOML; `tomllib` reads the same values back.

    Raises:
        TypeError: a value that TOML does not have (None, dates).

    Example:
        >>> print(dumps({"seed": 1, "fit": {"epochs": 5}, "prepare": [{"step": "add"}]}))
        seed = 1
        <BLANKLINE>
        [fit]
        epochs = 5
        <BLANKLINE>
        [[prepare]]
        step = "add"
        <BLANKLINE>
    """
    return "\n".join(_lines(values, "")).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    tables = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    arrays = {k: v for k, v in table.items() if _is_array(v)}
    for key, value in table.items():
        if key not in tables and key not in arrays:
            yield f"{_key(key)} = {_literal(value)}"
    for key, value in tables.items():
        yield from ("", f"[{path}{_key(key)}]")
        yield from _lines(value, f"{path}{_key(key)}.")
    for key, entries in arrays.items():
        for entry in entries:
            yield from ("", f"[[{path}{_key(key)}]]")
            yield from _lines(entry, f"{path}{_key(key)}.")


def _is_array(value: Any) -> bool:
    tables = isinstance(value, list | tuple) and all(isinstance(v, Mapping) for v in value)
    return tables and len(value) > 0


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _literal(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_key(k)} = {_literal(v)}" for k, v in value.items())
        return f"{{{pairs}}}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bool | int | float | str):
        # TOML's strings, numbers and truths are written as those of JSON.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    raise TypeError(f"TOML has no {type(value).__name__}: {value!r}")


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
