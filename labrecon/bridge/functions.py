"""The derivatives of external models, to second order, as autograd functions.

A linear model ``A(p)`` with parameters has the exact pair ``A(p) x``, ``A(p)ᴴ v`` in its arrays;
the derivative by ``p`` comes from its policy. A nonlinear model has its ``vjp``; its second
derivatives are directional ones, of which the lab may supply ``jvp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from labrecon.bridge.model import Model
from labrecon.bridge.policies import SPSA, FiniteDifference, central
from labrecon.operator import GradientError

__all__ = ["Bridge", "adjoint", "forward", "nonlinear"]

Policy = FiniteDifference | SPSA | str | None


class Surrogate(Protocol):
    """A torch function that stands for the model in derivatives."""

    def __call__(self, x: Tensor, **values: Tensor) -> Tensor:
        """About ``A(x)``."""
        ...


class Bridge:
    """A model, its parameters' names, and where each gradient comes from."""

    def __init__(
        self,
        model: Model,
        names: tuple[str, ...],
        policies: Mapping[str, Policy],
        surrogate: Surrogate | None,
        linear: bool,
    ) -> None:
        self.model = model
        self.names = names
        self.policies = dict(policies)
        self.surrogate = surrogate
        self.linear = linear

    def named(self, values: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The parameters by name."""
        return dict(zip(self.names, values, strict=True))

    def pull(self, x: Tensor, v: Tensor, values: tuple[Tensor, ...], wanted: Any) -> list[Tensor]:
        """Gradients of ``Re⟨v, A(x; p)⟩`` by what is wanted of ``(x, *p)``."""
        named = self.named(values)
        order = ("x", *self.names)
        asked = [name for name, wish in zip(order, wanted, strict=True) if wish]
        found: dict[str, Tensor] = {}
        if any(self.policies[name] == "vjp" for name in asked):
            found["x"], gradients = self.model.vjp(x, v, named)
            for name in asked:
                if self.policies[name] == "vjp" and name != "x":
                    if name not in gradients:
                        raise GradientError(
                            f"{self.model.name}: a gradient of {name!r} is needed, and vjp "
                            f"returned none: return {{'x': …, {name!r}: …}}, or take "
                            f"gradient={{{name!r}: FiniteDifference()}}"
                        )
                    found[name] = gradients[name]
        by_surrogate = [name for name in asked if self.policies[name] == "surrogate"]
        if by_surrogate:
            found |= self._by_surrogate(x, v, named, by_surrogate)
        for name in asked:
            policy = self.policies[name]
            if policy == "adjoint":
                found[name] = self.model.adjoint(v, named)
            elif not isinstance(policy, str) and policy is not None:
                found[name] = self._estimated(name, policy, x, v, named)
        return [found[name] for name in asked]

    def _by_surrogate(
        self, x: Tensor, v: Tensor, named: dict[str, Tensor], asked: list[str]
    ) -> dict[str, Tensor]:
        assert self.surrogate is not None
        with torch.enable_grad():
            free = {"x": x.detach(), **{k: p.detach() for k, p in named.items()}}
            inputs = [free[name].requires_grad_() for name in asked]
            y = self.surrogate(free.pop("x"), **free)
            gradients = torch.autograd.grad(y, inputs, v, allow_unused=True)
        pairs = zip(asked, inputs, gradients, strict=True)
        return {k: torch.zeros_like(t) if g is None else g for k, t, g in pairs}

    def _estimated(
        self,
        name: str,
        policy: FiniteDifference | SPSA,
        x: Tensor,
        v: Tensor,
        named: dict[str, Tensor],
    ) -> Tensor:
        precision = self.model.range.real_dtype

        def score(value: Tensor) -> float:
            changed = {"x": x, **named, name: value}
            y = self.model.forward(changed.pop("x"), changed)
            return float((v.conj() * y).sum(dtype=v.dtype).real)

        if name != "x":
            return policy.gradient(score, named[name], precision)
        if not x.is_complex():
            return policy.gradient(score, x, precision)
        parts = policy.gradient(
            lambda parts: score(torch.view_as_complex(parts)), torch.view_as_real(x), precision
        )
        return torch.view_as_complex(parts)

    def push(self, x: Tensor, values: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> Tensor:
        """``J u``, the derivative of ``A(x; p)`` along ``u = (u_x, *u_p)``."""
        u, *others = along
        moved = any(bool(each.any()) for each in others)
        if not self.model.has("jvp"):
            return self.along(
                lambda x, *p: (self.model.forward(x, self.named(p)),), (x, *values), along
            )[0]
        y = self.model.jvp(x, u, self.named(values))
        if not moved:
            return y
        drift = self.along(lambda *p: (self.model.forward(x, self.named(p)),), values, others)
        return y + drift[0]

    def along(self, function: Any, at: Any, direction: Any) -> tuple[Tensor, ...]:
        """Directional derivatives of something that the model computes exactly."""
        return central(function, at, direction, self.model.range.real_dtype)

    def pull_along(
        self, pull: Any, at: Any, direction: Any, asked: tuple[bool, ...]
    ) -> tuple[Tensor, ...]:
        """Directional derivatives of the gradients that are asked for.

        Raises:
            GradientError: one of them is a noisy estimate.
        """
        pairs = zip(("x", *self.names), asked, strict=True)
        policies = {name: self.policies[name] for name, wish in pairs if wish}
        noisy = [name for name, policy in policies.items() if isinstance(policy, SPSA)]
        if noisy:
            raise GradientError(
                f"{self.model.name}: SPSA of {', '.join(noisy)} is a noisy estimate and can not "
                "be differentiated again; take FiniteDifference(), or supply vjp"
            )
        rough = any(isinstance(policy, FiniteDifference) for policy in policies.values())
        return central(pull, at, direction, self.model.range.real_dtype, rough=rough)


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
        given = iter(gradients)
        along = tuple(
            next(given) if w else torch.zeros_like(p) for w, p in zip(wanted, values, strict=True)
        )
        gx = gv = None
        gp: list[Tensor | None] = [None] * len(values)
        if ctx.needs_input_grad[2]:
            [gx] = bridge.along(lambda *p: (model.adjoint(v, bridge.named(p)),), values, along)
        if ctx.needs_input_grad[3]:
            [gv] = bridge.along(lambda *p: (model.forward(x, bridge.named(p)),), values, along)
        asked = ctx.needs_input_grad[4:]
        if any(asked):
            asked = (False, *asked)
            found = iter(
                bridge.pull_along(
                    lambda *p: tuple(bridge.pull(x, v, p, asked)), values, along, asked
                )
            )
            gp = [next(found) if wish else None for wish in asked[1:]]
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
        given = iter(gradients)
        along = tuple(
            next(given) if w else torch.zeros_like(t) for w, t in zip(ctx.wanted, at, strict=True)
        )
        gv = bridge.push(x, values, along) if ctx.needs_input_grad[3] else None
        asked = (ctx.needs_input_grad[2], *ctx.needs_input_grad[4:])
        result: list[Tensor | None] = [None] * len(at)
        if any(asked):
            # The Hessian of ⟨v, A⟩ is symmetric: its product is the gradient's change along u.
            found = iter(
                bridge.pull_along(
                    lambda x, *p: tuple(bridge.pull(x, v, p, asked)), at, along, asked
                )
            )
            result = [next(found) if wish else None for wish in asked]
        return None, None, result[0], gv, *result[1:]


def _directions(gradients: tuple[Tensor, ...], wanted: Any, at: Any) -> tuple[Tensor, ...]:
    """A direction for each of ``at``: zero where no gradient was wanted."""
    given = iter(gradients)
    pairs = zip(wanted, at, strict=True)
    return tuple(next(given) if wish else torch.zeros_like(t) for wish, t in pairs)
