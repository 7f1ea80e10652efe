"""Calibrate two instruments by the scans that they made: a rotation axis, and gradient delays.

Each scan is simulated with numbers that its geometry does not have, on a finer grid than the one
that reconstructs: a rotation axis two columns off, gradients half a sample late and early.
``[calibrate]`` estimates them jointly with the object and says how well they are known. Run it:
``python examples/calibrate_instrument.py out/``. On files the same is ``labrecon recon ct SCAN -o
out --set 'calibrate.nuisances=["centre"]'``.
"""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.figure
import torch
from torch import Tensor

from labrecon.instrument import Instrument, Scan
from labrecon.noise import Gaussian
from labrecon.plugins import host
from labrecon.recon import reconstruct_scan
from labrecon_ct.geometry import CTGeometry
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.phantoms import birdcage_maps
from labrecon_mri.trajectories import radial

Recipe = Mapping[str, Any]
Case = tuple[Instrument, Scan, Recipe, list[str]]
FOV = (0.22, 0.22)


def named(name: str) -> Instrument:
    """A bundled instrument."""
    made: Instrument = host().get("instruments", name)()
    return made


def noisy(clean: Tensor, share: float) -> tuple[Tensor, Gaussian]:
    """With white noise of a share of the largest sample."""
    noise = Gaussian(share * float(clean.abs().max()))
    return noise.sample(clean, torch.Generator().manual_seed(0)), noise


def axis_off() -> Case:
    """CT: 60 views of 48 columns, the axis two columns from the middle."""
    ct = named("ct")
    known = {"angles": tuple(math.pi * i / 60 for i in range(60)), "columns": 48}
    fine = CTGeometry.model_validate(
        {**known, "voxel_size": 0.4, "volume_shape": (96, 96), "centre_offset": 2.0}
    )
    body = ct.objects(fine, 1, torch.Generator().manual_seed(4))[0]
    data, noise = noisy(ct.operator(fine, kernel="strip")(body), 0.01)
    scan = Scan(data, CTGeometry.model_validate({**known, "voxel_size": 0.8}), noise)
    recipe = {
        "operator": {"kernel": "strip"},
        "solver": {"name": "fista", "iterations": 40},
        "prior": {"name": "tv", "relative_weight": 1e-3, "nonneg": True},
    }
    return ct, scan, recipe, ["centre"]


def gradients_late() -> Case:
    """MRI: 40 spokes, with delays of −0.5 and 0.5 samples along y and x."""
    mri = named("mri")

    def geometry(pixels: int) -> MRIGeometry:
        return MRIGeometry.model_validate(
            {
                "matrix": (pixels, pixels),
                "fov": FOV,
                "coils": 4,
                "trajectory": radial(40, 96, (48, 48), FOV),
                "maps": birdcage_maps(4, (pixels, pixels)),
            }
        )

    fine = geometry(96)
    body = mri.objects(fine, 1, torch.Generator().manual_seed(1))[0]
    delays = {"sampling.delay": torch.tensor([-0.5, 0.5], dtype=torch.float64)}
    data, noise = noisy(mri.operator(fine)(body, **delays) / 2, 2e-3)
    recipe = {"solver": {"name": "cg", "iterations": 12, "start": "initial"}}
    return mri, Scan(data, geometry(48), noise), recipe, ["delay"]


@torch.no_grad()
def main(out: Path) -> None:
    """Each scan as it is believed, and calibrated; four pictures."""
    out.mkdir(parents=True, exist_ok=True)
    figure = matplotlib.figure.Figure(figsize=(6.4, 6.6), layout="constrained")
    axes = figure.subplots(2, 2)
    for column, case in zip(axes.T, (axis_off, gradients_late), strict=True):
        instrument, scan, recipe, nuisances = case()
        for axis, names in zip(column, ([], nuisances), strict=True):
            folder = out / f"{instrument.name}-{'calibrated' if names else 'believed'}"
            asked = {**recipe, "calibrate": {"nuisances": names, "inner": 60}}
            made = reconstruct_scan(instrument, scan, folder, recipe=asked, force=True)
            told = made.summary.get("calibration", ["as believed"])
            print(f"{instrument.name}: {'; '.join(told)}; χ² {made.summary['chi2']:.3g}")
            image = made.volume.abs() if made.volume.is_complex() else made.volume
            axis.imshow(image, cmap="gray")
            short = [line.replace("sampling.", "") for line in told[: len(told) - bool(names)]]
            axis.set_title("\n".join([*short, f"χ² {made.summary['chi2']:.3g}"]), fontsize=9)
            axis.set(xticks=[], yticks=[])
    figure.savefig(out / "calibrate_instrument.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
