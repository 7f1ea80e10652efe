"""Burst super-resolution: image and motions estimated together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from labrecon.operator import Operator
from labrecon.operators.burst import Burst
from labrecon.options import flag, number, whole
from labrecon.prior import Prior, Zero
from labrecon.problem import Problem
from labrecon.schedule import number_at, pick
from labrecon.solver import Schedule, Solver, SolverError, State, constant
from labrecon.solvers.gradient import optional_step, require_step
from labrecon.solvers.motion_step import masked, motion_step
from labrecon.solvers.registration import RegistrationError, register
from labrecon.space import per_element

__all__ = ["LucasKanade", "LucasKanadeState"]

#: Where motions come from at first.
Start = Literal["register", "given"]
#: What is done with frames whose motion the data do not tell.
Lost = Literal["raise", "drop"]


@dataclass(frozen=True)
class LucasKanadeState(State):
    """Image, its copy near the data, motions in pixels of the frames, frames used, ``‖∇²D‖``."""

    x: Tensor
    z: Tensor
    motion: Tensor
    used: Tensor = constant()
    lipschitz: Tensor | float = constant()


class LucasKanade(Solver):
    """Joint half-quadratic splitting over image and motions (Lecouat, Ponce and Mairal 2021).

    ``½‖y − U_p z‖² + ½μ‖z − x‖² + g(x)`` for a [`Burst`][labrecon.operators.burst.Burst] ``U_p``:
    ``inner`` gradient steps in ``z``, a Gauss–Newton step in the motion of each frame, the prox of
    ``g``. Frame 0 defines where the image is: its motion stays. Pixels that see beyond the image's
    border have no weight. Every batch element has motions of its own.

    Motions start from `labrecon.solvers.registration.register`. A frame that it can not register,
    for want of texture, because it shows something else or is of another exposure, is an error or
    is left out. Not for motions that bend within a frame, nor for scenes in which things move.

    Args:
        prior: ``g``, or one per layer.
        mu: coupling, relative to the curvature ``‖∇²D‖`` of the data term; a number or a
            `Schedule`.
        growth: factor of ``mu`` per iteration.
        step_size: of the gradient steps, in the same unit: ``η / ‖∇²D‖``; None for
            ``1 / (1 + μ)``.
        inner: gradient steps per iteration.
        joint: estimate motions in the iterations, too; else the first ones stay.
        start: "register", or "given": the operator's own motions.
        lost: "raise", or "drop": leave frames without a motion out.
        damping: of the Gauss–Newton steps, as a fraction of the diagonal.

    Raises:
        SolverError: an option is wrong.
    """

    state_type = LucasKanadeState
    needs_linear = True
    needs_exact_adjoint = True

    def __init__(
        self,
        *,
        prior: Prior | nn.ModuleList | None = None,
        mu: float | Schedule = 0.1,
        growth: float = 1.0,
        step_size: float | Schedule | None = None,
        inner: int = 3,
        joint: bool = True,
        start: Start = "register",
        lost: Lost = "raise",
        damping: float = 1e-6,
    ) -> None:
        super().__init__()
        self.prior: nn.Module = Zero() if prior is None else prior
        self.mu = require_step(mu, "mu")
        self.growth = number("LucasKanade: growth", growth, at_least=1, error=SolverError)
        self.step_size = optional_step(step_size)
        self.inner = whole("LucasKanade: inner", inner, error=SolverError)
        self.joint = flag("LucasKanade: joint", joint, error=SolverError)
        self.beginning = _one_of("start", start, get_args(Start))
        self.lost = _one_of("lost", lost, get_args(Lost))
        self.damping = number("LucasKanade: damping", damping, at_least=0, error=SolverError)

    def check(self, problem: Problem) -> None:
        """Raise `SolverError` for operators other than a `Burst`."""
        super().check(problem)
        if not isinstance(problem.operator, Burst):
            raise SolverError(
                f"LucasKanade estimates the motions of a Burst; {problem.operator.name} is none. "
                "Describe the camera by an operator of one frame, and wrap it: Burst(camera, "
                "frames)"
            )

    def init(self, problem: Problem, x0: Tensor | None = None) -> LucasKanadeState:
        """Motions by registration, and ``x0``, by default the mean of the frames moved back.

        Raises:
            RegistrationError: a frame has no motion that the data tell.
        """
        operator = _burst(problem)
        batch = problem.batch
        used = problem.data.real.new_ones(*batch, operator.range.shape[0])
        motion = operator.motion.detach().expand(*batch, *operator.motion.shape)
        if self.beginning == "register":
            motion, used = self._registered(problem, operator)
        weights = _weights(problem, used)
        x = self.start(problem, x0)
        if x0 is None:
            x = first_image(operator, problem.data, motion, masked(operator, weights, motion))
        curvature = problem.weighted(torch.as_tensor(problem.noise.curvature(problem.data)))
        frames = operator.range.shape[0]
        largest = float(curvature.amax()) * frames * operator.camera.norm() ** 2
        return LucasKanadeState(0, x, x, motion, used, 1.02 * largest)

    def _registered(self, problem: Problem, operator: Burst) -> tuple[Tensor, Tensor]:
        found = register(operator, problem.data, problem.weights)
        needed = torch.ones_like(found.trusted)
        if problem.weights is not None:
            axes = operator.range.ndim - 1
            needed = (problem.weights > 0).expand(problem.data.shape).flatten(-axes).any(-1)
        needed[..., 0] = False
        lost = needed & ~found.trusted
        if self.lost == "raise" and bool(lost.any()):
            raise RegistrationError(
                f"{int(lost.sum())} of {lost.numel()} frames can not be registered: "
                f"{found.told(needed)}. Give them weight 0, or set lost to 'drop', to go on "
                "without them"
            )
        used = ~lost
        return found.motion, used.to(found.motion.dtype)

    def step(
        self, problem: Problem, state: LucasKanadeState
    ) -> tuple[LucasKanadeState, dict[str, Any]]:
        """The image near the data, the motions, the prior."""
        operator = _burst(problem)
        k, largest = state.k, state.lipschitz
        share = number_at(self.mu, k) * self.growth**k
        rate = 1 / (1 + share) if self.step_size is None else number_at(self.step_size, k)
        weights = _weights(problem, state.used)
        seen = masked(operator, weights, state.motion.detach())
        moved = Problem(operator.at(motion=state.motion), problem.data, problem.noise, seen)
        z = state.z
        for _ in range(self.inner):
            z = z - rate * (moved.gradient(z) / largest + share * (z - state.x))
        motion = state.motion
        if self.joint:
            motion = motion_step(operator, problem, z, motion, weights, self.damping)
        prior: Prior = pick(self.prior, k)  # type: ignore[assignment]
        x, losses = prior.layer(k).prox_and_losses(z, 1 / (share * largest))
        change = (motion - state.motion).detach().abs().amax()
        numbers = {"motion_change": float(change), "frames_left_out": _left_out(state)}
        told: dict[str, Any] = {**losses, **numbers}
        return state.replace(k=k + 1, x=x, z=z, motion=motion), told

    def calibrated(self, problem: Problem, state: LucasKanadeState) -> Operator:
        """The burst with the motions that were estimated, one set per batch element."""
        return problem.operator.at(motion=state.motion)


def first_image(operator: Burst, data: Tensor, motion: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of the frames, each moved back and spread over the fine grid."""
    moved = operator.at(motion=motion)
    sums = moved.adjoint(weights * data)
    share = moved.adjoint(weights.expand(data.shape).to(data.dtype)).real
    typical = share.flatten(-operator.domain.ndim).amax(-1)
    floor = 1e-3 * per_element(typical, operator.domain.ndim)
    return sums / torch.maximum(share, floor).clamp_min(torch.finfo(share.dtype).tiny)


def _burst(problem: Problem) -> Burst:
    assert isinstance(problem.operator, Burst)
    return problem.operator


def _weights(problem: Problem, used: Tensor) -> Tensor:
    """The problem's weights; 0 for frames that are left out."""
    frames = used.reshape(*used.shape, *[1] * (problem.operator.range.ndim - 1))
    return frames if problem.weights is None else frames * problem.weights


def _left_out(state: LucasKanadeState) -> float:
    return float((state.used == 0).sum())


def _one_of(what: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise SolverError(f"LucasKanade: {what} is one of {', '.join(known)}, got {value!r}")
    return value
