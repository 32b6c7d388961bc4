"""Columns of a table that is read by the recipe of an earlier one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from graphtheta.data.encode.categorical import Embedding
from graphtheta.data.encode.recipe import Recipe
from graphtheta.data.mapping import Column, ColumnOptions
from graphtheta.errors import ConfigError

__all__ = ["named_like", "planned_like", "recipe_of"]

_OPTIONS = {"type": "edge_type", "weight": "edge_weight"}  # other options have the column's name


def recipe_of(columns: ColumnOptions) -> Recipe | None:
    """Return the recipe among the options of columns, if there is one.

    Raises:
        ConfigError: If features are named in addition.
    """
    like = columns.get("like")
    for name in ("features", "edge_features"):
        if like is not None and columns.get(name) is not None:
            option = name.replace("_", "-")
            raise ConfigError(
                f"{name} (--{option}): expected none with like (--like), whose recipe names them, "
                f"got some. Leave one of them out."
            )
    return like


def named_like(
    like: Recipe | None, owner: str, columns: ColumnOptions, available: Sequence[str]
) -> ColumnOptions:
    """Return the options of a table with the names of ids that a recipe has, if none are given.

    Args:
        like: The recipe. If None, the options are returned as they are.
        owner: Name of the node type, or text of the relation.
        columns: Options of the table.
        available: Column names of the table.
    """
    if like is None or owner not in like.tables:
        return columns
    inputs = like.tables[owner].inputs
    found = {_OPTIONS.get(name, name): column for name, column in inputs.items()}
    known = {option: column for option, column in found.items() if column in available}
    return cast(ColumnOptions, {**known, **columns})


def planned_like(
    like: Recipe | None,
    owner: str,
    plan: Mapping[str, Column],
    available: Sequence[str],
    where: str,
) -> dict[str, Column]:
    """Return the plan of a table with the features and classes of a recipe.

    Args:
        like: The recipe. If None, the plan is returned as it is.
        owner: Name of the node type, or text of the relation.
        plan: Result of `plan_nodes` or `plan_edges`.
        available: Column names of the table.
        where: Name of the table in messages.

    Raises:
        ConfigError: If the recipe has no such type, or the table lacks a column of the recipe.
    """
    if like is None:
        return dict(plan)
    recipes = like.relations if "src" in plan else like.node_types
    if owner not in recipes:
        raise ConfigError(
            f"{where}: expected a table of {', '.join(recipes)}, as in the recipe (--like), got "
            f"{owner}. Leave --like out, or rename the type."
        )
    recipe = recipes[owner]
    found = {
        name: replace(column, classes=recipe.classes.get(name, ())) for name, column in plan.items()
    }
    if not recipe.encodings:
        return found
    for one in recipe.encodings:
        if one.column not in available:
            raise ConfigError(
                f"{where}: expected a column {one.column!r}, which the recipe (--like) encodes, "
                f"got columns {', '.join(available)}. Add it."
            )
    matrix = tuple(one for one in recipe.encodings if not isinstance(one.encoder, Embedding))
    features = {("attr" if "src" in plan else "features"): matrix} if matrix else {}
    features |= {
        f"code:{one.column}": (one,)
        for one in recipe.encodings
        if isinstance(one.encoder, Embedding)
    }
    columns = {
        name: Column(
            "code" if name.startswith("code:") else "matrix",
            tuple(one.column for one in encoded),
            encoders=tuple(one.encoder for one in encoded),
            encoded=encoded,
        )
        for name, encoded in features.items()
    }
    ids = {name: column for name, column in found.items() if column.kind == "id"}
    rest = {n: column for n, column in found.items() if column.kind not in ("matrix", "code")}
    return ids | columns | rest
