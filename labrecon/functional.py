"""Linear maps as autograd functions, and calls of an operator with other parameter values."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["Map", "call_with", "linear_function"]

Map = Callable[[Tensor], Tensor]


class _Linear(torch.autograd.Function):
    """A linear map whose derivative is its own differentiable transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, apply: Map, transpose: Map) -> Tensor:
        ctx.maps = apply, transpose
        return apply(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        apply, transpose = ctx.maps
        return linear_function(gradients[0], transpose, apply), None, None


def linear_function(x: Tensor, apply: Map, transpose: Map) -> Tensor:
    """Apply a linear map that autograd can not see through, differentiable to any order.

    ``apply`` and ``transpose`` (its conjugate transpose) may leave torch: a sparse matrix,
    ASTRA, a NumPy function. Each is used as the derivative of the other.

    Example:
        >>> m = torch.tensor([[1., 2.], [0., 1.]])
        >>> x = torch.ones(2, requires_grad=True)
        >>> y = linear_function(x, lambda v: m.detach() @ v, lambda v: m.detach().T @ v)
        >>> torch.autograd.grad(y.sum(), x)[0]
        tensor([1., 3.])
    """
    result: Tensor = _Linear.apply(x, _bound(apply), _bound(transpose))  # type: ignore[no-untyped-call]
    return result


class _Replaced(threading.local):
    """The values that `call_with` has put into operators, innermost last."""

    def __init__(self) -> None:
        self.stack: tuple[tuple[nn.Module, Mapping[str, Tensor]], ...] = ()


_replaced = _Replaced()


def _bound(function: Map) -> Map:
    """A function that finds the values of now when it is called later, in a backward pass."""
    stack = _replaced.stack
    if not stack or isinstance(function, _Bound):
        return function
    return _Bound(function, stack)


class _Bound:
    def __init__(
        self, function: Map, stack: tuple[tuple[nn.Module, Mapping[str, Tensor]], ...]
    ) -> None:
        self.function = function
        self.stack = stack

    def __call__(self, x: Tensor) -> Tensor:
        if _replaced.stack is self.stack:
            return self.function(x)
        apply = self.function
        for operator, values in reversed(self.stack):
            detached = {name: value.detach() for name, value in values.items()}
            apply = functools.partial(_within, operator, detached, apply)
        return apply(x)


def _within(operator: nn.Module, values: Mapping[str, Tensor], function: Map, x: Tensor) -> Tensor:
    result: Tensor = _called(operator, lambda _, x: function(x), values, x)
    return result


def call_with(
    operator: nn.Module, method: str, values: Mapping[str, Tensor], *args: Any, **options: Any
) -> Any:
    """Call ``operator.method(*args)`` with some of its parameters replaced by ``values``."""

    def function(operator: nn.Module, *args: Any, **options: Any) -> Any:
        return getattr(operator, method)(*args, **options)

    return _called(operator, function, values, *args, **options)


def _called(
    operator: nn.Module,
    function: Callable[..., Any],
    values: Mapping[str, Tensor],
    *args: Any,
    **options: Any,
) -> Any:
    """``function(operator, *args)`` while parameters of the operator are replaced."""
    replaced = {f"operator.{place}": value for place, value in _everywhere(operator, values)}
    before = _replaced.stack
    _replaced.stack = (*before, (operator, dict(values)))
    try:
        # Not by torch's own tying: where one operator is part of another twice, it would put the
        # value there for good.
        return functional_call(
            _Call(operator, function), replaced, args, options, tie_weights=False
        )
    finally:
        _replaced.stack = before


def _everywhere(operator: nn.Module, values: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    """Each place of the parameters to replace; one operator in several places counts once."""
    new: dict[int, Tensor] = {}
    for name, value in values.items():
        prefix, _, key = name.rpartition(".")
        # Within another such call it is a plain tensor, which get_parameter refuses.
        new[id(getattr(operator.get_submodule(prefix), key))] = value
    for prefix, module in operator.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in new:
                yield f"{prefix}.{key}".lstrip("."), new[id(parameter)]


class _Call(nn.Module):
    def __init__(self, operator: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.operator = operator
        self.function = function

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.function(self.operator, *args, **options)
