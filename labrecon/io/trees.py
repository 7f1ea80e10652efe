"""Nested values as a JSON text and tensors beside it, and back. Nothing in them can run code."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

__all__ = ["join", "split"]


def split(value: Any) -> tuple[str, dict[str, Tensor]]:
    """Dicts, lists, tuples, numbers, strings, None and tensors as a text and the tensors it names.

    Complex tensors are stored as pairs: safetensors knows none in double precision.

    Raises:
        TypeError: something else is in it.
    """
    tensors: dict[str, Tensor] = {}

    def told(part: Any) -> Any:
        if isinstance(part, Tensor):
            name = str(len(tensors))
            part = part.detach().cpu()
            pair = part.is_complex()
            # Views, and two names of one tensor, need storage of their own.
            tensors[name] = (torch.view_as_real(part.resolve_conj()) if pair else part).clone(
                memory_format=torch.contiguous_format
            )
            return {"pair" if pair else "tensor": name}
        if isinstance(part, dict):
            return {"dict": [[told(key), told(entry)] for key, entry in part.items()]}
        if isinstance(part, list | tuple):
            return {type(part).__name__: [told(entry) for entry in part]}
        if part is None or isinstance(part, bool | int | float | str):
            return part
        raise TypeError(f"a checkpoint can not hold a {type(part).__name__}")

    return json.dumps(told(value)), tensors


def join(text: str, tensors: dict[str, Tensor]) -> Any:
    """What `split` took apart.

    Raises:
        ValueError: the text is not one that `split` wrote.
        KeyError: a tensor that it names is missing.
    """

    def made(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        [(kind, held)] = part.items()
        if kind == "tensor":
            return tensors[held]
        if kind == "pair":
            return torch.view_as_complex(tensors[held])
        if kind == "dict":
            return {made(key): made(entry) for key, entry in held}
        entries = [made(entry) for entry in held]
        return tuple(entries) if kind == "tuple" else entries

    return made(json.loads(text))
