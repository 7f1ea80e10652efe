"""Worker processes on this machine, replaced when they break."""

from __future__ import annotations

import select
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from labrecon.batch.bench import Bench, SetupError
from labrecon.batch.tasks import Event, Limits, Setup, Task

__all__ = ["LocalCrew"]

#: Seconds between looks at times and memory.
POLL = 0.2
#: Times that a worker may end while it starts, one after the other.
STARTS = 5


class LocalCrew:
    """So many worker processes; see `labrecon.batch.tasks.Crew`.

    A scan that was alone with a worker that broke has failed. Where a worker had several, all are
    returned: each has to be tried alone to find out.

    Args:
        setup: what each worker is told; of device ``"auto"`` or ``"cuda"`` each gets a GPU in turn.
        workers: how many.
        limits: per scan.
        logs: folder for what the workers print.
    """

    def __init__(self, setup: Setup, workers: int, limits: Limits, logs: Path) -> None:
        if workers < 1:
            raise ValueError(f"a crew needs 1 worker or more, not {workers}")
        self._setups = [replace(setup, device=d) for d in _devices(setup.device, workers)]
        self._limits, self._logs = limits, logs
        self._starts, self._worked = [0] * workers, [False] * workers
        self._error: SetupError | None = None
        self._benches = [self._bench(i) for i in range(workers)]

    def _bench(self, number: int) -> Bench:
        log = self._logs / f"worker-{number + 1}.log"
        return Bench(self._setups[number], self._limits, log)

    def accepts(self, *, alone: bool = False) -> bool:
        """Whether a worker takes another scan now."""
        return any(bench.accepts(alone=alone) for bench in self._benches)

    def submit(self, task: Task) -> None:
        """Give a scan to the worker that has fewest."""
        free = [bench for bench in self._benches if bench.accepts(alone=task.alone)]
        min(free, key=lambda bench: len(bench.flights)).submit(task)

    def events(self, timeout: float) -> Sequence[Event]:
        """What has happened since.

        A worker that ends while it starts is started again, if there have been some that did not.

        Raises:
            SetupError: workers can not do anything.
        """
        if self._error is not None:
            raise self._error
        select.select(self._benches, (), (), min(timeout, POLL))
        told: list[Event] = []
        for number, bench in enumerate(self._benches):
            try:
                told += bench.events()
            except SetupError as error:
                bench.stop()
                self._starts[number] += 1
                if error.final or self._starts[number] > STARTS or not any(self._worked):
                    # Raised the next time: what the others have told is not lost.
                    self._error = error
                    return told
            if bench.ready:
                self._starts[number], self._worked[number] = 0, True
            if bench.over:
                self._benches[number] = self._bench(number)
        return told

    def close(self) -> None:
        """Stop all workers at once."""
        for bench in self._benches:
            bench.stop()


def _devices(device: str, workers: int) -> list[str]:
    """The device of each worker: GPUs in turn where the device has no number."""
    if device not in ("auto", "cuda"):
        return [device] * workers
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{i % count}" for i in range(workers)] if count else [device] * workers
