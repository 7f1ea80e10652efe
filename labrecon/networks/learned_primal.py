"""What the learned primal-dual method becomes with simpler updates (Adler and Öktem 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labrecon.networks.learned_primal_dual import LearnedPrimalDual, norm_of
from labrecon.networks.unrolled import Unrolled
from labrecon.networks.update_network import update_network
from labrecon.options import whole
from labrecon.priors.channels import channel_count
from labrecon.problem import Problem
from labrecon.seeds import seeded
from labrecon.solver import SolverError

__all__ = [
    "ChambollePockDual",
    "ChambollePockPrimal",
    "ResidualDual",
    "make_learned_chambolle_pock",
    "make_learned_primal",
]


class ResidualDual(nn.Module):
    """``Γ(h, Âf, ŷ) = Âf − ŷ − h``, with which the dual is the residual."""

    def forward(self, channels: Tensor) -> Tensor:
        """``(batch, 3c, *data)`` to ``(batch, c, *data)``."""
        dual, predicted, measured = channels.chunk(3, 1)
        return predicted - measured - dual


class ChambollePockDual(nn.Module):
    """``Γ(h, Âf̄, ŷ) = net(h + σ Âf̄, ŷ)`` with a learned ``σ``.

    Args:
        network: from two data arrays to one, as real channels.
        sigma: the first ``σ``.
    """

    def __init__(self, network: nn.Module, sigma: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self.sigma = nn.Parameter(torch.tensor(sigma))

    def forward(self, channels: Tensor) -> Tensor:
        """``(batch, 3c, *data)`` to ``(batch, c, *data)``."""
        dual, predicted, measured = channels.chunk(3, 1)
        update: Tensor = self.network(torch.cat([dual + self.sigma * predicted, measured], 1))
        return update


class ChambollePockPrimal(nn.Module):
    """``Δ = net(f − τ Âᴴh)`` for ``f``, with its extrapolation ``f̄ = f + Δ + θΔ`` beside it.

    Args:
        network: from one image to one, as real channels.
        tau: the first ``τ``.
        theta: the first ``θ``.
    """

    def __init__(self, network: nn.Module, tau: float = 0.5, theta: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.tau = nn.Parameter(torch.tensor(tau))
        self.theta = nn.Parameter(torch.tensor(theta))

    def forward(self, channels: Tensor) -> Tensor:
        """``(batch, 3c, *image)`` to ``(batch, 2c, *image)``."""
        f, ahead, back = channels.chunk(3, 1)
        change = self.network(f - self.tau * back)
        return torch.cat([change, f + (1 + self.theta) * change - ahead], 1)


def make_learned_primal(
    problem: Problem,
    *,
    depth: int = 10,
    features: int = 32,
    primal: int = 5,
    scale: float = 1.0,
    seed: int = 0,
) -> Unrolled:
    """Learned updates of the object only: ``f ← f + Λ(f, Âᴴ(Âf⁽²⁾ − ŷ))``.

    Half the parameters of `make_lpd`, whose arguments it takes, and about 1 dB behind it in the
    paper.

    Raises:
        SolverError: a number is wrong, or the operator is nonlinear.
    """
    operator = problem.operator
    axes, each = min(2, operator.domain.ndim), channel_count(operator.domain.dtype)
    depth = whole("depth", depth, error=SolverError)
    primal = whole("primal", primal, error=SolverError)
    options: dict[str, Any] = {"features": features, "activation": "prelu"}
    with seeded(seed):
        networks = [
            update_network(axes, each * (primal + 1), each * primal, **options)
            for _ in range(depth)
        ]
    solver = LearnedPrimalDual(
        nn.ModuleList(networks).to(operator.domain.real_dtype),
        ResidualDual(),
        primal=primal,
        dual=1,
        axes=axes,
        data_axes=min(2, operator.range.ndim),
        norm=norm_of(operator),
        scale=scale,
    )
    return Unrolled(solver, depth)


def make_learned_chambolle_pock(
    problem: Problem,
    *,
    depth: int = 10,
    features: int = 32,
    scale: float = 1.0,
    seed: int = 0,
) -> Unrolled:
    """PDHG with networks as its two proxes, the same in all layers, and learned ``σ, τ, θ``.

    The smallest of the family (20 133 parameters) and the weakest in the paper.

    Raises:
        SolverError: a number is wrong, or the operator is nonlinear.
    """
    operator = problem.operator
    axes, data_axes = min(2, operator.domain.ndim), min(2, operator.range.ndim)
    each, each_data = channel_count(operator.domain.dtype), channel_count(operator.range.dtype)
    options: dict[str, Any] = {"features": features, "activation": "prelu"}
    with seeded(seed):
        dual = update_network(data_axes, 2 * each_data, each_data, **options)
        primal = update_network(axes, each, each, **options)
    solver = LearnedPrimalDual(
        ChambollePockPrimal(primal).to(operator.domain.real_dtype),
        ChambollePockDual(dual).to(operator.range.real_dtype),
        primal=2,
        dual=1,
        axes=axes,
        data_axes=data_axes,
        norm=norm_of(operator),
        scale=scale,
    )
    return Unrolled(solver, depth)
