"""The star's speckles: their courses in time, and the projection that removes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labrecon import Operator, Space
from labrecon_coronagraph.geometry import CoronagraphGeometry
from labrecon_coronagraph.sequence import ADISequence
from labrecon_coronagraph.sky import radii

__all__ = [
    "SpeckleProjection",
    "annulus_labels",
    "planets_without_speckles",
    "temporal_modes",
    "whole_field",
]


class SpeckleProjection(Operator):
    """``y_p − V_a V_aᵀ y_p``: the course of each pixel in time, without the annulus' modes ``V_a``.

    A speckle that any course in the span of ``V_a`` describes is gone, whatever its image. Applied
    to data and model alike, what the projection takes from a planet is part of the model, and a
    least-squares fit is that of planets and speckles together (in the manner of TRAP, Samland et
    al. 2021). Pixels outside all annuli become 0. It is its own adjoint.

    Args:
        labels: annulus of each pixel (y, x), −1 outside.
        modes: (annulus, frame, mode), orthonormal over the frames.

    Raises:
        ValueError: a label without modes.
    """

    labels: Tensor
    modes: Tensor

    def __init__(self, labels: Tensor, modes: Tensor) -> None:
        if int(labels.max()) >= len(modes):
            raise ValueError(f"label {int(labels.max())}, but modes of {len(modes)} annuli")
        space = Space((modes.shape[1], *labels.shape), modes.dtype, ("frame", "y", "x"))
        super().__init__(space, space)
        self.register_buffer("labels", labels)
        self.register_buffer("modes", modes)

    def forward(self, x: Tensor) -> Tensor:
        """Frames without speckles."""
        y = torch.zeros_like(x)
        for annulus, modes in enumerate(self.modes):
            inside = self.labels == annulus
            courses = x[..., inside]
            y[..., inside] = courses - modes @ (modes.mT @ courses)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        """The same as `forward`."""
        return self.forward(y)


def annulus_labels(
    shape: tuple[int, int], centre: tuple[float, float], edges: Sequence[float]
) -> Tensor:
    """Annulus of each pixel (y, x) by radii in pixels, counted from 0; −1 outside all of them."""
    found = torch.bucketize(
        radii(shape, centre), torch.tensor(edges, dtype=torch.float64), right=True
    )
    return torch.where(found < len(edges), found - 1, -1)


def whole_field(geometry: CoronagraphGeometry) -> tuple[float, float]:
    """One annulus: from ``λ/D`` to the farthest circle of which no pixel is missing."""
    reach = min(
        min(at, size - 1 - at) for at, size in zip(geometry.centre, geometry.shape, strict=True)
    )
    return (min(geometry.resolution, reach / 2), reach + 0.5)


def temporal_modes(data: Tensor, labels: Tensor, count: int) -> Tensor:
    """The mean and ``count`` principal components of the courses in time of each annulus.

    ``V_a = [1/√n, v_1 … v_count]`` with ``v_k`` the left singular vectors of the annulus' pixels
    (frame, pixel), each without its mean in time: the projection off them is PCA of the frames
    (KLIP, Soummer, Pueyo and Larkin 2012). A planet in the data bends the components towards
    itself: subtract known ones before.

    Args:
        data: (frame, y, x).
        labels: annulus of each pixel (y, x), −1 outside.
        count: components besides the mean.

    Returns:
        (annulus, frame, 1 + count) in float64.

    Raises:
        ValueError: more components than frames or pixels allow.
    """
    frames = len(data)
    if not 0 <= count <= frames - 2:
        raise ValueError(f"{count} components of {frames} frames: give at most {frames - 2}")
    found = []
    mean = torch.full((frames, 1), frames**-0.5, dtype=torch.float64, device=data.device)
    for annulus in range(int(labels.max()) + 1):
        courses = data[:, labels == annulus].double()
        if courses.shape[1] < count:
            raise ValueError(
                f"annulus {annulus} has {courses.shape[1]} pixels for {count} components: take "
                "wider annuli or fewer components"
            )
        courses = courses - courses.mean(0)
        _, vectors = torch.linalg.eigh(courses @ courses.mT)
        leading = vectors[:, vectors.shape[1] - count :].flip(1)
        # Eigenvectors of value 0 may hold some of the mean.
        found.append(torch.linalg.qr(torch.cat([mean, leading], 1)).Q)
    return torch.stack(found)


def planets_without_speckles(
    geometry: CoronagraphGeometry, *, dtype: torch.dtype = torch.float32
) -> Operator:
    """`ADISequence`, and after it `SpeckleProjection` where the geometry has speckles."""
    sequence = ADISequence(geometry, dtype=dtype)
    if geometry.speckles is None:
        return sequence
    labels = annulus_labels(geometry.shape, geometry.centre, geometry.annuli)
    return SpeckleProjection(labels, geometry.speckles.tensor(dtype)) @ sequence
