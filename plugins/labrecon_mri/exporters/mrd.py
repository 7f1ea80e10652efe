"""Trajectories as an ISMRMRD file: an acquisition per shot, with its samples' positions."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon import Scan
from labrecon.io.atomic import write_file
from labrecon_mri.exporters.readouts import readouts_of, with_ending
from labrecon_mri.readers.mrd_writer import write_mrd

__all__ = ["export_mrd"]


def export_mrd(geometry: BaseModel, designs: Mapping[str, Tensor], path: Path) -> None:
    """Write ``NAME.h5``: ``traj`` (kx, ky[, kz]) in cycles/pixel, ±0.5 at the edge of k-space.

    The samples are zeros of one channel: a scan to be filled.

    Raises:
        ValueError: there is no trajectory to export.
        OutputError: the file can not be written.
    """
    known, trajectory = readouts_of(geometry, designs)
    only: dict[str, object] = {
        "mask": None,
        "maps": None,
        "field_map": None,
        "times": None,
        "coils": 1,
        "frames": {},
    }
    planned = known.changed(**{**only, "trajectory": trajectory})
    samples = torch.zeros(1, *trajectory.shape[:2], dtype=torch.complex64)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "plan.h5"
        write_mrd(Scan(samples, planned), made)
        write_file(with_ending(path, ".h5"), made.read_bytes(), force=True)
