"""Pictures of a dark zone: designs, images and contrasts, before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labrecon_coronagraph.aberrations import actuator_places

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from labrecon_coronagraph.learned_zone import LearnedZone

__all__ = ["draw_zone"]


def draw_zone(learned: LearnedZone) -> Figure:
    """Above the given optics, below the learned ones; to the right both of them in curves."""
    from matplotlib.figure import Figure

    names = list(learned.after.designs)
    columns = len(names) + 2
    figure = Figure(figsize=(4.2 * columns, 7), layout="constrained")
    rows = figure.subplots(2, columns, width_ratios=[1.0] * (columns - 1) + [1.3])
    both = (("given", learned.before), ("learned", learned.after))
    y, x = learned.operator.optics.image.meshed()
    reach = float(x.abs().max())
    floor = max(float(learned.after.image[learned.zone > 0].min().log10()), -12.0)
    for row, (title, optics) in zip(rows, both, strict=True):
        for axes, name in zip(row, names, strict=False):
            _draw_design(axes, learned, name, optics.designs[name])
            axes.set(title=f"{title} {name.replace('_', ' ')}", xticks=[], yticks=[])
        image = optics.image.clamp_min(1e-30).log10().numpy()
        shown = row[-2].imshow(
            image,
            origin="lower",
            cmap="inferno",
            vmin=floor,
            vmax=floor + 3,
            extent=[-reach, reach] * 2,
        )
        row[-2].contour(
            x[0].numpy(),
            y[:, 0].numpy(),
            learned.zone.numpy(),
            levels=[0.5],
            colors="w",
            linewidths=0.6,
        )
        row[-2].set(title="mean image (log contrast)", xlabel="λ/D")
        figure.colorbar(shown, ax=row[-2], shrink=0.8)
    radius = torch.hypot(y, x)
    edges = [edge / 2 for edge in range(2, int(2 * reach))]
    for title, optics in both:
        rings = [(radius >= low) & (radius < low + 0.5) & _side(learned, x) for low in edges]
        means = [float(optics.image[ring].mean()) for ring in rings]
        rows[0][-1].semilogy([low + 0.25 for low in edges], means, label=title)
    rows[0][-1].set(xlabel="separation in λ/D", ylabel="mean contrast over unseen draws")
    rows[0][-1].legend()
    for k, (title, optics) in enumerate(both):
        values = [float(optics.contrast.mean()), optics.perfect]
        rows[1][-1].bar([i + 0.35 * k for i in range(2)], values, 0.33, label=title)
    rows[1][-1].set(yscale="log", ylabel="mean contrast over the zone", xticks=[0.17, 1.17])
    rows[1][-1].set_xticklabels(["unseen draws", "perfect optics"])
    rows[1][-1].legend()
    return figure


def _side(learned: LearnedZone, x: Tensor) -> Tensor:
    """Where the curves look: on the side of the zone, if it has one."""
    half = not bool(learned.zone[:, : learned.zone.shape[1] // 2].any())
    return (x > 0) if half else torch.ones_like(x, dtype=torch.bool)


def _draw_design(axes: Axes, learned: LearnedZone, name: str, value: Tensor) -> None:
    pupil = learned.operator.optics.pupil
    if name == "commands":
        across = learned.operator.geometry.actuators
        places = actuator_places(pupil, across)
        value_map = torch.full((across, across), torch.nan, dtype=torch.float64)
        value_map[places[:, 0], places[:, 1]] = value.double()
        shown = axes.imshow(value_map.numpy(), origin="lower", cmap="RdBu")
        axes.figure.colorbar(shown, ax=axes, shrink=0.8, label="nm")
    elif name == "phase":
        clear = torch.where(pupil > 0, value.double(), torch.nan)
        shown = axes.imshow(clear.numpy(), origin="lower", cmap="RdBu")
        axes.figure.colorbar(shown, ax=axes, shrink=0.8, label="rad")
    else:
        axes.imshow((value * (pupil > 0)).numpy(), origin="lower", cmap="gray", vmin=0, vmax=1)
