"""Where each gradient of an external model comes from: its own functions, or differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from labrecon.bridge.model import Model
from labrecon.bridge.policies import SPSA, FiniteDifference, slope_along
from labrecon.operator import GradientError

__all__ = ["Bridge", "Policy", "Surrogate"]

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
        weights = v.reshape(-1, *self.model.range.shape)
        found = []
        for element, weight in zip(self._elements(x), weights, strict=True):
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
            parts = [
                self.along_element(lambda x: (self.model.forward(x, named),), element, direction)[0]
                for element, direction in zip(self._elements(x), self._elements(u), strict=True)
            ]
            target = self.model.range
            y = torch.stack(parts) if parts else target.zeros(0, device=x.device)
            y = y.reshape(*self.model.domain.batch(x), *target.shape)
        for drift in self.along_values(
            lambda *p: (self.model.forward(x, self.named(p)),), values, tuple(others)
        ):
            y = y + drift[0]
        return y

    def pull_along(
        self,
        x: Tensor,
        v: Tensor,
        values: tuple[Tensor, ...],
        along: tuple[Tensor, ...],
        asked: tuple[bool, ...],
    ) -> list[Tensor | None]:
        """How the gradients that are asked for change along ``u = (u_x, *u_p)``.

        The Hessian of ``Re⟨v, A⟩`` is symmetric, so this is also its product with ``u``.
        """
        rough = self._differences(asked)
        total = [
            torch.zeros_like(t) if w else None for t, w in zip((x, *values), asked, strict=True)
        ]
        for drift in self.along_values(
            lambda *p: tuple(self.pull(x, v, p, asked)), values, along[1:], rough=rough
        ):
            total = _added(total, drift)
        if not asked[0]:
            head, tail = None, total[1:]
        else:
            head, tail = total[0], total[1:]
        images = []
        weights = v.reshape(-1, *self.model.range.shape)
        for element, u, weight in zip(
            self._elements(x), self._elements(along[0]), weights, strict=True
        ):

            def pull(point: Tensor, weight: Tensor = weight) -> tuple[Tensor, ...]:
                return tuple(self.pull(point, weight, values, asked))

            found = list(self.along_element(pull, element, u, rough=rough))
            if asked[0]:
                images.append(found.pop(0))
            tail = _added(tail, found)
        if head is not None and images:
            head = head + torch.stack(images).reshape(x.shape)
        return [head, *tail]

    def along_element(
        self,
        function: Callable[[Tensor], tuple[Tensor, ...]],
        x: Tensor,
        u: Tensor,
        *,
        rough: bool = False,
    ) -> tuple[Tensor, ...]:
        """Derivatives along ``u`` at one element of a batch, with a step of its own."""
        step = self.steps.get("x")
        found = slope_along(function, x, u, self.model.precision, step, rough=rough)
        return tuple(torch.zeros_like(t) for t in function(x)) if found is None else found

    def _elements(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.model.domain.shape)

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

    def _differences(self, asked: tuple[bool, ...]) -> bool:
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


def _added(total: Sequence[Tensor | None], found: Sequence[Tensor]) -> list[Tensor | None]:
    """The sums; ``found`` has an entry for each that is not None."""
    given = iter(found)
    return [None if t is None else t + next(given) for t in total]
