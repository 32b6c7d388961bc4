"""Checks of stores against what a format can represent."""

from __future__ import annotations

from collections.abc import Sequence

from graphtheta.errors import ConfigError
from graphtheta.partition.store.store import Store

__all__ = ["refuse_names", "refuse_vertex_cut"]


def refuse_vertex_cut(store: Store, format: str, instead: str = "") -> None:
    """Raise an error unless every edge of a store is in the part of its destination.

    Args:
        store: The store.
        format: Name of the format in the message.
        instead: Alternative for the message.

    Raises:
        ConfigError: If the store is a vertex-cut.
    """
    if store.manifest.cut != "edge":
        raise ConfigError(
            f"export {format}: expected an edge-cut, since this format has every edge in the part "
            f"of its destination, got {store.path} by {store.manifest.method}, a vertex-cut. "
            f"Partition with --method kaminpar{instead}."
        )


def refuse_names(store: Store, format: str, refused: Sequence[str]) -> None:
    """Raise an error if a format cannot represent the name of a node type or relation.

    The names of a graph without types are not written.

    Args:
        store: The store.
        format: Name of the format in the message.
        refused: Texts that a name must not contain.

    Raises:
        ConfigError: If there is such a name.
    """
    manifest = store.manifest
    if not manifest.is_typed:
        return
    for name in [t.name for t in manifest.node_types] + [r.name for r in manifest.relations]:
        if not name.strip(".") or any(text in name for text in refused):
            raise ConfigError(
                f"export {format}: expected names of types and relations without "
                f"{' and '.join(map(repr, refused))}, got {name!r}. Rename it, and partition again."
            )
