"""TOML that is written by labrecon is read back as it was."""

from __future__ import annotations

import math
import tomllib

import pytest

from labrecon.errors import RecipeError
from labrecon.tomlfile import Document, dumps, override, with_value


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"a": 1, "b": -2.5e-9, "c": 1e300, "d": True, "e": "x"},
        {"text": 'quote " back \\ line\nbreak tab\t µ ‖ \x7f \u2028', "big": 2**53 + 1},
        {"deep": {"er": {"x": 1}, "list": [1, 2.5, [3]], "none": []}},
        {"steps": [{"step": "a", "sub": {"x": 1}}, {"step": "b"}], "last": {"y": 2}},
        {"mixed": [1, {"a": 2}], "odd key": {"dotted.key": 1, "": 2}},
        {"inf": [math.inf, -math.inf]},
    ],
)
def test_round_trip(values):
    assert tomllib.loads(dumps(values)) == values


def test_what_toml_does_not_have_is_refused():
    with pytest.raises(TypeError, match="no NoneType"):
        dumps({"a": None})


def test_a_value_of_the_command_line_says_where_it_is_from():
    document = with_value(Document("x.toml", {}), ("network", "name"), "lpd", "--network lpd")
    assert document.values == {"network": {"name": "lpd"}}
    assert document.where(("network", "name")) == "--network lpd"
    assert override(document, ["a=1"]).where(("a",)) == "--set a=1"
    with pytest.raises(RecipeError, match=r"x\.toml: network is not a table"):
        with_value(Document("x.toml", {"network": 1}), ("network", "name"), "a", "--network a")
