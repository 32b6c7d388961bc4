"""Columns of an edge table that contain the endpoints of edges."""

from __future__ import annotations

from collections.abc import Sequence

from graphtheta.data.schema import need_column
from graphtheta.errors import ConfigError

__all__ = ["find_ends", "names_ends"]

# Usual names of (source, destination), compared without case and punctuation; the first pair of
# which both are columns counts.
_PAIRS = (
    *(("src", "dst"), ("source", "target"), ("source", "destination"), ("source", "dest")),
    *(("srcid", "dstid"), ("sourceid", "targetid"), ("sourceid", "destinationid")),
    *(("from", "to"), ("fromid", "toid"), ("fromnode", "tonode"), ("fromnodeid", "tonodeid")),
    *(("head", "tail"), ("subject", "object"), ("u", "v"), ("node1", "node2"), ("id1", "id2")),
)


def find_ends(
    available: Sequence[str], where: str, src: str | None, dst: str | None
) -> tuple[str, str]:
    """Return the columns of source and destination ids.

    Args:
        available: Column names of the edge table.
        where: Name of the table in messages.
        src: Column of source ids. If None, `src`, or another usual name such as `source`.
        dst: Column of destination ids, likewise.

    Raises:
        ConfigError: If a named column does not exist, or no column has a usual name.
    """
    usual_src, usual_dst = _usual(available) or ("src", "dst")
    if src is None and dst is None and not {usual_src, usual_dst} <= set(available):
        raise ConfigError(
            f"{where}: expected columns src and dst, got columns {', '.join(available) or 'none'}. "
            "Name the columns of source and destination ids (--src and --dst)."
        )
    found = src or usual_src, dst or usual_dst
    if found[0] == found[1]:
        raise ConfigError(
            f"{where}: expected two columns of ids, got {found[0]!r} for both src and dst. "
            "Name both columns."
        )
    return (
        need_column(found[0], available, where, "--src"),
        need_column(found[1], available, where, "--dst"),
    )


def names_ends(names: Sequence[str]) -> bool:
    """Return whether some names are usual names of source and destination."""
    return _usual(names) is not None


def _usual(available: Sequence[str]) -> tuple[str, str] | None:
    plain: dict[str, str] = {}
    for name in available:
        plain.setdefault("".join(c for c in name.lower() if c.isalnum()), name)
    found = ((plain[a], plain[b]) for a, b in _PAIRS if a in plain and b in plain)
    return next(found, None)
