"""Error bars on images: calibrated on held-out scenes, and what they cover.

The camera of ``register_instrument.py`` smears the scene along x by a coded shutter. A small
network is trained for it. Its error bars come from a parametric bootstrap, which alone promises
nothing; `labrecon.uncertainty.calibrate_intervals` finds the factor that makes them cover, and
measures what they cover on further scenes. ``labrecon recon --model`` then makes them for a new
scene.
Run it: ``python examples/error_bars.py out/``.
"""

import json
import sys
from pathlib import Path

import h5py
import matplotlib.figure
import torch
from register_instrument import CodedShutterCamera

from labrecon import Scan
from labrecon.recon import reconstruct_scan
from labrecon.results import Result
from labrecon.train import train
from labrecon.uncertainty import calibrate_intervals
from labrecon.uncertainty.card import IntervalsCard

RECIPE = {
    "network": {"name": "unrolled", "solver": "fista", "prior": "tv", "depth": 6},
    "data": {"count": 40},
    "fit": {"epochs": 3, "batch_size": 8, "learning_rate": 2e-2, "schedule": "cosine"},
    "classical": {"skip": True},
}
DRAWS = "uncertainty.draws=8"


def main(out: Path) -> None:
    """Train, calibrate, print what is covered, reconstruct a new scene, draw."""
    out.mkdir(parents=True, exist_ok=True)
    camera = CodedShutterCamera()
    geometry = camera.Geometry(height=32, width=32)
    (out / "geometry.json").write_text(json.dumps(geometry.model_dump(mode="json")))
    run = train(camera, out / "run", recipe=RECIPE, geometry=out / "geometry.json").output

    scan = camera.simulate(geometry, torch.Generator().manual_seed(99))
    plain = ["uncertainty.method=bootstrap", DRAWS]
    before = reconstruct_scan(camera, scan, out / "a", model=run, overrides=plain, force=True)
    card = calibrate_intervals(camera, model=run, count=75, overrides=[DRAWS], force=True).card
    after = reconstruct_scan(camera, scan, out / "b", model=run, force=True)

    print(f"calibrated on {card.calibrated_on} scenes, measured on {card.measured_on}")
    for row in card.levels:
        print(f"{row.level:6.0%} asked for, {row.coverage:6.1%} ± {row.error:.1%} covered")
    for stratum in card.strata:
        print(f"{stratum.name:27} {stratum.coverage:6.1%}")
    for title, result in (("bootstrap alone", before), ("calibrated", after)):
        told = result.summary["reconstructions"][0]["uncertainty"]
        print(f"new scene, 90 % {title}: {told['covered_of_truth']:.1%} covered")
    draw(out, scan, after, card)


def draw(out: Path, scan: Scan, result: Result, card: IntervalsCard) -> None:
    """The scene, its reconstruction, the half-widths, what is outside, and the calibration."""
    with h5py.File(out / "b" / "half_width.h5") as file:
        width = torch.from_numpy(file["entry/data/data"][()])
    error = (result.volume - scan.truth).abs()
    figure = matplotlib.figure.Figure(figsize=(11, 2.6), layout="constrained")
    *images, curve = figure.subplots(1, 5)
    shown = {
        "scene": (scan.truth, "gray"),
        "network": (result.volume, "gray"),
        "half-width, 90 %": (width, "viridis"),
        f"outside: {float((error > width).float().mean()):.1%}": (error > width, "Reds"),
    }
    for axis, (title, (image, colours)) in zip(images, shown.items(), strict=True):
        drawn = axis.imshow(image, cmap=colours)
        axis.set(title=title, xticks=[], yticks=[])
        if "half" in title:
            figure.colorbar(drawn, ax=axis, shrink=0.8)
    levels = [row.level for row in card.levels]
    curve.plot([0.5, 1], [0.5, 1], "k:")
    curve.errorbar(
        levels, [r.coverage for r in card.levels], [r.error for r in card.levels], fmt="o"
    )
    curve.set(title="coverage", xlabel="asked for", ylabel="measured")
    figure.savefig(out / "error_bars.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
