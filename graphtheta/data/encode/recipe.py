"""Recipe: the fitted encoders of the columns of a table, as a store and a run keep them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from graphtheta.data.encode.categorical import Embedding
from graphtheta.data.encode.encoder import Encoder
from graphtheta.data.encode.registry import ENCODERS
from graphtheta.data.types import qualified

__all__ = [
    "EncodedColumn",
    "Recipe",
    "TableRecipe",
    "encoding_of",
    "feature_names",
    "input_of",
    "with_encoding",
    "with_input",
    "without_input",
]

_METADATA, _INPUT = b"encoding", b"input"  # keys of a field's metadata


def _read_encoder(given: Any) -> Any:
    if isinstance(given, Encoder):
        return given
    if not isinstance(given, dict) or given.get("name") not in ENCODERS:
        name = given.get("name") if isinstance(given, dict) else given
        raise ValueError(f"an encoder among {', '.join(ENCODERS)}, got {name!r}")
    values = {key: value for key, value in given.items() if key != "name"}
    return ENCODERS[given["name"]](**values)


def _write_encoder(encoder: Encoder) -> dict[str, Any]:
    return {"name": encoder.name, **encoder.model_dump(mode="json", exclude_defaults=True)}


AnyEncoder = Annotated[Encoder, BeforeValidator(_read_encoder), PlainSerializer(_write_encoder)]


class EncodedColumn(BaseModel):
    """Input column of features, its fitted encoder, and what the encoder was fitted to.

    Attributes:
        column: Name of the input column.
        encoder: The encoder.
        dtype: Arrow type of the input.
        rows: Number of training rows.
        missing: Number of training rows without a value.
        low: Smallest number, or earliest time in ticks, of the training rows.
        high: Largest one.
        entries: Mean number of features of a row that are not 0; None if they are not counted.
    """

    model_config = ConfigDict(frozen=True)

    column: str
    encoder: AnyEncoder
    dtype: str = ""
    rows: int = 0
    missing: int = 0
    low: int | float | None = None
    high: int | float | None = None
    entries: float | None = None

    def differs(self, other: EncodedColumn) -> bool:
        """Return whether another column gives other features, apart from missing values."""
        return self.column != other.column or self.encoder.differs(other.encoder)


class TableRecipe(BaseModel):
    """How the columns of one node type or relation were read.

    Attributes:
        encodings: Input columns of the features.
        classes: Texts that are numbered from 0, by the name of their column: `label:y` or `type`.
        inputs: Names in the table of `id`, `src`, `dst`, `type` and `weight`, if they differ.
    """

    model_config = ConfigDict(frozen=True)

    encodings: tuple[EncodedColumn, ...] = ()
    classes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)


class Recipe(BaseModel):
    """How the tables of a graph were read, to read others alike.

    Attributes:
        node_types: Recipe of each node type.
        relations: Recipe of each relation, by its text.
    """

    model_config = ConfigDict(frozen=True)

    node_types: dict[str, TableRecipe]
    relations: dict[str, TableRecipe]

    @property
    def tables(self) -> dict[str, TableRecipe]:
        """Recipes of all node types and relations, by name or text."""
        return {**self.node_types, **self.relations}

    @property
    def encodes(self) -> bool:
        """Whether any column is encoded."""
        return any(table.encodings for table in self.tables.values())

    def differences(self, other: Recipe) -> list[str]:
        """Return the columns that another recipe encodes otherwise, or does not have."""
        odd = []
        for owner, table in self.tables.items():
            given = other.tables.get(owner, TableRecipe())
            for mine, others in zip_longest(table.encodings, given.encodings):
                one = mine or others
                if mine is None or others is None or mine.differs(others):
                    odd.append(qualified(owner, one.column, len(self.tables) - 1))
            if table.classes.get("type", ()) != given.classes.get("type", ()):
                odd.append(qualified(owner, "type", len(self.tables) - 1))
        return odd


def with_encoding(field: pa.Field, columns: Sequence[EncodedColumn]) -> pa.Field:
    """Return a field with encoded columns in its metadata, as a JSON list."""
    plain = len(columns) == 1 and getattr(columns[0].encoder, "length", None) is not None
    if not columns or (plain and columns[0].column == field.name):  # as it is in the input
        return field
    text = json.dumps([column.model_dump(mode="json", exclude_defaults=True) for column in columns])
    return field.with_metadata({**(field.metadata or {}), _METADATA: text})


def with_input(field: pa.Field, name: str) -> pa.Field:
    """Return a field with the name that its column has in the user's table, in its metadata."""
    if name == field.name:
        return field
    return field.with_metadata({**(field.metadata or {}), _INPUT: name})


def input_of(field: pa.Field) -> str | None:
    """Return the name in the metadata of a field; None if the column has the name of the field."""
    name = (field.metadata or {}).get(_INPUT)
    return None if name is None else str(name.decode())


def without_input(schema: pa.Schema) -> pa.Schema:
    """Return a schema without the names of columns in the user's table."""
    fields = []
    for field in schema:
        kept = {key: text for key, text in (field.metadata or {}).items() if key != _INPUT}
        fields.append(field.with_metadata(kept) if field.metadata else field)
    return pa.schema(fields)


def encoding_of(field: pa.Field) -> tuple[EncodedColumn, ...]:
    """Return the encoded columns in the metadata of a field; none if it was not encoded."""
    columns = json.loads((field.metadata or {}).get(_METADATA, b"[]"))
    return tuple(EncodedColumn.model_validate(column) for column in columns)


def feature_names(columns: Sequence[EncodedColumn]) -> tuple[str, ...]:
    """Return the names of the columns of a feature matrix, without learned embeddings."""
    return tuple(
        name
        for encoded in columns
        if not isinstance(encoded.encoder, Embedding)
        for name in encoded.encoder.features(encoded.column)
    )
