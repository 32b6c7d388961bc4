"""Mapping of a user's columns to the columns of node and edge tables."""

from __future__ import annotations

import fnmatch
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, cast, get_args

import pyarrow as pa

from graphtheta.data.encode.categorical import Embedding
from graphtheta.data.encode.encoder import Encoder
from graphtheta.data.encode.random_split import RandomSplit, split_name
from graphtheta.data.encode.recipe import EncodedColumn, Recipe
from graphtheta.data.encode.registry import Features, pieces, requested
from graphtheta.data.ends import find_ends
from graphtheta.data.schema import LabelKind, need_column, refuse
from graphtheta.errors import ConfigError
from graphtheta.wording import some

__all__ = [
    "RELATION_OPTIONS",
    "Column",
    "ColumnKind",
    "ColumnOptions",
    "EdgeListOptions",
    "EdgeOptions",
    "Kinds",
    "Names",
    "NodeOptions",
    "check_kinds",
    "natural_key",
    "options_by_table",
    "plan_edges",
    "plan_nodes",
]

_log = logging.getLogger(__name__)

_OWN_NAMES = ("id", "features", "src", "dst", "attr", "type", "weight")  # of the graph's columns

ColumnKind = Literal["id", "matrix", "code", "label", "split", "type", "weight", "kept", "other"]
Names = str | Sequence[str] | Mapping[str, str | Sequence[str]]
Kinds = LabelKind | Mapping[str, LabelKind]


class NodeOptions(TypedDict, total=False):
    """Names of the columns of a node table, as described in `ColumnOptions`."""

    id: str | None
    features: Features | None
    labels: Names | None
    splits: Names | None
    label_kinds: Kinds | None
    keep: str | Sequence[str] | None


class EdgeOptions(TypedDict, total=False):
    """Names of the columns of an edge table, as described in `ColumnOptions`."""

    src: str | None
    dst: str | None
    edge_features: Features | None
    edge_type: str | None
    edge_weight: str | None
    edge_labels: Names | None
    edge_splits: Names | None
    label_kinds: Kinds | None
    edge_keep: str | Sequence[str] | None


# Options of one relation among several, whose names need no `edge_`, by their general names.
RELATION_OPTIONS = {name.removeprefix("edge_"): name for name in EdgeOptions.__annotations__}


class EdgeListOptions(EdgeOptions, total=False):
    """Names of the columns of an edge table without a node table."""

    id_type: str | None
    like: Recipe | None


class ColumnOptions(NodeOptions, EdgeListOptions, total=False):
    """Names of the columns of a user's node and edge tables; all are optional.

    In the options of one of several relations, `edge_` is left out: `features`, `type`, `weight`,
    `labels`, `splits`, `src`, `dst`, `label_kinds` and `keep`.

    Attributes:
        id: Column of node ids, integers or strings; `id` by default. If None, the ids of a table in
            memory are its row numbers.
        features: Columns as names or globs such as `"f_*"`, each with an encoding if its type's
            default is not meant: `"age:standard,country:onehot,f_*"`, or a mapping such as
            `{"age": gt.encode.Standard(), "country": "onehot"}`; see `graphtheta.data.encode`.
            What a glob finds is in natural order (f_2 before f_10). Lists of integers of different
            lengths are sets of indices, and lists of structs of `index` and `value` rows of a
            sparse matrix. Features of mostly zeros are stored sparse. If None, the column
            `features`, if there is one.
        labels: Label columns, or a mapping of label names to columns. If None, the columns named
            `label:<name>`. A null is a missing label. Texts become classes in sorted order.
        splits: Split columns, in the same form. Their values are `train`, `val` (or `valid`,
            `validation`) and `test`, or 0 to 3, or booleans (True for train). A mapping may give
            three boolean columns for a name: train, validation, test. `random(0.6,0.2)` draws a
            split by a hash of the ids: shares of training and validation, and possibly a seed. If
            None, the columns named `split:<name>`.
        label_kinds: Kind of the labels, or a mapping of label names to kinds: `multiclass`,
            `binary`, `multilabel` or `regression`. If None, integers and texts are multi-class,
            booleans binary, lists of integers or booleans multi-label, and other numbers
            regression. NaN or a null in a list of a multi-label is an unknown entry.
        keep: Columns that are kept as they are, by names or globs, such as weights of rows in the
            loss. Tables in memory keep all columns.
        src: Column of source ids. If None, `src`, or another usual name such as `source`.
        dst: Column of destination ids. If None, `dst`, or another usual name such as `target`.
        edge_features: Features of edges, in the same form as `features`; become `attr`. If None,
            the column `attr`, if there is one.
        edge_type: Column of edge types, integers from 0 or texts, which are numbered in sorted
            order; becomes `type`. If None, the column `type`, if there is one.
        edge_weight: Column of edge weights; becomes `weight`. If None, the column `weight`, if
            there is one.
        edge_labels: Labels of edges, in the form of `labels`.
        edge_splits: Splits of edges, in the form of `splits`.
        edge_keep: Edge columns that are kept as they are, in the form of `keep`.
        id_type: Type of all ids, `"int64"` or `"string"`. If None, the ids are strings if any
            table has texts as ids. In text files, ids such as 007 are texts.
        like: Recipe of an earlier table, by which features are encoded and classes numbered; see
            `graphtheta.partition.read_recipe`. Instead of `features` and `edge_features`.
    """


def options_by_table(columns: ColumnOptions) -> tuple[NodeOptions, EdgeOptions]:
    """Return the options of `plan_nodes` and those of `plan_edges`."""
    nodes, edges = (
        {name: value for name, value in columns.items() if name in options.__annotations__}
        for options in (NodeOptions, EdgeOptions)
    )
    return cast(NodeOptions, nodes), cast(EdgeOptions, edges)


@dataclass(frozen=True, slots=True)
class Column:
    """Origin of one column of a node or edge table.

    Attributes:
        kind: Kind of the column, which determines its type and checks.
        inputs: Names of the input columns that it is made from.
        label: Kind of a label. If None, it follows from the values.
        type: Type of the column. If None, `graphtheta.data.survey` has not chosen it yet.
        classes: Texts that are numbered from 0.
        encoders: Of features, the encoder of each input, or None for the default of its type.
        encoded: Of features, each input with its fitted encoder.
        indices: Of a label, the input if it has lists of indices, which become columns of 0 and 1.
        entries: Of a sparse column, a number of rows and that of their values other than 0.
        drawn: Of a split that is drawn by the inputs, which are ids, how it is.
        summary: How a label or split was read, for display.
    """

    kind: ColumnKind
    inputs: tuple[str, ...]
    label: LabelKind | None = None
    type: pa.DataType | None = None
    classes: tuple[str, ...] = ()
    encoders: tuple[Encoder | None, ...] = ()
    encoded: tuple[EncodedColumn, ...] = ()
    indices: tuple[str, ...] = ()
    entries: tuple[int, int] | None = None
    drawn: RandomSplit | None = None
    summary: str = ""

    def title(self, name: str) -> str:
        """Return the name of the column and of its input, for messages."""
        return name if self.inputs == (name,) else f"{name} (from {some(self.inputs, 1)})"


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which f_2 comes before f_10."""
    return [
        (int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)
    ]


def plan_nodes(
    available: Sequence[str],
    where: str,
    *,
    id: str | None = "id",
    features: Features | None = None,
    labels: Names | None = None,
    splits: Names | None = None,
    label_kinds: Kinds | None = None,
    keep: str | Sequence[str] | None = None,
) -> dict[str, Column]:
    """Return the origin of each column of a node table.

    Args:
        available: Column names of the input table.
        where: Name of the input in messages.
        id: Column of original ids. If None, the table has none.
        features: As in `ColumnOptions`.
        labels: As in `ColumnOptions`.
        splits: As in `ColumnOptions`.
        label_kinds: As in `ColumnOptions`. Names of edge labels are ignored.
        keep: As in `ColumnOptions`.

    Raises:
        ConfigError: If a named column does not exist, or is named twice for one column.
        GraphFormatError: If the table has two columns of a name.
    """
    plan = {} if id is None else {"id": Column("id", (need_column(id, available, where, "--id"),))}
    plan |= _matrix("features", features, available, where)
    plan |= _named("label", labels, available, where, label_kinds)
    plan |= _splits(splits, available, where, plan)
    return _checked(plan | _kept(keep, available, where, plan), available, where)


def plan_edges(
    available: Sequence[str],
    where: str,
    *,
    src: str | None = None,
    dst: str | None = None,
    edge_features: Features | None = None,
    edge_type: str | None = None,
    edge_weight: str | None = None,
    edge_labels: Names | None = None,
    edge_splits: Names | None = None,
    label_kinds: Kinds | None = None,
    edge_keep: str | Sequence[str] | None = None,
) -> dict[str, Column]:
    """Return the origin of each column of an edge table.

    Args:
        available: Column names of the input table.
        where: Name of the input in messages.
        src: As in `ColumnOptions`, as all options.
        dst: Column of destination ids.
        edge_features: Features of edges.
        edge_type: Column of edge types.
        edge_weight: Column of edge weights.
        edge_labels: Labels of edges.
        edge_splits: Splits of edges.
        label_kinds: Kinds of labels. Names of node labels are ignored.
        edge_keep: Edge columns that are kept as they are.

    Raises:
        ConfigError: If a named column does not exist, or is named twice for one column, or a column
            of ids is to be read as numbers.
        GraphFormatError: If the table has two columns of a name.
    """
    ends = find_ends(available, where, src, dst)
    plan = {name: Column("id", (end,)) for name, end in zip(("src", "dst"), ends, strict=True)}
    plan |= _matrix("attr", edge_features, available, where)
    given_by_kind: dict[ColumnKind, str | None] = {"type": edge_type, "weight": edge_weight}
    for kind, given in given_by_kind.items():
        if given is not None or kind in available:
            plan[kind] = Column(kind, (need_column(given or kind, available, where),))
    plan |= _named("label", edge_labels, available, where, label_kinds)
    plan |= _splits(edge_splits, available, where, plan)
    return _checked(plan | _kept(edge_keep, available, where, plan), available, where)


def check_kinds(plans: Iterable[Mapping[str, Column]], kinds: Kinds | None) -> None:
    """Raise a ConfigError if `kinds` has a name that no label of some plans has."""
    names = [name for plan in plans for name in plan]
    labels = {name.removeprefix("label:") for name in names if name.startswith("label:")}
    for name in sorted(set(kinds) - labels) if isinstance(kinds, Mapping) else ():
        raise ConfigError(
            "label_kinds (--label-kind): expected names of labels "
            f"({', '.join(sorted(labels)) or 'none'}), got {name!r}. Correct it."
        )


def _checked(plan: dict[str, Column], available: Sequence[str], where: str) -> dict[str, Column]:
    """Return a plan after checking that it reads unique columns, and no ids as numbers."""
    counts = Counter(available)
    ids = {name for column in plan.values() if column.kind == "id" for name in column.inputs}
    labels = {name for column in plan.values() if column.kind == "label" for name in column.inputs}
    for target, column in plan.items():
        for name in dict.fromkeys(column.inputs):
            if counts[name] > 1:
                raise refuse(where, f"one column {name!r}", f"{counts[name]}", "Rename the others.")
            if name in labels and column.kind in ("matrix", "code"):
                _log.warning("%s: %r is a label and a feature, which then reveals it.", where, name)
            if name in ids and column.kind in ("matrix", "code", "weight", "type"):
                raise ConfigError(
                    f"{where}: expected a column of numbers for {target}, got {name!r}, the column "
                    "of ids. Name another one."
                )
    return plan


def _matrix(
    target: str, given: Features | None, available: Sequence[str], where: str
) -> dict[str, Column]:
    """Return the matrix of features, if any, and a column of codes for each learned embedding."""
    if given is None:
        plan = {target: Column("matrix", (target,), encoders=(None,))}
        return plan if target in available else {}
    existing = frozenset(available)
    found: list[tuple[str, Encoder | None]] = []
    for item in [given] if isinstance(given, str | Mapping) else given:
        first = len(found)
        for name, encoder in requested(item, available, f"{where}: {target}"):
            names = [name] if name in existing else []
            if set(name) & set("*?["):
                names = names or sorted(fnmatch.filter(available, name), key=natural_key)
            found += [(one, encoder) for one in names or [need_column(name, available, where)]]
        _check_once(target, found[first:], where)
    if not found:
        raise ConfigError(f"{where}: expected columns for {target}, got an empty list. Name some.")
    codes = {
        f"code:{name}": Column("code", (name,), encoders=(encoder,))
        for name, encoder in found
        if isinstance(encoder, Embedding)
    }
    if codes and target == "attr":
        raise ConfigError(
            f"{where}: expected no embedding for {target}, as only nodes have learned ones, got "
            f"{some((c.inputs[0] for c in codes.values()), len(codes))}. Use hash(64) or onehot."
        )
    rest = [one for one in found if not isinstance(one[1], Embedding)]
    if not rest:
        return codes
    inputs, encoders = tuple(name for name, _ in rest), tuple(encoder for _, encoder in rest)
    return {target: Column("matrix", inputs, encoders=encoders), **codes}


def _kept(
    given: str | Sequence[str] | None,
    available: Sequence[str],
    where: str,
    plan: Mapping[str, Column],
) -> dict[str, Column]:
    """Return the columns that are kept as they are, which must have names of their own."""
    names: list[str] = []
    for one in [given] if isinstance(given, str) else given or ():
        for piece in [one] if one in available else pieces(one):
            is_glob = piece not in available and bool(set(piece) & set("*?["))
            found = sorted(fnmatch.filter(available, piece), key=natural_key) if is_glob else []
            names += found or [need_column(piece, available, where, "--keep, --edge-keep")]
    for name in names:
        if name in plan or name in _OWN_NAMES or ":" in name:
            raise ConfigError(
                f"{where}: expected columns to keep (--keep, --edge-keep) with names of their own, "
                f"got {name!r}, which is the name of another column of the graph. Rename it."
            )
    return {name: Column("kept", (name,)) for name in names}


def _check_once(target: str, found: Sequence[tuple[str, Encoder | None]], where: str) -> None:
    """Check that no column is read twice, except with different encodings."""
    counts = Counter((name, encoder and encoder.name) for name, encoder in found)
    for (name, _), times in counts.items():
        if times > 1:
            raise ConfigError(
                f"{where}: expected each column once for {target}, or with different encodings, "
                f"got {name!r} {times} times. Leave out the others."
            )


def _named(
    kind: Literal["label", "split"],
    given: Names | None,
    available: Sequence[str],
    where: str,
    label_kinds: Kinds | None = None,
) -> dict[str, Column]:
    prefix = f"{kind}:"
    if given is None:
        given = [name for name in available if name.startswith(prefix)]
    elif isinstance(given, str):
        given = [given]
    if not isinstance(given, Mapping):
        given = {name.removeprefix(prefix): name for name in given}
    plan = {}
    for name, columns in given.items():
        inputs = (columns,) if isinstance(columns, str) else tuple(columns)
        if len(inputs) != 1 and (kind != "split" or len(inputs) != 3):
            raise ConfigError(
                f"{where}: expected one column for {prefix}{name}"
                f"{', or three (train, validation, test)' if kind == 'split' else ''}, "
                f"got {len(inputs)}. Correct the number of columns."
            )
        label = _kind_of(name, label_kinds) if kind == "label" else None
        inputs = tuple(need_column(column, available, where) for column in inputs)
        plan[prefix + name] = Column(kind, inputs, label)
    return plan


def _splits(
    given: Names | None, available: Sequence[str], where: str, plan: Mapping[str, Column]
) -> dict[str, Column]:
    """Return the splits, of which some may be drawn by the ids of a plan."""
    if given is not None and not isinstance(given, Mapping):
        given = {split_name(one): one for one in ([given] if isinstance(given, str) else given)}
    rest, drawn = {}, {}
    for name, columns in (given or {}).items():
        texts = [columns] if isinstance(columns, str) else [*columns]
        is_column = len(texts) != 1 or texts[0] in available
        if is_column or (split := RandomSplit.parse(texts[0], where)) is None:
            rest[name] = columns
            continue
        ids = tuple(c.inputs[0] for c in plan.values() if c.kind == "id")
        if not ids:
            raise ConfigError(
                f"{where}: expected ids, by which {texts[0]} draws a split, got none. Name their "
                "column (--id)."
            )
        drawn[f"split:{name}"] = Column("split", ids, drawn=split, summary=split.summary)
    return _named("split", None if given is None else rest, available, where) | drawn


def _kind_of(name: str, kinds: Kinds | None) -> LabelKind | None:
    kind = kinds.get(name) if isinstance(kinds, Mapping) else kinds
    if kind is not None and kind not in get_args(LabelKind):
        raise ConfigError(
            f"label_kinds: expected {', '.join(get_args(LabelKind))} for {name}, got {kind!r}. "
            "Choose one."
        )
    return kind
