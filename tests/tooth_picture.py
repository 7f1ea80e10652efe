"""What docs/tasks/train_without_truth.md shows of a measured tooth.

``python tests/tooth_picture.py OUT [DATA]`` prints the table and draws the picture.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tooth_halves import Halves, compared, figures, other_half

from labrecon.fourier_shell import shell_correlation
from labrecon.problem import Problem

#: Rows and columns that are drawn.
CLOSE = slice(15, 140), slice(25, 150)


def draw(problem: Problem, made: Mapping[str, Halves], chosen: float) -> Figure:
    """Halves of the views by three methods, the crack enlarged, and their correlation."""
    shown = {
        "filtered back-projection": made["fbp"],
        "total variation": made[f"tv {chosen:g}"],
        "network": made["network"],
    }
    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    axes = figure.subplots(2, 4, width_ratios=(1, 1, 1, 1.5))
    top = float(made["fbp"].even.quantile(0.995))
    for column, (title, halves) in enumerate(shown.items()):
        axes[0, column].set_title(title, fontsize=9)
        for axis, name in zip(axes[:, column], ("even", "odd"), strict=True):
            image = getattr(halves, name)[0, CLOSE[0], CLOSE[1]]
            axis.imshow(image, cmap="gray", vmin=0, vmax=top)
            axis.set(xticks=[], yticks=[])
            if column == 0:
                axis.set_ylabel(f"{name} views", fontsize=9)
        curve = shell_correlation(halves.even, halves.odd)
        axes[0, 3].plot(curve.frequency, curve.correlation, label=title)
        curves = other_half(halves, problem)
        mean = (curves[0].correlation + curves[1].correlation) / 2
        axes[1, 3].plot(curve.frequency, mean, label=title)
    axes[0, 3].set_title("correlation of the halves", fontsize=9)
    axes[1, 3].set_title("with the other half's own inversion", fontsize=9)
    axes[1, 3].set_xlabel("cycles per pixel", fontsize=9)
    axes[0, 3].legend(fontsize=7)
    for axis in axes[:, 3]:
        axis.set_ylim(-0.05, 1.05)
        axis.tick_params(labelsize=7)
    return figure


def main(out: Path, data: Path) -> None:
    """Print the table, draw the picture."""
    problem, made, chosen = compared(data)
    print(f"slice 0 chooses tv {chosen:g}")
    for name, halves in made.items():
        told = "  ".join(f"{k} {v:.4f}" for k, v in figures(halves, problem).items())
        print(f"{name:12} {told}")
    draw(problem, made, chosen).savefig(out / "self_supervised_tooth.png", dpi=90)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "../shared/data")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."), folder)
