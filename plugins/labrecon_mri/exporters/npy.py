"""Trajectories and masks as ``.npy`` with a JSON file that says what they are."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from labrecon.io.atomic import write_file
from labrecon_mri.exporters.readouts import designed, with_ending
from labrecon_mri.geometry import MRIGeometry

__all__ = ["NpyExporter", "export_npy"]


class NpyExporter:
    """``NAME.npy``: trajectory (shot, sample, axis) in cycles/m, or mask; ``NAME.json`` tells."""

    def __call__(self, geometry: BaseModel, designs: Mapping[str, Tensor], path: Path) -> None:
        """Write the design.

        Raises:
            ValueError: neither a trajectory nor a mask is there.
            OutputError: the file can not be written.
        """
        name, value = designed(geometry, designs)
        assert isinstance(geometry, MRIGeometry)
        k = ", ".join(f"k{axis}" for axis in geometry.axes)
        axes = f"({k}) grid, 1 is measured" if name.endswith("mask") else f"shot, sample, ({k})"
        told = {
            "name": name,
            "axes": axes,
            "unit": "1" if name.endswith("mask") else "cycles/m",
            "matrix": geometry.matrix,
            "fov_m": geometry.fov,
            "dwell_s": geometry.dwell,
        }
        buffer = io.BytesIO()
        np.save(buffer, value.numpy(), allow_pickle=False)
        target = with_ending(path, ".npy")
        write_file(target, buffer.getvalue(), force=True)
        write_file(target.with_suffix(".json"), json.dumps(told, indent=2), force=True)

    def read(self, path: Path) -> dict[str, Tensor]:
        """What was written, by either file's path."""
        told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return {told["name"]: torch.from_numpy(np.load(path.with_suffix(".npy")))}


export_npy = NpyExporter()
