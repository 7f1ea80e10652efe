"""GradientSlew: k-space trajectories that a gradient system can follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from labrecon.design import FeasibleSet, InfeasibleError, Violation, Violations
from labrecon_mri.nearest_in_balls import Ball, nearest_in_balls
from labrecon_mri.scanners import GAMMA, find_system

__all__ = ["GradientSlew"]

Norm = Literal["euclidean", "per-axis"]


class GradientSlew(FeasibleSet):
    """``|k_{i+1} − k_i| ≤ γ̄ G Δt`` and ``|k_{i+1} − 2k_i + k_{i−1}| ≤ γ̄ S Δt²`` in each shot.

    Values are trajectories ``(…, shot, sample, axis)`` in cycles/m, sampled every ``dwell``. The
    set is convex: `project` finds the nearest trajectory (the problem of Chauffert et al. 2016) by
    an interior-point method, and pulls it in by the last rounding, so that what it returns is
    feasible without exception.

    With ``start="zero"`` each shot begins at ``k = 0`` from a gradient of 0. Without it a
    prephaser is expected to bring the spins to the first sample at the first gradient.

    Args:
        max_gradient: ``G`` in mT/m.
        max_slew: ``S`` in T/m/s.
        dwell: ``Δt`` in s.
        norm: "euclidean" bounds the length of the vector, so that the scan may be rotated;
            "per-axis" bounds each component.
        start: "zero", or None.
        edge: bound of ``|k|`` along each axis in cycles/m, such as `MRIGeometry.nyquist`, or None.

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
        edge: Sequence[float] | None = None,
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
        if edge is not None and not all(bound > 0 for bound in edge):
            raise InfeasibleError(f"the edge of k-space is positive along each axis, got {edge}")
        self.max_gradient, self.max_slew, self.dwell = max_gradient, max_slew, dwell
        self.norm: Norm = norm
        self.start = start
        self.edge = None if edge is None else torch.tensor(list(edge), dtype=torch.float64)
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
        edge: Sequence[float] | None = None,
    ) -> Self:
        """The limits of a gradient system by its name, see `labrecon_mri.scanners`."""
        found = find_system(system)
        return cls(
            found.max_gradient, found.max_slew, dwell=dwell, norm=norm, start=start, edge=edge
        )

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
        """Excess ``gradient`` in mT/m and ``slew`` in T/m/s, ``start`` and ``edge`` in cycles/m."""
        self._require_trajectory(value)
        found = self._not_finite(value)
        if found:
            return found
        for rule, (excess, slack, unit) in self._rules(value).items():
            over = excess > slack
            if bool(over.any()):
                found[rule] = Violation(float(excess.max()), unit, int(over.sum()))
        return found

    def _rules(self, value: Tensor) -> dict[str, tuple[Tensor, float, str]]:
        """Of each rule the excess (…, shot, row), what of it is rounding, and the unit."""
        wide = value.detach().cpu().double()
        # What the value's own precision can not say is no violation.
        rounding = 8 * torch.finfo(value.dtype).eps * float(wide.abs().max())
        by_speed, by_bend = 1e3 / (GAMMA * self.dwell), 1 / (GAMMA * self.dwell**2)
        rules = {
            "gradient": (
                self._length(self.gradient(wide)) - self.max_gradient,
                rounding * by_speed + 1e-9 * self.max_gradient,
                "mT/m",
            ),
            "slew": (
                self._length(self.slew(wide)) - self.max_slew,
                rounding * by_bend + 1e-9 * self.max_slew,
                "T/m/s",
            ),
        }
        if self.start == "zero":
            rules["start"] = (wide[..., :1, :].abs().amax(-1), rounding, "cycles/m")
        if self.edge is not None:
            rules["edge"] = ((wide.abs() - self.edge).amax(-1), rounding, "cycles/m")
        return rules

    def _require_trajectory(self, value: Tensor) -> None:
        if value.ndim < 2 or value.shape[-2] < 3 or not value.is_floating_point():
            raise InfeasibleError(
                f"a trajectory is (…, shot, sample, axis) of at least 3 samples, real; got "
                f"{tuple(value.shape)} {value.dtype}"
            )
        if self.edge is not None and len(self.edge) != value.shape[-1]:
            raise InfeasibleError(
                f"the edge of k-space has {len(self.edge)} axes, the trajectory {value.shape[-1]}"
            )

    def project(self, value: Tensor) -> Tensor:
        """The nearest trajectory within the limits; a feasible one comes back as it is.

        Raises:
            InfeasibleError: the value is no trajectory, or not finite.
        """
        self._require_trajectory(value)
        self._require_finite(value)
        rules = self._rules(value).values()
        broken = torch.stack([(over > slack).any(-1) for over, slack, _ in rules]).any(0).flatten()
        if not bool(broken.any()):
            return value
        # A copy: shots that are feasible stay as they are, and the value as it was.
        shots = value.detach().cpu().double().reshape(-1, *value.shape[-2:]).clone()
        shots[broken] = self._pulled_in(self._nearest(shots[broken]))
        return shots.reshape(value.shape).to(value)

    def _nearest(self, shots: Tensor) -> Tensor:
        """The nearest shots within the limits, to 1e-6 and to rounding."""
        together = self.norm == "euclidean"
        balls = [
            Ball((-1.0, 1.0), self.step, together),
            Ball((1.0, -2.0, 1.0), self.bend, together),
        ]
        if self.edge is not None:
            balls.append(Ball((1.0,), self.edge.numpy(), together=False))
        if self.start is None:
            centre = self._centre(shots).expand_as(shots)
            return torch.from_numpy(nearest_in_balls(shots.numpy(), balls, centre.numpy()))
        # Two samples at 0 are at rest.
        rest = torch.zeros_like(shots[:, :2])
        target = torch.cat([rest, shots[:, 1:]], 1)
        centre = torch.zeros_like(target)
        found = nearest_in_balls(target.numpy(), balls, centre.numpy(), held=2)
        return torch.from_numpy(np.ascontiguousarray(found[:, 1:]))

    def _centre(self, shots: Tensor) -> Tensor:
        """Well inside the set: a trajectory that rests, (shot, 1, axis)."""
        if self.start == "zero":
            return torch.zeros_like(shots[:, :1])
        mean = shots.mean(1, keepdim=True)
        return mean if self.edge is None else mean.clamp(-0.5 * self.edge, 0.5 * self.edge)

    def _pulled_in(self, shots: Tensor) -> Tensor:
        """Each shot shrunk towards its centre, by what is left of its excess."""
        centre = self._centre(shots)
        away = shots - centre
        excess = [
            self._length(shots.diff(dim=1)).amax(1) / self.step,
            self._length(self._bends(shots)).amax(1) / self.bend,
        ]
        if self.edge is not None:
            room = torch.where(away > 0, self.edge - centre, -self.edge - centre)
            excess.append((away / room).amax((1, 2)))
        factor = 1 / torch.stack(excess).amax(0).clamp_min(1)
        return centre + factor[:, None, None] * away
