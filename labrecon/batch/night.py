"""The loop of a batch: scans out to the crew, what became of them into the manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labrecon.batch.announcer import Announcer
from labrecon.batch.inventory import find, fingerprint, names_for
from labrecon.batch.manifest import Manifest, now
from labrecon.batch.opening import adopt, changed_failures, output_of, sweep
from labrecon.batch.policy import Policy, Spectator
from labrecon.batch.tasks import Crew, Event, Task
from labrecon.batch.watch import StableFiles
from labrecon.errors import OutputError
from labrecon.instrument import Reader
from labrecon.plugins import Host

__all__ = ["Night", "ScanFailed"]

#: Seconds that plugins have for the last events.
FAREWELL = 60.0
#: What a worker tells that has a column of its own, or is not kept.
_COLUMNS = ("inputs", "seconds", "seen", "summary")
#: Failures that another try, alone with a worker, may not have.
_TRIED_AGAIN = ("crash", "time limit", "memory limit")


@dataclass
class Night:
    """A batch at work.

    Attributes:
        out: its folder.
        manifest: open, and held by this process.
        hire: makes the crew, once there is something to do.
        readers: of the instrument.
        host: whose plugins are told, and may veto.
        policy: how.
        spectators: are told.
        refresh: writes the report, and says after how many seconds it should be called again.
        stopping: no further scan is begun; set from outside.
    """

    out: Path
    manifest: Manifest
    hire: Callable[[], Crew]
    readers: Mapping[str, Reader]
    host: Host
    policy: Policy
    spectators: Sequence[Spectator]
    refresh: Callable[[Manifest, str], float]
    stopping: bool = False
    _crew: Crew | None = None
    _ended: bool = False
    _odd: set[Path] = field(default_factory=set)
    _running: dict[int, str] = field(default_factory=dict)
    _next_look: float = 0.0
    _next_refresh: float = 0.0
    _last_work: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._files = StableFiles(self.policy.settle)
        self._announcer = Announcer(self.host)
        self._facts = self.manifest.facts()

    def work(self) -> dict[str, int]:
        """Work until all is done or it is told to stop; how many scans are in each state.

        Raises:
            LabreconError: nothing more can be done: the disk is full, no worker can begin.
        """
        self._announcer.tell(
            "labrecon_batch_started",
            output=str(self.out),
            scans=sum(self.manifest.counts().values()),
        )
        try:
            # Scans may be queued again by another process until the very end.
            while self._work_through():
                self._end("finished")
        finally:
            if self._crew is not None:
                self._crew.close()
            self._give_up()
        return self.manifest.counts()

    def _work_through(self) -> bool:
        """Do what there is to do; whether it was not done already."""
        worked = not self._ended
        while self._go_on():
            worked = True
            self._look_for_files()
            self._send_out()
            self._listen()
            self._show("running")
        return worked and not self.stopping

    def _end(self, state: str) -> None:
        """Write the final page, and have plugins told of the end."""
        self._ended = True
        self._next_refresh = 0.0
        self._show(state)
        counts = self.manifest.counts()
        self._announcer.tell("labrecon_batch_finished", output=str(self.out), counts=counts)
        if left := self._announcer.wait(FAREWELL):
            self.say(f"plugins were not told of {left} events: they took more than {FAREWELL:g} s")
        self._tell_failures()

    def _give_up(self) -> None:
        """Put back what is in flight, where it was stopped, or ended by an error."""
        # On a full disk what is running stays so, until the next process finds it.
        with suppress(OutputError):
            for scan, name in self._running.items():
                sweep(self.out, name)
                row = self.manifest.row(scan)
                if not self._adopted(row):
                    self.manifest.put_back(scan, attempts=max(0, row["attempts"] - 1))
            self._running.clear()
            if not self._ended or self.stopping:
                left = self.manifest.counts()["pending"]
                self._end("interrupted" if left else "finished")

    def _tell_failures(self) -> None:
        """What plugins have raised since."""
        while self._announcer.failures:
            self.say(self._announcer.failures.pop(0))

    @property
    def in_flight(self) -> str:
        """How many scans the crew has."""
        return f"{len(self._running)} scan{'s' if len(self._running) != 1 else ''}"

    def say(self, text: str) -> None:
        """Tell spectators, and keep it with the batch."""
        for spectator in self.spectators:
            spectator.say(text)
        messages = [*self.manifest.facts()["messages"], f"{now()}: {text}"]
        self.manifest.state_fact(messages=messages[-200:])

    # -- which scans ---------------------------------------------------------------------------

    def take_in(self, paths: Sequence[Path]) -> int:
        """Add scans that are not there yet."""
        known = self.manifest.known()
        fresh = [path for path in paths if str(path) not in known]
        # Bytes that are no UTF-8 stand as surrogates.
        odd = [path for path in fresh if any("\ud800" <= c <= "\udfff" for c in str(path))]
        for path in odd:
            if path not in self._odd:
                self._odd.add(path)
                self.say(f"left out, as its name is no UTF-8: {str(path)!a}")
        root = Path(self._facts["root"])
        named = names_for([p for p in fresh if p not in odd], root, known.values())
        return self.manifest.add(named)

    def _look_for_files(self) -> None:
        if not self.policy.watch or self.stopping or time.monotonic() < self._next_look:
            return
        begin = time.monotonic()
        known = self.manifest.known()
        found = find(self._facts["patterns"], self.readers, without=self.out)
        again = changed_failures(self.manifest)
        fresh = [path for path in found if str(path) not in known]
        finished = self._files.finished([*fresh, *again])
        self.take_in([path for path in finished if path not in again])
        for path in finished:
            if path in again:
                self.manifest.put_back(again[path], attempts=0, alone=0)
                self.say(f"{path} failed before, and changed since: tried again")
        # Looking at many files takes a tenth of the time at most.
        took = time.monotonic() - begin
        self._next_look = time.monotonic() + max(self.policy.poll, 9 * took)

    def _go_on(self) -> bool:
        if self._running:
            self._last_work = time.monotonic()
            return True
        if self.stopping:
            return False
        if self.manifest.waiting():
            return True
        if not self.policy.watch:
            return False
        quiet = time.monotonic() - self._last_work
        busy = self._files.waiting() > 0
        return busy or self.policy.idle is None or quiet < self.policy.idle

    def _send_out(self) -> None:
        while not self.stopping and (waiting := self.manifest.waiting(without=list(self._running))):
            [row] = waiting
            alone = bool(row["alone"])
            if self._crew is not None and not self._crew.accepts(alone=alone):
                return
            if self._adopted(row):
                continue
            if self._crew is None:
                self._crew = self.hire()
            elif not self._forbidden(row) and not self._taken(row):
                self._begin(self._crew, row, alone)

    def _adopted(self, row: Mapping[str, Any]) -> bool:
        """Whether the scan's output was there already."""
        made = adopt(self.manifest, self.out, row)
        if made is None:
            return False
        self._announcer.tell(
            "labrecon_scan_finished",
            path=row["path"],
            output=str(output_of(self.out, row["name"])),
            summary=made,
        )
        self._tell_of(row["id"])
        return True

    def _listen(self) -> None:
        if self._crew is None:
            time.sleep(min(0.2, self.policy.poll))
            return
        for event in self._crew.events(0.2):
            self._note(event)

    def _begin(self, crew: Crew, row: Mapping[str, Any], alone: bool) -> None:
        scan, path = row["id"], row["path"]
        self.manifest.change(
            scan,
            state="running",
            started=now(),
            attempts=row["attempts"] + 1,
            seen=fingerprint([Path(path)]),
            recipe=self._facts["recipe_hash"],
        )
        self._running[scan] = row["name"]
        recipe = self._facts["setup"]["recipe"]
        self._announcer.tell("labrecon_scan_started", path=path, recipe=recipe)
        crew.submit(Task(scan, path, str(output_of(self.out, row["name"])), alone))

    def _forbidden(self, row: Mapping[str, Any]) -> bool:
        """Ask plugins; whether one of them does not want the scan."""
        vetoed, failures = self.host.veto(row["path"], self._facts["setup"]["recipe"])
        for told in failures:
            self.say(told)
        if vetoed is None:
            return False
        plugin, reason = vetoed
        told = f"{reason} (the plugin {plugin})"
        self.manifest.change(
            row["id"], state="skipped", kind="veto", reason=told, finished=now(), output=None
        )
        self._tell_of(row["id"])
        return True

    def _taken(self, row: Mapping[str, Any]) -> bool:
        folder = output_of(self.out, row["name"])
        if not folder.exists():
            return False
        reason = (
            f"{folder} exists, and is not what this recipe makes of this file; move it away, and "
            "retry the scan"
        )
        self._fail(row["id"], {"kind": "output", "reason": reason})
        return True

    # -- what became of them -------------------------------------------------------------------

    def _note(self, event: Event) -> None:
        scan, told = event.scan, event.told
        if scan not in self._running:
            return
        if event.kind == "stage":
            self.manifest.change(scan, stage=told["stage"])
            return
        name = self._running.pop(scan)
        row = self.manifest.row(scan)
        if event.kind != "done":
            sweep(self.out, name)
        if event.kind == "done":
            self._done(row, told)
        elif self._adopted(row):
            # A worker of a cluster that was given up has made it all the same.
            return
        elif event.kind == "returned":
            self.manifest.put_back(scan, alone=1, attempts=max(0, row["attempts"] - 1))
        elif told.get("disk_full"):
            self.manifest.put_back(scan, attempts=max(0, row["attempts"] - 1))
            raise OutputError(f"{told['reason']}; the same command goes on with the batch")
        elif told["kind"] in _TRIED_AGAIN and row["attempts"] < self.policy.attempts:
            self.manifest.put_back(scan, alone=1)
            self.say(f"{row['name']}: {told['reason']}; it is tried again, alone")
        elif told.get("out_of_memory") and not row["alone"]:
            self.manifest.put_back(scan, alone=1)
        else:
            self._fail(scan, told)

    def _done(self, row: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        inputs = told["inputs"]
        kept = {k: v for k, v in told.items() if k not in _COLUMNS}
        self.manifest.change(
            row["id"],
            state="done",
            finished=now(),
            seconds=told["seconds"],
            inputs=inputs,
            seen=told["seen"],
            output=f"scans/{row['name']}",
            told=kept,
            **{"kind": "", "reason": "", "trace": "", "stage": "", "stale": "", "alone": 0},
        )
        self._announcer.tell(
            "labrecon_scan_finished",
            path=row["path"],
            output=str(output_of(self.out, row["name"])),
            summary=told["summary"],
        )
        self._tell_of(row["id"])

    def _fail(self, scan: int, told: Mapping[str, Any]) -> None:
        row = self.manifest.row(scan)
        tries = row["attempts"]
        again = f" ({tries} attempts)" if tries > 1 and told["kind"] in _TRIED_AGAIN else ""
        self.manifest.change(
            scan,
            state="failed",
            finished=now(),
            kind=told["kind"],
            reason=told["reason"] + again,
            trace=told.get("trace", ""),
            seconds=told.get("seconds"),
            output=None,
        )
        self._announcer.tell(
            "labrecon_scan_failed", path=row["path"], error=ScanFailed(told["kind"], told["reason"])
        )
        self._tell_of(scan)

    def _tell_of(self, scan: int) -> None:
        row = self.manifest.row(scan)
        for spectator in self.spectators:
            spectator.scan(row)

    def _show(self, state: str) -> None:
        self._tell_failures()
        for spectator in self.spectators:
            spectator.look(self.manifest.counts(), list(self._running.values()))
        if time.monotonic() < self._next_refresh:
            return
        pause = self.refresh(self.manifest, state)
        self._next_refresh = time.monotonic() + pause


class ScanFailed(Exception):
    """What became of a scan in its worker process, for plugins.

    Attributes:
        kind: "reader", "crash", "time limit", ….
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
