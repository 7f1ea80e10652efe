"""Learn an apodizer that keeps the star dark although the optics drift.

An apodized-pupil Lyot coronagraph behind the pupil of the VLT, with 30 nm of static aberrations
that nobody knows and 4 mas of jitter. The prolate apodizer is learned on, on random aberrations,
for the mean contrast from 3 to 8 λ/D at the throughput that it has, and written as FITS. Run it:
``python examples/dark_zone.py out/``.
"""

import sys
from pathlib import Path

import matplotlib.figure
import torch

from labrecon import FitConfig, fit
from labrecon.learners import ObjectSamples
from labrecon_coronagraph.dark_zone import DarkZone, dark_zone, inner_working_angle
from labrecon_coronagraph.optics_fits import export_optics
from labrecon_coronagraph.wavefront_instrument import WavefrontInstrument


def main(out: Path) -> None:
    """Learn, compare on other aberrations, export, draw."""
    out.mkdir(parents=True, exist_ok=True)
    instrument = WavefrontInstrument()
    optics = instrument.example().changed(
        pupil="vlt", pixels=64, modes=100, aberration=30.0, jitter=4.0, diversity=(0.0,)
    )
    operator = instrument.operator(optics)
    learner = DarkZone(operator, dark_zone(operator, 3, 8), designs=("apodizer",))
    seen = ObjectSamples(instrument.objects(optics, 64, torch.Generator().manual_seed(0)))
    unseen = instrument.objects(optics, 64, torch.Generator().manual_seed(9))

    @torch.no_grad()
    def measured() -> dict:
        images = operator(unseen).mean((0, 1, 2)) / operator.peak()
        return {
            "apodizer": operator.current("apodizer")["apodizer"],
            "image": images,
            "contrast": float(learner.contrast(unseen).mean()),
            "perfect": float(learner.contrast(0 * unseen[:1]).mean()),
            "throughput": float(operator.peak()),
            "angle": inner_working_angle(operator),
        }

    before = measured()
    fit(learner, seen, FitConfig(steps=200, batch_size=8, learning_rate=3e-3))
    assert not learner.harden()["apodizer"]
    after = measured()
    for title, told in (("prolate", before), ("learned", after)):
        print(
            f"{title}: contrast {told['contrast']:.2e}, {told['perfect']:.1e} without aberrations, "
            f"throughput {told['throughput']:.3f}, inner working angle {told['angle']:.2f} λ/D"
        )
    export_optics(optics, operator.current("apodizer"), out / "apodizer")

    figure = matplotlib.figure.Figure(figsize=(13, 7), layout="constrained")
    rows = figure.subplots(2, 3, width_ratios=[1, 1, 1.3])
    pupil = operator.optics.pupil
    for row, (title, told) in zip(rows, (("prolate", before), ("learned", after)), strict=True):
        row[0].imshow(told["apodizer"] * pupil, origin="lower", cmap="gray", vmin=0, vmax=1)
        row[0].set(title=f"{title} apodizer", xticks=[], yticks=[])
        row[1].imshow(told["image"].log10(), origin="lower", cmap="inferno", vmin=-6.5, vmax=-4)
        row[1].set(title="mean image (log contrast)", xticks=[], yticks=[])
    y, x = operator.optics.image.meshed()
    radius = (y.square() + x.square()).sqrt()
    edges = torch.arange(1.0, 9.5, 0.5)
    for title, told in (("prolate", before), ("learned", after)):
        rings = [(radius >= low) & (radius < low + 0.5) for low in edges.tolist()]
        rows[0][2].semilogy(
            edges + 0.25, [told["image"][ring].mean() for ring in rings], label=title
        )
    rows[0][2].set(xlabel="separation in λ/D", ylabel="mean contrast, 30 nm and 4 mas")
    rows[0][2].legend()
    names = ["30 nm and 4 mas", "perfect optics"]
    for k, (title, told) in enumerate((("prolate", before), ("learned", after))):
        at = [i + 0.35 * k for i in range(2)]
        rows[1][2].bar(at, [told["contrast"], told["perfect"]], 0.33, label=title)
    rows[1][2].set(yscale="log", ylabel="mean contrast, 3 to 8 λ/D", xticks=[0.17, 1.17])
    rows[1][2].set_xticklabels(names)
    rows[1][2].legend()
    figure.savefig(out / "dark_zone.png", dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dark_zone_out"))
