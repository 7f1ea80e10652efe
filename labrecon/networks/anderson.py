"""Anderson's acceleration of fixed-point iterations."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Anderson"]


class Anderson:
    """Mixes the last images so that the linearised residual is smallest (Anderson 1965).

    With residuals ``g = T(z) − z`` and their last ``memory`` differences ``ΔG``, ``ΔZ``:
    ``γ = argmin ‖g − ΔG γ‖²``, ``z ← z + β g − (ΔZ + β ΔG) γ`` (Walker and Ni 2011). On affine
    maps it is GMRES in another form. Each batch element has its own ``γ``. Not for maps with noise,
    whose differences mean nothing.

    Args:
        memory: differences that are kept.
        beta: share of the mixed residual that is added.
    """

    safeguarded = True

    def __init__(self, memory: int = 5, beta: float = 1.0) -> None:
        self.memory = memory
        self.beta = beta
        self._count = 0
        self._last: tuple[Tensor, Tensor] | None = None

    def propose(self, z: Tensor, image: Tensor) -> Tensor:
        """The mixed point."""
        g = image - z
        if self._last is None:
            self._last = z, g
            self._moves = z.new_zeros(len(z), self.memory, z.shape[-1])
            self._changes = torch.zeros_like(self._moves)
            self._kept = torch.ones(len(z), dtype=torch.bool, device=z.device)
            return z + self.beta * g
        slot = self._count % self.memory
        kept = self._kept[:, None]
        self._moves[:, slot] = torch.where(kept, z - self._last[0], 0)
        self._changes[:, slot] = torch.where(kept, g - self._last[1], 0)
        self._count += 1
        self._last = z, g
        self._kept = torch.ones_like(self._kept)
        gamma = self._weights(g)
        mixed = torch.einsum("bm,bmn->bn", gamma, self._moves + self.beta * self._changes)
        return z + self.beta * g - mixed

    def _weights(self, g: Tensor) -> Tensor:
        """``γ``, by normal equations of columns brought to length one."""
        lengths = self._changes.norm(dim=-1)
        held = lengths > 0
        inverse = torch.where(held, 1 / torch.where(held, lengths, 1), 0)
        columns = inverse[..., None] * self._changes
        gram = (columns @ columns.mT).double()
        right = (columns @ g[..., None]).double()
        # What rounding leaves of the Gram matrix; it also makes dropped columns solvable.
        ridge = 10 * torch.finfo(g.dtype).eps
        eye = torch.eye(self.memory, dtype=gram.dtype, device=g.device)
        gamma = torch.linalg.solve(gram + ridge * eye, right).squeeze(-1)
        return gamma.to(g.dtype) * inverse

    def forget(self, elements: Tensor) -> None:
        """Drop the differences of some elements, and the one that leads to their next point."""
        if self._last is None:
            return
        drop = elements[:, None, None]
        self._moves = torch.where(drop, 0, self._moves)
        self._changes = torch.where(drop, 0, self._changes)
        self._kept = self._kept & ~elements
