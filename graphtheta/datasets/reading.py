"""Description of how a graph was read, for display before work on it begins."""

from __future__ import annotations

import pyarrow as pa

from graphtheta.data.schema import classes_of, is_list
from graphtheta.data.source import GraphSource, id_type, node_schema
from graphtheta.datasets.tables import TableSource
from graphtheta.wording import counted, some

__all__ = ["reading"]


def reading(source: GraphSource) -> list[tuple[str, str]]:
    """Return (name, value) rows: types of ids, what each column was read as, columns not read."""
    rows = [("ids", "text" if pa.types.is_string(id_type(source)) else "integers")]
    if isinstance(source, TableSource):
        rows += source.files()
    summaries = source.summaries() if isinstance(source, TableSource) else {}
    for table, schema in (("node", node_schema(source)), ("edge", source.edge_table.schema)):
        for field in schema:
            if field.name in ("id", "src", "dst"):
                continue
            text = summaries.get(f"{table} {field.name}") or _type(field)
            rows.append((f"{table} {field.name}", text))
    return rows


def _type(field: pa.Field) -> str:
    if field.name.startswith("split:"):
        return "train, val, test or none"
    kind, classes = field.type, classes_of(field)
    name = {"float": "float32", "double": "float64"}
    text = name.get(str(kind), str(kind))
    if is_list(kind):
        text = f"{kind.list_size:,} of {name.get(str(kind.value_type), str(kind.value_type))}"
    return (
        f"{text}, {counted(len(classes), 'text')}: {some(classes, len(classes))}"
        if classes
        else text
    )
