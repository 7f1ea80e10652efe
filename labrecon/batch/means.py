"""What a batch is worked through with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from labrecon.batch.manifest import FILE, Manifest
from labrecon.batch.policy import Policy
from labrecon.batch.tasks import Limits
from labrecon.errors import RecipeError

__all__ = ["Means", "means_of", "processors"]


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Means:
    """What a batch is worked through with.

    Attributes:
        workers: processes on this machine.
        threads: of each; by default the processors are shared out.
        limits: per scan.
        policy: attempts and watching.
    """

    workers: int = 1
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and value < 1:
                raise RecipeError(f"{name} is {value}, expected 1 or more")
        if self.policy.attempts < 1:
            raise RecipeError(f"attempts is {self.policy.attempts}, expected 1 or more")
        for name in ("seconds", "memory"):
            limit = getattr(self.limits, name)
            if limit is not None and limit <= 0:
                raise RecipeError(f"the limit of {name} is {limit}, expected more than 0")
        for name in ("settle", "poll", "idle"):
            seconds = getattr(self.policy, name)
            if seconds is not None and seconds < 0:
                raise RecipeError(f"{name} is {seconds} s, expected 0 or more")

    @property
    def threads_each(self) -> int:
        """Threads of each worker."""
        return self.threads or max(1, processors() // self.workers)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Means:
        """From what `plain` returned."""
        limits, policy = Limits(**told["limits"]), Policy(**told["policy"])
        return cls(told["workers"], told["threads"], limits, policy)


def means_of(
    out: str | Path,
    workers: int | None = None,
    threads: int | None = None,
    seconds: float | None = None,
    memory: float | None = None,
) -> Means:
    """The means of a batch, with others in their place where they are given.

    Raises:
        OutputError: the folder holds no batch.
    """
    with Manifest(Path(out) / FILE, write=False) as manifest:
        kept = Means.read(manifest.facts()["options"])
    limits = Limits(seconds or kept.limits.seconds, memory or kept.limits.memory)
    return replace(
        kept, workers=workers or kept.workers, threads=threads or kept.threads, limits=limits
    )
