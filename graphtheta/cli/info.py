"""`graphtheta info`: what a store holds, and whether it is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphtheta.cli.show import show_rows

if TYPE_CHECKING:
    from graphtheta.partition import ColumnSpec, Store

__all__ = ["info"]

_PARTS_SHOWN = 16


def info(
    store: Annotated[Path, typer.Argument(help="The directory.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all as JSON.")] = False,
) -> None:
    """Say what a store holds, and check that it is whole.

    Example: graphtheta info store --verify
    """
    from graphtheta.partition import open_store

    opened = open_store(store)
    if verify:
        opened.verify()
    if as_json:
        print(json.dumps({**opened.describe(), **({"verified": True} if verify else {})}, indent=2))
        return
    _show(opened, verify)


def _show(store: Store, verified: bool) -> None:
    from graphtheta.partition import quality_rows

    manifest = store.manifest
    labels = [f"{n} ({spec.task}, {spec.num_classes})" for n, spec in manifest.labels.items()]
    method = f"{manifest.method} ({manifest.cut}-cut)"
    rows = [
        ("nodes", f"{manifest.num_nodes:,}, ids of type {manifest.id_type}"),
        ("edges", f"{manifest.num_edges:,}{', with reverses' * manifest.undirected}"),
        ("node columns", _columns(manifest.node_columns)),
        ("edge columns", _columns(manifest.edge_columns)),
        ("labels", ", ".join(labels) or "none"),
        ("splits", ", ".join(manifest.splits) or "none"),
        ("parts", f"{store.num_parts} by {method}, seed {manifest.seed}"),
        *quality_rows(manifest.quality),
        ("size", f"{store.describe()['bytes'] / 2**20:,.1f} MiB"),
        ("checksum", f"{store.checksum}{', all files verified' * verified}"),
    ]
    show_rows(rows, title=str(store.path))
    book = store.book
    counts = zip(range(_PARTS_SHOWN), book.masters, book.mirrors, book.edges, strict=False)
    more = f"; the first {_PARTS_SHOWN} of {store.num_parts}"
    show_rows(
        [[f"{count:,}" for count in row] for row in counts],
        title=f"parts{more if store.num_parts > _PARTS_SHOWN else ''}",
        head=("part", "masters", "mirrors", "edges"),
    )


def _columns(columns: dict[str, ColumnSpec]) -> str:
    free = {n: c for n, c in columns.items() if not n.startswith(("label:", "split:"))}
    texts = [f"{n} {c.dtype}{'' if c.width is None else f'[{c.width}]'}" for n, c in free.items()]
    return ", ".join(texts) or "none"
