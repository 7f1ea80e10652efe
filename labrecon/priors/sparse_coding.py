"""Sparse coding: few atoms of a dictionary that sum up to a signal."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["matching_pursuit"]


def matching_pursuit(
    signals: Tensor,
    atoms: Tensor,
    *,
    residual: Tensor | float = 0.0,
    most: int,
    chunk: int = 4096,
) -> Tensor:
    """Codes by orthogonal matching pursuit (Pati, Rezaiifar and Krishnaprasad 1993).

    The atom that fits best what is left is added, and all codes are fitted anew, until
    ``‖x − Σ cₐ dₐ‖² ≤ residual`` or ``most`` atoms are in. Which atoms they are is not
    differentiated; their codes are, in signals and atoms.

    Args:
        signals: ``(signal, sample)``, real or complex.
        atoms: ``(atom, sample)`` of norm 1, of the same dtype.
        residual: squared norm that may be left, one number or one per signal.
        most: atoms of one signal.
        chunk: signals that are coded together.

    Returns:
        ``(signal, atom)``, mostly 0.

    Example:
        >>> matching_pursuit(torch.tensor([[3.0, 0.1]]), torch.eye(2), residual=0.1, most=2)
        tensor([[3., 0.]])
    """
    most = min(most, *atoms.shape)
    limits = torch.as_tensor(residual, dtype=signals.real.dtype, device=signals.device)
    limits = limits.expand(len(signals))
    gram = atoms.conj() @ atoms.mT
    parts = []
    for part, limit in zip(signals.split(chunk), limits.split(chunk), strict=True):
        with torch.no_grad():
            support, used = _support(part, atoms, limit, most)
        parts.append(_fitted(part, atoms, gram, support, used))
    return torch.cat(parts) if parts else signals.new_zeros(0, len(atoms))


def _support(signals: Tensor, atoms: Tensor, limit: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Numbers of the chosen atoms ``(signal, most)``, and which of them count."""
    count, samples = signals.shape
    left = signals.clone()
    energy = left.abs().square().sum(-1)
    basis = signals.new_zeros(count, most, samples)
    support = torch.zeros(count, most, dtype=torch.long, device=signals.device)
    used = torch.zeros(count, most, dtype=torch.bool, device=signals.device)
    # Below it what is left is rounding.
    floor = (torch.finfo(energy.dtype).eps * 8) * energy
    at = torch.arange(count, device=signals.device)
    for k in range(most):
        at = at[energy[at] > torch.maximum(limit, floor)[at]]
        if not len(at):
            break
        rest, known = left[at], basis[at, :k]
        best = (rest @ atoms.mH).abs().argmax(-1)
        # The new direction, orthogonal to the atoms that are in.
        new = atoms[best]
        new = new - ((known.conj() @ new.unsqueeze(-1)).mT @ known).squeeze(-2)
        length = torch.linalg.vector_norm(new, dim=-1, keepdim=True)
        fresh = length[:, 0] > 1e-3
        at, best, new = at[fresh], best[fresh], (new / length)[fresh]
        share = (new.conj() * left[at]).sum(-1, keepdim=True)
        left[at] -= share * new
        energy[at] = left[at].abs().square().sum(-1)
        basis[at, k], support[at, k], used[at, k] = new, best, True
    return support, used


def _fitted(signals: Tensor, atoms: Tensor, gram: Tensor, support: Tensor, used: Tensor) -> Tensor:
    """Least squares with the chosen atoms alone."""
    codes = signals.new_zeros(len(signals), len(atoms))
    most = int(used.sum(-1).max()) if len(used) else 0
    if most == 0:
        return codes
    support, used = support[:, :most], used[:, :most]
    wanted = (signals @ atoms.mH).gather(1, support) * used
    pairs = used[:, :, None] & used[:, None, :]
    system = gram[support[:, :, None], support[:, None, :]] * pairs
    system = system + torch.diag_embed((~used).to(system.dtype))
    factor = torch.linalg.cholesky(system)
    values = torch.cholesky_solve(wanted.unsqueeze(-1), factor).squeeze(-1)
    return codes.scatter_add(1, support, values * used)
