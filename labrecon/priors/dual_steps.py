"""TV's dual iteration in place: the same numbers in a third of the time, for plain solves."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ascend", "components", "descend", "inverse_length", "momenta", "tv_in_place"]


def tv_in_place(
    x: Tensor,
    radius: Tensor | float,
    spacing: tuple[float, ...],
    iterations: int,
    *,
    nonneg: bool,
) -> Tensor:
    """``argmin_u Σ radius · ‖∇u‖₂ + ½‖u − x‖²`` by FGP, which autograd can not follow.

    Args:
        x: object; ``∇`` is over its last ``len(spacing)`` axes.
        radius: the strength; a tensor broadcasts to ``x``.
        spacing: sample distances.
        iterations: steps.
        nonneg: also ask for ``u ≥ 0``.
    """
    if isinstance(radius, Tensor):
        x = x.expand(torch.broadcast_shapes(x.shape, radius.shape))
    rate = 1 / sum(4 / h**2 for h in spacing)
    u = torch.empty_like(x, memory_format=torch.contiguous_format)
    length = torch.empty_like(u.real, memory_format=torch.contiguous_format)
    p = torch.zeros(len(spacing), *x.shape, dtype=x.dtype, device=x.device)
    q = torch.zeros_like(p)
    for momentum in momenta(iterations):
        descend(u, x, q, spacing, nonneg)
        ascend(q, u, spacing, rate)
        inverse_length(q, length)
        q.mul_(length.mul_(radius).clamp_max_(1))
        p.lerp_(q, 1 + momentum)
        p, q = q, p
    descend(u, x, p, spacing, nonneg)
    return u


def descend(u: Tensor, x: Tensor, p: Tensor, spacing: tuple[float, ...], nonneg: bool) -> None:
    """``u ← x − ∇ᴴ p``, not below 0 if asked for."""
    u.copy_(x)
    for part, axis, h in _directions(p, spacing):
        n = part.shape[axis] - 1
        head = part.narrow(axis, 0, n)
        u.narrow(axis, 0, n).add_(head, alpha=1 / h)
        u.narrow(axis, 1, n).sub_(head, alpha=1 / h)
    if nonneg:
        u.clamp_min_(0)


def ascend(p: Tensor, u: Tensor, spacing: tuple[float, ...], rate: float) -> None:
    """``p ← p + rate · ∇u``."""
    for part, axis, h in _directions(p, spacing):
        n = part.shape[axis] - 1
        head = part.narrow(axis, 0, n)
        head.add_(u.narrow(axis, 1, n), alpha=rate / h)
        head.sub_(u.narrow(axis, 0, n), alpha=rate / h)


def inverse_length(p: Tensor, length: Tensor) -> None:
    """``length ← 1 / ‖p‖₂`` of the vectors along the first axis."""
    first, *others = components(p)
    torch.mul(first, first, out=length)
    for component in others:
        length.addcmul_(component, component)
    # A radius of 0 leaves nothing, and 0 / 0 is not met. Bound below the root: squares of numbers
    # that are not 0 may be, and their unit vectors would be longer than 1.
    length.clamp_min_(torch.finfo(length.dtype).tiny).rsqrt_()


def components(p: Tensor) -> list[Tensor]:
    """Real numbers of the vectors along the first axis."""
    return [c for part in p for c in ((part.real, part.imag) if p.is_complex() else (part,))]


def momenta(iterations: int) -> list[float]:
    """``(t_k − 1) / t_(k+1)`` of FISTA."""
    found, t = [], 1.0
    for _ in range(iterations):
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        found.append((t - 1) / t_next)
        t = t_next
    return found


def _directions(p: Tensor, spacing: tuple[float, ...]) -> list[tuple[Tensor, int, float]]:
    return list(zip(p, range(-len(spacing), 0), spacing, strict=True))
