"""What is to be sampled, among learned designs: readouts along a trajectory or lines of a mask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.gradient_slew import GradientSlew
from labrecon_mri.scanners import GradientSystem

__all__ = ["chosen_lines", "designed", "limits_report", "readouts_of", "with_ending"]


def with_ending(path: Path, ending: str) -> Path:
    """The path with an ending; a dot in its name (``scan_1.5T``) is no ending."""
    return path if path.suffix == ending else path.with_name(path.name + ending)


def designed(geometry: BaseModel, designs: Mapping[str, Tensor]) -> tuple[str, Tensor]:
    """The name and the value of the mask or trajectory: of the design, else of the geometry.

    Raises:
        ValueError: there is neither.
    """
    assert isinstance(geometry, MRIGeometry)
    for name, value in designs.items():
        if name.rpartition(".")[2] in ("mask", "trajectory"):
            return name, value.detach().cpu().double()
    for name in ("mask", "trajectory"):
        held = getattr(geometry, name)
        if held is not None:
            return name, held.tensor(torch.float64)
    raise ValueError("there is nothing to export: neither a mask nor a trajectory was designed")


def chosen_lines(geometry: MRIGeometry, mask: Tensor) -> Tensor:
    """Indices of the phase-encoding lines that a mask ``(ky, 1)`` chooses.

    Raises:
        ValueError: it does not choose lines, or is relaxed: not yet 0 and 1.
    """
    lines = geometry.matrix[-2]
    if geometry.ndim != 2 or mask.shape[-1] != 1 or mask.numel() != lines:
        raise ValueError(
            f"lines are exported of a mask ({lines}, 1) of a 2D scan, got {tuple(mask.shape)}; "
            "take the format npy for other masks"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            "the mask has weights between 0 and 1, a scanner measures a line or does not: "
            "harden it first"
        )
    return mask.flatten().nonzero()[:, 0]


def readouts_of(geometry: BaseModel, designs: Mapping[str, Tensor]) -> tuple[MRIGeometry, Tensor]:
    """What is sampled, (shot, sample, axis) in cycles/m; lines of a mask from −x to +x.

    Raises:
        ValueError: there is nothing to export, or it differs between frames.
    """
    name, value = designed(geometry, designs)
    assert isinstance(geometry, MRIGeometry)
    if name.endswith("mask"):
        rows = (chosen_lines(geometry, value).double() - geometry.matrix[0] // 2) / geometry.fov[0]
        n = geometry.matrix[1]
        columns = (torch.arange(n, dtype=torch.float64) - n // 2) / geometry.fov[1]
        grid = torch.meshgrid(rows, columns, indexing="ij")
        return geometry, torch.stack(grid, -1)
    if value.ndim != 3:
        raise ValueError(
            f"a trajectory of one frame (shot, sample, axis) is exported, got {tuple(value.shape)}"
        )
    return geometry, value


def limits_report(trajectory: Tensor, system: GradientSystem, dwell: float) -> str:
    """How much of a gradient system a trajectory uses, and how many samples keep its limits."""
    limits = GradientSlew(system.max_gradient, system.max_slew, dwell=dwell)
    gradient = limits.gradient(trajectory).norm(dim=-1)
    slew = limits.slew(trajectory).norm(dim=-1)

    def told(values: Tensor, limit: float, unit: str) -> str:
        # Rounding of the trajectory is no excess.
        share = 100 * float((values <= limit * (1 + 1e-6)).double().mean())
        return f"at most {float(values.max()):.2f} of {limit:g} {unit}; {share:.2f} % within"

    return (
        f"{system.title}, Euclidean norm, samples every {dwell * 1e6:g} µs\n"
        f"gradient: {told(gradient, system.max_gradient, 'mT/m')}\n"
        f"slew rate: {told(slew, system.max_slew, 'T/m/s')}\n"
    )
