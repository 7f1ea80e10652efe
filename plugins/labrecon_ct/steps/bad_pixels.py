"""Dead, stuck and hot detector pixels: weight 0, and a finite value in their place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labrecon.instrument import Scan, StepError
from labrecon_ct.steps.interpolation import filled
from labrecon_ct.steps.requirements import require_integrals, weights_of

__all__ = ["bad_pixels"]


def bad_pixels(
    scan: Scan,
    *,
    detect: bool = True,
    threshold: float = 12.0,
    pixels: Sequence[Sequence[int]] = (),
    mask: str | None = None,
) -> Scan:
    """Give bad detector pixels weight 0; their values are interpolated along the columns.

    Solvers that know weights never see the values; direct inversion does, and needs them.
    A pixel is bad if it has weight 0 in all views, is named by the user, or is detected: its mean
    over the views stands out from its column neighbours by ``threshold`` robust deviations and by
    5 % of the largest line integral (faint offsets are rings, not defects), or it does not move
    while its neighbours do.

    Args:
        scan: line integrals.
        detect: look for bad pixels.
        threshold: in robust standard deviations.
        pixels: ``[row, column]`` each, or ``[column]`` for whole columns, counted from 0.
        mask: a ``.npy`` or TIFF file ``(row, column)``, not 0 where a pixel is bad.

    Raises:
        StepError: a pixel outside the detector, or a mask of another shape.
    """
    require_integrals(scan, "bad_pixels")
    weights = weights_of(scan)
    bad = (weights == 0).all(-2)
    known = int(bad.sum())
    bad = bad | _given(pixels, mask, bad.shape)
    given = int(bad.sum()) - known
    if detect:
        bad = bad | _detected(scan.data, bad, threshold)
    found = int(bad.sum()) - known - given
    everywhere = bad.unsqueeze(-2).expand(scan.data.shape)
    weights = torch.where(everywhere, torch.zeros(()), weights)
    data = filled(scan.data, everywhere)
    return scan.replace(data=data, weights=weights).with_step(
        "bad_pixels",
        without_beam=known,
        given=given,
        detected=found,
        of=bad.numel(),
        places=[index[0] if len(index) == 1 else index for index in bad.nonzero()[:20].tolist()],
        values="interpolated along columns, weight 0",
    )


def _given(pixels: Sequence[Sequence[int]], mask: str | None, shape: torch.Size) -> Tensor:
    bad = torch.zeros(shape, dtype=torch.bool)
    for pixel in pixels:
        inside = len(pixel) in (1, len(shape)) and all(
            0 <= i < n for i, n in zip(reversed(pixel), reversed(shape), strict=False)
        )
        if not inside:
            raise StepError(
                f"bad pixel {list(pixel)} is not on the detector {tuple(shape)} (row, column)"
            )
        bad[(..., *map(int, pixel))] = True  # type: ignore[index]
    if mask is not None:
        read = _read_mask(Path(mask))
        if read.shape != tuple(shape):
            raise StepError(f"the mask {mask} is {read.shape}, the detector {tuple(shape)}")
        bad |= torch.from_numpy(read != 0)
    return bad


def _read_mask(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False)).squeeze()
    import tifffile

    return np.asarray(tifffile.imread(path)).squeeze()


def _detected(data: Tensor, known: Tensor, threshold: float) -> Tensor:
    """Pixels that stand out in their mean, or that do not move."""
    if data.shape[-1] < 16 or data.shape[-2] < 8:
        return torch.zeros_like(known)
    clean = filled(data, known.unsqueeze(-2).expand(data.shape))
    mean, spread = clean.mean(-2), clean.std(-2)
    away = mean - _neighbours(mean)
    scale = 1.4826 * away.abs().flatten(-1).median(-1, keepdim=True).values
    largest = float(mean.abs().max())
    odd = (away.abs() > threshold * scale) & (away.abs() > 0.05 * largest)
    usual = _neighbours(spread)
    stuck = (spread < 0.05 * usual) & (usual > 0.02 * largest)
    return (odd | stuck) & ~known


def _neighbours(values: Tensor, reach: int = 4) -> Tensor:
    """Median along the columns within ``reach``, the pixel itself left out."""
    size = 2 * reach + 1
    rows = values.reshape(-1, 1, values.shape[-1])
    padded = torch.nn.functional.pad(rows, (reach, reach), "replicate")
    windows = padded.squeeze(1).unfold(-1, size, 1)
    others = torch.cat([windows[..., :reach], windows[..., reach + 1 :]], -1)
    return others.quantile(0.5, dim=-1).reshape(values.shape)
