"""The run folder: made once, taken up again by the same command, refused by any other."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labrecon import tomlfile
from labrecon.errors import Interrupted, OutputError, RecipeError
from labrecon.io.atomic import explain, write_file, write_text
from labrecon.io.plain import brief, dumps

__all__ = ["RunFolder"]

RECIPE = "recipe.toml"
FACTS = "run.json"
FORMAT = "labrecon run 1"


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds ``recipe.toml``, ``run.json``, and what a training makes.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def done(self) -> bool:
        """Whether everything is made; the provenance is written last."""
        return (self.path / "provenance.json").is_file()

    def provenance(self) -> dict[str, Any]:
        """That of a run which is done.

        Raises:
            OutputError: it can not be read.
        """
        try:
            told: dict[str, Any] = json.loads((self.path / "provenance.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.path}/provenance.json is damaged: {error}") from error
        return told

    @classmethod
    def open(cls, path: Path, recipe: Mapping[str, Any], facts: Mapping[str, Any]) -> RunFolder:
        """A new run, or one of the same recipe and facts to go on with.

        Args:
            path: does not exist, is empty, or holds an earlier run.
            recipe: as resolved, plain values.
            facts: what else decides the result: instrument, geometry, a hash of the objects.

        Raises:
            OutputError: the folder is none of a training, or can not be made.
            RecipeError: the run was started with something else; the message names it.
        """
        facts = {"format": FORMAT, **json.loads(dumps(facts))}
        if (path / FACTS).is_file():
            cls._require_same(path, recipe, facts)
            return cls(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OutputError(
                f"{path} exists and is no run of labrecon: it is left alone; name another folder"
            )
        partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
        try:
            partial.mkdir(parents=True)
            write_text(partial / RECIPE, tomlfile.dumps(recipe))
            write_text(partial / FACTS, dumps(facts))
            if path.exists():
                path.rmdir()
            partial.rename(path)
        except OSError as error:
            raise OutputError(explain(path, error)) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cls(path)

    @staticmethod
    def _require_same(path: Path, recipe: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        try:
            old_recipe = tomllib.loads((path / RECIPE).read_text("utf-8"))
            old_facts = json.loads((path / FACTS).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"the run in {path} is damaged: {error}; name another") from error
        new_recipe = tomllib.loads(tomlfile.dumps(recipe))
        changed = [*_unequal(old_recipe, new_recipe, ""), *_unequal(old_facts, facts, "")]
        if changed:
            told = "".join(
                f"\n  {key}: was {_brief(old)}, is now {_brief(new)}" for key, old, new in changed
            )
            raise RecipeError(
                f"{path} holds a run that was started with something else:{told}\n"
                "give what it was started with, or name another folder"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder.

        Raises:
            OutputError: one does.
        """
        with (self.path / ".lock").open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                stream.seek(0)
                raise OutputError(
                    f"process {stream.read() or 'unknown'} is training in {self.path}; wait for it"
                ) from error
            stream.truncate(0)
            stream.write(str(os.getpid()))
            stream.flush()
            yield

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Locked; what stops the work is told with what to do about it.

        Raises:
            Interrupted: Ctrl-C.
            OutputError: another process is at work here, or a file can not be written.
        """
        with self.locked():
            try:
                yield
            except KeyboardInterrupt as error:
                raise Interrupted(
                    f"interrupted; the same command goes on with the run in {self.path}", self.path
                ) from error
            except OSError as error:
                told = explain(self.path, error)
                raise OutputError(f"{told}; then the same command goes on") from error

    def write(self, name: str, text: str) -> None:
        """Write a file of the run, whole or not at all.

        Raises:
            OutputError: the disk is full, or refuses otherwise.
        """
        write_file(self.path / name, text, force=True)


def _unequal(old: Any, new: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _unequal(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    elif old != new:
        yield key, old, new


def _brief(value: Any) -> str:
    return "not given" if value is None else brief(value)
