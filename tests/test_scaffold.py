"""`labrecon new`: what it writes works as it is, and what it can not write it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from labrecon.errors import OutputError, RecipeError
from labrecon.plugins import CONTRACT, Host
from labrecon.scaffold import TEMPLATES, create

ROOT = Path(__file__).parents[1]


@pytest.fixture
def host():
    return Host(discover=False)


def run(*line, folder, **environment):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, line)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_package_is_complete(template, tmp_path, host):
    files = create("my-lab", tmp_path, host=host, template=template, author="A. Lab")
    names = {str(file.relative_to(tmp_path / "my-lab")) for file in files}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/my_lab/py.typed"} <= names
    assert {"tests/test_conformance.py", "src/my_lab/operator.py"} <= names
    assert all(file.is_file() for file in files)
    everything = "".join(file.read_text() for file in files)
    assert not re.search(r"{{|{%", everything)
    assert f"LABRECON_CONTRACT = {CONTRACT}" in everything
    assert "A. Lab" in (tmp_path / "my-lab" / "LICENSE").read_text()
    assert 'my_lab = "my_lab"' in (tmp_path / "my-lab" / "pyproject.toml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ["aaa", "my-lab", "zoom2-camera"])
def test_it_passes_ruff_types_and_its_own_tests(template, name, tmp_path, host):
    create(name, tmp_path, host=host, template=template)
    folder = tmp_path / name
    run("ruff", "check", "--no-cache", ".", folder=folder)
    run("ruff", "format", "--no-cache", "--check", ".", folder=folder)
    source = os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")])
    run("mypy", folder=folder, MYPYPATH="src")
    told = run("pytest", "-q", "-p", "no:cacheprovider", folder=folder, PYTHONPATH=source)
    assert "33 passed" in told


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My Lab", "can not be the name of a package"),
        ("2lab", "can not be the name of a package"),
        ("class", "can not be the name of a package"),
        ("../lab", "can not be the name of a package"),
        ("json", "is a Python package that is installed"),
        ("torch", "is a Python package that is installed"),
        ("builtin", "plugin called 'builtin' is installed already"),
    ],
)
def test_names_that_can_not_be(name, message, tmp_path, host):
    with pytest.raises(RecipeError, match=message):
        create(name, tmp_path, host=host)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path, host):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "mine").write_text("work of a year")
    with pytest.raises(OutputError, match="exists"):
        create("lab", tmp_path, host=host)
    assert (tmp_path / "lab" / "mine").read_text() == "work of a year"


def test_a_template_of_ones_own(tmp_path, host):
    template = tmp_path / "template"
    (template / "{{ package }}").mkdir(parents=True)
    (template / "{{ package }}" / "{{ class }}.txt.j2").write_text("{{ title }} {{ version }}\n")
    [file] = create("x-ray", tmp_path / "out", host=host, template=str(template), title="Rays")
    assert file == tmp_path / "out" / "x-ray" / "x_ray" / "XRay.txt"
    assert file.read_text() == "Rays 0.1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ titel }}", "'titel' is undefined"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|undefined"),
    ],
)
def test_a_wrong_template_is_explained_and_leaves_nothing(text, message, tmp_path, host):
    template = tmp_path / "template"
    template.mkdir()
    (template / "file.j2").write_text(text)
    with pytest.raises(RecipeError, match=message):
        create("lab", tmp_path / "out", host=host, template=str(template))
    assert not (tmp_path / "out" / "lab").exists()


def test_no_such_template(tmp_path, host):
    with pytest.raises(RecipeError, match="expected torch or external, or a folder"):
        create("lab", tmp_path, host=host, template="fortran")


@pytest.mark.slow
def test_the_command_says_what_comes_next(labrecon_command, toy_environment, tmp_path):
    done = subprocess.run(
        [*labrecon_command, "new", "my-lab", "--external", "-o", tmp_path / "here"],
        env=toy_environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "labrecon check my_lab" in done.stdout
    assert (tmp_path / "here" / "my-lab" / "src" / "my_lab" / "operator.py").exists()


@pytest.fixture
def lab(tmp_path, host):
    """A generated package on the path of subprocesses, as pip would install it."""
    create("lab-camera", tmp_path, host=host)
    source = tmp_path / "lab-camera" / "src"
    info = source / "lab_camera-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: lab-camera\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[labrecon]\nlab_camera = lab_camera\n")
    (tmp_path / "work").mkdir()

    def run(*arguments):
        line = [sys.executable, "-c", "from labrecon.cli import main; main()", *arguments]
        return subprocess.run(
            line,
            cwd=tmp_path / "work",
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(ROOT)])},
            capture_output=True,
            text=True,
            timeout=200,
        )

    return run


@pytest.mark.slow
def test_from_a_new_package_to_a_report(lab, tmp_path):
    assert lab("simulate", "lab_camera", "scan.h5", "--seed", "3").returncode == 0
    done = lab("recon", "lab_camera", "scan.h5", "-o", "out", "--json")
    assert done.returncode == 0, done.stderr
    assert 0.8 < json.loads(done.stdout)["chi2"] < 1.2
    assert "lab_camera" in (tmp_path / "work" / "out" / "report.html").read_text()


@pytest.mark.slow
def test_simulate_explains_itself(lab, tmp_path):
    work = tmp_path / "work"
    (work / "mine.h5").write_text("work of a year")
    (work / "wrong.json").write_text('{"hieght": 3}')
    for arguments, code, message in (
        (["lab_camera", "mine.h5"], 5, "mine.h5 exists"),
        (["lab_camera", "scan.tif"], 2, "'lab_camera' writes hdf5 (.h5)"),
        (["holography", "scan.h5"], 2, "no reader of 'holography' has write"),
        (["lab_camera", "a.h5", "--geometry", "wrong.json"], 2, "hieght"),
        (["lab_camera", "a.h5", "--geometry", "none.json"], 2, "none.json can not be read"),
    ):
        done = lab("simulate", *arguments)
        assert done.returncode == code, done.stderr
        assert message in done.stderr
    assert (work / "mine.h5").read_text() == "work of a year"
    (work / "small.json").write_text('{"height": 16, "width": 12}')
    assert lab("simulate", "lab_camera", "a.h5", "--geometry", "small.json").stdout.split() == [
        "a.h5:", "data", "3", "×", "16", "×", "12",
    ]  # fmt: skip
    assert sorted(path.name for path in work.iterdir()) == [
        "a.h5", "mine.h5", "small.json", "wrong.json",
    ]  # fmt: skip


def test_what_would_break_the_files_is_refused(tmp_path, host):
    for options in ({"title": 'My "best"'}, {"author": "O\\Neil"}, {"title": "two\nlines"}):
        with pytest.raises(RecipeError, match="can not hold quotes"):
            create("lab", tmp_path, host=host, **options)
    for name in ("none", "model"):
        create(name, tmp_path, host=host)
        text = (tmp_path / name / "src" / name / "instrument.py").read_text()
        compile(text, name, "exec")
        assert f"class {name.capitalize()}Instrument(" in text
