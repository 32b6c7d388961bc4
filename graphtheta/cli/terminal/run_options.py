"""Options of the command line that are made from the fields of `RunConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Lt
from pydantic.fields import FieldInfo

from graphtheta.cli.terminal.names import NAMES, names
from graphtheta.errors import ConfigError
from graphtheta.run.config import RunConfig, option_details

__all__ = ["with_run_options"]

_METAVARS = {int: "INTEGER", float: "FLOAT", Path: "PATH"}


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also has an option for each field of `RunConfig`.

    Args:
        command: Called with a dictionary of the `RunConfig` options that were given, and its own
            options as keyword arguments.
    """

    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in RunConfig.model_fields}
        options = {n: v for n, v in given.items() if v is not None and v != []}
        if "fanouts" in options:
            options["fanouts"] = _joined_fanouts(options["fanouts"])
        command(options, **values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [
        *(
            inspect.Parameter(name, keyword, default=None, annotation=_annotation(name, field))
            for name, field in RunConfig.model_fields.items()
        ),
        *(parameter.replace(kind=keyword) for parameter in own),
    ]
    # typer finds the parameters of a function by these two attributes.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _annotation(name: str, field: FieldInfo) -> Any:
    """Return the type of an option, which is None if it is omitted, and its help."""
    details = option_details(name)
    kinds = [kind for kind in _members(field.annotation) if kind is not NoneType]
    kind = list[str] if dict[str, str] in kinds else kinds[0]  # a dictionary has several texts
    if get_origin(kind) is Literal:
        kind, metavar = str, f"[{'|'.join(get_args(kind))}]"
    else:
        metavar = _METAVARS.get(kind, details["metavar"])
    description = (field.description or "").format_map({key: names(key) for key in NAMES})
    notes = "; ".join([*_default(field, details["without"]), *_range(field)])
    text = f"{description}  [{notes}]" if notes else description
    if name == "input":
        return Annotated[kind | None, typer.Argument(help=text, metavar=metavar)]
    option = typer.Option(help=text, metavar=metavar, rich_help_panel=details["panel"])
    return Annotated[kind | None, option]


def _joined_fanouts(texts: Sequence[str]) -> str | dict[str, str]:
    """Return the value of the option from the texts that it was given, such as `a-b-c=15,10`.

    Raises:
        ConfigError: If a relation is named twice, or only some of several texts name one.
    """
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    found: dict[str, str] = {}
    for text in texts:
        relation, equals, numbers = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(
                f"--fanouts: expected one list of numbers, or SOURCE-NAME-DESTINATION=N,N,... each "
                f"time, got '{text}' and others. Name its relation, or leave out the others."
            )
        if relation in found:
            raise ConfigError(
                f"--fanouts: {relation}: expected it once, got {found[relation]} and {numbers}. "
                "Leave one out."
            )
        found[relation] = numbers
    return found


def _members(annotation: Any) -> tuple[Any, ...]:
    is_union = get_origin(annotation) in (Union, UnionType)
    return get_args(annotation) if is_union else (annotation,)


def _default(field: FieldInfo, without: str) -> Iterator[str]:
    if without:
        yield f"default: ({without})"
    elif field.is_required():
        yield "required here or in --config"
    elif field.default is True:
        yield "default: on"
    elif field.default is False:
        yield "default: off"
    elif field.default is not None:
        yield f"default: {field.default}"


def _range(field: FieldInfo) -> Iterator[str]:
    """Yield the range of a number, as `x>=1` or `0<=x<1`."""
    limits = {type(limit): limit for limit in field.metadata}
    if Gt in limits:
        yield f"x>{limits[Gt].gt}"
    elif Lt in limits and limits[Lt].lt <= 1:
        yield f"{limits[Ge].ge}<=x<{limits[Lt].lt}"
    elif Ge in limits:
        yield f"x>={limits[Ge].ge}"
