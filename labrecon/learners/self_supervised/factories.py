"""The self-supervised learners by the names that recipes use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from labrecon.learners.self_supervised.dealing import Dealing
from labrecon.learners.self_supervised.equivariance import Equivariance
from labrecon.learners.self_supervised.learner import SelfSupervised
from labrecon.learners.self_supervised.misfit import Consistency
from labrecon.learners.self_supervised.noise2inverse import Noise2Inverse, Strategy
from labrecon.learners.self_supervised.ssdu import HeldOutMisfit
from labrecon.learners.self_supervised.sure import Risk, Where
from labrecon.learners.self_supervised.term import DataTerm
from labrecon.noise import Noise
from labrecon.operator import Operator
from labrecon.options import number
from labrecon.reconstructor import Reconstructor

__all__ = [
    "make_equivariant",
    "make_noise2inverse",
    "make_robust_equivariant",
    "make_ssdu",
    "make_sure",
]

Factory = TypeVar("Factory", bound=Callable[..., Any])
Axes = str | Sequence[str] | None
Terms = dict[str, Any]


def _without_truth(factory: Factory) -> Factory:
    """Mark a factory of learners for which scans suffice, as `SelfSupervised` itself is marked."""
    factory.without_truth = True  # type: ignore[attr-defined]
    return factory


@_without_truth
def make_ssdu(
    network: Reconstructor,
    operator: Operator,
    noise: Noise | None = None,
    *,
    axes: Axes = None,
    keep: int = 0,
    spread: float | None = None,
    fraction: float = 0.4,
    masks: int = 1,
    loss: str = "noise",
    equivariance: float = 0.0,
    transforms: Sequence[str] = ("rotations",),
    data_term: DataTerm = "unit",
    acquisitions: str = "",
) -> SelfSupervised:
    """SSDU: the network reconstructs some of the samples, the others judge (`HeldOutMisfit`).

    Args:
        network: what is trained.
        operator: of the scans.
        noise: that of the instrument; each scan has its own.
        axes: of the data that are dealt, see `Dealing`; by default the acquisitions.
        keep: so many in the middle of each are always seen.
        spread: hold out more of the middle, see `Dealing`.
        fraction: that judges.
        masks: deals per step.
        loss: "noise", "l1+l2" or "object".
        equivariance: weight of `Equivariance` beside it; 0 for none.
        transforms: of that.
        data_term: see `SelfSupervised`.
        acquisitions: the instrument's axis.

    Raises:
        ValueError: the data have no such axis, or a number is out of range.
    """
    dealing = _dealing(operator, axes, acquisitions, keep, spread)
    term = HeldOutMisfit(dealing, fraction=fraction, masks=masks, loss=loss)
    terms: Terms = {"ssdu": (1.0, term), **_beside(operator, equivariance, transforms)}
    return SelfSupervised(network, operator, terms, data_term=data_term)


@_without_truth
def make_noise2inverse(
    network: Reconstructor,
    operator: Operator,
    noise: Noise | None = None,
    *,
    axes: Axes = None,
    splits: int = 4,
    strategy: Strategy = "X:1",
    data_term: DataTerm = "unit",
    acquisitions: str = "",
) -> SelfSupervised:
    """Noise2Inverse: the target is the direct inversion of the other acquisitions.

    Args:
        network: what is trained.
        operator: of the scans, with a linear `Operator.initial`, such as filtered back-projection.
        noise: that of the instrument; each scan has its own.
        axes: of the data that are dealt; by default the acquisitions.
        splits: sections.
        strategy: "X:1" or "1:X".
        data_term: see `SelfSupervised`.
        acquisitions: the instrument's axis.

    Raises:
        ValueError: the data have no such axis, or an option is unknown.
    """
    dealing = _dealing(operator, axes, acquisitions)
    term = Noise2Inverse(dealing, splits=splits, strategy=strategy)
    terms: Terms = {"noise2inverse": (1.0, term)}
    return SelfSupervised(network, operator, terms, data_term=data_term)


@_without_truth
def make_sure(
    network: Reconstructor,
    operator: Operator,
    noise: Noise | None = None,
    *,
    where: Where = "data",
    step: float = 0.1,
    data_term: DataTerm = "unit",
) -> SelfSupervised:
    """SURE: the risk as the declared noise lets it be estimated (`Risk`).

    Args:
        network: what is trained.
        operator: of the scans.
        noise: that of the instrument; each scan has its own.
        where: "data" or "object".
        step: of the divergence.
        data_term: see `SelfSupervised`.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    terms: Terms = {"sure": (1.0, Risk(where, step=step))}
    return SelfSupervised(network, operator, terms, data_term=data_term)


@_without_truth
def make_equivariant(
    network: Reconstructor,
    operator: Operator,
    noise: Noise | None = None,
    *,
    equivariance: float = 1.0,
    transforms: Sequence[str] = ("rotations",),
    data_term: DataTerm = "unit",
) -> SelfSupervised:
    """Equivariant imaging: data consistency and `Equivariance`, for data with little noise.

    Args:
        network: what is trained.
        operator: of the scans.
        noise: that of the instrument; each scan has its own.
        equivariance: its weight.
        transforms: under which the set of objects stays what it is.
        data_term: see `SelfSupervised`.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    terms: Terms = {"consistency": (1.0, Consistency())}
    number("equivariance", equivariance, above=0)
    terms |= _beside(operator, equivariance, transforms)
    return SelfSupervised(network, operator, terms, data_term=data_term)


@_without_truth
def make_robust_equivariant(
    network: Reconstructor,
    operator: Operator,
    noise: Noise | None = None,
    *,
    equivariance: float = 1.0,
    transforms: Sequence[str] = ("rotations",),
    step: float = 0.1,
    data_term: DataTerm = "unit",
) -> SelfSupervised:
    """Robust equivariant imaging: SURE for what was measured, `Equivariance` for what was not.

    Args:
        network: what is trained.
        operator: of the scans.
        noise: that of the instrument; each scan has its own.
        equivariance: its weight.
        transforms: under which the set of objects stays what it is.
        step: see `Risk`.
        data_term: see `SelfSupervised`.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    terms: Terms = {"sure": (1.0, Risk(step=step))}
    number("equivariance", equivariance, above=0)
    terms |= _beside(operator, equivariance, transforms)
    return SelfSupervised(network, operator, terms, data_term=data_term)


def _beside(operator: Operator, weight: float, transforms: Sequence[str]) -> Terms:
    if not number("equivariance", weight, at_least=0):
        return {}
    return {"equivariance": (weight, Equivariance(transforms))}


def _dealing(
    operator: Operator,
    axes: Axes,
    acquisitions: str,
    keep: int = 0,
    spread: float | None = None,
) -> Dealing:
    named = acquisitions if axes is None and acquisitions in operator.range.axes else axes
    if named is None:
        raise ValueError(
            "say which axes of the data are dealt (axes): those whose samples are measured one by "
            f"one; the data have {', '.join(operator.range.axes)}"
        )
    dealing = Dealing((named,) if isinstance(named, str) else tuple(named), keep, spread)
    dealing.check(operator.range)
    return dealing
