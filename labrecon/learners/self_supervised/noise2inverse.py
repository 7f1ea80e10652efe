"""Noise2Inverse: a network is trained on the direct inversion of acquisitions it does not see."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from labrecon.learners.self_supervised.dealing import Dealing, Part, part_of
from labrecon.learners.self_supervised.inversion import require_linear_inversion
from labrecon.learners.self_supervised.levels import offset
from labrecon.learners.self_supervised.term import Pass, Term
from labrecon.options import whole
from labrecon.problem import Problem

__all__ = ["Noise2Inverse", "Strategy", "averaged"]

Strategy = Literal["X:1", "1:X"]


class Noise2Inverse(Term):
    """``‖R(y_J) − B y_K‖²`` with a linear inversion ``B`` of the acquisitions ``K`` not in ``J``.

    Acquisitions are dealt in turn into sections (Hendriksen, Pelt and Batenburg 2020). Noise that
    is independent between them has no say in the expected loss: its minimiser is that of training
    with ``B A_K x`` for a truth. So what ``B`` makes wrong without noise, such as the streaks of
    few views, is learned with the rest.

    Args:
        dealing: of acquisitions.
        splits: sections; one of them, drawn for each slice in each step, is held out.
        strategy: "X:1": all others are reconstructed, one is the target; "1:X": the other way.

    Raises:
        ValueError: fewer than two sections, or an unknown strategy.
    """

    def __init__(self, dealing: Dealing, *, splits: int = 4, strategy: Strategy = "X:1") -> None:
        self.dealing = dealing
        self.splits = whole("splits", splits, at_least=2)
        if strategy not in get_args(Strategy):
            raise ValueError(f"strategy is one of {get_args(Strategy)}, got {strategy!r}")
        self.strategy = strategy

    def check(self, problem: Problem) -> None:
        """Raise `ValueError` where sections can not be made, or there is no linear inversion."""
        self.dealing.require(problem, self.splits)
        require_linear_inversion(problem.operator, problem.data.device)

    def __call__(self, run: Pass) -> Tensor:
        """Mean square difference from the other acquisitions' inversion, of each slice."""
        drawn = [int(torch.randint(self.splits, (), generator=g)) for g in run.generators]
        many = self.dealing.sections(run.problem, self.splits, drawn)
        one = _complement(many, run.problem)
        seen, other = (many, one) if self.strategy == "X:1" else (one, many)
        target = inverted(other, run)
        error = run.reconstruct_part(seen) - target
        return error.abs().square().flatten(-run.problem.operator.domain.ndim).mean(-1)


def averaged(term: Noise2Inverse, run: Pass) -> Tensor:
    """The mean over the sections of what the network makes of what it was trained on: as published.

    All data at once, as `labrecon recon` gives them, is the cheaper way.
    """
    total: Tensor | None = None
    for section in range(term.splits):
        many = term.dealing.sections(run.problem, term.splits, [section] * len(run.generators))
        part = many if term.strategy == "X:1" else _complement(many, run.problem)
        made = run.reconstruct_part(part)
        total = made if total is None else total + made
    assert total is not None
    return total / term.splits


def inverted(part: Part, run: Pass) -> Tensor:
    """The operator's direct inversion of a part, without background, on the scale of all data."""
    signal = part.problem.data - offset(run.problem.noise, part.problem.data)
    return run.problem.operator.initial(run.gain_of(part) * signal)


def _complement(part: Part, problem: Problem) -> Part:
    """What was held out, seen; and the other way."""
    seen = (part.gain > 0).to(part.held.dtype)
    axes = tuple(range(1, part.held.ndim))
    ratio = 1 + seen.sum(axes, keepdim=True) / part.held.sum(axes, keepdim=True)
    gain = part.held * ratio
    return Part(part_of(problem, gain), seen, gain)
