"""My instrument drifted since I trained: adapt the network with a few known scans.

The camera of ``register_instrument.py`` was trained for with a shutter that closes. Now it leaks:
light comes through when it should not. `labrecon.adapt.adapt` goes on with the training, with eight
new scans of scenes that are known; eight others, which it never sees, say what that brings.
Run it: ``python examples/adapt_network.py out/``.
"""

import json
import shutil
import sys
from pathlib import Path

import matplotlib.figure
import numpy as np
import torch
from register_instrument import CodedShutterCamera, Geometry

from labrecon import Scan
from labrecon.adapt import adapt
from labrecon.metrics import psnr
from labrecon.recon import reconstruct
from labrecon.train import train

SHUTTER, LEAKING = (1, 1, 0, 1, 0, 0, 1), (1, 0.9, 0.35, 0.8, 0.3, 0.2, 0.6)
RECIPE = {
    "network": {"name": "fbp-convnet", "depth": 1, "features": 8, "normalise": False},
    "data": {"count": 160},
    "fit": {"epochs": 6, "batch_size": 8, "learning_rate": 5e-3, "schedule": "cosine"},
    "classical": {"skip": True},
}


class Reader:
    """NumPy archives: data, geometry as JSON, and the truth, which only a simulation knows."""

    def matches(self, path: Path) -> bool:
        return path.suffix == ".npz"

    def read(self, path: Path) -> Scan:
        with np.load(path) as file:
            geometry = Geometry.model_validate_json(str(file["geometry"]))
            data, truth = torch.from_numpy(file["data"]), torch.from_numpy(file["truth"])
        return Scan(data, geometry, Camera().noise(geometry), truth=truth)


class Camera(CodedShutterCamera):
    """The camera of the other example, whose files can be read."""

    @property
    def readers(self) -> dict[str, Reader]:
        return {"npz": Reader()}


def write_scans(folder: Path, geometry: Geometry, seeds: range) -> None:
    """Scans of new scenes, as the camera would write them, and the scenes."""
    for name in ("scans", "scenes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        scan = Camera().simulate(geometry, torch.Generator().manual_seed(seed))
        told = {"data": scan.data.numpy(), "truth": scan.truth.numpy()}
        path = folder / "scans" / f"scan_{seed}.npz"
        np.savez(path, geometry=geometry.model_dump_json(), **told)
        np.save(folder / "scenes" / f"scan_{seed}.npy", told["truth"])


def judged(run: Path, folder: Path, out: Path, **options: bool) -> float:
    """Mean PSNR of what a run makes of scans."""
    found = []
    for path in sorted((folder / "scans").iterdir()):
        made = reconstruct(Camera(), path, out / path.stem, model=run, force=True, **options)
        truth = torch.from_numpy(np.load(folder / "scenes" / f"{path.stem}.npy"))
        found.append(psnr(made.volume, truth))
    return sum(found) / len(found)


def main(out: Path) -> None:
    """Train, drift, adapt, judge by other scans, draw."""
    out.mkdir(parents=True, exist_ok=True)
    then = Geometry(height=32, width=32, shutter=SHUTTER, read_noise=0.02)
    now = then.model_copy(update={"shutter": LEAKING})
    (out / "geometry.json").write_text(json.dumps(then.model_dump(mode="json")))
    train(Camera(), out / "run", recipe=RECIPE, geometry=out / "geometry.json")

    write_scans(out / "before", then, range(500, 508))
    write_scans(out / "known", now, range(600, 608))
    write_scans(out / "new", now, range(700, 708))
    shutil.rmtree(out / "run2", ignore_errors=True)
    made = adapt(
        out / "run",
        out / "known" / "scans",
        out / "run2",
        method="transfer",
        objects=out / "known" / "scenes",
        instrument=Camera(),
        overrides=["fit.steps=120", "fit.learning_rate=3e-3"],
    )
    reached = {
        "adapted": judged(out / "run2", out / "new", out / "adapted"),
        "not adapted": judged(out / "run", out / "new", out / "swapped", other_geometry=True),
        "before the drift": judged(out / "run", out / "before", out / "undrifted"),
    }
    for title, value in reached.items():
        print(f"{title:18} {value:.1f} dB")
    print(made.summary["report"])

    figure = matplotlib.figure.Figure(figsize=(7, 2.2), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(list(reached), list(reached.values()), color=["C0", "0.7", "0.85"])
    axis.bar_label(bars, fmt="%.1f", padding=3)
    axis.set(xlabel="PSNR in dB", xlim=(min(reached.values()) - 3, max(reached.values()) + 1))
    figure.savefig(out / "adapt_network.png", dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
