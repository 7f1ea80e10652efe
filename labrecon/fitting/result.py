"""FitResult: what came of a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Best", "FitResult"]


@dataclass(frozen=True)
class Best:
    """The validation that was best.

    Attributes:
        step: steps done by then.
        metrics: what `Learner.validate` returned, averaged.
    """

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class FitResult(Sequence[dict[str, float]]):
    """What a training did; as a sequence, its records by step.

    Attributes:
        history: a record for each step of this process: "epoch", "loss", the learner's metrics,
            "learning_rate", "gradient_norm", "seconds"; where validated, "validation/…".
        status: "finished", "early stopping", "time", or "stopped" by a callback.
        steps: steps done, those before a continuation included.
        best: the best validation, or None.
        last: the last record, also where a continuation found nothing left to do.
    """

    history: list[dict[str, float]]
    status: str
    steps: int
    best: Best | None = None
    last: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.history)

    def __getitem__(self, index: Any) -> Any:
        return self.history[index]

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.history)
