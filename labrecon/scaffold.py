"""`labrecon new`: a complete plugin package, to be changed file by file."""

from __future__ import annotations

import datetime
import importlib.util
import keyword
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from labrecon import __version__
from labrecon.errors import RecipeError
from labrecon.io.atomic import new_folder
from labrecon.plugins import CONTRACT, Host

__all__ = ["TEMPLATES", "create", "find_template"]

_HERE = Path(__file__).parent / "templates"
#: The bundled templates: each on top of "common".
TEMPLATES = ("torch", "external")
#: Classes that the bundled templates define or import.
_OWN = (
    "Acquisition", "Model", "Hdf5Reader", "DesignCsv", "Instrument", "Operator", "Gaussian",
    "Noise", "Scan", "Space", "Box", "Tensor",
)  # fmt: skip


def create(
    name: str,
    folder: Path,
    *,
    host: Host,
    template: str = "torch",
    title: str = "",
    author: str = "",
) -> list[Path]:
    """Write a plugin package into ``folder/name``; returns its files.

    Args:
        name: of the distribution: small letters, digits, ``-`` and ``_``.
        folder: where to put it.
        host: whose names it must not take.
        template: "torch", "external", or a folder of templates of one's own: files named
            ``*.j2``, whose names and contents may use ``name``, ``distribution``, ``package``,
            ``class``, ``title``, ``author``, ``year``, ``version``, ``contract``.
        title: a line about the instrument.
        author: for the licence and the package.

    Raises:
        RecipeError: the name is taken or not possible, there is no such template, or it is wrong.
        OutputError: the folder exists.
    """
    package = name.replace("-", "_")
    _require_free(name, package, host)
    for what, text in (("title", title), ("author", author)):
        if re.search(r"[\"\\\n\r{}]", text):
            raise RecipeError(f"the {what} {text!r} can not hold quotes, backslashes or lines")
    words = [word for word in package.split("_") if word]
    sources = find_template(template)
    class_name = "".join(word.capitalize() for word in words)
    if keyword.iskeyword(class_name) or class_name in _OWN:
        class_name += "Instrument"
    values = {
        "name": name,
        "distribution": name,
        "package": package,
        "class": class_name,
        "title": title or " ".join([words[0].capitalize(), *words[1:]]),
        "author": author or f"The {name} developers",
        "year": datetime.date.today().year,
        "version": ".".join(__version__.split(".")[:2]),
        "contract": CONTRACT,
        "external": template == "external",
        "operator": "model" if template == "external" else "Model",
    }
    target = folder / name
    with new_folder(target) as partial:
        written = [target / path for path in _render(sources, partial, values)]
    return sorted(written)


def find_template(name: str) -> list[Path]:
    """Folders of a template, each on top of the one before.

    Raises:
        RecipeError: there is none.
    """
    if name in TEMPLATES:
        return [_HERE / "common", _HERE / name]
    path = Path(name)
    if not path.is_dir() or not any(path.rglob("*.j2")):
        raise RecipeError(
            f"there is no template {name!r}: expected {' or '.join(TEMPLATES)}, or a folder with "
            "*.j2 files"
        )
    return [path]


def _require_free(name: str, package: str, host: Host) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(package):
        raise RecipeError(
            f"{name!r} can not be the name of a package: expected small letters, digits, and - or "
            "_ between them, as in 'my-spectrometer'"
        )
    if package in host.names("instruments") or package in host.reports:
        raise RecipeError(f"an instrument or plugin called {package!r} is installed already")
    if package in sys.stdlib_module_names or importlib.util.find_spec(package) is not None:
        raise RecipeError(
            f"{package!r} is a Python package that is installed here; another name keeps the two "
            "apart"
        )


def _render(sources: list[Path], target: Path, values: Mapping[str, Any]) -> Iterator[Path]:
    # A template is data: it can not reach into Python.
    environment = SandboxedEnvironment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        loader=FileSystemLoader(sources),
    )
    for source in sources:
        for file in sorted(source.rglob("*.j2")):
            relative = file.relative_to(source)
            try:
                path = Path(environment.from_string(str(relative.with_suffix(""))).render(values))
                text = environment.from_string(file.read_text(encoding="utf-8")).render(values)
            except TemplateError as error:
                raise RecipeError(f"the template {relative}: {error}") from error
            if path.is_absolute() or ".." in path.parts:
                raise RecipeError(f"the template {relative} leads out of the new folder: {path}")
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_text(text, encoding="utf-8")
            yield path
