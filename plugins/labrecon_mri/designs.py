"""Samplings that a lab would take, and pictures of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.masks import equispaced, variable_density

__all__ = ["draw_sampling", "usual_masks", "with_lines"]


def with_lines(geometry: MRIGeometry, count: int) -> MRIGeometry:
    """So many Cartesian lines, evenly spread.

    Raises:
        ValueError: the scan is along a trajectory, or has fewer lines.
    """
    lines = geometry.matrix[-2]
    if geometry.trajectory is not None:
        raise ValueError("a number of acquisitions is one of Cartesian lines: give a trajectory")
    if not 1 <= count <= lines:
        raise ValueError(f"a matrix {geometry.matrix} has {lines} lines, not {count}")
    mask = equispaced(lines, lines / count)
    return MRIGeometry.model_validate({**dict(geometry), "mask": mask})


def usual_masks(
    geometry: MRIGeometry, centre: int, generator: torch.Generator
) -> Mapping[str, Tensor]:
    """Equispaced and variable-density lines, as many as a geometry has, with a full centre."""
    if geometry.mask is None:
        return {}
    mask = geometry.mask.tensor(torch.float32)
    lines = geometry.matrix[-2]
    if tuple(mask.shape) != (lines, 1):
        return {}
    count = int((mask > 0).sum())
    even = equispaced(lines, lines / count, min(centre, count))
    drawn = variable_density(lines, lines / count, min(centre, count), generator=generator)
    return {"equispaced": even, "random": drawn}


def draw_sampling(geometry: MRIGeometry, designs: Mapping[str, Tensor], figure: Any) -> bool:
    """K-space with what is sampled of it; whether there was something to draw."""
    mask = next((v for name, v in designs.items() if name.endswith("mask")), None)
    path = next((v for name, v in designs.items() if name.endswith("trajectory")), None)
    if mask is None and path is None:
        return False
    axes = figure.subplots()
    if mask is not None:
        shown = mask.reshape(-1, *mask.shape[-2:])[0].broadcast_to(geometry.matrix[-2:])
        axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set(title=f"{int((mask > 0).sum())} lines", xlabel="kx", ylabel="ky")
    else:
        assert path is not None
        for shot in path.reshape(-1, *path.shape[-2:]):
            axes.plot(shot[:, -1], shot[:, -2], lw=0.6)
        axes.set(title="k in cycles/m", aspect="equal")
    return True
