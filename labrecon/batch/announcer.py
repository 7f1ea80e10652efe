"""Plugins told of events, without the batch having to wait for them."""

from __future__ import annotations

import queue
import threading
from typing import Any

from labrecon.plugins import Host

__all__ = ["Announcer"]


class Announcer:
    """Calls event hooks one after the other in a thread of its own: an upload may take long.

    Attributes:
        failures: what plugins raised, in words.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.failures: list[str] = []
        self._events: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="events")
        self._thread.start()

    def tell(self, event: str, **told: Any) -> None:
        """Tell plugins of an event, soon."""
        self._events.put((event, told))

    def close(self, timeout: float | None = None) -> bool:
        """Wait until all is told; whether it was within ``timeout`` seconds."""
        self._events.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (one := self._events.get()) is not None:
            event, told = one
            for why in self.host.call(event, **told):
                self.failures.append(f"a plugin failed at {event}: {why}")
