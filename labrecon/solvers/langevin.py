"""Langevin: samples of the posterior, their mean and their spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labrecon.noise import NoiseError
from labrecon.operator import LinearityError
from labrecon.options import flag, number, whole
from labrecon.prior import ImplicitPriorError, Prior, Zero
from labrecon.problem import Problem, SolverError
from labrecon.solver import Solver
from labrecon.solvers.chains import ChainState, iteration_generator, standard_normal
from labrecon.solvers.prior_score import BoxPull, Pull, pull_of
from labrecon.space import per_element, squared_norm

__all__ = ["Langevin"]


class Langevin(Solver):
    """Samples ``x ~ exp(−D(x) − g(x))``: ``x ← x − δ (∇D(x) + u(x)) + √(2δ) n``.

    ``D`` has to be the likelihood of the data, with its noise level, and ``g`` a prior that one
    believes in: with a weight that was tuned for pictures, the spread means little. ``u = ∇g`` for
    `Tikhonov`; of the Moreau envelope for other penalties (MYULA: Durmus, Moulines and Pereyra
    2018); ``(x − D(x)) / σ²`` for a denoiser (PnP-ULA: Laumont et al. 2022). The estimate is the
    mean of the samples of all chains. The step makes the distribution too wide (of a Gaussian with
    curvature ``λ``, by ``1 / (1 − δλ/2)`` in variance); ``metropolis`` mends that, and the
    envelope, too, at the price of rejections. Not for objects with directions that neither data
    nor prior determine: the chain takes ``L / λ`` steps to forget, and R-hat tells.

    Noise is drawn from ``seed`` and the number of the iteration, so that a resumed solve has the
    same bits on the same device.

    Args:
        prior: ``g``.
        step_size: ``δ``: a number, or None for ``1 / 4L`` with the sum ``L`` of the Lipschitz
            constants of all gradients (below the ``1 / 3L`` that Laumont et al. ask for).
        chains: independent ones; two at least for R-hat.
        burn_in: iterations that are not kept.
        thinning: keep every n-th of the others.
        metropolis: accept or reject each proposal (MALA; for non-smooth penalties the proximal
            one of Pereyra 2016). Not with a denoiser, which has no density.
        smoothing: ``λ`` of the Moreau envelope; by default ``1 / L`` of the data term.
        noise_level: ``σ`` of a denoiser in units of the object; by default what it is set to.
        residual_lipschitz: Lipschitz constant of ``D − I`` of the denoiser.
        box: ``[low, high]``: pulled back into it, with ``λ = 1 / 2L`` (Laumont et al.).
        dispersion: all chains but the first start from white noise around ``x0``, of so many times
            its root mean square (that of the first gradient step where it is 0), so that R-hat
            sees chains that have not converged.
        seed: of the noise.
    """

    state_type = ChainState
    random = True
    needs_exact_adjoint = True

    def __init__(
        self,
        *,
        prior: Prior | None = None,
        step_size: float | None = None,
        chains: int = 2,
        burn_in: int = 500,
        thinning: int = 1,
        metropolis: bool = False,
        smoothing: float | None = None,
        noise_level: float | None = None,
        residual_lipschitz: float = 1.0,
        box: Sequence[float] | None = None,
        dispersion: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.prior = Zero() if prior is None else prior
        self.step_size = _positive("step_size", step_size)
        self.chains = whole("chains", chains, error=SolverError)
        self.burn_in = whole("burn_in", burn_in, at_least=0, error=SolverError)
        self.thinning = whole("thinning", thinning, error=SolverError)
        self.metropolis = flag("metropolis", metropolis, error=SolverError)
        self.smoothing = _positive("smoothing", smoothing)
        self.noise_level = _positive("noise_level", noise_level)
        self.residual_lipschitz = number(
            "residual_lipschitz", residual_lipschitz, above=0, error=SolverError
        )
        self.box = None if box is None else _interval(box)
        self.dispersion = number("dispersion", dispersion, at_least=0, error=SolverError)
        self.seed = whole("seed", seed, at_least=0, error=SolverError)
        # What is wrong with prior and options is told here, before any data are read.
        pull = self._prior_pull(1.0)
        if self.metropolis and (self.box is not None or not _has_density(self.prior, pull)):
            raise SolverError(
                "metropolis needs the density of the prior: not with a denoiser, nor with a box"
            )

    def init(self, problem: Problem, x0: Tensor | None = None) -> ChainState:
        """All chains around ``x0`` (zeros without one), the first at it."""
        start = self.start(problem, x0)
        ndim = problem.operator.domain.ndim
        curvature = self._curvature(problem)
        largest = 0.0 if curvature is None else float(torch.as_tensor(curvature).max())
        step = self._first_step(curvature, self._pulls(largest), ndim)
        size = _rms(start, ndim)
        size = torch.where(size > 0, size, _rms(step * problem.gradient(start), ndim))
        x = start.expand(self.chains, *start.shape).clone()
        around = standard_normal(x, iteration_generator(self.seed, -1, "start", x.device))
        around[0] = 0
        x = x + self.dispersion * size * around
        accepted = torch.zeros(x.shape[: x.ndim - ndim], dtype=x.real.dtype, device=x.device)
        if self.metropolis and not bool(torch.isfinite(self._potential(problem, x)).all()):
            raise SolverError(
                f"{self.name}: the prior does not allow where the chains start (its penalty is "
                "infinite there), and with metropolis they would stay: set dispersion = 0"
            )
        empty = torch.zeros_like(x)
        return ChainState(0, x, empty, empty.real.clone(), accepted, 0, largest, step)

    def step(self, problem: Problem, state: ChainState) -> tuple[ChainState, dict[str, Any]]:
        """One sample of each chain."""
        ndim = problem.operator.domain.ndim
        pulls = self._pulls(state.curvature)
        x, delta = state.x, state.step_size
        drift = _drift(problem, pulls, x, ndim)
        n = standard_normal(x, iteration_generator(self.seed, state.k, "step", x.device))
        proposal = x - delta * drift + (2 * delta) ** 0.5 * n
        told: dict[str, Any] = {}
        if self.metropolis:
            taken = self._accept(problem, pulls, state, proposal, drift)
            proposal = torch.where(per_element(taken, ndim), proposal, x)
            state = state.replace(accepted=state.accepted + taken)
            told = {"acceptance": state.accepted.mean() / (state.k + 1)}
        state = state.replace(k=state.k + 1, x=proposal)
        after = state.k - self.burn_in
        return state.keep() if after > 0 and after % self.thinning == 0 else state, told

    def estimate(self, state: ChainState) -> Tensor:
        """The mean of all samples kept; before there is one, that of the chains."""
        return (state.mean if state.kept else state.x).mean(0)

    def penalty(self, x: Tensor, ndim: int) -> Tensor:
        """Of no use here: a mean of samples minimises nothing."""
        raise ImplicitPriorError(f"{self.name} has no objective: the mean minimises none")

    def _accept(
        self,
        problem: Problem,
        pulls: Sequence[Pull],
        state: ChainState,
        proposal: Tensor,
        drift: Tensor,
    ) -> Tensor:
        """Metropolis and Hastings: which proposals are taken ``(chain, *batch)``."""
        ndim, x, delta = problem.operator.domain.ndim, state.x, state.step_size
        back = _drift(problem, pulls, proposal, ndim)
        forth = squared_norm((proposal - x + delta * drift) / (2 * delta**0.5), ndim)
        reverse = squared_norm((x - proposal + delta * back) / (2 * delta**0.5), ndim)
        before, after = (self._potential(problem, z) for z in (x, proposal))
        ratio = before - after + forth - reverse
        generator = iteration_generator(self.seed, state.k, "accept", x.device)
        drawn = torch.rand(ratio.shape, dtype=ratio.dtype, device=x.device, generator=generator)
        # A proposal that the prior does not allow has an infinite penalty, and is never taken.
        return drawn.log() < torch.nan_to_num(ratio, nan=-math.inf)

    def _potential(self, problem: Problem, x: Tensor) -> Tensor:
        return problem.loss(x) + self.prior.penalty(x, problem.operator.domain.ndim)

    def _prior_pull(self, curvature: float | None) -> Pull | None:
        return pull_of(
            self.prior,
            curvature=curvature,
            smoothing=self.smoothing,
            noise_level=self.noise_level,
            residual_lipschitz=self.residual_lipschitz,
        )

    def _pulls(self, curvature: float) -> list[Pull]:
        """Of the prior and of the box, given the curvature of the data term (0: not known)."""
        pull = self._prior_pull(curvature or None)
        pulls = [] if pull is None else [pull]
        if self.box is not None:
            if not curvature:
                raise SolverError(f"{self.name}: a box needs a data term of known curvature")
            bound = curvature + sum(each.lipschitz for each in pulls)
            pulls.append(BoxPull(*self.box, smoothing=0.5 / bound))
        return pulls

    def _curvature(self, problem: Problem) -> float | Tensor | None:
        """``L`` of the data term; None where there is none and the step size is given."""
        try:
            return problem.lipschitz()
        except (LinearityError, NoiseError):
            if self.step_size is None:
                raise
            return None

    def _first_step(
        self, curvature: float | Tensor | None, pulls: Sequence[Pull], ndim: int
    ) -> Tensor | float:
        if self.step_size is not None or curvature is None:
            return self.step_size or 0.0
        step = 0.25 / (curvature + sum(pull.lipschitz for pull in pulls))
        return per_element(step, ndim) if isinstance(step, Tensor) else step


def _drift(problem: Problem, pulls: Sequence[Pull], x: Tensor, ndim: int) -> Tensor:
    total = problem.gradient(x)
    for pull in pulls:
        total = total + pull(x, ndim)
    return total


def _has_density(prior: Prior, pull: Pull | None) -> bool:
    return pull is None or type(prior).penalty is not Prior.penalty


def _rms(x: Tensor, ndim: int) -> Tensor:
    size = math.prod(x.shape[x.ndim - ndim :])
    return per_element((squared_norm(x, ndim) / size).sqrt(), ndim)


def _positive(what: str, value: float | None) -> float | None:
    return None if value is None else number(what, value, above=0, error=SolverError)


def _interval(box: Sequence[float]) -> tuple[float, float]:
    if isinstance(box, str) or len(box) != 2:
        raise SolverError(f"box is [low, high], got {box!r}")
    low = number("box: low", box[0], error=SolverError)
    return low, number("box: high", box[1], above=low, error=SolverError)
