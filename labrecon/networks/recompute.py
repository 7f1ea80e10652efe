"""Pieces of the graph that keep no tensors between the forward and the backward pass."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from labrecon.solver import State

__all__ = ["Pieces", "RecomputationError"]

R = TypeVar("R")


class RecomputationError(RuntimeError):
    """A layer did something else when it was computed again."""


class Pieces:
    """The pieces of one forward pass; at most one of them holds tensors at a time.

    What a piece needs for its derivatives is dropped when its forward ends; when backward asks for
    it, the piece is computed again and hands out what it made. The graph itself stays, so that
    gradients reach whatever the piece read: parameters, a design, data made from one.

    This differs from `torch.utils.checkpoint` in two ways. The state to compute from is asked for
    in backward, and need not have been stored. And a step may call autograd itself (the gradient
    of a nonlinear operator) without the piece being computed again for it.

    Layers must be deterministic: random numbers are not drawn again.

    Args:
        modules: whose parameters must not change before backward.
        device: of the data; its autocast is as it was when a piece is computed again.
    """

    def __init__(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        parameters = (p for module in modules for p in module.parameters())
        self.versions = [(p, p._version) for p in parameters if p.requires_grad]
        self.autocast = functools.partial(
            torch.autocast,
            device.type,
            dtype=torch.get_autocast_dtype(device.type),
            enabled=torch.is_autocast_enabled(device.type),
            cache_enabled=torch.is_autocast_cache_enabled(),
        )
        self._holding: weakref.ref[_Piece] | None = None

    def run(self, function: Callable[[State], R], state: State, before: Callable[[], State]) -> R:
        """``function(state)``; ``before()`` gives that state again, detached, in backward."""
        if not torch.is_grad_enabled():
            return function(state)
        piece = _Piece(self, function, before, state)
        with piece.opened():
            return function(state)

    def hold(self, piece: _Piece) -> None:
        """The piece is about to hold tensors; another that still does lets go."""
        other = None if self._holding is None else self._holding()
        if other is not None:
            other.kept.clear()
        self._holding = weakref.ref(piece)

    def require_unchanged(self) -> None:
        """Raise where a parameter was changed in place since the forward pass."""
        if any(p._version != version for p, version in self.versions):
            raise RecomputationError(
                "a parameter was changed between forward and backward, so that layers can not be "
                "computed again: call backward before the optimiser's step"
            )


class _Slot:
    """Stands in the graph for a tensor that is not kept."""

    __slots__ = ("__weakref__", "index", "piece")

    def __init__(self, piece: _Piece, index: int) -> None:
        self.piece = piece
        self.index = index


class _Piece:
    def __init__(
        self,
        pieces: Pieces,
        function: Callable[[State], object],
        before: Callable[[], State],
        state: State,
    ) -> None:
        self.pieces = pieces
        self.function = function
        self.before = before
        self.flags = {name: t.requires_grad for name, t in state.tensors().items()}
        self.slots: list[weakref.ref[_Slot]] = []
        self.kinds: list[tuple[torch.Size, torch.dtype]] = []
        self.kept: dict[int, Tensor] = {}
        self.running = False

    @contextmanager
    def opened(self) -> Iterator[None]:
        self.running = True
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            self.running = False
            self.kept.clear()

    def _pack(self, tensor: Tensor) -> _Slot:
        slot = _Slot(self, len(self.slots))
        self.slots.append(weakref.ref(slot))
        self.kinds.append((tensor.shape, tensor.dtype))
        # Kept until the end of this forward, for a step that calls autograd itself.
        self.kept[slot.index] = tensor.detach()
        return slot

    @staticmethod
    def _unpack(slot: _Slot) -> Tensor:
        piece = slot.piece
        if piece.running:
            return piece.kept[slot.index]
        if slot.index not in piece.kept:
            piece._again()
        return piece.kept.pop(slot.index)

    def _again(self) -> None:
        """Compute the piece again and keep what the slots stand for."""
        self.pieces.require_unchanged()
        self.pieces.hold(self)
        self.kept.clear()
        state = self.before()
        tensors = {
            name: t.detach().requires_grad_(self.flags[name]) for name, t in state.tensors().items()
        }
        count = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal count
            kept = tensor.detach()
            if count < len(self.slots):
                if self.kinds[count] != (tensor.shape, tensor.dtype):
                    raise RecomputationError(self._told())
                if self.slots[count]() is not None:
                    self.kept[count] = kept
            count += 1
            return kept

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept)
        with torch.enable_grad(), self.pieces.autocast(), hooks:
            self.function(state.with_tensors(tensors))
        if count != len(self.slots):
            raise RecomputationError(self._told())

    @staticmethod
    def _told() -> str:
        return (
            "a layer did something else when it was computed again for backward: does it draw "
            'random numbers (dropout), or depend on what is outside? Take memory="store"'
        )
