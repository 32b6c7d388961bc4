"""`graphtheta info`: describe a store, and verify its files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from graphtheta.cli.help import argument, flag, option
from graphtheta.cli.show import show_rows
from graphtheta.errors import ConfigError

if TYPE_CHECKING:
    from graphtheta.partition import ColumnSpec, Store
    from graphtheta.partition.analysis.report import Report

__all__ = ["info"]

_PARTS_SHOWN = 16
_TRAFFIC = "Predicted traffic"
_ITEMSIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def info(
    store: Annotated[Path, argument("STORE", "Directory of the store.")],
    verify: Annotated[
        bool, flag("--verify", "Check the content of every file against its hash.")
    ] = False,
    as_json: Annotated[bool, flag("--json", "Print everything as JSON.")] = False,
    report: Annotated[
        bool,
        flag("--report", "Read every part; report its size, predicted traffic and node degrees."),
    ] = False,
    picture: Annotated[
        Path | None, option("FILE", "Plot the report, to FILE.png and FILE.svg.")
    ] = None,
    width: Annotated[
        int, option("INTEGER", "Values per node that a layer sends.", panel=_TRAFFIC, min=1)
    ] = 128,
    dtype: Annotated[
        str,
        option("NAME", f"Type of these values: {', '.join(_ITEMSIZES)}.", panel=_TRAFFIC),
    ] = "float32",
    layers: Annotated[int, option("INTEGER", "Number of graph layers.", panel=_TRAFFIC, min=1)] = 2,
) -> None:
    """Describe a store, verify its files, and report on its parts.

    Example:
      graphtheta info store --verify
      graphtheta info store --report --picture store.png
    """
    from graphtheta.partition import open_store
    from graphtheta.partition.analysis.plot import refuse_without_matplotlib
    from graphtheta.partition.analysis.report import report as report_on
    from graphtheta.partition.analysis.traffic import predict_bytes

    itemsize = _itemsize(dtype)
    if picture is not None:
        refuse_without_matplotlib()
    opened = open_store(store)
    if verify:
        opened.verify()
    found = report_on(opened) if report or picture is not None else None
    described = {**opened.describe(), **({"verified": True} if verify else {})}
    if not as_json:
        _show(opened, verify, parts=not report)
    if found is not None and report:
        predicted = predict_bytes(found.traffic, width, itemsize=itemsize, layers=layers)
        described["report"] = {**found.as_json(), "predicted_bytes": asdict(predicted)}
        if not as_json:
            from graphtheta.cli.show_report import show_report

            what = f"{layers} {'layer' if layers == 1 else 'layers'} of {width} {dtype} values"
            show_report(found, predicted, what)
    if found is not None and picture is not None:
        described["pictures"] = _draw(opened, found, picture)
        if not as_json:
            print(f"drawn in {' and '.join(described['pictures'])}")
    if as_json:
        print(json.dumps(described, indent=2))


def _draw(store: Store, found: Report, picture: Path) -> list[str]:
    from graphtheta.comm.launch import communicator
    from graphtheta.partition.analysis.plot import draw

    if communicator().rank > 0:  # one worker draws
        return []
    title = f"{store.path}: {store.num_parts} parts by {store.manifest.method}"
    return [str(file) for file in draw(found, picture, title=title)]


def _itemsize(dtype: str) -> int:
    if dtype not in _ITEMSIZES:
        raise ConfigError(
            f"--dtype: expected one of {', '.join(_ITEMSIZES)}, got {dtype!r}. Choose one."
        )
    return _ITEMSIZES[dtype]


def _show(store: Store, verified: bool, *, parts: bool) -> None:
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
    if not parts:
        return
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
