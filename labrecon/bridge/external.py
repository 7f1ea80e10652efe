"""`external`: a lab's own functions as an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from labrecon.bridge import functions as derivatives
from labrecon.bridge.arrays import Accepts, Arrays
from labrecon.bridge.columns import Columns
from labrecon.bridge.declaration import Parameter, check_parameters, choose_policies, name_of
from labrecon.bridge.gradients import Bridge, Policy, Surrogate
from labrecon.bridge.model import Function, Model
from labrecon.bridge.policies import FiniteDifference
from labrecon.design import FeasibleSet
from labrecon.operator import GradientError, LinearityError, Operator
from labrecon.space import Space

__all__ = ["External", "external"]

PolicyName = Literal["adjoint", "vjp", "finite-difference", "surrogate"]


class External(Operator):
    """An operator whose map is computed by other code; made by `external`.

    Attributes:
        model: calls the code.
        cost: where the gradient of ``x`` and of each parameter comes from, and what it costs.
    """

    def __init__(self, bridge: Bridge, linear: bool, threadsafe: bool) -> None:
        super().__init__(bridge.model.domain, bridge.model.range)
        self.bridge = bridge
        self.linear = linear
        self.threadsafe = threadsafe

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.bridge.model.name

    @property
    def cost(self) -> dict[str, str]:
        """Where each gradient comes from, and what it costs, in words."""
        sizes = {"x": self.domain.size * (2 if self.domain.dtype.is_complex else 1)}
        sizes |= {name: getattr(self, name).numel() for name in self.bridge.names}
        return {name: self._cost(name, size) for name, size in sizes.items()}

    def _cost(self, name: str, size: int) -> str:
        policy, model = self.bridge.policies[name], self.bridge.model
        if policy is None:
            return "none: refused where it is needed"
        if policy == "adjoint" and not model.has("adjoint") and model.columns is not None:
            return f"matrix by columns: {model.columns.cost(self.domain, self.range)}"
        if isinstance(policy, str):
            return f"one call of {policy}"
        return f"{type(policy).__name__}: {policy.cost(size)} forward calls per gradient"

    def extra_repr(self) -> str:
        """The costs of the gradients."""
        return ", ".join(f"{name}: {told}" for name, told in self.cost.items())

    def forward(self, x: Tensor) -> Tensor:
        """``A(x)`` by the external code."""
        values = self._values()
        if torch.is_grad_enabled():
            self._require_gradients(x, values)
        if self.bridge.linear:
            return derivatives.forward(self.bridge, x, values)
        if all(policy == "surrogate" for policy in self.bridge.policies.values()):
            return self._replaced(x, values)
        return derivatives.nonlinear(self.bridge, x, values)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Aᴴ y`` by the external code."""
        if not self.linear:
            return super().adjoint(y)
        values = self._values()
        if not self.bridge.linear:
            return super().adjoint(y)
        if torch.is_grad_enabled():
            self._require_gradients(None, values)
        return derivatives.adjoint(self.bridge, y, values)

    def learn(self, *names: str) -> list[nn.Parameter]:
        """Turn gradients on, or say what to supply where there is no way to them."""
        for name in names:
            if name in self.bridge.names:
                self._require_policy(name)
        return super().learn(*names)

    def _values(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in self.bridge.names)

    def _require_gradients(self, x: Tensor | None, values: tuple[Tensor, ...]) -> None:
        if x is not None and x.requires_grad:
            self._require_policy("x")
        for name, value in zip(self.bridge.names, values, strict=True):
            if value.requires_grad:
                self._require_policy(name)

    def _require_policy(self, name: str) -> None:
        policy, model = self.bridge.policies[name], self.bridge.model
        if policy is None:
            what = "its input" if name == "x" else f"its parameter {name!r}"
            supply = (
                "adjoint=… (or adjoint=Columns(), from the matrix of a small model)"
                if name == "x" and self.linear
                else "vjp=…, which returns {'x': …, " + repr(name) + ": …}"
                if name != "x"
                else "vjp=…"
            )
            raise GradientError(
                f"{self.name}: a gradient of {what} is needed, and nothing gives one. Supply "
                f"{supply}; or surrogate=…, a torch function; or "
                f"gradient={{{name!r}: FiniteDifference()}}"
            )
        if isinstance(policy, FiniteDifference):
            policy.require(self.domain.size if name == "x" else getattr(self, name).numel())
        if policy == "adjoint" and not model.has("adjoint") and model.columns is not None:
            model.columns.require(self.domain, self.range)

    def _replaced(self, x: Tensor, values: tuple[Tensor, ...]) -> Tensor:
        bridge = self.bridge
        assert bridge.surrogate is not None
        y = bridge.model.forward(x, bridge.named(values))
        if not torch.is_grad_enabled():
            return y
        stand_in = bridge.surrogate(x, **bridge.named(values))
        self.range.check(stand_in, f"{self.name}: output of the surrogate")
        replaced: Tensor = _Replace.apply(stand_in, y)
        return replaced


class _Replace(torch.autograd.Function):
    """The value of one tensor with the derivatives of another."""

    @staticmethod
    def forward(ctx: Any, derivative: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def external(
    forward: Function,
    adjoint: Function | Columns | None = None,
    vjp: Function | None = None,
    *,
    domain: Space,
    range: Space,
    linear: bool,
    accepts: Accepts = "numpy",
    gradient: PolicyName | Mapping[str, Policy] | None = None,
    jvp: Function | None = None,
    steps: Mapping[str, float] | None = None,
    surrogate: Surrogate | None = None,
    designs: Mapping[str, tuple[Tensor, FeasibleSet]] | None = None,
    nuisances: Mapping[str, Parameter] | None = None,
    threadsafe: bool = False,
    batched: bool = False,
    compute: torch.dtype | None = None,
    device: torch.device | str | None = None,
    writable: bool = False,
    setup: Callable[[torch.device], Any] | None = None,
    name: str | None = None,
) -> External:
    """An operator from functions that autograd can not see through.

    ``forward(x, **parameters)`` returns ``A(x)``; ``adjoint(y, **parameters)`` returns ``Aᴴ y``;
    ``vjp(x, v, **parameters)`` returns ``J(x)ᴴ v``, or ``{"x": …, name: …}`` with the gradients of
    ``Re⟨v, A(x)⟩`` by the parameters too (summed over the batch); ``jvp(x, u, **parameters)``
    returns ``J(x) u``. Arrays have the shape of their space, with one leading batch axis if
    ``batched``.

    A gradient that is needed and that no policy gives raises `GradientError`, which says what to
    supply. First and second derivatives are those of the functions given; where a nonlinear
    model is differentiated twice, and for derivatives by parameters twice, the second ones are
    central differences along one direction (two calls; error about ``ε^(2/3)``).

    Args:
        forward: the model.
        adjoint: its conjugate transpose, if it is linear; or `Columns`, to make the transpose from
            the matrix of a small model.
        vjp: see above; takes the place of ``adjoint`` for a linear model too.
        domain: space of ``x``.
        range: space of ``y``.
        linear: whether the model is linear in ``x`` over the reals.
        accepts: "numpy", "torch", "dlpack" or "cupy".
        gradient: where gradients come from: one of "adjoint", "vjp", "finite-difference",
            "surrogate" for all; or by name, ``{"x": "adjoint", "angles": FiniteDifference(1e-3)}``.
            By default what was given: adjoint, vjp, surrogate; parameters without any have none.
        jvp: makes second derivatives of a nonlinear model exact in ``v`` and cheaper.
        steps: steps of the differences that make second derivatives, ``{"x": 1e-9}``, in the unit
            of each; by default those of `FiniteDifference`.
        surrogate: ``surrogate(x, **parameters)`` in torch, for arrays with any leading batch
            axes: its derivatives stand for the model's.
        designs: acquisition parameters, ``{name: (value, feasible set)}``; handed to every
            function as keyword arguments.
        nuisances: calibration unknowns, in the same way.
        threadsafe: the functions may be called from several threads; otherwise calls wait for one
            another.
        batched: the functions take and return a leading batch axis.
        compute: the precision the code computes in, where it is not that of the spaces: arrays are
            converted to it and back.
        device: where the code computes, for torch, dlpack and cupy.
        writable: hand over copies that the functions may write to.
        setup: ``setup(device)`` makes a handle or context, once per process and device; the
            functions get it as their first argument. It is never pickled.
        name: used in messages; by default that of ``forward``.

    Raises:
        GradientError: a policy that the functions given can not follow.
        ValueError: parameters that the functions do not take, or an unknown kind of array.

    Example:
        >>> import numpy as np
        >>> running_sum = external(
        ...     np.cumsum,
        ...     lambda y: np.cumsum(y[::-1])[::-1].copy(),
        ...     domain=Space((4,)), range=Space((4,)), linear=True,
        ... )
        >>> x = torch.ones(4, requires_grad=True)
        >>> torch.autograd.grad(running_sum(x).sum(), x)[0]
        tensor([4., 3., 2., 1.])
    """
    columns = adjoint if isinstance(adjoint, Columns) else None
    written = None if isinstance(adjoint, Columns) else adjoint
    given = {"forward": forward, "adjoint": written, "vjp": vjp, "jvp": jvp}
    known = {key: function for key, function in given.items() if function is not None}
    name = name or name_of(forward)
    if adjoint is not None and not linear:
        raise LinearityError(f"{name}: a nonlinear model has no adjoint; give vjp=…")
    parameters: dict[str, Parameter] = {**(designs or {}), **(nuisances or {})}
    check_parameters(name, parameters, known)
    policies = choose_policies(name, gradient, tuple(parameters), known, columns, surrogate)
    if policies["x"] == "vjp":
        # What the policy does not name is not used.
        known.pop("adjoint", None)
        columns = None
    model = Model(
        name,
        known,
        domain,
        range,
        arrays=Arrays(accepts, None if device is None else torch.device(device), writable),
        compute=compute,
        batched=batched,
        threadsafe=threadsafe,
        setup=setup,
        columns=columns,
    )
    transposed = policies["x"] == "adjoint" or policies["x"] == "vjp"
    bridge = Bridge(
        model, tuple(parameters), policies, surrogate, linear and transposed, steps or {}
    )
    operator = External(bridge, linear, threadsafe)
    for key, (value, feasible) in (designs or {}).items():
        operator.design(key, value, feasible)
    for key, (value, free) in (nuisances or {}).items():
        operator.nuisance(key, value, free)
    return operator
