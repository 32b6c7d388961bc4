from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Piece(_message.Message):
    __slots__ = ("data", "checksum")
    DATA_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    checksum: int
    def __init__(self, data: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("id", "host", "workers")
    ID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    id: str
    host: str
    workers: int
    def __init__(self, id: _Optional[str] = ..., host: _Optional[str] = ..., workers: _Optional[int] = ...) -> None: ...

class TermsRequest(_message.Message):
    __slots__ = ("protocol_version", "group")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    group: str
    def __init__(self, protocol_version: _Optional[int] = ..., group: _Optional[str] = ...) -> None: ...

class TermsReply(_message.Message):
    __slots__ = ("protocol_version", "run", "config", "terms", "epochs", "micro_batches", "steps_per_epoch")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCHES_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    run: str
    config: str
    terms: str
    epochs: int
    micro_batches: int
    steps_per_epoch: int
    def __init__(self, protocol_version: _Optional[int] = ..., run: _Optional[str] = ..., config: _Optional[str] = ..., terms: _Optional[str] = ..., epochs: _Optional[int] = ..., micro_batches: _Optional[int] = ..., steps_per_epoch: _Optional[int] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("group", "terms")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    group: Group
    terms: str
    def __init__(self, group: _Optional[_Union[Group, _Mapping]] = ..., terms: _Optional[str] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Work(_message.Message):
    __slots__ = ("step", "micro_batch", "version")
    STEP_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    step: int
    micro_batch: int
    version: int
    def __init__(self, step: _Optional[int] = ..., micro_batch: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class NextRequest(_message.Message):
    __slots__ = ("group",)
    GROUP_FIELD_NUMBER: _ClassVar[int]
    group: Group
    def __init__(self, group: _Optional[_Union[Group, _Mapping]] = ...) -> None: ...

class NextReply(_message.Message):
    __slots__ = ("kind", "run", "work", "summary")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[NextReply.Kind]
        KIND_WORK: _ClassVar[NextReply.Kind]
        KIND_WAIT: _ClassVar[NextReply.Kind]
        KIND_DONE: _ClassVar[NextReply.Kind]
    KIND_UNSPECIFIED: NextReply.Kind
    KIND_WORK: NextReply.Kind
    KIND_WAIT: NextReply.Kind
    KIND_DONE: NextReply.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    kind: NextReply.Kind
    run: str
    work: Work
    summary: str
    def __init__(self, kind: _Optional[_Union[NextReply.Kind, str]] = ..., run: _Optional[str] = ..., work: _Optional[_Union[Work, _Mapping]] = ..., summary: _Optional[str] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class PullRowsRequest(_message.Message):
    __slots__ = ("version", "parameter", "keys")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    version: int
    parameter: str
    keys: bytes
    def __init__(self, version: _Optional[int] = ..., parameter: _Optional[str] = ..., keys: _Optional[bytes] = ...) -> None: ...

class RowHeader(_message.Message):
    __slots__ = ("parameter", "rows", "dense")
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    parameter: str
    rows: int
    dense: bool
    def __init__(self, parameter: _Optional[str] = ..., rows: _Optional[int] = ..., dense: _Optional[bool] = ...) -> None: ...

class PushHeader(_message.Message):
    __slots__ = ("group", "work", "loss", "count", "gradients", "rows")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    group: Group
    work: Work
    loss: float
    count: float
    gradients: int
    rows: _containers.RepeatedCompositeFieldContainer[RowHeader]
    def __init__(self, group: _Optional[_Union[Group, _Mapping]] = ..., work: _Optional[_Union[Work, _Mapping]] = ..., loss: _Optional[float] = ..., count: _Optional[float] = ..., gradients: _Optional[int] = ..., rows: _Optional[_Iterable[_Union[RowHeader, _Mapping]]] = ...) -> None: ...

class PushReply(_message.Message):
    __slots__ = ("outcome", "next")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[PushReply.Outcome]
        OUTCOME_COUNTED: _ClassVar[PushReply.Outcome]
        OUTCOME_REPEATED: _ClassVar[PushReply.Outcome]
        OUTCOME_NOT_OPEN: _ClassVar[PushReply.Outcome]
        OUTCOME_REFUSED: _ClassVar[PushReply.Outcome]
    OUTCOME_UNSPECIFIED: PushReply.Outcome
    OUTCOME_COUNTED: PushReply.Outcome
    OUTCOME_REPEATED: PushReply.Outcome
    OUTCOME_NOT_OPEN: PushReply.Outcome
    OUTCOME_REFUSED: PushReply.Outcome
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    outcome: PushReply.Outcome
    next: NextReply
    def __init__(self, outcome: _Optional[_Union[PushReply.Outcome, str]] = ..., next: _Optional[_Union[NextReply, _Mapping]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("group", "version", "names", "values")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    group: Group
    version: int
    names: _containers.RepeatedScalarFieldContainer[str]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, group: _Optional[_Union[Group, _Mapping]] = ..., version: _Optional[int] = ..., names: _Optional[_Iterable[str]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("group",)
    GROUP_FIELD_NUMBER: _ClassVar[int]
    group: Group
    def __init__(self, group: _Optional[_Union[Group, _Mapping]] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: str
    def __init__(self, status: _Optional[str] = ...) -> None: ...
