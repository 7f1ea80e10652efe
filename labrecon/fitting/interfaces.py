"""What `labrecon.learner.fit` is given: data by index, logs, a place for checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

__all__ = ["Checkpoints", "Log", "Samples", "StepCallback"]


@runtime_checkable
class Samples(Protocol):
    """Data by index. `fit` draws the order, cuts batches and gives each process its share.

    What is random in a sample (noise, augmentation) depends only on a seed, the epoch and the
    index, so that results depend neither on the number of processes nor on interruptions.
    """

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, indices: Sequence[int], epoch: int) -> Any:
        """The batch of these samples, on any device."""


class Log(ABC):
    """A callback with a file behind it."""

    @abstractmethod
    def __call__(self, step: int, record: dict[str, float]) -> object:
        """A step is done; the first is 1."""

    def begin(self, step: int) -> None:  # noqa: B027
        """Training starts after ``step`` steps: forget what was written of later ones."""

    def flush(self) -> None:  # noqa: B027
        """A checkpoint is about to be written: what was logged must be on disk."""

    def close(self) -> None:  # noqa: B027
        """Training ended, with an error or not."""


class Checkpoints(Protocol):
    """Where `fit` keeps what a continuation needs; `labrecon.io.checkpoints.CheckpointFolder`."""

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, or None."""

    def due(self, step: int) -> bool:
        """Whether to save after this step."""

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a state, whole or not at all."""


StepCallback = Callable[[int, dict[str, float]], object]
