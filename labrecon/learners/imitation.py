"""Imitation: a network learns to do at once what a slower reconstruction makes of the scans."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from labrecon.learners.self_supervised import Pass, Term
from labrecon.learners.self_supervised.levels import clean_of, drawn, require_level, variance
from labrecon.problem import Problem
from labrecon.reconstructor import Reconstructor
from labrecon.solvers.trained import with_unit_noise
from labrecon.space import squared_norm

__all__ = ["Imitation"]


class Imitation(Term):
    """``‖R(A x̂ + n) − x̂‖²`` with ``x̂ = T(y)``, in the unit of χ².

    The estimates of a teacher ``T``, such as `labrecon.networks.reused.reuse`, are objects whose
    measurement can be simulated: operator, weights and declared noise are those of the scan, the
    noise is drawn anew in each step. That the teacher's estimates are no true objects matters as
    far as they lack what those have. Its unit is that of
    `labrecon.learners.self_supervised.Equivariance`.

    Args:
        teacher: makes ``x̂``, once of each slice; it is not trained.
        data_term: what the teacher is given.
    """

    def __init__(self, teacher: Reconstructor, data_term: str = "unit") -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.data_term = data_term
        self._known: dict[bytes, Tensor] = {}

    def check(self, problem: Problem) -> None:
        """Raise `ValueError` where the level of the noise is unknown."""
        require_level(problem, "imitation")

    def __call__(self, run: Pass) -> Tensor:
        """The difference of each slice."""
        problem, operator = run.problem, run.problem.operator
        x = self._estimates(run)
        with torch.no_grad():
            clean = operator(x)
            data = clean + drawn(problem, clean, run.generators)
            power = squared_norm(x, operator.domain.ndim).clamp_min(1e-30)
            seen = squared_norm(clean, operator.range.ndim)
            spread = variance(problem, clean_of(problem.noise, problem.data))
            parts = 2 if data.is_complex() else 1
            level = parts * spread.expand(data.shape).flatten(-operator.range.ndim).sum(-1)
        error = squared_norm(run.reconstruct(data) - x, operator.domain.ndim)
        return error * seen / power / level

    def _estimates(self, run: Pass) -> Tensor:
        """What the teacher made of these data, before or now."""
        problem = run.problem
        keys = [_digest(data) for data in problem.data]
        if any(key not in self._known for key in keys):
            posed = with_unit_noise(problem) if self.data_term == "unit" else problem
            with torch.no_grad():
                made = self.teacher(posed).cpu()
            self._known.update(zip(keys, made, strict=True))
        return torch.stack([self._known[key] for key in keys]).to(problem.data.device)


def _digest(data: Tensor) -> bytes:
    held = data.detach().cpu().resolve_conj().contiguous()
    return hashlib.sha256(held.numpy().tobytes()).digest()
