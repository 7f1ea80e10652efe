"""What is said between the main process and whoever reconstructs: tasks there, events back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from labrecon.job import Job

__all__ = ["Crew", "Event", "Limits", "Setup", "Task", "model_hash"]


@dataclass(frozen=True)
class Setup:
    """What every worker is told once; plain JSON values.

    Attributes:
        instrument: a registered name, or ``"module:Class"``.
        recipe: values of the recipe, overrides included.
        model: run folder of `labrecon train`, or None.
        other_geometry: use the model on a geometry that it was not trained for.
        device: a torch device, or ``"auto"``.
        threads: of torch in each worker; None for as many as there are.
        model_hash: of the model's tensors, "" without one: it must stay the same.
    """

    instrument: str
    recipe: Mapping[str, Any]
    model: str | None = None
    other_geometry: bool = False
    device: str = "auto"
    threads: int | None = None
    model_hash: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Limits:
    """What a scan may take before its worker is killed; None for no limit.

    Attributes:
        seconds: of work on it; waiting for others does not count.
        memory: of its worker, in GiB.
    """

    seconds: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Task:
    """One scan to reconstruct.

    Attributes:
        scan: its number in the manifest.
        path: its file.
        out: folder to make.
        alone: no other scan may be with its worker, as it may have broken one.
    """

    scan: int
    path: str
    out: str
    alone: bool = False


@dataclass(frozen=True)
class Event:
    """What became of a scan.

    Attributes:
        kind: ``"stage"`` (it got to ``told["stage"]``), ``"done"`` (``told`` is its summary),
            ``"failed"`` (``told`` has ``kind``, ``reason`` and ``trace``), or ``"returned"`` (its
            worker broke, and it may not have been this scan's fault).
        scan: its number.
        told: plain JSON values.
    """

    kind: str
    scan: int
    told: Mapping[str, Any] = field(default_factory=dict)


def model_hash(job: Job) -> str:
    """SHA-256 of the tensors of a job's model; "" where it has none."""
    model = job.plans[0].model
    return "" if model is None else str(model.told()["sha256"])


class Crew(Protocol):
    """Whoever reconstructs: processes of this machine, or a cluster."""

    def accepts(self, *, alone: bool = False) -> bool:
        """Whether it takes another scan now."""
        ...

    def submit(self, task: Task) -> None:
        """Take a scan; only where `accepts` said so."""
        ...

    def events(self, timeout: float) -> Sequence[Event]:
        """What has happened since; waits for it up to ``timeout`` seconds.

        Raises:
            LabreconError: no worker can be set up; nothing can be done then.
        """
        ...

    def close(self) -> None:
        """Stop at once; what is in flight is given up."""
        ...
