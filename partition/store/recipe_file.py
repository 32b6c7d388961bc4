"""Recipe of a graph in a file, as runs keep it, and the recipe of a store or run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from graphtheta.data.encode.recipe import Recipe
from graphtheta.errors import ConfigError
from graphtheta.partition.store.store import open_store

__all__ = ["RECIPE_FILE", "read_recipe", "recipe_text"]

RECIPE_FILE = "recipe.json"  # in the directory of a run


class _File(BaseModel):
    """Content of the file: the recipe, as any version may have written it, and its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: dict[str, Any]
    checksum: str


def recipe_text(recipe: Recipe) -> str:
    """Return the content of the file of a recipe."""
    content = recipe.model_dump(mode="json")
    return json.dumps({"recipe": content, "checksum": _hash(content)}, indent=1) + "\n"


def read_recipe(path: Path | str) -> Recipe:
    """Return the recipe of a store, or of the graph that a run was trained on.

    Pass it as `like` to read tables of the same columns: `Graph.from_arrow(nodes, edges,
    like=read_recipe("store"))`.

    Args:
        path: Directory of a store or of a run.

    Raises:
        ConfigError: If it is neither, or the file of the recipe is damaged, or of another version.
        StoreError: If the store is damaged.
    """
    path = Path(path)
    if (path / "manifest.json").exists():
        return open_store(path, parts=()).manifest.recipe
    file = path / RECIPE_FILE
    try:
        found = _File.model_validate_json(file.read_bytes())
    except OSError:
        raise ConfigError(
            f"{path}: expected a store, or a run with {RECIPE_FILE}, got "
            f"{'a directory without one' if path.is_dir() else 'no directory'}. Choose another "
            "(--like)."
        ) from None
    except (ValidationError, RecursionError):
        found = None
    if found is None or found.checksum != _hash(found.recipe):
        raise ConfigError(
            f"{file}: expected the recipe that the run has written, got other content. Restore the "
            "file, or use that of the store (--like)."
        )
    try:
        return Recipe.model_validate(found.recipe)
    except ValidationError:
        raise ConfigError(
            f"{file}: expected a recipe of this version of GraphTheta, got one that another "
            "version has written. Use that version, or train again."
        ) from None


def _hash(recipe: dict[str, Any]) -> str:
    """Return the hash of a recipe as it was written, which may lack fields of this version."""
    return str(xxhash.xxh3_128_hexdigest(to_json(recipe)))
