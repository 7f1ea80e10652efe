"""The prolate apodizer of an apodized-pupil Lyot coronagraph."""

from __future__ import annotations

import torch
from torch import Tensor

from labrecon_coronagraph.focal_masks import LyotDisc
from labrecon_coronagraph.fourier import Grid, MatrixFourier

__all__ = ["prolate"]


def prolate(
    pupil: Tensor, mask: LyotDisc, *, tolerance: float = 1e-12, iterations: int = 10_000
) -> tuple[Tensor, float]:
    """The apodizer ``Φ`` with ``F⁻¹{(1 − M) F{A Φ}} = Λ0 Φ`` in the pupil, of largest ``Λ0``.

    Behind a Lyot stop equal to the pupil, the star's field is ``(1 − Λ0) A Φ``. By power iteration
    from ``Φ = 1``, so among functions that have the symmetry of the pupil.

    Args:
        pupil: transmission ``A`` (y, x), 0 to 1, square.
        mask: the opaque disc that it is made for.
        tolerance: largest relative change of ``Φ`` in the last iteration.
        iterations: at most so many.

    Returns:
        ``Φ`` (y, x) in the precision of the pupil, 0 outside it and 1 at its largest; and ``Λ0``.

    Raises:
        ValueError: the eigenfunction has both signs, as happens behind spiders and segments with
            an obscuration; down to −0.05, in the corners of segments, is let pass.
        RuntimeError: not converged.

    Source: Soummer, Aime & Falloon 2003, A&A 397, 1161, eq. 14; for any pupil Soummer et al. 2009,
    ApJ 695, 695.

    Example:
        >>> from labrecon_coronagraph.pupils import circular
        >>> _, eigenvalue = prolate(circular(64), LyotDisc(1.0))
        >>> round(eigenvalue, 2)
        0.91
    """
    transform = MatrixFourier(Grid.pupil(len(pupil)), mask.grid)
    aperture = pupil.double().to(torch.complex128)
    blocked = mask.blocked().to(aperture.device, aperture.dtype)
    inside = aperture.real > 0
    apodizer = inside.double()
    for _ in range(iterations):
        leaked = transform.backward(transform.forward(aperture * apodizer) * blocked).real * inside
        eigenvalue = float(leaked.max())
        change = float((leaked / eigenvalue - apodizer).abs().max())
        apodizer = leaked / eigenvalue
        if float(apodizer.min()) < -0.05:
            raise ValueError(
                f"the apodizer of largest eigenvalue changes its sign ({float(apodizer.min()):.2f} "
                "to 1) over this pupil, which no transmission does: compute it for the pupil "
                "without spiders"
            )
        if change < tolerance:
            return apodizer.to(pupil.dtype), eigenvalue
    raise RuntimeError(
        f"the apodizer still changed by {change:.1e} after {iterations} iterations, asked for "
        f"{tolerance:.1e}: compute it for the pupil without spiders, allow more iterations or a "
        "larger tolerance"
    )
