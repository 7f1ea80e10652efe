"""Operators made of operators: ``A @ B``, ``A + B``, ``c * A``, ``A.H``, `stack`, `block`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.functional import Map, call_with
from labrecon.operator import LinearityError, Operator
from labrecon.space import Space, SpaceError

__all__ = ["block", "stack"]


class _Wrapper(Operator):
    """An operator made of others: linear if they are, with an adjoint as exact as the worst."""

    def __init__(self, domain: Space, range: Space, *parts: Operator) -> None:
        super().__init__(domain, range)
        self.linear = all(part.linear for part in parts)
        self.adjoint_mismatch = max((part.adjoint_mismatch for part in parts), default=0.0)


class Composition(_Wrapper):
    """``(A @ B)(x) = A(B(x))``."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        if outer.domain != inner.range:
            raise SpaceError(
                f"{outer.name} @ {inner.name}: {inner.name} returns {inner.range}, "
                f"{outer.name} takes {outer.domain}"
            )
        super().__init__(inner.domain, outer.range, outer, inner)
        self.outer = outer
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """``A(B(x))``."""
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """``Bᴴ(Aᴴ y)``."""
        return self.inner.adjoint(self.outer.adjoint(y))

    def pullback(self, x: Tensor) -> tuple[Tensor, Map]:
        """``A(B(x))`` and ``v ↦ J_B(x)ᴴ J_A(B x)ᴴ v``."""
        z, pull_inner = self.inner.pullback(x)
        y, pull_outer = self.outer.pullback(z)
        return y, lambda v: pull_inner(pull_outer(v))


class Sum(_Wrapper):
    """``(A + B)(x) = A(x) + B(x)``."""

    def __init__(self, left: Operator, right: Operator) -> None:
        if left.domain != right.domain or left.range != right.range:
            raise SpaceError(
                f"{left.name} + {right.name}: their spaces differ: {left.domain} to {left.range}, "
                f"and {right.domain} to {right.range}"
            )
        super().__init__(left.domain, left.range, left, right)
        self.left = left
        self.right = right

    def forward(self, x: Tensor) -> Tensor:
        """``A(x) + B(x)``."""
        return self.left(x) + self.right(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """``Aᴴ y + Bᴴ y``."""
        return self.left.adjoint(y) + self.right.adjoint(y)


class Scaled(_Wrapper):
    """``(c A)(x) = c A(x)`` for a scalar ``c``; a tensor ``c`` is differentiable."""

    def __init__(self, factor: complex | Tensor, operator: Operator) -> None:
        super().__init__(operator.domain, operator.range, operator)
        value = torch.as_tensor(factor)
        if value.ndim:
            raise SpaceError(f"c * {operator.name}: c must be a scalar, got {tuple(value.shape)}")
        if value.is_complex() and not operator.range.dtype.is_complex:
            raise SpaceError(f"c * {operator.name}: c is complex and the range is real")
        if isinstance(factor, nn.Parameter):
            self.factor: complex | Tensor = factor
        else:
            self.factor = value.item() if not isinstance(factor, Tensor) else factor
        self.operator = operator

    def _loose(self) -> Iterable[Tensor]:
        return (self.factor,) if isinstance(self.factor, Tensor) else ()

    def forward(self, x: Tensor) -> Tensor:
        """``c A(x)``."""
        return self.factor * self.operator(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """``conj(c) Aᴴ y``."""
        conjugate = (
            self.factor.conj() if isinstance(self.factor, Tensor) else (self.factor.conjugate())
        )
        return self.operator.adjoint(conjugate * y)

    def initial(self, y: Tensor) -> Tensor:
        """The operator's own first estimate for ``y / c``: a scaled projector keeps its FBP."""
        if self.factor == 0:
            return super().initial(y)
        return self.operator.initial(y / self.factor)


class Adjoint(_Wrapper):
    """``A.H``: the adjoint of a linear operator, as an operator."""

    def __init__(self, operator: Operator) -> None:
        if not operator.linear:
            raise LinearityError(f"{operator.name} is nonlinear and has no adjoint")
        super().__init__(operator.range, operator.domain, operator)
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        """``Aᴴ x``."""
        return self.operator.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """``A y``."""
        return self.operator(y)


class Linearized(_Wrapper):
    """The Jacobian ``J(x)`` of an operator at ``x``."""

    def __init__(self, operator: Operator, x: Tensor) -> None:
        super().__init__(operator.domain, operator.range, operator)
        self.linear = True
        self.operator = operator
        self.point = x

    def _loose(self) -> Iterable[Tensor]:
        return (self.point,)

    def forward(self, x: Tensor) -> Tensor:
        """``J(point) x``."""
        return self.operator.jvp(self.point, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """``J(point)ᴴ y``."""
        return self.operator.vjp(self.point, y)


class At(_Wrapper):
    """An operator with other values of its designs or nuisances; gradients reach the values."""

    def __init__(self, operator: Operator, values: Mapping[str, Tensor]) -> None:
        super().__init__(operator.domain, operator.range, operator)
        self.operator = operator
        self.values = dict(values)
        self._fixed = tuple(self.values)

    def at(self, **values: Tensor) -> Operator:
        """The same operator with these values in place of its own of the same name."""
        self._require_known(values, {**self.designs, **self.nuisances})
        new = {name.removeprefix("operator."): value for name, value in values.items()}
        return At(self.operator, {**self.values, **new})

    def _loose(self) -> Iterable[Tensor]:
        return self.values.values()

    def forward(self, x: Tensor) -> Tensor:
        """``A(x; values)``."""
        result: Tensor = call_with(self.operator, "__call__", self.values, x)
        return result

    def adjoint(self, y: Tensor) -> Tensor:
        """``A(values)ᴴ y``."""
        result: Tensor = call_with(self.operator, "adjoint", self.values, y)
        return result

    def normal(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The operator's own ``Aᴴ W A``, with the values."""
        result: Tensor = call_with(self.operator, "normal", self.values, x, weights)
        return result

    def solve(self, rhs: Tensor, rho: Tensor | float, **options: Any) -> Tensor:
        """The operator's own solve, with the values."""
        result: Tensor = call_with(self.operator, "solve", self.values, rhs, rho, **options)
        return result

    def initial(self, y: Tensor) -> Tensor:
        """The operator's own first estimate, with the values."""
        result: Tensor = call_with(self.operator, "initial", self.values, y)
        return result


class Stack(_Wrapper):
    """``x ↦ (A₁ x, A₂ x, …)``.

    Ranges of one shape are stacked along a new leading axis; others are flattened and
    concatenated. `split` gives the parts back either way.
    """

    def __init__(self, operators: Sequence[Operator]) -> None:
        if not operators:
            raise SpaceError("stack needs at least one operator")
        first = operators[0]
        for other in operators[1:]:
            if other.domain != first.domain or other.range.dtype != first.range.dtype:
                raise SpaceError(
                    f"stack: {other.name} maps {other.domain} to {other.range.dtype}, "
                    f"{first.name} maps {first.domain} to {first.range.dtype}"
                )
        self_ranges = [a.range for a in operators]
        self_uniform = all(a.range.shape == first.range.shape for a in operators)
        if self_uniform:
            target = Space(
                (len(operators), *first.range.shape),
                first.range.dtype,
                ("operator", *first.range.axes),
            )
        else:
            target = Space((sum(r.size for r in self_ranges),), first.range.dtype, ("sample",))
        super().__init__(first.domain, target, *operators)
        self.uniform = self_uniform
        self.parts = nn.ModuleList(operators)
        self.ranges = self_ranges

    def split(self, y: Tensor) -> list[Tensor]:
        """The part of ``y`` that belongs to each operator, in its own shape."""
        if self.uniform:
            return list(y.unbind(y.ndim - self.range.ndim))
        pieces = torch.split(y, [r.size for r in self.ranges], dim=-1)
        return [
            p.reshape(*p.shape[:-1], *r.shape) for p, r in zip(pieces, self.ranges, strict=True)
        ]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`."""
        if self.uniform:
            return torch.stack(list(parts), dim=parts[0].ndim - self.ranges[0].ndim)
        flat = [
            p.reshape(*p.shape[: p.ndim - r.ndim], math.prod(r.shape))
            for p, r in zip(parts, self.ranges, strict=True)
        ]
        return torch.cat(flat, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """``(A₁ x, A₂ x, …)``."""
        return self.join([part(x) for part in self.parts])

    def adjoint(self, y: Tensor) -> Tensor:
        """``Σᵢ Aᵢᴴ yᵢ``."""
        terms = [
            part.adjoint(piece)
            for part, piece in zip(self._operators(), self.split(y), strict=True)
        ]
        return torch.stack(terms).sum(0)

    def _operators(self) -> list[Operator]:
        return [part for part in self.parts if isinstance(part, Operator)]


class Zero(Operator):
    """The zero map between two spaces."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros, connected to ``x`` so that derivatives are zeros too."""
        return self.range.zeros(*self.domain.batch(x), device=x.device) + _nothing(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Zeros."""
        return self.domain.zeros(*self.range.batch(y), device=y.device) + _nothing(y)


def _nothing(x: Tensor) -> Tensor:
    """The sum of no samples of ``x``: 0, also where ``x`` is infinite."""
    return x.reshape(-1)[:0].real.sum()


def stack(operators: Sequence[Operator]) -> Stack:
    """``x ↦ (A₁ x, A₂ x, …)``: several measurements of one object.

    Raises:
        SpaceError: the operators do not share a domain and a range dtype.
    """
    return Stack(operators)


def block(rows: Sequence[Sequence[Operator | None]]) -> Operator:
    """A matrix of linear operators ``[[A, B], [C, D]]``; ``None`` is a zero block.

    The domain holds the inputs of the columns as `stack` holds outputs: along a new leading axis
    if they have one shape, else flattened and concatenated.

    Raises:
        SpaceError: a row or column holds no operator, or the spaces in it differ.
    """
    if len({len(row) for row in rows}) != 1:
        raise SpaceError("block: rows of different length")
    ranges = [_shared([a.range for a in row if a is not None], "row") for row in rows]
    columns = zip(*rows, strict=True)
    domains = [_shared([a.domain for a in col if a is not None], "column") for col in columns]
    filled = [
        [Zero(domains[j], ranges[i]) if a is None else a for j, a in enumerate(row)]
        for i, row in enumerate(rows)
    ]
    return stack([stack([a.H for a in row]).H for row in filled])


def _shared(spaces: list[Space], line: str) -> Space:
    if not spaces or any(space != spaces[0] for space in spaces):
        raise SpaceError(f"block: the operators of a {line} need one space, got {spaces}")
    return spaces[0]
