"""One small object per prior, for the tests that all priors must pass.

A new prior is added to `CASES` and thereby to every generic test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from labrecon.operators import FiniteDifference
from labrecon.prior import Prior, Zero
from labrecon.priors import L1, TGV, TV, Box, GroupL1, NonNegative, Tikhonov, WaveletL1
from labrecon.space import Space

SHAPE = (4, 4)


@dataclass(frozen=True)
class Case:
    """A prior from its weight.

    Attributes:
        dtypes: of the objects it takes.
        weighted: whether it has a weight.
        exactness: how far its prox may be from the true one.
        per_element: whether a tensor of weights per batch element has the axes of the object.
    """

    name: str
    make: Callable[[Tensor | float], Prior]
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.complex128)
    weighted: bool = True
    exactness: float = 1e-9
    per_element: bool = True


REAL = (torch.float64,)


def _smooth(weight: Tensor | float) -> Prior:
    return Tikhonov(weight, operator=FiniteDifference(Space(SHAPE, torch.float64)))


CASES = [
    Case("zero", lambda w: Zero(), weighted=False),
    Case("l1", L1),
    Case("l1-nonneg", lambda w: L1(w, nonneg=True), REAL),
    Case("group", lambda w: GroupL1(w, axis=-2), per_element=False),
    Case("wavelet", lambda w: WaveletL1(w, wavelet="haar")),
    Case("tikhonov", Tikhonov),
    Case("tikhonov-smooth", _smooth, REAL, per_element=False),
    Case("box", lambda w: Box(-0.5, 0.7), REAL, weighted=False),
    Case("nonneg", lambda w: NonNegative(), REAL, weighted=False),
    Case("tv", lambda w: TV(w, iterations=600), exactness=1e-4),
    Case("tv-1d", lambda w: TV(w, ndim=1, iterations=600), exactness=1e-4),
    Case("tv-nonneg", lambda w: TV(w, nonneg=True, iterations=600), REAL, exactness=1e-4),
    Case("tv-anisotropic", lambda w: TV(w, spacing=(1.0, 2.0), iterations=600), exactness=1e-4),
    Case("tgv", lambda w: TGV(w, iterations=800), exactness=1e-3),
    Case("tgv-nonneg", lambda w: TGV(w, nonneg=True, iterations=800), REAL, exactness=1e-3),
]


def pairs() -> list[tuple[Case, torch.dtype]]:
    return [(case, dtype) for case in CASES for dtype in case.dtypes]


def draw(*batch: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*batch, *SHAPE, dtype=dtype, generator=generator)
