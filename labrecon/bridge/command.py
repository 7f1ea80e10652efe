"""`command`: a program that reads and writes files, as an operator."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from labrecon.bridge.columns import Columns
from labrecon.bridge.errors import BridgeError
from labrecon.bridge.external import External, external
from labrecon.space import Space

if TYPE_CHECKING:
    import h5py

__all__ = ["CommandError", "Program", "command"]

Array = np.ndarray[Any, Any]
Format = Literal["npy", "hdf5"]
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\w+)\}")
_TAIL = 2000


class CommandError(BridgeError):
    """A program can not be run, failed, ran too long, or wrote no usable result."""


@dataclass(frozen=True)
class Program:
    """A command line called with the files of its arrays; pickles, and runs in any process.

    Args:
        arguments: the command, with placeholders: see `command`.
        format: "npy" or "hdf5".
        timeout: seconds after which the program and its children are killed.
        environment: variables on top of the present ones.
        folder: its working directory; by default that of the caller.
    """

    arguments: tuple[str, ...]
    format: Format = "npy"
    timeout: float = 600.0
    environment: tuple[tuple[str, str], ...] = ()
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.format not in ("npy", "hdf5"):
            raise ValueError(f"format is npy or hdf5, got {self.format!r}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be positive, in seconds, got {self.timeout}")
        used = {name for argument in self.arguments for name in _PLACEHOLDER.findall(argument)}
        for needed in ("input", "output"):
            if needed not in used:
                raise CommandError(
                    f"the command {' '.join(self.arguments)!r} has no {{{needed}}}: that is where "
                    f"the path of its {needed} file goes"
                )
        name = self.arguments[0]
        base = Path.cwd() if self.folder is None else self.folder
        where = os.fspath(base / name) if os.sep in name else name
        found = shutil.which(where)
        if found is None:
            raise CommandError(
                f"there is no program {name!r} in {base if os.sep in name else 'PATH'}: give its "
                "full path"
            )
        # Where the program is must not depend on where the calling process goes later.
        object.__setattr__(self, "arguments", (os.path.abspath(found), *self.arguments[1:]))
        object.__setattr__(self, "folder", base)

    def __call__(self, x: Array, v: Array | None = None, **values: Array) -> Any:
        """Write the arrays, run the program, read what it wrote."""
        with tempfile.TemporaryDirectory(prefix="labrecon-") as folder:
            files = self._write(Path(folder), x, v, values)
            told, seconds = self._run(files, Path(folder))
            return self._read(files, values, v is not None, told, seconds)

    def _write(
        self, folder: Path, x: Array, v: Array | None, values: Mapping[str, Array]
    ) -> dict[str, Path]:
        arrays = {"input": x, **({} if v is None else {"cotangent": v}), **values}
        if self.format == "hdf5":
            import h5py

            with h5py.File(folder / "input.h5", "w") as file:
                for name, array in arrays.items():
                    file[name] = array
            return {"input": folder / "input.h5", "output": folder / "output.h5"}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        results = ["output", *(f"gradient_{name}" for name in values)]
        return {name: folder / f"{name}.npy" for name in (*arrays, *results)}

    def _run(self, files: Mapping[str, Path], folder: Path) -> tuple[str, float]:
        def path(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0][0]
            if match[1] not in files:
                raise CommandError(
                    f"the command {' '.join(self.arguments)!r} speaks of {match[0]}; there are "
                    f"{', '.join(f'{{{name}}}' for name in files)}"
                )
            return str(files[match[1]])

        line = [_PLACEHOLDER.sub(path, argument) for argument in self.arguments]
        begin = time.perf_counter()
        # A file, not a pipe: what the program leaves running can not keep a pipe open.
        with (
            open(folder / ".said", "w+b") as said,
            subprocess.Popen(
                line,
                cwd=self.folder,
                env={**os.environ, **dict(self.environment)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                _kill(process)
                raise CommandError(
                    f"{self._name} was killed after {self.timeout:g} s (timeout={self.timeout:g})"
                    f"{_said(said)}"
                ) from None
            except BaseException:
                _kill(process)
                raise
            output = _said(said)
        seconds = time.perf_counter() - begin
        if process.returncode != 0:
            raise CommandError(f"{self._name} {_ended(process.returncode)}{output}")
        return output, seconds

    def _read(
        self,
        files: Mapping[str, Path],
        values: Mapping[str, Array],
        gradients: bool,
        told: str,
        seconds: float,
    ) -> Any:
        output = files["output"]
        if not output.exists():
            raise CommandError(
                f"{self._name} ended without an error after {seconds:.2g} s and wrote no "
                f"{output.name}{told}"
            )
        try:
            if self.format == "hdf5":
                found = _read_hdf5(output)
            else:
                names = {name: files[f"gradient_{name}"] for name in values if gradients}
                paths = {name: path for name, path in names.items() if path.exists()}
                found = {k: _native(np.load(p)) for k, p in {"output": output, **paths}.items()}
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise CommandError(
                f"{self._name} wrote an {output.name} that can not be read: {error}{told}"
            ) from error
        if "output" not in found:
            raise CommandError(
                f"{self._name} wrote {output.name} without a dataset 'output'; it has "
                f"{', '.join(found) or 'none'}"
            )
        x = found.pop("output")
        return {"x": x, **found} if gradients and found else x

    @property
    def _name(self) -> str:
        return f"the program {Path(self.arguments[0]).name!r}"


def command(
    forward: Sequence[str],
    adjoint: Sequence[str] | Columns | None = None,
    vjp: Sequence[str] | None = None,
    *,
    domain: Space,
    range: Space,
    linear: bool,
    format: Format = "npy",
    timeout: float = 600.0,
    environment: Mapping[str, str] | None = None,
    folder: str | Path | None = None,
    **options: Any,
) -> External:
    """An operator whose map is computed by a program, called once per application.

    In the arguments ``{input}`` and ``{output}`` stand for the paths of the array files. As
    ``.npy``, each further array has a file of its own: ``{cotangent}`` in a vjp, ``{name}`` for a
    parameter, ``{gradient_name}`` for a parameter's gradient that a vjp writes. As HDF5, they are
    datasets ``input``, ``cotangent``, ``name`` of one file, and the program writes ``output`` (and
    gradients by name). Nothing is run through a shell; ``{{`` and ``}}`` stand for braces.

    Args:
        forward: the command line of ``A(x)``.
        adjoint: that of ``Aᴴ y``; or `Columns`.
        vjp: that of ``J(x)ᴴ v``.
        domain: space of ``x``.
        range: space of ``y``.
        linear: whether the model is linear.
        format: "npy" or "hdf5".
        timeout: seconds after which a call is killed, with its children.
        environment: variables on top of the present ones.
        folder: working directory of the program, by default the present one; a relative path of
            the program is looked up there, now.
        **options: as of `external`: ``designs``, ``gradient``, ``batched``, ``compute``, ….

    Raises:
        CommandError: no such program, or a command line without ``{input}`` or ``{output}``; in a
            call: a non-zero exit code or a signal, with the end of what the program said; a
            timeout; no result or an unreadable one.
    """

    def program(arguments: Sequence[str]) -> Program:
        variables = tuple((environment or {}).items())
        place = None if folder is None else Path(folder)
        return Program(tuple(map(str, arguments)), format, timeout, variables, place)

    name = options.pop("name", Path(str(forward[0])).name)
    return external(
        program(forward),
        adjoint if adjoint is None or isinstance(adjoint, Columns) else program(adjoint),
        None if vjp is None else program(vjp),
        domain=domain,
        range=range,
        linear=linear,
        name=name,
        threadsafe=options.pop("threadsafe", True),
        **options,
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
    else:
        process.kill()


def _ended(code: int) -> str:
    if code > 0:
        return f"failed with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _said(file: IO[bytes]) -> str:
    file.seek(0)
    text = file.read().decode(errors="replace").strip()
    return f"; it said:\n{text[-_TAIL:]}" if text else "; it said nothing"


def _native(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_hdf5(path: Path) -> dict[str, Array]:
    import h5py

    with h5py.File(path, "r") as file:
        items: dict[str, h5py.Dataset] = {
            name: item for name, item in file.items() if isinstance(item, h5py.Dataset)
        }
        return {name: _native(item[()]) for name, item in items.items()}
