"""Many fields, a few at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["in_chunks"]


def in_chunks(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], chunk: int
) -> list[Tensor]:
    """``function(*inputs)`` of pieces of ``chunk`` along the first axis of every input.

    Where a gradient is recorded over several pieces, each is computed again in the backward pass
    instead of being kept.

    Raises:
        ValueError: a chunk below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunks of {chunk} fields, expected 1 or more")
    pieces = list(zip(*(value.split(chunk) for value in inputs), strict=True))
    if len(pieces) == 1 or not torch.is_grad_enabled():
        return [function(*piece) for piece in pieces]
    return [
        checkpoint(function, *piece, use_reentrant=False, preserve_rng_state=False)
        for piece in pieces
    ]
