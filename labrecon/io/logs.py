"""Logs of a training: a table as CSV, curves for TensorBoard. Both are callbacks of `fit`."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from labrecon.errors import OutputError
from labrecon.learner import Log

__all__ = ["CsvLog", "TensorBoardLog"]


class CsvLog(Log):
    """One row per step, ``step`` first; what a step does not tell is empty.

    A training that goes on cuts the rows of steps after its checkpoint and writes them again.

    Args:
        path: of the file; what is there of an earlier training is replaced.

    Raises:
        OutputError: it can not be written.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.file: IO[str] | None = None
        self.columns: list[str] = []

    def begin(self, step: int) -> None:
        """Cut rows of steps after ``step``, and what is left of a row that was cut short."""
        rows: list[dict[str, str]] = []
        self.columns = []
        try:
            if step and self.path.exists():
                with self.path.open(newline="", encoding="utf-8") as file:
                    table = csv.DictReader(file)
                    self.columns = list(table.fieldnames or [])
                    for row in table:
                        if not row["step"].isdecimal() or int(row["step"]) > step:
                            break
                        rows.append(row)
            self._rewrite(rows)
        except OSError as error:
            raise self._refused(error) from error

    def __call__(self, step: int, record: dict[str, float]) -> None:
        """Append a row."""
        row = {"step": str(step), **{name: repr(float(v)) for name, v in record.items()}}
        new = [name for name in row if name not in self.columns]
        try:
            if new or self.file is None:
                rows = self._rows() if self.file is not None else []
                self.columns += new
                self._rewrite([*rows, row])
            else:
                csv.DictWriter(self.file, self.columns).writerow(row)
                self.file.flush()
        except OSError as error:
            raise self._refused(error) from error

    def flush(self) -> None:
        """To the disk itself."""
        try:
            if self.file is not None:
                self.file.flush()
                os.fsync(self.file.fileno())
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """The file is whole after it."""
        file, self.file = self.file, None
        try:
            if file is not None:
                file.close()
        except OSError as error:
            raise self._refused(error) from error

    def _rows(self) -> list[dict[str, str]]:
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        """All of it anew, beside and renamed: a validation brings columns of its own."""
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".part")
        with partial.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, self.columns)
            if self.columns:
                table.writeheader()
            table.writerows(rows)
        partial.replace(self.path)
        self.file = self.path.open("a", newline="", encoding="utf-8")

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path} can not be written: {error}")


class TensorBoardLog(Log):
    """Scalars by step as TensorBoard event files, in the format of tensorboardX.

    A training that goes on adds a file that declares events after its checkpoint void. Events are
    written at once, not by a thread, which would wait for ever on a full disk.

    Args:
        folder: for ``tensorboard --logdir``.

    Raises:
        OutputError: it can not be written.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.writer: Any = None

    def begin(self, step: int) -> None:
        """Open a file; events after ``step`` are void."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            # In the order of time, by which TensorBoard reads them.
            name = f"events.out.tfevents.{int(time.time())}.{step:08d}"
            self.writer = RecordWriter(str(self.folder / name))
            self._write(Event(file_version="brain.Event:2"))
            self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def __call__(self, step: int, record: dict[str, float]) -> None:
        """Add an event with a scalar each."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if self.writer is None:
            self.begin(step - 1)
        values = [Summary.Value(tag=name, simple_value=value) for name, value in record.items()]
        with self._told():
            self._write(Event(step=step, summary=Summary(value=values)))

    def flush(self) -> None:
        """To the disk itself."""
        with self._told():
            if self.writer is not None:
                self.writer.flush()

    def close(self) -> None:
        """The file is whole after it."""
        writer, self.writer = self.writer, None
        with self._told():
            if writer is not None:
                writer.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self.writer.write(event.SerializeToString())

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self.folder} can not be written: {error}") from error
