"""GradientSlew: k-space trajectories that a gradient system can follow."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from labrecon.design import FeasibleSet, InfeasibleError, Violation, Violations
from labrecon_mri.scanners import GAMMA, find_system

__all__ = ["GradientSlew"]

Norm = Literal["euclidean", "per-axis"]
Rows = NDArray[np.float64]
#: Rounds of the projection, and the relative residual at which it ends.
ROUNDS, ENOUGH = 4000, 1e-5
#: Over-relaxation of ADMM.
RELAXED = 1.7


class GradientSlew(FeasibleSet):
    """``|k_{i+1} − k_i| ≤ γ̄ G Δt`` and ``|k_{i+1} − 2k_i + k_{i−1}| ≤ γ̄ S Δt²`` in each shot.

    Values are trajectories ``(…, shot, sample, axis)`` in cycles/m, sampled every ``dwell``. The
    set is convex: `project` finds the nearest trajectory (the problem of Chauffert et al. 2016) by
    ADMM with a banded factorisation, and pulls it in by the last rounding, so that what it returns
    is feasible without exception.

    With ``start="zero"`` each shot begins at ``k = 0`` from a gradient of 0. Without it a
    prephaser is expected to bring the spins to the first sample at the first gradient.

    Args:
        max_gradient: ``G`` in mT/m.
        max_slew: ``S`` in T/m/s.
        dwell: ``Δt`` in s.
        norm: "euclidean" bounds the length of the vector, so that the scan may be rotated;
            "per-axis" bounds each component.
        start: "zero", or None.

    Raises:
        InfeasibleError: a limit is not positive.

    Example:
        >>> limits = GradientSlew(40, 200, dwell=10e-6)
        >>> jump = torch.zeros(1, 8, 2, dtype=torch.float64)
        >>> jump[:, 4:] = 100.0
        >>> sorted(limits.violations(jump)), limits.contains(limits.project(jump))
        (['gradient', 'slew'], True)
    """

    def __init__(
        self,
        max_gradient: float,
        max_slew: float,
        *,
        dwell: float,
        norm: Norm = "euclidean",
        start: Literal["zero"] | None = None,
    ) -> None:
        super().__init__("cycles/m")
        if not (max_gradient > 0 and max_slew > 0 and dwell > 0):
            raise InfeasibleError(
                f"gradient (mT/m), slew (T/m/s) and dwell (s) must be positive, got "
                f"{max_gradient}, {max_slew}, {dwell}"
            )
        if norm not in ("euclidean", "per-axis") or start not in ("zero", None):
            raise InfeasibleError(
                f"norm is euclidean or per-axis, start zero or None: {norm}, {start}"
            )
        self.max_gradient, self.max_slew, self.dwell = max_gradient, max_slew, dwell
        self.norm: Norm = norm
        self.start = start
        self.step = GAMMA * max_gradient * 1e-3 * dwell
        self.bend = GAMMA * max_slew * dwell**2

    @classmethod
    def of(
        cls,
        system: str,
        *,
        dwell: float,
        norm: Norm = "euclidean",
        start: Literal["zero"] | None = None,
    ) -> Self:
        """The limits of a gradient system by its name, see `labrecon_mri.scanners`."""
        found = find_system(system)
        return cls(found.max_gradient, found.max_slew, dwell=dwell, norm=norm, start=start)

    def gradient(self, value: Tensor) -> Tensor:
        """``Δk / (γ̄ Δt)`` in mT/m: (…, sample − 1, axis)."""
        return value.diff(dim=-2) / (GAMMA * self.dwell) * 1e3

    def slew(self, value: Tensor) -> Tensor:
        """``Δ²k / (γ̄ Δt²)`` in T/m/s: (…, sample − 2, axis); from rest one more."""
        return self._bends(value) / (GAMMA * self.dwell**2)

    def _bends(self, value: Tensor) -> Tensor:
        if self.start == "zero":
            value = torch.cat([value[..., :1, :], value], -2)
        return value.diff(n=2, dim=-2)

    def _length(self, rows: Tensor) -> Tensor:
        return rows.norm(dim=-1) if self.norm == "euclidean" else rows.abs().amax(-1)

    def violations(self, value: Tensor) -> Violations:
        """Excess ``gradient`` in mT/m, ``slew`` in T/m/s, and distance of the ``start`` from 0."""
        self._require_trajectory(value)
        wide = value.detach().cpu().double()
        found = self._not_finite(wide)
        if found:
            return found
        # What the value's own precision can not say is no violation.
        rounding = 8 * torch.finfo(value.dtype).eps * float(wide.abs().max())
        over = self._length(self.gradient(wide)) - self.max_gradient
        slack = rounding / (GAMMA * self.dwell) * 1e3 + 1e-9 * self.max_gradient
        if bool((over > slack).any()):
            found["gradient"] = Violation(float(over.max()), "mT/m", int((over > slack).sum()))
        over = self._length(self.slew(wide)) - self.max_slew
        slack = rounding / (GAMMA * self.dwell**2) + 1e-9 * self.max_slew
        if bool((over > slack).any()):
            found["slew"] = Violation(float(over.max()), "T/m/s", int((over > slack).sum()))
        if self.start == "zero":
            found |= self._broken("start", wide[..., 0, :].abs().amax(-1), rounding)
        return found

    def _require_trajectory(self, value: Tensor) -> None:
        if value.ndim < 2 or value.shape[-2] < 3 or not value.is_floating_point():
            raise InfeasibleError(
                f"a trajectory is (…, shot, sample, axis) of at least 3 samples, real; got "
                f"{tuple(value.shape)} {value.dtype}"
            )

    def project(self, value: Tensor) -> Tensor:
        """The nearest trajectory within the limits; a feasible one comes back as it is.

        Raises:
            InfeasibleError: the value is no trajectory, or not finite.
        """
        self._require_trajectory(value)
        self._require_finite(value)
        if not self.violations(value):
            return value
        shots = value.detach().cpu().double().reshape(-1, *value.shape[-2:])
        broken = [i for i, shot in enumerate(shots) if self.violations(shot.to(value.dtype))]
        done = shots.clone()
        done[broken] = self._pulled_in(torch.from_numpy(self._nearest(shots[broken].numpy())))
        return done.reshape(value.shape).to(value)

    def _pulled_in(self, shots: Tensor) -> Tensor:
        """Each shot shrunk towards a point, by what is left of its excess."""
        if self.start == "zero":
            shots = shots - shots[:, :1]
            centre = torch.zeros_like(shots[:, :1])
        else:
            centre = shots.mean(1, keepdim=True)
        by_step = self._length(shots.diff(dim=1)).amax(1) / self.step
        by_bend = self._length(self._bends(shots)).amax(1) / self.bend
        factor = 1 / torch.maximum(by_step, by_bend).clamp_min(1)
        return centre + factor[:, None, None] * (shots - centre)

    # -- the projection ------------------------------------------------------------------------

    def _nearest(self, target: Rows) -> Rows:
        """ADMM on ``½‖k − v‖²`` with ``z₁ = D₁k``, ``z₂ = D₂k``; shots (shot, sample, axis)."""
        count, _, ndim = target.shape
        free = target[:, 1:] if self.start == "zero" else target
        v = np.ascontiguousarray(free.transpose(1, 0, 2)).reshape(free.shape[1], -1)
        # In units of the limits, so that every row of D k is to be of length 1 at most.
        maps = [
            d / limit
            for d, limit in zip(self._differences(len(v)), (self.step, self.bend), strict=True)
        ]
        grams = [(d.T @ d).tocsr() for d in maps]
        size = max(float(np.linalg.norm(v)), 1e-12)
        rho = np.array([self.step**2, self.bend**2])
        k, rounds = v.copy(), 0
        z = [self._clipped(d @ k, count, ndim) for d in maps]
        u = [np.zeros_like(rows) for rows in z]
        factor = _factored(grams, rho)
        while rounds < ROUNDS:
            rounds += 1
            k = cho_solve_banded(
                (factor, False),
                v + sum(r * (d.T @ (a - b)) for r, d, a, b in zip(rho, maps, z, u, strict=True)),
            )
            residuals = []
            for i, d in enumerate(maps):
                rows = d @ k
                mixed = RELAXED * rows + (1 - RELAXED) * z[i] + u[i]
                clipped = self._clipped(mixed, count, ndim)
                moved = rho[i] * float(np.linalg.norm(d.T @ (clipped - z[i]))) / size
                z[i], u[i] = clipped, mixed - clipped
                residuals.append((float(np.linalg.norm(rows - clipped)) / len(v) ** 0.5, moved))
            if all(primal < ENOUGH and dual < ENOUGH for primal, dual in residuals):
                break
            if rounds % 20 == 0:
                change = np.array([_balance(primal, dual) for primal, dual in residuals])
                if (change != 1).any():
                    rho = rho * change
                    u = [rows / c for rows, c in zip(u, change, strict=True)]
                    factor = _factored(grams, rho)
        kept = k.reshape(-1, count, ndim).transpose(1, 0, 2)
        if self.start == "zero":
            kept = np.concatenate([np.zeros((count, 1, ndim)), kept], 1)
        return np.ascontiguousarray(kept)

    def _differences(self, n: int) -> tuple[csr_array, csr_array]:
        """First and second differences of ``n`` samples, from two samples at 0 if at rest."""
        first = diags_array([-np.ones(n), np.ones(n)], offsets=[-1, 0], shape=(n, n)).tocsr()
        second = (first @ first).tocsr()
        return (first, second) if self.start == "zero" else (first[1:], second[2:])

    def _clipped(self, rows: Rows, count: int, ndim: int) -> Rows:
        """Rows shortened to length 1."""
        if self.norm == "per-axis":
            return np.clip(rows, -1, 1)
        vectors = rows.reshape(-1, count, ndim)
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return (vectors / np.maximum(length, 1)).reshape(rows.shape)


def _factored(grams: list[csr_array], rho: Rows) -> Rows:
    """The banded Cholesky factor of ``I + Σ ρ DᵀD``."""
    total = sum(r * gram for r, gram in zip(rho, grams, strict=True))
    n = grams[0].shape[0]
    banded = np.zeros((3, n))
    for offset in range(3):
        banded[2 - offset, offset:] = total.diagonal(offset)
    banded[2] += 1.0
    return cholesky_banded(banded)


def _balance(primal: float, dual: float) -> float:
    """By how much a penalty should grow for the two residuals to fall alike."""
    ratio = (max(primal, 1e-16) / max(dual, 1e-16)) ** 0.5
    return 1.0 if 0.4 < ratio < 2.5 else min(max(ratio, 0.1), 10.0)
