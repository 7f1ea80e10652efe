"""The command line: what commands there are, and how errors become exit codes.

Nothing heavy is imported here, nor by ``labrecon --help``: commands are functions named by dotted
paths, and each is imported when it is called.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from labrecon import __version__
from labrecon.errors import LabreconError
from labrecon.plugins import ConflictError, UnknownNameError, host, resolve

__all__ = ["app", "guarded", "main"]

EXIT_CODES = """Exit codes:

\b
  0    done
  1    an unexpected error (--debug shows the traceback)
  2    wrong usage, recipe or name; a model or a run of something else
  3    the scan, or objects to train on, can not be read or prepared
  4    the reconstruction or the training failed (memory, divergence)
  5    the output can not be written, or a learned design can not be realised
  6    a check of `labrecon check` failed
  7    a batch is finished, and some of its scans failed
  8    `labrecon reproduce` got another volume
  130  interrupted; a solve goes on with --resume, a batch, a training or a design
       study by the same command
"""


class CommandGroup(TyperGroup):
    """The commands that plugins register, labrecon's own among them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands, labrecon's own first."""
        return list(host().names("commands"))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in that knows the summary for listings; nothing is imported."""
        if cmd_name not in host().names("commands"):
            return None
        return TyperCommand(cmd_name, help=_summary(cmd_name))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command itself, imported now."""
        name = args[0]
        names = list(host().names("commands"))
        # ``plugin:command`` says which is meant where two plugins have one name.
        if name not in names and name.partition(":")[0] not in host().reports:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"there is no command {name!r}{hint} `labrecon --help` lists them")
        try:
            found = host().get("commands", name)
        except (ConflictError, UnknownNameError, ImportError, AttributeError) as error:
            _say(f"the command {name!r} can not be loaded: {error}")
            raise typer.Exit(2) from error
        return name, _command(name, found), args[1:]


def _command(name: str, found: Any) -> Any:
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    single = typer.Typer(
        rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False
    )
    single.command(name)(guarded(found))
    return typer.main.get_command(single)


def _summary(name: str) -> str:
    """First line of a command's docstring, read from its source if it is not imported yet."""
    [value] = host().offers("commands", name)[:1]
    if not isinstance(value, str):
        return (getattr(value, "__doc__", None) or "").strip().partition("\n")[0]
    module, _, attribute = value.partition(":")
    try:
        if module in sys.modules:
            return (resolve(value).__doc__ or "").strip().partition("\n")[0]
        spec = importlib.util.find_spec(module)
        source = spec.loader.get_source(module)  # type: ignore[union-attr]
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and node.name == attribute:
                return (ast.get_docstring(node) or "").partition("\n")[0]
    except Exception:
        return f"(can not be loaded: {value})"
    return ""


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The command with errors told in a line and turned into exit codes.

    A parameter ``debug`` that is true shows tracebacks; one ``as_json`` that is true makes the
    failure one JSON object on standard output.
    """

    @functools.wraps(function)
    def command(*args: Any, **options: Any) -> Any:
        caught: BaseException
        try:
            with _warnings_in_a_line(raw=bool(options.get("debug"))):
                return function(*args, **options)
        except LabreconError as error:
            message, code, caught = str(error), error.exit_code, error
        except KeyboardInterrupt as error:
            message, code, caught = "interrupted; nothing was written", 130, error
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except Exception as error:
            message = f"unexpected {type(error).__name__}: {error}"
            if not options.get("debug"):
                message += "; --debug shows where, please report it"
            code, caught = 1, error
        if options.get("debug"):
            traceback.print_exception(caught, file=sys.stderr)
        _say(message)
        if options.get("as_json"):
            typer.echo(json.dumps({"status": "failed", "exit_code": code, "error": message}))
        raise typer.Exit(code)

    return command


@contextmanager
def _warnings_in_a_line(*, raw: bool) -> Iterator[None]:
    """Python's warnings as people read them, each once."""
    if raw:
        yield
        return
    told: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in told:
            told.add(str(message))
            typer.echo(f"warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _say(message: str) -> None:
    label = typer.style("labrecon:", fg=typer.colors.RED, bold=True)
    typer.echo(f"{label} {message}", err=True)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"labrecon {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def labrecon(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Describe an instrument once; reconstruct, learn and design with it."""


def main() -> None:
    """Entry point of the ``labrecon`` script."""
    # Calling the app itself would replace sys.excepthook.
    typer.main.get_command(app)(prog_name="labrecon")
