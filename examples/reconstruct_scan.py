"""Reconstruct a scan from its file: all views, and a quarter of them with and without a prior.

Without a file of your own, a simulated scan is written in the Data Exchange layout first. Run it:
``python examples/reconstruct_scan.py out/ [scan.h5]``. On the command line the same is
``labrecon recon ct scan.h5 -o out --recipe compare``.
"""

import math
import sys
from pathlib import Path

import h5py
import matplotlib.figure
import numpy as np
import torch

from labrecon.plugins import host
from labrecon.recon import reconstruct

QUARTER = [{"step": "subset", "every": 4}]


def write_scan(path: Path) -> None:
    """Counts, flats and darks of a simulated body, with a rotation axis 4.5 columns off."""
    ct = host().get("instruments", "ct")()
    angles = [math.pi * i / 240 for i in range(240)]
    geometry = ct.Geometry(angles=angles, columns=256, column_pitch=0.1, centre_offset=4.5)
    scan = ct.simulate(geometry, torch.Generator().manual_seed(7))
    with h5py.File(path, "w") as file:
        exchange = file.create_group("exchange")
        exchange["data"] = scan.data[:, None].numpy().astype(np.uint16)
        exchange["data_white"] = scan.calibration["flats"][:, None].numpy().astype(np.uint16)
        exchange["data_dark"] = scan.calibration["darks"][:, None].numpy().astype(np.uint16)
        exchange["theta"] = np.rad2deg(angles)


def main(out: Path, path: Path | None) -> None:
    """Three reconstructions, each a folder with volume, provenance and report; one picture."""
    out.mkdir(parents=True, exist_ok=True)
    if path is None:
        path = out / "scan.h5"
        write_scan(path)
    prepare = host().get("instruments", "ct")().recipes()["recon"]["prepare"]
    tv = {"name": "tv", "relative_weight": 5e-4, "nonneg": True}
    recipes = {
        "FBP, all views": {"prepare": prepare, "solver": {"name": "direct"}},
        "FBP, every 4th view": {"prepare": prepare + QUARTER, "solver": {"name": "direct"}},
        "TV, every 4th view": {"prepare": prepare + QUARTER, "prior": tv},
    }
    figure = matplotlib.figure.Figure(figsize=(9, 3.4), layout="constrained")
    images = {}
    for i, (title, recipe) in enumerate(recipes.items()):
        result = reconstruct("ct", path, out / f"{path.stem}-{i}", recipe=recipe, force=True)
        images[title] = result.volume.flatten(0, -3)[0] if result.volume.ndim > 2 else result.volume
        print(f"{title}: {result.summary['report']}")
    high = float(images["FBP, all views"].quantile(0.998))
    for axis, (title, image) in zip(figure.subplots(1, 3), images.items(), strict=True):
        axis.imshow(image, cmap="gray", vmin=-0.1 * high, vmax=high)
        axis.set(title=title, xticks=[], yticks=[])
    figure.savefig(out / f"reconstruct_{path.stem}.png", dpi=120)


if __name__ == "__main__":
    arguments = [Path(a) for a in sys.argv[1:]]
    main(arguments[0] if arguments else Path(), arguments[1] if len(arguments) > 1 else None)
