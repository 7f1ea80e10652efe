"""Reconstructor: what makes an image of a problem, trained or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from labrecon.problem import Problem

__all__ = ["Reconstruction", "Reconstructor"]


@dataclass(frozen=True)
class Reconstruction:
    """What a `Reconstructor` made of a problem.

    Attributes:
        x: the reconstruction ``(*batch, *domain.shape)``.
        losses: terms for training by name, scalars summed over layers (ISTA-Net's symmetry).
        told: numbers about how it went: iterations, residual, an estimate of the contraction.
        status: "done", or why it ended otherwise ("not converged").
        trace: the estimate after each layer, where it was asked for.
    """

    x: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    told: Mapping[str, float] = field(default_factory=dict)
    status: str = "done"
    trace: tuple[Tensor, ...] = ()


class Reconstructor(nn.Module):
    """A map from a problem to an estimate: unrolled, in equilibrium, learned, or classical.

    A subclass writes `reconstruct`. The operator comes with the problem, so that a network trained
    on one acquisition can be tried on another, and gradients reach a design of the operator.

    Attributes:
        loss_weights: of the terms in `Reconstruction.losses` when it is trained.
    """

    loss_weights: Mapping[str, float] = {}

    def reconstruct(
        self, problem: Problem, x0: Tensor | None = None, *, trace: bool = False
    ) -> Reconstruction:
        """The estimate with what is to be known about it.

        Args:
            problem: operator, data, noise.
            x0: first estimate; by default the reconstructor's own.
            trace: also return the estimate after each layer.
        """
        raise TypeError(f"{type(self).__name__} does not define reconstruct")

    def forward(self, problem: Problem, x0: Tensor | None = None) -> Tensor:
        """The estimate."""
        return self.reconstruct(problem, x0).x
