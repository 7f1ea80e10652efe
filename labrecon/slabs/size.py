"""How thick slabs may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from labrecon import posing
from labrecon.chunks import COPIES, SHARE
from labrecon.errors import RecipeError, ReconstructionError
from labrecon.instrument import Scan
from labrecon.job import Job
from labrecon.memory import GIB, free
from labrecon.slabs.places import Place
from labrecon.slabs.volume import Slices

__all__ = ["slices_that_fit", "thickest"]


def slices_that_fit(job: Job, scan: Scan, count: int, total: int) -> int:
    """How many slices a solve can hold, 1 at least; see `labrecon.chunks.elements_that_fit`.

    Args:
        job: the recipe, and where it computes.
        scan: some of the slices.
        count: how many these are.
        total: all of them.
    """
    operator = posing.make_operator(
        job.instrument, scan.geometry, job.plans[0].operator, torch.device("cpu")
    )
    elements = scan.data.numel() * scan.data.element_size()
    elements += operator.domain.size * operator.domain.dtype.itemsize
    budget = job.plans[0].solver.memory
    left = min(free(torch.device("cpu")), free(job.device))
    allowed = SHARE * left if budget is None else budget * GIB
    return max(1, min(total, int(allowed * count // (COPIES * elements))))


def thickest(cut: Callable[[Slices], Iterable[Place]], total: int, most: int) -> int:
    """The thickest slabs of which none is more than ``most`` slices with its halo.

    Args:
        cut: the slabs for slices that are divided so.
        total: slices of the volume.
        most: that fit.

    Raises:
        ReconstructionError: not even slabs of one slice fit.
    """
    fits, too_thick = 0, most + 1
    while too_thick - fits > 1:
        size = (fits + too_thick) // 2
        if _widest(cut, Slices.of(total, size)) <= most:
            fits = size
        else:
            too_thick = size
    if not fits:
        raise ReconstructionError(
            f"memory is enough for {most} of {total} slices at a time, and even one of them needs "
            "more with its halo: leave out --slabs, or reconstruct on a larger machine"
        )
    return fits


def _widest(cut: Callable[[Slices], Iterable[Place]], slices: Slices) -> int:
    try:
        return max(place.high - place.low for place in cut(slices))
    except RecipeError:  # a slab is the whole volume
        return slices.total
