"""`graphtheta info`: describe a store, and verify its files."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from graphtheta.cli.terminal.help import argument, flag, option
from graphtheta.cli.terminal.show import show_rows
from graphtheta.errors import ConfigError
from graphtheta.wording import counted, format_bytes

if TYPE_CHECKING:
    from graphtheta.partition import ColumnSpec, LabelSpec, Manifest, Store
    from graphtheta.partition.analysis.label_counts import LabelCounts
    from graphtheta.partition.analysis.report import Report
    from graphtheta.partition.analysis.traffic import LayerBytes
    from graphtheta.partition.store.manifest import NodeTypeSpec, RelationSpec

__all__ = ["info"]

_MAX_ROWS = 16
_TRAFFIC = "Predicted traffic"
_ITEMSIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def info(
    store: Annotated[Path, argument("STORE")],
    verify: Annotated[bool, flag("--verify")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
    report: Annotated[bool, flag("--report")] = False,
    picture: Annotated[Path | None, option("FILE")] = None,
    width: Annotated[int, option("INTEGER", panel=_TRAFFIC, min=1)] = 128,
    dtype: Annotated[str, option("NAME", panel=_TRAFFIC)] = "float32",
    layers: Annotated[int, option("INTEGER", panel=_TRAFFIC, min=1)] = 2,
) -> None:
    """Describe a store, verify its files, and report on its parts.

    Args:
        store: Directory of the store.
        verify: Check the content of every file against its hash.
        as_json: Print everything as JSON.
        report: Read every part; report its size, predicted traffic and node degrees.
        picture: Plot the report to FILE.png and FILE.svg.
        width: Values per node that a layer sends.
        dtype: Type of these values: float64, float32, float16, bfloat16.
        layers: Number of graph layers.

    Example:
      graphtheta info store --verify
      graphtheta info store --report --picture store.png
    """
    from graphtheta.partition import open_store
    from graphtheta.partition.analysis.label_counts import count_labels
    from graphtheta.partition.analysis.plot import require_matplotlib
    from graphtheta.partition.analysis.report import report as report_on
    from graphtheta.partition.analysis.traffic import predict_bytes

    if dtype not in _ITEMSIZES:
        raise ConfigError(
            f"--dtype: expected one of {', '.join(_ITEMSIZES)}, got {dtype!r}. Choose one."
        )
    if picture is not None:
        require_matplotlib()
    opened = open_store(store)
    if verify:
        opened.verify()
    found = report_on(opened) if report or picture is not None else None
    described: dict[str, Any] = {**opened.describe(), **({"verified": True} if verify else {})}
    labels = dict(zip(("nodes", "edges"), count_labels(opened), strict=True))
    described["counts"] = {kind: counts.as_json() for kind, counts in labels.items()}
    if not as_json:
        _show(opened, labels, verify, parts=not report)
    if found is not None and report:
        predicted = predict_bytes(found.traffic, width, itemsize=_ITEMSIZES[dtype], layers=layers)
        described["report"] = {**found.as_json(), "predicted_bytes": asdict(predicted)}
        if not as_json:
            _show_parts(found)
            _show_pairs(found)
            what = f"{counted(layers, 'layer')} of {counted(width, f'{dtype} value')}"
            _show_bytes(predicted, what)
            _show_degrees(found)
    if found is not None and picture is not None:
        described["pictures"] = _draw(opened, found, picture)
        if not as_json:
            print(f"plotted in {' and '.join(described['pictures'])}")
    if as_json:
        print(json.dumps(described, indent=2))


def _draw(store: Store, found: Report, picture: Path) -> list[str]:
    from graphtheta.comm.launch import communicator
    from graphtheta.partition.analysis.plot import draw

    if communicator().rank > 0:  # only rank 0 writes files
        return []
    title = f"{store.path}: {counted(store.num_parts, 'part')} by {store.manifest.method}"
    return [str(file) for file in draw(found, picture, title=title)]


def _show(store: Store, labels: dict[str, LabelCounts], verified: bool, *, parts: bool) -> None:
    from graphtheta.partition import quality_rows

    manifest = store.manifest
    placed = ", cover placement" * (manifest.placement == "cover")
    method = f"{manifest.method}{placed} ({manifest.cut}-cut)"
    rows = [
        ("nodes", f"{manifest.num_nodes:,}, ids of type {_id_types(manifest)}"),
        ("edges", f"{manifest.num_edges:,}{', with reverse edges' * manifest.undirected}"),
        *manifest.dropped_rows(),
        *_of_nodes(manifest),
        *labels["nodes"].rows(),
        *_of_edges(manifest),
        *labels["edges"].rows("edge "),
        ("parts", f"{store.num_parts} by {method}, seed {manifest.seed}"),
        *quality_rows(manifest.quality),
        ("size", format_bytes(store.describe()["bytes"])),
        ("checksum", f"{store.checksum}{', all files verified' * verified}"),
    ]
    show_rows(rows, title=str(store.path))
    _show_types(manifest)
    _show_encodings(manifest)
    if not parts:
        return
    book = store.book
    counts = zip(range(_MAX_ROWS), book.masters, book.mirrors, book.edges, strict=False)
    show_rows(
        [[f"{count:,}" for count in row] for row in counts],
        title=_title("parts", store.num_parts, "first"),
        head=("part", "masters", "mirrors", "edges"),
    )


def _columns(columns: dict[str, ColumnSpec]) -> str:
    features = {n: c for n, c in columns.items() if not n.startswith(("label:", "split:"))}
    texts = [
        f"{n} {c.dtype}{'' if c.width is None else f'[{c.width}]'}{' sparse' * bool(c.sparse)}"
        for n, c in features.items()
    ]
    return ", ".join(texts) or "none"


def _labels(labels: dict[str, LabelSpec]) -> str:
    texts = [
        f"{name} ({spec.task}, {spec.num_classes}{_names(spec.classes)})"
        for name, spec in labels.items()
    ]
    return ", ".join(texts) or "none"


def _id_types(manifest: Manifest) -> str:
    return " and ".join(sorted({of_type.id_type for of_type in manifest.node_types}))


def _of_nodes(manifest: Manifest) -> list[tuple[str, str]]:
    if len(manifest.node_types) > 1:  # these are in the table of types
        return []
    return [
        ("node columns", _columns(manifest.node_columns)),
        ("labels", _labels(manifest.labels)),
        ("splits", ", ".join(manifest.splits) or "none"),
    ]


def _of_edges(manifest: Manifest) -> list[tuple[str, str]]:
    if len(manifest.relations) > 1:
        return []
    return [
        ("edge columns", _columns(manifest.edge_columns)),
        ("edge types", _types(manifest)),
        ("edge labels", _labels(manifest.edge_labels)),
        ("edge splits", ", ".join(manifest.edge_splits) or "none"),
    ]


def _show_types(manifest: Manifest) -> None:
    """Print a table of the node types and one of the relations, where there are several."""
    quality = manifest.quality

    def cells(spec: NodeTypeSpec | RelationSpec) -> tuple[str, ...]:
        return _columns(spec.columns), _labels(spec.labels), ", ".join(spec.splits) or "none"

    types = [
        (t.name, f"{t.count:,}", f"{q.replication_factor:.3f}", f"{q.balance:.3f}", *cells(t))
        for t, q in zip(manifest.node_types, quality.node_types, strict=False)
    ]
    relations = [
        (
            r.relation.text,
            f"{q.num_edges:,}",
            f"{100 * q.edge_cut:.2f} %",
            f"{q.balance:.3f}",
            *cells(r),
        )
        for r, q in zip(manifest.relations, quality.relations, strict=False)
    ]
    rest = ("balance", "columns", "labels", "splits")
    if types:
        head = ("type", "nodes", "replication factor", *rest)
        show_rows(types, title="node types", head=head)
    if relations:
        show_rows(relations, title="relations", head=("relation", "edges", "edge cut", *rest))


def _show_encodings(manifest: Manifest) -> None:
    """Print a table of the columns of nodes that became features, and one of those of edges."""
    from graphtheta.data.encode.describe import COLUMN_HEAD, column_rows
    from graphtheta.data.types import qualified

    of_nodes = [(spec.name, spec.encodings) for spec in manifest.node_types]
    of_edges = [(spec.relation.text, spec.encodings) for spec in manifest.relations]
    for kind, owners in (("node", of_nodes), ("edge", of_edges)):
        rows = [
            (qualified(owner, name, len(owners)), *rest)
            for owner, encodings in owners
            for name, *rest in column_rows(encodings)
        ]
        if rows:
            title = f"{kind} columns that became features, in the rows that they were fitted to"
            show_rows(rows, title=title, head=COLUMN_HEAD)


def _types(manifest: Manifest) -> str:
    if manifest.num_edge_types is None:
        return "none"
    return f"{manifest.num_edge_types:,}{_names(manifest.edge_types)}"


def _names(names: tuple[str, ...] | None) -> str:
    from graphtheta.wording import some

    return f": {some(names, len(names))}" if names else ""


def _title(what: str, count: int, shown: str) -> str:
    return f"{what}: the {shown} {_MAX_ROWS} of {count:,}" if count > _MAX_ROWS else what


def _show_parts(found: Report) -> None:
    import numpy as np

    columns = {
        "masters": found.masters,
        "interior": found.interior,
        "mirrors": found.mirrors,
        "edges": found.edges,
        **{f"train ({name})": counts_P4[:, 1] for name, counts_P4 in found.splits.items()},
    }
    counts = np.stack(list(columns.values()))
    order = np.argsort(-found.edges, kind="stable")[:_MAX_ROWS]
    rows = [[f"{part}", *(f"{n:,}" for n in counts[:, part])] for part in order]
    for name, value in (("mean", counts.mean(axis=1)), ("largest", counts.max(axis=1))):
        rows.append([name, *(f"{n:,.0f}" for n in value)])
    title = _title("parts by number of edges", found.num_parts, "largest")
    show_rows(rows, title=title, head=("part", *columns))


def _show_pairs(found: Report) -> None:
    import numpy as np

    traffic = found.traffic
    order = np.argsort(-(traffic.sync + traffic.merge), kind="stable")[:_MAX_ROWS]
    columns = (traffic.owner, traffic.holder, traffic.mirrors, traffic.sync, traffic.merge)
    show_rows(
        [[f"{column[pair]:,}" for column in columns] for pair in order],
        title=_title("mirrors by owner and holder, by traffic", len(traffic.owner), "largest"),
        head=("owner", "holder", "mirrors", "sync", "merge"),
    )


def _show_bytes(predicted: LayerBytes, what: str) -> None:
    each = (
        ("sync, masters to mirrors", predicted.sync),
        ("merge, mirrors to masters", predicted.merge),
        ("sent by the busiest part", predicted.busiest),
        ("total of a layer, forward and backward", predicted.layer),
        ("total of a training epoch", predicted.epoch),
    )
    rows = [(name, counted(num_bytes, "byte"), format_bytes(num_bytes)) for name, num_bytes in each]
    show_rows(rows, title=f"predicted traffic of {what}, one worker per part")


def _show_degrees(found: Report) -> None:
    from graphtheta.partition.analysis.report import degree_bounds

    ranges = pairwise(degree_bounds(len(found.in_degrees)).tolist())
    counts = zip(found.in_degrees.tolist(), found.out_degrees.tolist(), strict=True)
    rows = [
        (f"{low:,}" if high - low <= 1 else f"{low:,} to {high - 1:,}", f"{ins:,}", f"{outs:,}")
        for (low, high), (ins, outs) in zip(ranges, counts, strict=True)
    ]
    largest_in, largest_out = found.largest_degrees
    rows.append(("largest", f"{largest_in:,}", f"{largest_out:,}"))
    show_rows(rows, title="nodes by degree", head=("degree", "in", "out"))
