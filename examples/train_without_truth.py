"""Train a network from scans alone: nobody knows what the objects look like.

Twelve noisy CT scans lie in a folder, as the scanner wrote them. Noise2Inverse trains a small U-Net
on them: it is given three quarters of the views of a scan, and should come near the filtered
back-projection of the others, whose noise it can not know. On scans that were not trained on it
stands beside total variation, whose weight was found without a truth, too. Then a new scan is
reconstructed as ``labrecon recon --model`` does it. Its object is known, since it is simulated, and
drawn beside.
Run it: ``python examples/train_without_truth.py out/``; the same command goes on after any stop.
"""

import json
import math
import sys
from pathlib import Path

import matplotlib.figure

from labrecon import plugins
from labrecon.metrics import psnr
from labrecon.plan import find_instrument
from labrecon.recon import reconstruct
from labrecon.simulate import simulate_file
from labrecon.train import train

GEOMETRY = {
    "angles": [math.pi * i / 64 for i in range(64)],
    "columns": 64,
    "column_pitch": 1.0,
    "volume_shape": [48, 48],
    "open_beam": 300.0,
}
RECIPE = {
    "prepare": [{"step": "flat_field"}],
    "operator": {"backend": "matrix"},
    "network": {"name": "fbp-convnet", "depth": 3, "features": 16, "normalise": False},
    "learner": {"name": "noise2inverse"},
    "fit": {"epochs": 30, "batch_size": 4, "learning_rate": 3e-3, "schedule": "cosine"},
    "classical": {"solver": {"name": "fista", "iterations": 20}, "objects": 1},
}


def main(out: Path) -> None:
    """Simulate a folder of scans, train on it, print what the report tells, draw."""
    scans = out / "scans"
    scans.mkdir(parents=True, exist_ok=True)
    geometry = out / "geometry.json"
    geometry.write_text(json.dumps(GEOMETRY))
    host = plugins.host()
    ct = find_instrument("ct", host)
    for seed in range(12):
        path = scans / f"scan{seed:02}.h5"
        simulate_file(ct, path, host=host, seed=seed, geometry=geometry, force=True)
    made = train("ct", out / "run", recipe=RECIPE, scans=scans)
    for method in made.summary["methods"]:
        print(f"{method['title']:24} held-out χ² {method['metrics']['held_out_chi2']:.3f}")
    print(made.summary["report"])

    new = out / "new.h5"
    truth = simulate_file(ct, new, host=host, seed=99, geometry=geometry, force=True).truth
    network = reconstruct("ct", new, out / "network", model=made.output, force=True)
    plain = {"prepare": RECIPE["prepare"], "solver": {"name": "direct"}}
    inverted = reconstruct("ct", new, out / "inverted", recipe=plain, force=True)
    images = {"filtered back-projection": inverted.volume, "network": network.volume}
    figure = matplotlib.figure.Figure(figsize=(7.5, 2.8), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (title, image) in zip(axes, {**images, "object": truth}.items(), strict=True):
        told = "" if title == "object" else f", {psnr(image, truth):.1f} dB"
        axis.imshow(image, cmap="gray", vmin=0, vmax=float(truth.max()))
        axis.set_title(f"{title}{told}", fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.savefig(out / "train_without_truth.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
