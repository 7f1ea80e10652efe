"""Train a network for an instrument, and reconstruct a scan with it.

The camera of ``register_instrument.py`` smears the scene along x by a coded shutter. Twelve
iterations of FISTA with total variation, whose step sizes and weights are learned, are trained on
simulated scenes by `labrecon.train.train`. On scenes that were not trained on they stand beside
FISTA of up to 150 iterations with the weight that serves the training scenes best. The
run folder is then used as ``labrecon recon --model`` uses it.
Run it: ``python examples/train_network.py out/``; the same command goes on after any stop.
"""

import json
import sys
from pathlib import Path

import matplotlib.figure
import torch
from register_instrument import CodedShutterCamera

from labrecon.metrics import psnr
from labrecon.recon import reconstruct_scan
from labrecon.train import train

RECIPE = {
    "network": {"name": "unrolled", "solver": "fista", "prior": "tv", "depth": 12},
    "data": {"count": 80},
    "fit": {"epochs": 4, "batch_size": 8, "learning_rate": 2e-2, "schedule": "cosine"},
}


def main(out: Path) -> None:
    """Train, print what the report tells, reconstruct a new scene, draw."""
    out.mkdir(parents=True, exist_ok=True)
    camera = CodedShutterCamera()
    geometry = camera.Geometry(height=32, width=32)
    (out / "geometry.json").write_text(json.dumps(geometry.model_dump(mode="json")))
    made = train(camera, out / "run", recipe=RECIPE, geometry=out / "geometry.json")
    for method in made.summary["methods"]:
        print(f"{method['title']:28} {method['metrics']['psnr']:.1f} dB")
    print(made.summary["report"])

    scan = camera.simulate(geometry, torch.Generator().manual_seed(99))
    result = reconstruct_scan(camera, scan, out / "new", model=made.output, force=True)
    figure = matplotlib.figure.Figure(figsize=(7, 2.6), layout="constrained")
    images = {"scene": scan.truth, "measured": scan.data, "network": result.volume}
    for axis, (title, image) in zip(figure.subplots(1, 3), images.items(), strict=True):
        told = f", {psnr(image, scan.truth):.1f} dB" if title == "network" else ""
        axis.imshow(image, cmap="gray")
        axis.set(title=f"{title}{told}", xticks=[], yticks=[])
    figure.savefig(out / "train_network.png", dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
