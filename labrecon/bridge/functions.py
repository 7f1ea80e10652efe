"""The derivatives of external models, to second order, as autograd functions.

A linear model ``A(p)`` with parameters has the exact pair ``A(p) x``, ``A(p)ᴴ v`` in its arrays;
the derivative by ``p`` comes from its policy. A nonlinear model has its ``vjp``; its second
derivatives are directional ones, of which the lab may supply ``jvp``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labrecon.bridge.gradients import Bridge

__all__ = ["adjoint", "forward", "nonlinear"]


def forward(bridge: Bridge, x: Tensor, values: tuple[Tensor, ...]) -> Tensor:
    """``A(p) x`` of a linear model."""
    y: Tensor = _Linear.apply(bridge, False, x, *values)
    return y


def adjoint(bridge: Bridge, v: Tensor, values: tuple[Tensor, ...]) -> Tensor:
    """``A(p)ᴴ v`` of a linear model."""
    x: Tensor = _Linear.apply(bridge, True, v, *values)
    return x


def nonlinear(bridge: Bridge, x: Tensor, values: tuple[Tensor, ...]) -> Tensor:
    """``A(x; p)`` of a nonlinear model."""
    y: Tensor = _Nonlinear.apply(bridge, x, *values)
    return y


class _Linear(torch.autograd.Function):
    """``A(p) x``, or its adjoint; each is the other's derivative by the array."""

    @staticmethod
    def forward(ctx: Any, bridge: Bridge, flipped: bool, x: Tensor, *values: Tensor) -> Tensor:
        ctx.bridge, ctx.flipped = bridge, flipped
        ctx.save_for_backward(x, *values)
        apply = bridge.model.adjoint if flipped else bridge.model.forward
        return apply(x, bridge.named(values))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        bridge, flipped = ctx.bridge, ctx.flipped
        x, *values = ctx.saved_tensors
        v = gradients[0]
        gx, gp = None, [None] * len(values)
        if ctx.needs_input_grad[2]:
            gx = _Linear.apply(bridge, not flipped, v, *values)
        wanted = ctx.needs_input_grad[3:]
        if any(wanted):
            pair = (v, x) if flipped else (x, v)
            found = iter(_ByParameter.apply(bridge, wanted, *pair, *values))
            gp = [next(found) if wish else None for wish in wanted]
        return None, None, gx, *gp


class _ByParameter(torch.autograd.Function):
    """``∂/∂p Re⟨v, A(p) x⟩`` of a linear model: linear in ``x`` and in ``v``."""

    @staticmethod
    def forward(
        ctx: Any, bridge: Bridge, wanted: Any, x: Tensor, v: Tensor, *values: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.bridge, ctx.wanted = bridge, wanted
        ctx.save_for_backward(x, v, *values)
        return tuple(bridge.pull(x, v, values, (False, *wanted)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        bridge, wanted = ctx.bridge, ctx.wanted
        x, v, *values = ctx.saved_tensors
        model = bridge.model
        along = _directions(gradients, wanted, values)
        gx = gv = None
        gp: list[Tensor | None] = [None] * len(values)
        if ctx.needs_input_grad[2]:
            drifts = bridge.along_values(
                lambda *p: (model.adjoint(v, bridge.named(p)),), tuple(values), along
            )
            gx = sum((drift[0] for drift in drifts), torch.zeros_like(x))
        if ctx.needs_input_grad[3]:
            drifts = bridge.along_values(
                lambda *p: (model.forward(x, bridge.named(p)),), tuple(values), along
            )
            gv = sum((drift[0] for drift in drifts), torch.zeros_like(v))
        asked = ctx.needs_input_grad[4:]
        if any(asked):
            still = (torch.zeros_like(x), *along)
            gp = bridge.pull_along(x, v, tuple(values), still, (False, *asked))[1:]
        return None, None, gx, gv, *gp


class _Nonlinear(torch.autograd.Function):
    """``A(x; p)``."""

    @staticmethod
    def forward(ctx: Any, bridge: Bridge, x: Tensor, *values: Tensor) -> Tensor:
        ctx.bridge = bridge
        ctx.save_for_backward(x, *values)
        return bridge.model.forward(x, bridge.named(values))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, *values = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        found = iter(_Pull.apply(ctx.bridge, wanted, x, gradients[0], *values))
        return None, *(next(found) if wish else None for wish in wanted)


class _Pull(torch.autograd.Function):
    """The gradients of ``Re⟨v, A(x; p)⟩`` by ``x`` and ``p``."""

    @staticmethod
    def forward(
        ctx: Any, bridge: Bridge, wanted: Any, x: Tensor, v: Tensor, *values: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.bridge, ctx.wanted = bridge, wanted
        ctx.save_for_backward(x, v, *values)
        return tuple(bridge.pull(x, v, values, wanted))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        bridge = ctx.bridge
        x, v, *values = ctx.saved_tensors
        at = (x, *values)
        along = _directions(gradients, ctx.wanted, at)
        gv = bridge.push(x, tuple(values), along) if ctx.needs_input_grad[3] else None
        asked = (ctx.needs_input_grad[2], *ctx.needs_input_grad[4:])
        result: list[Tensor | None] = [None] * len(at)
        if any(asked):
            result = bridge.pull_along(x, v, tuple(values), along, asked)
        return None, None, result[0], gv, *result[1:]


def _directions(gradients: tuple[Tensor, ...], wanted: Any, at: Any) -> tuple[Tensor, ...]:
    """A direction for each of ``at``: zero where no gradient was wanted."""
    given = iter(gradients)
    pairs = zip(wanted, at, strict=True)
    return tuple(next(given) if wish else torch.zeros_like(t) for wish, t in pairs)
