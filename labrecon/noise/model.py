"""What every noise can tell of data and their prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon.adjustable import Adjustable

__all__ = ["Noise", "NoiseError", "standard_normal"]


class NoiseError(ValueError):
    """Data that the declared noise can not have produced, or a quantity it does not have."""


class Noise(Adjustable):
    """One object for both uses of a noise model: drawing samples and judging a fit.

    What changes it and not the mean, such as the dose of each view, is a `design` of it.

    A subclass writes `sample` and `density`; `prox`, `curvature` and `variance` make more solvers
    and the residual statistics available.
    """

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noisy data whose mean is ``clean``; gradients reach ``clean`` where possible."""
        raise NoiseError(f"{type(self).__name__} does not define sample")

    def density(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """Negative log-likelihood of each sample, up to a constant that makes its minimum 0."""
        raise NoiseError(f"{type(self).__name__} does not define density")

    def nll(
        self,
        predicted: Tensor,
        measured: Tensor,
        weights: Tensor | None = None,
        ndim: int | None = None,
    ) -> Tensor:
        """``Σ w · density`` over the last ``ndim`` axes (default all): one number per element."""
        if weights is not None:
            # A sample without weight counts nothing, even where its density, or the derivative of
            # it, is infinite.
            counted = weights > 0
            predicted = torch.where(counted, predicted, measured.to(predicted.dtype))
            terms = torch.where(counted, weights * self.density(predicted, measured), 0.0)
        else:
            terms = self.density(predicted, measured)
        return terms.flatten(terms.ndim - (terms.ndim if ndim is None else ndim)).sum(-1)

    def score(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """Derivative of `density` by ``predicted``; by default automatic differentiation."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            point = (
                predicted.view_as(predicted)
                if predicted.requires_grad
                else predicted.detach().requires_grad_()
            )
            total = self.density(point, measured).sum()
            (g,) = torch.autograd.grad(total, point, create_graph=differentiable)
        return g

    def curvature(self, measured: Tensor) -> Tensor | float:
        """An upper bound on the second derivative of `density`, for safe step sizes."""
        raise NoiseError(
            f"{type(self).__name__} has no bounded curvature: use backtracking, or a solver that "
            "needs only its prox (ADMM, PDHG) or no step size (MLEM)"
        )

    def prox(self, v: Tensor, measured: Tensor, step: Tensor | float) -> Tensor:
        """``argmin_p step · density(p, measured) + ½|p − v|²`` for each sample."""
        raise NoiseError(f"{type(self).__name__} has no closed-form prox")

    def variance(self, predicted: Tensor) -> Tensor:
        """Variance of the data around ``predicted``, for normalised residuals."""
        raise NoiseError(f"{type(self).__name__} does not state its variance")

    def check(self, measured: Tensor) -> None:
        """Raise `NoiseError` on data this noise can not have produced (negative counts)."""


def standard_normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent normal numbers shaped as ``like``; real and imaginary part of variance 1."""
    device = generator.device if generator is not None else like.device
    n = torch.randn(like.shape, dtype=like.dtype, device=device, generator=generator)
    # torch gives a complex normal unit variance in all.
    return (n * 2**0.5 if like.is_complex() else n).to(like.device)
