"""Chains of samples: their mean, their spread, and whether they agree."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from labrecon.problem import SolverError
from labrecon.solver import State, constant

__all__ = ["ChainState", "Mixing", "iteration_generator", "standard_normal"]


@dataclass(frozen=True)
class Mixing:
    """Whether the chains agree.

    Attributes:
        rhat: Gelman and Rubin's, pooled over the object: 1 where chains can not be told apart.
            Above 1.05 they have not forgotten where they began: take more iterations.
        rhat_worst: the largest of a single sample of the object; noisy for few chains.
        effective: the number of independent samples with the same error of the mean.
    """

    rhat: float
    rhat_worst: float
    effective: float


@dataclass(frozen=True)
class ChainState(State):
    """Chains, and what is kept of their samples: ``(chain, *batch, *object)`` each.

    Attributes:
        x: the last samples.
        mean: of the samples that were kept.
        scatter: ``Σ |x − mean|²`` of them, real.
        accepted: number of proposals that each chain and batch element took ``(chain, *batch)``.
        kept: number of samples kept of each chain.
        curvature: largest of the data term; 0 where it is not known.
        step_size: ``δ``.
    """

    x: Tensor
    mean: Tensor
    scatter: Tensor
    accepted: Tensor
    kept: int
    curvature: float
    step_size: Tensor | float = constant()

    def keep(self) -> Self:
        """The state with its last samples counted (Welford 1962)."""
        kept = self.kept + 1
        before = self.x - self.mean
        mean = self.mean + before / kept
        scatter = self.scatter + (before.conj() * (self.x - mean)).real
        return self.replace(kept=kept, mean=mean, scatter=scatter)

    def deviation(self) -> Tensor:
        """The standard deviation of the posterior ``(*batch, *object)``, real.

        From the variance within chains and between their means (Gelman and Rubin 1992). Of complex
        objects ``√(E|x − mean|²)``, of both parts together.

        Raises:
            SolverError: fewer than two samples were kept.
        """
        within, between = self._variances()
        return ((self.kept - 1) / self.kept * within + between).sqrt()

    def mixing(self) -> Mixing | None:
        """Whether the chains agree; None for a single one.

        Raises:
            SolverError: fewer than two samples were kept.
        """
        within, between = self._variances()
        chains, n, tiny = len(self.mean), self.kept, torch.finfo(within.dtype).tiny
        if chains < 2:
            return None
        each = ((n - 1) / n + between / within.clamp_min(tiny)).sqrt()
        ratio = float(between.double().sum() / within.double().sum().clamp_min(tiny))
        effective = min(chains / max(ratio, tiny), float(chains * n))
        return Mixing(math.sqrt((n - 1) / n + ratio), float(each.max()), effective)

    def _variances(self) -> tuple[Tensor, Tensor]:
        """Within chains, and between their means."""
        if self.kept < 2:
            raise SolverError(
                f"{self.kept} samples were kept of {self.k} iterations, two at least are needed: "
                "take more iterations, or a shorter burn_in"
            )
        within = self.scatter.mean(0) / (self.kept - 1)
        if len(self.mean) < 2:
            return within, torch.zeros_like(within)
        off = (self.mean - self.mean.mean(0)).abs().square()
        return within, off.sum(0) / (len(off) - 1)


def iteration_generator(seed: int, k: int, what: str, device: torch.device) -> torch.Generator:
    """A generator for one iteration: nothing of it is carried on, so that a state is enough."""
    digest = hashlib.blake2b(f"{seed} {k} {what}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def standard_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal samples, of the real and of the imaginary part each."""
    n = torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
    return 2**0.5 * n if like.is_complex() else n
