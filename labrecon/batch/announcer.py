"""Plugins told of events, without the batch having to wait for them."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from labrecon.plugins import Host

__all__ = ["Announcer"]


class Announcer:
    """Calls event hooks one after the other in a thread of its own: an upload may take long.

    Attributes:
        failures: what plugins raised, in words, each once.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.failures: list[str] = []
        self._told: set[str] = set()
        self._events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        threading.Thread(target=self._work, daemon=True, name="events").start()

    def tell(self, event: str, **told: Any) -> None:
        """Tell plugins of an event, soon."""
        self._events.put((event, told))

    def wait(self, timeout: float) -> int:
        """Wait until all is told, or for so many seconds; how many events are left."""
        end = time.monotonic() + timeout
        while self._events.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.02)
        return self._events.unfinished_tasks

    def _work(self) -> None:
        while True:
            event, told = self._events.get()
            for why in self.host.call(event, **told):
                text = f"a plugin failed at {event}: {why}"
                if text not in self._told:
                    self._told.add(text)
                    self.failures.append(text)
            self._events.task_done()
