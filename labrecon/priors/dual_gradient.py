"""TV's dual iteration in place, with its own backward pass: what networks are trained through.

Autograd would keep some twelve arrays per step. Here it is the unit vectors, the factors by which
they are shortened and, where the object is nonnegative, where it was so already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labrecon.priors.dual_steps import ascend, components, descend, inverse_length, momenta

__all__ = ["tv_followed"]

Again = Callable[[Tensor, Tensor | float], Tensor]


def tv_followed(
    x: Tensor,
    radius: Tensor | float,
    spacing: tuple[float, ...],
    iterations: int,
    *,
    nonneg: bool,
    again: Again,
) -> Tensor:
    """`tv_in_place`, with gradients of ``x`` and ``radius``.

    Args:
        x: object.
        radius: the strength.
        spacing: sample distances.
        iterations: steps.
        nonneg: also ask for ``u ≥ 0``.
        again: the same of ``x`` and ``radius`` by autograd, for derivatives of derivatives.
    """
    strength = torch.as_tensor(radius, dtype=x.real.dtype, device=x.device)
    made: Tensor = _Followed.apply(x, strength, spacing, iterations, nonneg, again)[0]
    return made


class _Followed(torch.autograd.Function):
    @staticmethod
    def forward(
        given: Tensor,
        radius: Tensor,
        spacing: tuple[float, ...],
        iterations: int,
        nonneg: bool,
        again: Again,
    ) -> tuple[Tensor, ...]:
        x = given.expand(torch.broadcast_shapes(given.shape, radius.shape))
        rate = 1 / sum(4 / h**2 for h in spacing)
        u = torch.empty_like(x, memory_format=torch.contiguous_format)
        p = torch.zeros(len(spacing), *x.shape, dtype=x.dtype, device=x.device)
        q = torch.zeros_like(p)
        units = p.new_empty(iterations, *p.shape)
        factors = units.real.new_empty(iterations, *x.shape)
        positive = torch.empty(
            (iterations + 1, *x.shape) if nonneg else 0, dtype=torch.bool, device=x.device
        )
        for k, momentum in enumerate(momenta(iterations)):
            descend(u, x, q, spacing, nonneg=False)
            if nonneg:
                positive[k] = u >= 0
                u.clamp_min_(0)
            ascend(q, u, spacing, rate)
            inverse_length(q, factors[k])
            torch.mul(q, factors[k], out=units[k])
            q.mul_(factors[k].mul_(radius).clamp_max_(1))
            p.lerp_(q, 1 + momentum)
            p, q = q, p
        descend(u, x, p, spacing, nonneg=False)
        if nonneg:
            positive[-1] = u >= 0
            u.clamp_min_(0)
        return u, units, factors, positive

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        # Apart from `forward`, as torch.func asks of it.
        given, radius, ctx.spacing, _, _, ctx.again = inputs
        ctx.rate = 1 / sum(4 / h**2 for h in ctx.spacing)
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(given, radius, *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 6
        given, radius, units, factors, positive = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            inputs = [v for v, asked in zip((given, radius), wanted, strict=True) if asked]
            found = iter(
                torch.autograd.grad(ctx.again(given, radius), inputs, g, create_graph=True)
            )
            return *(next(found) if asked else None for asked in wanted), None, None, None, None
        g = g * positive[-1] if len(positive) else g
        of_x, of_radius = g.clone(), torch.zeros_like(g.real)
        w, nothing = torch.empty_like(g), torch.zeros_like(g)
        # m is the gradient of a shortened dual variable, then of the one before it was.
        m = torch.zeros_like(units[0])
        ascend(m, g, ctx.spacing, -1.0)
        later: Tensor | None = None
        rates = momenta(len(units))
        for k in reversed(range(len(units))):
            along = inner(units[k], m).mul_(factors[k] < 1)
            of_radius += along
            m.sub_(units[k] * along).mul_(factors[k])
            descend(w, nothing, m, ctx.spacing, nonneg=False)
            w.mul_(-ctx.rate)
            if len(positive):
                w.mul_(positive[k])
            of_x += w
            ascend(m, w, ctx.spacing, -1.0)
            if k:
                # q_k = (1 + β) m_(k−1) − β m_(k−2)
                before = m * (1 + rates[k - 1])
                if later is not None:
                    before += later
                m, later = before, m.mul_(-rates[k - 1])
        gradients = of_x.sum_to_size(given.shape), of_radius.sum_to_size(radius.shape)
        told = (v if asked else None for v, asked in zip(gradients, wanted, strict=True))
        return *told, None, None, None, None


def inner(a: Tensor, b: Tensor) -> Tensor:
    """``Re⟨a, b⟩`` of vectors along the first axis."""
    pairs = list(zip(components(a), components(b), strict=True))
    total = pairs[0][0] * pairs[0][1]
    for one, other in pairs[1:]:
        total.addcmul_(one, other)
    return total
