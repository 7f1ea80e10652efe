"""LED patterns as the array shows them, and what of the phase they see."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from labrecon_phase.geometry import PhaseGeometry
from labrecon_phase.led_arrays import na_of
from labrecon_phase.weak_object import WeakObject

__all__ = ["draw_patterns"]


def draw_patterns(geometry: PhaseGeometry, patterns: Tensor, figure: Any) -> None:
    """LED maps with the objective's aperture; below, ``|H_φ|`` and its root mean square.

    Args:
        geometry: of the acquisition.
        patterns: (exposure, led).
        figure: of matplotlib.
    """
    count = len(patterns)
    na = na_of(geometry.leds.tensor(torch.float64)).numpy()
    axes = figure.subplots(2, count + 1, squeeze=False)
    span = 1.1 * max(float(np.abs(na).max()), geometry.na)
    turn = np.linspace(0, 2 * np.pi, 90)
    for exposure, axis in enumerate(axes[0, :count]):
        weights = (patterns[exposure] / patterns[exposure].max()).numpy()
        axis.scatter(na[:, 1], na[:, 0], s=30, facecolors="none", edgecolors="0.35", lw=0.5)
        lit = weights > 0
        axis.scatter(
            na[lit, 1], na[lit, 0], c=weights[lit], cmap="YlOrRd_r", s=30, vmin=-0.3, vmax=1
        )
        axis.plot(geometry.na * np.cos(turn), geometry.na * np.sin(turn), "0.5", lw=0.8)
        # As in the image, y grows downwards.
        axis.set(xlim=(-span, span), ylim=(span, -span), aspect="equal", facecolor="k")
        axis.set(title=f"exposure {exposure}", xticks=[-geometry.na, 0, geometry.na], yticks=[])
        axis.set_xlabel("NA")
    axes[0, count].axis("off")
    transfer = _transfer(geometry, patterns)
    reach = 2 * geometry.na / geometry.wavelength
    extent = _extent(geometry)
    for exposure, axis in enumerate(axes[1, :count]):
        if transfer[exposure] is None:
            axis.text(0.5, 0.5, "dark field", ha="center", transform=axis.transAxes)
            axis.axis("off")
            continue
        axis.imshow(transfer[exposure], cmap="gray", vmin=0, vmax=2, extent=extent)
        axis.set(xlim=(-reach, reach), ylim=(reach, -reach), xticks=[], yticks=[], title="|H_φ|")
    seen = [t for t in transfer if t is not None]
    if not seen:
        axes[1, count].axis("off")
        return
    total = np.sqrt(np.mean([t**2 for t in seen], axis=0))
    axes[1, count].imshow(total, cmap="gray", vmin=0, vmax=1.5, extent=extent)
    axes[1, count].set(xlim=(-reach, reach), ylim=(reach, -reach), title="rms of all")
    axes[1, count].set(xticks=[-reach, 0, reach], yticks=[], xlabel="1/µm")
    axes[1, count].xaxis.set_major_formatter("{x:.2g}")


def _extent(geometry: PhaseGeometry) -> tuple[float, float, float, float]:
    rows, columns = geometry.object_shape
    edge = 1 / (2 * geometry.object_pixel)
    half_x, half_y = edge / columns, edge / rows
    return -edge - half_x, edge - half_x, edge - half_y, -edge - half_y


def _transfer(geometry: PhaseGeometry, patterns: Tensor) -> list[Any]:
    """``|H_φ|`` of each exposure with zero frequency in the middle; None for dark fields."""
    found: list[Any] = []
    for pattern in patterns:
        one = geometry.changed(patterns=pattern[None], bands=None, background=None, sample="phase")
        try:
            phase, _ = WeakObject(one).transfer()
        except ValueError:
            found.append(None)
            continue
        found.append(torch.fft.fftshift(phase[0].detach().abs(), dim=(-2, -1)).numpy())
    return found
