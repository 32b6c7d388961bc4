from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Naming(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NAMING_UNSPECIFIED: _ClassVar[Naming]
    NAMING_ORIGINAL_ID: _ClassVar[Naming]
    NAMING_NODE_KEY: _ClassVar[Naming]

class Direction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIRECTION_UNSPECIFIED: _ClassVar[Direction]
    DIRECTION_IN: _ClassVar[Direction]
    DIRECTION_OUT: _ClassVar[Direction]
NAMING_UNSPECIFIED: Naming
NAMING_ORIGINAL_ID: Naming
NAMING_NODE_KEY: Naming
DIRECTION_UNSPECIFIED: Direction
DIRECTION_IN: Direction
DIRECTION_OUT: Direction

class HandshakeRequest(_message.Message):
    __slots__ = ("protocol_version", "store_checksum")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    STORE_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    store_checksum: str
    def __init__(self, protocol_version: _Optional[int] = ..., store_checksum: _Optional[str] = ...) -> None: ...

class HandshakeReply(_message.Message):
    __slots__ = ("protocol_version", "store_checksum", "num_parts", "parts", "manifest", "book", "max_ids", "max_fanout", "predicts", "software", "predicted_type", "checksum")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    STORE_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    NUM_PARTS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    BOOK_FIELD_NUMBER: _ClassVar[int]
    MAX_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_FANOUT_FIELD_NUMBER: _ClassVar[int]
    PREDICTS_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_TYPE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    store_checksum: str
    num_parts: int
    parts: _containers.RepeatedScalarFieldContainer[int]
    manifest: str
    book: bytes
    max_ids: int
    max_fanout: int
    predicts: bool
    software: str
    predicted_type: str
    checksum: int
    def __init__(self, protocol_version: _Optional[int] = ..., store_checksum: _Optional[str] = ..., num_parts: _Optional[int] = ..., parts: _Optional[_Iterable[int]] = ..., manifest: _Optional[str] = ..., book: _Optional[bytes] = ..., max_ids: _Optional[int] = ..., max_fanout: _Optional[int] = ..., predicts: _Optional[bool] = ..., software: _Optional[str] = ..., predicted_type: _Optional[str] = ..., checksum: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("table", "elsewhere", "checksum")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    table: bytes
    elsewhere: bytes
    checksum: int
    def __init__(self, table: _Optional[bytes] = ..., elsewhere: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...

class LookupRequest(_message.Message):
    __slots__ = ("ids", "naming", "node_type")
    IDS_FIELD_NUMBER: _ClassVar[int]
    NAMING_FIELD_NUMBER: _ClassVar[int]
    NODE_TYPE_FIELD_NUMBER: _ClassVar[int]
    ids: bytes
    naming: Naming
    node_type: str
    def __init__(self, ids: _Optional[bytes] = ..., naming: _Optional[_Union[Naming, str]] = ..., node_type: _Optional[str] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("first", "count")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class NodeColumnsRequest(_message.Message):
    __slots__ = ("nodes", "range", "columns", "node_type")
    NODES_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    NODE_TYPE_FIELD_NUMBER: _ClassVar[int]
    nodes: bytes
    range: Range
    columns: _containers.RepeatedScalarFieldContainer[str]
    node_type: str
    def __init__(self, nodes: _Optional[bytes] = ..., range: _Optional[_Union[Range, _Mapping]] = ..., columns: _Optional[_Iterable[str]] = ..., node_type: _Optional[str] = ...) -> None: ...

class Draw(_message.Message):
    __slots__ = ("fanout", "replace", "weight", "seed", "step", "layer")
    FANOUT_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    fanout: int
    replace: bool
    weight: str
    seed: int
    step: int
    layer: int
    def __init__(self, fanout: _Optional[int] = ..., replace: _Optional[bool] = ..., weight: _Optional[str] = ..., seed: _Optional[int] = ..., step: _Optional[int] = ..., layer: _Optional[int] = ...) -> None: ...

class NeighboursRequest(_message.Message):
    __slots__ = ("nodes", "direction", "draw", "columns", "relation")
    NODES_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    DRAW_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    RELATION_FIELD_NUMBER: _ClassVar[int]
    nodes: bytes
    direction: Direction
    draw: Draw
    columns: _containers.RepeatedScalarFieldContainer[str]
    relation: str
    def __init__(self, nodes: _Optional[bytes] = ..., direction: _Optional[_Union[Direction, str]] = ..., draw: _Optional[_Union[Draw, _Mapping]] = ..., columns: _Optional[_Iterable[str]] = ..., relation: _Optional[str] = ...) -> None: ...

class FindEdgesRequest(_message.Message):
    __slots__ = ("pairs", "relation")
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    RELATION_FIELD_NUMBER: _ClassVar[int]
    pairs: bytes
    relation: str
    def __init__(self, pairs: _Optional[bytes] = ..., relation: _Optional[str] = ...) -> None: ...

class EdgeColumnsRequest(_message.Message):
    __slots__ = ("edges", "columns", "relation")
    EDGES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    RELATION_FIELD_NUMBER: _ClassVar[int]
    edges: bytes
    columns: _containers.RepeatedScalarFieldContainer[str]
    relation: str
    def __init__(self, edges: _Optional[bytes] = ..., columns: _Optional[_Iterable[str]] = ..., relation: _Optional[str] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: bytes
    def __init__(self, nodes: _Optional[bytes] = ...) -> None: ...
