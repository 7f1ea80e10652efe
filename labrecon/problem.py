"""Problem: everything a reconstruction is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from labrecon.noise import Gaussian, Noise
from labrecon.operator import LinearityError, Operator

__all__ = ["Problem", "SolverError"]


class SolverError(ValueError):
    """The solver can not treat this problem, or was given numbers that make no sense."""


class Prepared(NamedTuple):
    """What does not change in a solve with ``∇D(x) = curvature · (AᴴWA x − AᴴWy)``."""

    normal: Callable[[Tensor], Tensor]
    backprojection: Tensor
    curvature: Tensor | float


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that is given: operator, measured data, noise and optional weights.

    The data term is ``D(x) = Σ w · density(A(x), y)``; with the default `Gaussian` of unit
    standard deviation it is ``½ ‖A x − y‖²_W``.

    Args:
        operator: the instrument.
        data: measured data ``(*batch, *operator.range.shape)``.
        noise: how the data scatter.
        weights: non-negative, broadcast to ``data``; 0 marks a bad sample.
        back: replaces ``Aᴴ`` in the data gradient (learned or analytic weights).
        prepared: left to `prepare`.
    """

    operator: Operator
    data: Tensor
    noise: Noise = field(default_factory=Gaussian)
    weights: Tensor | None = None
    back: Callable[[Tensor], Tensor] | None = None
    prepared: Prepared | None = None

    def __post_init__(self) -> None:
        space = self.operator.range
        space.check(self.data, f"{self.operator.name}: measured data")
        if self.weights is not None:
            try:
                torch.broadcast_to(self.weights, self.data.shape)
            except RuntimeError as error:
                raise SolverError(
                    f"weights {tuple(self.weights.shape)} do not fit data {tuple(self.data.shape)}"
                ) from error

    @property
    def batch(self) -> tuple[int, ...]:
        """Leading batch dimensions of the data."""
        return self.operator.range.batch(self.data)

    def validate(self) -> None:
        """Raise on NaN or infinite data, on impossible counts and on negative weights."""
        bad = ~torch.isfinite(self.data)
        if bool(bad.any()):
            raise SolverError(
                f"{int(bad.sum())} of {bad.numel()} measured samples are NaN or infinite; give "
                "them a finite value and weight 0 (a bad-pixel mask)"
            )
        self.noise.check(self.data)
        if self.weights is not None and not bool(
            (torch.isfinite(self.weights) & (self.weights >= 0)).all()
        ):
            raise SolverError("weights must be finite and not negative")

    def weighted(self, samples: Tensor) -> Tensor:
        """``w · samples``; 0 where the weight is 0, whatever the sample."""
        if self.weights is None:
            return samples
        return torch.where(self.weights > 0, self.weights * samples, 0.0)

    def loss(self, x: Tensor) -> Tensor:
        """``D(x)``: one number per batch element."""
        return self.noise.nll(self.operator(x), self.data, self.weights, self.operator.range.ndim)

    @cached_property
    def _closed_form(self) -> bool:
        cheap_normal = type(self.operator).normal is not Operator.normal
        return (
            cheap_normal
            and self.operator.linear
            and self.back is None
            and isinstance(self.noise, Gaussian)
            and self.noise.sigma.ndim == 0
        )

    def prepare(self) -> Problem:
        """The same problem with all at hand that the gradient needs in each step.

        It is computed here, for one solve, rather than cached: a cached one would go stale when
        the operator's parameters, or whether they need gradients, change.
        """
        if not self._closed_form or self.prepared is not None:
            return self
        return replace(self, prepared=self._prepared())

    def _prepared(self) -> Prepared:
        return Prepared(
            self.operator.normal_map(self.weights),
            self.operator.adjoint(self.weighted(self.data)),
            self.noise.curvature(self.data),
        )

    def gradient(self, x: Tensor, back: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``∇D(x)``, differentiable as often as the operator is.

        Linear operator and Gaussian noise with a cheap ``AᴴWA`` use that; everything else is
        ``J(x)ᴴ (w · score)``, or ``back`` (by default the problem's own) in place of ``Jᴴ``.
        """
        back = self.back if back is None else back
        if back is None and self._closed_form:
            normal, b, scale = self._prepared() if self.prepared is None else self.prepared
            g = normal(x) - b
            return g if isinstance(scale, float) and scale == 1.0 else g * scale
        predicted, pull = self.operator.pullback(x)
        score = self.weighted(self.noise.score(predicted, self.data))
        return pull(score) if back is None else back(score)

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``D(x)`` and ``∇D(x)`` from one application of the operator."""
        predicted, pull = self.operator.pullback(x)
        loss = self.noise.nll(predicted, self.data, self.weights, self.operator.range.ndim)
        score = self.weighted(self.noise.score(predicted, self.data))
        return loss, pull(score) if self.back is None else self.back(score)

    def lipschitz(self) -> float | Tensor:
        """A bound on ``‖∇²D‖`` for a linear operator: ``‖A‖² max(w · curvature)``, plus 1 %.

        A number, or ``(*batch)`` where weights or noise differ between batch elements.

        Raises:
            LinearityError: the operator is nonlinear.
            NoiseError: the curvature of the noise is unbounded.
        """
        if not self.operator.linear:
            raise LinearityError(
                f"{self.operator.name} is nonlinear: give the solver a step_size or backtracking"
            )
        curvature = self.weighted(
            torch.as_tensor(self.noise.curvature(self.data), dtype=self.data.real.dtype)
        )
        # Power iteration approaches the norm from below.
        scale = 1.01 * self.operator.norm() ** 2
        ndim = self.operator.range.ndim
        if curvature.ndim > ndim:
            curvature = curvature.expand(self.data.shape)
            each = scale * curvature.amax(tuple(range(-ndim, 0)))
        else:
            each = scale * curvature.amax()
        if not bool(((each > 0) & (each < math.inf)).all()):
            raise SolverError(
                f"the data term has curvature {each.tolist()}: the operator, or every weight, is "
                "zero"
            )
        # One number where it does for all: the usual case, and the faster one.
        return float(each.max()) if float(each.max()) == float(each.min()) else each
