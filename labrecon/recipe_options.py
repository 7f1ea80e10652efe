"""Options of a recipe's table, checked against what a factory takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from labrecon.errors import RecipeError
from labrecon.recipe import OpenTable, PriorTable, Recipe, SolverTable, Written, nearest
from labrecon.tomlfile import Key

__all__ = ["check_options", "option_names", "require_options", "seeded"]


def option_names(factory: Callable[..., Any], given: tuple[str, ...] = ()) -> list[str] | None:
    """Parameters that a recipe may set; None where the factory takes any keyword.

    Args:
        factory: a class or function.
        given: parameters that labrecon fills in itself.
    """
    parameters = inspect.signature(factory).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    return [p.name for p in parameters if p.kind not in positional and p.name not in given]


def check_options(
    factory: Callable[..., Any],
    options: Mapping[str, Any],
    given: tuple[str, ...],
    recipe: Written,
    at: Key,
) -> None:
    """Raise `RecipeError` on an option that a factory does not take.

    Args:
        factory: a class or function.
        options: as the recipe has them.
        given: parameters that labrecon fills in itself.
        recipe: says where an option was written.
        at: key of the table.
    """
    names = option_names(factory, given)
    if names is None:
        return
    # The keys that labrecon reads itself are as likely to have been meant.
    tables: dict[str | int, type[OpenTable]] = {"solver": SolverTable, "prior": PriorTable}
    own = tables[at[-1]].model_fields if at[-1] in tables else ()
    keys = [*own, *names]
    for name in options:
        if name not in names:
            table = ".".join(part for part in at if isinstance(part, str))
            raise RecipeError(
                f"{recipe.where(*at, name)}: [{table}] has no option {name!r}"
                f"{nearest(name, keys)}; its keys are {', '.join(dict.fromkeys(keys)) or 'none'}"
            )


def require_options(
    factory: Callable[..., Any],
    name: str,
    given: Collection[str],
    recipe: Written,
    at: Key,
) -> None:
    """Raise `RecipeError` where a factory needs an option that the recipe has not.

    Args:
        factory: a class or function.
        name: what the recipe calls it.
        given: options of the recipe, and parameters that labrecon fills in itself.
        recipe: says where the name was written.
        at: key of the table.
    """
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [
        p.name
        for p in inspect.signature(factory).parameters.values()
        if p.kind in named and p.default is p.empty and p.name not in given
    ]
    if missing:
        keys = [f"{key} = …" for key in missing]
        if at[-1] == "prior" and "weight" in missing:
            keys[missing.index("weight")] = "weight = … or relative_weight = …"
        place = ".".join(part for part in at if isinstance(part, str))
        raise RecipeError(
            f"{recipe.where(*at, 'name')}: the {at[-1]} {name!r} needs "
            f"{', '.join(missing)}: add {' and '.join(keys)} to [{place}]"
        )


def seeded(
    factory: Callable[..., Any], options: Mapping[str, Any], recipe: Recipe
) -> dict[str, Any]:
    """The options, with the recipe's seed where something random asks for one."""
    asks = "seed" in (option_names(factory) or ())
    return {"seed": recipe.seed, **options} if asks else dict(options)
