"""Trajectories as quadratic B-splines: few parameters, and limits that are easy to keep."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["BSpline"]


class BSpline(nn.Module):
    """Uniform quadratic B-spline from control points to samples (BJORK, Wang et al. 2022).

    ``k(t) = Σ_i c_i β₂(t/h − i)``. With ``n`` control points the readout lasts ``(n − 2) h``. The
    velocity is a weighted mean of ``Δc / h`` and the acceleration is ``Δ²c / h²``: control points
    in ``GradientSlew(…, dwell=h)`` give a curve that keeps the same limits at all times.

    With ``start="zero"`` a further point at 0 goes ahead of the control points, and the readout
    lasts ``(n − 1) h``. Control points in ``GradientSlew(…, dwell=h, start="zero")``, of which the
    first is 0, then give curves that begin at ``k = 0`` from rest.

    Args:
        control: number of control points.
        samples: of the readout.
        dwell: time from sample to sample in s.
        start: "zero", or None.

    Attributes:
        matrix: (sample, control), from control points to samples.
        spacing: ``h`` in s.

    Raises:
        ValueError: fewer than 3 control points.

    Example:
        >>> spline = BSpline(10, 256, dwell=4e-6)
        >>> spline(torch.zeros(16, 10, 2)).shape
        torch.Size([16, 256, 2])
    """

    matrix: Tensor

    def __init__(
        self, control: int, samples: int, dwell: float, *, start: Literal["zero"] | None = None
    ) -> None:
        super().__init__()
        if control < 3 or samples < 2:
            raise ValueError(
                f"a quadratic spline needs 3 control points and 2 samples, got {control}, {samples}"
            )
        if start not in ("zero", None):
            raise ValueError(f"start is zero or None, got {start!r}")
        ahead = 1 if start == "zero" else 0
        pieces = control + ahead - 2
        self.spacing = dwell * (samples - 1) / pieces
        place = torch.arange(samples, dtype=torch.float64) * pieces / (samples - 1)
        first = place.long().clamp_max(pieces - 1)
        u = place - first
        weights = torch.stack([0.5 * (1 - u) ** 2, 0.5 + u - u * u, 0.5 * u * u], -1)
        matrix = torch.zeros(samples, control + ahead, dtype=torch.float64)
        matrix.scatter_(1, first[:, None] + torch.arange(3), weights)
        self.register_buffer("matrix", matrix[:, ahead:])

    def forward(self, control: Tensor) -> Tensor:
        """Control points ``(…, shot, n, axis)`` to a trajectory ``(…, shot, sample, axis)``."""
        return self.matrix.to(control.dtype) @ control

    def fit(self, trajectory: Tensor) -> Tensor:
        """The control points whose curve is nearest to a trajectory, in the least-squares sense."""
        inverse = torch.linalg.pinv(self.matrix).to(trajectory.dtype)
        return inverse @ trajectory
