"""How a batch is worked through, and who looks on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Policy", "Spectator"]


@dataclass(frozen=True)
class Policy:
    """How a batch is worked through.

    Attributes:
        attempts: tries of a scan whose worker breaks, before it is given up.
        watch: go on looking for new files until told to stop.
        settle: seconds without a change after which a watched file is finished.
        poll: seconds between looks at the folder.
        idle: end a watch after so many seconds without anything to do; None for never.
    """

    attempts: int = 2
    watch: bool = False
    settle: float = 10.0
    poll: float = 2.0
    idle: float | None = None


class Spectator(Protocol):
    """Whoever shows how a batch gets on."""

    def scan(self, row: Mapping[str, Any]) -> None:
        """A scan is done, failed or skipped."""

    def look(self, counts: Mapping[str, int], running: Sequence[str]) -> None:
        """Time has passed."""

    def say(self, text: str) -> None:
        """Something that a person should know."""
