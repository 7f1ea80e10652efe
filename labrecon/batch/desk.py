"""What runs inside a Dask worker: a worker process of labrecon's own, and its scans.

A scan that breaks its process, as vendors' libraries do, breaks that one and not the Dask worker.
Only JSON goes in and out; data go from the file to the process and from there to the output.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import labrecon
from labrecon.batch.bench import SetupError
from labrecon.batch.crew import LocalCrew
from labrecon.batch.tasks import Limits, Setup, Task

__all__ = ["STAGES", "dismiss", "probe", "serve"]

#: Topic under which stages are told, followed by the session.
STAGES = "labrecon-stages-"
#: Seconds between looks at the process.
_LOOK = 0.5

Answer = dict[str, Any]


class _Desk:
    """The process of one session of a batch in one Dask worker.

    Attributes:
        session: of the main process: another one takes nothing over from it.
    """

    def __init__(self, order: Mapping[str, Any], logs: Path) -> None:
        self.session = order["session"]
        self._dismissed = threading.Event()
        self._busy = threading.Lock()
        setup, limits = Setup(**order["setup"]), Limits(**order["limits"])
        self._crew = LocalCrew(setup, 1, limits, logs)

    def work(self, task: Task, tell: Callable[[str], None]) -> Answer:
        """Reconstruct a scan; the event that ends it."""
        with self._busy:
            waiting = True
            while not self._dismissed.is_set():
                if waiting and self._crew.accepts(alone=task.alone):
                    self._crew.submit(task)
                    waiting = False
                for event in self._crew.events(_LOOK):
                    if event.kind != "stage":
                        return {"kind": event.kind, "told": dict(event.told)}
                    tell(event.told["stage"])
            self._crew.close()
            return {"kind": "returned", "told": {}}

    def dismiss(self) -> None:
        """End the process; whoever waits for it is told within a moment."""
        self._dismissed.set()
        if self._busy.acquire(blocking=False):
            self._crew.close()
            self._busy.release()


#: By address of the Dask worker and folder of the batch; two workers may share a process.
_DESKS: dict[tuple[str, str], _Desk] = {}
_LOCK = threading.Lock()


def serve(order: Mapping[str, Any], task: Mapping[str, Any]) -> Answer:
    """Reconstruct a scan in this Dask worker.

    Args:
        order: ``session``, ``out`` (folder of the batch), ``setup`` and ``limits``.
        task: fields of a `Task`.

    Returns:
        ``kind`` and ``told`` of the event that ends it, or ``fatal`` where nothing can be done.
    """
    from distributed import get_worker

    worker = get_worker()
    topic = STAGES + order["session"]
    one = Task(**task)
    try:
        desk = _desk(worker.address, order)
        return desk.work(
            one, lambda stage: worker.log_event(topic, {"scan": one.scan, "stage": stage})
        )
    except SetupError as error:
        dismiss(order["out"], worker)
        return {"fatal": str(error), "exit_code": error.exit_code}


def _desk(address: str, order: Mapping[str, Any]) -> _Desk:
    key = (address, order["out"])
    with _LOCK:
        desk = _DESKS.get(key)
        if desk is None or desk.session != order["session"]:
            if desk is not None:
                desk.dismiss()
            name = "".join(c if c.isalnum() else "-" for c in address.partition("://")[2])
            logs = Path(order["out"]) / "logs" / f"{platform.node()}-{name}"
            desk = _DESKS[key] = _Desk(order, logs)
        return desk


def dismiss(out: str, dask_worker: Any = None) -> None:
    """End what a batch has in this Dask worker.

    Args:
        out: folder of the batch.
        dask_worker: the Dask worker, filled in by `distributed.Client.run`.
    """
    with _LOCK:
        desk = _DESKS.pop((dask_worker.address, out), None)
    if desk is not None:
        desk.dismiss()


def probe(out: str, token: str) -> dict[str, Any]:
    """What this Dask worker is, and whether it sees the folder of a batch.

    Args:
        out: folder of the batch.
        token: a file ``.probe-TOKEN`` was just made there.
    """
    return {
        "labrecon": labrecon.__version__,
        "host": platform.node(),
        "sees": (Path(out) / f".probe-{token}").exists(),
        "writes": os.access(out, os.W_OK),
    }
