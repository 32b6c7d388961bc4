"""First pass over the columns of a user's tables: which type each one gets.

The type of some columns depends on all of their rows: integers above 2^24 need float64, a text
makes all ids text, and the classes of a text label are its distinct values.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.convert import convert
from graphtheta.data.encode.categorical import Indices
from graphtheta.data.encode.columns import encoded, fits_of, is_as_it_is, type_of_text
from graphtheta.data.facts import (
    FLOAT32_INTEGERS,
    MAX_CLASSES,
    Facts,
    is_wide,
    kept_type,
    number_of_indices,
)
from graphtheta.data.mapping import Column
from graphtheta.data.schema import (
    LabelKind,
    classes_of,
    is_list,
    is_text,
    plain_type,
    refuse,
    whole,
)
from graphtheta.data.sparse import is_sparse
from graphtheta.data.types import Relation
from graphtheta.errors import ConfigError
from graphtheta.wording import counted, number_text, rows_text, some

__all__ = ["survey", "unify_ids"]

_log = logging.getLogger(__name__)

_INT64_MAX = (1 << 63) - 1
_FLOAT32_MAX = float(np.finfo(np.float32).max)

Read = Callable[[Mapping[str, pa.DataType | None]], Iterable[pa.Table]]


def survey(
    plan: Mapping[str, Column],
    schema: pa.Schema,
    read: Read,
    where: str,
    text: bool = False,
    known: Mapping[str, Facts] | None = None,
    train: NDArray[np.bool_] | None = None,
) -> dict[str, Column]:
    """Return the plan of a table with the type of each column.

    Args:
        plan: Result of `plan_nodes` or `plan_edges`.
        schema: Types of the input columns.
        read: Function that yields all rows of some input columns, in chunks, with ids as strings
            if the input is text. It is not called if the schema determines all types.
        where: Name of the input in messages.
        text: Whether the input is text, so that ids and decimal numbers have no types of their own.
        known: Facts that the files record, by input column.
        train: Training rows, to which encoders are fitted. If None, those of the plan's split.

    Raises:
        GraphFormatError: If a type does not fit the kind of a column, a label has one class only,
            or a class is out of range.
    """
    facts = {
        name: Facts(_type_of(schema, name, text), classes=classes_of(schema.field(name)))
        for column in plan.values()
        for name in column.inputs
    }
    for one in (one for column in plan.values() for one in column.encoded):
        if text and type_of_text(one.encoder, None) is not None:  # such as 7 in a column of texts
            facts[one.column] = Facts(pa.string())
    fits = {
        name: fits_of(column, facts, f"{where}: {column.title(name)}", text=text)
        for name, column in plan.items()
        if column.kind in ("matrix", "code") and not column.encoded
    }
    missing = {
        name: column.kind
        for column in plan.values()
        for position, name in enumerate(column.inputs)
        if _needs_rows(column, position, facts[name].type, text)
    }
    for name in set(missing) & set(known or {}):
        facts[name] = (known or {})[name]
        del missing[name]
    for name, kind in missing.items():
        if kind == "id" and text:
            facts[name] = Facts(pa.string(), texts=None)  # too many to collect
        elif kind == "label" and pa.types.is_integer(facts[name].type):
            facts[name].numbers = pa.array([], facts[name].type)
    fitted = {plan[name].inputs[position] for name, found in fits.items() for position in found}
    if missing or fitted:
        split = _split_of(plan) if fitted and train is None else {}
        types = {name: pa.string() if kind == "id" else None for name, kind in missing.items()}
        for name in fitted - set(types):
            types[name] = facts[name].type if text and is_text(facts[name].type) else None
        types |= {name: None for c in split.values() for name in c.inputs if name not in types}
        # A pass over a text reads all columns, so that `read` notices values of another type.
        types |= dict.fromkeys(set(facts) - set(types)) if text else {}
        row = 0
        for rows in read(types):
            for name in missing:
                facts[name].update(whole(rows[name]))
            is_train = None if train is None else pa.array(train[row : row + rows.num_rows])
            if split:
                is_train = pc.equal(convert(rows, split, where, row).column(0), 1).combine_chunks()
            for name, of_column in fits.items():
                for position, fit in of_column.items():
                    fit.update(whole(rows[plan[name].inputs[position]]), is_train)
            row += rows.num_rows
            if fitted:
                continue
            if not text and all(_is_enough(facts[name], kind) for name, kind in missing.items()):
                break
    return {
        name: (
            encoded(column, facts, fits.get(name, {}), f"{where}: {column.title(name)}")
            if column.kind in ("matrix", "code")
            else _DECIDE[column.kind](
                column,
                [facts[source] for source in column.inputs],
                f"{where}: {column.title(name)}",
            )
        )
        for name, column in plan.items()
    }


def unify_ids(
    nodes: Mapping[str, dict[str, Column]],
    edges: Mapping[Relation, dict[str, Column]],
    id_types: Mapping[str, str | None],
) -> None:
    """Give all ids of a node type one type, in place: texts if any are, otherwise int64.

    Args:
        nodes: Results of `survey` for node tables; those of ids from edges have none.
        edges: Results of `survey` for edge tables.
        id_types: Type of the ids of each node type, `"string"` or `"int64"`; None to choose it.

    Raises:
        ConfigError: If there is no such type.
    """
    for owner, id_type in id_types.items():
        if id_type not in (None, "string", "int64"):
            raise ConfigError(f"id_type: expected string or int64, got {id_type!r}. Choose one.")
        ids = [(nodes[owner], "id")] if "id" in nodes.get(owner, {}) else []
        for relation, plan in edges.items():
            ids += [(plan, "src")] if relation.source == owner else []
            ids += [(plan, "dst")] if relation.destination == owner else []
        is_string = id_type == "string" or (
            id_type is None and any(plan[name].type == "string" for plan, name in ids)
        )
        for plan, name in ids:
            plan[name] = replace(plan[name], type=pa.string() if is_string else pa.int64())


def _type_of(schema: pa.Schema, name: str, text: bool) -> pa.DataType:
    kind = plain_type(schema.field(name).type)
    # Decimal numbers in text have no type: float32, the type for training, unless it rounds them.
    return pa.float32() if text and pa.types.is_float64(kind) else kind


def _split_of(plan: Mapping[str, Column]) -> dict[str, Column]:
    """Return the split whose training rows encoders are fitted to: `split`, or the only one."""
    splits = {name: column for name, column in plan.items() if column.kind == "split"}
    names = ["split:split"] if "split:split" in splits else [*splits]
    return {n: replace(splits[n], type=pa.int8()) for n in names} if len(names) == 1 else {}


def _needs_rows(column: Column, position: int, kind: pa.DataType, text: bool) -> bool:
    if column.kind == "id":
        return text or pa.types.is_uint64(kind)
    if column.kind in ("label", "type"):
        return True
    if column.kind not in ("matrix", "weight"):
        return False
    if is_sparse(kind):
        return len(column.inputs) > 1  # to count the entries of all
    if column.encoders and isinstance(column.encoders[position], Indices):
        return True
    if column.encoders and not is_as_it_is(column.encoders[position]):
        return False
    value = plain_type(kind.value_type) if is_list(kind) else kind
    if is_list(kind) and not pa.types.is_fixed_size_list(kind):
        return True
    if is_text(value) and column.kind == "matrix":
        return False
    if text and (pa.types.is_floating(value) or pa.types.is_boolean(value) or is_text(value)):
        return True
    return _is_wide_integer(value) or (pa.types.is_decimal(value) and value.precision > 15)


def _is_enough(facts: Facts, kind: str) -> bool:
    """Return whether further rows would change nothing."""
    return kind == "matrix" and bool(facts.lengths) and pa.types.is_floating(facts.value_type)


def _is_wide_integer(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) and kind.bit_width > 16)


def _ids(column: Column, facts: list[Facts], where: str) -> Column:
    (found,) = facts
    if is_text(found.type):
        is_collected = found.texts is not None  # not those of text files, which are surveyed
        is_string = is_collected or not found.integers
    elif pa.types.is_integer(found.type) or pa.types.is_null(found.type):
        is_string = (found.high or 0) > _INT64_MAX
    else:
        raise refuse(where, "integers or strings", found.type, "Convert the ids.")
    return replace(column, type=pa.string() if is_string else pa.int64())


def _weight(column: Column, facts: list[Facts], where: str) -> Column:
    if is_list(facts[0].type):
        raise refuse(where, "one number in each row", facts[0].type, "Choose another column.")
    return replace(column, type=pa.float64() if is_wide(facts[0], where) else pa.float32())


def _type(column: Column, facts: list[Facts], where: str) -> Column:
    (found,) = facts
    if is_text(found.type):
        return replace(column, type=pa.int64(), classes=_classes(found, where, column.classes))
    if not (pa.types.is_integer(found.type) or pa.types.is_null(found.type)):
        raise refuse(where, "integers from 0, or text", found.type, "Number the edge types.")
    _check_numbers(found, where, "edge types")
    return replace(column, type=pa.int64(), classes=found.classes)


def _label(column: Column, facts: list[Facts], where: str) -> Column:
    (found,) = facts
    task = column.label or _usual_task(found, where)
    kinds = _LIST_LABELS if is_list(found.type) else _LABELS
    if task not in kinds:
        what = "one value in each row" if is_list(found.type) else "lists of 0 and 1"
        raise refuse(
            where, f"{what} for kind {task}", found.type, f"Use one of {', '.join(kinds)}."
        )
    if task == "regression" and column.label is None and found.high is not None and found.whole:
        _log.warning(
            "%s: whole numbers from %s to %s are read as measurements (regression), because their "
            "type is %s. If they are classes, choose the kind: --label-kind.",
            *(where, f"{found.low:g}", f"{found.high:g}", found.value_type),
        )
    decided = kinds[task](column, found, where)
    why = "as chosen" if column.label else f"by its type, {found.type}"
    return replace(decided, label=task, summary=_summary(task, why, decided, found))


def _summary(task: LabelKind, why: str, column: Column, found: Facts) -> str:
    text = f"{task} ({why})"
    if column.classes:
        count = len(column.classes)
        text += f", {counted(count, 'class', 'classes')}: {some(column.classes, count)}"
    elif task == "multiclass" and found.high is not None:
        text += f", {counted(int(found.high) + 1, 'class', 'classes')}"
        if found.numbers is not None and len(found.numbers) <= found.high:
            text += f", of which {len(found.numbers):,} occur"
    elif task == "multilabel":
        text += f", {counted(getattr(column.type, 'list_size', 1), 'label')}"
    elif task == "regression" and found.low is not None:
        text += f", {found.low:g} to {found.high:g}"
    return f"{text}, missing in {found.missing:,} of {found.rows:,}" if found.missing else text


def _usual_task(found: Facts, where: str) -> LabelKind:
    kind, is_listed = found.value_type, is_list(found.type)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "regression"
    if pa.types.is_boolean(kind) or (pa.types.is_integer(kind) and is_listed):
        return "multilabel" if is_listed else "binary"
    if pa.types.is_integer(kind) or is_text(kind) or pa.types.is_null(kind):
        return "multiclass"
    raise refuse(where, "numbers, booleans or text", kind, "Choose another column.")


def _multiclass(column: Column, found: Facts, where: str) -> Column:
    if is_text(found.type):
        return replace(column, type=pa.int64(), classes=_classes(found, where, column.classes))
    _check_whole(found, where)
    _check_numbers(found, where, "classes")
    if found.numbers is not None and 0 < 2 * len(found.numbers) <= (found.high or 0):
        _log.warning(
            "%s: only %s of the classes 0 to %s occur, and a model has an output for each. Number "
            "them without gaps, or choose another kind: --label-kind.",
            *(where, f"{len(found.numbers):,}", f"{found.high:,}"),
        )
    return replace(column, type=pa.int64(), classes=found.classes)


def _binary(column: Column, found: Facts, where: str) -> Column:
    if is_text(found.type):
        classes = _classes(found, where, column.classes)
        if len(classes) != 2:
            raise refuse(where, "two classes", f"{len(classes):,}", "Use kind multiclass.")
        return replace(column, type=pa.bool_(), classes=classes)
    _check_whole(found, where)
    _check_0_or_1(found, where)
    return replace(column, type=pa.bool_(), classes=found.classes)


def _regression(column: Column, found: Facts, where: str) -> Column:
    if is_text(found.value_type):
        raise refuse(where, "numbers", found.type, "Use kind multiclass.")
    if found.magnitude > _FLOAT32_MAX:
        raise refuse(
            where,
            "targets that float32 holds",
            f"numbers from {found.low:g} to {found.high:g}",
            "Scale them.",
        )
    if found.magnitude > FLOAT32_INTEGERS:
        _log.warning(
            "%s: targets from %s to %s lose digits, because models compute in float32. Scale them.",
            *(where, f"{found.low:g}", f"{found.high:g}"),
        )
    if not is_list(found.type):
        return replace(column, type=pa.float32())
    return replace(column, type=_list_or_value(pa.float32(), _one_length(found, where)))


def _multilabel(column: Column, found: Facts, where: str) -> Column:
    if len(found.lengths) > 1 and pa.types.is_integer(found.value_type):
        return replace(
            column,
            type=pa.list_(pa.bool_(), number_of_indices(found, where)),
            indices=column.inputs,
        )
    unknown = found.unknown or (pa.types.is_int8(found.value_type) and found.low == -1)
    width = _one_length(found, where)
    if not pa.types.is_boolean(found.value_type):
        _check_whole(found, where)
        _check_0_or_1(found, where, least=-1 if unknown else 0)
    value = pa.int8() if unknown and width > 1 else pa.bool_()
    return replace(column, type=_list_or_value(value, width))


_LABELS: dict[LabelKind, Callable[[Column, Facts, str], Column]] = {
    "multiclass": _multiclass,
    "binary": _binary,
    "regression": _regression,
}
_LIST_LABELS: dict[LabelKind, Callable[[Column, Facts, str], Column]] = {
    "multilabel": _multilabel,
    "regression": _regression,
}


def _list_or_value(value: pa.DataType, width: int) -> pa.DataType:
    # A list of one value is the value.
    return value if width == 1 else pa.list_(value, width)


def _one_length(found: Facts, where: str) -> int:
    if pa.types.is_fixed_size_list(found.type):
        return int(found.type.list_size)
    if len(found.lengths) > 1:
        raise refuse(
            where,
            "lists of one length",
            f"lengths {some(sorted(found.lengths), len(found.lengths))}",
            "Give every row the same length.",
        )
    return next(iter(found.lengths), 0)


def _classes(found: Facts, where: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the distinct texts in order, or the classes of a recipe if these are among them."""
    if found.texts is None:
        raise refuse(
            where, f"at most {MAX_CLASSES:,} different texts", "more", "Choose another column."
        )
    texts = sorted(found.texts.to_pylist())
    if known and (odd := [text for text in texts if text not in known]):
        raise refuse(
            where,
            f"the classes of the recipe (--like), {some(known, len(known))}",
            some(odd, len(odd)),
            "Correct them, or leave the column out.",
        )
    return known or tuple(texts)


def _check_whole(found: Facts, where: str) -> None:
    if not found.whole:
        raise refuse(where, "whole numbers as classes", "fractions", "Use kind regression.")


def _check_0_or_1(found: Facts, where: str, least: int = 0) -> None:
    low, high = found.low or 0, found.high or 0
    if low < least or high > 1:
        odd, row = (low, found.low_row) if low < least else (high, found.high_row)
        got = f"{number_text(odd)} in {rows_text([row])}"
        raise refuse(where, "0 and 1 as labels", got, "Correct them.")


_OF_CLASSES = (
    "; write a null for a missing one; or read measurements with the kind regression "
    "(--label-kind, label_kinds=)"
)


def _check_numbers(found: Facts, where: str, what: str) -> None:
    """Refuse numbers that are no classes, which a model of that many outputs could not hold."""
    limit = max(found.rows, MAX_CLASSES)
    if found.low is not None and found.high is not None and (found.low < 0 or found.high >= limit):
        is_low = found.low < 0
        odd, row = (found.low, found.low_row) if is_low else (found.high, found.high_row)
        raise refuse(
            where,
            f"{what} from 0 to {limit - 1:,}",
            f"{number_text(odd)} in {rows_text([row])}",
            f"Number them from 0{_OF_CLASSES * (what == 'classes')}.",
        )


_DECIDE: dict[str, Callable[[Column, list[Facts], str], Column]] = {
    "id": _ids,
    "weight": _weight,
    "type": _type,
    "label": _label,
    "split": lambda column, facts, where: replace(column, type=pa.int8()),
    "kept": lambda column, facts, where: replace(column, type=kept_type(facts[0].type, where)),
    "other": lambda column, facts, where: replace(column, type=facts[0].type),
}
