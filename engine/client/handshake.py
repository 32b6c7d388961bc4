"""A server's reply to the handshake, checked before anything is sized by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError

from graphtheta.data.schema import as_numpy
from graphtheta.data.sparse import SparseType
from graphtheta.engine.client.responses import check_range, check_table, wrong
from graphtheta.engine.wire.protocol import PROTOCOL_VERSION, reply_checksum
from graphtheta.engine.wire.tables import decode_any
from graphtheta.errors import EngineError, GraphFormatError, WrongServer
from graphtheta.partition import Book, ColumnSpec, Manifest
from graphtheta.partition.store.manifest import checksum
from graphtheta.proto.v1 import graph_pb2 as messages

__all__ = ["Handshake", "column_type"]

_SIZES = ("first_new_id", "masters", "mirrors", "edges")
_BOOK = dict.fromkeys(_SIZES, pa.int64()) | {"digest": pa.string()}
_MAX_LOCAL_IDS = 1 << 31


@dataclass(frozen=True)
class Handshake:
    """What a server serves.

    Attributes:
        manifest: Description of the whole graph.
        book: Sizes of all parts.
        parts: Parts that the server serves.
        max_ids: Largest number of ids in a request.
        predicts: Whether the server predicts.
        predicted_type: Node type that it predicts. None if the graph has only one.
    """

    manifest: Manifest
    book: Book
    parts: tuple[int, ...]
    max_ids: int
    predicts: bool
    predicted_type: str | None

    @classmethod
    def decode(cls, received: list[bytes]) -> Handshake:
        """Decode and check a reply.

        Args:
            received: Messages of the response, which must be one.

        Raises:
            EngineError: If the reply is damaged, or its parts contradict each other.
            WrongServer: If the server has another version of the protocol.
        """
        if len(received) != 1:
            raise wrong("one reply to the handshake", f"{len(received):,}")
        try:
            reply = messages.HandshakeReply.FromString(received[0])
            if reply.protocol_version != PROTOCOL_VERSION:
                raise WrongServer(
                    f"handshake: expected protocol version {PROTOCOL_VERSION}, got "
                    f"{reply.protocol_version}. Upgrade the older side of the two."
                )
            if reply.checksum != reply_checksum(reply):
                raise wrong("a reply of the checksum that it names", "another")
            manifest = Manifest.model_validate_json(reply.manifest)
            for of_type in (*manifest.node_types, *manifest.relations):
                for spec in of_type.columns.values():
                    column_type(spec)
            table = decode_any(reply.book, "book")
        except (DecodeError, GraphFormatError, ValueError, OverflowError) as error:
            if isinstance(error, EngineError):
                raise
            raise wrong(
                "a description of a graph", f"a damaged one ({type(error).__name__})"
            ) from None
        check_table(table, _BOOK)
        sizes = {name: as_numpy(table[name]) for name in _SIZES}
        book = Book(**sizes, digests=tuple(table["digest"].to_pylist()))
        parts = np.array(reply.parts, np.int64)
        check_range(parts, book.num_parts, "served parts")
        _check_sizes(manifest, book)
        if len({reply.store_checksum, manifest.checksum, checksum(manifest, book)}) > 1:
            raise wrong(f"the graph of checksum {reply.store_checksum!r}", "another")
        id_types = {of_type.id_type for of_type in manifest.node_types}
        if not id_types <= {"int64", "string"} or not reply.max_ids:
            raise wrong("ids of int64 or string, and a limit of ids >= 1", "others")
        served = tuple(dict.fromkeys(parts.tolist()))
        predicted = reply.predicted_type or None
        if predicted not in (None, *(of_type.name for of_type in manifest.node_types)):
            raise wrong("predictions of a node type of the graph", repr(predicted))
        return cls(manifest, book, served, reply.max_ids, reply.predicts, predicted)


def column_type(spec: ColumnSpec) -> pa.DataType:
    """Return the Arrow type of a column.

    Raises:
        ValueError: If there is no such type.
    """
    kind = pa.type_for_alias(spec.dtype)
    if spec.width is not None and not 0 <= spec.width < _MAX_LOCAL_IDS:
        raise ValueError("width")
    if spec.sparse is not None:
        return SparseType(spec.width or 0, kind if spec.sparse == "values" else None)
    return kind if spec.width is None else pa.list_(kind, spec.width)


def _check_sizes(manifest: Manifest, book: Book) -> None:
    if not 0 < manifest.num_parts == book.num_parts:
        raise wrong(f"sizes of {manifest.num_parts:,} parts", f"{book.num_parts:,}")
    for name in ("masters", "mirrors", "edges"):
        limit = 1 << 48 if name == "edges" else _MAX_LOCAL_IDS
        check_range(getattr(book, name), limit, f"{name} of a part")
    ends = np.cumsum(book.masters)
    if (book.first_new_id != ends - book.masters).any():
        raise wrong("parts whose new ids follow each other", "others")
    found = int(ends[-1]), int(book.edges.sum())
    if found != (manifest.num_nodes, manifest.num_edges):
        expected = f"{manifest.num_nodes:,} nodes and {manifest.num_edges:,} edges in all parts"
        raise wrong(expected, "{:,} and {:,}".format(*found))
