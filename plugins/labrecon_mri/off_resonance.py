"""Off-resonance by time segmentation: a few NUFFTs in place of one sum per sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labrecon import Operator
from labrecon_mri.nufft import NUFFT

__all__ = ["TimeSegmented", "segments_for"]

#: Frequencies and segments beyond which the expansion is not looked for.
BINS, MOST = 256, 64


def segments_for(
    field_map: Tensor, times: Tensor, tolerance: float, segments: int | None = None
) -> tuple[Tensor, Tensor]:
    """``exp(−i2πf t) ≈ Σ_l b_l(t) exp(−i2πf t_l)`` by least squares over the map's histogram.

    Sutton, Noll and Fessler 2003, with evenly spaced ``t_l``.

    Args:
        field_map: ``f`` in Hz.
        times: of the samples in s.
        tolerance: largest root mean square error over the map, at any sample.
        segments: how many; by default as few as keep the tolerance.

    Returns:
        ``t_l (segment)`` in s and ``b (segment, *times)``, complex128.

    Raises:
        ValueError: no number of segments up to 64 keeps the tolerance.
    """
    f = field_map.detach().double().flatten()
    low, high = float(f.min()), float(f.max())
    width = max(high - low, 1e-9)
    index = ((f - low) / width * BINS).long().clamp_max(BINS - 1)
    share = torch.bincount(index, minlength=BINS).double() / len(f)
    centres = low + (torch.arange(BINS, dtype=torch.float64, device=f.device) + 0.5) * width / BINS
    f, share = centres[share > 0], share[share > 0]
    unique, inverse = torch.unique(times.detach().double(), return_inverse=True)
    exact = torch.exp(-2j * math.pi * unique[:, None] * f)
    for count in range(1, MOST + 1) if segments is None else (segments,):
        nodes = _nodes(unique, count)
        basis = torch.exp(-2j * math.pi * nodes[:, None] * f)
        weighted = basis * share
        gram = weighted @ basis.mH
        # Neighbouring segments are nearly the same where the field is weak.
        gram = gram + 1e-12 * torch.eye(count, device=f.device) * gram.diagonal().real.mean()
        weights = torch.linalg.solve(gram.mT, (exact @ weighted.mH).mT).mT
        error = ((exact - weights @ basis).abs().square() * share).sum(-1).sqrt().max()
        if segments is not None or float(error) <= tolerance:
            return nodes, weights.mT[:, inverse]
    raise ValueError(
        f"off-resonance of {low:.4g} to {high:.4g} Hz over {float(unique[-1] - unique[0]):.4g} s "
        f"needs more than {MOST} segments for an error of {tolerance:g}: check the unit of the "
        "field map (Hz) and of the times (s)"
    )


def _nodes(times: Tensor, count: int) -> Tensor:
    if count == 1:
        return times.mean(0, keepdim=True)
    return torch.linspace(
        float(times[0]), float(times[-1]), count, dtype=torch.float64, device=times.device
    )


class TimeSegmented(Operator):
    """``y(t) = Σ_r x(r) exp(−i2π f(r) t) exp(−i2π k(t)·r)`` by ``L`` NUFFTs.

    The sign is that of a field that adds to the precession as ``k`` does; negate the map of a
    vendor that counts the other way.

    Args:
        nufft: the transform without off-resonance.
        field_map: ``f`` (*matrix) in Hz.
        times: of the samples after excitation, (sample) or (shot, sample), in s.
        tolerance: error of the expansion, see `segments_for`.
        segments: ``L``; by default as many as the tolerance needs.
    """

    nodes: Tensor
    weights: Tensor
    phases: Tensor

    def __init__(
        self,
        nufft: NUFFT,
        field_map: Tensor,
        times: Tensor,
        *,
        tolerance: float = 1e-3,
        segments: int | None = None,
    ) -> None:
        super().__init__(nufft.domain, nufft.range)
        if tuple(field_map.shape) != nufft.matrix:
            raise ValueError(f"a field map has the shape {nufft.matrix}, got {field_map.shape}")
        if tuple(times.shape) not in (nufft.range.shape[-2:], nufft.range.shape[-1:]):
            raise ValueError(
                f"times are (sample) or (shot, sample) of {nufft.range.shape}, got {times.shape}"
            )
        self.nufft = nufft
        dtype = nufft.domain.dtype
        nodes, weights = segments_for(field_map, times, tolerance, segments)
        turn = -2 * math.pi * nodes.reshape(-1, *[1] * field_map.ndim) * field_map.double()
        self.register_buffer("nodes", nodes)
        self.register_buffer("weights", weights.to(dtype))
        self.register_buffer("phases", torch.polar(torch.ones_like(turn), turn).to(dtype))

    @property
    def segments(self) -> int:
        """``L``."""
        return len(self.nodes)

    @property
    def matrix(self) -> tuple[int, ...]:
        """Image size."""
        return self.nufft.matrix

    def forward(self, x: Tensor) -> Tensor:
        """``Σ_l b_l · A(c_l x)``."""
        y = self.nufft(self.phases[0] * x) * self.weights[0]
        for phase, weight in zip(self.phases[1:], self.weights[1:], strict=True):
            y = y + self.nufft(phase * x) * weight
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        """``Σ_l conj(c_l) · Aᴴ(conj(b_l) y)``."""
        x = self.phases[0].conj() * self.nufft.adjoint(self.weights[0].conj() * y)
        for phase, weight in zip(self.phases[1:], self.weights[1:], strict=True):
            x = x + phase.conj() * self.nufft.adjoint(weight.conj() * y)
        return x

    def gridded(self, y: Tensor) -> Tensor:
        """Conjugate phase: the density-compensated adjoint (Maeda et al. 1988)."""
        return self.adjoint(self.nufft.density().to(y.real.dtype) * y)

    def initial(self, y: Tensor) -> Tensor:
        """`gridded`, scaled to fit the data."""
        return self.fit_scale(self.gridded(y), y)
