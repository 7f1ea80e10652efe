"""Importing a plugin within a time, and what its package says of itself."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["imported_within", "is_installed", "licence_of", "pip_command"]


def imported_within(load: Callable[[], Any], seconds: float) -> Any:
    """What ``load`` returns; it runs in a thread, which is left behind if it takes too long.

    Raises:
        TimeoutError: with where it was at that moment.
    """
    answers: list[Any] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(load())
        except BaseException as error:
            raised.append(error)

    worker = threading.Thread(target=work, daemon=True, name="labrecon plugin import")
    worker.start()
    worker.join(seconds)
    if raised:
        raise raised[0]
    if answers:
        return answers[0]
    frame = sys._current_frames().get(worker.ident or 0)
    stack = traceback.extract_stack(frame) if frame else []
    where = next((f"{f.filename}:{f.lineno}" for f in reversed(stack)), "outside Python")
    raise TimeoutError(
        f"its import takes more than {seconds:g} s, at {where}; LABRECON_PLUGIN_TIMEOUT allows more"
    )


def licence_of(distribution: importlib.metadata.Distribution | None) -> str:
    """The licence that a package states, or nothing."""
    if distribution is None:
        return ""

    def told(key: str) -> list[str]:
        return [str(value) for value in distribution.metadata.get_all(key) or ()]

    classified = [c.rpartition(" :: ")[2] for c in told("Classifier") if c.startswith("License")]
    stated = [*told("License-Expression"), *told("License"), *classified]
    return stated[0].partition("\n")[0] if stated else ""


def pip_command(module: str, distribution: importlib.metadata.Distribution | None) -> str:
    """The command that installs what provides a module, as far as the metadata tell."""
    top = module.partition(".")[0].lower().replace("_", "-")
    for requirement in (distribution.requires or ()) if distribution else ():
        package = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        if package == top or package.startswith(f"{top}-"):
            extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
            if extra and distribution:
                return f'pip install "{distribution.name}[{extra[1]}]"'
            return f'pip install "{package}"'
    return f"pip install the package that provides {module!r}"


def is_installed(module: str) -> bool:
    """Whether a module can be imported, told without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent of it is missing
        return False
