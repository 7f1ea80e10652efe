"""Figures on the measured CT scans: ``python tests/benchmarks/ct_real_data.py [DATA]``.

Centre, correlation and scale against the shipped reconstructions, Matthews' correlation (MCC) of a
threshold segmentation with the shipped masks, and what TV gains over FBP on limited angles. Nothing
is set by hand: steps, solver and prior are those of the recipes ``recon`` and ``tv``.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat
from skimage.filters import threshold_otsu

from labrecon import Problem, Scan, solve
from labrecon.plugins import resolve
from labrecon.priors import TV
from labrecon.solvers import FISTA
from labrecon_ct.instrument import CTInstrument

CT = CTInstrument()


def prepared(path: Path) -> Scan:
    """The scan after the default preparation."""
    reader = next(r for r in (resolve(v)() for v in CT.readers.values()) if r.matches(path))
    scan = reader.read(path)
    for step in CT.recipes()["recon"]["prepare"]:
        scan = resolve(CT.steps[step["step"]])(scan)
    return scan


def matthews(image: np.ndarray, mask: np.ndarray) -> float:
    """MCC of the image above Otsu's threshold with a mask."""
    found = image > threshold_otsu(image)
    return float(np.corrcoef(found.ravel().astype(float), mask.ravel().astype(float))[0, 1])


def full(folder: Path, name: str) -> None:
    """A full HTC scan against the reconstruction and mask shipped with it."""
    scan = prepared(folder / f"htc2022_{name}_full.mat")
    image = CT.operator(scan.geometry).initial(scan.data).numpy()
    shipped = loadmat(folder / f"htc2022_{name}_full_recon_fbp.mat")["reconFullFbp"]
    mask = loadmat(folder / f"htc2022_{name}_full_recon_fbp_seg.mat")["reconFullFbpSeg"]
    y, x = np.indices(image.shape) - (image.shape[0] - 1) / 2
    # A voxel is a column wide at the axis.
    seen = np.hypot(y, x) < scan.geometry.columns / 2 - abs(scan.geometry.centre_offset) - 2
    correlation = np.corrcoef(image[seen], shipped[seen])[0, 1]
    whole = np.corrcoef(image.ravel(), shipped.ravel())[0, 1]
    print(
        f"{name:12} centre {scan.geometry.centre_column:8.3f}  correlation {correlation:.5f}"
        f" (with the corners {whole:.5f})  MCC {matthews(image, mask):.4f}"
    )


def limited(folder: Path, name: str) -> None:
    """A limited-angle HTC scan: FBP and TV."""
    scan = prepared(folder / f"htc2022_{name}_limited.mat")
    mask = loadmat(folder / f"htc2022_{name}_recon_fbp_seg.mat")["reconFullFbpSeg"]
    operator = CT.operator(scan.geometry)
    recipe = CT.recipes()["tv"]
    weight = recipe["prior"]["relative_weight"] * float(operator.adjoint(scan.data).abs().max())
    problem = Problem(operator, scan.data, scan.noise, scan.weights)
    begin = time.perf_counter()
    solution = solve(
        FISTA(prior=TV(weight, nonneg=True)), problem, iterations=recipe["solver"]["iterations"]
    )
    seconds = time.perf_counter() - begin
    direct = matthews(operator.initial(scan.data).numpy(), mask)
    print(
        f"{name:12} {len(scan.geometry.angles)} views  MCC FBP {direct:.4f}  "
        f"TV {matthews(solution.x.numpy(), mask):.4f}  ({seconds:.0f} s)"
    )


def main(data: Path) -> None:
    """Print all figures."""
    with torch.no_grad():
        tooth = prepared(data / "ct/aps_tooth/tooth.h5")
        print(f"{'aps_tooth':12} centre {tooth.geometry.centre_column:8.3f}  (asked 296.0 ± 0.5)")
        folder = data / "ct/htc2022/dev"
        for name in ("ta", "tc", "solid_disc"):
            full(folder, name)
        for path in sorted(folder.glob("htc2022_???_limited.mat")):
            limited(folder, path.stem.split("_")[1])


if __name__ == "__main__":
    default = os.environ.get("LABRECON_DATA", "../shared/data")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else default))
