"""Directional derivatives by differences, compared with those of autograd."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.functional import Map
from labrecon.testing.bench import Bench

__all__ = ["Trial", "like", "product", "trials"]


@dataclass(frozen=True)
class Trial:
    """The derivative along a direction, by autograd and by differences.

    Attributes:
        slope: by autograd, for each functional.
        difference: by the step that agrees best; None where the model is not finite beside it.
        error: relative to the larger of the two.
        noise: share of rounding in the difference.
    """

    slope: Tensor
    difference: Tensor | None
    error: float = 0.0
    noise: float = float("inf")


def trials(
    bench: Bench,
    function: Map,
    value: Tensor,
    functionals: list[Tensor],
    gradients: list[Tensor],
    parts: int,
) -> list[Trial]:
    """Try each part of ``value``: the derivatives of ``Re⟨w, function⟩`` against ``gradients``."""
    found = []
    for candidates in _directions(value, parts, bench.generator(20)):
        for u in candidates:
            slope = torch.tensor([product(g, u) for g in gradients], dtype=torch.float64)
            trial = _try(function, value, u, functionals, slope, bench.epsilon)
            if trial.difference is not None:
                break
        found.append(trial)
    return found


def _directions(
    value: Tensor, parts: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """Directions that cover the entries in parts, each of the scale of its entries.

    One wrong entry would hide behind the others in a direction that has them all. A second
    direction, which moves no zero and changes no sign, is for models that end there.
    """
    n = value.numel()
    overall = float(value.abs().double().square().mean().sqrt()) or 1.0
    for indices in torch.arange(n).chunk(min(parts, n)):
        noise = torch.zeros(n, dtype=value.dtype)
        noise[indices] = torch.randn(len(indices), dtype=value.dtype, generator=generator)
        noise = noise.reshape(value.shape).to(value.device)
        mine = value.flatten()[indices.to(value.device)]
        scale = float(mine.abs().double().square().mean().sqrt()) or overall
        yield scale * noise, value * noise, value.abs() * noise.abs() + scale * (noise != 0)


def _try(
    function: Map,
    value: Tensor,
    u: Tensor,
    functionals: list[Tensor],
    slope: Tensor,
    epsilon: float,
) -> Trial:
    """The best of several steps around the one that changes the result visibly."""
    t = _visible(function, value, u, epsilon)
    if t is None:
        return Trial(slope, None)
    best = Trial(slope, None, float("inf"))
    for step in (3 * t, t, t / 3, t / 10, t / 100, t / 1000):
        change, size = _change(function, value, u, step)
        if change is None:
            continue
        difference = torch.tensor([product(w, change) for w in functionals], dtype=torch.float64)
        larger = float(max(difference.norm(), slope.norm()))
        weight = max(float(torch.linalg.vector_norm(w).double()) for w in functionals)
        rounding = size * epsilon * weight / step / _root(functionals[0])
        if larger == 0:
            best = best if best.difference is not None else Trial(slope, difference)
            continue
        trial = Trial(
            slope, difference, float((slope - difference).norm()) / larger, rounding / larger
        )
        # Where the gradient is zero, the step that sees most tells whether it should be.
        better = trial.noise < best.noise if not bool(slope.any()) else trial.error < best.error
        if best.difference is None or better:
            best = trial
    return best


def _root(w: Tensor) -> float:
    """Rounding errors add up at random: by the root of their number."""
    return max(1.0, w.numel() ** 0.5)


def _visible(function: Map, value: Tensor, u: Tensor, epsilon: float) -> float | None:
    """A step along ``u`` that changes the result by a thousandth to a tenth, if there is one."""
    with torch.no_grad():
        base = _wide(function(value))
    size = float(base.norm())
    low, high = max(1e-4, 300 * epsilon), 0.1
    t, tried = 1e-2, set[float]()
    found = None
    while 1e-18 <= t <= 1e9 and t not in tried:
        tried.add(t)
        with torch.no_grad():
            moved = _wide(function(value + t * u))
        change = float((moved - base).norm()) / (size or 1.0)
        if change != change or change == float("inf") or change > high:
            found = t / 100 if found is None else found
            t = float(f"{t / 10:.0e}")
        elif change < low:
            found = t if change > 0 or found is None else found
            t = float(f"{t * 10:.0e}")
        else:
            return t
    if found is not None:
        derivative, _ = _change(function, value, u, found)
        return found if derivative is not None else None
    return None


def _change(function: Map, value: Tensor, u: Tensor, t: float) -> tuple[Tensor | None, float]:
    """``∂f/∂u`` by a central difference, or by one to either side where the other is not finite."""
    with torch.no_grad():
        plus, minus = function(value + t * u), function(value - t * u)
        size = float(_wide(plus).norm())
        central = (_wide(plus) - _wide(minus)) / (2 * t)
        if bool(torch.isfinite(central.abs()).all()):
            return central, size
        for sign in (1.0, -1.0):
            at, one, two = (_wide(function(value + sign * k * t * u)) for k in (0.0, 1.0, 2.0))
            aside = sign * (4 * one - 3 * at - two) / (2 * t)
            if bool(torch.isfinite(aside.abs()).all()):
                return aside, float(at.norm())
    return None, 0.0


def _wide(x: Tensor) -> Tensor:
    return x.detach().to(torch.complex128 if x.is_complex() else torch.float64)


def like(value: Tensor, generator: torch.Generator) -> Tensor:
    """White noise of the shape of ``value``."""
    u = torch.randn(value.shape, dtype=value.dtype, generator=generator)
    return u.to(value.device)


def product(a: Tensor, b: Tensor) -> float:
    """``Re⟨a, b⟩`` in double precision."""
    a, b = a.detach(), b.detach()
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return float((a.double() * b.double()).sum())
