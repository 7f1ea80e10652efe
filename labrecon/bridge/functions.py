"""The derivatives of external models, to second order, as autograd functions.

A linear model ``A(p)`` with parameters has the exact pair ``A(p) x``, ``A(p)ᴴ v`` in its arrays;
the derivative by ``p`` comes from its policy. A nonlinear model has its ``vjp``; its second
derivatives are directional ones, of which the lab may supply ``jvp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from labrecon.bridge.model import Model
from labrecon.bridge.policies import SPSA, FiniteDifference, slope_along
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
        steps: Mapping[str, float],
    ) -> None:
        self.model = model
        self.names = names
        self.policies = dict(policies)
        self.surrogate = surrogate
        self.linear = linear
        self.steps = dict(steps)

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
        def curve(value: Tensor) -> Tensor:
            changed = {"x": x, **named, name: value}
            return self.model.forward(changed.pop("x"), changed)

        precision = self.model.precision
        if name != "x":
            return policy.gradient(curve, v, named[name], precision)
        # Each element of the batch has a scale of its own.
        domain, target = self.model.domain, self.model.range
        flat, weights = x.reshape(-1, *domain.shape), v.reshape(-1, *target.shape)
        found = []
        for element, weight in zip(flat, weights, strict=True):
            if element.is_complex():
                parts = policy.gradient(
                    lambda parts: curve(torch.view_as_complex(parts)),
                    weight,
                    torch.view_as_real(element.resolve_conj()),
                    precision,
                )
                found.append(torch.view_as_complex(parts))
            else:
                found.append(policy.gradient(curve, weight, element, precision))
        return torch.stack(found).reshape(x.shape) if found else torch.zeros_like(x)

    def push(self, x: Tensor, values: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> Tensor:
        """``J u``, the derivative of ``A(x; p)`` along ``u = (u_x, *u_p)``."""
        u, *others = along
        named = self.named(values)
        if self.model.has("jvp"):
            y = self.model.jvp(x, u, named)
        else:
            [y] = self.along_x(lambda x: (self.model.forward(x, named),), x, u, (True,))
        for drift in self.along_values(
            lambda *p: (self.model.forward(x, self.named(p)),), values, tuple(others)
        ):
            y = y + drift[0]
        return y

    def along_x(
        self,
        function: Callable[[Tensor], tuple[Tensor, ...]],
        x: Tensor,
        u: Tensor,
        batched: tuple[bool, ...],
        *,
        rough: bool = False,
    ) -> list[Tensor]:
        """Derivatives along ``u``; each element of the batch with a step of its own.

        ``batched`` says which outputs have the batch axes; the others are sums over the batch.
        """
        shape = self.model.domain.shape
        flat, directions = x.reshape(-1, *shape), u.reshape(-1, *shape)
        step = self.steps.get("x")
        moved = [
            slope_along(function, a, b, self.model.precision, step, rough=rough)
            for a, b in zip(flat, directions, strict=True)
        ]
        like = next((found for found in moved if found is not None), None)
        if like is None:
            like = function(flat[0]) if len(flat) else function(x)
        zero = tuple(torch.zeros_like(t) for t in like)
        each = [zero if found is None else found for found in moved]
        batch = self.model.domain.batch(x)
        results = []
        for i, stacked in enumerate(batched):
            parts = torch.stack([found[i] for found in each]) if each else zero[i]
            results.append(parts.reshape(*batch, *like[i].shape) if stacked else parts.sum(0))
        return results

    def along_values(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        values: tuple[Tensor, ...],
        along: tuple[Tensor, ...],
        *,
        rough: bool = False,
    ) -> Iterator[tuple[Tensor, ...]]:
        """Derivatives along each parameter's direction; their sum is the one along all."""
        for i, (name, value, direction) in enumerate(zip(self.names, values, along, strict=True)):

            def moved(p: Tensor, i: int = i) -> tuple[Tensor, ...]:
                return function(*values[:i], p, *values[i + 1 :])

            policy = self.policies[name]
            step = self.steps.get(name, getattr(policy, "step", None))
            found = slope_along(moved, value, direction, self.model.precision, step, rough=rough)
            if found is not None:
                yield found

    def require_smooth(self, asked: tuple[bool, ...]) -> bool:
        """Whether a gradient that is asked for is itself a difference.

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
        return any(isinstance(policy, FiniteDifference) for policy in policies.values())


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
            asked = (False, *asked)
            rough = bridge.require_smooth(asked)
            gp = list(_zeros(values, asked[1:]))
            for drift in bridge.along_values(
                lambda *p: tuple(bridge.pull(x, v, p, asked)), tuple(values), along, rough=rough
            ):
                gp = _added(gp, drift)
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
        gv = bridge.push(x, tuple(values), along) if ctx.needs_input_grad[3] else None
        asked = (ctx.needs_input_grad[2], *ctx.needs_input_grad[4:])
        result: list[Tensor | None] = [None] * len(at)
        if any(asked):
            rough = bridge.require_smooth(asked)
            result = list(_zeros(at, asked))
            # The Hessian of ⟨v, A⟩ is symmetric: its product is the gradient's change along u.
            for drift in bridge.along_values(
                lambda *p: tuple(bridge.pull(x, v, p, asked)),
                tuple(values),
                along[1:],
                rough=rough,
            ):
                result = _added(result, drift)
            result = _added(result, _along_image(bridge, x, v, values, along[0], asked, rough))
        return None, None, result[0], gv, *result[1:]


def _along_image(
    bridge: Bridge,
    x: Tensor,
    v: Tensor,
    values: Sequence[Tensor],
    u: Tensor,
    asked: tuple[bool, ...],
    rough: bool,
) -> tuple[Tensor, ...]:
    """The change of the gradients along ``u``, element by element of the batch."""
    domain, target = bridge.model.domain, bridge.model.range
    flat = [t.reshape(-1, *domain.shape) for t in (x, u)]
    weights = v.reshape(-1, *target.shape)
    total: list[Tensor] = []
    images = []
    for element, direction, weight in zip(*flat, weights, strict=True):

        def pull(point: Tensor, weight: Tensor = weight) -> tuple[Tensor, ...]:
            return tuple(bridge.pull(point, weight, tuple(values), asked))

        found = bridge.along_x(pull, element, direction, (True,) * sum(asked), rough=rough)
        if asked[0]:
            images.append(found.pop(0))
        total = [a + b for a, b in zip(total, found, strict=True)] if total else found
    if not images and not total:
        return tuple(t for t in _zeros((x, *values), asked) if t is not None)
    head = (torch.stack(images).reshape(x.shape),) if asked[0] else ()
    return (*head, *total)


def _zeros(at: Sequence[Tensor], asked: Sequence[bool]) -> Iterator[Tensor | None]:
    for value, wish in zip(at, asked, strict=True):
        yield torch.zeros_like(value) if wish else None


def _added(total: Sequence[Tensor | None], found: Sequence[Tensor]) -> list[Tensor | None]:
    """The sums; ``found`` has an entry for each that is not None."""
    given = iter(found)
    return [None if t is None else t + next(given) for t in total]


def _directions(gradients: tuple[Tensor, ...], wanted: Any, at: Any) -> tuple[Tensor, ...]:
    """A direction for each of ``at``: zero where no gradient was wanted."""
    given = iter(gradients)
    pairs = zip(wanted, at, strict=True)
    return tuple(next(given) if wish else torch.zeros_like(t) for wish, t in pairs)
