"""Reconstruct radial k-space of a coil array from its file: gridding, CG-SENSE, and two priors.

Without a file of your own, a scan with 6 coils whose noise is correlated is simulated, and written
as ISMRMRD (MRD) with a noise scan and without coil sensitivities: as a scanner would. Run it:
``python examples/reconstruct_kspace.py out/ [scan.h5]``. On the command line the same is
``labrecon recon mri scan.mrd.h5 -o out --recipe compare-trajectory``.
"""

import sys
from pathlib import Path

import matplotlib.figure
import torch

from labrecon.plugins import host
from labrecon.recon import reconstruct
from labrecon_mri.forward_model import forward_model
from labrecon_mri.geometry import MRIGeometry
from labrecon_mri.noise import CoilNoise
from labrecon_mri.phantoms import birdcage_maps, random_objects
from labrecon_mri.readers.mrd import MRDReader
from labrecon_mri.trajectories import radial

MATRIX, FOV, COILS, SPOKES = (128, 128), (0.22, 0.22), 6, 40
RECIPES = {
    "gridding": "gridded",
    "CG-SENSE": "recon",
    "L1-wavelet SENSE": "wavelet-trajectory",
    "TV SENSE": "tv-trajectory",
}


def write_scan(path: Path) -> None:
    """40 golden-angle spokes of a body, five times fewer than Nyquist asks for."""
    generator = torch.Generator().manual_seed(4)
    geometry = MRIGeometry(
        matrix=MATRIX,
        fov=FOV,
        coils=COILS,
        maps=birdcage_maps(COILS, MATRIX),
        trajectory=radial(SPOKES, 256, MATRIX, FOV),
        dwell=5e-6,
    )
    body = random_objects(geometry, 1, generator)[0]
    mix = torch.randn(COILS, COILS, dtype=torch.complex64, generator=generator)
    noise = CoilNoise(0.02**2 * (torch.eye(COILS) + 0.1 * mix @ mix.mH))
    with torch.no_grad():
        data = noise.sample(forward_model(geometry)(body), generator)
    silence = noise.sample(torch.zeros(COILS, 2048, 1, dtype=torch.complex64), generator)[..., 0]
    scan = host().get("instruments", "mri")().simulate(geometry, generator)
    scan = scan.replace(
        data=data,
        geometry=geometry.changed(maps=None),
        calibration={"noise": silence, "noise_scale": torch.tensor(1.0)},
        truth=None,
    )
    MRDReader().write(scan, path)


def main(out: Path, path: Path | None) -> None:
    """Four reconstructions, each a folder with volume, provenance and report; one picture."""
    out.mkdir(parents=True, exist_ok=True)
    if path is None:
        path = out / "radial.mrd.h5"
        write_scan(path)
    figure = matplotlib.figure.Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, len(RECIPES))
    for axis, (title, recipe) in zip(axes, RECIPES.items(), strict=True):
        result = reconstruct("mri", path, out / f"kspace-{recipe}", recipe=recipe, force=True)
        image = (
            result.volume.abs().flatten(0, -3)[0] if result.volume.ndim > 2 else result.volume.abs()
        )
        axis.imshow(image, cmap="gray", vmin=0, vmax=float(image.quantile(0.998)))
        axis.set(title=title, xticks=[], yticks=[])
        print(f"{title}: {result.summary['report']}")
    figure.savefig(out / "reconstruct_kspace.png", dpi=120)


if __name__ == "__main__":
    arguments = [Path(a) for a in sys.argv[1:]]
    main(arguments[0] if arguments else Path(), arguments[1] if len(arguments) > 1 else None)
