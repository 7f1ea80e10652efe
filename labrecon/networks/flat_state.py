"""The fixed-point part of a solver's state as one real vector per batch element."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon.solver import SolverError, State

__all__ = ["FlatState"]


class FlatState:
    """Packs the tensors of a state into ``(batch, n)`` and back; constants are left out.

    Real and imaginary parts become neighbours, so that norms and transposed Jacobians of complex
    states are those of real vectors. Batches of several axes are flattened, no batch is one of one.

    Args:
        template: a state of the solver; its counters and constants fill up unpacked states.
        batch: leading axes of every tensor.

    Raises:
        SolverError: a tensor of the state does not have the batch axes.
    """

    def __init__(self, template: State, batch: tuple[int, ...]) -> None:
        self.batch = batch
        parts = template.tensors(constants=False)
        for name, part in parts.items():
            if tuple(part.shape[: len(batch)]) != batch:
                raise SolverError(
                    f"{name} of the state has shape {tuple(part.shape)}; expected the batch axes "
                    f"{batch} of the data in front: give x0 the batch of the data"
                )
        self.shapes = {name: part.shape for name, part in parts.items()}
        self.dtypes = {name: part.dtype for name, part in parts.items()}
        self.dtype = torch.float32
        for dtype in self.dtypes.values():
            self.dtype = torch.promote_types(self.dtype, dtype.to_real())
        # The template's own values would keep the graph of the first estimate alive.
        self.template = template.with_tensors({k: v.detach() for k, v in parts.items()})

    def pack(self, state: State) -> Tensor:
        """``(batch, n)``."""
        rows = math.prod(self.batch)
        flat = []
        for part in state.tensors(constants=False).values():
            real = torch.view_as_real(part.resolve_conj()) if part.is_complex() else part
            flat.append(real.reshape(rows, real.numel() // max(rows, 1)).to(self.dtype))
        return torch.cat(flat, -1)

    def unpack(self, flat: Tensor) -> State:
        """The state that `pack` makes ``flat`` of."""
        tensors = {}
        start = 0
        for name, shape in self.shapes.items():
            dtype = self.dtypes[name]
            count = math.prod(shape[len(self.batch) :]) * (2 if dtype.is_complex else 1)
            part = flat[:, start : start + count].to(dtype.to_real())
            start += count
            if dtype.is_complex:
                part = torch.view_as_complex(part.reshape(*shape, 2).contiguous())
            tensors[name] = part.reshape(shape)
        return self.template.with_tensors(tensors)
