"""Learned gradient descent (Adler and Öktem 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labrecon.networks.safe_step import safe_step
from labrecon.networks.unrolled import Unrolled
from labrecon.networks.update_network import update, update_network
from labrecon.options import number, whole
from labrecon.priors.channels import channel_count, from_channels, to_channels
from labrecon.priors.tv import gradient_of
from labrecon.problem import Problem
from labrecon.seeds import seeded
from labrecon.solver import Solver, SolverError, State, pick
from labrecon.space import Space

__all__ = ["LearnedGradientDescent", "make_lgd"]


@dataclass(frozen=True)
class LearnedGradientState(State):
    """Iterate, and channels ``(*lead, memory, *image)`` that the network keeps for itself."""

    x: Tensor
    memory: Tensor


class LearnedGradientDescent(Solver):
    """``(Δx, m) = Λ(x, τ∇D(x), ∇R(x), m)``, ``x ← x + Δx``, ``m ← max(m, 0)``.

    The network ``Λ`` sees the gradient of the data term and that of ``R(x) = ½‖∇x‖²``, and keeps a
    memory, which starts at 0 (Adler and Öktem 2017, algorithm 1: "partially learned gradient
    descent"). ``D`` may be any data term: a nonlinear operator, Poisson counts, weights. Start from
    a direct inversion. Not where measured and trained differ in noise or geometry: what the steps
    converge to is learned, not stated.

    Args:
        network: from ``3 + memory_images`` images to ``1 + memory_images``, as real channels
            ``(batch, channels, *image)``; one for all layers, or a list of one each.
        memory_images: how many images the memory holds.
        axes: image axes; leading ones (slices) are treated one by one.
        step_size: ``τ``, which makes the gradient as large as the object: ``1 / L``.
        scale: typical size of the object's values; the network sees ``x / scale``.

    Raises:
        SolverError: a number is wrong.
    """

    state_type = LearnedGradientState

    def __init__(
        self,
        network: nn.Module | nn.ModuleList,
        *,
        memory_images: int = 5,
        axes: int = 2,
        step_size: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.memory_images = whole("memory_images", memory_images, error=SolverError)
        self.axes = whole("axes", axes, error=SolverError)
        self.step_size = number("step_size", step_size, above=0, error=SolverError)
        self.scale = number("scale", scale, above=0, error=SolverError)

    def init(self, problem: Problem, x0: Tensor | None = None) -> LearnedGradientState:
        """``x0`` or zeros, and an empty memory."""
        x = self.start(problem, x0)
        if self.axes > problem.operator.domain.ndim:
            raise SolverError(
                f"{self.name}: {self.axes} image axes of an object with "
                f"{problem.operator.domain.ndim}"
            )
        one = to_channels([x], self.axes)
        return LearnedGradientState(
            0, x, torch.zeros_like(torch.cat([one] * self.memory_images, self._at))
        )

    @property
    def _at(self) -> int:
        """The channel axis, counted from the end."""
        return -self.axes - 1

    def step(
        self, problem: Problem, state: LearnedGradientState
    ) -> tuple[LearnedGradientState, dict[str, Any]]:
        """One learned step."""
        x = state.x
        gradient = self.step_size * problem.gradient(x)
        nabla = gradient_of(Space(x.shape[-self.axes :], x.dtype), self.axes, None)
        images = to_channels([x, gradient, nabla.normal(x)], self.axes) / self.scale
        channels = torch.cat([images, state.memory], self._at)
        each = channel_count(x.dtype)
        made = update(
            pick(self.network, state.k), channels, self.axes, each * (1 + self.memory_images)
        )
        change, memory = made.split([each, each * self.memory_images], self._at)
        (moved,) = from_channels(self.scale * change, x.dtype, self.axes)
        return LearnedGradientState(state.k + 1, x + moved, memory.relu()), {}


def make_lgd(
    problem: Problem,
    *,
    depth: int = 10,
    features: int = 32,
    memory_images: int = 5,
    tied: bool = True,
    step_size: float | None = None,
    scale: float = 1.0,
    seed: int = 0,
) -> Unrolled:
    """Learned gradient descent from the operator's own first estimate, for any operator.

    Args:
        problem: an example: its operator gives axes, dtype and step size.
        depth: number of layers.
        features: channels between the convolutions.
        memory_images: how many a layer hands to the next beside ``x``.
        tied: one network for all layers, as published, or one each.
        step_size: of the gradient that the network sees; None for ``1 / L`` (linear operators).
        scale: typical size of the object's values.
        seed: of the first weights.

    Raises:
        SolverError: a number is wrong, or a nonlinear operator comes without a step size.
    """
    domain = problem.operator.domain
    axes, each = min(2, domain.ndim), channel_count(domain.dtype)
    depth = whole("depth", depth, error=SolverError)
    memory_images = whole("memory_images", memory_images, error=SolverError)
    with seeded(seed):
        made = [
            update_network(
                axes, each * (3 + memory_images), each * (1 + memory_images), features=features
            )
            for _ in range(1 if tied else depth)
        ]
    network: nn.Module = made[0] if tied else nn.ModuleList(made)
    solver = LearnedGradientDescent(
        network.to(domain.real_dtype),
        memory_images=memory_images,
        axes=axes,
        step_size=safe_step(problem) if step_size is None else step_size,
        scale=scale,
    )
    return Unrolled(solver, depth, start="initial")
