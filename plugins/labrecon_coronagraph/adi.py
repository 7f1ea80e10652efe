"""Classical angular differential imaging: median subtraction, and PCA (KLIP)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from labrecon_coronagraph.derotation import derotate
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.speckles import (
    SpeckleProjection,
    annulus_labels,
    temporal_modes,
    whole_field,
)

__all__ = ["median_adi", "pca_adi"]


def median_adi(data: Tensor, geometry: CoronagraphGeometry) -> Tensor:
    """Map (y, x) of the sky: frames less their median, turned back, combined by their median.

    Marois et al. 2006. Planets lose flux where their track overlaps itself.

    Args:
        data: (frame, y, x).
        geometry: of the sequence.
    """
    residual = data - _median(data)
    return _median(derotate(residual, geometry))


def pca_adi(
    data: Tensor,
    geometry: CoronagraphGeometry,
    *,
    modes: int = 10,
    annuli: Sequence[float] | None = None,
) -> Tensor:
    """Map (y, x) of the sky: frames less their principal components, turned back, their median.

    ``R = D − U Uᵀ D`` for frames ``D`` (frame, pixel) without their mean, with ``U`` its leading
    left singular vectors (Soummer, Pueyo and Larkin 2012; Amara and Quanz 2012).

    Args:
        data: (frame, y, x).
        geometry: of the sequence.
        modes: components.
        annuli: radii in pixels between annuli that have components of their own; by default one
            annulus, from ``λ/D`` to the edge of the frame.

    Raises:
        ValueError: more components than frames or an annulus' pixels allow.
    """
    edges = whole_field(geometry) if annuli is None else tuple(annuli)
    labels = annulus_labels(geometry.shape, geometry.centre, edges)
    components = temporal_modes(data, labels, modes).to(data.dtype)
    return _median(derotate(SpeckleProjection(labels, components)(data), geometry))


def _median(frames: Tensor) -> Tensor:
    # torch.median takes the lower of two middle values.
    return frames.quantile(0.5, dim=0)
