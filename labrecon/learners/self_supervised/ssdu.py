"""SSDU: some of the samples are reconstructed, the others judge."""

from __future__ import annotations

from torch import Tensor

from labrecon.learners.self_supervised.dealing import Dealing
from labrecon.learners.self_supervised.inversion import require_linear_inversion
from labrecon.learners.self_supervised.misfit import pick_misfit
from labrecon.learners.self_supervised.term import Pass, Term
from labrecon.options import number, whole
from labrecon.problem import Problem

__all__ = ["HeldOutMisfit"]


class HeldOutMisfit(Term):
    """``D_Λ(R(y_Θ))``: the misfit of samples ``Λ`` that the network was not given.

    Measured data are dealt at random into ``Θ``, from which the network reconstructs, and ``Λ``, on
    which the loss is taken, anew for each slice in each step (Yaman et al. 2020). Noise that is
    independent between samples can not be predicted, so that the expected loss is that of the true
    ``A_Λ x`` and a constant: its minimiser predicts ``E[A_Λ x | y_Θ]``.

    Args:
        dealing: what is dealt.
        fraction: of the samples in ``Λ``.
        masks: deals per step, over which the loss is averaged (multi-mask SSDU, Yaman et al.
            2022).
        loss: "noise": `misfit`, which weighs by the declared noise; "l1+l2": `normalised_misfit`,
            as published for MRI; "object": `object_misfit`, for projections.

    Raises:
        ValueError: a number is out of range, or an unknown loss.
    """

    def __init__(
        self, dealing: Dealing, *, fraction: float = 0.4, masks: int = 1, loss: str = "noise"
    ) -> None:
        self.dealing = dealing
        self.fraction = number("fraction", fraction, above=0, below=1)
        self.masks = whole("masks", masks)
        self.judge = pick_misfit(loss)
        self.inverts = loss == "object"

    def check(self, problem: Problem) -> None:
        """Raise `ValueError` where there is nothing to be dealt."""
        self.dealing.require(problem, 2)
        if self.inverts:
            require_linear_inversion(problem.operator, problem.data.device)

    def __call__(self, run: Pass) -> Tensor:
        """The misfit of held-out samples of each slice."""
        total: Tensor | None = None
        for _ in range(self.masks):
            part = self.dealing.held_out(run.problem, self.fraction, run.generators)
            found = self.judge(run.problem, run.reconstruct_part(part), part.held)
            total = found if total is None else total + found
        assert total is not None
        return total / self.masks
