"""Solver states in files: safetensors with the plain numbers as JSON beside the tensors."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from labrecon.solver import State

__all__ = ["StateError", "load_state", "save_state"]


class StateError(ValueError):
    """A file holds no state, or that of another solver."""


def save_state(path: Path, state: State) -> None:
    """Write a state; the file appears whole or not at all.

    Raises:
        OSError: the disk is full, or refuses otherwise.
    """
    numbers = {"state": type(state).__name__, "numbers": state.numbers()}
    # Two names of one tensor (x and its extrapolation at the start) need storage of their own.
    tensors = {n: t.detach().clone().contiguous() for n, t in state.tensors().items()}
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata={"labrecon": json.dumps(numbers)})
        Path(temporary).replace(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def load_state(path: Path, kind: type[State], device: torch.device | str = "cpu") -> State:
    """Read a state of the given kind (a solver's ``state_type``). Nothing in it can run code.

    Raises:
        StateError: truncated, no state at all, or that of another kind of solver.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})["labrecon"])
            # Cloned: memory mapped from a file is not aligned as torch's own, and vectorised sums
            # would round differently.
            tensors = {n: file.get_tensor(n).clone().to(device) for n in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise StateError(f"{path} holds no solver state, or is damaged: {error}") from error
    if told["state"] != kind.__name__:
        raise StateError(f"{path} holds a {told['state']}; a {kind.__name__} was expected")
    fields = {**told["numbers"], **tensors}
    for name in {n.split(".")[0] for n in tensors if "." in n}:
        members = sorted(n for n in tensors if n.startswith(f"{name}."))
        members.sort(key=lambda n: int(n.rpartition(".")[2]))
        fields[name] = tuple(fields.pop(n) for n in members)
    known = {f.name for f in dataclasses.fields(kind)}
    for field in dataclasses.fields(kind):
        if field.name not in fields and "tuple" in str(field.type):
            fields[field.name] = ()
    if set(fields) != known:
        raise StateError(
            f"{path} lacks or exceeds the fields of a {kind.__name__}: {set(fields) ^ known}"
        )
    return kind(**fields)
