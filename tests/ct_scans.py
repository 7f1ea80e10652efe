"""Simulated scans for the tests of preparation steps."""

import math

import torch
from torch import Tensor

from labrecon.instrument import Scan
from labrecon_ct.geometry import CTGeometry
from labrecon_ct.phantoms import random_objects
from labrecon_ct.projector import CTProjector
from labrecon_ct.simulation import simulated_counts


def simulated(
    *,
    arc: float = math.pi,
    views: int = 180,
    columns: int = 128,
    offset: float = 0.0,
    size: int | None = None,
    seed: int = 0,
    beam: float = 5e4,
    fan: bool = False,
    **defects: float,
) -> Scan:
    """Counts of a random body on a grid of ``size`` voxels, with defects of the detector."""
    geometry = CTGeometry(
        angles=tuple(arc * i / views for i in range(views)),
        columns=columns,
        column_pitch=0.5,
        centre_offset=offset,
        open_beam=beam,
        volume_shape=(size or columns,) * 2,
        beam="cone" if fan else "parallel",
        source_origin=400.0 if fan else None,
        origin_detector=200.0 if fan else None,
    )
    generator = torch.Generator().manual_seed(seed)
    truth = random_objects(geometry, 1, generator)[0]
    lines = CTProjector(geometry)(truth)
    return simulated_counts(lines, geometry, generator, truth=truth, **defects)


def excess(scan: Scan) -> float:
    """NRMSE of the filtered back-projection against the truth."""
    x: Tensor = CTProjector(scan.geometry).initial(scan.data)
    return float(torch.linalg.vector_norm(x - scan.truth) / torch.linalg.vector_norm(scan.truth))
