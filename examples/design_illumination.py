"""Learn what an LED array should show: two exposures for the phase of cells.

`labrecon.study.design` is what ``labrecon design phase --exposures 2`` calls. Brightness patterns
are learned through twelve steps of gradient descent on the partially coherent model, from the half
circles of differential phase contrast and from random patterns. They are rounded to the levels of
the array, judged on cells that were not learned from, by Gauss–Newton, beside the usual patterns at
equal light, and written as the file that a controller loads. Run it:
``python examples/design_illumination.py out/``.
"""

import json
import shutil
import sys
from pathlib import Path

import matplotlib.figure
import torch

from labrecon.plugins import host
from labrecon.study import design

#: Small enough for a minute; the defaults of the recipe go further.
SMALL = (
    "design.starts=1",
    "design.control=false",
    "data.count=10",
    "fit.steps=40",
    "classical.objects=2",
    "classical.solver.iterations=4",
    "classical.solver.inner=6",
    "evaluation.random=2",
    "evaluation.robustness.led_shift=[0.0, 0.5]",
)


def main(out: Path) -> None:
    """Learn, compare, export, draw."""
    study = out / "study"
    shutil.rmtree(study, ignore_errors=True)
    (told,) = design("phase", study, exposures=[2], overrides=SMALL).summary["designs"]
    for method in told["methods"]:
        title, metrics = method["title"], method["metrics"]
        margin = told["margins"].get(title, {}).get("mean", 0.0)
        print(f"{title:20s} PSNR {metrics['psnr']:.2f} dB, learned is better by {margin:.2f} dB")
    print("written:", *told["files"])

    instrument = host().get("instruments", "phase")()
    geometry = instrument.with_acquisitions(instrument.example(), 2)
    learned = json.loads((study / "design.json").read_text())["designs"]["patterns"]
    generator = torch.Generator().manual_seed(0)
    usual = instrument.baselines(geometry, "patterns", generator)["half circles (DPC)"]
    figure = matplotlib.figure.Figure(figsize=(11, 7), layout="constrained")
    shown = {"half circles (DPC)": usual, "learned": torch.tensor(learned)}
    parts = figure.subfigures(2, 2, height_ratios=[1.5, 1])
    for part, (title, patterns) in zip(parts[0], shown.items(), strict=True):
        instrument.show_design(geometry, {"patterns": patterns}, part)
        part.suptitle(title)
    axes = parts[1, 0].subplots()
    names = [method["title"] for method in told["methods"]]
    axes.barh(names[::-1], [method["metrics"]["psnr"] for method in told["methods"]][::-1])
    axes.set_xlabel("PSNR on held-out cells in dB")
    axes = parts[1, 1].subplots()
    curves = told["robustness"]["led_shift"]
    for title, values in curves["psnr"].items():
        axes.plot(curves["sizes"], values, marker="o", label=title)
    axes.set(xlabel="array off by, in mm", ylabel="PSNR in dB")
    axes.legend(frameon=False)
    figure.savefig(out / "design_illumination.png", dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
