"""Counts behind an object: the nonlinear end of the forward model, for low doses."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon import Operator, PoissonGaussian, Space
from labrecon.instrument import Scan
from labrecon.space import SpaceError
from labrecon_ct.noise import photon_transfer
from labrecon_ct.steps.flat_field import flat_groups

__all__ = ["Transmission", "count_model"]


class Transmission(Operator):
    """``N = N₀ e^{−p} + s``: line integrals to mean counts, each sample alone; nonlinear.

    ``Transmission(projector.range, beam) @ projector`` with Poisson noise is the likelihood of
    photon counting. Use it where counts are so low that their logarithm is biased (below some
    ten); elsewhere the weighted square of the logarithm is as good, and linear.

    Args:
        space: of the line integrals, and of the counts.
        open_beam: ``N₀`` (dose times flat), broadcasts to the space.
        scatter: ``s``, mean counts that did not come straight, broadcasts to the space.
    """

    linear = False
    open_beam: Tensor
    scatter: Tensor

    def __init__(
        self, space: Space, open_beam: Tensor | float, scatter: Tensor | float = 0.0
    ) -> None:
        super().__init__(space, space)
        for name, value in (("open_beam", open_beam), ("scatter", scatter)):
            tensor = torch.as_tensor(value, dtype=space.dtype)
            try:
                torch.broadcast_to(tensor, space.shape)
            except RuntimeError as error:
                raise SpaceError(
                    f"{name} {tuple(tensor.shape)} does not broadcast to {space.shape}"
                ) from error
            if not bool((tensor >= 0).all()):
                raise ValueError(f"{name} must not be negative, in counts")
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Mean counts."""
        return self.open_beam * torch.exp(-x) + self.scatter


def count_model(scan: Scan, lines: Space) -> tuple[Transmission, Tensor, PoissonGaussian]:
    """Operator (to compose with a projector), photons above dark, and their noise.

    The dark level is subtracted rather than modelled as background: most of it is an offset of the
    electronics without shot noise, and what it scatters is in the noise of the darks.

    Args:
        scan: raw counts with flats and, if possible, darks.
        lines: ``projector.range``.

    Raises:
        ValueError: the scan holds no counts or no flats.
    """
    flats = scan.calibration.get("flats")
    if scan.provenance.get("quantity") != "counts" or flats is None:
        raise ValueError("count_model needs raw counts with flats; this scan has none")
    darks = scan.calibration.get("darks")
    dark = torch.zeros_like(flats[0]) if darks is None else darks.mean(0)
    gain, sigma = photon_transfer([flats[g] for g in flat_groups(scan)], darks)
    beam = (flats.mean(0) - dark).clamp_min(0).unsqueeze(-2) / gain
    photons = (scan.data - dark.unsqueeze(-2)) / gain
    return Transmission(lines, beam), photons, PoissonGaussian(sigma)
